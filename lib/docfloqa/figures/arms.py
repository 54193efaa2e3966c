"""What arms found, in figures of their own: the claims by shift, and the grid of shifts."""

from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from docfloqa.analysis.arms import grid_cells
from docfloqa.analysis.contrasts import ENDPOINTS, HEADLINE, holm_p_values, of_arm
from docfloqa.analysis.intervals import Interval
from docfloqa.analysis.paired import SIGNIFICANT
from docfloqa.arms import STRENGTHS, shift_of
from docfloqa.figures import style
from docfloqa.runs.results import Study
from docfloqa.text import plain

# Below 0 a light hue, above 0 a dark one: in grey, too, the sign is seen.
SIGNS = LinearSegmentedColormap.from_list("signs", [(0, "#DDAA33"), (0.5, "#FFFFFF"), (1, "#004488")])
LOOKS = {"exact_match": ("s", style.GREY, -0.16), "anls": ("o", "black", 0.16)}
FRACTIONS = {0.5: "½"}


@style.styled
def claims(study: Study, arm: str = HEADLINE) -> Figure:
    """The claims: a panel for each shift, a row for each contrast, exact match above ANLS, with 95 % intervals.

    There is one at least. Filled where p is below 0.05 after Holm's correction for all claims.
    """
    found = of_arm(study, arm)
    drawn = [(one, p) for one, p in zip(found, holm_p_values(found), strict=True) if one.difference and one.sides]
    shifts = list(dict.fromkeys(shift_of(one.first) for one, _ in drawn))
    rows = list(dict.fromkeys(_bare(one.groups) for one, _ in drawn))
    figure, [axes] = style.panels(style.TWO_COLUMNS, 0.8 + 0.32 * len(rows), 1, len(shifts), sharex=True, sharey=True)
    for ax, shift in zip(axes, shifts, strict=True):
        ax.axvline(0, color=style.GREY, linewidth=0.8)
        ax.set_title(plain(shift))
    for one, p_value in drawn:
        marker, colour, offset = LOOKS[one.metric]
        look = {"color": colour, "marker": marker, "markerfacecolor": colour if p_value < SIGNIFICANT else "white"}
        at = rows.index(_bare(one.groups)) + offset
        style.point(axes[shifts.index(shift_of(one.first))], at, one.difference.interval(), vertical=False, **look)
    axes[0].set_yticks(range(len(rows)), [fill(row, 24) for row in rows])
    axes[0].set(ylim=(len(rows) - 0.5, -0.5))
    for metric, name in ENDPOINTS.items():
        axes[0].plot([], [], LOOKS[metric][0], color=LOOKS[metric][1], label=name)
    figure.legend(loc="outside lower right", ncols=len(ENDPOINTS))
    figure.supxlabel("difference (points)")
    return figure


def _bare(groups: str) -> str:
    """As in "all − none", without the shift."""
    return " − ".join(name.rpartition(": ")[2] for name in groups.split(" − "))


@style.styled
def grid(study: Study) -> Figure:
    """What training adds by how much is new of pixels and of content, with 95 % intervals; a line where the sign flips.

    Framed where p is below 0.05 (Holm, all cells of both panels). Raises ValueError where there is no cell.
    """
    cells = grid_cells(study)
    if cells.empty:
        raise ValueError(f"the arm grid of study {study.name!r} has no cell to compare")
    figure, [axes] = style.panels(style.TWO_COLUMNS, 3.3, 1, cells["gain"].nunique(), sharex=True, sharey=True)
    most = cells["estimate"].abs().max()
    for ax, (gain, part) in zip(axes, cells.groupby("gain", sort=False), strict=True):
        values = part.pivot(index="pixels", columns="content", values="estimate").reindex(STRENGTHS)
        values = values.reindex(columns=STRENGTHS).to_numpy()
        ax.pcolormesh(values, cmap=SIGNS, vmin=-most, vmax=most, edgecolors="white", linewidth=1)
        for row in part.itertuples():
            _cell(ax, row, STRENGTHS.index(row.content), STRENGTHS.index(row.pixels), row.estimate / most > 0.65)
        _flips(ax, values)
        names = [FRACTIONS.get(strength, f"{strength:g}") for strength in STRENGTHS]
        ax.set(title=gain, aspect="equal", xlabel="share of new content")
        ax.set_xticks(np.arange(len(names)) + 0.5, names)
        ax.set_yticks(np.arange(len(names)) + 0.5, names)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel("strength of the pixels' shift")
    return figure


def _cell(ax: Axes, row: Interval, x: int, y: int, dark: bool) -> None:
    colour, middle = "white" if dark else "black", {"ha": "center", "va": "center", "parse_math": False}
    interval = Interval(row.estimate, row.low, row.high).format(100)
    estimate, ends = interval.split(" ", 1)
    signed = f"+{estimate}" if row.estimate > 0 else estimate.replace("-", "−")
    weight = "bold" if row.p < SIGNIFICANT else "normal"
    ax.text(x + 0.5, y + 0.57, signed, color=colour, fontsize=11, fontweight=weight, **middle)
    ax.text(x + 0.5, y + 0.3, ends.replace("-", "−"), color=colour, fontsize=6, **middle)
    if row.p < SIGNIFICANT:
        ax.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fill=False, edgecolor=colour, linewidth=1))


def _flips(ax: Axes, values: np.ndarray) -> None:
    """A line between cells that lie beside each other and whose estimates differ in sign."""
    positive = values > 0
    look = {"color": "black", "linewidth": 2.4, "solid_capstyle": "butt", "zorder": 4, "clip_on": False}
    for y, x in zip(*np.nonzero(positive[:, 1:] != positive[:, :-1]), strict=True):
        ax.plot([x + 1, x + 1], [y, y + 1], **look)
    for y, x in zip(*np.nonzero(positive[1:] != positive[:-1]), strict=True):
        ax.plot([x, x + 1], [y + 1, y + 1], **look)
