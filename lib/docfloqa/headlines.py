"""A study's findings in five sentences, each made from its numbers, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from docfloqa.arm_tables import arm_differences, arm_p_values
from docfloqa.arms import Contrast
from docfloqa.comparisons import PairedDifference
from docfloqa.paths import runs_folder
from docfloqa.results import Study
from docfloqa.robustness import ROBUSTNESS, read_scores
from docfloqa.robustness_tables import (
    ALL_KINDS,
    AREA,
    LOST,
    Comparison,
    area_under_curve,
    compare_ratios,
)
from docfloqa.stats import interval_table
from docfloqa.tables import RATIO, SIGNIFICANT, holm, interval, last_epoch, paired_differences, percent

UNSURE = " (not told from none)"


def headlines(study: Study) -> list[str]:
    """A sentence in Markdown on the ratios, the protocol, the part, the question and bad scans, where they are made.

    Differences are in points of ANLS with 95 % intervals over documents and seeds, each of one comparison alone;
    one whose p-value is not below 0.05, after Holm's correction for those of its table, is said not to be told
    from none.
    """
    made = [_ratios(study), _protocol(study), _part(study), _question(study), _scans(study)]
    return [sentence for sentence in made if sentence]


def _ratios(study: Study) -> str:
    found = list(paired_differences(study))
    if not found:
        return ""
    said = {
        (low, high): _said(pair, p_value)
        for (low, high, pair), p_value in zip(found, holm(found), strict=True)
    }
    lowest, highest = min(low for low, _ in said), max(high for _, high in said)
    table = interval_table(last_epoch(study.predictions), [RATIO], ["anls"]).set_index(RATIO)
    reached = {ratio: interval(table.loc[ratio]).format(100) for ratio in (lowest, highest)}
    others = [
        f"{percent(high)} less {percent(low)} {text}"
        for (low, high), text in said.items()
        if (low, high) != (lowest, highest)
    ]
    return (
        f"**How much.** With {percent(highest)} of the vision encoder trained ANLS is {reached[highest]} %, with "
        f"{percent(lowest)} {reached[lowest]} %: a difference of {said[lowest, highest]}"
        + (f"; {', '.join(others)}." if others else ".")
    )


def _protocol(study: Study) -> str:
    said = [text for _, _, text in _contrasts(study, "cumulative")]
    if len(said) < 6:
        return ""
    fresh, stacked, control, left, last, fresh_last = said
    return (
        "**The published protocol.** Trained one after another on the same weights, 66 % less 0 % is "
        f"{stacked}, and 100 % less 66 % {last}; with fresh weights for each they are {fresh} and {fresh_last}. As "
        f"many epochs with the encoder frozen throughout add {control} to 0 %; 66 % in the published protocol less "
        f"that is {left}."
    )


def _part(study: Study) -> str:
    where = [
        f"{text} where the {contrast.first.split(':')[0]} is new" if ":" in contrast.first else text
        for contrast, _, text in _contrasts(study, "side")
        if contrast.says.startswith("the input side against the output side")
    ]
    if not where:
        return ""
    return (
        "**Which part.** A third of the encoder's parameters next to the pixels less a third next to the language "
        f"model is {', '.join(where)}."
    )


def _question(study: Study) -> str:
    found = _contrasts(study, "prefix")
    if len(found) < 3:
        return ""
    text, none, shuffled = (said for _, _, said in found)
    used = UNSURE not in shuffled and found[2][1].estimate > 0
    return (
        f"**The question.** Its own question less another one's is {shuffled}: the model "
        f"{'uses it' if used else 'is not shown to use it'}. One prefix token less the same as text is {text}, less "
        f"no prefix {none}."
    )


def _scans(study: Study) -> str:
    if not any((runs_folder(study.name) / run / f"{ROBUSTNESS}.parquet").is_file() for run in study.records):
        return ""
    areas = area_under_curve(read_scores(study, ROBUSTNESS))
    together = areas[areas["kind"] == ALL_KINDS]
    table = interval_table(together, [RATIO], [LOST]).set_index(RATIO)
    if len(table) < 2:
        return ""
    ends = lowest, highest = table.index.min(), table.index.max()
    more, lost = (_between(compare_ratios(together, metric), ends) for metric in (AREA, LOST))
    lose = [f"{percent(ratio)} loses {interval(table.loc[ratio]).format(100)} points" for ratio in ends]
    return (
        f"**Bad scans.** Over six degradations and their severities {percent(highest)} less {percent(lowest)} is "
        f"{more}. Against its own clean pages {' and '.join(lose)}: a difference of {lost}."
    )


def _contrasts(study: Study, arm: str) -> list[tuple[Contrast, PairedDifference, str]]:
    """What an arm compares, with its difference in words."""
    found = list(arm_differences(study, arm))
    return [
        (contrast, difference, _said(difference, p_value))
        for (contrast, difference, _), p_value in zip(found, arm_p_values(found), strict=True)
    ]


def _between(found: Sequence[Comparison], ends: tuple[float, float]) -> str:
    """The difference of two ratios in words, corrected for all pairs."""
    p_values = holm(found)
    return next(
        _said(found[place][-1], p_values[place]) for place in range(len(found)) if found[place][1:3] == ends
    )


def _said(difference: PairedDifference, p_value: float) -> str:
    return f"{difference.interval().format(100)} points{'' if p_value < SIGNIFICANT else UNSURE}"
