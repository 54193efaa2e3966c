"""Reports: what a reader sees of an executed notebook, on paper and on the screen."""

import base64
import hashlib
import io
import logging
import os
import re
import shutil
import subprocess
import sys
from html import escape

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from docfloqa.report import export as exporting
from docfloqa.report.document_tree import read
from docfloqa.report.export import ReportError, TypstExporter, document, export, export_study, typst_of

MARKS = list("#$*_`~<>@[](){}\\/\"'=-+|&;:!?.,^% \tab1é漢🎉\u200b\u202e")
TRAPS = [
    '#panic("x")',
    "$a$",
    "```",
    "`````",
    "<script>alert(1)</script>",
    "<img src=http://x.test/i.png onerror=alert(1)>",
    "//",
    "/*",
    "---",
    "...",
    "{=typst}",
    "\\begin{align}",
    "\\frac{",
    "<label>",
    "@cite",
    "12.",
    "= H",
    "](javascript:alert(1))",
    "https://a.test/b_c",
    "[a](<java&#9;script:alert(1)>)",
]
hostile = st.lists(st.sampled_from(MARKS + TRAPS), min_size=1, max_size=20).map("".join)
few = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def shown(data: dict[str, str], metadata: dict | None = None) -> NotebookNode:
    return new_output("display_data", data=data, metadata=metadata or {})


def code(*outputs: NotebookNode, source: str = "show()", tags: tuple[str, ...] = ()) -> NotebookNode:
    return new_code_cell(source, outputs=list(outputs), execution_count=1, metadata={"tags": list(tags)})


def notebook(*cells: NotebookNode, **metadata: object) -> NotebookNode:
    # Cell ids are random unless given, and the same notebook is to be the same file.
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    return new_notebook(cells=list(cells), metadata=metadata)


def html_of(nb: NotebookNode) -> BeautifulSoup:
    return BeautifulSoup(exporting.html_of(*document(nb)), "html.parser")


def pdf_of(nb: NotebookNode) -> bytes:
    pdf = exporting.pdf_of(*document(nb))
    assert pdf.startswith(b"%PDF-")
    return pdf


def source_of(nb: NotebookNode) -> str:
    """The Typst source of a notebook's PDF, which must also compile."""
    pdf_of(nb)
    return typst_of(*document(nb))[0]


def said(source: str) -> str:
    """The text of all string literals in a piece of Typst."""
    escapes = {"n": "\n", "r": "\r", "t": "\t"}
    found = re.findall(r'"((?:[^"\\]|\\.)*)"', source)
    return " ".join(re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[1]), text) for text in found)


@pytest.fixture(scope="module")
def figure() -> dict[str, str]:
    drawing, axes = plt.subplots(figsize=(4, 2))
    axes.plot([0, 1, 2], [0.2, 0.4, 0.5])
    axes.set(xlabel="epoch", ylabel="ANLS")
    saved = {}
    for kind in ("pdf", "svg", "png"):
        buffer = io.BytesIO()
        drawing.savefig(buffer, format=kind)
        saved[kind] = buffer.getvalue()
    plt.close(drawing)
    return {
        "application/pdf": base64.b64encode(saved["pdf"]).decode(),
        "image/svg+xml": saved["svg"].decode(),
        "image/png": base64.b64encode(saved["png"]).decode(),
        "text/plain": repr(Figure),
    }


@pytest.fixture
def results() -> pd.DataFrame:
    intervals = ["[0.39, 0.43]", "[0.44, 0.48]"]
    columns = {"ratio": [0.0, 0.66], "ANLS": [0.41, 0.46], "95 %": intervals, "arm": ["a", "b"]}
    return pd.DataFrame(columns).set_index("ratio")


STUDY = {"study": "embedded", "date": "2025-03-09", "commit": "0123456789abcdef", "settings": {"seed": 7}}
MATH = "# Which ratio?\n\n## Method\n\nThe loss is $-\\log p_\\theta$ and\n\n$$\\frac{1}{N}\\sum_i s_i$$\n"


