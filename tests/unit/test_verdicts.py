"""Every comparison gets a row, a verdict that its numbers carry, and no more than that."""

import json

import numpy as np
import pytest
from fake_study import write_study

from docfloqa.analysis import tables
from docfloqa.analysis.contrasts import CLAIMS, HEADLINE, Comparison, arm_contrasts, interactions, of_arm
from docfloqa.analysis.paired import PairedDifference
from docfloqa.arms import ARMS
from docfloqa.files import reports_folder
from docfloqa.report import verdicts as module
from docfloqa.report.tables import show_arm, write_tables
from docfloqa.report.verdicts import BETTER, OPEN, WORSE, as_text, readable, verdicts
from docfloqa.runs.results import PLAN, Study

SAME = "the same within 2 points"
STUDIES = {
    "one ratio": {"ratios": (0.33,), "seeds": (0,)},
    "one seed": {"ratios": (0.0, 1.0), "seeds": (0,), "ability": (0.6, 0.0)},
    "one document": {"ratios": (0.0, 1.0), "seeds": (0,), "documents": 1},
    "few": {"ratios": (0.0, 1.0), "seeds": (0,), "documents": 3, "ability": (1.0, 0.0)},
    "missing": {"ratios": (0.0, 1.0), "missing": 2},
}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("verdicts")))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def study():
    return write_study(arms=tuple(ARMS), epochs=2, documents=20, questions=2, ability=(0.1, 0.7))


def test_all_that_is_compared_is_there_under_its_own_names_with_the_tables_numbers(study):
    found = verdicts(study)
    shown = {part: readable(found, part).set_index("comparison") for part in found["part"].unique()}
    differences = {"ratios": tables.comparisons(study)["difference [95 %, one pair]"]}
    assert found["part"].iloc[0] == CLAIMS[HEADLINE]
    for arm, part in CLAIMS.items():
        claims = [f"{one.where}: {one.groups}" for one in of_arm(study, arm)]
        assert shown.pop(part).index.tolist() == claims
    for name in ARMS.keys() - CLAIMS.keys():
        differences[f"arm {name}"] = tables.contrast_table(arm_contrasts(study, name))["difference [95 %]"]
        contrasts = ARMS[name](study.settings).contrasts
        assert shown[f"arm {name}"].index.tolist() == [f"{one.second} − {one.first}" for one in contrasts]
        if between := interactions(study, name):
            differences[f"arm {name}, between shifts"] = tables.contrast_table(between)["difference [95 %]"]
    assert "arm side, between shifts" in differences
    assert set(shown) == set(differences)
    for part, texts in differences.items():
        assert shown[part]["difference [95 %]"].str.replace("\xa0", " ").tolist() == texts.tolist(), part


def claim(metric: str, estimate: float) -> Comparison:
    difference = PairedDifference(estimate, 0.008, 0.0, 100, 1)
    return Comparison(CLAIMS[HEADLINE], "a", "b", where=metric, metric=metric, difference=difference)


@pytest.mark.parametrize(
    ("exact_match", "anls", "told"),
    [
        (0.03, 0.04, [BETTER, BETTER]),
        (-0.03, -0.04, [WORSE, WORSE]),
        (0.001, 0.0, [SAME, SAME]),
        (0.03, 0.012, [f"{OPEN}: better on exact match alone", OPEN]),
        (0.012, -0.03, [OPEN, f"{OPEN}: worse on ANLS alone"]),
        (0.03, -0.03, [f"{OPEN}: better on exact match alone", f"{OPEN}: worse on ANLS alone"]),
        (0.0, 0.03, [f"{OPEN}: {SAME} on exact match alone", f"{OPEN}: better on ANLS alone"]),
    ],
)
def test_a_claim_holds_on_both_endpoints_or_not_at_all(exact_match, anls, told, study, monkeypatch):
    # The same groups in another claim and in another family are no endpoint of it.
    both = [claim("exact_match", 0.03), claim("anls", 0.03)]
    other = Comparison("ratios", "a", "b", difference=PairedDifference(-0.03, 0.005, 0.0, 100, 1))
    found = [*both, claim("exact_match", exact_match), claim("anls", anls), *both, other]
    monkeypatch.setattr(module, "contrasts", lambda study: found)
    told = [BETTER, BETTER, *told, BETTER, BETTER, WORSE]
    assert readable(verdicts(study))["verdict"].tolist() == told
    assert verdicts(study)["verdict"].tolist() == [one.partition(":")[0] for one in told]


