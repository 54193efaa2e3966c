"""The estimate counts what a study does, stands in for what is not at hand, and leaves nothing behind."""

import math
import time
from itertools import chain

import pytest
import torch
from datasets import DatasetDict
from estimated import estimated_smoke_study
from hypothesis import given
from hypothesis import strategies as st

import docfloqa.study.estimate
from docfloqa.data.load import load_checked
from docfloqa.data.schema import DOCVQA
from docfloqa.files import TINY_MODEL
from docfloqa.model.florence import load_florence
from docfloqa.settings import Settings
from docfloqa.study import calibration
from docfloqa.study.calibration import MEASURED, calibrate
from docfloqa.study.estimate import QUESTIONS_PER_PAGE, estimate, like_docvqa, makespan
from docfloqa.study.kernels import Slot
from docfloqa.study.sweep import plan, settings_of_runs
from docfloqa.training.evaluation import evaluate

PARTS = (
    "start decoding_a_page caching_a_page step evaluation_a_question save memory_mib gpu_mib state_bytes "
    "cached_sub_blocks model_bytes checkpoint_bytes"
).split()
PARTS.extend(MEASURED)
DURATIONS = st.lists(st.floats(0.01, 100), min_size=1, max_size=12)


@given(DURATIONS, st.integers(1, 5))
def test_runs_side_by_side_end_when_the_last_one_does(durations, slots):
    ended = makespan(durations, slots)
    shortest = max(max(durations), sum(durations) / slots)
    # Graham's bound for list scheduling.
    assert shortest - 1e-9 <= ended <= sum(durations) / slots + max(durations) * (1 - 1 / slots) + 1e-9


def test_the_longest_run_begins_first():
    assert makespan([1, 1, 1, 3], 2) == 3
    assert makespan([2, 3, 4, 5], 1) == 14


def test_a_smoke_study_is_estimated_and_leaves_only_its_documents(output, tiny, monkeypatch):
    def in_this_process(function, *given):
        with monkeypatch.context() as patch:
            # It writes elsewhere.
            patch.setenv("DOCFLOQA_OUTPUT", str(output))
            return function(*given)

    # Each process takes seconds to begin; `tests/faults` estimates with them.
    monkeypatch.setattr(docfloqa.study.estimate, "in_own_process", in_this_process)
    monkeypatch.setattr(docfloqa.study.estimate, "available_slots", lambda *_: [Slot(None, 1)])

    # However slow the machine is, its time is enough for a whole batch.
    monkeypatch.setattr(calibration, "STEP", 1e-6)

    result = estimated_smoke_study(output, tiny)
    assert "questions in a batch 8;" in result.measured and result.measured in str(result)


@pytest.mark.long
def test_the_runs_of_arms_count_once_each_and_by_kind(output, monkeypatch):
    calibrated = []

    def one(_, settings, *rest):
        calibrated.append(settings)
        return dict(
            zip(PARTS, (1.0, 0.0, 0.0, 0.1, 0.01, 0.0, 100.0, 0.0, 1000, 0, 10**6, 10**6, 1, 2, 3, 4), strict=True)
        )

    monkeypatch.setattr(docfloqa.study.estimate, "in_own_process", one)
    monkeypatch.setattr(docfloqa.study.estimate, "random_base_model", lambda: TINY_MODEL)
    settings, seeds = Settings.profile("smoke"), [0]
    result = estimate(settings.replace(model="nobody/has-it"), [0, 1], seeds, ["all"])
    assert len(result.stand_ins) == 1 and "random weights" in result.stand_ins[0]
    assert {kind.model for kind in calibrated} == {str(TINY_MODEL)}
    wanted = settings_of_runs(settings, [0, 1], seeds, ["all"])
    # Before anything was tried: three rates of what is tuned, and all seeds at the middle one.
    planned = set(chain(wanted.ratios, *wanted.variants))
    assert result.kinds["runs"].sum() == len(planned) > len(plan(settings, [0, 1], seeds, ["all"]).runs)
    assert len(set(calibrated)) == len(calibrated)
    assert {kind.lora for kind in calibrated} == {0.0, 0.1}
    epochs = sum(run.epochs for run in planned)
    assert (result.kinds["runs"] * result.kinds["epochs"]).sum() == epochs


def test_pages_are_decoded_once_and_states_computed_once_for_each_frozen_part(output, monkeypatch, dataset):
    def one(_, settings, *rest):
        boundary = 0 if settings.vision_trainable == 1 else 7
        caching = 1.0 if boundary else 0.0
        parts = (0.0, 10.0, caching, 1e-9, 0.0, 0.0, 0.0, 0.0, 0, boundary, 0, 0, 1, 2, 3, 4)
        return dict(zip(PARTS, parts, strict=True))

    monkeypatch.setattr(docfloqa.study.estimate, "in_own_process", one)
    monkeypatch.setattr(docfloqa.study.estimate, "available_slots", lambda *_: [Slot(None, 1)])
    result = estimate(Settings.profile("smoke"), [0, 1], [0, 1])
    pages = sum(len(set(dataset[split]["page"])) for split in ("train", "validation"))
    assert result.hours * 3600 == pytest.approx(11 * pages + docfloqa.study.estimate.BESIDE_RUNS)


