"""The saved models of a study on other pages: its own ones degraded, and those of other data."""

import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from scipy.integrate import trapezoid
from tqdm.auto import tqdm
from transformers import Florence2Processor

from docfloqa.analysis.intervals import RATIO
from docfloqa.analysis.paired import KEYS
from docfloqa.data.degradations import CLEAN, SEVERITIES, degraded_pages
from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import RunError, SettingsError
from docfloqa.files import checksum, is_folder, reports_folder, resolve, runs_folder, write_whole
from docfloqa.model.device import describe_device
from docfloqa.model.florence import Florence2ForDocVQA
from docfloqa.runs.results import RUN_KEYS, Study
from docfloqa.runs.run import BEST_MODEL, Run
from docfloqa.runs.tables import PACKED, read_table, read_tables
from docfloqa.settings import SHIFTS, Settings
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate
from docfloqa.versions import DEGRADATIONS, PAGES, TRAINING

ROBUSTNESS, CROSS = "robustness", "cross-"
ALL_KINDS = "all degradations"
AREA, LOST = "area", "lost"
CLEAN_PAGES = (CLEAN, 0)
PAGE_SETS = (CLEAN_PAGES, *((kind, place) for kind in SEVERITIES for place in (1, 2, 3)))
VERSIONED = ("torch", "transformers", "numpy", "pillow")
SETTINGS_WITH_EFFECT = ("prefix", "precision", "num_beams", "max_new_tokens")
PageSets = Sequence[tuple[str, int]]
NUMBERS = [TRAINING, PAGES, DEGRADATIONS]
FIRST_NUMBERS = [1, 1, 1]  # of scores that were made before there were numbers


def score_robustness(study: Study) -> pd.DataFrame:
    """Every question of the study's validation split by every run's best model, on all `PAGE_SETS`.

    The columns are those of `read_scores`; they are kept as `robustness.parquet` in the runs' folders
    (see `score_runs`). Raises what `load_docvqa` and `score_runs` raise.
    """
    return score_runs(study, ROBUSTNESS, load_docvqa(study.settings, "validation"), PAGE_SETS)


def score_cross_sets(study: Study, names: str) -> dict[str, pd.DataFrame]:
    """Every question of the validation splits of `cross_sets` by every run's best model, by name, as `read_scores`.

    Kept as `cross-<name>.parquet`; sets without scores and models are left out. Raises what `load_docvqa` and
    `score_runs` raise.
    """
    found, folders = {}, [runs_folder(study.name) / run for run in study.records]
    for name, data in cross_sets(study, names).items():
        if any((folder / BEST_MODEL).is_dir() or kept_identity(folder, CROSS + name) is not None for folder in folders):
            found[name] = score_runs(study, CROSS + name, load_docvqa(data, "validation"), [CLEAN_PAGES])
    return found


def cross_sets(study: Study, names: str) -> dict[str, Settings]:
    """What `names`, separated by blanks, say of other data: a shift of the drawn documents, or a folder.

    Under each name the study's settings with that data to validate on; the study's own shift is left out.
    A folder needs its validation split only. Raises `SettingsError` for a name that is neither, or twice.
    """
    found: dict[str, Settings] = {}
    for name in names.split():
        if name in SHIFTS:
            called, changes = name, {"data": "synth", "validation_data": None, "synth_scale": "small"}
            changes["synth_shift"] = name
        elif is_folder(folder := resolve(name)):
            called, changes = Path(folder).name, {"validation_data": folder}
        else:
            raise SettingsError(f"cross is {name!r}; allowed are {', '.join(SHIFTS)} and folders of parquet files")
        if called in found:
            raise SettingsError(f"cross names {called!r} twice; allowed is once")
        found[called] = study.settings.replace(**changes)
    return {name: settings for name, settings in found.items() if settings != study.settings}


