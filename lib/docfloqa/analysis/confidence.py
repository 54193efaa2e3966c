"""Whether a model knows when it is right: the confidence of its answers against their being right."""

import numpy as np
import pandas as pd

from docfloqa.analysis.intervals import NONE, RATIO, interval_table, text_table
from docfloqa.exceptions import RunError
from docfloqa.runs.results import Study, once_for_study

# A confidence is the probability of one text, so "right" is what is said of one text.
RIGHT = "exact_match"
BINS = 10
COVERAGES = np.arange(1, 21) / 20
COLUMNS = {
    "confidence": "mean confidence (%)",
    RIGHT: "right (%)",
    "excess": "confidence − right",
    "half": "right of the surer half (%)",
}


def has_confidence(study: Study) -> bool:
    """Whether every answer of the study came with its probability; runs of earlier versions lack it."""
    return "confidence" in study.last_answers and study.last_answers["confidence"].notna().all()


def confident_answers(study: Study) -> pd.DataFrame:
    """The answers after the last epoch, each with its `confidence` in [0, 1]; raises `RunError` where one has none."""
    if not has_confidence(study):
        raise RunError(
            f"study {study.name!r} has a run whose predictions lack the column 'confidence': an earlier version made "
            "it. Make the study's runs again to see whether the model knows when it is right"
        )
    return study.last_answers


def reliability(study: Study) -> pd.DataFrame:
    """An `interval_table` of the share right by ratio and bin, with the bin's mean confidence; all in [0, 1].

    Of each ratio `BINS` bins have equally many answers, of all seeds together, the least confident in the first.
    """
    answers = confident_answers(study)
    places = answers.groupby(RATIO)["confidence"].rank(method="first", pct=True)
    # A bin need not have every seed's answer on a document: seeds are answers like others.
    answers = answers.assign(bin=np.ceil(BINS * places)).drop(columns=["seed", "question_id"])
    means = answers.groupby([RATIO, "bin"])["confidence"].mean()
    return interval_table(answers, [RATIO, "bin"], [RIGHT]).join(means, on=[RATIO, "bin"])


@once_for_study
def coverage_curve(study: Study) -> pd.DataFrame:
    """An `interval_table` of the share right of each seed's most confident answers, by ratio and `coverage`.

    Both shares are in [0, 1]. An interval is of the answers above a fixed confidence.
    Source: El-Yaniv & Wiener, Journal of Machine Learning Research 11, 2010 (accuracy is 1 − risk).
    """
    answers = confident_answers(study)
    places = answers.groupby([RATIO, "seed"])["confidence"].rank(method="first", ascending=False, pct=True)
    surest = pd.concat(answers[places <= coverage].assign(coverage=coverage) for coverage in COVERAGES)
    return interval_table(surest.drop(columns=["seed", "question_id"]), [RATIO, "coverage"], [RIGHT])


def calibration(study: Study) -> pd.DataFrame:
    """By ratio, as text: confidence against being right, in percent and points, with 95 % intervals over documents."""
    answers = confident_answers(study).assign(excess=lambda frame: frame["confidence"] - frame[RIGHT])
    half = coverage_curve(study).query("coverage == 0.5").assign(metric="half")
    table = pd.concat([interval_table(answers, [RATIO], ["confidence", RIGHT, "excess"]), half], ignore_index=True)
    return text_table(table.replace({"metric": COLUMNS}), RATIO, "metric", "ratio").fillna(NONE)
