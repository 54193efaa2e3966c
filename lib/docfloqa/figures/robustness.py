"""Figures of what degraded pages and other data cost each ratio, for print."""

from __future__ import annotations

import pandas as pd
from datasets import Dataset
from matplotlib.figure import Figure

from docfloqa.analysis.intervals import RATIO, interval_table, percent
from docfloqa.analysis.robustness_tables import degradation_scores
from docfloqa.data.degradations import SEVERITIES, degrade
from docfloqa.data.images import as_page
from docfloqa.figures.style import (
    TWO_COLUMNS,
    band,
    mark,
    name_ends,
    page,
    panels,
    percent_axis,
    point,
    styled,
)

LARGEST_SIDE = 400  # pixels of a page in a figure in which it is an inch wide


@styled
def degradation_curves(answers: pd.DataFrame) -> Figure:
    """ANLS against severity, a panel for each degradation and a line for each ratio; bands are 95 % intervals.

    Takes the answers of `docfloqa.analysis.robustness.read_scores`; severity 0 is the clean page.
    """
    table = degradation_scores(answers, ["anls"])
    figure, axes = panels(TWO_COLUMNS, 3.9, 2, 3, sharey=True)
    drawn = []
    for ax, (kind, (unit, values)) in zip(axes.flat, SEVERITIES.items(), strict=True):
        ends = []
        for ratio, rows in table[table["kind"] == kind].groupby(RATIO):
            style = mark(ratio)
            ends.append((band(ax, rows["severity"], rows, style), percent(ratio), style))
        ax.set_title(kind)
        ax.set_xticks(range(len(values) + 1), ["clean", *(f"{value:g}" for value in values)])
        ax.set_xlabel(unit)
        drawn.append((ax, ends))
    percent_axis(axes)
    for ax, ends in drawn:
        name_ends(ax, ends)
    figure.supylabel("ANLS (%)")
    return figure


@styled
def degradation_gallery(rows: Dataset) -> Figure:
    """One page under every degradation (columns) and severity (rows), beside the clean page.

    It is the page of the question of `rows` whose id comes first.
    """
    ids = rows["questionId"]
    row = rows[ids.index(min(ids))]
    clean = as_page(row["image"])
    figure, axes = panels(TWO_COLUMNS, min(8, 0.45 + 2.9 * clean.height / clean.width), 3, 1 + len(SEVERITIES))
    for ax in axes.flat:
        ax.set_axis_off()
    for place, kind in enumerate(("clean", *SEVERITIES)):
        for severity in (1, 2, 3) if place else (1,):
            degraded = degrade(clean, kind, severity, row["page"]) if place else clean.copy()
            degraded.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
            ax = axes[severity - 1, place]
            page(ax, degraded)
            value = f"{SEVERITIES[kind][1][severity - 1]:g}" if place else ""
            ax.set_title(f"{kind}\n{value}" if severity == 1 else value)
    return figure


@styled
def across_data(answers: pd.DataFrame) -> Figure:
    """ANLS of the best models by ratio, a panel for each set of data, with 95 % intervals over documents.

    Takes the answers of `docfloqa.analysis.robustness_tables.cross_answers`.
    """
    names = answers["data"].unique()
    figure, axes = panels(TWO_COLUMNS, 2.1, 1, len(names), sharey=True)
    for ax, name in zip(axes.flat, names, strict=True):
        table = interval_table(answers[answers["data"] == name], [RATIO], ["anls"])
        for place, row in enumerate(table.itertuples()):
            point(ax, place, row, **mark(row.vision_trainable))
        ax.set_title(name, parse_math=False)
        ax.set_xlim(-0.5, len(table) - 0.5)
        ax.set_xticks(range(len(table)), [percent(ratio) for ratio in table[RATIO]])
    percent_axis(axes)
    axes[0, 0].set_ylabel("ANLS (%)")
    figure.supxlabel("vision encoder trained")
    return figure
