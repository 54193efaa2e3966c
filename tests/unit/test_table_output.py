"""Tables reach the reader with caption and note, and as files; whatever their cells hold stays text."""

import pandas as pd
import pytest
from bs4 import BeautifulSoup

from docfloqa.files import reports_folder
from docfloqa.report.tables import show_table, write_frames

HOSTILE = '<script>alert(1)</script> $x$ | **b** "#panic()" <img src=http://x.test/i.png>'


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as (mimetype, text)."""
    outputs = []
    monkeypatch.setattr("docfloqa.report.tables.display", lambda one: outputs.append((type(one).__name__, one.data)))
    return outputs


def test_a_table_has_caption_header_and_note_and_its_cells_are_text(shown):
    frame = pd.DataFrame({HOSTILE: [HOSTILE, "2"]}, index=pd.Index([HOSTILE, "b"], name="name"))
    frame.attrs["note"] = HOSTILE
    show_table(frame, f"Scores. {HOSTILE}")
    [(kind, html)] = shown
    page = BeautifulSoup(html, "html.parser")
    assert kind == "HTML" and not page.select("script, img")
    assert page.caption.text == f"Scores. {HOSTILE}" and page.p.text == HOSTILE
    assert [cell.text for cell in page.select("tbody th, tbody td")] == [HOSTILE, HOSTILE, "b", "2"]
    assert "tex2jax_ignore" in page.table["class"], "no browser takes a dollar for mathematics"


def test_bare_numbers_are_no_index_and_groups_of_columns_stay(shown):
    show_table(pd.DataFrame({"ratios": ["0 and 1"], "seed": [0]}), "Pairs.")
    columns = pd.MultiIndex.from_tuples([("ANLS", "published"), ("ANLS", "ours")])
    show_table(pd.DataFrame([["1", "2"]], columns=columns, index=pd.Index(["0 %"], name="ratio")).T, "By ratio.")
    plain, grouped = (BeautifulSoup(html, "html.parser") for _, html in shown)
    assert [cell.name for cell in plain.select("tbody tr *")] == ["td", "td"]
    assert grouped.select_one("tbody th")["rowspan"] == "2"


def test_of_an_empty_table_is_said_that_there_is_none(shown):
    show_table(pd.DataFrame(columns=["a"]), "Reservations.")
    assert shown == [("Markdown", "*Reservations: none.*")]


def test_fractions_are_written_as_numbers_only_and_empty_tables_not_at_all(output):
    text = pd.DataFrame({"a": ["1\xa0%"], "n": [3]}, index=pd.Index(["x"], name="name"))
    frames = {"text": text, "fractions": pd.DataFrame({"a": [1 / 3]}), "empty": text.iloc[:0]}
    written = write_frames("some", frames)
    assert [path.name for path in written] == ["text.csv", "text.md", "text.tex", "fractions.csv"]
    assert all(path.parent == reports_folder("some") / "tables" for path in written)
    assert written[0].read_text() == "name,a,n\nx,1 %,3\n"
