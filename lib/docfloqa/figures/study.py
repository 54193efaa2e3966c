"""The study's figures, for print, with intervals wherever there are some."""

from collections.abc import Sequence
from textwrap import fill

import pandas as pd
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from docfloqa.analysis import contrasts
from docfloqa.analysis.contrasts import VARIANT
from docfloqa.analysis.intervals import LOSS, RATIO, interval_table, last_epoch, percent
from docfloqa.analysis.paired import SIGNIFICANT
from docfloqa.analysis.robustness import PAGE_SETS
from docfloqa.analysis.tables import degradation_scores, scores, vision_shares
from docfloqa.arms import ARMS
from docfloqa.data.degradations import CLEAN, SEVERITIES, amount, degrade
from docfloqa.data.images import as_page
from docfloqa.figures import style
from docfloqa.runs.results import Study
from docfloqa.settings import Settings
from docfloqa.text import plain

NAMES = {"anls": "ANLS", "accuracy": "Accuracy", "exact_match": "Exact match", "f1": "F1", LOSS: "Validation loss"}
SECOND = {"color": style.GREY, "marker": "x", "linestyle": ":"}  # the second line of a panel
LOSS_LABEL = "loss (nats per token)"
LARGEST_SIDE = 400  # pixels of a page in a figure in which it is an inch wide
# Arms whose variants train equally long, so that only what is trained differs.
EQUALLY_LONG = ("side", "lora", "cumulative", "parts", "schedules")
COSTS = {"trainable_parameters": (1e6, "trainable parameters (millions)"), "seconds": (1, "seconds of a run")}


@style.styled
def ablation_metrics(study: Study) -> Figure:
    """Scores and loss after the last epoch by ratio, with 95 % intervals; small points are single seeds."""
    table, runs, shares = last_epoch(scores(study)), last_epoch(study.epochs), vision_shares(study)
    figure, axes = style.panels(style.TWO_COLUMNS, 2.1, 1, len(NAMES))
    for ax, (metric, name) in zip(axes.flat, NAMES.items(), strict=True):
        scale = 1 if metric == LOSS else 100
        style.by_ratio(ax, table[table["metric"] == metric], name if metric == LOSS else f"{name} (%)", scale)
        for index, (ratio, seeds) in enumerate(runs.groupby(RATIO)[metric]):
            if len(seeds) > 1:
                ax.plot([index + 0.25] * len(seeds), scale * seeds, ".", color=style.mark(ratio)["color"], alpha=0.5)
        ax.set_xticks(range(len(shares)), [f"{100 * r:.0f}\n{100 * s:.0f}" for r, s in shares.items()])
    style.percent_axis(axes.flat[:-1])
    axes.flat[-1].margins(y=0.15)
    figure.supxlabel(f"vision encoder trained (%): above in {study.settings.unit}s, below in parameters")
    return figure


def across_studies(studies: Sequence[Study]) -> Figure:
    """ANLS after the last epoch by ratio, a panel for every study, with 95 % intervals; dashed: before training."""
    anls = {study.name: scores(study).query("metric == 'anls'") for study in studies}
    before = {name: table["estimate"].iloc[0] for name, table in anls.items()}
    return style.across({name: last_epoch(table) for name, table in anls.items()}, before)


@style.styled
def training_validation_metrics(study: Study) -> Figure:
    """Training and validation loss above ANLS by epoch, one column per ratio; bands are 95 % intervals."""
    ratios = [*scores(study).groupby(RATIO)]
    train = study.epochs.groupby([RATIO, "epoch"])["train_loss"].mean()
    width = style.TWO_COLUMNS if len(ratios) > 2 else style.ONE_COLUMN
    figure, axes = style.panels(width, 3.0, 2, len(ratios), sharex=True, sharey="row")
    for (loss, anls), (ratio, table) in zip(axes.T, ratios, strict=True):
        _lines(anls, table, "anls")
        _lines(loss, table, LOSS, "validation")
        style.line(loss, train[ratio].index, train[ratio], label="training", **SECOND)
        loss.set_title(percent(ratio) + (f" of {study.settings.unit}s" if len(ratios) < 5 else ""))
    style.percent_axis(axes[1])
    loss.legend()
    axes[0, 0].set_ylabel(LOSS_LABEL)
    axes[1, 0].set_ylabel("ANLS (%)")
    figure.supxlabel("epoch")
    return figure


@style.styled
def compare_finetune(study: Study) -> Figure:
    """ANLS by epoch for every ratio, and before against after training; all with 95 % intervals."""
    table = scores(study).query("metric == 'anls'")
    figure, [[curves, ends]] = style.panels(style.TWO_COLUMNS, 2.3, 1, 2)
    _lines(curves, table, "anls")
    style.percent_axis(curves)
    curves.legend()
    curves.set(xlabel="epoch", ylabel="ANLS (%)")
    ratios = dict(list(table.groupby(RATIO)))
    for y, (ratio, rows) in enumerate(ratios.items()):
        first, *_, last = rows.itertuples()
        look = style.mark(ratio)
        ends.plot([100 * first.estimate, 100 * last.estimate], [y, y], color=look["color"], alpha=0.35)
        style.point(ends, y, first, vertical=False, **look, markerfacecolor="white")
        style.point(ends, y, last, vertical=False, **look)
    top = curves.get_ylim()[1]
    ends.set(xlim=(-0.04 * top, top), ylim=(len(ratios) - 0.5, -0.5), ylabel=f"vision {study.settings.unit}s trained")
    ends.set_yticks(range(len(ratios)), map(percent, ratios))
    ends.set_xlabel("ANLS (%): open before, filled after training")
    return figure


