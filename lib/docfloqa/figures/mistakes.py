"""Where the models err and whether they know it, as figures for print, with intervals wherever there are some."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from docfloqa.analysis.confidence import (
    calibration_error,
    confident_answers,
    coverage_area,
    coverage_curve,
    reliability,
)
from docfloqa.analysis.intervals import RATIO, percent
from docfloqa.analysis.mistakes import (
    GROUPS,
    LOCATED,
    NOT_KNOWN,
    group_scores,
    locate,
    most_confident_errors,
    right_sets,
    set_name,
)
from docfloqa.data.images import as_page
from docfloqa.figures.style import (
    GREY,
    ONE_COLUMN,
    TWO_COLUMNS,
    mark,
    page,
    panels,
    plain_text,
    point,
    printable,
    shorten,
    styled,
)
from docfloqa.runs.results import Study

PANELS_ACROSS = 4
MOST_SETS = 14
PALE = "#cccccc"
SMALL = {"capsize": 1.5, "elinewidth": 0.9, "markersize": 3.5}  # points that stand close together


@styled
def anls_by_group(study: Study) -> Figure:
    """ANLS after the last epoch by group, a column for every ratio, with 95 % intervals over documents.

    In brackets is the number of questions. Dashed lines are all questions together, grey crosses the lowest
    ratio. Groups that need the page to be drawn again are there where they are known.
    """
    tables = {group: group_scores(study, group) for group in GROUPS}
    means = 100 * study.last_answers.groupby(RATIO)["anls"].mean()
    rows, headings, line = {}, {}, 0
    for group, table in tables.items():
        if group in LOCATED and NOT_KNOWN in table[group].to_numpy():
            continue
        headings[line] = GROUPS[group]
        for name, part in table.groupby(group, sort=False):
            line += 1
            rows[line] = f"{shorten(name, 24, 1)} ({part['questions'].iloc[0]})", part.set_index(RATIO)
        line += 2
    figure, [axes] = panels(TWO_COLUMNS, 0.6 + 0.13 * line, 1, len(means), sharex=True, sharey=True)
    # Long labels on the left are a little wider at one resolution than at another.
    figure.get_layout_engine().set(w_pad=0.1)
    lowest = means.index[0]
    for ax, (ratio, mean) in zip(axes, means.items(), strict=True):
        for y, (_, scores) in rows.items():
            if ratio != lowest:
                ax.plot(100 * scores["estimate"][lowest], y, "x", color=GREY, markersize=3, clip_on=False)
            point(ax, y, scores.loc[ratio], vertical=False, **SMALL, **mark(ratio))
        ax.axvline(mean, color=GREY, linestyle="--", linewidth=0.6, zorder=0)
        ax.set_title(percent(ratio))
        ax.tick_params(axis="y", length=0)
    axes[0].set(xlim=(0, 100), ylim=(max(rows) + 0.8, -0.8))
    labels = {**headings, **{y: label for y, (label, _) in rows.items()}}
    axes[0].set_yticks(list(labels), [printable(label) for label in labels.values()], parse_math=False)
    for label in axes[0].get_yticklabels()[: len(headings)]:
        label.set_fontweight("bold")
    figure.supxlabel("ANLS (%)")
    return figure


@styled
def right_at(study: Study) -> Figure:
    """Questions by the set of ratios that get them right: filled circles on the left, how many on the right.

    Bars are what was observed, with 95 % intervals over documents; open diamonds what chance would give, with
    its middle 95 % (see `right_sets`). Sets are the `MOST_SETS` most frequent ones; those of no and of every
    ratio are numbers below the axis, unless there are no others.
    """
    sets, ratios = right_sets(study), sorted(study.runs[RATIO].unique())
    some = sets["ratios"].map(len).between(1, len(ratios) - 1)
    drawn = (sets[some] if some.any() else sets).head(MOST_SETS)
    figure = Figure(figsize=(ONE_COLUMN, 0.8 + 0.21 * len(drawn)), layout="constrained")
    circles, bars = figure.subplots(1, 2, sharey=True, width_ratios=[max(4, len(ratios)), 9])
    for y, row in enumerate(drawn.itertuples()):
        inside = [place for place, ratio in enumerate(ratios) if ratio in row.ratios]
        circles.plot(range(len(ratios)), [y] * len(ratios), "o", color=PALE, markersize=4)
        circles.plot(inside, [y] * len(inside), "o-", color="black", markersize=4, linewidth=1)
        bars.barh(y - 0.14, row.estimate, height=0.42, color=PALE, edgecolor="black", linewidth=0.5)
        ends = [[row.estimate - row.low], [row.high - row.estimate]]
        whisker = {"linestyle": "none", "capsize": 1.5, "elinewidth": 0.8, "clip_on": False}
        bars.errorbar(row.estimate, y - 0.14, xerr=ends, color="black", **whisker)
        ends = [[row.chance - row.chance_low], [row.chance_high - row.chance]]
        bars.errorbar(row.chance, y + 0.28, xerr=ends, color=GREY, marker="D", markerfacecolor="white", **whisker)
    bars.set(xlim=(0, None), ylim=(len(drawn) - 0.4, -0.6))
    first = drawn.iloc[0]
    for end, y, name in ((first["high"], -0.14, "observed"), (first["chance_high"], 0.28, "by chance")):
        bars.annotate(name, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=6)
    bars.tick_params(axis="y", length=0)
    circles.spines[["left", "bottom"]].set_visible(False)
    circles.set(xlim=(-0.6, len(ratios) - 0.4), yticks=[])
    circles.set_xticks(range(len(ratios)), [f"{100 * ratio:.0f}" for ratio in ratios])
    circles.tick_params(axis="x", length=0)
    circles.set_xlabel("right at (%)")
    beside = ", ".join(f"{set_name(row.ratios, study)} {row.estimate:.0f}" for row in sets[~some].itertuples())
    bars.set_xlabel("questions" + (f"\n({beside})" if some.any() and beside else ""))
    return figure


@styled
def confident_errors(study: Study, dataset_validation: Dataset, count: int = 4) -> Figure:
    """The pages of the most confident errors, with question, accepted answers and prediction.

    The answer's box is marked where the page can be drawn again. Of the `count` errors that
    `most_confident_errors` lists those are shown whose question is in the data set. Raises ValueError where
    none is, and `RunError` for a study without confidence.
    """
    places = {question: place for place, question in enumerate(dataset_validation["questionId"])}
    wrong = most_confident_errors(study, count)
    wrong = wrong[wrong.index.isin(list(places))]
    if wrong.empty:
        raise ValueError(f"none of the {len(places)} questions given is a confident error in study {study.name!r}")
    boxes = locate(study.settings, wrong.index)
    lines = -(-len(wrong) // 2)
    figure, axes = panels(TWO_COLUMNS, 1.5 * lines, lines, 4, width_ratios=[2, 3, 2, 3])
    for ax in axes.flat:
        ax.set_axis_off()
    for number, (error, box) in enumerate(zip(wrong.itertuples(), boxes.itertuples(), strict=True)):
        row = dataset_validation[places[error.Index]]
        paper, words = axes.flat[2 * number : 2 * number + 2]
        page(paper, as_page(row["image"]).convert("L"))
        paper.set_anchor("N")
        # Where the page as drawn now says something else, the box would mark that.
        if box.value in row["answers"]:
            _mark_box(paper, box, row["image"].width / 80)
        texts = {
            "question": row["question"],
            "accepted": " · ".join(row["answers"]),
            f"predicted at {percent(getattr(error, RATIO))}": error.prediction or "(nothing)",
            "confidence": f"{error.confidence:.3f}",
        }
        y = 1.0
        for name, text in texts.items():
            cut = shorten(text, 34, 2)
            # Clipped text cannot make the layout shrink the pages.
            left = {"ha": "left", "va": "top", "clip_on": True}
            plain_text(words, 0, y, name, color=GREY, fontsize=5.5, **left)
            plain_text(words, 0, y - 0.07, cut, **left)
            y -= 0.18 + 0.07 * cut.count("\n")
    return figure


@styled
def reliability_diagram(study: Study) -> Figure:
    """Share of answers that are right against their mean confidence, by ratio, in bins of equally many answers.

    Bars are 95 % intervals over documents (see `calibration.clustered_share`); the dashed line is where
    confidence is what it says. Raises `RunError` for a study without confidence.
    """
    answers = dict(list(confident_answers(study).groupby(RATIO)))
    figure, axes = _panels(answers)
    for ratio, table in reliability(study).groupby(RATIO):
        ax = axes[ratio]
        ax.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=0.6, zorder=0)
        for row in table.itertuples():
            point(ax, 100 * row.confidence, row, **SMALL, **mark(ratio))
        error = calibration_error(answers[ratio]).format(100)
        ax.set_title(f"{percent(ratio)}: error {error}")
    next(iter(axes.values())).set(xlim=(0, 100), ylim=(0, 100))
    figure.supxlabel("mean confidence (%)")
    figure.supylabel("right (%)")
    return figure


@styled
def accuracy_by_coverage(study: Study) -> Figure:
    """Share right of the most confident answers against the share that is answered, by ratio.

    Bands are 95 % intervals over documents; thin grey lines are the other ratios, the dashed line is an order
    that says nothing. Raises `RunError` for a study without confidence.
    """
    answers, curves = dict(list(confident_answers(study).groupby(RATIO))), coverage_curve(study)
    figure, axes = _panels(answers)
    for ratio, ax in axes.items():
        for other, curve in curves.groupby(RATIO):
            x, right, low, high = (100 * curve[name] for name in ("coverage", "estimate", "low", "high"))
            if other != ratio:
                ax.plot(x, right, color=GREY, linewidth=0.5, zorder=1)
                continue
            style = mark(ratio)
            ax.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
            ax.plot(x, right, color=style["color"], linewidth=1.3, clip_on=False, zorder=3)
            ax.axhline(right.iloc[-1], color=GREY, linestyle="--", linewidth=0.6, zorder=0)
        ax.set_title(f"{percent(ratio)}: area {coverage_area(answers[ratio]).format(100)}")
    next(iter(axes.values())).set(xlim=(0, 100), ylim=(0, 100))
    figure.supxlabel("answered, the most confident first (%)")
    figure.supylabel("right (%)")
    return figure


def _panels(names: dict[float, Any]) -> tuple[Figure, dict[float, Axes]]:
    """A panel for every name, at most `PANELS_ACROSS` side by side, with equal axes."""
    lines, across = -(-len(names) // PANELS_ACROSS), min(len(names), PANELS_ACROSS)
    width = TWO_COLUMNS if across > 2 else ONE_COLUMN
    figure, axes = panels(width, 0.4 + 1.7 * lines, lines, across, sharex=True, sharey=True)
    axes = axes.flat
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    return figure, dict(zip(names, axes, strict=False))


def _mark_box(ax: Axes, box: Any, margin: float) -> None:
    """Frame a box on a page, white around black, which is seen on print and on paper."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    corner = max(left, box.left - margin), max(top, box.top - margin)
    size = min(right, box.right + margin) - corner[0], min(bottom, box.bottom + margin) - corner[1]
    for color, width in (("white", 2.0), ("black", 0.9)):
        ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=width))
