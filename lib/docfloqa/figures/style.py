"""How every figure looks, is saved and is shown: one style, one palette, the same bytes every time."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from docfloqa.paths import figures_folder, write_whole

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches
DPI = 200
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
    """A figure as "pdf", "svg" or "png" (of at most 256 colours); the same figure gives the same bytes."""
    buffer = BytesIO()
    with use_style():
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=FORMATS[kind][1])
    return _fewer_colours(buffer) if kind == "png" else buffer.getvalue()


def _fewer_colours(png: BytesIO) -> bytes:
    """The same picture in about a third of the size."""
    buffer = BytesIO()
    # On white, since a palette has no half-transparent colours.
    with Image.open(png) as image:
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert(
            "RGB"
        )
    flat.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        buffer, "png", optimize=True, dpi=(DPI, DPI)
    )
    return buffer.getvalue()


def show(figure: Figure, caption: str, alt: str) -> None:
    """Display a figure in a notebook as one output in PDF, SVG and PNG with its texts, then close it.

    One that shows pages has no SVG, in which they would take several times the space.
    """
    _display(figure, _renderings(figure), caption, alt)


def publish(figure: Figure, study_name: str, name: str, caption: str, alt: str) -> None:
    """Write a figure as PDF and PNG to `figures/<study>/`, each whole or not at all, and `show` it."""
    renderings = _renderings(figure)
    for kind in ("pdf", "png"):
        write_whole(figures_folder(study_name) / f"{name}.{kind}", renderings[kind])
    _display(figure, renderings, caption, alt)


def _renderings(figure: Figure) -> dict[str, bytes]:
    pages = any(ax.images for ax in figure.axes)
    return {kind: render(figure, kind) for kind in FORMATS if not (kind == "svg" and pages)}


def _display(figure: Figure, renderings: dict[str, bytes], caption: str, alt: str) -> None:
    data = {
        FORMATS[kind][0]: content.decode() if kind == "svg" else base64.b64encode(content).decode()
        for kind, content in renderings.items()
    }
    display(data, raw=True, metadata={mimetype: {"alt": alt, "caption": caption} for mimetype in data})
    plt.close(figure)


def printable(text: str) -> str:
    """Text as every format of a figure can hold it: "\ufffd" for each control character but a line's end."""
    return UNPRINTABLE.sub("\ufffd", text)


def plain_text(ax: Axes, x: float, y: float, text: str, **style: Any) -> None:
    """Small text in a drawing, centred unless told otherwise, in which nothing is read as mathematics."""
    ax.text(
        x,
        y,
        printable(text),
        **{"ha": "center", "va": "center", "fontsize": 6.5, "parse_math": False, **style},
    )
