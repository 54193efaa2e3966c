"""What a data set looks like: counts, distributions, samples, and what the model sees of them."""

from __future__ import annotations

from random import Random
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from datasets import Dataset, DatasetDict, Image
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from transformers import Florence2Processor

from docfloqa.data.images import as_page
from docfloqa.data.load import SPLITS
from docfloqa.data.synth.dataset import draw_page
from docfloqa.data.synth.small import LAYOUTS, small_page
from docfloqa.figures.style import TWO_COLUMNS, plain_text, show, use_style
from docfloqa.model.florence import encode_text
from docfloqa.settings import SHIFTS

# Tanaka et al., VisualMRC (AAAI 2021), table 1; lengths in NLTK tokens. Pages and questions: Mathew et al. (WACV 2021).
DOCVQA_STATISTICS = {
    "pages": 12_767,
    "questions": 50_000,
    "questions per page": 50_000 / 12_767,
    "words per page": 182.75,
    "words per question": 9.49,
    "words per answer": 2.43,
}
SPLIT_COLOURS = {"train": "#004488", "validation": "#DDAA33"}


def questions(dataset: DatasetDict) -> pd.DataFrame:
    """Every question of both splits without its image: the schema's columns, `split`, and lengths in words."""
    frames = []
    for split in SPLITS:
        frame = dataset[split].remove_columns("image").to_pandas()
        frame.insert(0, "split", split)
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    frame["question_words"] = frame["question"].str.split().str.len()
    frame["answer_words"] = frame["answers"].str[0].str.split().str.len()
    frame["accepted_answers"] = frame["answers"].str.len()
    return frame


def counts(asked: pd.DataFrame) -> pd.DataFrame:
    """Documents, pages and questions by split, questions a document, accepted answers and words."""
    by_split = asked.groupby("split", sort=False)
    table = by_split.agg(
        documents=("document_id", "nunique"),
        pages=("page", "nunique"),
        questions=("questionId", "size"),
        **{
            "words per question": ("question_words", "mean"),
            "words per answer": ("answer_words", "mean"),
            "accepted answers": ("accepted_answers", "mean"),
        },
    )
    table.insert(3, "questions per document", table["questions"] / table["documents"])
    return table.T.map(lambda value: f"{value:,.2f}".rstrip("0").rstrip("."))


def beside_docvqa(asked: pd.DataFrame, words_per_page: float | None) -> pd.DataFrame:
    """Statistics of all questions of both splits beside DocVQA's published ones (see `DOCVQA_STATISTICS`).

    `words_per_page` is None where nobody has counted the words of the pages.
    """
    ours = {
        "pages": asked["page"].nunique(),
        "questions": len(asked),
        "questions per page": len(asked) / asked["page"].nunique(),
        "words per page": words_per_page,
        "words per question": asked["question_words"].mean(),
        "words per answer": asked["answer_words"].mean(),
    }
    table = pd.DataFrame({"here": ours, "DocVQA": DOCVQA_STATISTICS}, dtype=float)
    return table.map(lambda value: "–" if np.isnan(value) else f"{value:,.2f}".rstrip("0").rstrip("."))


def question_types(asked: pd.DataFrame) -> pd.DataFrame:
    """Questions of each of DocVQA's types by split; a question may have several types."""
    exploded = asked.explode("question_types").fillna({"question_types": "(none)"})
    return exploded.groupby(["question_types", "split"]).size().unstack(fill_value=0).reindex(columns=list(SPLITS))


def image_sizes(rows: Dataset) -> pd.DataFrame:
    """Width and height in pixels of every distinct page of a split."""
    first = {page: place for place, page in enumerate(rows["page"])}
    pages = rows.select(sorted(first.values())).cast_column("image", Image(decode=True))
    return pd.DataFrame([page["image"].size for page in pages], columns=["width", "height"])


def plot_distributions(asked: pd.DataFrame) -> Figure:
    """Questions a document, words a question and words an answer, by split, as shares."""
    per_document = asked.groupby(["split", "document_id"]).size().rename("questions_per_document").reset_index()
    panels = (
        (per_document, "questions_per_document", "questions per document"),
        (asked, "question_words", "words in the question"),
        (asked, "answer_words", "words in the first answer"),
    )
    with use_style():
        figure, axes = plt.subplots(1, 3, figsize=(TWO_COLUMNS, 2.2), layout="constrained")
        for axis, (frame, column, label) in zip(axes, panels, strict=True):
            sns.histplot(
                frame,
                x=column,
                hue="split",
                stat="percent",
                common_norm=False,
                discrete=True,
                multiple="dodge",
                shrink=0.8,
                palette=SPLIT_COLOURS,
                ax=axis,
                legend=axis is axes[0],
            )
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.set(xlabel=label, ylabel="share (%)" if axis is axes[0] else "")
    return figure