@pytest.fixture
def study(figure, results) -> NotebookNode:
    table = shown({"text/html": results.to_html(), "text/plain": "fallback"})
    about = {"alt": "A rising line", "caption": "ANLS by epoch"}
    return notebook(
        new_markdown_cell(MATH),
        code(source="seed = 7", tags=("parameters",)),
        code(table, source="secret_call()"),
        code(shown(figure, {"image/png": about})),
        code(new_output("stream", name="stdout", text="epoch 1 of 8\n")),
        docfloqa=STUDY,
    )


def test_same_notebook_gives_same_bytes(study):
    assert pdf_of(study) == pdf_of(study)
    assert str(html_of(study)) == str(html_of(study))


def test_pdf_carries_title_date_language_and_tags(study):
    pdf = pdf_of(study)
    assert b"/CreationDate(D:20250309000000Z)" in pdf
    assert b"/StructTreeRoot" in pdf
    assert b"/Lang(en" in pdf
    assert b"/Alt(A rising line)" in pdf
    assert b"/Title(Which ratio?)" in pdf


def test_pdf_source_holds_what_a_paper_has(study):
    source = source_of(study)
    call, body = source.split("#show: paper.with(")[1].split("\n)\n", 1)
    assert 'title: "Which ratio?"' in call
    assert "Study “embedded” · 9 March 2025 · commit 0123456789ab" in call
    settings = body.rpartition("= Settings")[2]
    assert "seed" in settings and said(settings).endswith("7")
    assert "Which" not in body, "the title is set once"
    assert "= Method" in body
    assert "$ 1 / N sum_i s_i $" in body
    assert 'picture("figure-1.pdf", alt: "A rising line", caption: "ANLS by epoch")' in body
    assert '#raw(block: true, "epoch 1 of 8")' in body
    assert "secret_call" not in body


@pytest.fixture
def paper() -> NotebookNode:
    return notebook(
        new_markdown_cell("# Which <ratio>?\n\nFor the notebook only.", metadata={"tags": ["remove_cell"]}),
        code(shown({"text/markdown": "In short, 50 % #panic()."}), tags=("abstract",)),
        new_markdown_cell("## Related work\n\nAs shown [(Xiao et al. 2024)](#ref-xiao2024), and [no](#ref-no)."),
        new_markdown_cell("## References"),
        code(shown({"text/html": "<p>as the notebook shows them</p>"}), tags=("references",)),
        new_markdown_cell("## More", metadata={"tags": ["appendix"]}),
        docfloqa=STUDY,
    )


def test_a_paper_has_title_abstract_references_and_appendix(paper):
    source = source_of(paper)
    call, body = source.split("#show: paper.with(")[1].split("\n)\n", 1)
    assert "Which" in call and "ratio" in said(call) and "For the notebook only" not in source
    abstract = body[body.index("#abstract[") : body.index("= Related work")]
    assert "In short" in abstract and abstract.rstrip().endswith("]") and "#panic()" in said(abstract)
    assert '#go("ref-xiao2024")' in body and '#go("ref-no")' in body
    listed = body[body.index("#references[") : body.index("#show: appendix")]
    assert "<ref-xiao2024>" in listed and "as the notebook shows them" not in body
    assert body.index("#show: appendix") < body.index("= More") < body.index("= Settings")


def test_the_page_of_a_paper_has_them_too(paper):
    page = html_of(paper)
    assert_inert(page)
    assert page.h1.text == "Which <ratio>?" and "For the notebook only" not in page.text
    assert "In short, 50\xa0% #panic()." in page.select_one(".abstract").text
    assert page.find(id=page.select_one("a[href='#ref-xiao2024']")["href"][1:]).text.strip().startswith("Xiao, Bin")
    assert "as the notebook shows them" not in page.text
    assert page.select_one("meta[name=commit]")["content"] == STUDY["commit"]
    assert [link.text for link in page.select("nav a")][-2:] == ["More", "Settings"]


