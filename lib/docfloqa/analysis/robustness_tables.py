"""What degraded pages and other data cost each ratio: intervals, areas under curves, paired comparisons, words."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from scipy.integrate import trapezoid

from docfloqa.analysis.intervals import RATIO, interval, interval_table, number, p_text, percent, texts
from docfloqa.analysis.paired import KEYS, SIGNIFICANT, PairedDifference, compare_all, holm_of, made, smallest_of_all
from docfloqa.data.degradations import CLEAN, SEVERITIES, amount
from docfloqa.text import NO_BREAK, escaped

ALL_KINDS = "all degradations"
AREA, LOST = "area", "lost"
OWN = "own data"
FLOOR = 0.05  # ANLS below which ratios are not compared on other data
# What is compared, the two ratios, and what the higher one has more.
RatioPair = tuple[str, float, float, PairedDifference]


def severity_curves(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers of `read_scores` with those on clean pages as severity 0 of every degradation."""
    clean = answers[answers["kind"] == CLEAN]
    degraded = answers[answers["kind"] != CLEAN]
    return pd.concat([*(clean.assign(kind=kind) for kind in SEVERITIES), degraded], ignore_index=True)


def degradation_scores(answers: pd.DataFrame, metrics: Sequence[str] = ("anls", "exact_match")) -> pd.DataFrame:
    """Tidy: ratio, kind, severity (0: clean), metric, estimate, low, high, as `interval_table` gives them."""
    return interval_table(severity_curves(answers), [RATIO, "kind", "severity"], metrics)


