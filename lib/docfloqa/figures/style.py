"""How figures look, and what several of them draw."""

import base64
import functools
import re
import textwrap
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from datasets import Dataset
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from docfloqa.analysis.intervals import RATIO, percent
from docfloqa.data.images import as_page
from docfloqa.files import figures_folder, write_whole

# From a page and a question to an answer in Florence-2-base, and what is trained at which ratio of tensors.
MODEL_PIPELINE = Path(__file__).parent / "model_pipeline.svg"
ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches
DPI = 200
PAGES_DPI, PAGES_COLOURS = 130, 48
# Paul Tol's high-contrast scheme: apart for the colour-blind, and in grey print by lightness.
TONES = LinearSegmentedColormap.from_list(
    "ratios", [(0, "#000000"), (0.33, "#004488"), (0.66, "#BB5566"), (1, "#DDAA33")]
)
MARKS = {0.0: ("o", "-"), 0.33: ("s", "--"), 0.66: ("^", "-."), 1.0: ("D", (0, (1, 1)))}
FURTHER_MARKS = (("v", "-"), ("P", "--"), ("X", "-."), ("<", (0, (3, 1, 1, 1))))
GREY = "#666666"
BARE = {"frame_on": False, "xticks": [], "yticks": []}  # axes of an image or a text
STYLE = {
    **sns.axes_style("ticks"),
    **sns.plotting_context("paper", font_scale=0.72, rc={"axes.linewidth": 0.6, "lines.markersize": 3.5}),
    **{f"{axis}tick.major.{name}": value for axis in "xy" for name, value in (("size", 2.5), ("width", 0.6))},
    # matplotlib brings this font along, so a figure looks the same wherever it is drawn.
    "font.family": "DejaVu Sans",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.labelsize": 7,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "docfloqa",
}
# SVG cannot hold them, and matplotlib's PDF fails on the mark of byte order.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
# Mimetype, and the metadata that would otherwise differ from time to time.
FORMATS: dict[str, tuple[str, dict[str, None]]] = {
    "pdf": ("application/pdf", {"CreationDate": None}),
    "svg": ("image/svg+xml", {"Date": None}),
    "png": ("image/png", {"Software": None}),
}


def styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the style; then hold the layout still, so that every format and every saving is the same."""

    @functools.wraps(plot)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with mpl.rc_context(STYLE):
            figure = plot(*args, **kwargs)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        return figure

    return drawn


def mark(ratio: float) -> dict[str, Any]:
    """Colour, marker and line style of a ratio in [0, 1]: the same in every figure."""
    marker, line = MARKS.get(ratio) or FURTHER_MARKS[round(100 * ratio) % len(FURTHER_MARKS)]
    return {"color": TONES(ratio), "marker": marker, "linestyle": line}


def render(figure: Figure, kind: str) -> bytes:
    """A figure as "pdf", "svg" or "png"; the same figure gives the same bytes. One that shows pages is less fine."""
    buffer, (dpi, colours) = BytesIO(), (PAGES_DPI, PAGES_COLOURS) if _shows_pages(figure) else (DPI, 256)
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=FORMATS[kind][1])
    if kind == "png":
        # The same picture in about a third of the size.
        with Image.open(buffer) as image:
            few = image.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        buffer = BytesIO()
        few.save(buffer, "png", optimize=True, dpi=(dpi, dpi))
    return buffer.getvalue()


def _shows_pages(figure: Figure) -> bool:
    return any(ax.images for ax in figure.axes)


def show(figure: Figure, caption: str, alt: str, path: Path | None = None) -> None:
    """Display a figure in a notebook as one output in PDF, SVG and PNG with its texts, and close it.

    One that shows pages has no SVG: it would be several times as large. With a `path`, PDF and PNG are written there.
    """
    files = {kind: render(figure, kind) for kind in FORMATS if not (kind == "svg" and _shows_pages(figure))}
    data = {
        FORMATS[kind][0]: content.decode() if kind == "svg" else base64.b64encode(content).decode()
        for kind, content in files.items()
    }
    about = {"alt": alt, "caption": caption, "drawing": not _shows_pages(figure)}
    display(data, raw=True, metadata=dict.fromkeys(data, about))
    plt.close(figure)
    for kind in ("pdf", "png") if path else ():
        write_whole(path.with_name(f"{path.name}.{kind}"), files[kind])


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PDF and PNG, each whole or not at all; returns the files. `path` is without ending."""
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("pdf", "png")]
    for file in files:
        write_whole(file, render(figure, file.suffix[1:]))
    return files


def publish(figure: Figure, study_name: str, name: str, caption: str, alt: str) -> None:
    """`show` a figure and write it to `figures/<study>/`."""
    show(figure, caption, alt, figures_folder(study_name) / name)


def printable(text: str) -> str:
    """Text as every format of a figure can hold it: "\ufffd" for each control character but a line's end."""
    return UNPRINTABLE.sub("\ufffd", text)


