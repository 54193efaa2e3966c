"""Smoke runs that are made in this process, and what two of them must have in common."""

import os
import signal
from pathlib import Path

import pytest
from damages import killed_at

import docfloqa.training.trainer
from docfloqa.files import checksum
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.training.evaluation import evaluate
from docfloqa.training.trainer import DocVQATrainer

SCORES = ["epoch", "accuracy", "anls", "exact_match", "f1", "similarity_first", "contains_first", "val_loss"]
CHANGES = 250  # of files, that a smoke run of three epochs makes
# What a reader of a study's tables depends on.
SAME_BYTES = ("predictions.parquet wrong_pages.parquet model/model.safetensors best_model/model.safetensors").split()


def trainer_of(settings: Settings, dataset) -> DocVQATrainer:
    return DocVQATrainer(settings, dataset)


def of_interest(run: Run) -> dict:
    """What an undisturbed run would have left, times and memory aside."""
    table = run.epochs()[[*SCORES, "train_loss"]].to_dict("list")
    return {"epochs.csv": repr(table), **{name: checksum(run.folder / name) for name in SAME_BYTES}}


def interrupted(settings: Settings, dataset, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """A run that is interrupted before so many evaluations are over."""
    evaluated = []

    def stop(*arguments):
        evaluated.append(1)
        if len(evaluated) == after:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(docfloqa.training.trainer, "evaluate", stop)
        trainer_of(settings, dataset).fit()


def killed_in_the_third_epoch(settings: Settings, dataset, folder: Path) -> None:
    """Leave a run with the answers and the checkpoints of two epochs."""
    trainer = trainer_of(settings, dataset)
    save = trainer.run.save_epoch

    def stop(epoch: int, *rest, **further):
        if epoch == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return save(epoch, *rest, **further)

    trainer.run.save_epoch = stop
    assert killed_at(0, folder, trainer.fit)
