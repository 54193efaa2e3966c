"""The study's figures, for print, with intervals wherever there are some."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from docfloqa.analysis.intervals import LOSS, RATIO, last_epoch, percent
from docfloqa.analysis.tables import scores, vision_shares
from docfloqa.figures import style
from docfloqa.runs.results import Study
from docfloqa.settings import Settings

SCORES = {"anls": "ANLS", "accuracy": "Accuracy", "exact_match": "Exact match", "f1": "F1"}
NAMES = {**SCORES, LOSS: "Validation loss"}
SECOND = {"color": style.GREY, "marker": "x", "linestyle": ":"}  # the second line of a panel


@style.styled
def epoch_progress(study: Study) -> Figure:
    """Four scores by epoch at the study's lowest ratio, with 95 % intervals over documents."""
    table = scores(study).query(f"{RATIO} == {RATIO}.min() and metric in @SCORES")
    lowest = table[RATIO].iloc[0]
    figure, axes = style.panels(style.ONE_COLUMN, 2.9, 2, 2, sharex=True, sharey=True)
    drawn = {metric: _line(ax, table, lowest, metric) for ax, metric in zip(axes.flat, SCORES, strict=True)}
    style.percent_axis(axes)
    for ax, (metric, (end, look)) in zip(axes.flat, drawn.items(), strict=True):
        ax.set_title(SCORES[metric])
        style.name_ends(ax, [(end, f"{end:.1f}", look)])
    figure.supxlabel("epoch")
    figure.supylabel(f"score (%), {percent(lowest)} of vision {study.settings.unit}s trained")
    return figure


@style.styled
def ablation_metrics(study: Study) -> Figure:
    """Scores and loss after the last epoch by ratio, with 95 % intervals; small points are single seeds."""
    table, runs, shares = last_epoch(scores(study)), last_epoch(study.epochs), vision_shares(study)
    figure, axes = style.panels(style.TWO_COLUMNS, 2.1, 1, len(NAMES))
    for ax, (metric, name) in zip(axes.flat, NAMES.items(), strict=True):
        title = name if metric == LOSS else f"{name} (%)"
        style.by_ratio(ax, table[table["metric"] == metric].itertuples(), title, style.scale_of(metric))
        for index, (ratio, seeds) in enumerate(runs.groupby(RATIO)[metric]):
            if len(seeds) > 1:
                height = style.scale_of(metric) * seeds
                ax.plot([index + 0.25] * len(seeds), height, ".", color=style.mark(ratio)["color"], alpha=0.5)
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
def val_loss_curve(study: Study) -> Figure:
    """Validation loss by epoch for every ratio, with 95 % intervals over documents."""
    figure, axes = style.panels(style.ONE_COLUMN, 2.4)
    _lines(axes[0, 0], scores(study), LOSS)
    axes[0, 0].set_ylabel("validation loss (nats per token)")
    return figure


@style.styled
def training_validation_metrics(study: Study) -> Figure:
    """Training and validation loss above ANLS by epoch, one column per ratio; bands are 95 % intervals."""
    table = scores(study)
    train = study.epochs.groupby([RATIO, "epoch"])["train_loss"].mean()
    ratios = sorted(table[RATIO].unique())
    width = style.TWO_COLUMNS if len(ratios) > 2 else style.ONE_COLUMN
    figure, axes = style.panels(width, 3.0, 2, len(ratios), sharex=True, sharey="row")
    for (loss, anls), ratio in zip(axes.T, ratios, strict=True):
        _line(anls, table, ratio, "anls")
        end, look = _line(loss, table, ratio, LOSS)
        loss.plot(train[ratio].index, train[ratio], **SECOND)
        loss.set_title(percent(ratio) + (f" of {study.settings.unit}s" if len(ratios) < 5 else ""))
    style.percent_axis(axes[1])
    style.name_ends(loss, [(end, "validation", look), (train[ratio].iloc[-1], "training", SECOND)])
    axes[0, 0].set_ylabel("loss (nats per token)")
    axes[1, 0].set_ylabel("ANLS (%)")
    figure.supxlabel("epoch")
    return figure


@style.styled
def compare_finetune(study: Study) -> Figure:
    """ANLS by epoch for every ratio, and before against after training; all with 95 % intervals."""
    table = scores(study).query("metric == 'anls'")
    figure, axes = style.panels(style.TWO_COLUMNS, 2.3, 1, 2)
    curves, ends = axes.flat
    _lines(curves, table, "anls")
    curves.set_ylabel("ANLS (%)")
    ratios = sorted(table[RATIO].unique())
    for place, ratio in enumerate(ratios):
        rows, look = list(table[table[RATIO] == ratio].itertuples()), style.mark(ratio)
        way = [100 * rows[0].estimate, 100 * rows[-1].estimate]
        ends.plot(way, [place, place], color=look["color"], alpha=0.35)
        style.point(ends, place, rows[0], vertical=False, **look, markerfacecolor="white")
        style.point(ends, place, rows[-1], vertical=False, **look)
    top = curves.get_ylim()[1]
    ends.set(xlim=(-0.04 * top, top), ylim=(len(ratios) - 0.5, -0.5))
    ends.set_yticks(range(len(ratios)), map(percent, ratios))
    ends.set_xlabel("ANLS (%): open before, filled after training")
    ends.set_ylabel(f"vision {study.settings.unit}s trained")
    return figure


