"""Where on a page a model looks while it writes an answer: the decoder's cross-attention over the image tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import nn
from transformers import Florence2Processor

from docfloqa.data.images import as_page
from docfloqa.figures.style import GREY, styled
from docfloqa.model.florence import Florence2ForDocVQA, encode_prompts, encode_text, target_format
from docfloqa.settings import Settings

# The projector puts the mean of all image tokens before those of the grid, which stand row by row
# (transformers, Florence2MultiModalProjector).
AVERAGES = 1
END = "(end)"
# One hue that only becomes stronger, so nothing hangs on telling colours apart; the page shows through.
INK = LinearSegmentedColormap.from_list("ink", [(0.0, 0.27, 0.53, 0.0), (0.0, 0.27, 0.53, 0.7)])


@dataclass(frozen=True)
class Attention:
    """How a model spreads its attention over the prompt, token by token of an answer.

    `tokens` are the answer's as text, the last one being its end. `weights` is (tokens, prompt tokens), in [0, 1],
    and each row sums to 1. `rows` and `columns` are those of the grid of image tokens, which covers the page.
    """

    tokens: list[str]
    weights: np.ndarray
    rows: int
    columns: int

    def on_page(self, token: int) -> np.ndarray:
        """The weights of the page's cells while a token was written, (rows, columns), from the top left on."""
        cells = self.weights[token, AVERAGES : AVERAGES + self.rows * self.columns]
        return cells.reshape(self.rows, self.columns)

    def elsewhere(self, token: int) -> float:
        """The weight of all that has no place on the page: the image's average, the prefix and the question."""
        return float(1 - self.on_page(token).sum())


@torch.no_grad()
def attention(
    model: Florence2ForDocVQA,
    processor: Florence2Processor,
    image: Image.Image,
    question: str,
    answer: str,
    settings: Settings,
) -> Attention:
    """The cross-attention of the decoder while it is made to write `answer`, mean over its layers and heads.

    `image` is the whole page in any mode and size; it is squeezed into the model's square, so that the cells
    of the grid have the page's proportions. What is attended to are the encoder's outputs, in which every token
    has already seen all others: a place that is looked at is a hint at what was read, not a proof.
    """
    longest = model.config.text_config.max_position_embeddings
    # As the collator makes them: bytes, which the model normalises.
    pixels = processor.image_processor(
        as_page(image), do_rescale=False, do_normalize=False, return_tensors="pt"
    ).pixel_values
    states = model.vision_states(pixels.to(model.device), 0)
    features = model.model.multi_modal_projector(states)
    prompt = torch.tensor(encode_prompts(processor, [question], settings.prefix, longest)).to(model.device)
    mask = torch.ones_like(prompt)
    [ids] = encode_text(processor, [answer])
    target = target_format(model)
    label = target.label(ids, longest)
    with _eager(model):
        encoded = model.encode(prompt, mask, features)
        layers = model(
            encoder_outputs=encoded,
            attention_mask=mask,
            labels=torch.tensor([label]).to(model.device),
            output_attentions=True,
        ).cross_attentions
    # Nobody chose what begins every target.
    started = len(target.start)
    weights = torch.stack(layers)[:, 0].float().mean(dim=(0, 1)).cpu().numpy()[started:]
    tokens = [processor.tokenizer.decode([number]).strip() for number in label[started:-1]]
    return Attention([*tokens, END], weights, *states.shape[-2:])


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Let the model compute attention in the way that keeps its weights; afterwards as before."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@styled
def attention_figure(page: Image.Image, looked: Attention, token: int) -> Figure:
    """The page with the cells of the grid over it, the darker the more a token's attention is on them, in percent."""
    # Of a page that is a mere line there would be nothing to draw.
    height = min(4.5, max(1.0, 3.4 * page.height / page.width))
    figure = Figure(figsize=(4.3, height), layout="constrained")
    ax = figure.subplots()
    ax.imshow(as_page(page).convert("L"), cmap="gray", vmin=0, vmax=255)
    extent = (-0.5, page.width - 0.5, page.height - 0.5, -0.5)
    cells = ax.imshow(
        100 * looked.on_page(token), cmap=INK, vmin=0, extent=extent, interpolation="nearest", aspect="auto"
    )
    ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, edgecolor=GREY))
    ax.set_aspect("equal")
    ax.set_axis_off()
    figure.colorbar(cells, ax=ax, shrink=0.6, label="attention (%)")
    return figure
