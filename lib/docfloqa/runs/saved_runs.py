"""Runs by what people call them, and their best models on the validation questions of any data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import Florence2Processor

from docfloqa.analysis.intervals import LOSS, Interval, interval_table
from docfloqa.data.load import load_docvqa
from docfloqa.integrity import DamagedError, check_folder
from docfloqa.metrics import METRICS
from docfloqa.model.device import compute_device
from docfloqa.model.florence import Florence2ForDocVQA, load_florence
from docfloqa.paths import expanded, is_folder, output_folder
from docfloqa.runs.records import PREDICTIONS, RECORD, is_complete, read_record
from docfloqa.runs.results import PLAN
from docfloqa.runs.run import BEST_MODEL
from docfloqa.settings import Settings, SettingsError
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate

# What else a run's settings say is about training, and changes nothing about a model that is there.
EVALUATION_SETTINGS = (
    "validation_questions synth_scale synth_shift synth_validation_documents synth_seed precision num_beams "
    "max_new_tokens eval_batch_size"
).split()
# `load_docvqa` reads training data too, which an evaluation does not need: one drawn page stands for it.
NO_TRAINING_DATA = {
    "data": "synth",
    "synth_scale": "small",
    "synth_documents": 1,
    "synth_validation_documents": 1,
}
NAMES_SHOWN = 10


class RunError(ValueError):
    """A run that is not there, is not the only one of its name, or has lost its model; says what there is."""


class IncompleteRunError(RuntimeError):
    """A run that is there and has not finished: says where it stands and how to go on."""


@dataclass(frozen=True)
class SavedRun:
    """A complete run, as it lies in its folder."""

    folder: Path
    record: dict[str, Any]

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
        """The best model on the device where there is one, and its processor.

        Raises `RunError` if it is gone, or not as it was written.
        """
        try:
            check_folder(self.model_folder)
        except FileNotFoundError:
            # Of a run that was made when models had no checksums yet.
            pass
        except DamagedError as error:
            raise RunError(f"{error}; the command that made the run makes it again") from None
        model, processor = load_florence(self.model_folder, self.settings.prefix)
        return model.to(compute_device()), processor

    def answers(self, epoch: int | None = None) -> pd.DataFrame:
        """The validation answers after an epoch, None for the last one; columns as `evaluate` gives them."""
        predictions = pd.read_parquet(self.folder / PREDICTIONS)
        wanted = self.settings.epochs if epoch is None else epoch
        return predictions[predictions["epoch"] == wanted].reset_index(drop=True)


def find_run(name: str) -> SavedRun:
    """The complete run that `name` means: a folder, an id, or the beginning of an id that no other run has.

    Ids are looked for in every study under `reports/`; "study/beginning" looks in one study. Where several runs begin
    so and one of them alone is of a study's ratios, not of its arms, that one is meant. Raises `RunError`
    for a name that fits none or several, and `IncompleteRunError` for a run that has not finished.
    """
    folder = expanded(name)
    if is_folder(folder) and (folder / RECORD).is_file():
        return open_run(folder.resolve())
    study, _, beginning = name.rpartition("/")
    reports = output_folder() / "reports"
    there = sorted(path.parent for path in reports.glob(f"*/runs/*/{RECORD}"))
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


def evaluation_settings(run: SavedRun, data: str | None, further: dict[str, Any]) -> Settings:
    """The settings to evaluate a run with: its own, on other validation data if `data` is given.

    `further` may change what an evaluation depends on, `EVALUATION_SETTINGS`; `SettingsError` for anything else.
    """
    for name in further:
        if name not in EVALUATION_SETTINGS:
            raise SettingsError(
                f"setting {name!r} changes nothing about a model that is trained; allowed are "
                f"{', '.join(EVALUATION_SETTINGS)}"
            )
    chosen: dict[str, Any] = {}
    if data:
        chosen = {"validation_data": data, **(NO_TRAINING_DATA if data != "synth" else {"data": "synth"})}
    return run.settings.replace(**{**further, **chosen})


def evaluate_run(run: SavedRun, settings: Settings) -> pd.DataFrame:
    """Every validation question of `settings`, answered by the run's best model; columns as `evaluate` gives them.

    Raises `RunError` where the model is gone, and what `load_docvqa` raises.
    """
    model, processor = run.load()
    rows = load_docvqa(settings)["validation"]
    shuffled = settings.shuffled_questions
    collator = QuestionCollator(rows, model, processor, settings.prefix, shuffled_questions=shuffled)
    return evaluate(model, collator, settings)


def score_intervals(answers: pd.DataFrame) -> dict[str, Interval]:
    """Every metric in [0, 1], and `val_loss` in nats per token, with its 95 % interval over documents."""
    table = interval_table(answers.assign(run=0), ["run"], [*METRICS, LOSS])
    return {row.metric: Interval(row.estimate, row.low, row.high) for row in table.itertuples()}
