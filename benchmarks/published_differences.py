"""What the published ablation's own figures can say about its ratios: they come without their questions.

    .venv/bin/python benchmarks/published_differences.py

prints the table that `published.json` holds under "published_differences", so that a report need not compute it.
"""

from __future__ import annotations

import json
import math
from itertools import combinations, product

import pandas as pd
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import confint_proportions_2indep, test_proportions_2indep

from docfloqa.analysis.intervals import RATIO, Interval, p_text, percent
from docfloqa.analysis.paired import holm
from docfloqa.analysis.tables import PUBLISHED

QUESTIONS = 500
MEASURES = {"accuracy": "accuracy", "exact_match": "exact match"}


def published_differences() -> pd.DataFrame:
    """Differences between every two published ratios, in points of accuracy and of exact match, as text.

    The difference with Miettinen and Nurminen's unpaired 95 % interval (Statistics in Medicine 4, 1985), the p-value
    of their test after Holm's correction, and `mcnemar_bounds`; `attrs["note"]` says what they rest on.
    """
    ablation, columns, odd = PUBLISHED["freezing_ablation_epoch_8"], {}, []
    for measure, name in MEASURES.items():
        odd += [f"{value} % {name}" for value in ablation[measure] if len(_whole(QUESTIONS * value / 100)) > 1]
        rows = []
        for low, high in combinations([QUESTIONS * value / 100 for value in ablation[measure]], 2):
            # Statsmodels takes the first − the second.
            pair = high, QUESTIONS, low, QUESTIONS
            interval = Interval((high - low) / QUESTIONS, *confint_proportions_2indep(*pair, method="score"))
            bounds = [mcnemar_bounds(*whole, QUESTIONS) for whole in product(_whole(low), _whole(high))]
            between = f"{p_text(min(least for least, _ in bounds))} to {p_text(max(most for _, most in bounds))}"
            rows.append((interval.format(100), test_proportions_2indep(*pair, method="score").pvalue, between))
        differences, p_values, bounds = zip(*rows, strict=True)
        columns[name, "difference [95 %, unpaired]"] = differences
        columns[name, "p (Holm, unpaired)"] = [*map(p_text, holm(p_values))]
        columns[name, "p if paired, one pair"] = bounds
    names = [f"{percent(high)} − {percent(low)}" for low, high in combinations(ablation[RATIO], 2)]
    frame = pd.DataFrame(columns, index=pd.Index(names, name="published, points"))
    frame.attrs["note"] = (
        f"Published: after epoch {PUBLISHED['setting']['epochs']}, {QUESTIONS} questions, one training run, "
        "intervals of one pair alone. Which questions were right was not published, so a paired test has bounds "
        "only: its p-value if one ratio was right wherever the other was, and if they were right on as different "
        "questions as there can be. Both take questions as independent, which those of one document are not. "
        f"{', '.join(odd)} are no shares of {QUESTIONS} questions: they are taken as they are, and the bounds are "
        "the widest with the whole numbers beside them."
    )
    return frame


def mcnemar_bounds(first: int, second: int, questions: int) -> tuple[float, float]:
    """The least and the greatest p-value of McNemar's exact test that two numbers of right answers allow."""
    worse, better = sorted((first, second))
    # Only the worse side has `swapped` questions right, from none to as many as there can be; p rises with every one.
    swaps = (0, min(worse, questions - better))
    return tuple(mcnemar([[0, swapped], [swapped + better - worse, 0]], exact=True).pvalue for swapped in swaps)


def _whole(count: float) -> set[int]:
    """The whole numbers beside a count of questions, itself if it is one but for rounding."""
    count = round(count, 6)
    return {math.floor(count), math.ceil(count)}


if __name__ == "__main__":
    made = published_differences()
    print(json.dumps({"note": made.attrs["note"], **made.to_dict(orient="tight")}, indent=1, ensure_ascii=False))
