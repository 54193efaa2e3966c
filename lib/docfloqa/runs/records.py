"""What a run's folder says of it: its record, its epochs so far, and whether it is complete and undamaged."""

from __future__ import annotations

import subprocess
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docfloqa.integrity import DamagedError, checksum, read_sealed
from docfloqa.paths import PROJECT

RECORD, EPOCHS, PREDICTIONS, CONTROL = "run.json", "epochs.csv", "predictions.parquet", "wrong_pages.parquet"
RESULT_FILES = (EPOCHS, PREDICTIONS, CONTROL)
PROGRESS = "progress.json"
# Of what a study writes itself no commit can know.
RESULTS = (":!/reports", ":!/figures")
COMPLETE, RUNNING, FAILED, INTERRUPTED = "complete", "running", "failed", "interrupted"


def read_epoch_row(path: Path) -> dict[str, float]:
    """What a run that is not complete has kept of an epoch beside its answers: a row of the later `epochs.csv`."""
    return read_sealed(path)["row"]


def read_record(folder: Path) -> dict[str, Any]:
    """A run's `run.json`, or nothing when there is none or, which is warned of, it is damaged."""
    try:
        return read_sealed(folder / RECORD)
    except FileNotFoundError:
        return {}
    except DamagedError as error:
        warnings.warn(f"{error}; the run does not count as complete", stacklevel=2)
        return {}


def is_complete(folder: Path) -> bool:
    """Whether a run's record says complete and its epochs, predictions and control are there and undamaged."""
    record = read_record(folder)
    if record.get("status") != COMPLETE or not all((folder / name).is_file() for name in RESULT_FILES):
        return False
    damaged = damaged_results(folder, record)
    for _, error in damaged:
        warnings.warn(f"{error}; the run does not count as complete", stacklevel=2)
    return not damaged


def damaged_results(folder: Path, record: dict[str, Any]) -> list[tuple[str, DamagedError]]:
    """Those of a run's files that do not fit the checksums in its record, and what is wrong with each."""
    return [
        (name, DamagedError(f"{folder / name} is damaged: it does not fit its checksum in {RECORD}"))
        for name, recorded in record.get("files", {}).items()
        if (folder / name).is_file() and checksum(folder / name) != recorded
    ]


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_commit() -> str | None:
    """The project's commit, with "+changes" if files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(PROJECT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "--", ":/", *RESULTS], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
