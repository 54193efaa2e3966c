"""What is said of the arms follows from their runs, compared by question and seed."""

import dataclasses
import json

import pandas as pd
import pytest
from fake_study import write_study

from docfloqa.analysis import tables
from docfloqa.analysis.contrasts import (
    arm_contrasts,
    contrasts,
    holm_p_values,
    interactions,
    lacking,
    made,
    ratio_contrasts,
)
from docfloqa.analysis.intervals import p_text
from docfloqa.analysis.paired import holm, paired_difference
from docfloqa.arms import ARMS, Contrast
from docfloqa.figures import study as figures
from docfloqa.figures.style import render


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("arms")))
    yield write_study(arms=tuple(ARMS), epochs=2, ability=(0.2, 0.6))
    patch.undo()


def of(study, name):
    return ARMS[name](study.settings)


@pytest.mark.parametrize("name", ARMS)
def test_every_variant_has_a_row_with_its_own_seeds(study, name):
    arm = of(study, name)
    summary = tables.arm_summary(study, name)
    assert list(summary.index) == [variant.name for variant in arm.variants]
    for variant in arm.variants:
        assert summary.loc[variant.name, "seeds"] == ("1" if variant.first_seed_only else "2")
        epochs = 1 * (1 + len(variant.changes.get("trained_before", ())))
        assert summary.loc[variant.name, "epochs"] == str(epochs)


@pytest.mark.parametrize("name", ARMS)
def test_contrasts_are_paired_differences_of_the_variants_named(study, name):
    answers = study.arm(name).last_answers
    found = arm_contrasts(study, name)
    assert [(one.first, one.second, one.says) for one in found] == [
        (one.first, one.second, one.says) for one in of(study, name).contrasts
    ]
    first, second = (answers[answers["variant"] == side] for side in (found[0].first, found[0].second))
    difference = found[0].difference
    assert difference == paired_difference(first, second, "anls") and 0 < found[0].permuted <= 1
    assert difference.estimate == pytest.approx(second["anls"].mean() - first["anls"].mean())
    table = tables.contrast_table(arm_contrasts(study, name))
    assert table.index.tolist() == [one.name for one in found]
    assert table["p (Holm)"].tolist() == [*map(p_text, holm([one.difference.p_value() for one in found]))]


def test_interactions_compare_the_same_contrast_between_shifts(study):
    table = tables.contrast_table(interactions(study, "side"))
    pairs = {"input − layout", "input − content", "layout − content"}
    says = {"all against nothing", "the input side against the output side"}
    assert set(table.index) == {f"{one}: {pair}" for one in says for pair in pairs}
    planned = of(study, "side")
    differences = dict(zip(planned.contrasts, arm_contrasts(study, "side"), strict=True))
    for one, (there, here) in zip(interactions(study, "side"), planned.interactions, strict=True):
        estimates = [differences[side].difference.estimate for side in (here, there)]
        assert one.difference.estimate == estimates[0] - estimates[1]
        assert here.says == there.says and "" < here.shift != there.shift > ""
    assert interactions(study, "lora") == []


def test_an_arm_that_is_not_made_says_which_command_makes_it(output):
    study = write_study("plain", epochs=1)
    assert "docfloqa study --name plain" in lacking(study, "side")
    assert tables.arm_summary(study, "side").empty and figures.equally_long(study).empty
    with pytest.raises(ValueError, match="no complete run of the arms"):
        figures.pareto(study)
    with pytest.raises(ValueError, match="no two complete variants"):
        figures.arm_contrasts(study, "side")


def test_figures_draw_every_contrast_and_variant(study):
    figure = figures.arm_contrasts(study, "cumulative")
    assert len(figure.axes[0].containers) == len(of(study, "cumulative").contrasts)
    table = figures.equally_long(study)
    assert not table["variant"].str.contains("layout|content|after|times").any()
    plane = figures.pareto(study)
    assert len(plane.axes[0].containers) == len(table)
    assert render(plane, "pdf").startswith(b"%PDF")