def score_runs(study: Study, name: str, rows: Dataset, page_sets: PageSets) -> pd.DataFrame:
    """Score each complete run's best model on `rows` under each of `page_sets`; returns `read_scores`.

    A run's scores are kept as `<name>.parquet` in its folder, whole or not at all, with what identifies them:
    weights, numbers of the code, data, decoding, versions. What is there and still right is kept, what is stale is
    made again; what was interrupted goes on from the last page set. On a CPU there is a process of one thread for each
    core, on a GPU one process. Of a run without a best model only what is there already is read.

    Raises `RunError` when no run has scores or a model to make them with, and for a damaged model.
    """
    data = questions_checksum(rows)
    stale: dict[Path, dict[str, Any]] = {}
    tasks: list[tuple[Any, ...]] = []
    for run, record in study.records.items():
        folder = runs_folder(study.name) / run
        if not (folder / BEST_MODEL).is_dir():
            continue
        settings = Settings.from_dict(record["settings"])
        identity = scores_identity(folder / BEST_MODEL, settings, data, page_sets)
        if kept_identity(folder, name) != identity:
            stale[folder] = identity
            for (kind, severity), part in _parts(folder, name, identity).items():
                if not part.is_file():
                    tasks.append((Run(run, settings, record), rows, kind, severity, part))
    _in_processes(tasks, f"scoring {name}")
    for folder, identity in stale.items():
        parts = _parts(folder, name, identity).values()
        frame = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
        frame.attrs = identity
        write_whole(folder / f"{name}.parquet", frame.to_parquet(index=False))
        # Parts of other identities, which were never finished, go with them.
        shutil.rmtree(folder / f".{name}.part")
    return read_scores(study, name)


def scored(study: Study) -> list[str]:
    """What any run has scores of: `ROBUSTNESS` first, then `CROSS` with the names of other data."""
    folders = [runs_folder(study.name) / run for run in study.records]
    stems = {
        path.stem for folder in (*folders, reports_folder(study.name) / PACKED) for path in folder.glob("*.parquet")
    }
    return [*({ROBUSTNESS} & stems), *sorted(stem for stem in stems if stem.startswith(CROSS))]


def read_scores(study: Study, name: str) -> pd.DataFrame:
    """What the runs' files `<name>.parquet` hold: a row for each run, page set and question.

    Columns: run, vision_trainable, seed, kind ("clean" or a degradation), severity (0 to 3), and those of
    `docfloqa.training.evaluation.evaluate`. Raises `RunError` when there is none.
    """
    frames = []
    folders = [runs_folder(study.name) / run for run in study.records]
    for run, frame in read_tables(folders, f"{name}.parquet").items():
        frame.attrs = {}
        for place, key in enumerate(RUN_KEYS):
            frame.insert(place, key, study.records[run]["settings"][key])
        frame.insert(0, "run", run)
        frames.append(frame)
    if not frames:
        raise RunError(f"no run of study {study.name!r} has {name}.parquet: {_remedy(study)}")
    return pd.concat(frames).sort_values(RUN_KEYS, kind="stable", ignore_index=True)


