"""What a study's comparisons come to: a row each with difference, interval, p-value and a verdict in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t as student

from docfloqa.analysis.arm_tables import arm_differences, arm_of, interaction_tests
from docfloqa.analysis.intervals import Interval, p_text
from docfloqa.analysis.paired import StudentEstimate, holm
from docfloqa.analysis.robustness import ROBUSTNESS, read_scores
from docfloqa.analysis.robustness_tables import ALL_KINDS, AREA, LOST, area_under_curve, compare_ratios
from docfloqa.analysis.tables import NONE, RATIO, SIGNIFICANT, page_use_scores, paired_differences, percent
from docfloqa.arms import ARMS
from docfloqa.exceptions import RunError
from docfloqa.runs.results import Study
from docfloqa.text import NO_BREAK

BETTER, WORSE, OPEN = "better", "worse", "not settled"
MARGIN = 2.0  # points of ANLS
RATIOS, LOSSES = "ratios", "points lost on bad scans"
# How much better a model must answer with a question's own page than with another document's before anything is
# compared: dates and amounts look so much alike that guessing them blindly already scores.
FLOOR = 0.05

# A comparison's name and its difference; None where runs or documents are lacking.
Differences = dict[str, StudentEstimate | None]


def verdicts(study: Study, margin: float = MARGIN) -> pd.DataFrame:
    """All that a study compares, one row each: ratios, arms, and ratios on bad scans where they were scored.

    Columns: part (p-values have Holm's correction within one), comparison, difference, low, high (points of ANLS,
    95 % interval over documents and seeds), p, verdict. A verdict is "better" or "worse" where p is below 0.05; "the
    same within 2 points" where two one-sided tests (Schuirmann 1987, with Holm's correction) show a difference below
    `margin`; else "not settled", which is also what is said of all where the model does not read the pages, and of
    what has no runs. Raises ValueError for a margin that is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}; allowed are points of ANLS above 0")
    reads, rows = reads_pages(study), []
    for part, differences in _parts(study):
        made = {name: difference for name, difference in differences.items() if difference}
        different = dict(zip(made, holm([one.p_value() for one in made.values()]), strict=True))
        same = dict(zip(made, holm([_same(one, margin / 100) for one in made.values()]), strict=True))
        for name, difference in differences.items():
            ends = vars(difference.interval()).values() if difference else [np.nan] * 3
            estimate, low, high = (100 * end for end in ends)
            verdict = OPEN
            if reads and different.get(name, 1) < SIGNIFICANT:
                verdict = BETTER if (estimate > 0) != (part == LOSSES) else WORSE
            elif reads and same.get(name, 1) < SIGNIFICANT:
                verdict = f"the same within {margin:g} points"
            rows.append((part, name, estimate, low, high, different.get(name, np.nan), verdict))
    frame = pd.DataFrame(rows, columns=["part", "comparison", "difference", "low", "high", "p", "verdict"])
    if not reads:
        frame.attrs["note"] = (
            f"No model answers clearly better with a question's own page than with another document's ({100 * FLOOR:g} "
            "points): it could not be shown that the pages are read, so nothing is settled."
        )
    return frame


def readable(found: pd.DataFrame, part: str | None = None) -> pd.DataFrame:
    """What `verdicts` gives, or one part of it, as text for a table."""
    rows = found if part is None else found[found["part"] == part]
    columns = {
        "comparison": rows["comparison"],
        "difference [95 %]": [_text(row).replace(", ", f",{NO_BREAK}") for row in rows.itertuples()],
        "p (Holm)": [NONE if pd.isna(p) else p_text(p) for p in rows["p"]],
        "verdict": rows["verdict"],
    }
    # Of each part the first row alone names it.
    names = {"among": rows["part"].where(~rows["part"].duplicated(), "")} if part is None else {}
    frame = pd.DataFrame({**names, **columns}).reset_index(drop=True)
    frame.attrs = found.attrs
    return frame


def as_text(found: pd.DataFrame) -> str:
    """What `verdicts` gives for a terminal: a block for every part, with the note below."""
    lines = []
    for part, rows in found.groupby("part", sort=False):
        lines.append(f"{part}, points of ANLS [95 %]:")
        width = rows["comparison"].str.len().max()
        lines += [f"  {row.comparison:<{width}}  {_text(row):<19}  {row.verdict}" for row in rows.itertuples()]
    return "\n".join([*lines, *found.attrs.values()])


def reads_pages(study: Study) -> bool:
    """Whether some ratio reads the pages: only then can be compared.

    A ratio does if its ANLS with a question's own page is at least `FLOOR` above that with another document's, and
    the difference's interval above 0.
    """
    gains = page_use_scores(study).query("metric == 'difference'")
    return bool(((gains["estimate"] >= FLOOR) & ((gains["low"] > 0) | gains["low"].isna())).any())


def _text(row: tuple) -> str:
    return NONE if pd.isna(row.difference) else Interval(row.difference, row.low, row.high).format()


def _same(difference: StudentEstimate, margin: float) -> float:
    """The p-value of two one-sided tests that the truth is within `margin` of 0."""
    beyond = abs(difference.estimate) - margin
    if difference.standard_error == 0:
        return float(beyond >= 0)
    return float(student.cdf(beyond / difference.standard_error, difference.degrees_of_freedom))


def _parts(study: Study) -> Iterator[tuple[str, Differences]]:
    pairs = {(low, high): difference for low, high, difference in paired_differences(study)}
    every = list(combinations(sorted(study.runs[RATIO].unique()), 2))
    yield RATIOS, {_pair(*pair): pairs.get(pair) for pair in every}
    for name in study.arms:
        if name not in ARMS:
            yield f"arm {name}", {"planned by another version, which knows this arm": None}
            continue
        found = {contrast: difference for contrast, difference, _ in arm_differences(study, name)}
        yield (
            f"arm {name}",
            {f"{one.second} − {one.first}": found.get(one) for one in arm_of(study, name).contrasts},
        )
        tests = interaction_tests(study, name)
        yield (
            f"arm {name}, between shifts",
            {f"{here.says}: {here.shift} − {there.shift}": test for here, there, test, _ in tests},
        )
    try:
        areas = area_under_curve(read_scores(study, ROBUSTNESS)).query(f"kind == {ALL_KINDS!r}")
    except RunError:
        return
    for part, metric in (("bad scans", AREA), (LOSSES, LOST)):
        yield part, {_pair(low, high): difference for _, low, high, difference in compare_ratios(areas, metric)}


def _pair(low: float, high: float) -> str:
    return f"{percent(high)} − {percent(low)}"
