"""Runs as a list: how each stands, read from its folder."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from docfloqa.exceptions import RunError
from docfloqa.files import output_folder, reports_folder, runs_folder
from docfloqa.runs.plans import PLAN, read_plan
from docfloqa.runs.run import COMPLETE, is_complete, read_record
from docfloqa.runs.tables import EPOCHS, PACKED, RECORD, packed_records, read_tables

COLUMNS = "study run arm ratio seed status epochs of anls".split()
EARLIER = "earlier"


def status(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """How each run of a study stands, read from its folder: `epochs` trained `of` those wanted, ANLS after the last."""
    folders = list(folders)
    scores = read_tables(folders, EPOCHS) if folders else {}
    return [_row(folder, scores.get(folder.name)) for folder in folders]


def _row(folder: Path, epochs: pd.DataFrame | None) -> dict[str, Any]:
    record, complete = read_record(folder), is_complete(folder)
    # A run that failed before it began has its identity only.
    settings = record.get("settings") or record.get("identity", {}).get("settings", {})
    # The first file of an epoch is of the evaluation before training.
    kept = len([*(folder / "epochs").glob("epoch-*.json")]) - 1
    return {
        "run": folder.name,
        "vision_trainable": settings.get("vision_trainable"),
        "seed": settings.get("seed"),
        "status": COMPLETE if complete else record.get("status", "not begun"),
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

    The runs of a plan's ratios have no arm, and those that it no longer has are "earlier". Raises `RunError` for a
    study that has neither plan nor runs.
    """
    found = {path.parent.name for name in (PLAN, PACKED) for path in output_folder().glob(f"reports/*/{name}")}
    studies = sorted(found | {path.parts[-4] for path in output_folder().glob(f"reports/*/runs/*/{RECORD}")})
    if study is not None and study not in studies:
        here = f"studies here are {', '.join(studies)}" if studies else "there is none here yet: make study"
        raise RunError(f"there is no study {study!r}; {here}")
    rows = chain.from_iterable(map(_rows, studies if study is None else [study]))
    return pd.DataFrame(rows).rename(columns={"vision_trainable": "ratio"}).reindex(columns=COLUMNS).convert_dtypes()


def _rows(study: str) -> list[dict[str, Any]]:
    plan = read_plan(reports_folder(study))
    arms = dict.fromkeys(plan.get("runs", []), "")
    for arm, variants in chain(*(plan.get(part, {}).items() for part in ("arms", "trials"))):
        arms = dict.fromkeys(chain(*variants.values()), arm) | arms
    there = {path.parent.name for path in runs_folder(study).glob(f"*/{RECORD}")} | {
        *packed_records(reports_folder(study))
    }
    # As they are planned: the ratios, the arms, and what is left of other plans.
    names = [*plan.get("runs", []), *(run for run in arms if arms[run]), *sorted(there - arms.keys())]
    found = status(runs_folder(study) / run for run in names)
    return [row | {"study": study, "arm": arms.get(row["run"], EARLIER)} for row in found]