@pytest.fixture
def seconds_of(monkeypatch):
    """What a study of settings takes without what it does beside its runs, parts of one run given in seconds."""

    def taken(settings, **parts):
        usual = {**dict.fromkeys(PARTS, 0.0), "cached_sub_blocks": 7}
        monkeypatch.setattr(docfloqa.study.estimate, "in_own_process", lambda *_: usual | parts)
        monkeypatch.setattr(docfloqa.study.estimate, "available_slots", lambda *_: [Slot(None, 1)])
        # Rates are shown, and nothing is divided by zero there.
        parts.setdefault("step", 1e-12)
        return 3600 * estimate(settings, [1.0], [0]).hours - docfloqa.study.estimate.BESIDE_RUNS

    return taken


def test_steps_that_end_an_epoch_early_or_need_further_ones_are_counted(output, dataset, smoke, seconds_of):
    batches = math.ceil(len(dataset["train"]) / smoke.batch_size)
    assert seconds_of(smoke, step=1.0) == pytest.approx(smoke.epochs * batches)
    for steps in (1, 3 * batches):
        cut, epochs = smoke.replace(max_steps=steps), math.ceil(steps / batches)
        assert seconds_of(cut, step=1.0) == pytest.approx(steps)
        assert seconds_of(cut, save=1.0) == pytest.approx(epochs)
        assert seconds_of(cut, evaluation_a_question=1.0) == pytest.approx((epochs + 2) * len(dataset["validation"]))
    # Every batch is gone through, however many make a step; an epoch ends with what is left.
    several = smoke.replace(gradient_accumulation_steps=batches)
    assert seconds_of(several, step=1.0) == pytest.approx(smoke.epochs * batches)
    assert seconds_of(several.replace(max_steps=3), step=1.0) == pytest.approx(3 * batches)


def test_an_evaluation_on_some_questions_is_counted_as_such(output, dataset, smoke, seconds_of):
    every = len(dataset["validation"])
    for some, answered in ((5, smoke.epochs * 5 + 4 * every), (every, (smoke.epochs + 2) * every)):
        taken = seconds_of(smoke.replace(eval_questions=some), evaluation_a_question=1.0)
        assert taken == pytest.approx(answered)


def test_folds_count_with_their_sizes_and_cache_pages_each_for_itself(output, dataset, smoke, seconds_of):
    folds = smoke.replace(folds=3)
    everything = load_checked(folds)[0]["train"]
    rows, pages = len(everything), len(set(everything["page"]))
    assert seconds_of(folds, evaluation_a_question=1.0) == pytest.approx((smoke.epochs + 2) * rows)
    for part in ("decoding_a_page", "caching_a_page"):
        assert seconds_of(folds, **{part: 1.0}) == pytest.approx(3 * pages)
    parts = [load_checked(folds.replace(fold=fold))[0]["train"] for fold in (1, 2, 3)]
    assert sum(map(len, parts)) == 2 * rows
    batches = sum(math.ceil(len(part) / smoke.batch_size) for part in parts)
    assert seconds_of(folds, step=1.0) == pytest.approx(smoke.epochs * batches)


@pytest.mark.parametrize(("answers", "minute", "measured"), [(1, 0.0, 1), (1, 60.0, 4), (2, 0.0, 4)])
def test_of_a_slow_model_no_kind_is_begun_after_the_minute(output, monkeypatch, smoke, answers, minute, measured):
    """Of the paper profile on two busy cores the four kinds took nine minutes, of one question each."""
    begun = []

    def one(_, settings, *rest):
        begun.append(settings.vision_trainable)
        parts = {"step": 1.0 + settings.vision_trainable, "cached_sub_blocks": 7, "answers": answers}
        return dict.fromkeys(PARTS, 0.0) | parts

    monkeypatch.setattr(docfloqa.study.estimate, "in_own_process", one)
    monkeypatch.setattr(docfloqa.study.estimate, "available_slots", lambda *_: [Slot(None, 1)])
    monkeypatch.setattr(docfloqa.study.estimate, "MINUTE", minute)
    result = estimate(smoke, [0, 0.33, 0.66, 1], [0])
    # Both ends first.
    assert begun == [1.0, 0.0, 0.66, 0.33][:measured]
    left = f"{4 - measured} of 4 kinds of run: that which trains most, the minute being over"
    assert result.stand_ins == ([left] if measured < 4 else [])
    rates = result.kinds.set_index("vision_trainable")["samples_per_second"]
    assert rates[0] == smoke.batch_size / (1 if measured == 4 else 2)


