"""The saved models of a study answer on other pages: its own ones degraded, and those of other data."""

import functools
import hashlib
import json
import multiprocessing
import os
import shlex
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from tqdm.auto import tqdm

from docfloqa.analysis.robustness import CLEAN_PAGES, CROSS, NUMBERS, PAGE_SETS, ROBUSTNESS, kept_identity, read_scores
from docfloqa.data.degradations import degraded_pages
from docfloqa.data.load import load_checked, load_docvqa
from docfloqa.data.schema import TEST
from docfloqa.exceptions import RunError, SettingsError, shown
from docfloqa.files import checksum, is_folder, resolve, runs_folder, write_whole
from docfloqa.model.device import describe_device
from docfloqa.model.processes import end_with_parent
from docfloqa.runs.results import Study
from docfloqa.runs.run import BEST_MODEL, Run
from docfloqa.settings import SHIFTS, Settings
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate
from docfloqa.versions import version

QUESTION = ["questionId", "question", "answers", "page", "document_id"]
VERSIONED = ("torch", "transformers", "numpy", "pillow")
SETTINGS_WITH_EFFECT = ("prefix", "precision", "num_beams", "max_new_tokens")


def score_robustness(study: Study) -> pd.DataFrame:
    """Every question of the split that is compared by every run's best model, on all `PAGE_SETS`: `score_runs`."""
    splits = ["validation", TEST] if study.tested else ["validation"]
    return score_runs(study, ROBUSTNESS, load_checked(study.settings, splits)[0][splits[-1]], PAGE_SETS)


def score_cross_sets(study: Study, names: str) -> dict[str, pd.DataFrame]:
    """`score_runs` on the validation split of each of `cross_sets`, by name, of those with scores or models."""
    found, folders = {}, [runs_folder(study.name) / run for run in study.records]
    for name, data in cross_sets(study, names).items():
        if any((folder / BEST_MODEL).is_dir() or kept_identity(folder, CROSS + name) is not None for folder in folders):
            found[name] = score_runs(study, CROSS + name, load_docvqa(data, "validation"), [CLEAN_PAGES])
    return found


def cross_sets(study: Study, names: str) -> dict[str, Settings]:
    """The study's settings with each of the data to validate on that `names` say, quoted as in a shell, by name.

    A name is a shift other than the study's or a folder with a validation split, once; else `SettingsError` is raised.
    """
    found: dict[str, Settings] = {}
    try:
        listed = shlex.split(names)
    except ValueError as error:
        wrong = f"cross are {shown(names)} ({error}); allowed are names, in quotes where they have blanks"
        raise SettingsError(wrong) from None
    for name in listed:
        called, changes = name, {"data": "synth", "validation_data": None, "synth_scale": "small", "synth_shift": name}
        if name not in SHIFTS:
            if not is_folder(folder := resolve(name)):
                raise SettingsError(f"cross is {name!r}; allowed are {', '.join(SHIFTS)} and folders of parquet files")
            called, changes = Path(folder).name, {"validation_data": folder}
        if called in found:
            raise SettingsError(f"cross names {called!r} twice; allowed is once")
        found[called] = study.settings.replace(**changes)
    return {name: settings for name, settings in found.items() if settings != study.settings}


def check_without_folds(study: Study) -> None:
    """Raise `RunError` for a study with folds."""
    if study.settings.folds:
        raise RunError(
            f"study {study.name!r} has {study.settings.folds} folds, and bad scans and other data are for studies "
            "without; docfloqa evaluate RUN scores a run of a fold on its own pages, and with --data on others"
        )


def score_runs(study: Study, name: str, rows: Dataset, page_sets: Sequence[tuple[str, int]]) -> pd.DataFrame:
    """Score each complete run's best model on `rows` under each of `page_sets`; returns `read_scores`.

    Scores are kept as `<name>.parquet` in a run's folder with what identifies them; what is stale is made again, what
    was interrupted goes on. A process for each core, on a GPU one. Raises `RunError` when no run has scores or a model
    to make them with, for a damaged model, and for folds, whose models were trained on most of these pages.
    """
    check_without_folds(study)
    data, stale, tasks = _checksum_of(rows.select_columns(QUESTION).to_dict()), {}, []
    for run, record in study.records.items():
        folder, settings = runs_folder(study.name) / run, Settings.from_dict(record["settings"])
        if not (folder / BEST_MODEL).is_dir():
            continue
        weights = [bytes.fromhex(checksum(path)) for path in sorted((folder / BEST_MODEL).glob("*.safetensors"))]
        # As JSON gives it back.
        identity = {
            "weights": hashlib.sha256(b"".join(weights)).hexdigest(),
            "numbers": NUMBERS,
            "data": data,
            "settings": {key: getattr(settings, key) for key in SETTINGS_WITH_EFFECT},
            "page_sets": [list(page_set) for page_set in page_sets],
            "versions": {package: version(package) for package in VERSIONED},
        }
        if kept_identity(folder, name) != identity:
            waiting = folder / f".{name}.part" / _checksum_of(identity)[:16]
            stale[folder] = identity, [waiting / f"{kind}-{severity}.parquet" for kind, severity in page_sets]
            made = zip(page_sets, stale[folder][1], strict=True)
            tasks += [(Run(run, settings, record), rows, *of, part) for of, part in made if not part.is_file()]
    _in_processes(tasks, f"scoring {name}")
    for folder, (identity, parts) in stale.items():
        frame = pd.concat(map(pd.read_parquet, parts), ignore_index=True)
        frame.attrs = identity
        write_whole(folder / f"{name}.parquet", frame.to_parquet(index=False))
        # Parts of other identities, which were never finished, go with them.
        shutil.rmtree(folder / f".{name}.part")
    return read_scores(study, name)


def _checksum_of(content: dict) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _in_processes(tasks: Sequence[tuple[Any, ...]], name: str) -> None:
    if not tasks:
        return
    device = describe_device()
    workers, threads = (1, None) if device["gpus"] else (min(len(tasks), device["cores"]), 1)
    # A process that is forked would share the threads and the GPU of this one.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (threads,))
    try:
        scored = [pool.submit(_score, *task) for task in tasks]
        for done in tqdm(as_completed(scored), name, len(tasks), unit="page set", disable=None):
            done.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(threads: int | None) -> None:
    if threads:
        torch.set_num_threads(threads)
    # The bars of several processes would be written over each other; errors come back through the pool.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    end_with_parent()


_model = functools.lru_cache(maxsize=1)(Run.load)


def _score(run: Run, rows: Dataset, kind: str, severity: int, part: Path) -> None:
    model, processor = _model(run)
    collator = QuestionCollator(degraded_pages(rows, kind, severity), model, processor, run.settings.prefix)
    answered = pd.DataFrame({"kind": kind, "severity": severity} | dict(evaluate(model, collator, run.settings)))
    write_whole(part, answered.to_parquet(index=False))