def test_a_percent_sign_stays_with_its_number_but_code_is_left_alone():
    page = html_of(notebook(new_markdown_cell("**66 %** or 5 % and `5 % 3`"), code()))
    assert "66\xa0% or 5\xa0% and 5 % 3" in page.main.text


def test_tables_are_typst_tables_with_numbers_to_the_right(study):
    source = source_of(study)
    assert "#paper-table(align: (right, right, right, left, )" in source
    header = source.split("header: (", 1)[1].split("\n),\n", 1)[0]
    assert header.count("table.cell(") == 4, "pandas' two header rows become one"
    assert "ratio" in header


def test_markdown_alignment_wins_over_the_contents():
    source = source_of(notebook(new_markdown_cell("| a | b | c |\n|:--|:-:|---|\n| 1 | 2 | 3 |\n"), code()))
    assert "align: (left, center, right, )" in source


@pytest.mark.parametrize(
    ("entries", "side"),
    [
        (["0.5", "−1.2e-3", "NaN"], "right"),
        (["41.2 [39.0, 43.5]", "45.0 ± 0.4", "–"], "right"),
        (["51.2 %", "3.1 GB", "1,234"], "right"),
        (["1998", "unknown", "2001"], "left"),
        (["$1,234.00 or so", "12"], "left"),
        (["", "NaN"], "left"),
    ],
)
def test_a_column_of_numbers_is_told_from_a_column_of_words(entries, side):
    table = pd.DataFrame({"x": entries}).to_html(index=False)
    assert f"align: ({side}, )" in source_of(notebook(code(shown({"text/html": table}))))


def test_columns_are_told_apart_beside_a_spanning_row_heading():
    index = pd.MultiIndex.from_tuples([("base", 1), ("base", 2), ("tiny", 1)], names=["model", "seed"])
    frame = pd.DataFrame({"arm": ["a", "b", "c"], "ANLS": [0.1, 0.2, 0.3]}, index=index)
    source = source_of(notebook(code(shown({"text/html": frame.to_html()}))))
    assert "table.cell(rowspan: 2" in source
    assert "align: (left, right, left, right, )" in source


def test_a_caption_reaches_both_formats():
    markup = "<table><caption>Best &lt;ratio&gt;</caption><tr><td>1</td></tr></table>"
    nb = notebook(code(shown({"text/html": markup})))
    assert "Best" in source_of(nb).split("caption: [")[-1].split("],")[0]
    assert html_of(nb).caption.text == "Best <ratio>"


def test_spans_of_a_multi_index_survive():
    columns = pd.MultiIndex.from_product([["ANLS", "EM"], ["mean", "sd"]])
    frame = pd.DataFrame([[1, 2, 3, 4], [5, 6, 7, 8]], columns=columns, index=["left", "right"])
    source = source_of(notebook(code(shown({"text/html": frame.to_html()}))))
    assert source.count("colspan: 2, align: center") == 2
    assert "align: (left, right, right, right, right, )" in source


@pytest.mark.skipif(not shutil.which("pdftotext"), reason="needs pdftotext (poppler-utils)")
@pytest.mark.parametrize(("columns", "words"), [(2, 60), (40, 1), (7, 12)])
def test_a_table_never_runs_off_the_page(columns, words):
    frame = pd.DataFrame([[" ".join(["observation"] * words)] * columns] * 2)
    frame[0] = "x" * 300
    pdf = pdf_of(notebook(code(shown({"text/html": frame.to_html()}))))
    boxes = subprocess.run(["pdftotext", "-bbox", "-", "-"], input=pdf, capture_output=True, check=True)
    found = boxes.stdout.decode()
    assert max(float(edge) for edge in re.findall(r'xMax="([\d.]+)"', found)) <= 595.3 - 70
    # What lies outside the page has no box at all.
    text = "".join(re.findall(r">([^<\s]+)</word>", found))
    assert text.count("observation") == 2 * (columns - 1) * words
    assert text.count("x") == 2 * 300


