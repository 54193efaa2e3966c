"""What the published ablation's own figures can say about its ratios: they come without their questions."""

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

    For both measures the difference with Miettinen and Nurminen's unpaired 95 % interval (Statistics in Medicine 4,
    1985), the p-value of their test after Holm's correction, and the bounds of `mcnemar_bounds`. A percentage that is
    no share of 500 questions is taken as it is; the bounds are the widest with the whole numbers beside it.
    `attrs["note"]` says so for readers of the table.
    """
    ablation, columns = PUBLISHED["freezing_ablation_epoch_8"], {}
    for measure, name in MEASURES.items():
        # Statsmodels takes the first − the second.
        pairs = [
            (high, QUESTIONS, low, QUESTIONS)
            for low, high in combinations([QUESTIONS * value / 100 for value in ablation[measure]], 2)
        ]
        intervals = [
            Interval((pair[0] - pair[2]) / QUESTIONS, *map(float, confint_proportions_2indep(*pair, method="score")))
            for pair in pairs
        ]
        p_values = holm([test_proportions_2indep(*pair, method="score").pvalue for pair in pairs])
        columns[name, "difference [95 %, unpaired]"] = [interval.format(100) for interval in intervals]
        columns[name, "p (Holm, unpaired)"] = [*map(p_text, p_values)]
        columns[name, "p if paired, one pair"] = [_paired_bounds(low, high) for high, _, low, _ in pairs]
    names = [f"{percent(high)} − {percent(low)}" for low, high in combinations(ablation[RATIO], 2)]
    frame = pd.DataFrame(columns, index=pd.Index(names, name="published, points"))
    odd = [
        f"{value} % {name}"
        for measure, name in MEASURES.items()
        for value in ablation[measure]
        if len(_whole(QUESTIONS * value / 100)) > 1
    ]
    frame.attrs["note"] = (
        f"Published: after epoch {PUBLISHED['setting']['epochs']}, {QUESTIONS} questions, one training run, "
        "intervals of one pair alone. Which questions were right was not published, so a paired test has bounds "
        "only: its p-value if one ratio was right wherever the other was, and if they were right on as different "
        "questions as there can be. Both take questions as independent, which those of one document are not. "
        f"{', '.join(odd)} are no shares of {QUESTIONS} questions: they are taken as they are, and the bounds are "
        "the widest with the whole numbers beside them."
    )
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


def _paired_bounds(first: float, second: float) -> str:
    bounds = [mcnemar_bounds(*whole, QUESTIONS) for whole in product(_whole(first), _whole(second))]
    return f"{p_text(min(low for low, _ in bounds))} to {p_text(max(high for _, high in bounds))}"


def _whole(count: float) -> set[int]:
    """The whole numbers beside a count of questions, itself if it is one but for rounding."""
    count = round(count, 6)
    return {math.floor(count), math.ceil(count)}
