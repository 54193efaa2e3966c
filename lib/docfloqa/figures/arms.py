"""Figures of the arms: what is compared in each, and scores against what they cost."""

from textwrap import fill

import pandas as pd
from matplotlib.figure import Figure

from docfloqa.analysis import contrasts
from docfloqa.analysis.contrasts import VARIANT
from docfloqa.analysis.intervals import interval_table
from docfloqa.analysis.paired import SIGNIFICANT
from docfloqa.arms import ARMS
from docfloqa.figures.style import GREY, TWO_COLUMNS, mark, panels, point, styled
from docfloqa.runs.results import Study

# Arms whose variants train equally long, so that only what is trained differs.
EQUALLY_LONG = ("side", "lora", "cumulative")


@styled
def arm_contrasts(study: Study, name: str) -> Figure:
    """The contrasts of an arm: differences in ANLS with 95 % intervals over documents and seeds; a line at none.

    Points are filled where p is below 0.05 after Holm's correction within the arm. Raises ValueError where nothing
    can be compared.
    """
    found = contrasts.made(contrasts.arm_contrasts(study, name))
    if not found:
        raise ValueError(f"arm {name!r} of study {study.name!r} has no two complete variants to compare")
    figure, [[ax]] = panels(TWO_COLUMNS, 0.5 + 0.32 * len(found))
    ax.axvline(0, color=GREY, linewidth=0.8)
    values = ax.secondary_yaxis("right")
    for place, (one, p_value) in enumerate(zip(found, contrasts.holm_p_values(found), strict=True)):
        face = "black" if p_value < SIGNIFICANT else "white"
        point(ax, place, one.difference.interval(), vertical=False, color="black", marker="o", markerfacecolor=face)
    values.set_yticks(range(len(found)), [one.difference.interval().format(100) for one in found])
    values.tick_params(length=0)
    values.spines["right"].set_visible(False)
    ax.set_yticks(range(len(found)), [fill(one.name, 58, break_long_words=False) for one in found])
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.set_xlabel("difference in ANLS (points)")
    return figure


def equally_long(study: Study) -> pd.DataFrame:
    """Scores and costs of the variants on the study's own documents that train equally long, for one Pareto front.

    Columns: variant, estimate, low, high (ANLS in [0, 1]), trainable_parameters, seconds (of a run, mean over
    seeds), ratio. Empty where the study has none of these arms.
    """
    rows: dict[str, dict] = {}
    for name in EQUALLY_LONG:
        runs = study.arm(name)
        if runs is None:
            continue
        scores = interval_table(runs.last_answers, [VARIANT], ["anls"]).set_index(VARIANT)
        for variant in ARMS[name](study.settings).variants:
            made = runs.runs[runs.runs[VARIANT] == variant.name]
            settings = study.settings.replace(**variant.changes)
            foreign = settings.synth_shift != study.settings.synth_shift
            if made.empty or foreign or settings.trained_before or made["run"].iloc[0] in rows:
                continue
            rows[made["run"].iloc[0]] = {
                VARIANT: variant.name.removeprefix(f"{study.settings.synth_shift}: "),
                **scores.loc[variant.name, ["estimate", "low", "high"]],
                "trainable_parameters": made["trainable_parameters"].iloc[0],
                "seconds": made["seconds"].mean(),
                "ratio": settings.vision_trainable,
            }
    return pd.DataFrame(rows.values())


@styled
def pareto(study: Study) -> Figure:
    """ANLS against trainable parameters and against seconds of a run; the line joins what nothing dominates.

    Raises ValueError where none of the arms is complete.
    """
    table = equally_long(study)
    if table.empty:
        raise ValueError(f"study {study.name!r} has no complete run of the arms {', '.join(EQUALLY_LONG)}")
    figure, [axes] = panels(TWO_COLUMNS, 3.4, 1, 2, sharey=True)
    numbers = {name: place + 1 for place, name in enumerate(table[VARIANT])}
    for ax, (column, unit, label) in zip(
        axes,
        (("trainable_parameters", 1e6, "trainable parameters (millions)"), ("seconds", 1, "seconds of a run")),
        strict=True,
    ):
        for row in table.itertuples():
            cost, anls = getattr(row, column) / unit, 100 * row.estimate
            point(ax, cost, row, capsize=1.5, elinewidth=0.7, markersize=3.5, **mark(row.ratio))
            ax.annotate(str(numbers[row.variant]), (cost, anls), (4, 3), textcoords="offset points", fontsize=6.5)
        front = undominated(table[column], table["estimate"])
        line = table[front].sort_values(column)
        ax.plot(line[column] / unit, 100 * line["estimate"], color=GREY, linewidth=0.8, zorder=0)
        ax.set_xlabel(label)
        ax.set_xlim(left=0)
    axes[0].set_ylabel("ANLS (%)")
    key = "   ".join(f"{number} {name}" for name, number in numbers.items())
    figure.supxlabel(fill(key, 105), fontsize=6.5)
    return figure


def undominated(costs: pd.Series, scores: pd.Series) -> pd.Series:
    """Whether nothing costs less and scores at least as much, or costs as much and scores more."""
    return pd.Series(
        [
            not (((costs < cost) & (scores >= score)) | ((costs <= cost) & (scores > score))).any()
            for cost, score in zip(costs, scores, strict=True)
        ],
        index=costs.index,
    )
