"""Settings of transformers' trainer under their own names: each does what it does there, and a run stays a run."""

import math
import warnings

import pandas as pd
import pytest
import torch
from smoke_runs import SCORES, interrupted, trainer_of

import docfloqa.training.trainer
from docfloqa.exceptions import SettingsError, StudyError
from docfloqa.model import device
from docfloqa.runs.results import open_run
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.training.arguments import training_arguments
from docfloqa.training.evaluation import evaluate

FROZEN = {"vision_trainable": 0.0, "epochs": 1}


def trains_no_further(run: Run, dataset, output, monkeypatch) -> None:
    """Interrupted in the evaluation that follows its training, such a run is finished without a further step."""
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(output / "again"))
    interrupted(run.settings, dataset, monkeypatch, after=4)
    resumed = trainer_of(run.settings, dataset)
    resumed.train = None
    pd.testing.assert_frame_equal(resumed.fit().epochs()[SCORES], run.epochs()[SCORES], check_exact=True)


def losing(monkeypatch, best: int) -> None:
    """Let scores rise to a half at the epoch `best`, and be zero after it."""
    save = Run.save_epoch

    def spoilt(run, epoch, predictions, **figures):
        if epoch:
            score = 0.0 if epoch > best else 0.5 * epoch / best
            predictions = predictions.assign(anls=score)
            figures |= {"subset_anls": score} if "subset_anls" in figures else {}
        return save(run, epoch, predictions, **figures)

    monkeypatch.setattr(Run, "save_epoch", spoilt)


def test_they_reach_the_trainer_as_they_are(smoke, output):
    given = {"gradient_accumulation_steps": 3, "lr_scheduler_type": "cosine", "optim": "adafactor", "max_steps": 7}
    arguments = training_arguments(smoke.replace(**given), Run.open(smoke, "w", "d"))
    assert {name: getattr(arguments, name) for name in given} == given
    assert training_arguments(smoke, Run.open(smoke, "w", "d")).max_steps == -1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr_scheduler_type": "cosin"}, "lr_scheduler_type is 'cosin'; allowed are linear, cosine"),
        ({"optim": "adam"}, "optim is 'adam'; allowed are adamw_torch_fused"),
        ({"report_to": ["tensorbord"]}, "report_to is 'tensorbord'; allowed are tensorboard, wandb, mlflow, trackio"),
        ({"report_to": "wandb"}, "report_to is 'wandb'; allowed is a list of texts"),
        ({"report_to": [1]}, "report_to is 1 of type int"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0; allowed is a number from 1"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0; allowed is a number from 1"),
        ({"warmup_ratio": 1.5}, "warmup_ratio is 1.5; allowed is a number from 0 to 1"),
    ],
)
def test_what_they_cannot_be_is_told(given, said):
    with pytest.raises(SettingsError, match=said.replace("[", r"\[")):
        Settings.profile("smoke", **given)


def weights_after(settings: Settings, dataset) -> dict[str, torch.Tensor]:
    trainer = trainer_of(settings, dataset)
    trainer.fit()
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.long
def test_accumulated_batches_learn_what_one_of_their_size_does_cached_or_not(few, output):
    # By stochastic gradient descent, whose steps are as different as gradients are.
    common = {"batching": "uniform", "optim": "sgd", "learning_rate": 0.1, "vision_trainable": 0.33, "epochs": 1}
    common |= {"max_steps": 3}
    whole = weights_after(Settings.profile("smoke", batch_size=8, **common), few)
    parts = Settings.profile("smoke", batch_size=4, gradient_accumulation_steps=2, **common)
    for vision_cache in (True, False):
        made = weights_after(parts.replace(vision_cache=vision_cache), few)
        torch.testing.assert_close(made, whole, rtol=1e-4, atol=2e-5)
    run = trainer_of(parts, few).run
    assert run.is_complete() and run.record["schedule"]["steps_done"] == 3


def test_batches_that_go_together_and_do_not_fit_are_told(dataset, output, monkeypatch):
    trainer = trainer_of(Settings.profile("smoke", gradient_accumulation_steps=2, **FROZEN), dataset)
    monkeypatch.setattr(
        trainer, "compute_loss", lambda *_, **__: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory."))
    )
    with pytest.raises(StudyError, match=r"8 questions at a time do not fit .* smaller batch_size with more gradient_"):
        trainer.fit()


