"""A run: its folder, and what it leaves there."""

from __future__ import annotations

import json
import platform
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from docfloqa.integrity import DamagedError, check_folder, checksum, read_sealed, seal, seal_folder
from docfloqa.locks import held
from docfloqa.metrics import METRICS
from docfloqa.paths import runs_folder, write_whole
from docfloqa.runs.identity import identity, run_id
from docfloqa.runs.records import (
    COMPLETE,
    CONTROL,
    EPOCHS,
    FAILED,
    INTERRUPTED,
    PREDICTIONS,
    PROGRESS,
    RECORD,
    RESULT_FILES,
    RUNNING,
    git_commit,
    is_complete,
    now,
    read_epoch_row,
    read_record,
)
from docfloqa.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import ProcessorMixin

VERSIONED = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "numpy", "pillow")
LAST_MODEL, BEST_MODEL = "model", "best_model"


def in_fp16(model: nn.Module) -> dict[str, Tensor] | None:
    """The weights in fp16, tied ones as one tensor still; None where one is too large for it (above 65,504)."""
    halves: dict[tuple, Tensor] = {}
    weights = {
        name: halves.setdefault((weight.data_ptr(), weight.shape), weight.half())
        for name, weight in model.state_dict().items()
    }
    return weights if all(bool(weight.isfinite().all()) for weight in halves.values()) else None


