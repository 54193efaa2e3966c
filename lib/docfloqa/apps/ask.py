"""One question about one page: what a model answers, how sure it is, and where on the page it looks."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from transformers import Florence2Processor

from docfloqa.apps.browser import BEFORE
from docfloqa.apps.export import is_export
from docfloqa.data.images import as_page
from docfloqa.data.novelty import PagesRead
from docfloqa.exceptions import RunError
from docfloqa.figures.style import page as draw_page
from docfloqa.figures.style import panels, styled
from docfloqa.files import is_folder, resolve, runs_folder
from docfloqa.model import florence
from docfloqa.model.device import compute_device
from docfloqa.model.florence import Florence2ForDocVQA
from docfloqa.runs.results import Study, open_run
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.training.batches import QuestionCollator, resized
from docfloqa.training.evaluation import evaluate

NEVER_CUT = 10**9
# Said in place of a confidence, which was learnt on other pages and means nothing on this one.
UNLIKE = "page unlike those in training"
UNKNOWN = "not known whether this page is like those in training: do not rely on how sure it is"
# The projector puts the mean of all image tokens before those of the grid, which stand row by row
# (transformers, Florence2MultiModalProjector).
AVERAGES = 1
END = "(end)"
# One hue that only becomes stronger, so nothing hangs on telling colours apart; the page shows through.
INK = LinearSegmentedColormap.from_list("ink", [(0.0, 0.27, 0.53, 0.0), (0.0, 0.27, 0.53, 0.7)])


Loaded = tuple[Florence2ForDocVQA, Florence2Processor]


@dataclass(frozen=True)
class Asked:
    """A model that can be asked: its name, the run that made it if one did, and its settings."""

    name: str
    run: Run | None
    settings: Settings

    def load(self) -> Loaded:
        """The model on the device where there is one, and its processor; raises `RunError` or `ModelError`."""
        if self.run:
            return self.run.load()
        model, processor = florence.load_florence(self.settings.model, self.settings.prefix)
        return model.to(compute_device()), processor


def asked_model(model: str | Path) -> Asked:
    """A model folder or hub id, not loaded yet; asked as the embedded profile would, an export with its run's beams."""
    folder = Path(resolve(model))
    stated = florence.stated_decoding(folder) if is_folder(folder) and is_export(folder) else {}
    chosen = {name: stated.get(name) for name in ("max_new_tokens", "num_beams")}
    return Asked(str(model), None, Settings.profile("embedded", model=str(model), **chosen))


def answer(loaded: Loaded, image: Image.Image, question: str, settings: Settings) -> dict[str, Any]:
    """What the model answers to a question about a page.

    `image` is the whole page in any mode and size. Given are `text`, `confidence` (the probability of this very answer,
    in [0, 1]) and `seconds` from image to text. Special tokens in the question are text; of a question that is too long
    the end is cut off, with a warning. Raises `RunError` for an empty question.
    """
    check_question(question)
    model, processor = loaded
    longest = model.config.text_config.max_position_embeddings
    [prompt] = florence.encode_prompts(processor, [question], settings.prefix, NEVER_CUT)
    if len(prompt) > longest:
        too_long = f"the question is cut: with its page it has {len(prompt):,} tokens, and the model reads {longest:,}"
        warnings.warn(too_long, stacklevel=2)
    started = time.perf_counter()
    row = answers(loaded, {"": resized(image, processor)}, [("", question)], settings).iloc[0]
    seconds = time.perf_counter() - started
    return {"text": row["prediction"], "confidence": float(row["confidence"]), "seconds": seconds}


class Resized(dict[str, Tensor]):
    """Pages by name, as a collator takes them."""

    def stack(self, names: Sequence[str]) -> Tensor:
        """Some pages, (pages, channels, rows, columns)."""
        return torch.stack([self[name] for name in names])


def answers(
    loaded: Loaded, pages: dict[str, Tensor], asked: Sequence[tuple[str, str]], settings: Settings
) -> pd.DataFrame:
    """`evaluate` of questions that nobody has answered yet, each with the name of its page in `pages` (`resized`)."""
    # The accepted answer is for the loss, which nobody sees here.
    same = {"questionId": "", "question_types": [], "answers": [""]}
    rows = Dataset.from_list([{"page": page, "document_id": page, "question": said, **same} for page, said in asked])
    model, processor = loaded
    return evaluate(model, QuestionCollator(rows, model, processor, settings.prefix, Resized(pages)), settings)


def novelty(model: Florence2ForDocVQA, image: Image.Image) -> float | None:
    """How unlike the model's training pages a page is, above 1 unlike (see `PagesRead`); None where they are unknown.

    They are known of every model that a run of this project has saved, exported or not.
    """
    read = getattr(model.config, "pages_read", None)
    return PagesRead(**read).novelty(image) if read else None


def is_unlike(novel: float | None) -> bool:
    """Whether a `novelty` is that of a page unlike those in training."""
    return novel is not None and novel > 1


