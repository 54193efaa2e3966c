"""A study's runs as tidy frames, and runs by what people call them."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, wraps
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import Any, Self

import pandas as pd

from docfloqa.exceptions import DamagedError, IncompleteRunError, RunError
from docfloqa.files import expanded, is_there, output_folder, reports_folder, runs_folder
from docfloqa.metrics import METRICS
from docfloqa.runs import tables
from docfloqa.runs.plans import PLAN, read_plan, study_command
from docfloqa.runs.run import COMPLETE, NOT_BEGUN, Run, is_complete, read_record
from docfloqa.settings import Settings
from docfloqa.versions import PAGES, TRAINING

RUN_KEYS = ["vision_trainable", "seed"]
NAMES_SHOWN = 10
COLUMNS = "study run arm ratio seed status epochs of anls".split()
EARLIER = "earlier"


def once_for_study(compute: Callable[..., Any]) -> Callable[..., Any]:
    """What a function makes of a study and further arguments, computed once: who asks again gets a copy of it.

    A report says the same scores in a sentence, a table and a figure. The function must give a frame or a list.
    """

    @wraps(compute)
    def kept(study: Study, *args: Any) -> Any:
        # Where `cached_property` keeps what it computes, too.
        known = vars(study).setdefault("_computed", {})
        # What is left to a default is the same as what says it.
        bound = signature(compute).bind(study, *args)
        bound.apply_defaults()
        key = (compute, *bound.args[1:])
        if key not in known:
            known[key] = compute(study, *args)
        return known[key].copy()

    return kept


@dataclass(frozen=True)
class Study:
    """The complete runs of a study's ratios, or of one of its arms, and those that are planned and missing.

    In an arm every run has a `variant`. Where every complete run has answered a test split, the study is `tested`.
    """

    name: str
    settings: Settings
    records: dict[str, dict[str, Any]]
    missing: dict[str, dict[str, Any]]
    arms: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    trials: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    variants: dict[str, list[str]] = field(default_factory=dict)
    tested: bool = False

    @classmethod
    def load(cls, name: str) -> Self:
        """A study's plan with the records of its runs; raises `RunError` when there is no plan or no complete run."""
        folder = reports_folder(name)
        if not (plan := read_plan(folder)):
            raise RunError(f"study {name!r} has no {folder / PLAN}; make it with: {study_command(name)}")
        records, missing = _read(name, plan["runs"])
        settings = Settings.from_dict(plan["settings"])
        if settings.folds:
            records, missing = _whole_folds(records, missing, settings.folds)
        if not records:
            errors = "; ".join(sorted({record["error"] for record in missing.values() if record.get("error")}))
            why = f"they stopped with: {errors}" if errors else f"{study_command(name)} makes them"
            raise RunError(f"none of the {len(missing)} runs of study {name!r} is complete; {why}")
        arms = (read_record(runs_folder(name) / run) for run, arm in planned_runs(name).items() if arm)
        made = chain(records.values(), (record for record in arms if record.get("status") == COMPLETE))
        tested = all("test" in record for record in made)
        return cls(name, settings, records, missing, plan.get("arms", {}), plan.get("trials", {}), tested=tested)

    def arm(self, arm: str) -> Self | None:
        """The complete runs of an arm, read once; None where the study has none of it."""
        known = vars(self).setdefault("_arms", {})
        if arm not in known:
            variants = self.arms.get(arm, {})
            records, missing = _read(self.name, chain(*variants.values()))
            made = replace(self, records=records, missing=missing, arms={}, variants=variants)
            known[arm] = made if records else None
        return known[arm]

    @property
    def outdated(self) -> list[str]:
        """Runs made by code whose results are not those of the library's present one."""
        # Those of before there were numbers computed what the first ones stand for.
        identities = {run: {"training": 1, "pages": 1} | record["identity"] for run, record in self.records.items()}
        return [run for run, one in identities.items() if (one["training"], one["pages"]) != (TRAINING, PAGES)]

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run: ratio, seed, what was trainable, time, speed, memory, device."""
        medians = self.epochs.groupby("run")[["train_samples_per_second", "evaluation_seconds"]].median()
        rows = [
            {
                **self._keys(run),
                **record["freezing"],
                "seconds": record["seconds"],
                **medians.loc[run],
                "device": record["device"]["name"],
                **record["peak_memory"],
            }
            for run, record in self.records.items()
        ]
        return pd.DataFrame(rows).sort_values(RUN_KEYS, ignore_index=True)

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """One row per run and epoch, see `_held`: the columns of `epochs.csv` after run, vision_trainable and seed."""
        return _held(self.collect(tables.EPOCHS))

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per run, epoch and question, all with scores; packed runs have answers of first and last epochs.

        Raises `RunError` for a packed arm that is compared on test answers.
        """
        return self.collect(tables.PREDICTIONS)

    @cached_property
    def epoch_scores(self) -> pd.DataFrame:
        """The predictions of all epochs, see `_held`, without question and answer: ids, metrics, loss."""
        columns = ["epoch", "question_id", "document_id", *METRICS, "loss_sum", "tokens"]
        return _held(self.collect(tables.PREDICTIONS, columns))

    @cached_property
    def first_answers(self) -> pd.DataFrame:
        """The predictions before training."""
        return self.collect(tables.PREDICTIONS, epochs=[0])

    @cached_property
    def last_answers(self) -> pd.DataFrame:
        """The predictions after every run's last epoch."""
        last = {run: tables.ended_at(record) for run, record in self.records.items()}
        answers = self.collect(tables.PREDICTIONS, epochs=set(last.values()))
        return answers[answers["epoch"] == answers["run"].map(last)].reset_index(drop=True)

    @cached_property
    def compared(self) -> pd.DataFrame:
        """What is compared: answers to the test split by the best models, or else `last_answers`, to validation."""
        return self.collect(tables.TEST_ANSWERS) if self.tested else self.last_answers

    @cached_property
    def wrong_pages(self) -> pd.DataFrame:
        """How the last epoch's answers on pages of other documents were scored, one row per run and question."""
        return self.collect(tables.CONTROL)

    def collect(self, name: str, columns: list[str] | None = None, epochs: Iterable[int] = ()) -> pd.DataFrame:
        """The tables `name` of all runs together, after run, vision_trainable, seed and epoch (else the last one).

        Raises `RunError` where a run has none.
        """
        frames, same = [], {}
        folders = [runs_folder(self.name) / run for run in self.records]
        found = tables.read_tables(folders, name, columns, epochs)
        for run in sorted(self.records.keys() - found.keys()):
            raise tables.no_table(runs_folder(self.name) / run, name)
        for run, frame in found.items():
            # Lists that every run and epoch repeats are kept once.
            for column in {"answers", "question_types"} & set(frame):
                frame[column] = [same.setdefault(tuple(value), value) for value in frame[column]]
            if "epoch" not in frame:
                frame["epoch"] = tables.ended_at(self.records[run])
            keys = self._keys(run)
            frames.append(frame.assign(**keys)[[*keys, *frame]])
        return pd.concat(frames).sort_values([*RUN_KEYS, "epoch"], kind="stable", ignore_index=True)

    def _keys(self, run: str) -> dict[str, Any]:
        variant = next(({"variant": name} for name, runs in self.variants.items() if run in runs), {})
        return {"run": run, **variant, **{key: self.records[run]["settings"][key] for key in RUN_KEYS}}