@few
@given(text=hostile)
def test_hostile_text_stays_text_in_the_pdf(text):
    table = f"<table><tr><th>q</th></tr><tr><td>{escape(text)}</td></tr></table>"
    code_block = {"t": "CodeBlock", "c": [["", ["output"], []], "<" + text + ">"]}
    paper = [code_block, *read(table, "text/html")], {"title": text, "byline": text}
    source, _ = typst_of(*paper)
    assert exporting.pdf_of(*paper).startswith(b"%PDF-")
    raw, table = re.search(r"#raw\(block: true(.*)", source)[1], source.rsplit("table.cell(", 1)[1]
    head = source.split("#show: paper.with(")[1].split("\n)\n", 1)[0]
    assert said(head).split("\n") == f"{text} {text}".split("\n")
    assert said(raw) == "<" + text + ">"
    # Plain words stand outside quotes, so only their order and spelling can be compared; there "~" is a space.
    literal = r'#"((?:[^"\\]|\\.)*)";|~'
    unquoted = re.sub(literal, lambda m: " " if m[1] is None else re.sub(r"\\(.)", r"\1", m[1]), table)
    assert "".join(text.split()) in "".join(unquoted.split())


@few
@given(text=hostile)
def test_hostile_markdown_compiles_and_is_inert(text):
    nb = notebook(new_markdown_cell(f"- {text}"), code(shown({"text/markdown": text, "text/plain": "x"})))
    pdf_of(nb)
    assert_inert(html_of(nb))


@pytest.mark.long
@few
@given(text=hostile)
def test_hostile_text_stays_text_in_the_page(text):
    # A letter at both ends, since parsers may fold white space there.
    text = f"q{text}q"
    table = f"<table><tr><th>q</th></tr><tr><td>{escape(text)}</td></tr></table>"
    about = {"image/png": {"alt": text, "caption": text}}
    nb = notebook(
        code(shown({"text/html": table}), new_output("stream", name="stdout", text=text)),
        code(shown({"image/png": "iVBORw0KGgo="}, about)),
        docfloqa={"study": text, "settings": {text: text}},
    )
    page = html_of(nb)
    assert_inert(page)
    assert page.select_one("pre.output").text == text
    assert page.img["alt"] == page.figcaption.text == text
    for cell in page.select("div.output td"):
        assert "".join(cell.text.split()) == "".join(text.split()), "of the table and of the settings"


def assert_inert(page: BeautifulSoup) -> None:
    """Nothing in the page runs, and nothing is fetched before the reader follows a link."""
    assert not page.select("iframe, object, embed, link, base, form")
    # The page's own script alone has the hash that may run.
    [script] = page.select("script")
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.select_one("meta[http-equiv]")["content"]
    for element in page.find_all(True):
        assert not [name for name in element.attrs if name.lower().startswith("on")]
        assert element.get("src", "data:").startswith("data:")
        assert not element.get("href", "").strip().lower().startswith(("javascript", "data", "vbscript"))
        assert "url(" not in element.get("style", "")
    assert not any("url(" in style.text or "@import" in style.text for style in page.select("style"))
    assert "default-src 'none'" in page.select_one("meta[http-equiv]")["content"]


def test_outputs_cannot_smuggle_in_scripts_styles_or_pictures():
    markup = (
        "<style>@import 'http://x.test/a.css'; td { background: url(http://x.test/b) }</style>"
        '<script src="http://x.test/c.js">steal()</script><p onclick="steal()">kept</p>'
        "<div>\n<style scoped>\nsteal()\n</style>\n<table><tr><td>1</td></tr></table>\n</div>"
        '<img src="http://x.test/d.png" alt="lost"><iframe src="http://x.test/e"></iframe>'
        '<a href="javascript:steal()">link</a>'
        '<table><tr><td onclick="steal()" style="background: url(http://x.test/f)">cell</td></tr></table>'
    )
    page = html_of(notebook(code(shown({"text/html": markup}))))
    assert_inert(page)
    shown_text = page.select_one("div.output").text
    assert "kept" in shown_text and "cell" in shown_text
    assert "steal()" not in shown_text
    assert "x.test" not in str(page)