@style.styled
def qualitative_examples(study: Study, dataset_validation: Dataset, count: int = 4) -> Figure:
    """Pages with question, accepted answers, and the answers before and after training.

    Of the questions that were answered, sorted by id, they are those in the middle of `count` equally long
    stretches. Answers are the first seed's, before training at the lowest ratio, afterwards at the lowest and the
    highest. Raises ValueError where the data set has none of the questions that were answered.
    """
    before, after = (rows[rows["seed"] == rows["seed"].min()] for rows in (study.first_answers, study.last_answers))
    ratios = sorted({after[RATIO].min(), after[RATIO].max()})
    chosen = {"before training": before[before[RATIO] == ratios[0]]}
    for ratio in ratios:
        chosen[f"after, {percent(ratio)} of vision trained"] = after[after[RATIO] == ratio]
    answers = {name: rows.set_index("question_id") for name, rows in chosen.items()}
    places = {question: place for place, question in enumerate(dataset_validation["questionId"])}
    asked = sorted(set(places) & set(answers["before training"].index))
    if not asked:
        raise ValueError(f"none of the {len(places)} questions given was answered in study {study.name!r}")
    count, examples = min(count, len(asked)), []
    for number in range(count):
        question = asked[(2 * number + 1) * len(asked) // (2 * count)]
        row = dataset_validation[places[question]]
        texts = {"question": row["question"], "accepted": " · ".join(row["answers"])}
        for name, table in answers.items():
            answer = table.loc[question]
            texts[f"{name}: ANLS {answer['anls']:.2f}"] = answer["prediction"] or "(nothing)"
        examples.append((row["image"], texts))
    return style.gallery(examples)[0]


@style.styled
def run_progress(epochs: pd.DataFrame, settings: Settings) -> Figure:
    """ANLS and exact match, and both losses, by epoch of one run; `epochs` is the run's `epochs.csv`."""
    figure, axes = style.panels(style.TWO_COLUMNS, 2.1, 1, 2)
    scored, loss = axes.flat
    for ax, columns in (
        (scored, {"anls": "ANLS", "exact_match": "exact match"}),
        (loss, {LOSS: "validation", "train_loss": "training"}),
    ):
        ends, looks = [], (style.mark(settings.vision_trainable), SECOND)
        for (column, name), look in zip(columns.items(), looks, strict=True):
            values = epochs[column] * (100 if ax is scored else 1)
            ax.plot(epochs["epoch"], values, clip_on=False, **look)
            ends.append((values.iloc[-1], name, look))
        ax.set(xlabel="epoch", ylabel="score (%)" if ax is scored else "loss (nats per token)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if ax is scored:
            style.percent_axis(ax)
        style.name_ends(ax, ends)
    return figure


def plot_run(epochs: pd.DataFrame, settings: Settings) -> None:
    """Show one run's scores and losses by epoch in the notebook (see `run_progress` and `style.show`)."""
    first, last = (f"{100 * epochs['anls'].iloc[place]:.1f} %" for place in (0, -1))
    trained = f"{percent(settings.vision_trainable)} of the vision encoder's {settings.unit}s trained"
    caption = f"Scores and losses by epoch with {trained}, seed {settings.seed}."
    style.show(run_progress(epochs, settings), caption, f"{caption} ANLS goes from {first} to {last}.")


def _line(ax: Axes, table: pd.DataFrame, ratio: float, metric: str) -> tuple[float, dict[str, Any]]:
    """Draw a metric by epoch with its band; returns its last value as drawn, and its look."""
    rows, look = table[(table[RATIO] == ratio) & (table["metric"] == metric)], style.mark(ratio)
    end = style.band(ax, rows["epoch"], rows, look, style.scale_of(metric))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return end, look


def _lines(ax: Axes, table: pd.DataFrame, metric: str) -> None:
    """Draw a metric by epoch for every ratio, each named at its end."""
    drawn = {ratio: _line(ax, table, ratio, metric) for ratio in sorted(table[RATIO].unique())}
    ax.set_xlabel("epoch")
    if metric != LOSS:
        style.percent_axis(ax)
    style.name_ends(ax, [(end, percent(ratio), look) for ratio, (end, look) in drawn.items()])
