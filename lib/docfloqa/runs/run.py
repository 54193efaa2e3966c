"""A run as a folder: what makes it the run that it is, what it left, how far it is, its best model."""

import hashlib
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from docfloqa import files
from docfloqa.exceptions import DamagedError, ModelError, RunError
from docfloqa.metrics import METRICS
from docfloqa.runs import tables
from docfloqa.runs.tables import CONTROL, EPOCHS, PREDICTIONS, RECORD, TEST_ANSWERS, ended_at, is_packed, read_table
from docfloqa.settings import Settings
from docfloqa.versions import PAGES, TRAINING, version

# Whoever reads results need not wait for torch and transformers, which take seconds.
if TYPE_CHECKING:
    from torch import nn
    from transformers import Florence2ForConditionalGeneration, Florence2Processor, ProcessorMixin

RESULT_FILES = (EPOCHS, PREDICTIONS, CONTROL)
LAST_MODEL, BEST_MODEL, ADAPTER_FOLDER, PROGRESS = "model", "best_model", "adapter", "progress.json"
COMPLETE, RUNNING, FAILED, INTERRUPTED, NOT_BEGUN = "complete", "running", "failed", "interrupted", "not begun"
EXECUTED = "finetune.ipynb"  # the notebook that made the run
IDENTIFYING_VERSIONS = ("torch", "transformers")
VERSIONED = (*IDENTIFYING_VERSIONS, "tokenizers", "datasets", "accelerate", "peft", "numpy", "pillow")
# These say where and whether a run is made, not what it computes.
SETTINGS_WITHOUT_EFFECT = ("study", "report_to", "cache_gib", "allow_cpu")
# Later than the first runs: each makes another run only where it is not at its default; older runs stay current.
ADDED_SETTINGS = (
    "warmup_ratio max_steps early_stopping_patience gradient_accumulation_steps lr_scheduler_type optim eval_questions "
    "parts lora_rank lora_alpha lora_targets folds fold unfreezing layer_decay auto_rgn synth_test_documents "
    "test_questions"
).split()
# Of what a study writes itself no commit can know.
RESULTS = (":!/reports", ":!/figures")


def identity(settings: Settings, weights: str, data: str) -> dict[str, Any]:
    """Everything that makes a run the run that it is."""
    usual = {name: one for name, one in Settings().to_dict().items() if name in ADDED_SETTINGS}
    given = {name: one for name, one in settings.to_dict().items() if name not in SETTINGS_WITHOUT_EFFECT}
    given = {name: one for name, one in given.items() if name not in usual or one != usual[name]}
    versions = {package: version(package) for package in IDENTIFYING_VERSIONS}
    made_from = {"settings": given, "weights": weights, "data": data}
    return made_from | {"training": TRAINING, "pages": PAGES, "versions": versions}