@pytest.mark.long
def test_training_ends_after_so_many_steps_in_the_midst_of_an_epoch(few, output, monkeypatch):
    per_epoch = math.ceil(len(few["train"]) / 8)
    settings = Settings.profile("smoke", vision_trainable=0.0, epochs=1, max_steps=per_epoch + 1)
    run = trainer_of(settings, few).fit()
    assert run.record["schedule"]["steps_done"] == per_epoch + 1 and run.record["last_epoch"] == 2
    assert run.epochs()["epoch"].tolist() == [0, 1, 2]
    assert run.answers()["epoch"].tolist() == [2] * len(few["validation"])
    trains_no_further(run, few, output, monkeypatch)


def test_training_ends_early_when_the_score_does_not_rise(few, output, monkeypatch):
    losing(monkeypatch, best=1)
    settings = Settings.profile("smoke", vision_trainable=0.0, epochs=5, early_stopping_patience=1)
    run = trainer_of(settings, few).fit()
    assert run.record["last_epoch"] == 2 and run.record["best_epoch"] == 1
    assert run.epochs()["epoch"].tolist() == [0, 1, 2]
    assert open_run(run.folder).answers()["epoch"].unique() == [2]
    trains_no_further(run, few, output, monkeypatch)


def test_epochs_are_scored_on_some_questions_and_the_last_and_the_best_on_all(few, output, monkeypatch):
    scored = []
    losing(monkeypatch, best=2)

    def counted(model, collator, *rest):
        scored.append(len(collator.rows))
        return evaluate(model, collator, *rest)

    monkeypatch.setattr(docfloqa.training.trainer, "evaluate", counted)
    settings = Settings.profile("smoke", vision_trainable=0.0, epochs=4, eval_questions=2)
    run, all_questions = trainer_of(settings, few).fit(), len(few["validation"])
    # Before training; four epochs; the last one, wrong pages, the best one.
    assert scored == [all_questions, 2, 2, 2, 2, all_questions, all_questions, all_questions]
    counts = run.predictions()["epoch"].value_counts()
    assert run.record["best_epoch"] == 2 and counts[0] == counts[2] == counts[4] == all_questions
    assert counts[1] == counts[3] == 2 < all_questions
    epochs = run.epochs().set_index("epoch")
    assert epochs["subset_anls"].notna().tolist() == [False, True, True, True, True]
    assert epochs["train_loss"].notna().tolist() == [False, True, True, True, True]


def test_a_tracker_that_is_not_installed_is_named_before_any_work(smoke, monkeypatch):
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="report_to has 'wandb', which is not installed here: pip install wandb"):
        device.require_device(smoke.replace(report_to=["wandb"]))


def test_tensorboard_is_told_losses_and_scores_of_a_run(dataset, output):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = Settings.profile("smoke", report_to=["tensorboard"], vision_trainable=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = trainer_of(settings, dataset).fit()
    assert run.id == trainer_of(settings.replace(report_to=[]), dataset).run.id, "it changes no result"
    told = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    epochs = run.epochs()
    assert [one.value for one in told.Scalars("eval/anls")] == pytest.approx(epochs["anls"].tolist())
    assert [one.value for one in told.Scalars("eval/loss")] == pytest.approx(epochs["val_loss"].tolist())
    [loss] = told.Scalars("train/loss")
    assert loss.step == 10 and loss.value == pytest.approx(epochs["train_loss"].dropna().mean(), rel=0.2)
    assert told.Scalars("train/learning_rate")


@pytest.mark.parametrize(
    ("asked", "capability", "computed"),
    [
        ("auto", None, "fp32"),
        ("auto", (7, 5), "fp16"),  # a T4, which says that it supports bf16
        ("auto", (7, 0), "fp16"),
        ("auto", (8, 0), "bf16"),
        ("auto", (9, 0), "bf16"),
        ("bf16", (7, 5), "bf16"),
        ("fp16", (9, 0), "fp16"),
        ("fp16", None, "fp32"),
        ("fp32", (9, 0), "fp32"),
    ],
)
def test_precision_is_what_a_gpu_computes_in(smoke, monkeypatch, asked, capability, computed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert device.precision(smoke.replace(precision=asked)) == computed


def test_fp16_without_a_gpu_is_refused_before_any_work(smoke):
    with pytest.raises(SettingsError, match="precision is fp16 and there is no GPU; allowed"):
        device.require_device(smoke.replace(precision="fp16"))
