"""What a data set looks like: counts, distributions, samples, and what the model sees of them."""

from random import Random
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn as sns
from datasets import Dataset, DatasetDict
from matplotlib.figure import Figure

from docfloqa.analysis.tables import PUBLISHED
from docfloqa.data.images import as_page
from docfloqa.data.load import SPLITS
from docfloqa.data.synth.dataset import draw_page
from docfloqa.data.synth.small import CLEAN, LAYOUTS, small_page
from docfloqa.data.synth.vocabulary import KNOWN
from docfloqa.figures.style import BARE, TWO_COLUMNS, panels, plain_text, styled
from docfloqa.settings import SHIFTS

if TYPE_CHECKING:
    from transformers import Florence2Processor

SPLIT_COLOURS = {"train": "#004488", "validation": "#DDAA33"}


def questions(dataset: DatasetDict) -> pd.DataFrame:
    """Every question of both splits without its image: the schema's columns, `split`, and lengths in words."""
    frames = [dataset[split].remove_columns("image").to_pandas().assign(split=split) for split in SPLITS]
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(
        question_words=frame["question"].str.split().str.len(),
        answer_words=frame["answers"].str[0].str.split().str.len(),
        accepted_answers=frame["answers"].str.len(),
    )


def counts(asked: pd.DataFrame) -> pd.DataFrame:
    """Documents, pages and questions by split, questions a document, accepted answers and words."""
    by_split = asked.groupby("split", sort=False)
    table = by_split.agg(documents=("document_id", "nunique"), pages=("page", "nunique"), questions=("page", "size"))
    table["questions per document"] = table["questions"] / table["documents"]
    means = by_split[["question_words", "answer_words", "accepted_answers"]].mean()
    means.columns = ["words per question", "words per answer", "accepted answers"]
    return table.join(means).T.map(_number)


def beside_docvqa(asked: pd.DataFrame, words_per_page: float | None) -> pd.DataFrame:
    """Statistics of all questions beside published ones; `words_per_page` is None where nobody counted them."""
    ours = {
        "pages": asked["page"].nunique(),
        "questions": len(asked),
        "questions per page": len(asked) / asked["page"].nunique(),
        "words per page": words_per_page,
        "words per question": asked["question_words"].mean(),
        "words per answer": asked["answer_words"].mean(),
    }
    return pd.DataFrame({"here": ours, "DocVQA": PUBLISHED["docvqa_statistics"]}, dtype=float).map(_number)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:,.2f}".rstrip("0").rstrip(".")


def image_sizes(rows: Dataset) -> pd.DataFrame:
    """Width and height in pixels of every distinct page of a split."""
    pages = rows.select(sorted({page: index for index, page in enumerate(rows["page"])}.values()))
    return pd.DataFrame([row["image"].size for row in pages], columns=["width", "height"])


@styled
def plot_distributions(asked: pd.DataFrame) -> Figure:
    """Questions a document, words a question and words an answer, by split, as shares."""
    per_document = asked.groupby(["split", "document_id"]).size().reset_index(name="questions_per_document")
    drawn = {
        "questions per document": (per_document, "questions_per_document"),
        "words in the question": (asked, "question_words"),
        "words in the first answer": (asked, "answer_words"),
    }
    look = {"stat": "percent", "common_norm": False, "discrete": True, "multiple": "dodge", "shrink": 0.8}
    figure, [axes] = panels(TWO_COLUMNS, 2.2, 1, 3)
    for ax, (label, (frame, column)) in zip(axes, drawn.items(), strict=True):
        look["legend"] = ax is axes[0]
        sns.histplot(frame, x=column, hue="split", palette=SPLIT_COLOURS, ax=ax, **look)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(xlabel=label, ylabel="share (%)" if ax is axes[0] else "")
    return figure


@styled
def plot_samples(rows: Dataset) -> Figure:
    """Four pages, evenly spaced through a split, each with its questions and first answers."""
    pages = list(dict.fromkeys(rows["page"]))
    chosen = [pages[int(index)] for index in np.linspace(0, len(pages) - 1, min(4, len(pages)))]
    figure, axes = panels(TWO_COLUMNS, 3.8, 2, len(chosen), subplot_kw=BARE)
    for (paper, words), name in zip(axes.T, chosen, strict=True):
        asked = rows.select([index for index, other in enumerate(rows["page"]) if other == name][:4])
        paper.imshow(as_page(asked[0]["image"]))
        lines = [fill(f"{row['question']} {row['answers'][0]}", 32, subsequent_indent="   ") for row in asked]
        plain_text(words, 0, 1, "\n".join(lines), fontsize=6)
    return figure


@styled
def plot_drawings(what: str) -> Figure:
    """Small drawn pages: each kind as printed in "pretraining", or a row of pages for each of the "shifts"."""
    if what == "pretraining":
        shown = CLEAN, KNOWN["pretraining"]
        rows = {"": [small_page(Random(f"0-{kind}"), *shown, {kind: LAYOUTS[kind]}) for kind in LAYOUTS]}
    else:
        columns = range(len(LAYOUTS))
        rows = {shift: [draw_page(Random(f"0-{shift}-{at}"), shift, "train") for at in columns] for shift in SHIFTS}
    figure, axes = panels(TWO_COLUMNS, 1.25 * len(rows), len(rows), len(LAYOUTS), subplot_kw=BARE)
    for line, (name, pages) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for ax, page in zip(line, pages, strict=True):
            ax.imshow(page.image, cmap="gray", vmin=0, vmax=255)
            ax.set_title(page.kind, fontsize=6, pad=2)
    return figure


@styled
def plot_model_view(rows: Dataset, processor: "Florence2Processor") -> Figure:
    """The first page as it is and as the model sees it: a square of the processor's size, normalised and shown back."""
    page, images = as_page(rows[0]["image"]), processor.image_processor
    pixels = images(page, return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    seen = (pixels * images.image_std + images.image_mean).clip(0, 1)
    figure, [axes] = panels(TWO_COLUMNS, 3.4, 1, 2, subplot_kw=BARE)
    titles = f"the page: {page.width} x {page.height}", f"what the model sees: {seen.shape[1]} x {seen.shape[0]}"
    for ax, image, title in zip(axes, (page, seen), titles, strict=True):
        ax.imshow(image)
        ax.set_title(title)
    return figure


def token_lengths(asked: pd.DataFrame, processor: "Florence2Processor") -> pd.DataFrame:
    """Median, 99th percentile and largest number of tokens of questions and first answers."""
    from docfloqa.model.florence import encode_text

    texts = {"question": asked["question"], "first answer": asked["answers"].str[0]}
    lengths = pd.DataFrame({name: [*map(len, encode_text(processor, [*column]))] for name, column in texts.items()})
    return lengths.quantile([0.5, 0.99, 1.0]).round(0).astype(int).T.set_axis(["median", "99 %", "largest"], axis=1)
