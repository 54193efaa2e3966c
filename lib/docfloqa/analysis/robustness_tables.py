"""What degraded pages and other data cost each ratio: intervals, areas under curves, paired comparisons."""

from collections.abc import Sequence

import pandas as pd

from docfloqa.analysis.contrasts import Comparison, compare_all, holm_p_values, made
from docfloqa.analysis.intervals import RATIO, interval_table, text_table, unbroken
from docfloqa.analysis.paired import SIGNIFICANT
from docfloqa.analysis.robustness import ALL_KINDS, AREA, LOST, severity_curves
from docfloqa.analysis.tables import contrast_table
from docfloqa.data.degradations import CLEAN, SEVERITIES, amount
from docfloqa.text import NO_BREAK

OWN = "own data"
AREA_COLUMNS = {CLEAN: "clean pages (%)", AREA: "area under the curve (%)", LOST: "lost (points)"}


def degradation_scores(answers: pd.DataFrame, metrics: Sequence[str] = ("anls", "exact_match")) -> pd.DataFrame:
    """Tidy: ratio, kind, severity (0: clean), metric, estimate, low, high, as `interval_table` gives them."""
    return interval_table(severity_curves(answers), [RATIO, "kind", "severity"], metrics)


def degradation_table(answers: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent with 95 % intervals over documents: a row for each degradation and severity, by ratio."""
    cells = text_table(degradation_scores(answers, ["anls"]), ["kind", "severity"], RATIO)
    rows = {CLEAN: cells.loc[next(iter(SEVERITIES)), 0]}
    for kind, (unit, values) in SEVERITIES.items():
        for severity in range(1, len(values) + 1):
            rows[f"{kind} {severity}: {amount(kind, severity):g} ({unit})"] = cells.loc[kind, severity]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ANLS (%)")


def area_table(areas: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent over all degradations by ratio: on clean pages, area under the curve, what is lost."""
    table = interval_table(areas[areas["kind"] == ALL_KINDS], [RATIO], [*AREA_COLUMNS])
    return text_table(table, RATIO, "metric", "ratio")[[*AREA_COLUMNS]].rename(columns=AREA_COLUMNS)


def compare_ratios(answers: pd.DataFrame, metric: str, by: str = "kind") -> list[Comparison]:
    """Every two ratios for each name in the column `by` (`where`), as one family, as far as they can be compared."""
    parts = answers.groupby(by, sort=False)
    return made(pair for name, part in parts for pair in compare_all(part, RATIO, metric, family=by, where=name))


def area_comparisons(areas: pd.DataFrame) -> pd.DataFrame:
    """Every two ratios over all degradations, in points, as text: difference in area, difference in loss.

    The second is a difference in differences: whether one ratio loses more against its own clean pages than
    the other. Intervals are of one pair alone, p-values have Holm's correction for all pairs of a quantity.
    """
    columns = {"difference [95 %]": "difference [95 %, one pair]", "p (Holm)": "p (Holm)"}
    columns |= {"smallest shown": "smallest shown, one pair"}
    together = areas[areas["kind"] == ALL_KINDS]
    frames = {
        name: contrast_table(compare_all(together, RATIO, quantity, family=name)).rename(columns=columns)
        for quantity, name in ((AREA, "area under the curve"), (LOST, "lost"))
    }
    return pd.concat({name: frame[[*columns.values()]] for name, frame in frames.items()}, axis=1)


def comparisons_by(answers: pd.DataFrame, metric: str, by: str = "kind") -> pd.DataFrame:
    """Every two ratios (rows) for each name in the column `by` (columns), in points with intervals, as text.

    Intervals are of one pair alone; a star says that p is below 0.05 after Holm's correction for the whole table.
    """
    pairs = compare_ratios(answers, metric, by)
    columns: dict[str, dict[str, str]] = {}
    for pair, p_value in zip(pairs, holm_p_values(pairs), strict=True):
        star = f"{NO_BREAK}*" if p_value < SIGNIFICANT else ""
        columns.setdefault(pair.where, {})[pair.groups] = unbroken(pair.difference.interval()) + star
    return pd.DataFrame(columns).rename_axis("ANLS, points")


def cross_answers(own: pd.DataFrame, others: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The answers of `read_scores` on the study's own clean pages and on other data, named in a column `data`."""
    frames = {OWN: own[own["kind"] == CLEAN], **others}
    return pd.concat([frame.assign(data=name) for name, frame in frames.items()], ignore_index=True)


def cross_table(answers: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent with 95 % intervals over documents by ratio, a column for each set of data."""
    frame = text_table(interval_table(answers, ["data", RATIO], ["anls"]), RATIO, "data", "ANLS (%)")
    return frame[answers["data"].unique()]