def severity_curves(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers of `read_scores` with those on clean pages as severity 0 of every degradation."""
    clean = answers[answers["kind"] == CLEAN]
    degraded = answers[answers["kind"] != CLEAN]
    return pd.concat([*(clean.assign(kind=kind) for kind in SEVERITIES), degraded], ignore_index=True)


def area_under_curve(answers: pd.DataFrame, metric: str = "anls") -> pd.DataFrame:
    """The area under the curve of `metric` over severities, of every run, question and degradation.

    Columns: run, ratio, seed, document_id, question_id, kind, `clean` (the metric on the clean page), `area`
    (its mean over severities 0 to 3 by the trapezoidal rule, so in the metric's unit) and `lost` (clean −
    area). The kind `ALL_KINDS` has the mean over degradations. Raises ValueError where an answer is lacking.
    """
    keys = ["run", RATIO, *KEYS]
    curves = severity_curves(answers).pivot(index=[*keys, "kind"], columns="severity", values=metric)
    if curves.columns.tolist() != [0, 1, 2, 3] or curves.isna().any(axis=None):
        raise ValueError("every question must be answered on the clean page and at severities 1 to 3")
    areas = pd.DataFrame({CLEAN: curves[0], AREA: trapezoid(curves, x=curves.columns, axis=1) / 3})
    areas = areas.assign(lost=areas[CLEAN] - areas[AREA]).reset_index()
    areas = areas.sort_values("kind", key=lambda kinds: kinds.map([*SEVERITIES].index), kind="stable")
    together = areas.groupby(keys, as_index=False)[[CLEAN, AREA, LOST]].mean().assign(kind=ALL_KINDS)
    return pd.concat([areas, together], ignore_index=True)


def unscored(study: Study, names: Sequence[str]) -> pd.DataFrame:
    """Runs that are missing from the scores of `names`, or have them of code with other results; may be empty.

    Columns: run, scores, reservation (what is the matter, and the command that mends it).
    """
    rows = [(run, "all", "the run is not complete; run 03_ablate") for run in study.missing]
    for run in study.records:
        for name in names:
            kept = kept_identity(runs_folder(study.name) / run, name)
            if kept is None:
                rows.append((run, name, f"missing, and {_remedy(study)}"))
            elif kept.get("numbers", FIRST_NUMBERS) != NUMBERS:
                rows.append((run, name, f"made by code with other results, and {_remedy(study)}"))
    return pd.DataFrame(rows, columns=["run", "scores", "reservation"])


def scores_identity(model: Path, settings: Settings, data: str, page_sets: PageSets) -> dict[str, Any]:
    """What the scores of a model folder depend on, as JSON gives it back; `data` is a checksum."""
    weights = hashlib.sha256()
    for path in sorted(model.glob("*.safetensors")):
        weights.update(bytes.fromhex(checksum(path)))
    return {
        "weights": weights.hexdigest(),
        "numbers": NUMBERS,
        "data": data,
        "settings": {name: getattr(settings, name) for name in SETTINGS_WITH_EFFECT},
        "page_sets": [list(page_set) for page_set in page_sets],
        "versions": {package: version(package) for package in VERSIONED},
    }


def kept_identity(folder: Path, name: str) -> dict[str, Any] | None:
    """What the scores `name` of the run of a folder were made of; None when there are none."""
    try:
        return read_table(folder, f"{name}.parquet", columns=["severity"]).attrs
    except FileNotFoundError:
        return None


def questions_checksum(rows: Dataset) -> str:
    """A checksum of every question, its answers and its page, in order."""
    columns = rows.select_columns(["questionId", "question", "answers", "page", "document_id"])
    return hashlib.sha256(json.dumps(columns.to_dict()).encode()).hexdigest()


def _remedy(study: Study) -> str:
    return (
        f"the weights ({BEST_MODEL}/) are not here; make study NAME={study.name} with the study's profile, ratios "
        "and seeds, and with DOCFLOQA_OUTPUT set to an empty folder, makes both"
    )


def _parts(folder: Path, name: str, identity: dict[str, Any]) -> dict[tuple[str, int], Path]:
    """Where the scores of each page set wait until all are there."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    parts = folder / f".{name}.part" / digest
    return {(kind, place): parts / f"{kind}-{place}.parquet" for kind, place in identity["page_sets"]}


def _in_processes(tasks: Sequence[tuple[Any, ...]], name: str) -> None:
    if not tasks:
        return
    device = describe_device()
    workers, threads = (1, None) if device["gpus"] else (min(len(tasks), device["cores"]), 1)
    # A process that is forked would share the threads and the GPU of this one.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin, (threads,))
    try:
        scored = [pool.submit(_score, *task) for task in tasks]
        for done in tqdm(as_completed(scored), name, len(tasks), unit="page set"):
            done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
    # The bars of several processes would be written over each other; errors come back through the pool.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A worker of a pool whose owner was killed would wait for the next task for ever.
    multiprocessing.parent_process().join()
    os._exit(1)


def _score(run: Run, rows: Dataset, kind: str, severity: int, part: Path) -> None:
    model, processor = _model(run)
    collator = QuestionCollator(degraded_pages(rows, kind, severity), model, processor, run.settings.prefix)
    answered = evaluate(model, collator, run.settings)
    answered.insert(0, "kind", kind)
    answered.insert(1, "severity", severity)
    write_whole(part, answered.to_parquet(index=False))


@functools.lru_cache(maxsize=1)
def _model(run: Run) -> tuple[Florence2ForDocVQA, Florence2Processor]:
    return run.load()
