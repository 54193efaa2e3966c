"""The report's abstract, setting and limits say what the study is and what its tables say, and nothing else."""

import re

import pytest
from fake_study import write_study

from docfloqa.analysis import tables
from docfloqa.analysis.published import published_systems
from docfloqa.report import paper

STUDIES = {
    "two seeds": {"ability": (0.3, 0.5), "documents": 30},
    "the same": {"ratios": (0.0, 1.0), "seeds": (0,), "ability": (0.6, 0.0)},
    "one ratio": {"ratios": (0.33,), "seeds": (0,)},
    "one document": {"ratios": (0.0, 1.0), "seeds": (0,), "documents": 1},
    "unreadable": {"ability": (0.5, 0.02), "wrong_pages": 0.6},
    "missing": {"ratios": (0.0, 1.0), "missing": 2},
    "other": {"ratios": (0.0, 1.0), "model": "owner/some_model", "data": "owner/data"},
    "smoke": {"ratios": (0.0, 1.0), "seeds": (0,), "documents": 4, "ability": (0.0, 0.1), "wrong_pages": 0.1},
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("paper")))
    plain = {
        name: write_study(name.replace(" ", "-"), epochs=2, **{"documents": 15, **given})
        for name, given in STUDIES.items()
    }
    yield plain | {"arms": write_study("arms", epochs=1, documents=6, seeds=(0,), arms=("cumulative", "side"))}
    patch.undo()


def numbers(text):
    """Estimates with their intervals."""
    return re.findall(r"-?\d+\.\d \[[^\]]*\]", text.replace("\xa0", " "))


def test_what_the_abstract_says_stands_in_the_tables(studies):
    study = studies["two seeds"]
    said = paper.abstract(study)
    compared, scores = tables.comparisons(study), tables.summary(study)["ANLS (%)"]
    assert compared.loc["100 % less 0 %", "difference [95 %, one pair]"] in said
    assert {*numbers(scores["0 %"]), *numbers(scores["100 %"])} <= {*numbers(said)}
    assert len(numbers(said)) == 3
    clear = sum(p.startswith("<") or float(p) < 0.05 for p in compared["p (Holm)"])
    assert 0 < clear < 6 and f"Of 6 pairs of ratios {clear} are distinguished, the others cannot be" in said
    assert "0 %, 33 %, 66 % and 100 % of the vision encoder's tensors are trained" in said
    assert "2 seeds, and 120 questions on 30 drawn documents" in said and "for 2 epochs" in said
    assert "protocol (" not in said, "no arm was made"


@pytest.mark.parametrize(
    ("name", "said", "not_said"),
    [
        ("the same", "points, which cannot be distinguished from none.", "pairs of ratios"),
        ("one ratio", "there is one ratio only, so nothing is compared", "difference"),
        ("one document", "too little is shared between them to compare them", "points"),
        ("unreadable", "could not be shown that the model reads", "points"),
        ("smoke", "nothing can be concluded", "points"),
        ("missing", "Planned runs that are missing: 2.", "cannot be distinguished"),
        ("other", "about this model, these documents", "tiny"),
        ("two seeds", "does not say how much of Florence-2-base to train", "missing"),
    ],
)
def test_the_abstract_claims_no_more_than_the_study_has(name, said, not_said, studies):
    text = paper.abstract(studies[name])
    assert said in text and not_said not in text
    assert "  " not in text and text.endswith(".") and ".." not in text


def test_the_abstract_tells_of_the_arms_that_were_made(studies):
    text = paper.abstract(studies["arms"])
    assert re.search(r"In the published protocol \(1 epochs? each\) 100 % less 66 % is -?\d", text)
    assert "the first third of the encoder's parameters" in text
    assert "where the layout is new instead it is" in text and "where the content is new instead" in text
    assert len(numbers(text)) == 3 + 2 + 3


def test_the_setting_and_the_limits_are_the_studys_own(studies):
    one, two = paper.limitations(studies["the same"]), paper.limitations(studies["two seeds"])
    assert "There is one seed" in one and "There are 2 seeds" in two
    assert "The model is tiny" in two and "documents are drawn" in two
    other = paper.limitations(studies["other"])
    assert "tiny" not in other and "drawn" not in other
    assert "2 that were planned are not complete" in paper.limitations(studies["missing"])
    assert "train for less long" in paper.limitations(studies["arms"]) and "less long" not in two
    assert "nothing" not in paper.limitations(studies["one ratio"]) and "Power" not in paper.limitations(
        studies["one ratio"]
    )
    assert "some\\_model" in paper.setting(studies["other"]) and "drawn" not in paper.setting(studies["other"])
    assert "learning rate of 0.001" in paper.setting(studies["two seeds"])
    assert "120 validation questions" in paper.setting(studies["two seeds"])


def test_the_appendix_lists_the_runs_and_what_made_them(studies):
    study = studies["arms"]
    runs = paper.run_table(study)
    assert runs.index.tolist() == study.runs["run"].tolist()
    assert runs["ratio"].tolist() == ["0 %", "33 %", "66 %", "100 %"]
    made = paper.environment_table(study)["of all runs"]
    assert made["device"] == "Example & Sons CPU_7 | 100%"
    run = next(iter(study.records))
    study.records[run]["versions"] = {"torch": "2.0"}
    assert paper.environment_table(study)["of all runs"]["torch"] == "2.0"


def test_published_systems_are_those_of_the_file():
    table = published_systems()
    assert table.loc["Donut", "published (%)"] == "67.5" and table.loc["Donut", "measure"] == "ANLS"
    assert len(table) == len(tables.PUBLISHED["other_published_docvqa_figures"])