@pytest.mark.parametrize(
    "text",
    [
        "[link](javascript:steal())",
        "![<script>steal()</script>](lost.png)",
        '```"><img/src="http://x.test/a.png"/onerror="steal()\nx = 1\n```',
        "![alt](data:text/html;base64,AAAA)",
        "`x`{=html} <b onclick=steal()>b</b>\n\n```{=html}\n<script>steal()</script>\n```",
    ],
)
def test_markdown_cannot_smuggle_in_anything_either(text):
    nb = notebook(code(shown({"text/markdown": text})))
    assert_inert(html_of(nb))
    pdf_of(nb)


def test_names_and_references_in_an_output_mean_nothing_to_typst():
    markup = '<div id="a b>#panic()">kept</div><h2 id="#panic()">head</h2><p id="#panic()">cell</p>'
    source = source_of(notebook(code(shown({"text/html": markup}))))
    assert "kept" in source and "head" in source and "cell" in source
    assert "panic" not in source


def test_page_is_complete_without_a_network(study, caplog):
    with caplog.at_level(logging.WARNING):
        page = html_of(study)
    assert not [record for record in caplog.records if "Alternative text" in record.getMessage()]
    assert_inert(page)
    assert page.title.text == "Which ratio? · embedded"
    assert [title.text for title in page.select("h1")] == [page.header.h1.text] == ["Which ratio?"]
    assert "9 March 2025" in page.header.text
    assert len(page.select("math")) == 2
    assert page.select_one("math[display=block] mfrac")
    assert page.img["alt"] == "A rising line"
    assert page.figcaption.text == "ANLS by epoch"
    assert [summary.text for summary in page.select("details.code:not([open]) summary")] == ["code"] * 3
    assert [len(fold.select("pre.sourceCode")) for fold in page.select("details.code")] == [2, 1, 1]
    assert [link["href"] for link in page.select("nav a")] == ["#method", "#settings"]
    assert [choice["id"] for choice in page.select("header input")] == ["theme-system", "theme-light", "theme-dark"]
    aligned = page.select("div.output td")[0]["style"]
    assert "right" in aligned


def test_headings_of_the_same_name_have_their_own_anchors():
    page = html_of(notebook(new_markdown_cell("## Data"), new_markdown_cell("## Data"), code()))
    links = [link["href"].removeprefix("#") for link in page.select("nav a")]
    assert len(set(links)) == 2
    assert [heading["id"] for heading in page.select("h2")] == links


def test_every_cell_has_its_own_footnotes():
    nb = notebook(*(new_markdown_cell(f"Text[^1] {n}\n\n[^1]: Note {n}") for n in (1, 2)), code())
    page = html_of(nb)
    targets = [page.find(id=link["href"].removeprefix("#")).text for link in page.select("a.footnote-ref")]
    assert [target.rstrip("↩︎") for target in targets] == ["Note 1", "Note 2"]
    assert source_of(nb).count("#footnote[") == 2


def test_links_follow_the_document_they_stand_in():
    text = "## Cost\n\n[cost](#cost) [data](01_data.ipynb#x) [gone](#nowhere) [out](https://a.test/)"
    nb = notebook(new_markdown_cell(text), code())
    source = source_of(nb)
    assert '#go("cost")[' in source
    assert '#link("01_data.pdf#x")[data]' in source
    assert '#link("https://a.test/")[out]' in source
    assert html_of(nb).select_one("p a[href*=data]")["href"] == "01_data.html#x"