def _held(frame: pd.DataFrame) -> pd.DataFrame:
    """With the last rows of runs that ended early again at the epochs that others went on for, so that all have all."""
    last = frame.groupby("run")["epoch"].max()
    ended = frame[frame["epoch"] == frame["run"].map(last)]
    later = [ended.assign(epoch=epoch)[ended["epoch"] < epoch] for epoch in range(last.min() + 1, last.max() + 1)]
    return pd.concat([frame, *later]).sort_values([*RUN_KEYS, "epoch"], kind="stable", ignore_index=True)


def _read(study: str, runs: Iterable[str]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The records of complete runs, and those of the others."""
    records = {run: read_record(runs_folder(study) / run) for run in runs}
    complete = {run: record for run, record in records.items() if is_complete(runs_folder(study) / run)}
    return complete, {run: record for run, record in records.items() if run not in complete}


def _whole_folds(records: dict, missing: dict, folds: int) -> tuple[dict, dict]:
    """Runs of ratios and seeds that have every fold, so that all are of the same documents, and those of the others."""
    keys = {run: tuple(record["settings"][key] for key in RUN_KEYS) for run, record in records.items()}
    counts, status = Counter(keys.values()), {"status": "another fold of it is not complete"}
    waits = {run: records[run] | status for run, key in keys.items() if counts[key] != folds}
    return {run: record for run, record in records.items() if run not in waits}, missing | waits


def planned_runs(study: str) -> dict[str, str]:
    """The runs that a study has planned, by id, in their order: each with the name of its arm, "" for its ratios."""
    plan = read_plan(reports_folder(study))
    arms = dict.fromkeys(plan.get("runs", []), "")
    for arm, variants in chain(*(plan.get(part, {}).items() for part in ("arms", "trials"))):
        for run in chain(*variants.values()):
            arms.setdefault(run, arm)
    return arms


def run_folders(study: str = "*") -> list[Path]:
    """The folders of the runs that are there, begun, complete or packed, of a study or of all."""
    reports = output_folder() / "reports"
    there = {path.parent for path in reports.glob(f"{study}/runs/*/{tables.RECORD}")}
    for packed in reports.glob(f"{study}/{tables.PACKED}"):
        try:
            there |= {packed.parent / "runs" / run for run in tables.packed_records(packed.parent)}
        except DamagedError as error:
            if study != "*":
                raise
            warnings.warn(f"study {packed.parent.name!r} is left out: {error}", stacklevel=2)
    return sorted(there)


def find_run(name: str) -> Run:
    """The complete run that `name` means: a folder, an id, or the beginning of an id that no other run has.

    "study/beginning" looks in one study, else in all. Of several the one that is of a study's ratios, not of its arms,
    is meant. Raises `RunError` for none or several, and `IncompleteRunError` for a run that has not finished.
    """
    folder = expanded(name)
    whole = folder.absolute()
    if is_there(folder / tables.RECORD) or (whole.parent.name == "runs" and tables.is_packed(whole)):
        return open_run(folder.resolve())
    study, _, beginning = name.rpartition("/")
    there = run_folders()
    found = [path for path in there if study in ("", path.parts[-3]) and path.name.startswith(beginning)]
    exact = [path for path in found if path.name == beginning]
    of_ratios = [path for path in found if path.name in read_plan(path.parents[1]).get("runs", [])]
    for meant in (exact, found, of_ratios):
        if len(meant) == 1:
            return open_run(*meant)
    if found:
        names = ", ".join(f"{path.parts[-3]}/{path.name}" for path in found[:NAMES_SHOWN])
        more = f" and {len(found) - NAMES_SHOWN} more" if len(found) > NAMES_SHOWN else ""
        raise RunError(f"run {name!r} may be any of {names}{more}; give more of its name")
    known = ", ".join(sorted({path.parts[-3] for path in there}))
    raise RunError(
        f"there is no run {name!r}; allowed are a run's folder, its id or the beginning of one, alone or after a "
        f"study's name{f': {known}' if known else ', and no study is here: make study'}"
    )


def open_run(folder: Path) -> Run:
    """The complete run in a folder; raises `IncompleteRunError` for one that has not finished."""
    record = read_record(folder)
    if not is_complete(folder):
        why = record.get("error") or f"it is {record.get('status', 'not begun')}"
        raise IncompleteRunError(
            f"run {folder.name} is not complete ({why}); the command that began it goes on where it stopped"
        )
    return Run(folder.name, Settings.from_dict(record["settings"]), record, moved_to=folder)


def status(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """How each run of a study stands, read from its folder: `epochs` trained `of` those wanted, ANLS after the last."""
    folders = list(folders)
    complete = [folder for folder in folders if is_complete(folder)]
    scores = tables.read_tables(complete, tables.EPOCHS) if complete else {}
    return [_row(folder, scores.get(folder.name)) for folder in folders]


def _row(folder: Path, epochs: pd.DataFrame | None) -> dict[str, Any]:
    record, complete = read_record(folder), epochs is not None
    stands = record.get("status", NOT_BEGUN)
    # A run that failed before it began has its identity only.
    settings = record.get("settings") or record.get("identity", {}).get("settings", {})
    # The first file of an epoch is of the evaluation before training.
    kept = len([*(folder / "epochs").glob("epoch-*.json")]) - 1
    return {
        "run": folder.name,
        "vision_trainable": settings.get("vision_trainable"),
        "seed": settings.get("seed"),
        "status": "damaged" if stands == COMPLETE and not complete else stands,
        "epochs": int(epochs["epoch"].max()) if complete else max(kept, 0),
        "of": settings.get("epochs"),
        "anls": epochs["anls"].iloc[-1] if complete else None,
        "minutes": round(record["seconds"] / 60, 2) if complete else None,
        "error": record.get("error"),
    }


def as_text(runs: pd.DataFrame) -> str:
    """Rows of `status` or `list_runs` for people, ANLS in per cent."""
    percent = (100 * runs["anls"].astype(float)).round(1)
    shown = runs.assign(anls=percent).rename(columns={"anls": "ANLS (%)"})
    return shown.to_string(index=False, na_rep="", float_format="{:.3g}".format)


def list_runs(study: str | None = None) -> pd.DataFrame:
    """Every run of a study, or of all: arm, ratio, seed, status, epochs trained of those wanted, ANLS after the last.

    Runs that the plan no longer has are "earlier". Raises `RunError` for a study that has neither plan nor runs.
    """
    plans = output_folder().glob(f"reports/*/{PLAN}")
    studies = sorted({path.parent.name for path in plans} | {path.parts[-3] for path in run_folders()})
    if study is not None and study not in studies:
        here = f"studies here are {', '.join(studies)}" if studies else "there is none here yet: make study"
        raise RunError(f"there is no study {study!r}; {here}")
    rows = []
    for one in studies if study is None else [study]:
        arms = planned_runs(one)
        planned = [runs_folder(one) / run for run in arms]
        earlier = [folder for folder in run_folders(one) if folder.name not in arms]
        rows += [row | {"study": one, "arm": arms.get(row["run"], EARLIER)} for row in status([*planned, *earlier])]
    return pd.DataFrame(rows).rename(columns={"vision_trainable": "ratio"}).reindex(columns=COLUMNS).convert_dtypes()


def study_status(study: str) -> pd.DataFrame:
    """How each planned run of a study stands, the ratios as they were asked for, then the arms."""
    return pd.DataFrame(status(runs_folder(study) / run for run in planned_runs(study)))
