"""Gradients before training, by part of the model, as a figure for print."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from docfloqa.figures import style

PANELS = {"share": "share of ‖g‖²", "relative_norm": "‖g‖ / ‖θ‖", "snr": "signal to noise"}


@style.styled
def gradients(statistics: pd.DataFrame) -> Figure:
    """Share of the squared norm, relative norm and signal to noise by part, at the start and later, a panel each."""
    figure, [axes] = style.panels(style.TWO_COLUMNS, 2.2, 1, len(PANELS), sharey=True)
    times = statistics["when"].unique()
    colours = dict(zip(times, style.TONES([0.33, 1.0]), strict=False))
    for ax, (column, title) in zip(axes, PANELS.items(), strict=True):
        sns.barplot(statistics, x=column, y="part", hue="when", palette=colours, ax=ax, legend=ax is axes[0])
        ax.set(title=title, xlabel="", ylabel="")
        ax.tick_params(axis="y", length=0)
    handles, labels = axes[0].get_legend_handles_labels()
    axes[0].get_legend().remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(times))
    return figure
