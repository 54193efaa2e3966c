"""Every comparison that a study plans, made from the names of its ratios, arms and data."""

from __future__ import annotations

import re

import pandas as pd

from docfloqa.analysis.intervals import RATIO, percent
from docfloqa.analysis.paired import Comparison, Interaction, compare, compare_all
from docfloqa.analysis.robustness import CROSS, ROBUSTNESS, read_scores
from docfloqa.analysis.robustness_tables import ALL_KINDS, AREA, LOST, area_under_curve
from docfloqa.arms import ARMS
from docfloqa.files import runs_folder
from docfloqa.runs.results import Study, once_for_study

VARIANT = "variant"
RATIOS = "ratios"
BETWEEN = "between shifts"
SCORED = ["anls", "exact_match"]


@once_for_study
def contrasts(study: Study) -> list[Comparison]:
    """Every planned comparison: of the ratios, of each arm of the plan, on degraded pages and on other data.

    Differences are in ANLS, the second group's less the first's. What cannot be compared says why (`reason`). Of
    degraded pages and other data there are those that were scored.
    """
    found = ratio_contrasts(study)
    for arm in study.arms:
        found += arm_contrasts(study, arm) + interactions(study, arm)
    return found + scored_contrasts(study)


@once_for_study
def ratio_contrasts(study: Study) -> list[Comparison]:
    """Every two ratios after the last epoch, the lower one first, then planned ratios without a complete run."""
    found = compare_all(study.last_answers, RATIO, family=RATIOS)
    # Of a run that was never begun there is only its name.
    named = {run: re.match(r"vision(\d{3})-", run) for run in study.missing}
    planned = {
        record["settings"][RATIO] if record else int(named[run][1]) / 100
        for run, record in study.missing.items()
        if record or named[run]
    }
    return found + [
        Comparison(RATIOS, study.runs[RATIO].min(), ratio, reason=f"no complete run of {percent(ratio)}")
        for ratio in sorted(planned - set(study.runs[RATIO]))
    ]


def lacking(study: Study, arm: str) -> str:
    """Why an arm has nothing to compare; empty where it has complete runs and this version knows it."""
    if arm not in ARMS:
        return f"This version has no arm `{arm}`; it has {', '.join(ARMS)}."
    if study.arm(arm):
        return ""
    return f"This study has no complete run of the arm `{arm}`; `make study ARMS={arm} NAME={study.name}` makes it."


def arm_answers(study: Study, arm: str) -> pd.DataFrame:
    """Every answer of an arm's last epochs, with `variant`; empty where no run of it is complete.

    A variant counts with the seeds that are complete.
    """
    runs = study.arm(arm)
    if runs is None:
        return pd.DataFrame(columns=[VARIANT, "seed", "epoch", "document_id", "question_id", *SCORED])
    return runs.last_answers


@once_for_study
def arm_contrasts(study: Study, arm: str) -> list[Comparison]:
    """What an arm compares, in its order; a single one that says why where it has nothing to compare."""
    if why := lacking(study, arm):
        return [Comparison(f"arm {arm}", reason=why)]
    answers = arm_answers(study, arm)
    return [
        compare(answers, VARIANT, each.first, each.second, family=f"arm {arm}", says=each.says)
        for each in ARMS[arm](study.settings).contrasts
    ]


@once_for_study
def interactions(study: Study, arm: str) -> list[Comparison]:
    """By how much an arm's differences differ between the documents of two shifts, where it asks that."""
    if lacking(study, arm):
        return []
    planned = ARMS[arm](study.settings)
    differences = dict(zip(planned.contrasts, arm_contrasts(study, arm), strict=True))
    found = []
    for there, here in planned.interactions:
        described = {"family": f"arm {arm}, {BETWEEN}", "first": there.shift, "second": here.shift, "where": here.says}
        pair = [differences[each].difference for each in (there, here)]
        if all(pair):
            found.append(Comparison(**described, difference=Interaction(*pair)))
        else:
            reasons = {differences[each].reason for each in (there, here)} - {""}
            found.append(Comparison(**described, reason="; ".join(sorted(reasons))))
    return found


def scored_contrasts(study: Study) -> list[Comparison]:
    """Every two ratios' best models on degraded pages (area under the curve, and what is lost) and on other data."""
    folders = [runs_folder(study.name) / run for run in study.records]
    found: list[Comparison] = []
    if any((folder / f"{ROBUSTNESS}.parquet").is_file() for folder in folders):
        areas = area_under_curve(read_scores(study, ROBUSTNESS))
        together = areas[areas["kind"] == ALL_KINDS]
        for metric, family in {AREA: "bad scans", LOST: "points lost on bad scans"}.items():
            found += compare_all(together, RATIO, metric, family=family)
    for name in sorted({path.stem for folder in folders for path in folder.glob(f"{CROSS}*.parquet")}):
        data = name.removeprefix(CROSS)
        found += compare_all(read_scores(study, name), RATIO, family="other data", where=f"on {data}")
    return found
