"""Where the models err and whether they know it, as figures for print, with intervals wherever there are some."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from docfloqa.analysis import confidence, mistakes
from docfloqa.analysis.intervals import RATIO, Interval, percent
from docfloqa.data.images import as_page
from docfloqa.figures import style
from docfloqa.runs.results import Study

PANELS_ACROSS = 4
MOST_SETS = 14
PALE = "#cccccc"
SMALL = {"capsize": 1.5, "elinewidth": 0.9, "markersize": 3.5}  # points that stand close together


@style.styled
def anls_by_group(study: Study) -> Figure:
    """ANLS after the last epoch by group, a column for every ratio, with 95 % intervals over documents.

    In brackets is the number of questions. Dashed lines are all questions together, grey crosses the lowest
    ratio. Groups that need the page to be drawn again are there where they are known.
    """
    tables = {group: mistakes.group_scores(study, group) for group in mistakes.GROUPS}
    means = 100 * study.last_answers.groupby(RATIO)["anls"].mean()
    rows, headings, line = {}, {}, 0
    for group, table in tables.items():
        if group in mistakes.LOCATED and mistakes.NOT_KNOWN in table[group].to_numpy():
            continue
        headings[line] = mistakes.GROUPS[group]
        for name, part in table.groupby(group, sort=False):
            line += 1
            rows[line] = f"{style.shorten(name, 24, 1)} ({part['questions'].iloc[0]})", part.set_index(RATIO)
        line += 2
    figure, [axes] = style.panels(style.TWO_COLUMNS, 0.6 + 0.13 * line, 1, len(means), sharex=True, sharey=True)
    # Long labels on the left are a little wider at one resolution than at another.
    figure.get_layout_engine().set(w_pad=0.1)
    lowest = means.index[0]
    for ax, (ratio, mean) in zip(axes, means.items(), strict=True):
        for y, (_, scores) in rows.items():
            if ratio != lowest:
                ax.plot(100 * scores["estimate"][lowest], y, "x", color=style.GREY, markersize=3, clip_on=False)
            style.point(ax, y, scores.loc[ratio], vertical=False, **SMALL, **style.mark(ratio))
        ax.axvline(mean, color=style.GREY, linestyle="--", linewidth=0.6, zorder=0)
        ax.set_title(percent(ratio))
        ax.tick_params(axis="y", length=0)
    axes[0].set(xlim=(0, 100), ylim=(max(rows) + 0.8, -0.8))
    labels = {**headings, **{y: label for y, (label, _) in rows.items()}}
    axes[0].set_yticks(list(labels), [style.printable(label) for label in labels.values()], parse_math=False)
    for label in axes[0].get_yticklabels()[: len(headings)]:
        label.set_fontweight("bold")
    figure.supxlabel("ANLS (%)")
    return figure


@style.styled
def right_at(study: Study) -> Figure:
    """Questions by the set of ratios that get them right: filled circles on the left, how many on the right.

    Bars are what was observed, with 95 % intervals over documents; open diamonds what chance would give, with
    its middle 95 % (see `mistakes.right_sets`). Sets are the `MOST_SETS` most frequent ones; those of no and of every
    ratio are numbers below the axis, unless there are no others.
    """
    sets, ratios = mistakes.right_sets(study), sorted(study.runs[RATIO].unique())
    some = sets["ratios"].map(len).between(1, len(ratios) - 1)
    drawn = (sets[some] if some.any() else sets).head(MOST_SETS)
    figure = Figure(figsize=(style.ONE_COLUMN, 0.8 + 0.21 * len(drawn)), layout="constrained")
    circles, bars = figure.subplots(1, 2, sharey=True, width_ratios=[max(4, len(ratios)), 9])
    whisker = {"linestyle": "none", "capsize": 1.5, "elinewidth": 0.8, "clip_on": False}
    grey = {"color": style.GREY, "marker": "D", "markerfacecolor": "white"}
    for y, row in enumerate(drawn.itertuples()):
        inside = [index for index, ratio in enumerate(ratios) if ratio in row.ratios]
        circles.plot(range(len(ratios)), [y] * len(ratios), "o", color=PALE, markersize=4)
        circles.plot(inside, [y] * len(inside), "o-", color="black", markersize=4, linewidth=1)
        bars.barh(y - 0.14, row.estimate, height=0.42, color=PALE, edgecolor="black", linewidth=0.5)
        chance = Interval(row.chance, row.chance_low, row.chance_high)
        for at, each, look in ((y - 0.14, row, {"color": "black"}), (y + 0.28, chance, grey)):
            ends = [[each.estimate - each.low], [each.high - each.estimate]]
            bars.errorbar(each.estimate, at, xerr=ends, **whisker, **look)
    bars.set(xlim=(0, None), ylim=(len(drawn) - 0.4, -0.6))
    for column, y, name in (("high", -0.14, "observed"), ("chance_high", 0.28, "by chance")):
        beside = {"textcoords": "offset points", "va": "center", "fontsize": 6}
        bars.annotate(name, (drawn[column].iloc[0], y), (4, 0), **beside)
    bars.tick_params(axis="y", length=0)
    circles.spines[["left", "bottom"]].set_visible(False)
    circles.set(xlim=(-0.6, len(ratios) - 0.4), yticks=[], xlabel="right at (%)")
    circles.set_xticks(range(len(ratios)), [f"{100 * ratio:.0f}" for ratio in ratios])
    circles.tick_params(axis="x", length=0)
    others = ", ".join(f"{mistakes.set_name(row.ratios, study)} {row.estimate:.0f}" for row in sets[~some].itertuples())
    bars.set_xlabel("questions" + (f"\n({others})" if some.any() and others else ""))
    return figure


@style.styled
def confident_errors(study: Study, dataset_validation: Dataset, count: int = 4) -> Figure:
    """The pages of the most confident errors, with question, accepted answers and prediction.

    The answer's box is marked where the page can be drawn again. Of the `count` errors that
    `mistakes.most_confident_errors` lists those are shown whose question is in the data set. Raises ValueError where
    none is, and `RunError` for a study without confidence.
    """
    places = {question: place for place, question in enumerate(dataset_validation["questionId"])}
    wrong = mistakes.most_confident_errors(study, count)
    wrong = wrong[wrong.index.isin(list(places))]
    if wrong.empty:
        raise ValueError(f"none of the {len(places)} questions given is a confident error in study {study.name!r}")
    examples = []
    for error in wrong.itertuples():
        row = dataset_validation[places[error.Index]]
        texts = {
            "question": row["question"],
            "accepted": " · ".join(row["answers"]),
            f"predicted at {percent(getattr(error, RATIO))}": error.prediction or "(nothing)",
            "confidence": f"{error.confidence:.3f}",
        }
        examples.append((row["image"], texts))
    figure, papers = style.gallery(examples)
    boxes = mistakes.locate(study.settings, wrong.index)
    for paper, (image, texts), box in zip(papers, examples, boxes.itertuples(), strict=False):
        # Where the page as drawn now says something else, the box would mark that.
        if box.value in texts["accepted"].split(" · "):
            _mark_box(paper, box, as_page(image).width / 80)
    return figure


@style.styled
def reliability_diagram(study: Study) -> Figure:
    """Share of answers that are right against their mean confidence, by ratio, in bins of equally many answers.

    Bars are 95 % intervals over documents (see `clustered_share`); the dashed line is where confidence is what it
    says. Raises `RunError` for a study without confidence.
    """
    bins = confidence.reliability(study)
    figure, axes = _panels(study, "mean confidence (%)", "error", confidence.calibration_error)
    for ratio, ax in axes.items():
        ax.plot([0, 100], [0, 100], color=style.GREY, linestyle="--", linewidth=0.6, zorder=0)
        for row in bins[bins[RATIO] == ratio].itertuples():
            style.point(ax, 100 * row.confidence, row, **SMALL, **style.mark(ratio))
    return figure


@style.styled
def accuracy_by_coverage(study: Study) -> Figure:
    """Share right of the most confident answers against the share that is answered, by ratio.

    Bands are 95 % intervals over documents; thin grey lines are the other ratios, the dashed line is an order
    that says nothing. Raises `RunError` for a study without confidence.
    """
    curves = confidence.coverage_curve(study)
    figure, axes = _panels(study, "answered, the most confident first (%)", "area", confidence.coverage_area)
    for ratio, ax in axes.items():
        for other, curve in curves.groupby(RATIO):
            x = 100 * curve["coverage"]
            if other != ratio:
                ax.plot(x, 100 * curve["estimate"], color=style.GREY, linewidth=0.5, zorder=1)
                continue
            end = style.band(ax, x, curve, {"color": style.mark(ratio)["color"], "linewidth": 1.3})
            ax.axhline(end, color=style.GREY, linestyle="--", linewidth=0.6, zorder=0)
    return figure


def _panels(
    study: Study, label: str, name: str, statistic: Callable[[pd.DataFrame], Interval]
) -> tuple[Figure, dict[float, Axes]]:
    """A panel for every ratio, with a statistic of its answers in its title; both axes from 0 to 100 %."""
    answers = dict(list(confidence.confident_answers(study).groupby(RATIO)))
    lines, across = -(-len(answers) // PANELS_ACROSS), min(len(answers), PANELS_ACROSS)
    width = style.TWO_COLUMNS if across > 2 else style.ONE_COLUMN
    figure, axes = style.panels(width, 0.4 + 1.7 * lines, lines, across, sharex=True, sharey=True)
    for ax in axes.flat[len(answers) :]:
        ax.set_axis_off()
    named = dict(zip(answers, axes.flat, strict=False))
    for ratio, ax in named.items():
        ax.set_title(f"{percent(ratio)}: {name} {statistic(answers[ratio]).format(100)}")
    axes.flat[0].set(xlim=(0, 100), ylim=(0, 100))
    figure.supxlabel(label)
    figure.supylabel("right (%)")
    return figure, named


def _mark_box(ax: Axes, box: Any, margin: float) -> None:
    """Frame a box on a page, white around black, which is seen on print and on paper."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    corner = max(left, box.left - margin), max(top, box.top - margin)
    size = min(right, box.right + margin) - corner[0], min(bottom, box.bottom + margin) - corner[1]
    for color, width in (("white", 2.0), ("black", 0.9)):
        ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=width))