def run_id(settings: Settings, weights: str, data: str) -> str:
    """The name of a run's folder: ratio or parts and seed for people, then a checksum of its `identity`."""
    content = json.dumps(identity(settings, weights, data), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    fold = f"-fold{settings.fold}" if settings.fold else ""
    earlier = "".join(f"after{100 * ratio:03.0f}-" for ratio in settings.trained_before)
    trained = "-".join(settings.parts) or f"vision{100 * settings.vision_trainable:03.0f}"
    return f"{earlier}{trained}-seed{settings.seed}{fold}-{digest}"


def read_record(folder: Path) -> dict[str, Any]:
    """A run's `run.json`, or nothing when there is none or, which is warned of, it is damaged."""
    try:
        return files.read_sealed(folder / RECORD)
    except FileNotFoundError:
        return json.loads(tables.packed_records(folder.parent.parent).get(folder.name, "{}"))
    except DamagedError as error:
        warnings.warn(f"{error}; the run does not count as complete", stacklevel=2)
        return {}


def is_complete(folder: Path) -> bool:
    """Whether a run's record says complete and its epochs, predictions, control and test answers are undamaged.

    Cheap when asked again: a file is hashed anew only where its inode, size or time has changed.
    """
    if is_packed(folder):
        return True
    record = read_record(folder)
    if record.get("status") != COMPLETE or not all((folder / name).is_file() for name in RESULT_FILES):
        return False
    try:
        files.check_files(folder, record.get("files", {}), known_checksum)
    except DamagedError as error:
        warnings.warn(f"{error}; the run does not count as complete", stacklevel=2)
        return False
    return True


def known_checksum(path: Path) -> str:
    """`checksum`, remembered for as long as the file's inode, size and time are the same."""
    state = path.stat()
    return _checksum(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _checksum(path: Path, *_state: int) -> str:
    return files.checksum(path)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The project's commit, with "+changes" if files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(files.PROJECT)]
    try:
        commit, changed = (
            subprocess.run([*git, *arguments], capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", ":/", *RESULTS])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


@dataclass(unsafe_hash=True)
class Run:
    """One run's folder. Every file in it appears whole or not at all.

    `lib/README.md` says what lies in it. `model/` has the weights after the last epoch, `best_model/` those of the
    trained epoch with the highest ANLS, of several with it the one of the lowest validation loss; while the run lasts
    there are also `epochs/`, `checkpoints/` and `progress.json`. With `writes` False nothing is written: another
    process does so. `moved_to` is the folder of a run that does not lie in its study's.
    """

    id: str
    settings: Settings
    record: dict[str, Any] = field(default_factory=dict, hash=False)
    writes: bool = True
    moved_to: Path | None = None

    @classmethod
    def open(cls, settings: Settings, weights: str, data: str) -> Self:
        """The run that these settings, weights and data make, with its record if it has been begun."""
        run = cls(run_id(settings, weights, data), settings)
        run.record = {"identity": identity(settings, weights, data), **read_record(run.folder)}
        return run

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self.moved_to or files.runs_folder(self.settings.study) / self.id

    @property
    def name(self) -> str:
        """Study and run, as in "shipped/vision000-seed0-1ae9cb6695"."""
        return f"{self.settings.study}/{self.id}"

    @property
    def checkpoints(self) -> Path:
        """Where the trainer keeps what it needs to resume."""
        return self.folder / "checkpoints"

    @property
    def predecessor(self) -> Self | None:
        """The run whose last weights this one starts from; None where it starts from the pretrained weights."""
        if not self.settings.trained_before:
            return None
        *earlier, ratio = self.settings.trained_before
        settings = self.settings.replace(vision_trainable=ratio, trained_before=tuple(earlier))
        return Run.open(settings, self.record["identity"]["weights"], self.record["identity"]["data"])

    def is_complete(self) -> bool:
        """Whether the run has finished and everything that it leaves is there, see `is_complete`."""
        return is_complete(self.folder)

    def hold(self) -> AbstractContextManager[None]:
        """A lock on the run, which whoever makes it holds; waits while another process has it."""
        return files.held(f"run-{self.settings.study}-{self.id}", f"run {self.id}") if self.writes else nullcontext()

    def update(self, **entries: Any) -> None:
        """Add entries to the record and write it."""
        self.record.update(entries)
        if self.writes:
            files.write_sealed(self.folder / RECORD, self.record)

    def start(self, **entries: Any) -> None:
        """Write the record of a run that begins or goes on."""
        versions = {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}}
        about = {"id": self.id, "settings": self.settings.to_dict(), "versions": versions, "git_commit": git_commit()}
        started = self.record.get("started") or now()
        self.update(**about, status=RUNNING, error=None, started=started, **entries)

    def fail(self, error: str) -> None:
        """Record that the run stopped on an error."""
        self.update(status=FAILED, error=error)

    def report_progress(self, done: float, doing: str) -> None:
        """Say how many epochs are done (a fraction counts) and what is being done, for whoever watches."""
        progress = {"epochs_done": done, "epochs": self.settings.epochs, "doing": doing, "time": time.time()}
        if self.writes:
            files.write_whole(self.folder / PROGRESS, json.dumps(progress))

    def save_epoch(self, epoch: int, predictions: pd.DataFrame, **figures: float) -> dict[str, float]:
        """Keep an epoch's predictions and its row of `epochs.csv`; returns the row."""
        row = {"epoch": epoch, **{metric: predictions[metric].mean() for metric in METRICS}}
        row["val_loss"] = predictions["loss_sum"].sum(skipna=False) / predictions["tokens"].sum()
        row.update(figures)
        predictions = predictions.drop(columns="epoch", errors="ignore")
        predictions.insert(0, "epoch", epoch)
        answers, place = self.epoch_files(epoch)
        files.write_whole(answers, predictions.to_parquet(index=False))
        files.write_sealed(place, {"row": row}, [answers])
        return row

    def epoch_files(self, epoch: int) -> tuple[Path, Path]:
        """Where the answers of an epoch, and its row of `epochs.csv`, are kept until the run is complete."""
        answers = self.folder / "epochs" / f"epoch-{epoch:04d}.parquet"
        return answers, answers.with_suffix(".json")

    def epoch_row(self, epoch: int) -> dict[str, float]:
        """The row of the later `epochs.csv` that a run which is not complete has kept of an epoch."""
        return files.read_sealed(self.epoch_files(epoch)[1])["row"]

    def epochs_begun(self) -> int:
        """The last epoch of which a run that is not complete has kept anything; 0 where there is none."""
        return max((int(path.stem.rpartition("-")[2]) for path in self.folder.glob("epochs/epoch-*")), default=0)

    def has_epoch(self, epoch: int) -> bool:
        """Whether an epoch has been evaluated, and is kept undamaged."""
        try:
            return "files" in files.read_sealed(self.epoch_files(epoch)[1], with_files=True)
        except (FileNotFoundError, DamagedError):
            return False

    def best_epoch(self, last: int) -> int:
        """The trained epoch up to `last` with the highest ANLS, of several with it the one of the lowest loss."""

        def quality(epoch: int) -> tuple[float, float]:
            row = self.epoch_row(epoch)
            # All epochs by the same questions, see `eval_questions`.
            return row.get("subset_anls", row["anls"]), -row.get("subset_loss", row["val_loss"])

        return max(range(1, last + 1), key=quality)

    def save_model(self, model: "nn.Module", processor: "ProcessorMixin", name: str, epoch: int) -> None:
        """Keep weights and processor after an epoch as the folder `name`, which plain transformers loads.

        The best model, which nothing is trained from, is kept in fp16, half as large, where fp16 can hold it.
        """
        from docfloqa.model.freezing import in_fp16, save_adapters, without_adapters

        part = self.folder / f".{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        merged = without_adapters(model)
        merged.save_pretrained(part, state_dict=in_fp16(merged) if name == BEST_MODEL else None)
        processor.save_pretrained(part)
        save_adapters(model, part / ADAPTER_FOLDER)
        files.seal_folder(part, epoch=epoch)
        files.remove_sealed(self.folder / name)
        part.rename(self.folder / name)

    def epoch_of_model(self, name: str) -> int | None:
        """The epoch after which the model `name` was kept, or None; raises `DamagedError` where it is damaged."""
        try:
            return files.check_folder(self.folder / name)["epoch"]
        except FileNotFoundError:
            return None

    def finish(self, control: pd.DataFrame, last_epoch: int, **entries: Any) -> None:
        """Keep the answers on wrong pages, put the epochs together, and call the run complete last of all."""
        files.write_whole(self.folder / CONTROL, control.to_parquet(index=False))
        epochs = range(last_epoch + 1)
        files.write_whole(self.folder / EPOCHS, pd.DataFrame(map(self.epoch_row, epochs)).to_csv(index=False))
        answers = pd.concat(pd.read_parquet(self.epoch_files(epoch)[0]) for epoch in epochs)
        files.write_whole(self.folder / PREDICTIONS, answers.to_parquet(index=False))
        names = [*RESULT_FILES, *([TEST_ANSWERS] if "test" in self.record else [])]
        checksums = {name: files.checksum(self.folder / name) for name in names}
        ended = {"best_epoch": self.best_epoch(last_epoch), "last_epoch": last_epoch}
        self.update(status=COMPLETE, finished=now(), files=checksums, **ended, **entries)
        self.tidy()

    def tidy(self) -> None:
        """Drop what only a run that is not complete needs."""
        folders = (self.checkpoints, self.folder / "epochs")
        for leftover in (*folders, self.folder / PROGRESS, *self.folder.glob(".*.part")):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def epochs(self) -> pd.DataFrame:
        """The rows of `epochs.csv`, epoch 0 being the evaluation before training."""
        return read_table(self.folder, EPOCHS)

    def predictions(self) -> pd.DataFrame:
        """Every answer of every epoch."""
        return read_table(self.folder, PREDICTIONS)

    def answers(self, epoch: int | None = None) -> pd.DataFrame:
        """The validation answers after an epoch, None for the last one; columns as `evaluate` gives them.

        Raises `RunError` for a packed run of an arm, of which only test answers are kept.
        """
        return read_table(self.folder, PREDICTIONS, epochs=[ended_at(self.record) if epoch is None else epoch])

    def compared(self) -> pd.DataFrame:
        """What is compared: the answers to the test split where there are some, else the last validation answers."""
        return read_table(self.folder, TEST_ANSWERS) if "test" in self.record else self.answers()

    @property
    def model_folder(self) -> Path:
        """Where the weights of the epoch with the highest validation ANLS are; raises `RunError` if they are not."""
        folder = self.folder / BEST_MODEL
        if not folder.is_dir():
            raise RunError(
                f"run {self.name} has no {BEST_MODEL}/ (weights are not in the repository): {self._made_elsewhere()}"
            )
        return folder

    def _made_elsewhere(self) -> str:
        # It knows runs.
        from docfloqa.runs.plans import study_command

        again = study_command(self.settings.study)
        return f"{again} makes the run again, with DOCFLOQA_OUTPUT set to an empty folder"

    def load(self) -> "tuple[Florence2ForConditionalGeneration, Florence2Processor]":
        """The best model on the device, and its processor; raises `RunError` if it is gone or damaged."""
        from docfloqa.model.device import compute_device
        from docfloqa.model.florence import load_florence

        try:
            model, processor = load_florence(self.model_folder, self.settings.prefix)
        except ModelError as error:
            way = self._made_elsewhere() if is_packed(self.folder) else "the command that made the run makes it again"
            raise RunError(f"{error}; {way}") from None
        return model.to(compute_device()), processor