def plot_samples(rows: Dataset, count: int = 4) -> Figure:
    """Pages evenly spaced through a split, each with its questions and first answers."""
    pages = list(dict.fromkeys(rows["page"]))
    chosen = [pages[int(place)] for place in np.linspace(0, len(pages) - 1, min(count, len(pages)))]
    with use_style():
        figure, axes = plt.subplots(2, len(chosen), figsize=(TWO_COLUMNS, 3.8), height_ratios=(1, 1), squeeze=False)
        for column, page in zip(axes.T, chosen, strict=True):
            on_page = rows.select([place for place, other in enumerate(rows["page"]) if other == page])
            column[0].imshow(as_page(on_page[0]["image"]))
            lines = [
                fill(f"{question} {answers[0]}", 32, subsequent_indent="   ")
                for question, answers in zip(on_page["question"], on_page["answers"], strict=True)
            ]
            text = "\n".join(lines[:4])
            plain_text(column[1], 0, 1, text, ha="left", va="top", fontsize=6, transform=column[1].transAxes)
            for axis in column:
                axis.set_axis_off()
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.99, wspace=0.08, hspace=0.04)
    return figure


def plot_drawings(what: str, seed: int = 0) -> None:
    """Show small drawn pages: each kind as printed in "pretraining", or a row of pages for each of the "shifts".

    Raises `ValueError` for anything else.
    """
    if what not in ("pretraining", "shifts"):
        raise ValueError(f"{what!r} is not drawn; allowed are 'pretraining' and 'shifts'")
    if what == "pretraining":
        rows = {"": [small_page(Random(f"{seed}-{kind}"), layouts={kind: LAYOUTS[kind]}) for kind in LAYOUTS]}
    else:
        rows = {
            shift: [draw_page(Random(f"{seed}-{shift}-{place}"), shift) for place in range(len(LAYOUTS))]
            for shift in SHIFTS
        }
    with use_style():
        figure, axes = plt.subplots(len(rows), len(LAYOUTS), figsize=(TWO_COLUMNS, 1.25 * len(rows)), squeeze=False)
        for line, (name, pages) in zip(axes, rows.items(), strict=True):
            line[0].set_ylabel(name)
            for axis, page in zip(line, pages, strict=True):
                axis.imshow(page.image, cmap="gray", vmin=0, vmax=255)
                axis.set(xticks=[], yticks=[])
                axis.set_title(page.kind, fontsize=6, pad=2)
        figure.subplots_adjust(left=0.05, right=0.99, bottom=0.01, top=0.92, wspace=0.05, hspace=0.2)
    show(
        figure,
        caption="Small drawn pages" + (", as pretraining prints them." if len(rows) == 1 else " under each shift."),
        alt="Drawn document pages with their kinds: " + ", ".join(page.kind for line in rows.values() for page in line),
    )


def plot_model_view(rows: Dataset, processor: Florence2Processor, place: int = 0) -> Figure:
    """A page as it is and as the model sees it: a square of the processor's size, normalised and shown back."""
    page = as_page(rows[place]["image"])
    images = processor.image_processor
    pixels = images(page, return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    seen = (pixels * images.image_std + images.image_mean).clip(0, 1)
    with use_style():
        figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 3.4), layout="constrained")
        for axis, image, title in (
            (axes[0], page, f"the page: {page.width} x {page.height}"),
            (axes[1], seen, f"what the model sees: {seen.shape[1]} x {seen.shape[0]}"),
        ):
            axis.imshow(image)
            axis.set_title(title)
            axis.set_axis_off()
    return figure


def token_lengths(asked: pd.DataFrame, processor: Florence2Processor) -> pd.DataFrame:
    """Median, 99th percentile and largest number of tokens of questions and first answers."""
    texts = {"question": asked["question"], "first answer": asked["answers"].str[0]}
    lengths = {name: pd.Series(map(len, encode_text(processor, column.tolist()))) for name, column in texts.items()}
    summary = {name: series.quantile([0.5, 0.99, 1.0]).to_list() for name, series in lengths.items()}
    return pd.DataFrame.from_dict(summary, orient="index", columns=["median", "99 %", "largest"]).round(0).astype(int)