def degradation_table(answers: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent with 95 % intervals over documents: a row for each degradation and severity, by ratio."""
    table = degradation_scores(answers, ["anls"])
    cells = table.assign(text=texts(table)).pivot(index=["kind", "severity"], columns=RATIO, values="text")
    rows = {CLEAN: cells.loc[next(iter(SEVERITIES)), 0]}
    for kind, (unit, values) in SEVERITIES.items():
        for severity in range(1, len(values) + 1):
            rows[f"{kind} {severity}: {amount(kind, severity):g} ({unit})"] = cells.loc[kind, severity]
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("ANLS (%)")
    return frame.rename(columns=percent)


def area_under_curve(answers: pd.DataFrame, metric: str = "anls") -> pd.DataFrame:
    """The area under the curve of `metric` over severities, of every run, question and degradation.

    Columns: run, ratio, seed, document_id, question_id, kind, `clean` (the metric on the clean page), `area`
    (its mean over severities 0 to 3 by the trapezoidal rule, so in the metric's unit) and `lost` (clean less
    area). The kind `ALL_KINDS` has the mean over degradations. Raises ValueError where an answer is lacking.
    """
    keys = ["run", RATIO, *KEYS]
    curves = severity_curves(answers).pivot(index=[*keys, "kind"], columns="severity", values=metric)
    if curves.columns.tolist() != [0, 1, 2, 3] or curves.isna().any(axis=None):
        raise ValueError("every question must be answered on the clean page and at severities 1 to 3")
    areas = pd.DataFrame({CLEAN: curves[0], AREA: trapezoid(curves, x=curves.columns, axis=1) / 3})
    areas = areas.assign(lost=areas[CLEAN] - areas[AREA]).reset_index()
    areas = areas.sort_values("kind", key=lambda kinds: kinds.map([*SEVERITIES].index), kind="stable")
    together = areas.groupby(keys, as_index=False)[[CLEAN, AREA, LOST]].mean().assign(kind=ALL_KINDS)
    return pd.concat([areas, together], ignore_index=True)


def area_table(areas: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent over all degradations by ratio: on clean pages, area under the curve, what is lost."""
    table = interval_table(areas[areas["kind"] == ALL_KINDS], [RATIO], [CLEAN, AREA, LOST])
    frame = table.assign(text=texts(table)).pivot(index=RATIO, columns="metric", values="text")
    frame = frame[[CLEAN, AREA, LOST]].rename_axis(columns=None)
    frame.columns = ["clean pages (%)", "area under the curve (%)", "lost (points)"]
    frame.index = pd.Index(frame.index.map(percent), name="ratio")
    return frame


def compare_ratios(answers: pd.DataFrame, metric: str, by: str = "kind") -> list[RatioPair]:
    """Every two ratios, the lower one first, for each name in the column `by`: what the higher one has more.

    Only seeds that both have are compared; two ratios without a common seed are left out. On a single
    document nothing is compared.
    """
    return [
        (name, each.first, each.second, each.difference)
        for name, part in answers.groupby(by, sort=False)
        for each in made(compare_all(part, RATIO, metric, family=by))
    ]


def area_comparisons(areas: pd.DataFrame) -> pd.DataFrame:
    """Every two ratios over all degradations, in points, as text: difference in area, difference in loss.

    The second is a difference in differences: whether one ratio loses more against its own clean pages than
    the other. Intervals are of one pair alone, p-values have Holm's correction for all pairs of a quantity.
    """
    columns: dict[tuple[str, str], dict[str, str]] = {}
    together = areas[areas["kind"] == ALL_KINDS]
    for quantity, name in ((AREA, "area under the curve"), (LOST, "lost")):
        comparisons = compare_ratios(together, quantity)
        for comparison, p_value in zip(comparisons, holm_of(comparisons), strict=True):
            difference = comparison[-1]
            cells = {
                "difference [95 %, one pair]": difference.interval().format(100).replace(", ", f",{NO_BREAK}"),
                "p (Holm)": p_text(p_value),
                "smallest shown, one pair": number(100 * difference.smallest_detectable()),
            }
            for column, text in cells.items():
                columns.setdefault((name, column), {})[_pair(comparison)] = text
    return pd.DataFrame(columns).rename_axis("ANLS, points")


def comparisons_by(answers: pd.DataFrame, metric: str, by: str = "kind") -> pd.DataFrame:
    """Every two ratios (rows) for each name in the column `by` (columns), in points with intervals, as text.

    Intervals are of one pair alone; a star says that p is below 0.05 after Holm's correction for the whole table.
    """
    comparisons = compare_ratios(answers, metric, by)
    columns: dict[str, dict[str, str]] = {}
    for comparison, p_value in zip(comparisons, holm_of(comparisons), strict=True):
        text = comparison[-1].interval().format(100).replace(", ", f",{NO_BREAK}")
        star = f"{NO_BREAK}*" if p_value < SIGNIFICANT else ""
        columns.setdefault(comparison[0], {})[_pair(comparison)] = text + star
    return pd.DataFrame(columns).rename_axis("ANLS, points")


def cross_answers(own: pd.DataFrame, others: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The answers of `read_scores` on the study's own clean pages and on other data, named in a column `data`."""
    frames = {OWN: own[own["kind"] == CLEAN], **others}
    return pd.concat([frame.assign(data=name) for name, frame in frames.items()], ignore_index=True)


def cross_table(answers: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent with 95 % intervals over documents by ratio, a column for each set of data."""
    table = interval_table(answers, ["data", RATIO], ["anls"])
    frame = table.assign(text=texts(table)).pivot(index=RATIO, columns="data", values="text")
    frame = frame[answers["data"].unique()].rename_axis(columns=None)
    frame.index = pd.Index(frame.index.map(percent), name="ANLS (%)")
    return frame


def robustness_conclusion(answers: pd.DataFrame) -> str:
    """What the answers of `score_robustness` let one say, as Markdown; ratios by default cannot be distinguished."""
    areas = area_under_curve(answers)
    together = areas[areas["kind"] == ALL_KINDS]
    table = interval_table(together, [RATIO], [CLEAN, AREA])
    best = table[table["metric"] == AREA].set_index(RATIO)["estimate"].idxmax()
    clean, area = map(interval, table[table[RATIO] == best].itertuples())
    worst = degradation_scores(answers, ["anls"]).query(f"{RATIO} == @best and severity == 3")
    worst = worst.loc[worst["estimate"].idxmin()]
    seeds = answers["seed"].nunique()
    highest = "the highest ANLS" if answers[RATIO].nunique() > 1 else "ANLS"
    return (
        f"Over {len(SEVERITIES)} degradations and severities 0 to 3, {highest} (area under the curve) is "
        f"**{area.format(100)} %**, with {percent(best)} of the vision encoder trained; on clean pages that is "
        f"{clean.format(100)} %. Severity 3 of *{worst['kind']}* costs it most: {interval(worst).format(100)} % are "
        f"left. **How much is right on degraded pages.** {_compared(compare_ratios(together, AREA), 'above')} "
        f"**How much is lost against clean pages.** {_compared(compare_ratios(together, LOST), 'loses more than')} "
        "Each model is that of its best epoch, chosen by its ANLS on these very questions on clean pages: scores "
        "on clean pages are a little too high for that, and so is what is lost, for every ratio, if not for every "
        "ratio as much. "
        + (
            f"Comparisons are over documents and {seeds} seeds."
            if seeds > 1
            else "There is one seed, of which alone this speaks."
        )
    )


def cross_conclusion(answers: pd.DataFrame) -> str:
    """What the answers of `cross_answers` let one say, as Markdown; ratios by default cannot be distinguished."""
    elsewhere = answers[answers["data"] != OWN]
    if elsewhere.empty:
        return "No other data were named, so nothing is said about them."
    highest = elsewhere.groupby(["data", RATIO])["anls"].mean().groupby("data").max()
    floored = highest[highest < FLOOR].index
    said = [
        f"On {escaped(name)} every ratio is at the floor (ANLS of at most {100 * highest[name]:.1f} %): nothing can be "
        "concluded there."
        for name in floored
    ]
    others = elsewhere[~elsewhere["data"].isin(floored)]
    if len(others):
        names = ", ".join(map(escaped, others["data"].unique()))
        said.append(f"On {names}: {_compared(compare_ratios(others, 'anls', by='data'), 'above')}")
    return " ".join(said)


def _pair(comparison: RatioPair) -> str:
    _, low, high, _ = comparison
    return f"{percent(high)} less {percent(low)}"


def _compared(comparisons: Sequence[RatioPair], relation: str) -> str:
    if not comparisons:
        return "Two ratios with a seed in common and two documents are lacking, so nothing is compared."
    several = len({name for name, *_ in comparisons}) > 1
    clear, together = [], []
    for (name, low, high, difference), p_value in zip(comparisons, holm_of(comparisons), strict=True):
        where = f" ({escaped(name)})" if several else ""
        if p_value < SIGNIFICANT:
            more, less = (high, low) if difference.estimate > 0 else (low, high)
            size = f"{100 * abs(difference.estimate):.1f} points"
            clear.append(f"{percent(more)} {relation} {percent(less)} by {size}{where}")
        else:
            together.append(f"{percent(low)} and {percent(high)}")
    if several and together:
        together = [f"{len(together)} of {len(comparisons)} pairs"]
    smallest = max(smallest_of_all(comparison[-1], len(comparisons)) for comparison in comparisons)
    return (
        (f"Distinguished (paired, p < {SIGNIFICANT} after Holm): {', '.join(clear)}. " if clear else "")
        + (f"Cannot be distinguished: {', '.join(together)}. " if together else "")
        + f"True differences below {100 * smallest:.1f} points would often be missed in at least one of them."
    )
