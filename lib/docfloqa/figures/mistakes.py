"""Where the models err and whether they know it, as figures for print, with intervals wherever there are some."""

from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from docfloqa.analysis import confidence, mistakes
from docfloqa.analysis.intervals import RATIO, percent
from docfloqa.figures import style
from docfloqa.runs.results import Study

PANELS_ACROSS = 4
SMALL = {"capsize": 1.5, "elinewidth": 0.9, "markersize": 3.5}  # points that stand close together
THIN = {"color": style.GREY, "linestyle": "--", "linewidth": 0.6, "zorder": 0}


@style.styled
def anls_by_group(study: Study) -> Figure:
    """ANLS after the last epoch by group that is known, a column for every ratio, with 95 % intervals over documents.

    In brackets is the number of questions. Dashed lines are all questions together, grey crosses the lowest ratio.
    """
    means = 100 * study.last_answers.groupby(RATIO)["anls"].mean()
    labels, scores = [], {}
    for group, heading in mistakes.GROUPS.items():
        table = mistakes.group_scores(study, group)
        if group in mistakes.LOCATED and mistakes.NOT_KNOWN in table[group].to_numpy():
            continue
        labels += ["", heading] if labels else [heading]
        for name, part in table.groupby(group, sort=False):
            scores[len(labels)] = part.set_index(RATIO)
            labels.append(style.printable(f"{style.shorten(name, 24, 1)} ({part['questions'].iloc[0]})"))
    figure, [axes] = style.panels(style.TWO_COLUMNS, 0.8 + 0.13 * len(labels), 1, len(means), sharex=True, sharey=True)
    # Long labels on the left are a little wider at one resolution than at another.
    figure.get_layout_engine().set(w_pad=0.1)
    for ax, (ratio, mean) in zip(axes, means.items(), strict=True):
        for y, rows in scores.items():
            if ratio != means.index[0]:
                ax.plot(100 * rows["estimate"].iloc[0], y, "x", color=style.GREY, markersize=3, clip_on=False)
            style.point(ax, y, rows.loc[ratio], vertical=False, **SMALL, **style.mark(ratio))
        ax.axvline(mean, **THIN)
        ax.set_title(percent(ratio))
        ax.tick_params(axis="y", length=0)
    axes[0].set(xlim=(0, 100), ylim=(len(labels) - 0.2, -0.8))
    axes[0].set_yticks(range(len(labels)), labels, parse_math=False)
    for y, label in enumerate(axes[0].get_yticklabels()):
        label.set_fontweight("normal" if y in scores else "bold")
    figure.supxlabel("ANLS (%)")
    return figure


@style.styled
def confident_errors(study: Study, dataset_validation: Dataset, count: int = 4) -> Figure:
    """The pages of the `count` most confident errors that are in the data set, with the answer's box where it is known.

    Raises ValueError where none is, and `RunError` for a study without confidence.
    """
    wrong = mistakes.most_confident_errors(study, count)
    wrong = wrong[wrong.index.isin(dataset_validation["questionId"])]
    said = {}
    for error in wrong.itertuples():
        predicted = {f"predicted at {percent(getattr(error, RATIO))}": error.prediction or "(nothing)"}
        said[error.Index] = {**predicted, "confidence": f"{error.confidence:.3f}"}
    figure, papers = style.gallery(dataset_validation, said)
    boxes = mistakes.locate(study.settings, wrong.index)
    for ax, box, accepted in zip(papers, boxes.itertuples(), wrong["answers"], strict=False):
        # Where the page as drawn now says something else, the box would mark that.
        if box.value in accepted:
            (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
            margin = (right - left) / 80
            corner = max(left, box.left - margin), max(top, box.top - margin)
            size = min(right, box.right + margin) - corner[0], min(bottom, box.bottom + margin) - corner[1]
            # White around black is seen on print and on paper.
            for color, width in (("white", 2.0), ("black", 0.9)):
                ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=color, linewidth=width))
    return figure


@style.styled
def reliability_diagram(study: Study) -> Figure:
    """Share right against mean confidence, by ratio, in bins of equally many answers (see `confidence.reliability`).

    The dashed line is where confidence is what it says. Raises `RunError` for a study without confidence.
    """
    figure, axes = _panels(study, "mean confidence (%)")
    for ratio, part in confidence.reliability(study).groupby(RATIO):
        axes[ratio].plot([0, 100], [0, 100], **THIN)
        style.point(axes[ratio], 100 * part["confidence"], part, **SMALL, **style.mark(ratio))
    return figure


@style.styled
def accuracy_by_coverage(study: Study) -> Figure:
    """Share right of the most confident answers against the share that is answered, by ratio, with 95 % bands.

    Grey lines are the other ratios, the dashed one is an order that says nothing. Raises `RunError` without confidence.
    """
    curves = confidence.coverage_curve(study)
    figure, axes = _panels(study, "answered, the most confident first (%)")
    for ratio, ax in axes.items():
        for other, curve in curves.groupby(RATIO):
            if other != ratio:
                ax.plot(100 * curve["coverage"], 100 * curve["estimate"], color=style.GREY, linewidth=0.5, zorder=1)
                continue
            style.band(ax, 100 * curve["coverage"], curve, color=style.mark(ratio)["color"], linewidth=1.3)
            ax.axhline(100 * curve["estimate"].iloc[-1], **THIN)
    return figure


def _panels(study: Study, label: str) -> tuple[Figure, dict[float, Axes]]:
    """A panel for every ratio; both axes from 0 to 100 %."""
    ratios = sorted(confidence.confident_answers(study)[RATIO].unique())
    lines, across = -(-len(ratios) // PANELS_ACROSS), min(len(ratios), PANELS_ACROSS)
    width = style.TWO_COLUMNS if across > 2 else style.ONE_COLUMN
    figure, axes = style.panels(width, 0.4 + 1.7 * lines, lines, across, sharex=True, sharey=True)
    for ax in axes.flat[len(ratios) :]:
        ax.set_axis_off()
    named = dict(zip(ratios, axes.flat, strict=False))
    for ratio, ax in named.items():
        ax.set_title(percent(ratio))
    axes.flat[0].set(xlim=(0, 100), ylim=(0, 100))
    figure.supxlabel(label)
    figure.supylabel("right (%)")
    return figure, named
