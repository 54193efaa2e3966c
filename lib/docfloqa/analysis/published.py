"""What the published ablation's own figures can say about its ratios: they come without their questions."""

from __future__ import annotations

import math
from itertools import combinations, product

import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

from docfloqa.analysis.intervals import RATIO, Interval, p_text, percent
from docfloqa.analysis.paired import holm, mcnemar_bounds
from docfloqa.analysis.tables import PUBLISHED

QUESTIONS = 500
MEASURES = {"accuracy": "accuracy", "exact_match": "exact match"}


def published_differences() -> pd.DataFrame:
    """Differences between every two published ratios, in points of accuracy and of exact match, as text.

    Six rows, one for each pair; for both measures the difference with an unpaired 95 % interval of that pair
    alone, the unpaired p-value after Holm's correction for six pairs, and the bounds between which McNemar's
    exact p-value of that pair alone lies, whichever questions were right (`comparisons.mcnemar_bounds`).

    There are no published answers to single questions. So pairing, which the same questions for every ratio
    would allow, gives bounds only. Neither allows for several questions on a document, nor for another
    training run. A percentage that is no share of 500 questions is taken as it is for difference, interval
    and test; the bounds, which need whole numbers, are the widest with the numbers below and above it.

    `attrs["note"]` says so for readers of the table. Interval and test are Miettinen and Nurminen's, which
    agree with each other (Statistics in Medicine 4, 1985).
    """
    ablation = PUBLISHED["freezing_ablation_epoch_8"]
    pairs = list(combinations(range(len(ablation[RATIO])), 2))
    columns = {}
    for measure, name in MEASURES.items():
        counts = [QUESTIONS * value / 100 for value in ablation[measure]]
        p_values = [_unpaired_p_value(counts[low], counts[high]) for low, high in pairs]
        bounds = [_paired_bounds(counts[low], counts[high]) for low, high in pairs]
        columns[name, "difference [95 %, unpaired]"] = [
            _unpaired(counts[low], counts[high]).format(100) for low, high in pairs
        ]
        columns[name, "p (Holm, unpaired)"] = [*map(p_text, holm(p_values))]
        columns[name, "p if paired, one pair"] = [" to ".join(map(p_text, ends)) for ends in bounds]
    ratios = [percent(ratio) for ratio in ablation[RATIO]]
    names = [f"{ratios[high]} less {ratios[low]}" for low, high in pairs]
    frame = pd.DataFrame(columns, index=pd.Index(names, name="published, points"))
    frame.attrs["note"] = _note()
    return frame


def published_systems() -> pd.DataFrame:
    """Published DocVQA figures of other systems, in points, as text: a row each, with the split and the measure."""
    rows = []
    for entry in PUBLISHED["other_published_docvqa_figures"]:
        measure = next(name for name in ("anls", "similarity") if name in entry)
        values = entry[measure] if isinstance(entry[measure], list) else [entry[measure]]
        name = {"anls": "ANLS", "similarity": "similarity, first answer"}[measure]
        rows.append((entry["system"], entry["split"], name, " / ".join(f"{value:.1f}" for value in values)))
    frame = pd.DataFrame(rows, columns=["system", "split", "measure", "published (%)"]).set_index("system")
    frame.attrs["note"] = "Measures and splits differ, so rows cannot be compared with one another."
    return frame


def _unpaired(first: float, second: float) -> Interval:
    # Statsmodels takes the first less the second.
    low, high = confint_proportions_2indep(second, QUESTIONS, first, QUESTIONS, method="score")
    return Interval((second - first) / QUESTIONS, float(low), float(high))


def _unpaired_p_value(first: float, second: float) -> float:
    return float(test_proportions_2indep(second, QUESTIONS, first, QUESTIONS, method="score").pvalue)


def _paired_bounds(first: float, second: float) -> tuple[float, float]:
    bounds = [mcnemar_bounds(*whole, QUESTIONS) for whole in product(_whole(first), _whole(second))]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _whole(count: float) -> set[int]:
    """The whole numbers beside a count of questions, itself if it is one but for rounding."""
    count = round(count, 6)
    return {math.floor(count), math.ceil(count)}


def _note() -> str:
    ablation = PUBLISHED["freezing_ablation_epoch_8"]
    odd = [
        f"{value} % {name}"
        for measure, name in MEASURES.items()
        for value in ablation[measure]
        if len(_whole(QUESTIONS * value / 100)) > 1
    ]
    return (
        f"Published: after epoch {PUBLISHED['setting']['epochs']}, {QUESTIONS} questions, one training run, "
        "intervals of one pair alone. Which questions were right was not published, so a paired test has bounds "
        "only: its p-value if one ratio was right wherever the other was, and if they were right on as different "
        "questions as there can be. Both take questions as independent, which those of one document are not. "
        f"{', '.join(odd)} are no shares of {QUESTIONS} questions: they are taken as they are, and the bounds are "
        "the widest with the whole numbers beside them."
    )