def test_a_paper_has_vectors_where_there_are_any(figure):
    for kind, suffix in [("application/pdf", "pdf"), ("image/svg+xml", "svg"), ("image/png", "png")]:
        source = source_of(notebook(code(shown(figure))))
        assert f'picture("figure-1.{suffix}", alt: "Figure", caption: none)' in source
        figure = {other: data for other, data in figure.items() if other != kind}


def test_a_page_has_the_smaller_of_vectors_and_pixels(figure):
    svg, png = figure["image/svg+xml"], figure["image/png"]
    kinds = []
    for large in (svg + " " * len(png), "<svg xmlns='http://www.w3.org/2000/svg'/>"):
        picture = html_of(notebook(code(shown({**figure, "image/svg+xml": large})))).img
        kinds.append(picture["src"].split(";")[0])
    assert kinds == ["data:image/png", "data:image/svg+xml"]
    assert html_of(notebook(code(shown({"image/svg+xml": svg})))).img["src"].startswith("data:image/svg+xml")


def test_pictures_that_would_have_to_be_fetched_are_named():
    nb = notebook(new_markdown_cell("see ![the plan](plan.png) and ![the web](http://x.test/web.png)"), code())
    assert "see the plan and the web" in html_of(nb).text and not html_of(nb).img
    assert "x.test" not in source_of(nb)


def test_a_picture_inside_an_html_output_is_kept(figure):
    markup = f'<p>crop: <img alt="a crop" src="data:image/png;base64,{figure["image/png"]}"></p>'
    nb = notebook(code(shown({"text/html": markup})))
    assert html_of(nb).img["alt"] == "a crop"
    assert 'picture("figure-1.png", alt: "a crop", caption: none)' in source_of(nb)


def test_what_no_reader_needs_is_left_out():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "HIDDEN-widget"}
    nb = notebook(
        new_markdown_cell("HIDDEN-prose", metadata={"tags": ["remove_cell"]}),
        code(new_output("stream", name="stderr", text="HIDDEN-stderr")),
        code(shown(widget)),
        code(shown({"application/javascript": "HIDDEN-js", "text/plain": "HIDDEN-js"})),
        code(new_output("error", ename="E", evalue="v", traceback=["\x1b[31mTrace\x1b[0m", "E: v"])),
    )
    for text in (source_of(nb), str(html_of(nb))):
        assert "HIDDEN" not in text
        assert "Trace" in text and "E: v" in text
        assert "\x1b" not in text and "[31m" not in text


def test_a_date_that_is_none_is_an_error_that_names_the_notebook(tmp_path):
    path = tmp_path / "01_x.ipynb"
    nbformat.write(notebook(code(), docfloqa={"date": "soon"}), path)
    with pytest.raises(ReportError, match=r"01_x\.ipynb.*'soon'"):
        export(path)


def test_characters_without_a_glyph_or_a_meaning_do_not_stop_the_press():
    text = "請求書 🎉 \ud800 \x00 \x1b]0;t\x07 عربى \ufffe"
    nb = notebook(new_markdown_cell(f"# {text}"), code(new_output("stream", name="stdout", text=text)))
    pdf_of(nb)
    assert "請求書 🎉" in html_of(nb).select_one("pre.output").text


def test_export_writes_whole_files_beside_the_notebook(tmp_path, study):
    path = tmp_path / "04_analyze.ipynb"
    nbformat.write(study, path)
    assert export(path) == [tmp_path / "04_analyze.html", tmp_path / "04_analyze.pdf"]
    with (tmp_path / "04_analyze.pdf").open("rb") as reader:
        export(path)
        # Whoever has the old file open keeps the old file: the new one took its name, it was not written into.
        assert os.fstat(reader.fileno()).st_nlink == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"04_analyze.html", "04_analyze.ipynb", "04_analyze.pdf"}


