"""Runs by what people call them, and their best models on the validation questions of any data."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import Florence2Processor

from docfloqa.exceptions import IncompleteRunError, ModelError, RunError
from docfloqa.files import expanded, is_folder, output_folder
from docfloqa.model.device import compute_device
from docfloqa.model.florence import Florence2ForDocVQA, load_florence
from docfloqa.runs.results import PLAN
from docfloqa.runs.run import BEST_MODEL, is_complete, read_record
from docfloqa.runs.tables import PACKED, PREDICTIONS, RECORD, is_packed, packed_records, read_table
from docfloqa.settings import Settings

NAMES_SHOWN = 10


@dataclass(frozen=True)
class SavedRun:
    """A complete run, as it lies in its folder."""

    folder: Path
    record: dict[str, Any] = field(compare=False)

    @property
    def id(self) -> str:
        """The run's name."""
        return self.folder.name

    @property
    def name(self) -> str:
        """Study and run, as in "shipped/vision000-seed0-1ae9cb6695"."""
        return f"{self.settings.study}/{self.id}"

    @property
    def settings(self) -> Settings:
        """What the run was made with."""
        return Settings.from_dict(self.record["settings"])

    @property
    def model_folder(self) -> Path:
        """Where the weights of the epoch with the highest validation ANLS are; raises `RunError` if they are not."""
        folder = self.folder / BEST_MODEL
        if not folder.is_dir():
            raise RunError(
                f"run {self.name} has no {BEST_MODEL}/ (weights are not in the repository): make study "
                f"NAME={self.settings.study} with the study's profile, ratios and seeds, and with DOCFLOQA_OUTPUT set "
                "to an empty folder, makes the run again"
            )
        return folder

    def load(self) -> tuple[Florence2ForDocVQA, Florence2Processor]:
        """The best model on the device where there is one, and its processor; whoever uses a run's model gets it here.

        Raises `RunError` if it is gone, or not as it was written.
        """
        try:
            model, processor = load_florence(self.model_folder, self.settings.prefix)
        except ModelError as error:
            raise RunError(f"{error}; the command that made the run makes it again") from None
        return model.to(compute_device()), processor

    def answers(self, epoch: int | None = None) -> pd.DataFrame:
        """The validation answers after an epoch, None for the last one; columns as `evaluate` gives them."""
        return read_table(self.folder, PREDICTIONS, epochs=[self.settings.epochs if epoch is None else epoch])


def find_run(name: str) -> SavedRun:
    """The complete run that `name` means: a folder, an id, or the beginning of an id that no other run has.

    Ids are looked for in every study under `reports/`; "study/beginning" looks in one study. Where several runs begin
    so and one of them alone is of a study's ratios, not of its arms, that one is meant. Raises `RunError`
    for a name that fits none or several, and `IncompleteRunError` for a run that has not finished.
    """
    folder = expanded(name)
    if is_folder(folder) and ((folder / RECORD).is_file() or is_packed(folder.resolve())):
        return open_run(folder.resolve())
    study, _, beginning = name.rpartition("/")
    reports = output_folder() / "reports"
    packed = [
        study.parent / "runs" / run for study in reports.glob(f"*/{PACKED}") for run in packed_records(study.parent)
    ]
    there = sorted({*packed, *(path.parent for path in reports.glob(f"*/runs/*/{RECORD}"))})
    studies = [path for path in there if study in ("", path.parents[1].name)]
    found = [path for path in studies if path.name.startswith(beginning)]
    exact = [path for path in found if path.name == beginning]
    for meant in (exact, found, [path for path in found if _is_of_the_ratios(path)]):
        if len(meant) == 1:
            return open_run(*meant)
    if found:
        names = [f"{path.parents[1].name}/{path.name}" for path in found[:NAMES_SHOWN]]
        more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
        raise RunError(f"run {name!r} may be any of {', '.join(names)}{more}; give more of its name")
    known = sorted({path.parents[1].name for path in there})
    raise RunError(
        f"there is no run {name!r}; allowed are a run's folder, its id or the beginning of one, alone or after a "
        + (f"study's name: {', '.join(known)}" if known else "study's name, and no study is here: make study")
    )


def _is_of_the_ratios(folder: Path) -> bool:
    plan = folder.parents[1] / PLAN
    return plan.is_file() and folder.name in json.loads(plan.read_text())["runs"]


def open_run(folder: Path) -> SavedRun:
    """The complete run in a folder; raises `IncompleteRunError` for one that has not finished."""
    record = read_record(folder)
    if not is_complete(folder):
        why = record.get("error") or f"it is {record.get('status', 'not begun')}"
        raise IncompleteRunError(
            f"run {folder.name} is not complete ({why}); the command that began it goes on where it stopped"
        )
    return SavedRun(folder, record)
