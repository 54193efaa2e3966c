"""The report of a study of one's own says what was found of it, as its verdicts have it, and nothing of others."""

import json
from dataclasses import replace

import pytest
from fake_study import write_study
from nbformat.v4 import new_markdown_cell, new_notebook

from docfloqa.arms import ARMS
from docfloqa.files import NOTEBOOKS, reports_folder
from docfloqa.report.export import document, html_of
from docfloqa.report.findings import abstract, findings, is_own, left_out, not_run, to_do, told
from docfloqa.report.tables import write_tables
from docfloqa.report.verdicts import BETTER, WORSE, verdicts
from docfloqa.settings import Settings

STUDIES = {
    "clear": {"ability": (0.2, 0.7), "ratios": (0.0, 1.0), "documents": 40},
    "close": {"ability": (0.5, 0.02), "documents": 30},
    "few": {"documents": 5, "ratios": (0.0, 1.0)},
    "blind": {"ability": (0.5, 0.0), "wrong_pages": 0.6},
    "same": {"ability": (0.0, 0.0), "ratios": (0.0, 1.0)},
    "alone": {"ratios": (0.66,)},
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("findings")))
        yield {name: write_study(name, epochs=1, data="owner/mine", **given) for name, given in STUDIES.items()}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("clear", ("It reads your pages", "A share is better**: 100 % − 0 % = ", "No further documents are needed")),
        ("close", ("It reads your pages", "No share is shown to be better", "would")),
        ("few", ("Not shown to read", "No share is shown to be better", "5 more documents** must validate")),
        ("blind", ("Not shown to read", "No share is shown to be better", "documents")),
        ("same", ("Not shown to read", "No share is shown to be better", "is unknown")),
        ("alone", ("It reads your pages", "No share is compared", "No further documents are needed")),
    ],
)
def test_three_sentences_say_what_the_verdicts_do(studies, name, says):
    found = findings(studies[name])
    assert len(found) == 3 and all(part in one for part, one in zip(says, found, strict=True)), found
    settled = verdicts(studies[name])["verdict"].isin([BETTER, WORSE])
    assert settled.any() == ("A share is better" in found[1])
    assert "nan" not in abstract(studies[name])


def test_the_difference_told_is_the_verdicts_own(studies):
    row = verdicts(studies["clear"]).iloc[0]
    told = f"{row['comparison']} = {row['difference']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
    assert told in findings(studies["clear"])[1]


def test_what_was_not_run_is_one_line_and_what_to_do_a_command(studies):
    arms = ", ".join(f"the arm `{arm}`" for arm in ARMS)
    assert not_run(studies["clear"]) == f"Not run: {arms}, bad scans."
    few = to_do(studies["few"])
    assert "docfloqa study --name few" in few and "--folds 5 --name few-folds" in few
    assert "export clear/vision100" in to_do(studies["clear"]) and "--epochs" in to_do(studies["blind"])


@pytest.mark.parametrize(
    ("settings", "own"),
    [
        ({}, False),
        ({"data": "HuggingFaceM4/DocumentVQA@0123"}, False),
        ({"validation_data": "lmms-lab/DocVQA"}, False),
        ({"data": "/scans"}, True),
        ({"validation_data": "owner/name"}, True),
    ],
)
def test_a_study_is_ones_own_by_its_data(studies, settings, own):
    one = replace(studies["clear"], settings=Settings(study="clear", **settings))
    assert is_own(one) == own and ("published" in left_out(one)) == own


def test_what_people_tell_stands_in_the_report_and_is_left_out_where_they_do_not(studies):
    study = studies["same"]
    assert "told" in left_out(study) and abstract(study).count("**") >= 6
    path = reports_folder("same") / "told.md"
    path.write_text("# Same\n\n## In short\n\nNothing **differs**.\n\n## Discussion\n\nWhy?\n", encoding="utf-8")
    assert "told" not in left_out(study) and abstract(study) == "Nothing **differs**."
    assert told(study, "Discussion") == "Why?" and "`Conclusion`" in told(study, "Conclusion")
    path.unlink()


def test_the_report_of_ones_own_study_leaves_the_published_one_out(studies):
    source = json.loads((NOTEBOOKS / "04_analyze.ipynb").read_text())
    cells = [
        new_markdown_cell("".join(cell["source"]), metadata={"tags": cell["metadata"].get("tags", [])})
        for cell in source["cells"]
        if cell["cell_type"] == "markdown"
    ]
    pages = {}
    for name, tags in {"whole": [], "own": left_out(studies["clear"])}.items():
        metadata = {"docfloqa": {"study": "clear", "left_out": tags}}
        pages[name] = html_of(*document(new_notebook(cells=cells, metadata=metadata)))
    for words in ("The published claims", "student project", "The published protocol", "LoRA", "tiny model"):
        assert words in pages["whole"] and words not in pages["own"], words
    assert "Limits" in pages["own"] and "How much?" in pages["own"] and "Look at" not in "".join(pages.values())
    assert not {path.stem for path in write_tables(studies["clear"])} & {"published_differences", "freezing_ablation"}
