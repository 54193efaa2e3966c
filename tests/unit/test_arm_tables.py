"""What is said of the arms follows from their runs, compared by question and seed."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from fake_study import write_study

from docfloqa.analysis import tables
from docfloqa.analysis.arms import GAINS, at_one_rate, checkpoints, grid_cells, grid_table, new_words, word_scores
from docfloqa.analysis.contrasts import (
    CLAIMS,
    HEADLINE,
    arm_contrasts,
    contrasts,
    gains,
    holm_p_values,
    interactions,
    lacking,
    made,
    of_arm,
    ratio_contrasts,
)
from docfloqa.analysis.intervals import p_text, unbroken
from docfloqa.analysis.paired import PairedDifference, holm, paired_difference, permutation_p_value, pooled_over_seeds
from docfloqa.arms import ARMS, Contrast, shift_of
from docfloqa.data.synth.vocabulary import KNOWN, is_new_word
from docfloqa.figures import arms as arm_figures
from docfloqa.figures import study as figures
from docfloqa.figures import style
from docfloqa.figures.style import render
from docfloqa.report.tables import show_arm, show_scores
from docfloqa.report.verdicts import by_data, of_parts, readable, verdicts


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("arms")))
    yield write_study(arms=tuple(ARMS), epochs=2, documents=20, questions=2, ability=(0.2, 0.6))
    patch.undo()


def of(study, name):
    return ARMS[name](study.settings)


@pytest.mark.parametrize("name", ARMS)
def test_every_variant_has_a_row_with_its_own_seeds(study, name):
    arm = of(study, name)
    summary = tables.arm_summary(study, name)
    assert list(summary.index) == [variant.name for variant in arm.variants]
    for variant in arm.variants:
        assert summary.loc[variant.name, "seeds"] == str(min(2, variant.most_seeds or 2))
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
    alone = paired_difference(first, second, "anls")
    seeds = {name: getattr(difference, name) for name in ("over_seeds", "seeds_freedom")}
    assert difference == dataclasses.replace(alone, **seeds) and 0 < permutation_p_value(*found[0].sides, "anls") <= 1
    shifted = [variant for variant in of(study, name).variants if shift_of(variant.name) == shift_of(found[0].first)]
    assert seeds["seeds_freedom"] == (len(shifted) - 1 if of(study, name).pooled else None)
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
        assert here.says == there.says and "" < shift_of(here.first) != shift_of(there.first) > ""
    assert interactions(study, "lora") == []


def test_an_arm_that_is_not_made_says_which_command_makes_it(output):
    study = write_study("plain", epochs=1)
    assert "docfloqa study --name plain" in lacking(study, "side")
    assert tables.arm_summary(study, "side").empty and figures.equally_long(study).empty


def test_figures_draw_every_contrast_and_variant(study):
    figure = figures.arm_contrasts(study, "cumulative")
    assert len(figure.axes[0].containers) == len(of(study, "cumulative").contrasts)
    table = figures.equally_long(study)
    assert not table["variant"].str.contains("layout|content|after|times").any()
    plane = figures.pareto(study)
    assert len(plane.axes[0].containers) == len(table)
    assert render(plane, "pdf").startswith(b"%PDF")


def test_the_grid_has_a_cell_for_every_mixture_with_the_numbers_of_its_contrast(study):
    cells = grid_cells(study)
    assert len(cells) == 18 and cells["gain"].value_counts().to_dict() == dict.fromkeys(GAINS.values(), 9)
    named = {each.name: each for each in arm_contrasts(study, "grid")}
    one = named["pixels 0.5, content 1: all − pixels 0.5, content 1: none"]
    row = cells.set_index(["pixels", "content", "gain"]).loc[(0.5, 1.0, "all − none")]
    assert row["estimate"] == one.difference.estimate and row["low"] == one.difference.interval().low
    table = grid_table(study)
    assert list(table.columns) == list(GAINS.values()) and ("0.5", "1") in table.index
    assert table.loc[("0.5", "1"), "all − none"].startswith(one.difference.interval().format(100).split(",")[0])
    figure = arm_figures.grid(study)
    shown = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert len(shown) == 2 * 18 and f"{100 * row['estimate']:+.1f}".replace("-", "−") in shown
    assert not any(ax.images for ax in figure.axes), "a drawing, with vectors in print and turned in the dark"
    some = {name: runs for name, runs in study.arms["grid"].items() if name.endswith((": none", ": all"))}
    assert len(arm_figures.grid(dataclasses.replace(study, arms={"grid": some})).axes) == 1, "as far as it is made"
    with pytest.raises(ValueError, match="no cell to compare"):
        arm_figures.grid(dataclasses.replace(study, arms={}))


@pytest.mark.long
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_that_is_made_in_part_is_shown_in_part(arm, study):
    """A study that is being made has a report; the grid of one had neither of its panels for want of the other."""
    variants = [*study.arms[arm]]
    some = {name: study.arms[arm][name] if name in variants[1::2] else [] for name in variants}
    one = dataclasses.replace(study, arms=study.arms | {arm: some})
    show_arm(one, arm)
    show_scores(one, arm)
    assert len(verdicts(one)) == len(verdicts(study)) and gains(one)


def test_the_claims_are_drawn_with_both_endpoints_under_every_shift(study):
    figure = arm_figures.claims(study)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["new look", "new layout", "new content"]
    assert [len(ax.containers) for ax in figure.axes] == [10, 10, 10]
    labels = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert labels == ["all − none", "stem − stage 4", "stem − none", "stages 1 and 2 − none", "stage 4 − none"]


def test_a_line_runs_between_cells_of_different_sign_and_nowhere_else():
    _, [[ax]] = style.panels(3, 3)
    arm_figures._flips(ax, np.array([[-1.0, -1.0, -1.0], [2.0, 1.0, -1.0], [3.0, 2.0, 1.0]]))
    drawn = {(*line.get_xdata(), *line.get_ydata()) for line in ax.lines}
    assert drawn == {(2, 2, 1, 2), (0, 1, 1, 1), (1, 2, 1, 1), (2, 3, 2, 2)}


def test_answers_with_words_that_training_never_has_are_compared_apart(study, monkeypatch):
    whole, words = type(study).compared.func, KNOWN["held out"].people
    trained, new = (next(word for word in words if is_new_word(word) == is_new) for is_new in (False, True))

    def told(part, texts):
        answers = whole(part)
        first = answers["question_id"].str.rsplit("-", n=1).str[0] == answers["question_id"].iloc[0].rsplit("-", 1)[0]
        ends = answers["question_id"].str[-1].mask(first, "2")
        return answers.assign(answers=ends.map({end: [text] for end, text in zip("012", texts, strict=True)}), end=ends)

    monkeypatch.setattr(type(study), "compared", property(lambda part: told(part, (trained, trained, "27"))))
    assert new_words(study, HEADLINE).empty and word_scores(study, HEADLINE).empty, "there is no new word"
    monkeypatch.setattr(type(study), "compared", property(lambda part: told(part, (trained, new, "27"))))
    table = new_words(study, HEADLINE)
    assert table.index.tolist() == [one.name for one in arm_contrasts(study, HEADLINE)]
    scored = word_scores(study, HEADLINE)
    assert list(scored.columns) == ["seen", "never seen"] and len(scored) == 15
    means = study.arm(HEADLINE).compared.groupby(["variant", "end"])["anls"].mean().unstack()
    gains = 100 * (means.loc["input: all"] - means.loc["input: none"])
    assert scored.loc["input: all", "never seen"].startswith(f"{100 * means.loc['input: all', '1']:.1f} [")
    shown = [float(cell.split(" ")[0]) for cell in table.loc["input: all − input: none"]]
    assert shown == [round(gain, 1) for gain in (gains["0"], gains["1"], gains["1"] - gains["0"])]


def test_two_checkpoints_stand_side_by_side_and_their_signs_are_compared(output):
    size = {"ratios": (1.0,), "seeds": (0,), "epochs": 1, "documents": 12, "questions": 2, "arms": (HEADLINE,)}
    abilities = {"one": (0.1, 0.8), "two": (0.9, -0.8)}
    made = [write_study(name, ability=each, model=f"data/{name}", **size) for name, each in abilities.items()]
    table = checkpoints(made)
    assert list(table.columns) == ["one (one)", "two (two)", "sign"] and len(table) == 42
    assert table.loc["ANLS: input: all − input: none", "sign"] == "differs" and "agrees" in set(table["sign"])
    assert checkpoints(made[:1]).empty


def test_what_costs_less_and_scores_more_dominates():
    costs, scores = pd.Series([1.0, 2.0, 2.0, 3.0, 3.0]), pd.Series([0.3, 0.5, 0.4, 0.5, 0.6])
    assert figures.undominated(costs, scores).tolist() == [True, True, False, False, True]


def test_every_planned_comparison_has_a_name_of_its_own(study):
    found = contrasts(study)
    assert len({(each.family, each.name) for each in found}) == len(found) and made(found) == found
    claims = [each for each in found if each.family == CLAIMS[HEADLINE]]
    assert found[: len(claims)] == claims, "what a study is made for comes first"
    after = found[len(claims) :]
    assert [each.name for each in after[:3]] == ["33 % − 0 %", "66 % − 0 %", "100 % − 0 %"]
    for arm in ARMS.keys() - CLAIMS.keys():
        planned = of(study, arm)
        named = {each.name: each.says for each in found if each.family == f"arm {arm}"}
        assert named == {f"{each.second} − {each.first}": each.says for each in planned.contrasts}
    between = [each for each in found if each.family == "arm side, between shifts"]
    assert [each.name for each in between] == [
        f"{here.says}: {shift_of(here.first)} − {shift_of(there.first)}"
        for there, here in ARMS["side"](study.settings).interactions
    ]
    p_values = dict(zip(found, holm_p_values(found), strict=True))
    family = [each for each in found if each.family == "ratios"]
    assert [p_values[each] for each in family] == holm([each.difference.p_value() for each in family])


@pytest.mark.parametrize("name", ARMS)
def test_a_further_contrast_changes_no_other(study, monkeypatch, name):
    """Whatever is added to an arm, and wherever: each comparison is found by its name and stays what it was."""
    make, before = ARMS[name], {each.name: each.difference for each in arm_contrasts(study, name)}
    between = [each.difference.estimate for each in interactions(study, name)]
    planned = make(study.settings).contrasts
    first, second = planned[-1].second, planned[0].first
    one_more = Contrast(first, second, "one more")
    for added in ((one_more, *planned), (*planned, one_more)):
        arm = dataclasses.replace(make(study.settings), contrasts=added)
        monkeypatch.setitem(ARMS, name, lambda _, arm=arm: arm)
        again = dataclasses.replace(study)
        after = {each.name: each.difference for each in arm_contrasts(again, name)}
        assert after.pop(f"{second} − {first}") is not None and after == before
        assert [each.difference.estimate for each in interactions(again, name)] == between


@pytest.mark.long
def test_a_planned_arm_that_is_not_known_or_not_made_is_left_out_with_the_reason(study, monkeypatch):
    monkeypatch.delitem(ARMS, "lora")
    again = dataclasses.replace(study)
    [skipped] = [each for each in contrasts(again) if each.reason]
    assert skipped.family == skipped.name == "arm lora" and "has no arm `lora`; it has cumulative" in skipped.reason
    assert skipped not in made(contrasts(again)) and len(made(contrasts(again))) > 20
    assert "has no arm `lora`" in lacking(again, "lora")
    assert len(tables.arm_summary(again, "lora")) == 4, "its runs are there"
    assert made(arm_contrasts(again, "lora")) == interactions(again, "lora") == []


def test_the_claims_are_one_family_on_both_endpoints_apart_from_all_else(study):
    planned, found = of(study, HEADLINE), of_arm(study, HEADLINE)
    assert {each.family for each in found} == {CLAIMS[HEADLINE]}
    assert len(found) == 2 * (len(planned.contrasts) + len(planned.interactions)) == 42
    assert [each.metric for each in found] == ["exact_match", "anls"] * 21
    assert found[0].name == "exact match: input: all − input: none" == found[1].name.replace("ANLS", "exact match")
    answers = study.arm(HEADLINE).compared
    for each in found[:2]:
        sides = (answers[answers["variant"] == side][each.metric].mean() for side in (each.second, each.first))
        assert each.difference.estimate == pytest.approx(next(sides) - next(sides))
    corrected = dict(zip(found, holm([each.difference.p_value() for each in found]), strict=True))
    every = contrasts(study)
    assert {
        each: p for each, p in zip(every, holm_p_values(every), strict=True) if each.family == CLAIMS[HEADLINE]
    } == {every[place]: p for place, p in enumerate(corrected.values())}
    assert not [each for each in every if each.family.startswith(f"arm {HEADLINE}")]


def test_variance_over_seeds_is_that_of_all_groups_less_what_a_seed_does_to_all():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(5, 4))
    means = pd.DataFrame(noise + rng.normal(0, 9, 4))
    difference = PairedDifference(0.1, 0.2, 0.3, 100, 4)
    pooled = pooled_over_seeds(difference, means)
    tidy = means.melt(ignore_index=False, var_name="seed").reset_index(names="group")
    fit = smf.ols("value ~ C(group) + C(seed)", tidy).fit()
    assert pooled.over_seeds**2 == pytest.approx(2 * fit.mse_resid / 4) and pooled.seeds_freedom == fit.df_resid == 12
    of_two = means.loc[[1, 3]]
    gains = of_two.loc[3] - of_two.loc[1]
    assert pooled_over_seeds(difference, of_two).over_seeds == pytest.approx(gains.std() / 2)
    assert pooled_over_seeds(difference, of_two).seeds_freedom == 3
    assert pooled_over_seeds(difference, means[[0]]) == difference, "one seed says nothing of others"


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


def test_claims_are_shown_at_one_rate_too_and_trials_on_several_documents_are_not(output):
    """With a rate of its own each, a difference between variants may be one of the language model's rate."""
    size = {"ratios": (1.0,), "seeds": (0,), "epochs": 1, "documents": 12, "questions": 2, "test": (12, 2)}
    study = write_study("at-one-rate", arms=(HEADLINE,), **size)
    runs, answers = study.arms[HEADLINE], study.arm(HEADLINE).compared
    trials = {HEADLINE: runs | {"before stem": [*runs["input: stem"], *runs["input: all"]], "no": []}}
    table = at_one_rate(dataclasses.replace(study, trials=trials), HEADLINE)
    assert table.index.tolist() == [one.name for one in arm_contrasts(study, HEADLINE)]
    first, second = (answers[answers["variant"] == f"input: {name}"] for name in ("none", "all"))
    found = (paired_difference(first, second, metric).interval() for metric in ("exact_match", "anls"))
    [rate] = {record["settings"]["learning_rate"] for record in study.arm(HEADLINE).records.values()}
    assert table.loc["input: all − input: none", f"at {rate:g}"] == " · ".join(map(unbroken, found))
    several = {HEADLINE: {name: [*some, *runs["input: all"]] for name, some in runs.items()}}
    assert at_one_rate(dataclasses.replace(study, trials=several), HEADLINE).empty
    assert at_one_rate(study, HEADLINE).empty, "nothing was tried"
    assert at_one_rate(dataclasses.replace(study, trials=trials, tested=False), HEADLINE).empty


def test_the_claims_are_packed_by_shift_and_the_gains_are_theirs(study):
    claims, between = of_parts(verdicts(study))
    packed = by_data(claims)
    assert [*packed] == ["new look", "new layout", "new content"] and 2 * packed.size == len(claims)
    found = readable(claims).set_index("comparison")
    both = [found.loc[f"{endpoint}: input: stem − input: none"] for endpoint in ("exact match", "ANLS")]
    assert packed.loc["stem − none", "new look"].startswith(" · ".join(one["difference [95 %]"] for one in both))
    assert [*by_data(between)] == ["all − none", "stem − stage 4"] and 2 * by_data(between).size == len(between) > 0
    gained = {(one.where, one.says): one.difference for one in gains(study)}
    assert {says for _, says in gained} == {"stem", "stages 1 and 2", "stage 4", "all"}
    [planned] = [one for one in arm_contrasts(study, "parts") if one.groups == "content: stem − content: none"]
    assert gained["new content", "stem"].interval() == planned.difference.interval()
