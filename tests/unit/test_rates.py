"""Every tuned variant of an arm is compared at the learning rate that is best for it on validation."""

import json
import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docfloqa.analysis.arms import loss_rise, rates_tried
from docfloqa.arms import ARMS
from docfloqa.files import reports_folder
from docfloqa.runs import rates
from docfloqa.runs.results import Study, planned_runs
from docfloqa.runs.run import COMPLETE, FAILED
from docfloqa.settings import Settings
from docfloqa.study import sweep as sweeping

SMOKE = {"epochs": 2, "synth_documents": 2, "synth_validation_documents": 2}


@given(st.floats(-6.5, 0.5), st.sampled_from([1e-6, 3e-5, 1e-3]))
def test_the_search_ends_at_the_rate_beside_the_true_best(best, middle):
    scores = {}
    while wanted := rates.rates_to_try(middle, scores):
        assert not set(wanted) & scores.keys()
        scores |= {rate: -abs(math.log10(rate) - best) for rate in wanted}
    assert 3 <= len(scores) <= rates.MOST
    assert rates.best_rate(scores) == min(scores, key=lambda rate: abs(math.log10(rate) - best))
    assert not rates.at_the_edge(scores) or len(scores) == rates.MOST


def test_rates_are_round_and_half_a_power_of_ten_apart():
    assert rates.rates_to_try(1e-3, {}) == [3e-4, 1e-3, 3e-3]
    assert rates.rates_to_try(1e-3, {3e-4: 0.2, 1e-3: 0.5, 3e-3: 0.4}) == []
    assert rates.rates_to_try(1e-3, {3e-4: 0.6, 1e-3: 0.5, 3e-3: 0.4}) == [1e-4]
    assert rates.rates_to_try(1e-3, dict.fromkeys([3e-4, 1e-3, 3e-3], -math.inf)) == [], "nothing trained"
    assert rates.best_rate({1e-3: 0.5, 3e-4: 0.5, 3e-3: 0.4}) == 3e-4, "of equals the lowest"


@pytest.fixture
def made(output, monkeypatch):
    """The ids of runs in the order in which they were made, without training: what they score is made up."""
    ids, best = [], {"stem": 1e-4, "all": 3e-3}

    def make(pending, workers, jobs):
        for run in pending:
            ids.append(run.id)
            failed = run.settings.learning_rate == 3e-3 and run.settings.parts == ("stage4",)
            run.update(status=FAILED if failed else COMPLETE, settings=run.settings.to_dict(), best_epoch=1)

    def score(run):
        name = (*run.settings.parts, "all")[0]
        if run.record["status"] == FAILED:
            return -math.inf
        return 0.5 - abs(math.log10(run.settings.learning_rate / best.get(name, 1e-3))) / 10

    # Planned again after every round, and the data are the same.
    monkeypatch.setattr(sweeping, "known_weights", lambda *_: "weights")
    monkeypatch.setattr(sweeping, "load_checked", lambda settings: [settings])
    monkeypatch.setattr(sweeping, "data_checksum", lambda settings: settings.synth_shift)
    monkeypatch.setattr(sweeping, "make", make)
    monkeypatch.setattr(sweeping, "score", score)
    monkeypatch.setattr(sweeping, "is_finished", lambda run: run.record.get("status") == COMPLETE)
    monkeypatch.setattr(sweeping.LocalWorkers, "open", lambda workers, settings: None)
    monkeypatch.setattr(sweeping, "study_status", lambda study: pd.DataFrame())
    return ids


def test_a_tuned_arm_tries_rates_with_one_seed_and_makes_the_others_at_the_best(made):
    settings = Settings.profile("smoke", study="tuned", **SMOKE)
    sweeping.sweep(settings, ratios=[1.0], seeds=[3, 4], arms=["parts"])
    plan = json.loads((reports_folder("tuned") / sweeping.PLAN).read_text())
    planned = sweeping.plan(settings, [1.0], [3, 4], ["parts"])
    runs = planned.arms["parts"]
    assert runs.keys() == {variant.name for variant in ARMS["parts"](settings).variants} and len(runs) == 15
    chosen = {name: {run.settings.learning_rate for run in some} for name, some in runs.items()}
    assert all([run.settings.seed for run in some] == [3, 4] for some in runs.values())
    for shift in ("input", "layout", "content"):
        ends = "none", "stem", "stages 1 and 2", "stage 4", "all"
        assert [chosen[f"{shift}: {name}"] for name in ends] == [{3e-3}, {1e-4}, {1e-3}, {1e-3}, {3e-3}]
    tried = {name: sorted(run.settings.learning_rate for run in some) for name, some in planned.trials["parts"].items()}
    assert tried["input: stem"] == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3]
    assert tried["input: all"] == [3e-4, 1e-3, 3e-3, 1e-2]
    assert tried["input: stage 4"] == [3e-4, 1e-3, 3e-3], "a rate at which a run fails is no best one"
    assert {run.settings.seed for some in planned.trials["parts"].values() for run in some} == {3}
    assert plan["arms"] == planned.map(lambda run: run.id).arms and plan["trials"] == planned.map(lambda r: r.id).trials
    failed = [run.id for some in planned.trials["parts"].values() for run in some if run.record["status"] == FAILED]
    assert len(made) == len(set(made)) and {*made} == {run.id for run in planned.runs}
    assert {*made} == {*planned_runs("tuned")}
    before = len(made)
    sweeping.sweep(settings, ratios=[1.0], seeds=[3, 4], arms=["parts"])
    assert made[before:] == failed, "what is complete is not made again, what failed is"