def test_what_costs_less_and_scores_more_dominates():
    costs, scores = pd.Series([1.0, 2.0, 2.0, 3.0, 3.0]), pd.Series([0.3, 0.5, 0.4, 0.5, 0.6])
    assert figures.undominated(costs, scores).tolist() == [True, True, False, False, True]


def test_every_planned_comparison_has_a_name_of_its_own(study):
    found = contrasts(study)
    assert len({(each.family, each.name) for each in found}) == len(found) and made(found) == found
    assert [each.name for each in found[:3]] == ["33 % − 0 %", "66 % − 0 %", "100 % − 0 %"]
    for arm in ARMS:
        planned = of(study, arm)
        named = {each.name: each.says for each in found if each.family == f"arm {arm}"}
        assert named == {f"{each.second} − {each.first}": each.says for each in planned.contrasts}
    between = [each for each in found if each.family == "arm side, between shifts"]
    assert [each.name for each in between] == [
        f"{here.says}: {here.shift} − {there.shift}" for there, here in ARMS["side"](study.settings).interactions
    ]
    p_values = dict(zip(found, holm_p_values(found), strict=True))
    family = [each for each in found if each.family == "ratios"]
    assert [p_values[each] for each in family] == holm([each.difference.p_value() for each in family])


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.parametrize("index", [0, -1])
def test_a_further_contrast_changes_no_other(study, monkeypatch, name, index):
    """Whatever is added to an arm, and wherever: each comparison is found by its name and stays what it was."""
    make, before = ARMS[name], {each.name: each.difference for each in arm_contrasts(study, name)}
    planned = make(study.settings).contrasts
    first, second = planned[-1].second, planned[0].first
    added = list(planned)
    added.insert(index % (len(added) + 1), Contrast(first, second, "one more"))
    monkeypatch.setitem(ARMS, name, lambda settings: dataclasses.replace(make(settings), contrasts=tuple(added)))
    again = dataclasses.replace(study)
    after = {each.name: each.difference for each in arm_contrasts(again, name)}
    assert after.pop(f"{second} − {first}") is not None and after == before
    assert [each.difference.estimate for each in interactions(again, name)] == [
        each.difference.estimate for each in interactions(study, name)
    ]


def test_a_planned_arm_that_is_not_known_or_not_made_is_left_out_with_the_reason(study, monkeypatch):
    monkeypatch.delitem(ARMS, "lora")
    again = dataclasses.replace(study)
    [skipped] = [each for each in contrasts(again) if each.reason]
    assert skipped.family == skipped.name == "arm lora" and "has no arm `lora`; it has cumulative" in skipped.reason
    assert skipped not in made(contrasts(again)) and len(made(contrasts(again))) > 20
    assert "has no arm `lora`" in lacking(again, "lora")
    assert len(tables.arm_summary(again, "lora")) == 4, "its runs are there"
    assert made(arm_contrasts(again, "lora")) == interactions(again, "lora") == []


def test_what_is_planned_and_not_complete_is_left_out_with_the_reason(output):
    study = write_study("half", ratios=(0.0, 1.0), arms=("lora",), epochs=1)
    for run in (*study.arms["lora"]["LoRA, language model"], *[name for name in study.records if "vision100" in name]):
        path = output / "reports" / "half" / "runs" / run / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "failed"}))
    plan = output / "reports" / "half" / "study.json"
    content = json.loads(plan.read_text())
    plan.write_text(json.dumps(content | {"runs": [*content["runs"], "vision066-seed0-never-begun"]}))
    found = contrasts(type(study).load("half"))
    assert [(each.name, each.reason) for each in found if each.reason] == [
        ("66 % − 0 %", "no complete run of 66 %"),
        ("100 % − 0 %", "no complete run of 100 %"),
        *[
            (f"{each.second} − {each.first}", "no complete run of LoRA, language model")
            for each in ARMS["lora"](study.settings).contrasts[:2]
        ],
    ]
    assert [each.name for each in made(found)] == ["100 %, fresh weights − LoRA, language model and vision encoder"]
    assert (
        ratio_contrasts(write_study("single", epochs=1, documents=1))[0].reason
        == "all questions are about one document"
    )
