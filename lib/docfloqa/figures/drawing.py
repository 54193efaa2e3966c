"""Parts that figures share: panels, lines with bands, points with intervals, names at line ends, pages."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from docfloqa.analysis.intervals import LOSS
from docfloqa.figures.style import GREY

Look = dict[str, Any]


def panels(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
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
