import math
import subprocess
import sys
import warnings

import pandas as pd
import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from smoke_runs import SCORES, interrupted, trainer_of
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy
from transformers import TrainerCallback

import docfloqa.training.evaluation
import docfloqa.training.trainer
from docfloqa.files import write_sealed
from docfloqa.metrics import METRICS
from docfloqa.model.freezing import freeze
from docfloqa.runs import run as identity_module
from docfloqa.runs.results import open_run
from docfloqa.runs.run import ADDED_SETTINGS, Run, identity, read_record, run_id
from docfloqa.runs.tables import RECORD
from docfloqa.settings import Freezing, Settings
from docfloqa.training.arguments import warmup_steps
from docfloqa.training.batches import EpochSampler, QuestionCollator
from docfloqa.training.evaluation import evaluate
from docfloqa.training.trainer import DivergedError


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    """A complete run, its tables, its folder's files, and the questions in the order that it was given them."""
    patch, seen = pytest.MonkeyPatch(), []
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("undisturbed")))
    trainer = trainer_of(Settings.profile("smoke", vision_trainable=0.33), dataset)
    compute_loss = trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **further: (
        seen.extend(inputs["index"].tolist()) or compute_loss(model, inputs, **further)
    )
    run = trainer.fit()
    yield run, run.epochs(), run.predictions(), {path.name for path in run.folder.iterdir()}, seen
    patch.undo()


def test_a_run_leaves_what_the_design_says(undisturbed, dataset):
    run, epochs, predictions, files, _ = undisturbed
    assert files == {
        *("run.json", "epochs.csv", "predictions.parquet", "wrong_pages.parquet"),
        *("model", "best_model"),
    }
    assert epochs["epoch"].tolist() == [0, 1, 2]
    assert epochs["train_loss"].isna().tolist() == [True, False, False]
    record = run.record
    assert record["status"] == "complete" and record["error"] is None
    assert record["device"]["kind"] in ("cpu", "cuda") and record["seconds"] > 0
    assert record["freezing"]["trainable_vision_tensors"] == 69
    assert record["peak_memory"]["resident_mib"] > 100
    assert len(predictions) == 3 * len(dataset["validation"])


def test_epochs_are_the_means_of_the_predictions(undisturbed):
    _, epochs, predictions, *_ = undisturbed
    by_epoch = predictions.groupby("epoch")
    for metric in ("anls", "exact_match", "f1", "accuracy"):
        assert epochs[metric].tolist() == pytest.approx(by_epoch[metric].mean().tolist())
    losses = by_epoch["loss_sum"].sum() / by_epoch["tokens"].sum()
    assert epochs["val_loss"].tolist() == pytest.approx(losses.tolist())


def test_training_lowers_the_loss(undisturbed):
    losses = undisturbed[1]["val_loss"]
    assert losses.iloc[-1] < losses.iloc[0]


def test_the_record_says_what_the_schedule_was(undisturbed, dataset):
    run, *_ = undisturbed
    steps = 2 * math.ceil(len(dataset["train"]) / run.settings.batch_size)
    assert run.record["schedule"] == {
        "steps": steps,
        "steps_done": steps,
        "warmup_steps": 2,
        "highest_learning_rate": run.settings.learning_rate,
    }


@pytest.mark.parametrize(
    ("given", "steps", "expected"),
    [
        ({}, 600, 20),  # the embedded profile's
        ({}, 100, 20),
        ({}, 9, 1),
        ({}, 4, 0),
        ({"warmup_steps": 0}, 600, 0),
        ({"warmup_ratio": 0.1}, 600, 60),
        ({"warmup_ratio": 0.1}, 15, 2),
        ({"warmup_ratio": 0.9}, 600, 120),
        ({"warmup_ratio": 0.0}, 600, 0),
    ],
)
def test_a_warm_up_takes_a_fifth_of_the_steps_at_most(given, steps, expected):
    assert warmup_steps(Settings(**given), steps) == expected


def test_a_short_run_with_a_long_warm_up_reaches_its_rate(dataset, few, output):
    settings = Settings.profile("smoke", epochs=1, vision_trainable=0.0, warmup_steps=20)
    schedule = trainer_of(settings, DatasetDict(few, train=dataset["train"])).fit().record["schedule"]
    assert schedule["steps"] < 20 and schedule["highest_learning_rate"] == settings.learning_rate


