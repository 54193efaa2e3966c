"""What a study's saved models answered on other pages: its own ones degraded, and those of other data."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.integrate import trapezoid

from docfloqa.analysis.intervals import RATIO
from docfloqa.analysis.paired import KEYS
from docfloqa.data.degradations import CLEAN, SEVERITIES
from docfloqa.exceptions import RunError
from docfloqa.files import reports_folder, runs_folder
from docfloqa.runs.plans import study_command
from docfloqa.runs.results import Study
from docfloqa.runs.run import BEST_MODEL
from docfloqa.runs.tables import PACKED, read_tables
from docfloqa.versions import DEGRADATIONS, PAGES, TRAINING

ROBUSTNESS, CROSS = "robustness", "cross-"
ALL_KINDS = "all degradations"
AREA, KEPT = "area", "kept"
CLEAN_PAGES = (CLEAN, 0)
PAGE_SETS = (CLEAN_PAGES, *((kind, place) for kind in SEVERITIES for place in (1, 2, 3)))
NUMBERS = [TRAINING, PAGES, DEGRADATIONS]
FIRST_NUMBERS = [1, 1, 1]  # of scores that were made before there were numbers


def scored(study: Study) -> list[str]:
    """What any run has scores of: `ROBUSTNESS` first, then `CROSS` with the names of other data."""
    folders = [*(runs_folder(study.name) / run for run in study.records), reports_folder(study.name) / PACKED]
    stems = {path.stem for folder in folders for path in folder.glob("*.parquet")}
    return [*({ROBUSTNESS} & stems), *sorted(stem for stem in stems if stem.startswith(CROSS))]


def read_scores(study: Study, name: str) -> pd.DataFrame:
    """What the runs' files `<name>.parquet` hold: a row for each run, page set and question.

    Columns: run, vision_trainable, seed, kind, severity (0 to 3), and those of `evaluate`. Raises `RunError` for none.
    """
    if all(kept_identity(runs_folder(study.name) / run, name) is None for run in study.records):
        raise RunError(f"no run of study {study.name!r} has {name}.parquet: {_remedy(study)}")
    answers = study.collect(f"{name}.parquet").drop(columns="epoch")
    answers.attrs = {}
    return answers


def severity_curves(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers of `read_scores` with those on clean pages as severity 0 of every degradation."""
    clean, degraded = answers[answers["kind"] == CLEAN], answers[answers["kind"] != CLEAN]
    return pd.concat([*(clean.assign(kind=kind) for kind in SEVERITIES), degraded], ignore_index=True)


def area_under_curve(answers: pd.DataFrame) -> pd.DataFrame:
    """The area under the curve of ANLS over severities, of every run, question and degradation.

    `clean` and `area` (mean over severities 0 to 3 by the trapezoidal rule) are in [0, 1]; `kept` has the mean and the
    variance of the share of a ratio's clean score that is kept, area over clean: kept + (area − kept · clean) / clean,
    0 where nothing is right on clean pages. The kind `ALL_KINDS` has the mean over degradations. Raises ValueError
    where an answer is lacking. Source of the linearised ratio: Cochran, Sampling Techniques, 1977, 6.4.
    """
    keys = ["run", RATIO, *KEYS]
    curves = severity_curves(answers).pivot(index=[*keys, "kind"], columns="severity", values="anls")
    if curves.columns.tolist() != [0, 1, 2, 3] or curves.isna().any(axis=None):
        raise ValueError("every question must be answered on the clean page and at severities 1 to 3")
    areas = pd.DataFrame({CLEAN: curves[0], AREA: trapezoid(curves, x=curves.columns, axis=1) / 3})
    areas = areas.reset_index().sort_values("kind", key=lambda kinds: kinds.map([*SEVERITIES].index), kind="stable")
    together = areas.groupby(keys, as_index=False)[[CLEAN, AREA]].mean().assign(kind=ALL_KINDS)
    areas = pd.concat([areas, together], ignore_index=True)
    means = areas.groupby([RATIO, "kind"])[[CLEAN, AREA]].transform("mean")
    share = means[AREA] / means[CLEAN]
    kept = share + (areas[AREA] - share * areas[CLEAN]) / means[CLEAN]
    return areas.assign(kept=kept.where(means[CLEAN] > 0, 0.0))


def unscored(study: Study, names: Sequence[str]) -> pd.DataFrame:
    """Runs that are missing from the scores of `names`, or have them of code with other results; may be empty."""
    rows = [(run, "all", "the run is not complete; run 03_ablate") for run in study.missing]
    for run, name in product(study.records, names):
        kept = kept_identity(runs_folder(study.name) / run, name)
        if kept is None:
            rows.append((run, name, f"missing, and {_remedy(study)}"))
        elif kept.get("numbers", FIRST_NUMBERS) != NUMBERS:
            rows.append((run, name, f"made by code with other results, and {_remedy(study)}"))
    return pd.DataFrame(rows, columns=["run", "scores", "reservation"])


def kept_identity(folder: Path, name: str) -> dict[str, Any] | None:
    """What the scores `name` of the run of a folder were made of; None when there are none."""
    found = read_tables([folder], f"{name}.parquet", columns=["severity"])
    return found[folder.name].attrs if found else None


def _remedy(study: Study) -> str:
    return (
        f"the weights ({BEST_MODEL}/) are not here; {study_command(study.name)}, with DOCFLOQA_OUTPUT set to an empty "
        "folder, makes both"
    )
