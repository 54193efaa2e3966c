"""What the arms of a study found: their scores, their costs, and what is compared in each."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from docfloqa.analysis.contrasts import SCORED, VARIANT, arm_answers, arm_contrasts, lacking
from docfloqa.analysis.intervals import NONE, interval_table, number, p_text, percent, texts
from docfloqa.analysis.paired import SIGNIFICANT, Interaction, PairedDifference, StudentEstimate, holm
from docfloqa.analysis.tables import costs_of
from docfloqa.arms import ARMS, Arm, Contrast
from docfloqa.runs.results import Study, once_for_study

MAIN_COLUMNS = ["vision parameters", "epochs", "seeds", "ANLS (%)", "exact match (%)"]


def arm_of(study: Study, name: str) -> Arm:
    """The arm of this name as the study's settings make it; raises KeyError for an unknown name."""
    return ARMS[name](study.settings)


@once_for_study
def arm_scores(study: Study, name: str) -> pd.DataFrame:
    """Tidy: variant, metric (ANLS and exact match, in [0, 1]), estimate, low, high; as `interval_table` gives them."""
    table = interval_table(arm_answers(study, name), [VARIANT], SCORED)
    order = {variant: place for place, variant in enumerate(study.arms.get(name, ()))}
    return table.sort_values(VARIANT, key=lambda names: names.map(order), kind="stable", ignore_index=True)


def arm_summary(study: Study, name: str) -> pd.DataFrame:
    """An arm's variants: what was trained for how long, scores in percent with intervals over documents, and costs.

    Epochs count those before on the same weights. Every cell is text; times of runs that went side by side are
    no benchmark. Empty where no run is complete.
    """
    runs = study.arm(name)
    if runs is None:
        return pd.DataFrame()
    table = arm_scores(study, name)
    scores = table.assign(text=texts(table)).pivot(index=VARIANT, columns="metric", values="text")
    rows = {}
    for variant in study.arms[name]:
        made = runs.runs[runs.runs[VARIANT] == variant]
        if made.empty:
            rows[variant] = {}
            continue
        settings = runs.records[made["run"].iloc[0]]["settings"]
        first = made.iloc[0]
        rows[variant] = {
            "vision parameters": percent(first["trainable_vision_parameters"] / first["vision_parameters"]),
            "epochs": str(settings["epochs"] * (1 + len(settings["trained_before"]))),
            "seeds": str(len(made)),
            "ANLS (%)": scores.loc[variant, "anls"],
            "exact match (%)": scores.loc[variant, "exact_match"],
            **costs_of(made),
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna(NONE).rename_axis(VARIANT)


@once_for_study
def arm_differences(study: Study, name: str) -> list[tuple[Contrast, PairedDifference, float]]:
    """What an arm compares: the contrast, the difference in ANLS, and the permutation p-value by document.

    Only seeds that both sides have are compared; a contrast without one is left out.
    """
    if lacking(study, name):
        return []
    planned = zip(arm_of(study, name).contrasts, arm_contrasts(study, name), strict=True)
    return [(contrast, found.difference, found.permuted) for contrast, found in planned if found.difference]


def arm_comparisons(study: Study, name: str) -> pd.DataFrame:
    """The contrasts of an arm in points of ANLS, over documents and seeds, as text.

    Intervals are of one contrast alone, p-values have Holm's correction for those of the arm.
    """
    found = arm_differences(study, name)
    rows = {}
    for (contrast, difference, permuted), p_value in zip(found, arm_p_values(found), strict=True):
        rows[f"{contrast.second} less {contrast.first}"] = {
            "what it says": contrast.says,
            "difference [95 %]": difference.interval().format(100),
            "p (Holm)": p_text(p_value),
            "p, permutation": p_text(permuted),
            "seeds": str(difference.seeds),
            "smallest shown": number(100 * difference.smallest_detectable(), 1),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ANLS, points")


def arm_answer(study: Study, name: str) -> str:
    """An arm's question and what its comparisons answer, as Markdown made from the numbers."""
    if why := lacking(study, name):
        return why
    found = arm_differences(study, name)
    question = f"**{arm_of(study, name).question}**"
    if not found:
        return f"{question} No two of its variants are complete with a seed in common, so nothing is compared."
    lines = [
        f"- {_sentence(contrast.says)} (*{contrast.second}* less *{contrast.first}*): {_verdict(difference, p_value)}."
        for (contrast, difference, _), p_value in zip(found, arm_p_values(found), strict=True)
    ]
    lines += [
        f"- {_sentence(here.says)}, where the {here.shift} is new less where the {there.shift} is new: "
        f"{_verdict(interaction, p_value)}."
        for here, there, interaction, p_value in interaction_tests(study, name)
    ]
    seeds = sorted({difference.seeds for _, difference, _ in found})
    scope = "one seed, of which alone this speaks" if seeds == [1] else f"{' or '.join(map(str, seeds))} seeds"
    return "\n".join([f"{question} ANLS, points, {scope}:", "", *lines])


def arm_interactions(study: Study, name: str) -> pd.DataFrame:
    """By how much the differences of an arm differ between documents, in points of ANLS, as text.

    The two sides have no document in common; p-values have Holm's correction for those of this
    table. Empty where the arm compares none, or lacks runs.
    """
    rows = {
        f"{here.says}: {here.shift} less {there.shift}": {
            "difference [95 %]": found.interval().format(100),
            "p (Holm)": p_text(p_value),
            "smallest shown": number(100 * found.smallest_detectable(), 1),
        }
        for here, there, found, p_value in interaction_tests(study, name)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ANLS, points")


def interaction_tests(study: Study, name: str) -> list[tuple[Contrast, Contrast, Interaction, float]]:
    """Contrast here, contrast there, the interaction of their differences in ANLS, and its p-value after Holm's."""
    if lacking(study, name):
        return []
    differences = {contrast: difference for contrast, difference, _ in arm_differences(study, name)}
    found = [
        (here, there, Interaction(differences[there], differences[here]))
        for there, here in arm_of(study, name).interactions
        if there in differences and here in differences
    ]
    p_values = holm([test.p_value() for *_, test in found])
    return [(*one, p_value) for one, p_value in zip(found, p_values, strict=True)]


def arm_p_values(found: Sequence[tuple[Contrast, PairedDifference, float]]) -> list[float]:
    """The p-values of `arm_differences` over documents and seeds, after Holm's correction for those of the arm."""
    return holm([difference.p_value() for _, difference, _ in found])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _verdict(difference: StudentEstimate, p_value: float) -> str:
    interval = difference.interval().format(100)
    if p_value < SIGNIFICANT:
        points = f"{100 * abs(difference.estimate):.1f} points"
        return f"{points} {'higher' if difference.estimate > 0 else 'lower'}, {interval}"
    missed = 100 * difference.smallest_detectable()
    return f"cannot be distinguished, {interval}; a true difference below {missed:.1f} points would often be missed"