@style.styled
def qualitative_examples(study: Study, dataset_validation: Dataset, count: int = 4) -> Figure:
    """Pages with question, accepted answers, and the first seed's answers before and after training.

    They are those in the middle of `count` equally long stretches of ids. Raises ValueError where there are none.
    """
    before, after = (rows.query("seed == seed.min()") for rows in (study.first_answers, study.last_answers))
    ratios = sorted({after[RATIO].min(), after[RATIO].max()})
    chosen = {"before training": before[before[RATIO] == ratios[0]]}
    chosen |= {f"after, {percent(ratio)} of vision trained": after[after[RATIO] == ratio] for ratio in ratios}
    answers = {name: rows.set_index("question_id") for name, rows in chosen.items()}
    asked = sorted({*dataset_validation["questionId"]} & {*answers["before training"].index})
    count, said = min(count, len(asked)), {}
    for number in range(count):
        question = asked[(2 * number + 1) * len(asked) // (2 * count)]
        rows = [(name, table.loc[question]) for name, table in answers.items()]
        said[question] = {f"{name}: ANLS {row['anls']:.2f}": row["prediction"] or "(nothing)" for name, row in rows}
    return style.gallery(dataset_validation, said)[0]


@style.styled
def run_progress(epochs: pd.DataFrame, settings: Settings) -> Figure:
    """ANLS and exact match, and both losses, by epoch of one run; `epochs` is the run's `epochs.csv`."""
    figure, [[scored, loss]] = style.panels(style.TWO_COLUMNS, 2.1, 1, 2)
    looks = style.mark(settings.vision_trainable), SECOND
    drawn = {"anls": "ANLS", "exact_match": "exact match", LOSS: "validation", "train_loss": "training"}
    for index, (column, name) in enumerate(drawn.items()):
        ax, scale = (scored, 100) if index < 2 else (loss, 1)
        style.line(ax, epochs["epoch"], scale * epochs[column], label=name, **looks[index % 2])
    style.percent_axis(scored)
    for ax, label in ((scored, "score (%)"), (loss, LOSS_LABEL)):
        ax.legend()
        ax.set(xlabel="epoch", ylabel=label)
    return figure


@style.styled
def degradation_curves(answers: pd.DataFrame) -> Figure:
    """ANLS of `read_scores` by severity, a panel for each degradation, a line in its 95 % band for each ratio."""
    table = degradation_scores(answers, ["anls"])
    figure, axes = style.panels(style.TWO_COLUMNS, 3.9, 2, 3, sharey=True)
    for ax, (kind, (unit, values)) in zip(axes.flat, SEVERITIES.items(), strict=True):
        for ratio, rows in table[table["kind"] == kind].groupby(RATIO):
            style.band(ax, rows["severity"], rows, label=percent(ratio), **style.mark(ratio))
        ax.set(title=kind, xlabel=unit)
        ax.set_xticks(range(len(values) + 1), ["clean", *(f"{value:g}" for value in values)])
    style.percent_axis(axes)
    axes[0, 0].legend()
    figure.supylabel("ANLS (%)")
    return figure


@style.styled
def degradation_gallery(rows: Dataset) -> Figure:
    """The page of the first id's question under every degradation (columns) and severity (rows), beside it clean."""
    ids = rows["questionId"]
    row = rows[ids.index(min(ids))]
    clean = as_page(row["image"])
    height = min(8, 0.45 + 2.9 * clean.height / clean.width)
    figure, axes = style.panels(style.TWO_COLUMNS, height, 3, 1 + len(SEVERITIES), subplot_kw=style.BARE)
    kinds = [CLEAN, *SEVERITIES]
    for kind, severity in PAGE_SETS:
        degraded = degrade(clean, kind, severity, row["page"]) if severity else clean.copy()
        degraded.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        ax, value = axes[max(severity, 1) - 1, kinds.index(kind)], f"{amount(kind, severity):g}" if severity else ""
        style.page(ax, degraded)
        ax.set_title(f"{kind}\n{value}" if severity < 2 else value)
    return figure


def across_data(answers: pd.DataFrame) -> Figure:
    """ANLS of the best models by ratio, a panel for each set of data of `cross_answers`, with 95 % intervals."""
    parts = answers.groupby("data", sort=False)
    return style.across({name: interval_table(rows, [RATIO], ["anls"]) for name, rows in parts})


@style.styled
def gains(study: Study) -> Figure:
    """What training a part of the vision encoder, one at least, adds to none of it: a panel for each kind of documents.

    Parts are those of the arm `parts`, else of `side`, else the ratios; intervals are over documents and seeds.
    """
    found = contrasts.gains(study)
    rows, places = ([*dict.fromkeys(names)] for names in zip(*((one.says, one.where) for one in found), strict=True))
    figure, [axes] = style.panels(style.TWO_COLUMNS, 0.6 + 0.22 * len(rows), 1, len(places), sharex=True, sharey=True)
    for ax, where in zip(axes, places, strict=True):
        ax.axvline(0, color=style.GREY, linewidth=0.8)
        ax.set_title(where)
    for one in found:
        ax, y, gain = axes[places.index(one.where)], rows.index(one.says), one.difference.interval()
        style.point(ax, y, gain, vertical=False, color=style.TONES(0.33), marker="o")
        beside = {"xytext": (0, 4), "textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{100 * gain.estimate:z.1f}", (100 * gain.estimate, y), **beside)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.7)
    figure.supxlabel("points of ANLS gained over a frozen vision encoder, with 95 % intervals")
    return figure