@dataclass
class Run:
    """One run's folder. Every file in it appears whole or not at all.

    `run.json` (settings, versions, counts, timings, status), `epochs.csv`, `predictions.parquet`,
    `wrong_pages.parquet` (the last epoch's answers when every question comes with another document's
    page, a control), `model/` (the weights after the last epoch), `best_model/` (those of the trained epoch with
    the highest ANLS, the first of them where several have it); while the run lasts also `epochs/`,
    `checkpoints/` and `progress.json`.
    """

    id: str
    settings: Settings
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, settings: Settings, weights: str, data: str) -> Run:
        """The run that these settings, weights and data make, with its record if it has been begun."""
        run = cls(run_id(settings, weights, data), settings)
        run.record = read_record(run.folder)
        run.record.setdefault("identity", identity(settings, weights, data))
        return run

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return runs_folder(self.settings.study) / self.id

    @property
    def predecessor(self) -> Run | None:
        """The run whose last weights this one starts from; None where it starts from the pretrained weights."""
        *earlier, ratio = self.settings.trained_before or (None,)
        if ratio is None:
            return None
        settings = self.settings.replace(vision_trainable=ratio, trained_before=tuple(earlier))
        return Run.open(settings, self.record["identity"]["weights"], self.record["identity"]["data"])

    @property
    def complete(self) -> bool:
        """Whether the run has finished and everything that it leaves is there."""
        return is_complete(self.folder)

    @property
    def checkpoints(self) -> Path:
        """Where the trainer keeps what it needs to resume."""
        return self.folder / "checkpoints"

    def hold(self) -> AbstractContextManager[None]:
        """A lock on the run, which whoever makes it holds; waits while another process has it."""
        return held(f"run-{self.settings.study}-{self.id}", f"run {self.id}")

    def update(self, **entries: Any) -> None:
        """Add entries to the record and write it."""
        self.record.update(entries)
        write_whole(self.folder / RECORD, seal(self.record))

    def start(self, **entries: Any) -> None:
        """Write the record of a run that begins or goes on."""
        self.update(
            id=self.id,
            status=RUNNING,
            error=None,
            settings=self.settings.to_dict(),
            versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONED}},
            git_commit=git_commit(),
            started=self.record.get("started") or now(),
            **entries,
        )

    def save_epoch(self, epoch: int, predictions: pd.DataFrame, **figures: float) -> dict[str, float]:
        """Keep an epoch's predictions and its row of `epochs.csv`; returns the row."""
        row = {"epoch": epoch, **{metric: predictions[metric].mean() for metric in METRICS}}
        row["val_loss"] = predictions["loss_sum"].sum(skipna=False) / predictions["tokens"].sum()
        row.update(figures)
        predictions = predictions.assign(epoch=epoch)
        predictions = predictions[["epoch", *predictions.columns.drop("epoch")]]
        answers, place = self.epoch_files(epoch)
        write_whole(answers, predictions.to_parquet(index=False))
        write_whole(place, seal({"row": row, PREDICTIONS: checksum(answers)}))
        return row

    def save_control(self, predictions: pd.DataFrame) -> None:
        """Keep the trained model's answers on wrong pages."""
        write_whole(self.folder / CONTROL, predictions.to_parquet(index=False))

    def best_epoch(self, last: int) -> int:
        """The trained epoch up to `last` with the highest ANLS, the first of them where several have it."""
        return max(range(1, last + 1), key=lambda epoch: (self._epoch_row(epoch)["anls"], -epoch))

    def save_model(self, model: nn.Module, processor: ProcessorMixin, name: str, epoch: int) -> None:
        """Keep weights and processor after an epoch as the folder `name`, which plain transformers loads.

        The best model, which nothing is trained from, is kept in fp16, half as large, where fp16 can hold it.
        """
        # Not above: whoever only reads runs need not wait for torch and transformers.
        from docfloqa.model.lora import without_adapters

        part = self.folder / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        merged = without_adapters(model)
        merged.save_pretrained(part, state_dict=in_fp16(merged) if name == BEST_MODEL else None)
        processor.save_pretrained(part)
        seal_folder(part, epoch=epoch)
        shutil.rmtree(self.folder / name, ignore_errors=True)
        part.rename(self.folder / name)

    def epoch_of_model(self, name: str) -> int | None:
        """The epoch after which the model in the folder `name` was kept; None where there is none.

        Raises `DamagedError` where it is not as it was written.
        """
        try:
            return check_folder(self.folder / name)["epoch"]
        except FileNotFoundError:
            return None

    def has_epoch(self, epoch: int) -> bool:
        """Whether an epoch has been evaluated, and is kept undamaged."""
        answers, row = self.epoch_files(epoch)
        try:
            return read_sealed(row)[PREDICTIONS] == checksum(answers)
        except (FileNotFoundError, DamagedError):
            return False

    def finish(self, **entries: Any) -> None:
        """Put the epochs together, drop what only a resume needs, and call the run complete last of all."""
        numbers = range(self.settings.epochs + 1)
        rows = [self._epoch_row(number) for number in numbers]
        predictions = pd.concat([pd.read_parquet(self.epoch_files(number)[0]) for number in numbers])
        write_whole(self.folder / EPOCHS, pd.DataFrame(rows).to_csv(index=False))
        write_whole(self.folder / PREDICTIONS, predictions.to_parquet(index=False))
        files = {name: checksum(self.folder / name) for name in RESULT_FILES}
        best = self.best_epoch(self.settings.epochs)
        self.update(status=COMPLETE, finished=now(), best_epoch=best, files=files, **entries)
        self.tidy()

    def tidy(self) -> None:
        """Drop what only a run that is not complete needs."""
        (self.folder / PROGRESS).unlink(missing_ok=True)
        for leftover in (self.checkpoints, self.folder / "epochs", *self.folder.glob(".*.part")):
            if leftover.is_file():
                leftover.unlink()
            else:
                shutil.rmtree(leftover, ignore_errors=True)

    def fail(self, error: str) -> None:
        """Record that the run stopped on an error."""
        self.update(status=FAILED, error=error)

    def interrupt(self) -> None:
        """Record that the run was stopped by whoever began it; the same command goes on from its last epoch."""
        self.update(status=INTERRUPTED, error=None)

    def report_progress(self, done: float, doing: str) -> None:
        """Say how many epochs are done (a fraction counts) and what is being done, for whoever watches."""
        progress = {"epochs_done": done, "epochs": self.settings.epochs, "doing": doing, "time": time.time()}
        write_whole(self.folder / PROGRESS, json.dumps(progress))

    def epochs(self) -> pd.DataFrame:
        """The rows of `epochs.csv`, epoch 0 being the evaluation before training."""
        return pd.read_csv(self.folder / EPOCHS)

    def predictions(self) -> pd.DataFrame:
        """Every answer of every epoch."""
        return pd.read_parquet(self.folder / PREDICTIONS)

    def epoch_files(self, epoch: int) -> tuple[Path, Path]:
        """Where the answers of an epoch, and its row of `epochs.csv`, are kept until the run is complete."""
        answers = self.folder / "epochs" / f"epoch-{epoch:04d}.parquet"
        return answers, answers.with_suffix(".json")

    def _epoch_row(self, epoch: int) -> dict[str, float]:
        return read_epoch_row(self.epoch_files(epoch)[1])


class SilentRun(Run):
    """A run in a process that makes it with others and is not the first of them: it reads, and writes nothing."""

    def hold(self) -> AbstractContextManager[None]:
        """The first process holds it."""
        return nullcontext()

    def update(self, **entries: Any) -> None:
        """Add entries to the record in memory."""
        self.record.update(entries)

    def report_progress(self, done: float, doing: str) -> None:
        """Say nothing."""
