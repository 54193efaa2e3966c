"""The study's figures, for print, with intervals wherever there are some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from docfloqa.analysis.intervals import LOSS, RATIO, last_epoch, percent
from docfloqa.analysis.tables import scores, vision_shares
from docfloqa.data.images import as_page
from docfloqa.figures.style import (
    GREY,
    ONE_COLUMN,
    TWO_COLUMNS,
    band,
    mark,
    name_ends,
    page,
    panels,
    percent_axis,
    plain_text,
    point,
    scale_of,
    shorten,
    show,
    styled,
)
from docfloqa.runs.results import Study
from docfloqa.settings import Settings

SCORES = {"anls": "ANLS", "accuracy": "Accuracy", "exact_match": "Exact match", "f1": "F1"}
NAMES = {**SCORES, LOSS: "Validation loss"}
SECOND = {"color": GREY, "marker": "x", "linestyle": ":"}  # the second line of a panel


@styled
def epoch_progress(study: Study) -> Figure:
    """Four scores by epoch at the study's lowest ratio, with 95 % intervals over documents."""
    table = scores(study).query(f"{RATIO} == {RATIO}.min() and metric in @SCORES")
    lowest = table[RATIO].iloc[0]
    figure, axes = panels(ONE_COLUMN, 2.9, 2, 2, sharex=True, sharey=True)
    drawn = {metric: _line(ax, table, lowest, metric) for ax, metric in zip(axes.flat, SCORES, strict=True)}
    percent_axis(axes)
    for ax, (metric, (end, style)) in zip(axes.flat, drawn.items(), strict=True):
        ax.set_title(SCORES[metric])
        name_ends(ax, [(end, f"{end:.1f}", style)])
    figure.supxlabel("epoch")
    figure.supylabel(f"score (%), {percent(lowest)} of vision {study.settings.unit}s trained")
    return figure


@styled
def ablation_metrics(study: Study) -> Figure:
    """Scores and loss after the last epoch by ratio, with 95 % intervals; small points are single seeds."""
    table, runs, shares = last_epoch(scores(study)), last_epoch(study.epochs), vision_shares(study)
    figure, axes = panels(TWO_COLUMNS, 2.1, 1, len(NAMES))
    for ax, (metric, name) in zip(axes.flat, NAMES.items(), strict=True):
        for place, row in enumerate(table[table["metric"] == metric].itertuples()):
            style = mark(row.vision_trainable)
            seeds = scale_of(metric) * runs.loc[runs[RATIO] == row.vision_trainable, metric]
            if len(seeds) > 1:
                ax.plot([place + 0.25] * len(seeds), seeds, ".", color=style["color"], alpha=0.5)
            point(ax, place, row, scale=scale_of(metric), **style)
        ax.set_title(name if metric == LOSS else f"{name} (%)")
        ax.set_xlim(-0.5, len(shares) - 0.5)
        ax.set_xticks(range(len(shares)), [f"{100 * r:.0f}\n{100 * s:.0f}" for r, s in shares.items()])
    percent_axis(axes.flat[:-1])
    axes.flat[-1].margins(y=0.15)
    figure.supxlabel(f"vision encoder trained (%): above in {study.settings.unit}s, below in parameters")
    return figure


@styled
def across_studies(studies: Sequence[Study]) -> Figure:
    """ANLS after the last epoch by ratio, a panel for every study, with 95 % intervals; dashed: before training."""
    figure, axes = panels(TWO_COLUMNS, 2.1, 1, len(studies), sharey=True)
    for ax, study in zip(axes.flat, studies, strict=True):
        table = scores(study).query("metric == 'anls'")
        last = last_epoch(table)
        for place, row in enumerate(last.itertuples()):
            point(ax, place, row, **mark(row.vision_trainable))
        ax.axhline(100 * table["estimate"].iloc[0], color=GREY, linestyle="--", linewidth=0.8)
        ax.set_title(study.name)
        ax.set_xlim(-0.5, len(last) - 0.5)
        ax.set_xticks(range(len(last)), [percent(ratio) for ratio in last[RATIO]])
    percent_axis(axes)
    axes[0, 0].set_ylabel("ANLS (%)")
    figure.supxlabel("vision encoder trained")
    return figure


@styled
def val_loss_curve(study: Study) -> Figure:
    """Validation loss by epoch for every ratio, with 95 % intervals over documents."""
    figure, axes = panels(ONE_COLUMN, 2.4)
    _lines(axes[0, 0], scores(study), LOSS)
    axes[0, 0].set_ylabel("validation loss (nats per token)")
    return figure


@styled
def training_validation_metrics(study: Study) -> Figure:
    """Training and validation loss above ANLS by epoch, one column per ratio; bands are 95 % intervals."""
    table = scores(study)
    train = study.epochs.groupby([RATIO, "epoch"])["train_loss"].mean()
    ratios = sorted(table[RATIO].unique())
    width = TWO_COLUMNS if len(ratios) > 2 else ONE_COLUMN
    figure, axes = panels(width, 3.0, 2, len(ratios), sharex=True, sharey="row")
    for (loss, anls), ratio in zip(axes.T, ratios, strict=True):
        _line(anls, table, ratio, "anls")
        end, style = _line(loss, table, ratio, LOSS)
        loss.plot(train[ratio].index, train[ratio], **SECOND)
        loss.set_title(percent(ratio) + (f" of {study.settings.unit}s" if len(ratios) < 5 else ""))
    percent_axis(axes[1])
    name_ends(loss, [(end, "validation", style), (train[ratio].iloc[-1], "training", SECOND)])
    axes[0, 0].set_ylabel("loss (nats per token)")
    axes[1, 0].set_ylabel("ANLS (%)")
    figure.supxlabel("epoch")
    return figure