def test_of_epochs_with_the_same_score_the_one_of_the_lower_loss_is_best(smoke, output):
    run = Run.open(smoke, "w", "d")
    answers = {metric: [0.5, 0.5] for metric in METRICS} | {"tokens": [2, 2]}
    for epoch, loss in enumerate((0.1, 4.0, 2.0, 3.0, 2.0)):
        run.save_epoch(epoch, pd.DataFrame(answers | {"loss_sum": loss}))
    assert [run.best_epoch(last) for last in (1, 2, 3, 4)] == [1, 2, 2, 2]


def test_an_interrupted_run_goes_on_from_its_last_epoch_and_gives_the_same_tables(
    undisturbed, dataset, output, monkeypatch
):
    settings = Settings.profile("smoke", vision_trainable=0.33)
    interrupted(settings, dataset, monkeypatch, after=3)
    resumed = trainer_of(settings, dataset)
    assert not resumed.run.is_complete() and resumed.run.has_epoch(1)
    steps, evaluated = [], []
    monkeypatch.setattr(
        docfloqa.training.trainer, "evaluate", lambda *arguments: evaluated.append(1) or evaluate(*arguments)
    )
    step = resumed.training_step
    monkeypatch.setattr(resumed, "training_step", lambda *args: steps.append(1) or step(*args))
    run = resumed.fit()
    assert len(steps) == math.ceil(len(dataset["train"]) / settings.batch_size), "only the last epoch was trained"
    assert len(evaluated) == 2, "and only the last epoch and the control were evaluated"
    legs = run.epochs()[["train_seconds", "evaluation_seconds"]].sum().sum()
    assert run.record["seconds"] >= legs, "the time of both legs"
    pd.testing.assert_frame_equal(run.epochs()[SCORES], undisturbed[1][SCORES], check_exact=True)
    pd.testing.assert_frame_equal(run.predictions(), undisturbed[2], check_exact=True)


def test_a_complete_run_is_not_made_again(undisturbed, dataset):
    again = trainer_of(undisturbed[0].settings, dataset)
    again.train = again.evaluate = None
    assert again.fit().is_complete()


def test_a_loss_that_is_not_finite_stops_the_run(dataset, output):
    trainer = trainer_of(Settings.profile("smoke"), dataset)
    trainer.run.save_epoch(0, evaluate(trainer.model, trainer.validation_collator, trainer.settings))
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"nan at step 1 with learning rate .* questions of the batch: train-"):
        trainer.fit()
    assert not trainer.run.is_complete()


class Spoil(TrainerCallback):
    """Weights that are no numbers after a step whose loss was finite, as after gradients that are too large."""

    def __init__(self, step: int):
        self.step = step

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                model.lm_head.weight.fill_(float("nan"))