@style.styled
def arm_contrasts(study: Study, name: str) -> Figure:
    """The contrasts of an arm, one at least: differences in ANLS with 95 % intervals; filled where p < 0.05 (Holm)."""
    found = contrasts.made(contrasts.arm_contrasts(study, name))
    figure, [[ax]] = style.panels(style.TWO_COLUMNS, 0.5 + 0.22 * len(found))
    ax.axvline(0, color=style.GREY, linewidth=0.8)
    for y, (one, p_value) in enumerate(zip(found, contrasts.holm_p_values(found), strict=True)):
        interval, face = one.difference.interval(), "black" if p_value < SIGNIFICANT else "white"
        style.point(ax, y, interval, vertical=False, color="black", marker="o", markerfacecolor=face)
        ax.annotate(interval.format(100), (1.02, y), xycoords=("axes fraction", "data"), va="center")
    ax.set_yticks(range(len(found)), [fill(plain(one.name), 58, break_long_words=False) for one in found])
    ax.set(ylim=(len(found) - 0.5, -0.5), xlabel="difference in ANLS (points)")
    return figure


def equally_long(study: Study) -> pd.DataFrame:
    """Scores and costs of the variants on the study's own documents that train equally long; may be empty.

    Columns: variant, estimate, low, high (ANLS in [0, 1]), trainable_parameters, seconds (mean over seeds), ratio.
    """
    rows: dict[str, dict] = {}
    for name in EQUALLY_LONG:
        if (arm := study.arm(name)) is None:
            continue
        runs = arm.runs.groupby(VARIANT).agg({"run": "first", "trainable_parameters": "first", "seconds": "mean"})
        table = interval_table(arm.compared, [VARIANT], ["anls"]).set_index(VARIANT).join(runs)
        for variant in ARMS[name](study.settings).variants:
            settings = study.settings.replace(**variant.changes)
            own = settings.synth_shift == study.settings.synth_shift and not settings.trained_before
            if own and variant.name in table.index:
                named = {VARIANT: variant.name.removeprefix(f"{study.settings.synth_shift}: ")}
                row = table.loc[variant.name]
                rows.setdefault(row["run"], {**named, **row, RATIO: settings.vision_trainable})
    return pd.DataFrame(rows.values())


@style.styled
def pareto(study: Study) -> Figure:
    """`equally_long`: ANLS against trainable parameters and seconds of a run; the line joins what nothing dominates."""
    table = equally_long(study)
    figure, [axes] = style.panels(style.TWO_COLUMNS, 3.4, 1, 2, sharey=True)
    for ax, (column, (unit, label)) in zip(axes, COSTS.items(), strict=True):
        costs = table[column] / unit
        for row, cost in zip(table.itertuples(), costs, strict=True):
            style.point(ax, cost, row, capsize=1.5, elinewidth=0.7, markersize=3.5, **style.mark(row.vision_trainable))
            beside = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 6.5}
            ax.annotate(str(row.Index + 1), (cost, 100 * row.estimate), **beside)
        front = table.assign(cost=costs)[undominated(costs, table["estimate"])].sort_values("cost")
        ax.plot(front["cost"], 100 * front["estimate"], color=style.GREY, linewidth=0.8, zorder=0)
        ax.set(xlabel=label, xlim=(0, None))
    axes[0].set_ylabel("ANLS (%)")
    key = "   ".join(f"{index + 1} {plain(name)}" for index, name in enumerate(table[VARIANT]))
    figure.supxlabel(fill(key, 105), fontsize=6.5)
    return figure


def undominated(costs: pd.Series, scores: pd.Series) -> pd.Series:
    """Whether nothing costs less and scores at least as much, or costs as much and scores more."""
    best = scores.groupby(costs).max()
    return scores == costs.map(best[best > best.cummax().shift(fill_value=float("-inf"))])


def _lines(ax: Axes, table: pd.DataFrame, metric: str, name: str | None = None) -> None:
    """Draw a metric by epoch with its band for every ratio, called `name` or by the ratio."""
    for ratio, rows in table[table["metric"] == metric].groupby(RATIO):
        look = {"label": name or percent(ratio), **style.mark(ratio)}
        style.band(ax, rows["epoch"], rows, 1 if metric == LOSS else 100, **look)