def test_a_figure_that_cannot_be_set_is_an_error_that_names_the_notebook(tmp_path):
    path = tmp_path / "01_broken.ipynb"
    nbformat.write(notebook(code(shown({"image/png": base64.b64encode(b"no picture").decode()}))), path)
    (tmp_path / "01_broken.pdf").write_bytes(b"the last good one")
    with pytest.raises(ReportError, match=r"01_broken\.ipynb"):
        export(path)
    assert (tmp_path / "01_broken.pdf").read_bytes() == b"the last good one"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"nbformat": 4}', '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}', "\xff"]
)
def test_what_is_no_notebook_is_an_error_that_names_the_file(tmp_path, content):
    path = tmp_path / "01_broken.ipynb"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ReportError, match=r"01_broken\.ipynb"):
        export(path)


def test_a_study_is_exported_in_order_and_only_its_own_level(tmp_path):
    for name in ("02_b.ipynb", "01_a.ipynb", "notes.ipynb", "runs/03_c.ipynb"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        nbformat.write(notebook(new_markdown_cell(f"# {name}"), code()), path)
    written = export_study(tmp_path)
    assert [path.name for path in written] == ["01_a.html", "01_a.pdf", "02_b.html", "02_b.pdf"]
    assert not list(tmp_path.glob("runs/*.html"))


def test_a_study_without_executed_notebooks_is_an_error(tmp_path):
    with pytest.raises(ReportError, match=re.escape(str(tmp_path))):
        export_study(tmp_path)
    fresh = notebook(new_markdown_cell("# T"), new_code_cell("1"))
    nbformat.write(fresh, tmp_path / "01_fresh.ipynb")
    with pytest.raises(ReportError, match=r"01_fresh\.ipynb.*never executed"):
        export_study(tmp_path)


def test_nbconvert_finds_the_exporter(tmp_path, study):
    path = tmp_path / "study.ipynb"
    nbformat.write(study, path)
    home = {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "nbconvert", "--to", "typst", str(path)]
    run = subprocess.run(command, env={**os.environ, **home}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "study.pdf").read_bytes() == TypstExporter().from_filename(str(path))[0]


@pytest.mark.parametrize("kind", ["image/png", "image/svg+xml"])
@pytest.mark.parametrize("about", [{"drawing": True}, {"drawing": False}, {}])
def test_in_the_dark_drawings_are_turned_in_every_format_and_pages_are_not(figure, kind, about):
    page = html_of(notebook(code(shown({kind: figure[kind]}, {kind: about}))))
    assert ("drawing" in page.img.get("class", [])) == about.get("drawing", False)
    assert "prefers-color-scheme: dark" in page.style.text


def test_contents_are_folded_until_the_script_knows_that_there_is_room():
    page = html_of(new_notebook(cells=[new_markdown_cell("# T\n\n## A part"), code()]))
    assert page.select("nav details:not([open])") and "min-width" in page.select_one("script").text


def test_figures_and_tables_are_cited_by_their_numbers(figure, results):
    about = {"alt": "A rising line", "caption": "ANLS by epoch"}
    captioned = results.to_html().replace(">", "><caption>Scores</caption>", 1)
    prose = "See [the curve](#named-curve), [the scores](#named-scores) and [what is left out](#named-gone)."
    nb = notebook(
        new_markdown_cell(prose),
        code(shown(figure, {"image/png": about})),
        code(shown(figure, {"image/png": about}), tags=("named-curve",)),
        code(shown({"text/html": results.to_html()}), shown({"text/html": captioned}), tags=("named-scores",)),
    )
    page = html_of(nb)
    assert page.main.p.text == "See Figure\xa02, Table\xa01 and what is left out."
    assert page.find(id="named-curve").name == "figure" and page.find(id="named-scores").caption.text == "Scores"
    source = source_of(nb)
    assert '#go("named-curve")' in source and "<named-curve>" in source and "<named-scores>" in source
    assert "named-gone" not in source + str(page)
