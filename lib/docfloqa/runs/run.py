"""A run as a folder: what it was made from, what it left, how far it is."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from docfloqa.files import (
    PROJECT,
    DamagedError,
    check_folder,
    checksum,
    held,
    read_sealed,
    runs_folder,
    seal,
    seal_folder,
    write_whole,
)
from docfloqa.metrics import METRICS
from docfloqa.runs.identity import identity, run_id
from docfloqa.runs.tables import CONTROL, EPOCHS, PREDICTIONS, RECORD, is_packed, packed_record, read_table
from docfloqa.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import ProcessorMixin

RESULT_FILES = (EPOCHS, PREDICTIONS, CONTROL)
LAST_MODEL, BEST_MODEL = "model", "best_model"
PROGRESS = "progress.json"
COMPLETE, RUNNING, FAILED, INTERRUPTED = "complete", "running", "failed", "interrupted"
VERSIONED = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "peft", "numpy", "pillow")
# Of what a study writes itself no commit can know.
RESULTS = (":!/reports", ":!/figures")


def read_epoch_row(path: Path) -> dict[str, float]:
    """What a run that is not complete has kept of an epoch beside its answers: a row of the later `epochs.csv`."""
    return read_sealed(path)["row"]


def read_record(folder: Path) -> dict[str, Any]:
    """A run's `run.json`, or nothing when there is none or, which is warned of, it is damaged."""
    try:
        return read_sealed(folder / RECORD)
    except FileNotFoundError:
        return packed_record(folder)
    except DamagedError as error:
        warnings.warn(f"{error}; the run does not count as complete", stacklevel=2)
        return {}


def is_complete(folder: Path) -> bool:
    """Whether a run's record says complete and its epochs, predictions and control are there and undamaged.

    Cheap when asked again: a file is hashed anew only where its size or time has changed.
    """
    if is_packed(folder):
        return True
    record = read_record(folder)
    if record.get("status") != COMPLETE or not all((folder / name).is_file() for name in RESULT_FILES):
        return False
    damaged = damaged_results(folder, record, _checksum_if_changed)
    for _, error in damaged:
        warnings.warn(f"{error}; the run does not count as complete", stacklevel=2)
    return not damaged


def damaged_results(folder: Path, record: dict[str, Any], hashed=checksum) -> list[tuple[str, DamagedError]]:
    """Those of a run's files that do not fit the checksums in its record, and what is wrong with each."""
    return [
        (name, DamagedError(f"{folder / name} is damaged: it does not fit its checksum in {RECORD}"))
        for name, recorded in record.get("files", {}).items()
        if (folder / name).is_file() and hashed(folder / name) != recorded
    ]


def _checksum_if_changed(path: Path) -> str:
    found = path.stat()
    return known_checksum(path, found.st_ino, found.st_size, found.st_mtime_ns)


