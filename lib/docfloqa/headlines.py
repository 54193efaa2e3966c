"""A study's findings in five sentences, each made from its numbers, with intervals."""

from __future__ import annotations

from docfloqa.arm_tables import arm_differences
from docfloqa.comparisons import PairedDifference
from docfloqa.paths import runs_folder
from docfloqa.results import Study
from docfloqa.robustness import ROBUSTNESS, read_scores
from docfloqa.robustness_tables import ALL_KINDS, AREA, LOST, area_under_curve, compare_ratios
from docfloqa.stats import interval_table
from docfloqa.tables import RATIO, SIGNIFICANT, interval, last_epoch, paired_differences, percent


def headlines(study: Study) -> list[str]:
    """A sentence in Markdown on the ratios, the protocol, the part, the question and bad scans, where they are made.

    Differences are in points of ANLS with 95 % intervals over documents and seeds, each of one comparison alone;
    one whose own p-value is not below 0.05 is said not to be told from none.
    """
    made = [_ratios(study), _protocol(study), _part(study), _question(study), _scans(study)]
    return [sentence for sentence in made if sentence]


def _ratios(study: Study) -> str:
    pairs = {(low, high): difference for low, high, difference in paired_differences(study)}
    if not pairs:
        return ""
    lowest, highest = min(low for low, _ in pairs), max(high for _, high in pairs)
    table = interval_table(last_epoch(study.predictions), [RATIO], ["anls"]).set_index(RATIO)
    reached = {ratio: interval(table.loc[ratio]).format(100) for ratio in (lowest, highest)}
    others = [
        f"{percent(high)} less {percent(low)} {_said(difference)}"
        for (low, high), difference in pairs.items()
        if (low, high) != (lowest, highest)
    ]
    return (
        f"**How much.** With {percent(highest)} of the vision encoder trained ANLS is {reached[highest]} %, with "
        f"{percent(lowest)} {reached[lowest]} %: a difference of {_said(pairs[lowest, highest])}"
        + (f"; {', '.join(others)}." if others else ".")
    )


def _protocol(study: Study) -> str:
    found = _differences(study, "cumulative")
    if len(found) < 6:
        return ""
    fresh, stacked, control, left, last, fresh_last = found
    return (
        "**The published protocol.** Trained one after another on the same weights, 66 % less 0 % is "
        f"{_said(stacked)}, and 100 % less 66 % {_said(last)}; with fresh weights for each they are {_said(fresh)} and "
        f"{_said(fresh_last)}. As many epochs with the encoder frozen throughout add {_said(control)} to 0 %; 66 % "
        f"in the published protocol less that is {_said(left)}."
    )


def _part(study: Study) -> str:
    found = [
        (contrast, difference)
        for contrast, difference, _ in arm_differences(study, "side")
        if contrast.says.startswith("the input side against the output side")
    ]
    if not found:
        return ""
    where = [
        f"{_said(difference)} where the {contrast.first.split(':')[0]} is new"
        if ":" in contrast.first
        else _said(difference)
        for contrast, difference in found
    ]
    return (
        "**Which part.** A third of the encoder's parameters next to the pixels less a third next to the language "
        f"model is {', '.join(where)}."
    )


def _question(study: Study) -> str:
    found = _differences(study, "prefix")
    if len(found) < 3:
        return ""
    text, none, shuffled = found[:3]
    return (
        f"**The question.** Its own question less another one's is {_said(shuffled)}: the model "
        f"{'uses it' if shuffled.p_value() < SIGNIFICANT and shuffled.estimate > 0 else 'is not shown to use it'}. "
        f"One prefix token less the same as text is {_said(text)}, less no prefix {_said(none)}."
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
    more, lost = (
        next(found for _, low, high, found in compare_ratios(together, metric) if (low, high) == ends)
        for metric in (AREA, LOST)
    )
    lose = [f"{percent(ratio)} loses {interval(table.loc[ratio]).format(100)} points" for ratio in ends]
    return (
        f"**Bad scans.** Over six degradations and their severities {percent(highest)} less {percent(lowest)} is "
        f"{_said(more)}. Against its own clean pages {' and '.join(lose)}: a difference of {_said(lost)}."
    )


def _differences(study: Study, arm: str) -> list[PairedDifference]:
    return [difference for _, difference, _ in arm_differences(study, arm)]


def _said(difference: PairedDifference) -> str:
    unsure = "" if difference.p_value() < SIGNIFICANT else " (not told from none)"
    return f"{difference.interval().format(100)} points{unsure}"
