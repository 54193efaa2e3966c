"""A whole study: explore the data, make the runs, analyse them, export the report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from docfloqa.exceptions import StudyError
from docfloqa.files import held, reports_folder
from docfloqa.hub import pinned
from docfloqa.report.export import export, export_study
from docfloqa.runs.results import Study
from docfloqa.runs.run import COMPLETE, git_commit, now
from docfloqa.settings import SHIFTS, Settings
from docfloqa.study.doctor import check_study
from docfloqa.study.kernels import KernelDiedError, execute, settle
from docfloqa.study.sweep import sweep


@dataclass(frozen=True)
class Outcome:
    """How the runs of a study stand, and the report's files."""

    runs: pd.DataFrame
    files: list[Path]

    @property
    def complete(self) -> bool:
        """Whether every planned run is complete."""
        return bool((self.runs["status"] == COMPLETE).all())


def make_study(
    settings: Settings,
    ratios: Sequence[float],
    seeds: Sequence[int],
    kernel: str | None = None,
    arms: Sequence[str] = (),
    scheduler: str | None = None,
) -> Outcome:
    """Make what is missing of a study and report on it; what is complete already is kept.

    A run that fails is told in the outcome, and the report is made from the others. With arms, the best models
    are scored on bad scans as well.

    Raises `StudyError` and what `sweep` raises before any work, `StudyError` for a notebook that fails, and
    `RunError` when no run is complete.
    """
    check_study(settings, kernel, scheduler)
    # Before the rest, since it tries kernel, data and model before any work.
    runs = sweep(settings, ratios, seeds, kernel, arms, scheduler)
    shared = {"settings_json": pinned(settings).to_json()}
    sweep_parameters = {
        "ratios": " ".join(map(repr, ratios)),
        "seeds": " ".join(map(str, seeds)),
        "arms": " ".join(arms),
        "kernel": kernel,
    }
    # None of them needs what another one writes. The first takes as long as the other two, which follow one another.
    notebooks = {
        "04_analyze": {"study": settings.study},
        "01_explore_data": shared,
        "03_ablate": shared | sweep_parameters,
    }
    # Told before any of them begins: without a complete run there is nothing to report on.
    Study.load(settings.study)
    # Before the analysis, which tells of it.
    scored = score_study(settings.study) if arms else []
    with ThreadPoolExecutor(2) as pool:
        reports = [
            pool.submit(lambda name, parameters: export(run_notebook(name, settings, parameters)), *notebook)
            for notebook in notebooks.items()
        ]
    return Outcome(runs, sorted([*scored, *(path for report in reports for path in report.result())]))


def score_study(name: str, cross: Sequence[str] = SHIFTS) -> list[Path]:
    """Score a study's best models on bad scans and other data, and export what came out; returns the files.

    `cross` names other data, as `docfloqa.analysis.robustness.cross_sets` takes it. What is scored already is not
    again. Raises `RunError` when the study has no complete run.
    """
    parameters = {"study": name, "cross": " ".join(cross)}
    return export(run_notebook("05_robustness", Study.load(name).settings, parameters))


def report_study(name: str, beside: Sequence[str] = ()) -> list[Path]:
    """Analyse a study's complete runs and export its executed notebooks as HTML and PDF; returns the files.

    What was scored on bad scans is analysed again, too. The scores of the studies named in `beside` are set
    beside it. Raises `RunError` when one of these studies has no complete run.
    """
    study, *_ = (Study.load(each) for each in (name, *beside))
    if (reports_folder(name) / "05_robustness.ipynb").is_file():
        run_notebook("05_robustness", study.settings, {"study": name})
    run_notebook("04_analyze", study.settings, {"study": name, "beside": " ".join(beside)})
    return export_study(reports_folder(name))


def run_notebook(name: str, settings: Settings, parameters: dict[str, Any]) -> Path:
    """Execute a notebook of the project with papermill into the study's reports, whole or not at all.

    The executed notebook carries the study's name, date, commit and settings in its metadata. One that
    fails is kept as `failed-<name>.ipynb`. Raises `StudyError` naming the error.
    """
    with held(f"notebook-{settings.study}-{name}", f"notebook {name} of study {settings.study!r}"):
        return _run_notebook(name, settings, parameters)


def _run_notebook(name: str, settings: Settings, parameters: dict[str, Any]) -> Path:
    started = time.monotonic()
    tqdm.write(f"{name} ...")
    folder = reports_folder(settings.study)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part.ipynb"
    try:
        execute(f"{name}.ipynb", part, parameters)
    except KernelDiedError as error:
        raise StudyError(f"{name} stopped: {error}; the same command goes on from here") from None
    except PapermillExecutionError as error:
        failed = settle(part, folder / f"failed-{name}.ipynb")
        raise StudyError(f"{name} stopped with {error.ename}: {error.evalue}; see {failed}") from None
    about = {
        "study": settings.study,
        "date": now()[:10],
        "commit": git_commit(),
        "settings": {
            name: value for name, value in settings.to_dict().items() if name not in ("vision_trainable", "seed")
        },
    }
    (folder / f"failed-{name}.ipynb").unlink(missing_ok=True)
    tqdm.write(f"{name} done in {time.monotonic() - started:.0f} s")
    return settle(part, folder / f"{name}.ipynb", docfloqa=about)