@cache
def known_checksum(path: Path, *state: int) -> str:
    """`checksum`, remembered for as long as the file's inode, size and time, its `state`, are the same."""
    return checksum(path)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The project's commit, with "+changes" if files differ from it; None outside a git checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ":/", *RESULTS)
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


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
    `checkpoints/` and `progress.json`. With `writes` False nothing is written: another process does so.
    """

    id: str
    settings: Settings
    record: dict[str, Any] = field(default_factory=dict)
    writes: bool = True

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
    def checkpoints(self) -> Path:
        """Where the trainer keeps what it needs to resume."""
        return self.folder / "checkpoints"

    @property
    def predecessor(self) -> Run | None:
        """The run whose last weights this one starts from; None where it starts from the pretrained weights."""
        *earlier, ratio = self.settings.trained_before or (None,)
        if ratio is None:
            return None
        settings = self.settings.replace(vision_trainable=ratio, trained_before=tuple(earlier))
        return Run.open(settings, self.record["identity"]["weights"], self.record["identity"]["data"])

    def is_complete(self) -> bool:
        """Whether the run has finished and everything that it leaves is there, see `is_complete`."""
        return is_complete(self.folder)

    def hold(self) -> AbstractContextManager[None]:
        """A lock on the run, which whoever makes it holds; waits while another process has it."""
        return held(f"run-{self.settings.study}-{self.id}", f"run {self.id}") if self.writes else nullcontext()

    def update(self, **entries: Any) -> None:
        """Add entries to the record and write it."""
        self.record.update(entries)
        if self.writes:
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

    def report_progress(self, done: float, doing: str) -> None:
        """Say how many epochs are done (a fraction counts) and what is being done, for whoever watches."""
        progress = {"epochs_done": done, "epochs": self.settings.epochs, "doing": doing, "time": time.time()}
        if self.writes:
            write_whole(self.folder / PROGRESS, json.dumps(progress))

    def save_epoch(self, epoch: int, predictions: pd.DataFrame, **figures: float) -> dict[str, float]:
        """Keep an epoch's predictions and its row of `epochs.csv`; returns the row."""
        row = {"epoch": epoch, **{metric: predictions[metric].mean() for metric in METRICS}}
        row["val_loss"] = predictions["loss_sum"].sum(skipna=False) / predictions["tokens"].sum()
        row.update(figures)
        predictions = predictions.drop(columns="epoch", errors="ignore")
        predictions.insert(0, "epoch", epoch)
        answers, place = self.epoch_files(epoch)
        write_whole(answers, predictions.to_parquet(index=False))
        write_whole(place, seal({"row": row, PREDICTIONS: checksum(answers)}))
        return row

    def epoch_files(self, epoch: int) -> tuple[Path, Path]:
        """Where the answers of an epoch, and its row of `epochs.csv`, are kept until the run is complete."""
        answers = self.folder / "epochs" / f"epoch-{epoch:04d}.parquet"
        return answers, answers.with_suffix(".json")

    def has_epoch(self, epoch: int) -> bool:
        """Whether an epoch has been evaluated, and is kept undamaged."""
        answers, row = self.epoch_files(epoch)
        try:
            return read_sealed(row)[PREDICTIONS] == checksum(answers)
        except (FileNotFoundError, DamagedError):
            return False

    def best_epoch(self, last: int) -> int:
        """The trained epoch up to `last` with the highest ANLS, the first of them where several have it."""
        return max(range(1, last + 1), key=lambda epoch: read_epoch_row(self.epoch_files(epoch)[1])["anls"])

    def save_model(self, model: nn.Module, processor: ProcessorMixin, name: str, epoch: int) -> None:
        """Keep weights and processor after an epoch as the folder `name`, which plain transformers loads.

        The best model, which nothing is trained from, is kept in fp16, half as large, where fp16 can hold it.
        """
        # Not above: whoever only reads runs need not wait for torch and transformers.
        from docfloqa.model.freezing import without_adapters

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

    def finish(self, control: pd.DataFrame, **entries: Any) -> None:
        """Keep the answers on wrong pages, put the epochs together, and call the run complete last of all."""
        write_whole(self.folder / CONTROL, control.to_parquet(index=False))
        answers, rows = zip(*map(self.epoch_files, range(self.settings.epochs + 1)), strict=True)
        write_whole(self.folder / EPOCHS, pd.DataFrame(map(read_epoch_row, rows)).to_csv(index=False))
        write_whole(self.folder / PREDICTIONS, pd.concat(map(pd.read_parquet, answers)).to_parquet(index=False))
        files = {name: checksum(self.folder / name) for name in RESULT_FILES}
        best = self.best_epoch(self.settings.epochs)
        self.update(status=COMPLETE, finished=now(), best_epoch=best, files=files, **entries)
        self.tidy()

    def tidy(self) -> None:
        """Drop what only a run that is not complete needs."""
        for leftover in (
            self.folder / PROGRESS,
            self.checkpoints,
            self.folder / "epochs",
            *self.folder.glob(".*.part"),
        ):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def fail(self, error: str) -> None:
        """Record that the run stopped on an error."""
        self.update(status=FAILED, error=error)

    def interrupt(self) -> None:
        """Record that the run was stopped by whoever began it; the same command goes on from its last epoch."""
        self.update(status=INTERRUPTED, error=None)

    def epochs(self) -> pd.DataFrame:
        """The rows of `epochs.csv`, epoch 0 being the evaluation before training."""
        return read_table(self.folder, EPOCHS)

    def predictions(self) -> pd.DataFrame:
        """Every answer of every epoch."""
        return read_table(self.folder, PREDICTIONS)