@pytest.mark.parametrize("part", CLAIMS.values())
def test_every_claim_of_a_study_has_one_verdict(study, part):
    found = verdicts(study)
    claims = found[found["part"] == part]
    names = claims["comparison"].str.replace("ANLS", "exact match")
    assert (names[0::2].tolist() == names[1::2].tolist()) and len(claims) == 42
    assert claims["verdict"][0::2].tolist() == claims["verdict"][1::2].tolist()
    clear = claims[claims["reason"] == ""].groupby("verdict")["p"].max()
    assert clear[BETTER] < 0.05


def test_a_verdict_follows_from_p_and_the_sign(study):
    found = verdicts(study)
    found = found[~found["part"].isin(CLAIMS.values())]
    clear = found["p"] < 0.05
    assert clear.any() and not clear.all()
    assert (found.loc[clear, "verdict"] == np.where(found.loc[clear, "difference"] > 0, BETTER, WORSE)).all()
    assert found.loc[~clear, "verdict"].isin([OPEN, SAME]).all()


@pytest.mark.parametrize(
    ("estimate", "error", "verdict"),
    [
        (0.03, 0.005, BETTER),
        (-0.03, 0.005, WORSE),
        (0.004, 0.005, SAME),
        (-0.004, 0.005, SAME),
        (0.012, 0.008, OPEN),
        (0.0, 0.0, OPEN),
        (0.01, 0.0, OPEN),
    ],
)
def test_the_four_verdicts(estimate, error, verdict, study, monkeypatch):
    difference = PairedDifference(estimate, error, 0.0, 100, 1)
    monkeypatch.setattr(module, "contrasts", lambda study: [Comparison("ratios", "a", "b", difference=difference)])
    assert verdicts(study)["verdict"].tolist() == [verdict]


def test_the_margin_is_the_readers(study, monkeypatch):
    difference = PairedDifference(0.012, 0.008, 0.0, 100, 1)
    monkeypatch.setattr(module, "contrasts", lambda study: [Comparison("ratios", "a", "b", difference=difference)])
    assert verdicts(study, 0.5)["verdict"].tolist() == [OPEN]
    assert verdicts(study, 3.5)["verdict"].tolist() == ["the same within 3.5 points"]
    for margin in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="margin is"):
            verdicts(study, margin)


@pytest.mark.parametrize("name", STUDIES)
def test_small_studies_are_not_settled_rather_than_refused(name):
    one = write_study(name.replace(" ", "-"), epochs=1, **{"documents": 15, **STUDIES[name]})
    found = verdicts(one)
    assert len(found) == {"one ratio": 0, "one document": 1}.get(name, 1)
    if name in ("one document", "few", "one seed"):
        assert set(found["verdict"]) <= {OPEN, SAME}
    if name in ("one document", "few"):
        assert set(found["verdict"]) <= {OPEN} and found[["low", "high", "p"]].isna().all(axis=None)
        assert " validate. Intervals" in readable(found).attrs["note"]
    assert isinstance(as_text(found), str)
    json.dumps(json.loads(found.to_json(orient="records")), allow_nan=False)


def test_where_pages_are_not_read_nothing_is_settled():
    unread = write_study("unread", epochs=2, ability=(0.5, 0.02), wrong_pages=0.6)
    found = verdicts(unread)
    assert set(found["verdict"]) == {OPEN} and "nothing is settled" in as_text(found)
    assert "nothing is settled" in readable(found).attrs["note"]


def planned(study: Study, arms: dict) -> Study:
    """The study again, planned with other arms as well."""
    path = reports_folder(study.name) / PLAN
    plan = json.loads(path.read_text())
    path.write_text(json.dumps(plan | {"arms": plan.get("arms", {}) | arms}))
    return Study.load(study.name)


@pytest.mark.parametrize(("arm", "run"), [("rates", "vision000-seed0-0000"), ("lora", "none")])
def test_an_arm_that_is_planned_and_lacking_is_told_and_ends_nothing(arm, run):
    """One that this version does not know, and one without a complete run."""
    one = planned(write_study(f"{arm}-{run[:4]}", epochs=1, documents=6), {arm: {"a variant": [run]}})
    found = verdicts(one)
    of_arm = found[found["part"] == f"arm {arm}"]
    assert len(of_arm) >= 1 and set(of_arm["verdict"]) == {OPEN} and of_arm["reason"].all()
    assert of_arm["reason"].iloc[0] in as_text(found) and len(readable(found, f"arm {arm}")) == len(of_arm)
    assert all(path.is_file() for path in write_tables(one))
    for name in ARMS:
        show_arm(one, name)


def test_the_terminal_has_every_row_and_no_line_that_is_cut(study):
    found = verdicts(study)
    lines = as_text(found).splitlines()
    # A line for every part, and the last one says on which documents.
    assert len(lines) == len(found) + found["part"].nunique() + 1
    for row in found.itertuples():
        assert any(line.strip().startswith(row.comparison) and row.verdict in line for line in lines)
