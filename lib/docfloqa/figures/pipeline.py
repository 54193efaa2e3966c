"""The figure of the model: from a page and a question to an answer, and what is trained at which ratio."""

from __future__ import annotations

import functools

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from docfloqa.analysis.tables import percent
from docfloqa.figures.style import GREY, MARKS, TONES, TWO_COLUMNS, plain_text, styled
from docfloqa.model.florence import PREFIX, Florence2ForDocVQA, base_config
from docfloqa.model.freezing import freeze
from docfloqa.settings import Freezing

PATCH, BLOCKS = 0.12, 0.5  # inches: widths of a stage's two parts in the drawing of the pipeline


@styled
def model_pipeline() -> Figure:
    """From a page and a question to an answer, and which part of each vision stage is trained by ratio.

    Stages, sizes and shares are Florence-2-base's, for ratios of tensors from the output side.
    """
    figure = Figure(figsize=(TWO_COLUMNS, 2.75))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, TWO_COLUMNS), ylim=(0, 2.75))
    ax.set_axis_off()
    vision, middle, trained = base_config().vision_config, 2.02, "#DCE6F1"
    _box(ax, 0.16, middle - 0.33, 0.5, 0.66, "", "white")
    for line, length in enumerate((0.22, 0.36, 0.36, 0.28, 0.36, 0.16)):
        ax.plot([0.23, 0.23 + length], [middle + 0.22 - 0.09 * line] * 2, color=GREY)
    _box(ax, 0.86, middle - 0.44, 2.88, 0.88, "", "#F4F4F4")
    for stage, (width, depth) in enumerate(zip(vision.embed_dim, vision.depths, strict=True)):
        _box(ax, _left(stage, blocks=False), middle - 0.34, PATCH, 0.68, "", "white")
        blocks = f"stage {stage + 1}\n{depth} block{'s' * (depth > 1)}\n{width}-d"
        _box(ax, _left(stage, blocks=True), middle - 0.34, BLOCKS, 0.68, blocks, "white")
    for left, name in ((3.92, "projector"), (4.66, "encoder"), (5.4, "decoder")):
        _box(ax, left, middle - 0.34, 0.58, 0.68, name, trained)
    _box(ax, 6.14, middle - 0.2, 0.74, 0.4, "12 May 1998", "white")
    _box(ax, 4.1, 1.16, 1.7, 0.28, f"{PREFIX} What is the date?", "white")
    for start, end in ((0.66, 0.86), (3.74, 3.92), (4.5, 4.66), (5.24, 5.4), (5.98, 6.14)):
        _arrow(ax, (start, middle), (end, middle))
    _arrow(ax, (4.95, 1.44), (4.95, middle - 0.34))
    headings = ((0.41, "page"), (2.3, "DaViT vision encoder"), (4.95, "projector and BART"), (6.51, "answer"))
    for x, name in headings:
        plain_text(ax, x, middle + 0.57, name, weight="bold")
    plain_text(ax, 4.95, middle + 0.43, "trained at every ratio")
    for row, (ratio, parts, share) in enumerate(_trained_parts()):
        y = 0.9 - 0.22 * row
        plain_text(ax, 0.87, y + 0.06, f"{percent(ratio)} of tensors", ha="right")
        for (stage, kind), part in parts.items():
            left, width = _left(stage, kind == "blocks"), BLOCKS if kind == "blocks" else PATCH
            ax.add_patch(Rectangle((left + width * (1 - part), y), width * part, 0.12, facecolor=TONES(ratio), lw=0))
            ax.add_patch(Rectangle((left, y), width, 0.12, fill=False, edgecolor=GREY, linewidth=0.5))
        plain_text(ax, 3.8, y + 0.06, f"= {percent(share)} of the vision encoder's parameters", ha="left")
    note = "filled: trained part of each patch embedding (narrow) and of each stage's blocks (wide)"
    plain_text(ax, 0.93, 0.08, note, color=GREY, ha="left")
    return figure


def _left(stage: int, blocks: bool) -> float:
    return 0.93 + 0.7 * stage + (PATCH + 0.02) * blocks


def _box(ax: Axes, left: float, bottom: float, width: float, height: float, text: str, colour: str) -> None:
    style = {"boxstyle": "round,pad=0,rounding_size=0.04", "linewidth": 0.7, "edgecolor": "black"}
    ax.add_patch(FancyBboxPatch((left, bottom), width, height, facecolor=colour, **style))
    plain_text(ax, left + width / 2, bottom + height / 2, text)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
    ax.annotate("", end, start, arrowprops={**style, "color": "black"})


@functools.cache
def _trained_parts() -> list[tuple[float, dict[tuple[int, str], float], float]]:
    """By ratio: trained shares of the vision tower's parts (stage, "convs" or "blocks"), and of it all."""
    with torch.device("meta"):
        model = Florence2ForDocVQA(base_config())
    rows = []
    for ratio in MARKS:
        share = freeze(model, Freezing(ratio)).trainable_vision_share
        counts = pd.DataFrame(
            [
                (int(name.split(".")[1]), name.split(".")[0], tensor.numel(), tensor.requires_grad)
                for name, tensor in model.model.vision_tower.named_parameters()
            ],
            columns=["stage", "kind", "all", "trained"],
        )
        counts["trained"] *= counts["all"]
        sums = counts.groupby(["stage", "kind"]).sum()
        rows.append((ratio, (sums["trained"] / sums["all"]).to_dict(), share))
    return rows
