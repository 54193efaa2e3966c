"""A whole study: explore the data, make the runs, analyse them, export the report."""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm
from tqdm.contrib import DummyTqdmFile

from docfloqa.data.hub import pinned
from docfloqa.exceptions import StudyError
from docfloqa.files import held, reports_folder, resolve
from docfloqa.report.export import export, export_study
from docfloqa.report.findings import left_out
from docfloqa.report.verdicts import MARGIN
from docfloqa.runs.plans import check_name
from docfloqa.runs.results import Study, study_status
from docfloqa.runs.run import git_commit, now
from docfloqa.settings import OF_A_RUN, SHIFTS, Settings
from docfloqa.study.doctor import check_study
from docfloqa.study.kernels import execute, settle, stop_kernels
from docfloqa.study.monitor import Watcher
from docfloqa.study.sweep import settings_of_runs

PATIENCE = 60.0  # seconds for a kernel that was interrupted to end


def make_study(
    settings: Settings,
    ratios: Sequence[float],
    seeds: Sequence[int],
    kernel: str | None = None,
    arms: Sequence[str] = (),
    scheduler: str | None = None,
    jobs: int | None = None,
) -> tuple[pd.DataFrame, list[Path]]:
    """Make what is missing of a study and report on it; gives `study_status` and the report's files.

    `03_ablate` makes the runs (arguments as of `sweep`), the other notebooks report, of bad scans where there are arms.
    Raises `SettingsError` and `StudyError` before any work, and `StudyError` for a notebook that fails.
    """
    runs = settings_of_runs(settings, ratios, seeds, arms, jobs).count
    check_name(settings)
    check_study(settings, kernel, scheduler, runs)
    planned = {"ratios": " ".join(map(repr, ratios)), "seeds": " ".join(map(str, seeds)), "arms": " ".join(arms)}
    sweep_parameters = planned | {"kernel": kernel, "scheduler": scheduler, "jobs": jobs}
    sweep_parameters["settings_json"] = settings.to_json()
    # Its kernel tries data and model before any run. What it shows itself is seen in the notebook only.
    with Watcher(settings.study):
        said = dict.fromkeys(("stdout_file", "stderr_file"), DummyTqdmFile(sys.stdout))
        [ablation] = _together(settings.study, lambda: run_notebook("03_ablate", settings, sweep_parameters, **said))
    # Before the analysis, which tells of it.
    scored = score_study(settings.study) if arms else []
    shared = {"settings_json": pinned(settings).to_json()}
    # None of them needs what another one writes.
    reports = _together(
        settings.study,
        lambda: export(run_notebook("04_analyze", settings, {"study": settings.study})),
        lambda: [*export(run_notebook("01_explore_data", settings, shared)), *export(ablation)],
    )
    return study_status(settings.study), sorted([*scored, *chain(*reports)])


def score_study(name: str, cross: Sequence[str] = SHIFTS) -> list[Path]:
    """Score a study's best models on bad scans and other data (`cross`, see `cross_sets`), and export it as files.

    Raises `RunError` when the study has no complete run, or has folds, and `SettingsError` for what is no data.
    """
    study = Study.load(name)
    # It imports torch, for which a wrong name need not wait.
    from docfloqa.analysis.scoring import check_without_folds, cross_sets

    check_without_folds(study)
    # The notebook's kernel works in another folder.
    names = shlex.join(one if one in SHIFTS else resolve(one) for one in cross)
    cross_sets(study, names)
    parameters = {"study": name, "cross": names}
    return export(*_together(name, lambda: run_notebook("05_robustness", study.settings, parameters)))


def report_study(name: str, beside: Sequence[str] = (), margin: float = MARGIN) -> list[Path]:
    """Analyse a study's complete runs and export its executed notebooks as HTML and PDF; returns the files.

    `beside` names other studies, `margin` is that of `verdicts`. Raises `RunError` for a study without a complete run.
    """
    study, *_ = (Study.load(each) for each in (name, *beside))
    notebooks = {"04_analyze": {"beside": " ".join(beside), "margin": margin}}
    if (reports_folder(name) / "05_robustness.ipynb").is_file():
        notebooks = {"05_robustness": {}} | notebooks
    for notebook, parameters in notebooks.items():
        _together(name, partial(run_notebook, notebook, study.settings, {"study": name} | parameters))
    return export_study(reports_folder(name))


def run_notebook(name: str, settings: Settings, parameters: dict[str, Any], **options: Any) -> Path:
    """Execute a notebook of the project with papermill, which gets `options`, into the study's reports, whole or not.

    One that fails is kept as `failed-<name>.ipynb`. Raises `StudyError` naming the error.
    """
    folder = reports_folder(settings.study)
    part, failed = folder / f".{name}.part.ipynb", folder / f"failed-{name}.ipynb"
    with held(f"notebook-{settings.study}-{name}", f"notebook {name} of study {settings.study!r}"):
        started = time.monotonic()
        tqdm.write(f"{name} ...")
        folder.mkdir(parents=True, exist_ok=True)
        try:
            execute(f"{name}.ipynb", part, parameters, **options)
        except KeyboardInterrupt:
            part.unlink(missing_ok=True)
            raise
        except PapermillExecutionError as error:
            settle(part, failed)
            raise StudyError(f"{name} stopped with {error.ename}: {error.evalue}; see {failed}") from None
        of_all = {name: value for name, value in settings.to_dict().items() if name not in OF_A_RUN}
        about = {"study": settings.study, "date": now()[:10], "commit": git_commit(), "settings": of_all}
        if name == "04_analyze":
            about["left_out"] = left_out(Study.load(settings.study))
        failed.unlink(missing_ok=True)
        tqdm.write(f"{name} done in {time.monotonic() - started:.0f} s")
        return settle(part, folder / f"{name}.ipynb", docfloqa=about)


def _together(study: str, *calls: Callable[[], Any]) -> list[Any]:
    """What calls that execute notebooks give, made side by side; Ctrl-C is passed on to their kernels."""
    # Also one alone, since in the main thread nbclient would answer signals itself.
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            wait(futures)
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            # Kernels hear nothing of the terminal; that of a sweep ends those of its runs in turn.
            while wait(futures, 0).not_done:
                stop_kernels([study], signal.SIGINT)
                wait(futures, PATIENCE)
            raise