def test_folds_of_the_hub_s_data_are_shares_of_it(output, monkeypatch, dataset):
    asked = []
    monkeypatch.setattr(docfloqa.study.estimate, "load_checked", lambda one: asked.append(one) or (dataset, None))
    settings = Settings.profile("paper").replace(validation_questions=None, folds=4, train_questions=1000)
    _, sizes = docfloqa.study.estimate._data(settings, [])
    questions, pages = map(sum, zip(DOCVQA["train"], DOCVQA["validation"], strict=True))
    assert [*sizes] == [1, 2, 3, 4]
    assert sizes[4]["training"] == 1000 and sizes[4]["validation"] == math.ceil(questions / 4)
    assert sizes[4]["pages"] == math.ceil(pages / questions * 1000) + math.ceil(pages / 4)
    # A hundred folds would want more drawn documents than an estimate has time for.
    assert [one.folds for one in asked] == [None]


def test_what_the_hub_holds_is_stood_in_for_in_docvqas_numbers(output, monkeypatch, dataset):
    asked = []

    def drawn(settings):
        asked.append(settings)
        return dataset, None

    monkeypatch.setattr(docfloqa.study.estimate, "load_checked", drawn)
    stand_ins: list[str] = []
    settings = Settings.profile("paper")
    _, sizes = docfloqa.study.estimate._data(settings, stand_ins)
    (training, more), (questions, pages) = DOCVQA["train"], DOCVQA["validation"]
    of_all = {"training": training, "validation": 500, "pages": more + math.ceil(pages * 500 / questions)}
    of_all["test"] = 0
    assert sizes == {None: of_all}
    assert asked[0].data == "synth" and asked[0].synth_scale == "full"
    # Drawing them must not take the minute, and a batch has pages of its own.
    assert 2 * settings.batch_size <= asked[0].synth_documents <= 32
    assert len(stand_ins) == 1 and "drawn pages" in stand_ins[0]


def test_a_model_too_slow_for_its_share_of_the_minute_is_measured_on_one_question(output, monkeypatch, dataset, smoke):
    """Of the paper profile on a CPU, 25 minutes were not enough: pages, answers and batches had no bound."""
    answered = []

    def slow(network, collator, *rest):
        answered.append(len(collator.rows))
        time.sleep(0.3)
        return evaluate(network, collator, *rest)

    monkeypatch.setattr(calibration, "evaluate", slow)
    DatasetDict(dataset).save_to_disk(output / calibration.SAMPLE)
    settings = smoke.replace(batch_size=8)
    found = calibrate(settings, Slot(None, 1), str(output), time.time(), 0.5)
    assert {name: found[name] for name in MEASURED[:3]} == {"steps": 1, "questions in a batch": 1, "answers": 1}
    assert answered == [1] and found["pages"] == 1
    # A step counts for the whole batch.
    assert found["evaluation_a_question"] > 0.3 and found["step"] > 0


def test_settings_that_end_training_early_do_not_end_a_calibration(output, dataset, smoke):
    """An early stop asks for the scores of an epoch, which a calibration does not have."""
    DatasetDict(dataset).save_to_disk(output / calibration.SAMPLE)
    early = {"early_stopping_patience": 1, "max_steps": 1, "gradient_accumulation_steps": 2}
    found = calibrate(smoke.replace(**early), Slot(None, 1), str(output), time.time(), 3600)
    # A batch at a time, in steps of two.
    assert found["steps"] == math.ceil(len(dataset["train"]) / smoke.batch_size)


def test_drawn_pages_have_as_many_questions_as_docvqas(dataset):
    rows = like_docvqa(dataset["train"])
    pages = len(set(rows["page"]))
    assert pages == len(set(dataset["train"]["page"]))
    assert len(rows) / pages <= QUESTIONS_PER_PAGE
    longer = like_docvqa(dataset["train"].select([0] * 20))
    assert len(longer) == int(QUESTIONS_PER_PAGE)


@pytest.mark.long
def test_the_random_model_loads_and_has_the_size_of_florence_2_base(output, monkeypatch):
    # Its layers are cut to one each, and its widths stay, so that the test takes no half gigabyte.
    full = docfloqa.study.estimate.base_config()
    small = docfloqa.study.estimate.base_config()
    small.text_config.encoder_layers = small.text_config.decoder_layers = 1
    small.vision_config.depths = (1, 1, 1, 1)
    monkeypatch.setattr(docfloqa.study.estimate, "base_config", lambda: small)
    folder = docfloqa.study.estimate.random_base_model()
    assert folder == docfloqa.study.estimate.random_base_model()
    model, processor = load_florence(folder, "text")
    assert model.config.text_config.d_model == full.text_config.d_model
    with torch.no_grad():
        page = torch.zeros(1, 3, docfloqa.study.estimate.PAGE_SIZE, docfloqa.study.estimate.PAGE_SIZE)
        assert model.page_features(page).shape[1] == processor.num_image_tokens == 577