def plain_text(ax: Axes, x: float, y: float, text: str, **look: Any) -> None:
    """Small text in a drawing, from its upper left corner on, in which nothing is read as mathematics."""
    # Clipped text cannot make the layout shrink the pages.
    look = {"ha": "left", "va": "top", "fontsize": 6.5, "parse_math": False, "clip_on": True} | look
    ax.text(x, y, printable(text), **look)


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of so many inches and its axes as an array of `rows` by `columns`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def line(ax: Axes, x: pd.Series, y: pd.Series, **look: Any) -> None:
    """Draw a line that goes on to the edge of the panel, over whole numbers."""
    ax.plot(x, y, clip_on=False, zorder=3, **look)
    ax.xaxis.get_major_locator().set_params(integer=True)


def band(ax: Axes, x: pd.Series, rows: pd.DataFrame, scale: float = 100, **look: Any) -> None:
    """Draw estimates as a line in its 95 % band."""
    ax.fill_between(x, scale * rows["low"], scale * rows["high"], color=look["color"], alpha=0.16, linewidth=0)
    line(ax, x, scale * rows["estimate"], **look)


def point(ax: Axes, at: Any, rows: Any, vertical: bool = True, scale: float = 100, **look: Any) -> None:
    """Draw an estimate, or several, with their intervals, upright or lying."""
    ends = scale * np.array([rows.estimate - rows.low, rows.high - rows.estimate]).reshape(2, -1)
    xy = (at, scale * rows.estimate) if vertical else (scale * rows.estimate, at)
    look = {"clip_on": False, "capsize": 2, "elinewidth": 1, "markersize": 4.5, **look, "linestyle": "none"}
    ax.errorbar(*xy, **{"yerr" if vertical else "xerr": np.maximum(ends, 0)}, **look)


def by_ratio(ax: Axes, table: pd.DataFrame, title: str, scale: float = 100) -> None:
    """Draw the rows of an `interval_table`, one for each ratio, as points named below the axis."""
    for index, row in enumerate(table.itertuples()):
        point(ax, index, row, scale=scale, **mark(row.vision_trainable))
    ax.set_title(title, parse_math=False)
    ax.set_xlim(-0.5, len(table) - 0.5)
    ax.set_xticks(range(len(table)), table[RATIO].map(percent))


@styled
def across(tables: Mapping[str, pd.DataFrame], before: Mapping[str, float] | None = None) -> Figure:
    """ANLS by ratio in a panel for each name, from an `interval_table` each; `before` draws a dashed line in [0, 1]."""
    figure, [axes] = panels(TWO_COLUMNS, 2.1, 1, len(tables), sharey=True)
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        by_ratio(ax, table, name)
        if before:
            ax.axhline(100 * before[name], color=GREY, linestyle="--", linewidth=0.8)
    percent_axis(axes)
    axes[0].set_ylabel("ANLS (%)")
    figure.supxlabel("vision encoder trained")
    return figure


def gallery(rows: Dataset, said: Mapping[str, Mapping[str, str]]) -> tuple[Figure, list[Axes]]:
    """Pages in two columns, each with its question, accepted answers and what is `said` beside it; figure and pages.

    `said` has named texts by question id, cut where they are long. Raises ValueError where it has none.
    """
    if not said:
        raise ValueError(f"none of the {len(rows)} questions given is among those to be shown")
    examples = []
    for question, texts in said.items():
        row = rows[rows["questionId"].index(question)]
        texts = {"question": row["question"], "accepted": " · ".join(row["answers"]), **texts}
        examples.append((row["image"], {name: shorten(text) for name, text in texts.items()}))
    breaks = max(sum(text.count("\n") for text in texts.values()) for _, texts in examples)
    height, lines = max(1.6, 0.15 + 0.25 * len(examples[0][1]) + 0.12 * breaks), -(-len(examples) // 2)
    options = {"width_ratios": [2, 3, 2, 3], "subplot_kw": BARE}
    figure, axes = panels(TWO_COLUMNS, height * lines, lines, 4, **options)
    for (image, texts), (paper, words) in zip(examples, axes.reshape(-1, 2), strict=False):
        page(paper, as_page(image).convert("L"))
        paper.set_anchor("N")
        y = 1.0
        for name, text in texts.items():
            plain_text(words, 0, y, name, color=GREY, fontsize=5.5)
            plain_text(words, 0, y - 0.1 / height, text)
            y -= (0.25 + 0.12 * text.count("\n")) / height
    return figure, list(axes.flat[::2])


def percent_axis(axes: Any) -> None:
    """From 0 to just above all that is drawn: an axis that is cut off makes differences look large."""
    top = max(ax.dataLim.y1 for ax in np.ravel(axes))
    for ax in np.ravel(axes):
        ax.set_ylim(0, max(5, 1.08 * top))


def page(ax: Axes, image: Image.Image) -> None:
    """Show a page in a thin frame, grey ones in grey."""
    ax.imshow(image, **({"cmap": "gray", "vmin": 0, "vmax": 255} if image.mode == "L" else {}))
    ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, edgecolor=GREY))


def shorten(text: str, width: int = 34, lines: int = 2) -> str:
    """At most so many lines of plain text, with an ellipsis where more was cut off."""
    return "\n".join(textwrap.wrap(printable(text), width, max_lines=lines, placeholder="…"))