@pytest.mark.parametrize("epoch", [1, 2])
def test_weights_that_are_not_finite_after_an_epochs_last_step_are_not_kept(few, output, epoch):
    settings = Settings.profile("smoke", vision_trainable=0.0)
    trainer = trainer_of(settings, few)
    steps = -(-len(few["train"]) // settings.batch_size)
    trainer.add_callback(Spoil(epoch * steps))
    with pytest.raises(DivergedError, match=rf"validation loss after step {epoch * steps} is not finite"):
        trainer.fit()
    run = trainer.run
    assert not run.is_complete() and not run.has_epoch(epoch)
    for weights in run.folder.rglob("model.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(weights).values()), weights
    # What was kept before goes on to the end.
    assert trainer_of(settings, few).fit().is_complete()


def test_beams_change_answers_and_nothing_else(dataset, smoke, tiny):
    model, processor = tiny
    collator = QuestionCollator(dataset["validation"], model, processor, "token")
    greedy, beams = (evaluate(model, collator, smoke.replace(num_beams=beams)) for beams in (1, 3))
    assert beams["loss_sum"].tolist() == pytest.approx(greedy["loss_sum"].tolist(), rel=1e-4)
    assert beams["tokens"].tolist() == greedy["tokens"].tolist()
    assert beams["confidence"].between(0, 1).all()
    # What beam search finds is at least as probable, but for what it prunes.
    assert beams["confidence"].sum() >= greedy["confidence"].sum()


def test_evaluation_loss_and_answers_are_the_models_own(tiny, dataset, smoke):
    model, processor = tiny
    collator = QuestionCollator(dataset["validation"], model, processor, "token")
    frame = evaluate(model, collator, smoke)
    for place in (0, 3, 7):
        batch = collator([place])
        batch.pop("index")
        labels = batch["labels"]
        with torch.no_grad():
            logits = model(**batch).logits
        expected = cross_entropy(logits[0], labels[0], reduction="sum").item()
        assert frame["loss_sum"][place] == pytest.approx(expected, rel=1e-4)
        assert frame["tokens"][place] == labels.numel()
    small = evaluate(model, collator, smoke.replace(eval_batch_size=3))
    assert small["prediction"].tolist() == frame["prediction"].tolist()
    assert small["loss_sum"].tolist() == pytest.approx(frame["loss_sum"].tolist(), rel=1e-4)


def test_wrong_pages_are_those_of_another_document(tiny, dataset):
    model, processor = tiny
    rows = dataset["validation"]
    own, wrong = (QuestionCollator(rows, model, processor, "token", wrong_pages=control) for control in (False, True))
    document_of = dict(zip(rows["page"], rows["document_id"], strict=True))
    for place, document in enumerate(rows["document_id"]):
        assert document_of[own.pages[place]] == document != document_of[wrong.pages[place]]
    assert sorted(set(own.pages)) == sorted(set(wrong.pages))
    given = {name: tensor for name, tensor in wrong([0]).items()}
    other = own.states.first[wrong.pages[0]]
    assert torch.equal(given["pixel_values"], own([other])["pixel_values"])
    assert torch.equal(given["input_ids"], own([0])["input_ids"])
    with pytest.raises(ValueError, match="one document only"):
        QuestionCollator(rows.select([0, 1]), model, processor, "token", wrong_pages=True)


def test_answers_that_are_longer_than_an_answer_may_be_are_counted_when_a_run_begins(smoke, dataset, output):
    trainer = trainer_of(smoke.replace(max_new_tokens=5), dataset)
    # The end may be missing.
    lengths = [len(label) - 1 for label in trainer.training_collator.labels]
    longest, count, every = max(lengths), sum(length > 5 for length in lengths), len(dataset["train"])
    assert 0 < count < every
    with pytest.warns(
        UserWarning, match=rf"{count} of {every} first answers of training are longer .* 5 tokens"
    ) as told:
        trainer.training_collator.warn_of_long_answers("training", 5)
    assert len(told) == 1 and f"max_new_tokens of {longest} or more" in str(told[0].message)
    with warnings.catch_warnings(action="error"):
        trainer.training_collator.warn_of_long_answers("training", longest)


def test_evaluation_leaves_the_mode_of_the_model(tiny, dataset, smoke):
    model, processor = tiny
    freeze(model, Freezing(0.33))
    model.train()
    modes = {name: module.training for name, module in model.named_modules()}
    evaluate(model, QuestionCollator(dataset["validation"], model, processor, "token"), smoke)
    assert {name: module.training for name, module in model.named_modules()} == modes


@pytest.mark.parametrize("batching", ["uniform", "by_image"])
def test_an_epoch_has_every_question_once_and_its_own_order(dataset, batching):
    pages = dataset["train"]["page"]
    sampler = EpochSampler(pages, batching, seed=4)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] == orders[2] != orders[1]
    assert all(sorted(order) == list(range(len(pages))) for order in orders)
    changes = sum(pages[one] != pages[other] for one, other in zip(orders[0], orders[0][1:], strict=False))
    assert (changes == len(set(pages)) - 1) == (batching == "by_image")
    assert list(EpochSampler(pages, batching, seed=5)) != orders[0]


def test_the_trainer_gives_every_epoch_its_own_order(undisturbed, dataset):
    *_, seen = undisturbed
    count = len(dataset["train"])
    expected = []
    for epoch in range(2):
        sampler = EpochSampler(dataset["train"]["page"], "by_image", 0)
        sampler.set_epoch(epoch)
        expected += list(sampler)
    assert len(seen) == 2 * count and seen == expected


def test_the_identity_covers_settings_code_weights_and_data(smoke):
    ids = {
        run_id(smoke, "w", "d"),
        run_id(smoke.replace(learning_rate=2e-3), "w", "d"),
        run_id(smoke, "other", "d"),
        run_id(smoke, "w", "other"),
    }
    assert len(ids) == 4
    assert run_id(smoke.replace(study="elsewhere", allow_cpu=False), "w", "d") in ids


# Of the settings, what the ids of the runs of before this list were made from.
FIRST_SETTINGS = (
    "vision_trainable unit side counted lora trained_before data validation_data train_questions validation_questions "
    "prefix shuffled_questions synth_scale synth_shift synth_documents synth_validation_documents synth_seed model "
    "seed epochs batch_size batching learning_rate weight_decay warmup_steps max_grad_norm precision static_shapes "
    "gradient_checkpointing num_beams max_new_tokens eval_batch_size vision_cache"
).split()


def test_a_later_setting_makes_another_run_only_where_it_is_set(smoke):
    """A new setting goes into `ADDED_SETTINGS`, or every run that there is would be made again."""
    assert set(identity(smoke, "w", "d")["settings"]) == {*FIRST_SETTINGS}
    assert {*ADDED_SETTINGS} <= smoke.to_dict().keys()
    given = identity(smoke.replace(warmup_ratio=0.1), "w", "d")["settings"]
    assert given == {**identity(smoke, "w", "d")["settings"], "warmup_ratio": 0.1}


def test_a_run_of_before_a_setting_is_found_by_its_record(undisturbed, dataset):
    run, *_ = undisturbed
    record = read_record(run.folder)
    for name in ADDED_SETTINGS:
        del record["settings"][name]
    write_sealed(run.folder / RECORD, record)
    assert open_run(run.folder).settings == run.settings
    assert trainer_of(run.settings, dataset).run.is_complete()


@pytest.mark.parametrize("number", ["TRAINING", "PAGES"])
def test_a_raised_number_makes_another_run(smoke, monkeypatch, number):
    before = run_id(smoke, "w", "d")
    monkeypatch.setattr(identity_module, number, 99)
    assert run_id(smoke, "w", "d") != before


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_learns_the_same_from_fewer_activations(dataset, smoke, output):
    kept, weights = [], []
    for checkpointing in (False, True):
        trainer = trainer_of(smoke.replace(gradient_checkpointing=checkpointing), dataset)
        sizes = []

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.nbytes)
            return tensor

        trainer.args.max_steps, trainer.args.eval_strategy, trainer.args.save_strategy = 2, "no", "no"
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.train()
        kept.append(sum(sizes))
        weights.append(trainer.model.state_dict())
    assert kept[1] < kept[0] / 3
    torch.testing.assert_close(weights[1], weights[0])


