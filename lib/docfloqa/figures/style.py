"""How figures look, and what several of them draw."""

import base64
import functools
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from docfloqa.analysis.intervals import LOSS, percent
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


def use_style() -> AbstractContextManager:
    """The context in which every figure is drawn and saved."""
    return mpl.rc_context(STYLE)


def styled(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the style; then hold the layout still, so that every format and every saving is the same."""

    @functools.wraps(plot)
    def drawn(*args: Any, **kwargs: Any) -> Figure:
        with use_style():
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
    """A figure as "pdf", "svg" or "png" (of at most 256 colours); the same figure gives the same bytes.

    One that shows pages is less fine, for it would be most of what a report weighs.
    """
    buffer, (dpi, colours) = BytesIO(), (PAGES_DPI, PAGES_COLOURS) if _shows_pages(figure) else (DPI, 256)
    with use_style():
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=FORMATS[kind][1])
    if kind != "png":
        return buffer.getvalue()
    # The same picture in about a third of the size.
    small = BytesIO()
    with Image.open(buffer) as image:
        few = image.convert("RGB").quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(small, "png", optimize=True, dpi=(dpi, dpi))
    return small.getvalue()


def _shows_pages(figure: Figure) -> bool:
    return any(ax.images for ax in figure.axes)


def show(figure: Figure, caption: str, alt: str) -> None:
    """Display a figure in a notebook as one output in PDF, SVG and PNG with its texts, and close it.

    One that shows pages has no SVG, in which they would take several times the space.
    """
    _show(figure, caption, alt)


def _show(figure: Figure, caption: str, alt: str) -> dict[str, bytes]:
    files = {kind: render(figure, kind) for kind in FORMATS if not (kind == "svg" and _shows_pages(figure))}
    data = {
        FORMATS[kind][0]: content.decode() if kind == "svg" else base64.b64encode(content).decode()
        for kind, content in files.items()
    }
    display(data, raw=True, metadata={mimetype: {"alt": alt, "caption": caption} for mimetype in data})
    plt.close(figure)
    return files


def publish(figure: Figure, study_name: str, name: str, caption: str, alt: str) -> None:
    """`show` a figure and write it as PDF and PNG to `figures/<study>/`, each whole or not at all."""
    files = _show(figure, caption, alt)
    for kind in ("pdf", "png"):
        write_whole(figures_folder(study_name) / f"{name}.{kind}", files[kind])


def printable(text: str) -> str:
    """Text as every format of a figure can hold it: "\ufffd" for each control character but a line's end."""
    return UNPRINTABLE.sub("\ufffd", text)


def plain_text(ax: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Small text in a drawing, centred unless told otherwise, in which nothing is read as mathematics."""
    look = {"ha": "center", "va": "center", "fontsize": 6.5, "parse_math": False, **style}
    ax.text(x, y, printable(text), **look)


Look = dict[str, Any]


def panels(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of so many inches and its axes as an array of `rows` by `columns`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def scale_of(metric: str) -> int:
    """What a metric is drawn times: scores are drawn in percent, losses as they are."""
    return 1 if metric == LOSS else 100


def band(ax: Axes, x: pd.Series, rows: pd.DataFrame, style: Look, scale: float = 100) -> float:
    """Draw estimates as a line in its 95 % band; returns the last estimate as drawn."""
    low, high, values = (scale * rows[name] for name in ("low", "high", "estimate"))
    ax.fill_between(x, low, high, color=style["color"], alpha=0.16, linewidth=0)
    ax.plot(x, values, clip_on=False, zorder=3, **style)
    return values.iloc[-1]


def point(ax: Axes, at: float, row: Any, vertical: bool = True, scale: float = 100, **style: Any) -> None:
    """Draw an estimate with its interval, upright or lying."""
    ends = scale * np.array([[row.estimate - row.low], [row.high - row.estimate]])
    xy = (at, scale * row.estimate) if vertical else (scale * row.estimate, at)
    look = {"clip_on": False, "capsize": 2, "elinewidth": 1, "markersize": 4.5, **style, "linestyle": "none"}
    ax.errorbar(*xy, **{"yerr" if vertical else "xerr": np.maximum(ends, 0)}, **look)


def by_ratio(ax: Axes, rows: Iterable[Any], title: str, scale: float = 100) -> None:
    """Draw the rows of an `interval_table`, one for each ratio, as points named below the axis."""
    rows = list(rows)
    for index, row in enumerate(rows):
        point(ax, index, row, scale=scale, **mark(row.vision_trainable))
    ax.set_title(title, parse_math=False)
    ax.set_xlim(-0.5, len(rows) - 0.5)
    ax.set_xticks(range(len(rows)), [percent(row.vision_trainable) for row in rows])


@styled
def across(tables: Mapping[str, pd.DataFrame], before: Mapping[str, float] | None = None) -> Figure:
    """ANLS by ratio in a panel for each name, from an `interval_table` each; `before` draws a dashed line in [0, 1]."""
    figure, axes = panels(TWO_COLUMNS, 2.1, 1, len(tables), sharey=True)
    for ax, (name, table) in zip(axes.flat, tables.items(), strict=True):
        by_ratio(ax, table.itertuples(), name)
        if before:
            ax.axhline(100 * before[name], color=GREY, linestyle="--", linewidth=0.8)
    percent_axis(axes)
    axes[0, 0].set_ylabel("ANLS (%)")
    figure.supxlabel("vision encoder trained")
    return figure


def gallery(examples: Sequence[tuple[Image.Image, Mapping[str, str]]]) -> tuple[Figure, list[Axes]]:
    """Pages in two columns, each with its named texts beside it, cut where they are long; the figure and the pages."""
    examples = [(image, {name: shorten(text) for name, text in texts.items()}) for image, texts in examples]
    breaks = max(sum(text.count("\n") for text in texts.values()) for _, texts in examples)
    height, lines = max(1.6, 0.15 + 0.25 * len(examples[0][1]) + 0.12 * breaks), -(-len(examples) // 2)
    figure, axes = panels(TWO_COLUMNS, height * lines, lines, 4, width_ratios=[2, 3, 2, 3])
    for ax in axes.flat:
        ax.set_axis_off()
    # Clipped text cannot make the layout shrink the pages.
    left = {"ha": "left", "va": "top", "clip_on": True}
    for (image, texts), (paper, words) in zip(examples, axes.reshape(-1, 2), strict=False):
        page(paper, as_page(image).convert("L"))
        paper.set_anchor("N")
        y = 1.0
        for name, text in texts.items():
            plain_text(words, 0, y, name, color=GREY, fontsize=5.5, **left)
            plain_text(words, 0, y - 0.1 / height, text, **left)
            y -= (0.25 + 0.12 * text.count("\n")) / height
    return figure, list(axes.flat[::2])


def name_ends(ax: Axes, ends: list[tuple[float, str, Look]]) -> None:
    """Write names beside the right ends of lines, moved apart where they would overlap."""
    if len(ends) > 1:
        # The layout decides how many points a step of the axis has; a single name stays where it is.
        ax.figure.draw_without_rendering()
    low, high = ax.get_ylim()
    points = ax.bbox.height / ax.figure.dpi * 72 / (high - low)
    ends = sorted(ends, key=lambda end: end[0])
    places = points * np.array([value for value, _, _ in ends])
    for _ in range(100):
        for below in range(len(places) - 1):
            overlap = max(0.0, 8.5 - (places[below + 1] - places[below]))
            places[below : below + 2] += -overlap / 2, overlap / 2
    last = max(line.get_xdata()[-1] for line in ax.lines)
    for place, (value, name, style) in zip(places, ends, strict=True):
        pointer = {"arrowstyle": "-", "color": style["color"], "linewidth": 0.5, "shrinkA": 0, "shrinkB": 4}
        beside = {"textcoords": "offset points", "va": "center", "arrowprops": pointer}
        ax.annotate(name, (last, value), (14, place - points * value), **beside)


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
    plain = "".join(sign if sign.isprintable() else " " for sign in text)
    return "\n".join(textwrap.wrap(plain, width, max_lines=lines, placeholder="…"))
