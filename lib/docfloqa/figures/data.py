"""What a data set looks like: counts, distributions, samples, and what the model sees of them."""

from random import Random
from textwrap import fill

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
from docfloqa.data.synth.small import LAYOUTS, Page, small_page
from docfloqa.figures.style import TWO_COLUMNS, panels, plain_text, show, styled
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
    sizes = {"documents": "document_id", "pages": "page", "questions": "questionId"}
    table = by_split[[*sizes.values()]].nunique().set_axis([*sizes], axis=1).assign(questions=by_split.size())
    table["questions per document"] = table["questions"] / table["documents"]
    means = {"words per question": "question_words", "words per answer": "answer_words"}
    means["accepted answers"] = "accepted_answers"
    return table.join(by_split[[*means.values()]].mean().set_axis([*means], axis=1)).T.map(_number)


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
    return pd.DataFrame({"here": ours, "DocVQA": DOCVQA_STATISTICS}, dtype=float).map(_number)


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:,.2f}".rstrip("0").rstrip(".")


def question_types(asked: pd.DataFrame) -> pd.DataFrame:
    """Questions of each of DocVQA's types by split; a question may have several types."""
    exploded = asked.explode("question_types").fillna({"question_types": "(none)"})
    return exploded.groupby(["question_types", "split"]).size().unstack(fill_value=0).reindex(columns=list(SPLITS))


def image_sizes(rows: Dataset) -> pd.DataFrame:
    """Width and height in pixels of every distinct page of a split."""
    first = {page: place for place, page in enumerate(rows["page"])}
    pages = rows.select(sorted(first.values())).cast_column("image", Image(decode=True))
    return pd.DataFrame([page["image"].size for page in pages], columns=["width", "height"])


@styled
def plot_distributions(asked: pd.DataFrame) -> Figure:
    """Questions a document, words a question and words an answer, by split, as shares."""
    per_document = asked.groupby(["split", "document_id"]).size().rename("questions_per_document").reset_index()
    drawn = (
        (per_document, "questions_per_document", "questions per document"),
        (asked, "question_words", "words in the question"),
        (asked, "answer_words", "words in the first answer"),
    )
    look = {"stat": "percent", "common_norm": False, "discrete": True, "multiple": "dodge", "shrink": 0.8}
    figure, [axes] = panels(TWO_COLUMNS, 2.2, 1, 3)
    for ax, (frame, column, label) in zip(axes, drawn, strict=True):
        first = ax is axes[0]
        sns.histplot(frame, x=column, hue="split", palette=SPLIT_COLOURS, ax=ax, legend=first, **look)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set(xlabel=label, ylabel="share (%)" if first else "")
    return figure


@styled
def plot_samples(rows: Dataset, count: int = 4) -> Figure:
    """Pages evenly spaced through a split, each with its questions and first answers."""
    pages = list(dict.fromkeys(rows["page"]))
    chosen = [pages[int(index)] for index in np.linspace(0, len(pages) - 1, min(count, len(pages)))]
    figure, axes = panels(TWO_COLUMNS, 3.8, 2, len(chosen))
    for (paper, words), name in zip(axes.T, chosen, strict=True):
        asked = rows.select([index for index, other in enumerate(rows["page"]) if other == name])
        paper.imshow(as_page(asked[0]["image"]))
        lines = [
            fill(f"{question} {answers[0]}", 32, subsequent_indent="   ")
            for question, answers in zip(asked["question"], asked["answers"], strict=True)
        ]
        corner = {"ha": "left", "va": "top", "fontsize": 6, "transform": words.transAxes, "clip_on": True}
        plain_text(words, 0, 1, "\n".join(lines[:4]), **corner)
        paper.set_axis_off()
        words.set_axis_off()
    return figure


def plot_drawings(what: str, seed: int = 0) -> None:
    """Show small drawn pages: each kind as printed in "pretraining", or a row of pages for each of the "shifts".

    Raises `ValueError` for anything else.
    """
    if what == "pretraining":
        rows = {"": [small_page(Random(f"{seed}-{kind}"), layouts={kind: LAYOUTS[kind]}) for kind in LAYOUTS]}
    elif what == "shifts":
        rows = {
            shift: [draw_page(Random(f"{seed}-{shift}-{index}"), shift) for index in range(len(LAYOUTS))]
            for shift in SHIFTS
        }
    else:
        raise ValueError(f"{what!r} is not drawn; allowed are 'pretraining' and 'shifts'")
    show(
        _drawings(rows),
        caption="Small drawn pages" + (", as pretraining prints them." if len(rows) == 1 else " under each shift."),
        alt="Drawn document pages with their kinds: " + ", ".join(page.kind for line in rows.values() for page in line),
    )


@styled
def _drawings(rows: dict[str, list[Page]]) -> Figure:
    figure, axes = panels(TWO_COLUMNS, 1.25 * len(rows), len(rows), len(LAYOUTS))
    for line, (name, pages) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for ax, page in zip(line, pages, strict=True):
            ax.imshow(page.image, cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
            ax.set_title(page.kind, fontsize=6, pad=2)
    return figure


@styled
def plot_model_view(rows: Dataset, processor: Florence2Processor, index: int = 0) -> Figure:
    """A page as it is and as the model sees it: a square of the processor's size, normalised and shown back."""
    page, images = as_page(rows[index]["image"]), processor.image_processor
    pixels = images(page, return_tensors="np").pixel_values[0].transpose(1, 2, 0)
    seen = (pixels * images.image_std + images.image_mean).clip(0, 1)
    figure, [axes] = panels(TWO_COLUMNS, 3.4, 1, 2)
    titles = f"the page: {page.width} x {page.height}", f"what the model sees: {seen.shape[1]} x {seen.shape[0]}"
    for ax, image, title in zip(axes, (page, seen), titles, strict=True):
        ax.imshow(image)
        ax.set_title(title)
        ax.set_axis_off()
    return figure


def token_lengths(asked: pd.DataFrame, processor: Florence2Processor) -> pd.DataFrame:
    """Median, 99th percentile and largest number of tokens of questions and first answers."""
    texts = {"question": asked["question"], "first answer": asked["answers"].str[0]}
    lengths = {name: pd.Series(map(len, encode_text(processor, column.tolist()))) for name, column in texts.items()}
    summary = {name: series.quantile([0.5, 0.99, 1.0]).to_list() for name, series in lengths.items()}
    return pd.DataFrame.from_dict(summary, orient="index", columns=["median", "99 %", "largest"]).round(0).astype(int)