@styled
def compare_finetune(study: Study) -> Figure:
    """ANLS by epoch for every ratio, and before against after training; all with 95 % intervals."""
    table = scores(study).query("metric == 'anls'")
    figure, axes = panels(TWO_COLUMNS, 2.3, 1, 2)
    curves, ends = axes.flat
    _lines(curves, table, "anls")
    curves.set_ylabel("ANLS (%)")
    ratios = sorted(table[RATIO].unique())
    for place, ratio in enumerate(ratios):
        rows, style = list(table[table[RATIO] == ratio].itertuples()), mark(ratio)
        way = [100 * rows[0].estimate, 100 * rows[-1].estimate]
        ends.plot(way, [place, place], color=style["color"], alpha=0.35)
        point(ends, place, rows[0], vertical=False, **style, markerfacecolor="white")
        point(ends, place, rows[-1], vertical=False, **style)
    top = curves.get_ylim()[1]
    ends.set(xlim=(-0.04 * top, top), ylim=(len(ratios) - 0.5, -0.5))
    ends.set_yticks(range(len(ratios)), map(percent, ratios))
    ends.set_xlabel("ANLS (%): open before, filled after training")
    ends.set_ylabel(f"vision {study.settings.unit}s trained")
    return figure


@styled
def qualitative_examples(study: Study, dataset_validation: Dataset, count: int = 4) -> Figure:
    """Pages with question, accepted answers, and the answers before and after training.

    The examples are not chosen by hand: of the validation questions that were answered, sorted by id, those
    that stand in the middle of `count` equally long stretches. Answers are the first seed's, before training
    at the lowest ratio, afterwards at the lowest and the highest. Raises ValueError where the data set has
    none of the questions that were answered.
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
        examples.append((row["image"], {name: shorten(text) for name, text in texts.items()}))
    breaks = max(sum(text.count("\n") for text in texts.values()) for _, texts in examples)
    lines, height = -(-count // 2), max(1.6, 0.15 + 0.25 * len(texts) + 0.12 * breaks)
    figure, axes = panels(TWO_COLUMNS, height * lines, lines, 4, width_ratios=[2, 3, 2, 3])
    for ax in axes.flat:
        ax.set_axis_off()
    for number, (image, texts) in enumerate(examples):
        paper, words = axes.flat[2 * number : 2 * number + 2]
        page(paper, as_page(image).convert("L"))
        paper.set_anchor("N")
        y = 1.0
        for name, text in texts.items():
            # Clipped text cannot make the layout shrink the pages.
            left = {"ha": "left", "va": "top", "clip_on": True}
            plain_text(words, 0, y, name, color=GREY, fontsize=5.5, **left)
            plain_text(words, 0, y - 0.1 / height, text, **left)
            y -= (0.25 + 0.12 * text.count("\n")) / height
    return figure


@styled
def run_progress(epochs: pd.DataFrame, settings: Settings) -> Figure:
    """ANLS and exact match, and both losses, by epoch of one run; `epochs` is the run's `epochs.csv`."""
    figure, axes = panels(TWO_COLUMNS, 2.1, 1, 2)
    scored, loss = axes.flat
    for ax, columns in (
        (scored, {"anls": "ANLS", "exact_match": "exact match"}),
        (loss, {LOSS: "validation", "train_loss": "training"}),
    ):
        ends, looks = [], (mark(settings.vision_trainable), SECOND)
        for (column, name), style in zip(columns.items(), looks, strict=True):
            values = epochs[column] * (100 if ax is scored else 1)
            ax.plot(epochs["epoch"], values, clip_on=False, **style)
            ends.append((values.iloc[-1], name, style))
        ax.set(xlabel="epoch", ylabel="score (%)" if ax is scored else "loss (nats per token)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if ax is scored:
            percent_axis(ax)
        name_ends(ax, ends)
    return figure


def plot_run(epochs: pd.DataFrame, settings: Settings) -> None:
    """Show one run's scores and losses by epoch in the notebook (see `run_progress` and `show`)."""
    first, last = (f"{100 * epochs['anls'].iloc[place]:.1f} %" for place in (0, -1))
    trained = f"{percent(settings.vision_trainable)} of the vision encoder's {settings.unit}s trained"
    caption = f"Scores and losses by epoch with {trained}, seed {settings.seed}."
    show(run_progress(epochs, settings), caption, f"{caption} ANLS goes from {first} to {last}.")


def _line(ax: Axes, table: pd.DataFrame, ratio: float, metric: str) -> tuple[float, dict[str, Any]]:
    """Draw a metric by epoch with its band; returns its last value as drawn, and its look."""
    rows, style = table[(table[RATIO] == ratio) & (table["metric"] == metric)], mark(ratio)
    end = band(ax, rows["epoch"], rows, style, scale_of(metric))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return end, style


def _lines(ax: Axes, table: pd.DataFrame, metric: str) -> None:
    """Draw a metric by epoch for every ratio, each named at its end."""
    drawn = {ratio: _line(ax, table, ratio, metric) for ratio in sorted(table[RATIO].unique())}
    ax.set_xlabel("epoch")
    if metric != LOSS:
        percent_axis(ax)
    name_ends(ax, [(end, percent(ratio), style) for ratio, (end, style) in drawn.items()])