def test_questions_sorted_by_length_get_the_same_answers(tiny, dataset, smoke, monkeypatch):
    model, processor = tiny
    collator = QuestionCollator(dataset["train"], model, processor, "token")
    passes = []
    tower = model.page_features
    monkeypatch.setattr(model, "page_features", lambda pixels: passes.append(len(pixels)) or tower(pixels))
    settings = smoke.replace(eval_batch_size=5)
    monkeypatch.setattr(docfloqa.training.evaluation, "BATCHES_PER_WINDOW", 2)
    together = evaluate(model, collator, settings)
    assert len(passes) > 1 and sum(passes) == len(set(collator.pages)), "every page is encoded once"
    apart = evaluate(model, collator, smoke.replace(eval_batch_size=1))
    assert together["prediction"].equals(apart["prediction"])
    assert together["loss_sum"].to_numpy() == pytest.approx(apart["loss_sum"].to_numpy(), rel=1e-4)


@pytest.mark.long
def test_peak_memory_is_of_the_process_and_not_of_the_one_that_started_it():
    asked = "from docfloqa.model.device import peak_memory; print(peak_memory()['resident_mib'])"
    started = f"""
import subprocess, sys
ballast = bytearray(2**30)
ballast[::4096] = b"x" * len(ballast[::4096])
print(subprocess.run([sys.executable, "-c", {asked!r}], capture_output=True, text=True, check=True).stdout)
"""
    done = subprocess.run([sys.executable, "-c", started], capture_output=True, text=True, check=True)
    assert 50 < float(done.stdout) < 1000
