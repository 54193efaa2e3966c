"""Figures of what degraded pages and other data cost each ratio, for print."""

import pandas as pd
from datasets import Dataset
from matplotlib.figure import Figure

from docfloqa.analysis.intervals import RATIO, interval_table, percent
from docfloqa.analysis.robustness_tables import degradation_scores
from docfloqa.data.degradations import SEVERITIES, degrade
from docfloqa.data.images import as_page
from docfloqa.figures import style

LARGEST_SIDE = 400  # pixels of a page in a figure in which it is an inch wide


@style.styled
def degradation_curves(answers: pd.DataFrame) -> Figure:
    """ANLS against severity, a panel for each degradation and a line for each ratio; bands are 95 % intervals.

    Takes the answers of `docfloqa.analysis.robustness.read_scores`; severity 0 is the clean page.
    """
    table = degradation_scores(answers, ["anls"])
    figure, axes = style.panels(style.TWO_COLUMNS, 3.9, 2, 3, sharey=True)
    drawn = []
    for ax, (kind, (unit, values)) in zip(axes.flat, SEVERITIES.items(), strict=True):
        ends = []
        for ratio, rows in table[table["kind"] == kind].groupby(RATIO):
            look = style.mark(ratio)
            ends.append((style.band(ax, rows["severity"], rows, look), percent(ratio), look))
        ax.set_title(kind)
        ax.set_xticks(range(len(values) + 1), ["clean", *(f"{value:g}" for value in values)])
        ax.set_xlabel(unit)
        drawn.append((ax, ends))
    style.percent_axis(axes)
    for ax, ends in drawn:
        style.name_ends(ax, ends)
    figure.supylabel("ANLS (%)")
    return figure


@style.styled
def degradation_gallery(rows: Dataset) -> Figure:
    """One page under every degradation (columns) and severity (rows), beside the clean page.

    It is the page of the question of `rows` whose id comes first.
    """
    ids = rows["questionId"]
    row = rows[ids.index(min(ids))]
    clean = as_page(row["image"])
    figure, axes = style.panels(
        style.TWO_COLUMNS, min(8, 0.45 + 2.9 * clean.height / clean.width), 3, 1 + len(SEVERITIES)
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for place, kind in enumerate(("clean", *SEVERITIES)):
        for severity in (1, 2, 3) if place else (1,):
            degraded = degrade(clean, kind, severity, row["page"]) if place else clean.copy()
            degraded.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            ax = axes[severity - 1, place]
            style.page(ax, degraded)
            value = f"{SEVERITIES[kind][1][severity - 1]:g}" if place else ""
            ax.set_title(f"{kind}\n{value}" if severity == 1 else value)
    return figure


def across_data(answers: pd.DataFrame) -> Figure:
    """ANLS of the best models by ratio, a panel for each set of data, with 95 % intervals over documents.

    Takes the answers of `docfloqa.analysis.robustness_tables.cross_answers`.
    """
    return style.across(
        {name: interval_table(rows, [RATIO], ["anls"]) for name, rows in answers.groupby("data", sort=False)}
    )