def test_a_plan_that_waits_for_its_trials_counts_the_first_three(output):
    settings = Settings.profile("smoke", study="waiting", **SMOKE)
    planned = sweeping.settings_of_runs(settings, [1.0], [0, 1], ["parts"])
    assert {len(some) for some in planned.trials["parts"].values()} == {3}
    assert {len(some) for some in planned.arms["parts"].values()} == {2}, "for an estimate, at the middle rate"
    opened = sweeping.plan(settings, [1.0], [0, 1], ["parts"])
    assert not any(opened.arms["parts"].values())


def test_one_rate_for_several_shifts_is_the_best_in_their_mean(made, monkeypatch):
    best = {"input": 1e-3, "content": 1e-4}
    monkeypatch.setattr(
        sweeping, "score", lambda run: -(math.log10(run.settings.learning_rate / best[run.settings.synth_shift]) ** 2)
    )
    monkeypatch.setattr("docfloqa.arms.STRENGTHS", (0.0, 1.0))
    settings = Settings.profile("smoke", study="tuned", **SMOKE)
    sweeping.sweep(settings, ratios=[1.0], seeds=[3, 4, 5], arms=["grid"])
    planned = sweeping.plan(settings, [1.0], [3, 4, 5], ["grid"])
    runs = [run for some in planned.arms["grid"].values() for run in some]
    assert {run.settings.learning_rate for run in runs} == {3e-4} and len({run.id for run in runs}) == 4 * 5 * 2
    tried = [run for some in planned.trials["grid"].values() for run in some]
    assert {run.settings.synth_shift for run in tried} == {"input", "content"}
    assert len(made) == len(set(made)) and {*made} == {run.id for run in planned.runs}


def test_a_tuned_run_that_goes_on_from_others_has_them_at_every_rate(made):
    settings = Settings.profile("smoke", study="tuned", **SMOKE)
    sweeping.sweep(settings, ratios=[1.0], seeds=[3, 4], arms=["schedules"])
    planned = sweeping.plan(settings, [1.0], [3, 4], ["schedules"])
    assert len(made) == len(set(made)) and {*made} == {run.id for run in planned.runs}
    stacked = [run for run in planned.runs if run.settings.trained_before]
    assert {run.settings.learning_rate for run in stacked} >= {3e-4, 1e-3, 3e-3} and len(stacked) > 3 * 3 * 3
    assert all(run.predecessor.id in made for run in stacked), "each starts from weights that the study has"
    assert {len(some) for some in planned.arms["schedules"].values()} == {2}
    assert {*made} == {*planned_runs("tuned")}


def test_what_was_tried_is_told_and_whether_the_loss_rose(output, monkeypatch):
    study = Study("s", Settings(), {}, {})
    assert rates_tried(study, "parts").empty
    scores = {"stem": {1e-3: 0.2, 3e-4: 0.4, 3e-3: -math.inf}, "all": {}, "none": {3e-3: 0.1, 1e-3: 0.5, 1e-4: 0.3}}
    monkeypatch.setattr("docfloqa.analysis.arms.trial_scores", lambda *_: scores)
    frame = rates_tried(study, "parts")
    assert [*frame] == ["best rate", "at 0.0001", "at 0.0003", "at 0.001", "at 0.003"]
    assert frame.loc["stem"].tolist() == ["0.0003\xa0*", "–", "40.0", "20.0", "failed"]
    assert frame.loc["none"].tolist() == ["0.001", "30.0", "–", "50.0", "10.0"] and "all" not in frame.index
    epochs = pd.DataFrame({"run": list("aaabbb"), "epoch": [0, 1, 2] * 2, "val_loss": [0.1, 1.0, 1.5, 9.0, 2.0, 1.0]})
    assert loss_rise(epochs) == pytest.approx((0.5 + 0.0) / 2), "the loss before training does not count"
