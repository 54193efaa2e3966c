"""What is said of the arms follows from their runs, compared by question and seed."""

import pandas as pd
import pytest
from fake_study import write_study

from docfloqa.analysis import arm_tables
from docfloqa.analysis.paired import paired_difference
from docfloqa.arms import ARMS
from docfloqa.figures import arms as arm_figures
from docfloqa.figures.style import render


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("arms")))
    yield write_study(arms=tuple(ARMS), epochs=2, ability=(0.2, 0.6))
    patch.undo()


@pytest.mark.parametrize("name", ARMS)
def test_every_variant_has_a_row_with_its_own_seeds(study, name):
    arm = arm_tables.arm_of(study, name)
    summary = arm_tables.arm_summary(study, name)
    assert list(summary.index) == [variant.name for variant in arm.variants]
    for variant in arm.variants:
        assert summary.loc[variant.name, "seeds"] == ("1" if variant.first_seed_only else "2")
        epochs = 1 * (1 + len(variant.changes.get("trained_before", ())))
        assert summary.loc[variant.name, "epochs"] == str(epochs)


@pytest.mark.parametrize("name", ARMS)
def test_contrasts_are_paired_differences_of_the_variants_named(study, name):
    answers = arm_tables.last_answers(study, name)
    found = list(arm_tables.arm_differences(study, name))
    assert [contrast for contrast, *_ in found] == list(arm_tables.arm_of(study, name).contrasts)
    contrast, difference, permuted = found[0]
    first, second = (answers[answers["variant"] == side] for side in (contrast.first, contrast.second))
    assert difference == paired_difference(first, second, "anls") and 0 < permuted <= 1
    assert difference.estimate == pytest.approx(second["anls"].mean() - first["anls"].mean())


def test_the_answer_names_what_differs_and_says_so_of_what_does_not(study):
    text = arm_tables.arm_answer(study, "lora")
    table = arm_tables.arm_comparisons(study, "lora")
    assert text.startswith("**Can LoRA adapters")
    for line, (_, row) in zip(text.splitlines()[2:], table.iterrows(), strict=True):
        clear = row["p (Holm)"].startswith("<") or float(row["p (Holm)"]) < 0.05
        assert ("cannot be distinguished" in line) != clear
        assert row["difference [95 %]"] in line


def test_interactions_compare_the_same_contrast_between_shifts(study):
    table = arm_tables.arm_interactions(study, "side")
    pairs = {"input less layout", "input less content", "layout less content"}
    says = {"all against nothing", "the input side against the output side"}
    assert set(table.index) == {f"{one}: {pair}" for one in says for pair in pairs}
    differences = {contrast: found for contrast, found, _ in arm_tables.arm_differences(study, "side")}
    for here, there, found, _ in arm_tables.interaction_tests(study, "side"):
        assert found.estimate == differences[here].estimate - differences[there].estimate
        assert here.says == there.says and "" < here.shift != there.shift > ""
    text = arm_tables.arm_answer(study, "side")
    assert all(interval in text for interval in table["difference [95 %]"])
    assert arm_tables.arm_interactions(study, "lora").empty


def test_an_arm_that_is_not_made_says_which_command_makes_it(output):
    study = write_study("plain", epochs=1)
    assert "make study ARMS=side NAME=plain" in arm_tables.arm_answer(study, "side")
    assert arm_tables.arm_summary(study, "side").empty and arm_figures.equally_long(study).empty
    with pytest.raises(ValueError, match="no complete run of the arms"):
        arm_figures.pareto(study)
    with pytest.raises(ValueError, match="no two complete variants"):
        arm_figures.arm_contrasts(study, "side")


def test_figures_draw_every_contrast_and_variant(study):
    figure = arm_figures.arm_contrasts(study, "cumulative")
    assert len(figure.axes[0].containers) == len(arm_tables.arm_of(study, "cumulative").contrasts)
    table = arm_figures.equally_long(study)
    assert not table["variant"].str.contains("layout|content|after|times").any()
    assert len(arm_figures.pareto(study).axes[0].containers) == len(table)
    assert render(arm_figures.pareto(study), "pdf").startswith(b"%PDF")


def test_what_costs_less_and_scores_more_dominates():
    costs, scores = pd.Series([1.0, 2.0, 2.0, 3.0, 3.0]), pd.Series([0.3, 0.5, 0.4, 0.5, 0.6])
    assert arm_figures.undominated(costs, scores).tolist() == [True, True, False, False, True]