def check_question(question: str) -> None:
    """Raise `RunError` for a question without any text, or with bytes that are no text."""
    if not question.strip() or question.encode(errors="ignore").decode() != question:
        raise RunError(f"question is {question!r}; allowed is any text in UTF-8 but an empty one")


def models_of_study(name: str, ratio: float | None = None) -> list[Asked]:
    """What can be asked of a study: the model before training, then the best one of each ratio, the lowest first.

    Of several seeds, or folds, the first is taken; with `ratio`, only that one. Raises `RunError` for a study without
    complete runs, a ratio that it does not have, and a run that has lost its model.
    """
    study = Study.load(name)
    runs = [open_run(runs_folder(name) / run) for run in study.records]
    runs.sort(key=lambda run: (run.settings.vision_trainable, -run.settings.seed, -(run.settings.fold or 0)))
    # Of a ratio's runs the last one stays, that of the first seed and fold.
    of_ratio = {run.settings.vision_trainable: run for run in runs}
    if ratio is not None and ratio not in of_ratio:
        ratios = ", ".join(f"{one:.15g}" for one in of_ratio)
        raise RunError(f"ratio is {ratio:.15g}; allowed are those of study {name!r}: {ratios}")
    # A run without its model says so when its folder is asked for.
    chosen = {one: run for one, run in of_ratio.items() if ratio in (None, one) and run.model_folder}
    fold = f", fold 1 of {study.settings.folds}" if study.settings.folds else ""
    asked = [Asked(f"{100 * one:g} % trained{fold}", run, run.settings) for one, run in chosen.items()]
    return [Asked(BEFORE, None, study.settings), *asked] if ratio is None else asked


class Attention(NamedTuple):
    """How a model spreads its attention over the page, token by token of an answer.

    `on_page` is (tokens, rows, columns), in [0, 1]: the grid of image tokens covers the page from the top left on.
    """

    tokens: list[str]
    on_page: np.ndarray

    def elsewhere(self, token: int) -> float:
        """What has no place on the page: the image's average, the prefix and the question."""
        return float(1 - self.on_page[token].sum())


def cells_of(weights: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Of weights over the prompt, (tokens, prompt tokens), those of the page's cells, (tokens, rows, columns)."""
    return weights[:, AVERAGES : AVERAGES + rows * columns].reshape(-1, rows, columns)


@torch.no_grad()
def attention(loaded: Loaded, image: Image.Image, question: str, answer: str, settings: Settings) -> Attention:
    """The cross-attention of the decoder while it is made to write `answer`, mean over its layers and heads.

    `image` is the whole page in any mode and size. What is attended to are the encoder's outputs, in which every token
    has already seen all others: a place that is looked at is a hint at what was read, not a proof.
    """
    model, processor = loaded
    longest = model.config.text_config.max_position_embeddings
    states = model.vision_states(resized(image, processor)[None].to(model.device), 0)
    features = model.model.multi_modal_projector(states)
    prompt = torch.tensor(florence.encode_prompts(processor, [question], settings.prefix, longest)).to(model.device)
    mask = torch.ones_like(prompt)
    [ids] = florence.encode_text(processor, [answer])
    target = florence.target_format(model)
    label = target.label(ids, longest)
    before = model.config._attn_implementation
    # The way to compute attention that keeps its weights.
    model.set_attn_implementation("eager")
    try:
        given = {"encoder_outputs": model.encode(prompt, mask, features), "attention_mask": mask}
        labels = torch.tensor([label]).to(model.device)
        layers = model(**given, labels=labels, output_attentions=True).cross_attentions
    finally:
        model.set_attn_implementation(before)
    # Nobody chose what begins every target.
    started = len(target.start)
    weights = torch.stack(layers)[:, 0].float().mean(dim=(0, 1)).cpu().numpy()[started:]
    tokens = [processor.tokenizer.decode([number]).strip() for number in label[started:-1]]
    return Attention([*tokens, END], cells_of(weights, *states.shape[-2:]))


@styled
def attention_figure(page: Image.Image, looked: Attention, token: int) -> Figure:
    """The page with the cells of the grid over it, the darker the more a token's attention is on them, in percent."""
    # Of a page that is a mere line there would be nothing to draw.
    height = min(4.5, max(1.0, 3.4 * page.height / page.width))
    figure, ((ax,),) = panels(4.3, height)
    draw_page(ax, as_page(page).convert("L"))
    extent = (-0.5, page.width - 0.5, page.height - 0.5, -0.5)
    weights = 100 * looked.on_page[token]
    cells = ax.imshow(weights, cmap=INK, vmin=0, extent=extent, interpolation="nearest", aspect="auto")
    ax.set_aspect("equal")
    ax.set_axis_off()
    figure.colorbar(cells, ax=ax, shrink=0.6, label="attention (%)")
    return figure
