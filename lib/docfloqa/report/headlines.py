"""A study's findings in five sentences, each made from its numbers, with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from docfloqa.analysis.arm_tables import arm_differences, arm_p_values, interaction_tests
from docfloqa.analysis.intervals import interval_table
from docfloqa.analysis.paired import PairedDifference, StudentEstimate
from docfloqa.analysis.robustness import ROBUSTNESS, read_scores
from docfloqa.analysis.robustness_tables import (
    ALL_KINDS,
    AREA,
    LOST,
    Comparison,
    area_under_curve,
    compare_ratios,
)
from docfloqa.analysis.tables import (
    RATIO,
    SIGNIFICANT,
    holm_of,
    interval,
    last_epoch,
    paired_differences,
    percent,
)
from docfloqa.arms import ENDS, FEWER_EPOCHS, WHOLE, Contrast
from docfloqa.data.degradations import CLEAN
from docfloqa.files import runs_folder
from docfloqa.runs.results import Study

UNSURE = " (not significant)"


def headlines(study: Study) -> list[str]:
    """A sentence in Markdown on the ratios, the protocol, the part, the question and bad scans, where they are made.

    Differences are in points of ANLS with 95 % intervals over documents and seeds, each of one comparison alone;
    one whose p-value is not below 0.05, after Holm's correction for those of its table, is called not significant.
    """
    made = [_ratios(study), _protocol(study), _part(study), _question(study), _scans(study)]
    return [sentence for sentence in made if sentence]


def _ratios(study: Study) -> str:
    found = paired_differences(study)
    if not found:
        return ""
    differences = {
        (low, high): said(pair, p_value) for (low, high, pair), p_value in zip(found, holm_of(found), strict=True)
    }
    lowest, highest = min(low for low, _ in differences), max(high for _, high in differences)
    table = interval_table(last_epoch(study.predictions), [RATIO], ["anls"]).set_index(RATIO)
    reached = {ratio: interval(table.loc[ratio]).format(100) for ratio in (lowest, highest)}
    ratios = sorted({ratio for pair in differences for ratio in pair})
    # Each against none of the encoder, and all of it against the next lower share; the tables have every pair.
    told = [
        *((lowest, ratio) for ratio in ratios[1:-1]),
        *([(ratios[-2], highest)] if len(ratios) > 2 else []),
    ]
    others = [f"{percent(high)} less {percent(low)} {differences[low, high]}" for low, high in told]
    return (
        f"**How much** ({study.settings.epochs} epochs{_shift(study)}). With {percent(highest)} of the vision encoder "
        f"trained ANLS is {reached[highest]} %, with {percent(lowest)} {reached[lowest]} %: a difference of "
        f"{'; '.join([differences[lowest, highest], *others])}."
    )


def _protocol(study: Study) -> str:
    texts = [text for _, _, text in contrasts(study, "cumulative")]
    if len(texts) < 7:
        return ""
    _, stacked, control, _, last, _, lost = texts
    return (
        f"**The published protocol** ({arm_epochs(study)}). 100 % with fresh weights less 100 % after 0, 33 and 66 % "
        f"on the same weights is {lost}; no control trained as long as the latter. In that protocol 66 % less 0 % is "
        f"{stacked} and 100 % less 66 % {last}; as many epochs with the encoder frozen throughout change 0 % by "
        f"{control}."
    )


def _part(study: Study) -> str:
    sides, whole = (
        [
            f"{text} where the {contrast.shift} is new" if contrast.shift else text
            for contrast, _, text in contrasts(study, "side")
            if contrast.says == says
        ]
        for says in (ENDS, WHOLE)
    )
    if not sides:
        return ""
    more = [
        f"less the same where the {there.shift} is new {said(found, p_value)}"
        for here, there, found, p_value in interaction_tests(study, "side")
        if here.says == ENDS and here.shift == study.settings.synth_shift
    ]
    return (
        f"**Which part** ({arm_epochs(study)}). The first third of the encoder's parameters in the published order of "
        "tensors (all patch embeddings and the early blocks) less the last third is "
        f"{', '.join(sides)}"
        + (f"; the first of these {', '.join(more)}" if more else "")
        + f". All of the encoder less none of it is {', '.join(whole)}."
    )


def _question(study: Study) -> str:
    found = contrasts(study, "prefix")
    if len(found) < 3:
        return ""
    text, none, shuffled = (words for _, _, words in found)
    used = UNSURE not in shuffled and found[2][1].estimate > 0
    return (
        f"**The question** (encoder frozen, {arm_epochs(study)}). Trained and asked with its own questions less "
        f"trained and asked with the texts of others is {shuffled}: the task "
        f"{'needs' if used else 'is not shown to need'} the question. One prefix token less the same as text is "
        f"{text}, less no prefix {none}."
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
    clean = together.groupby(RATIO)[CLEAN].mean()
    lose = [
        f"{percent(ratio)} loses {interval(table.loc[ratio]).format(100)} points "
        f"({percent(table.loc[ratio, 'estimate'] / clean[ratio])} of its score)"
        for ratio in ends
    ]
    return (
        "**Bad scans** (best epochs, chosen on these questions). Over six degradations and severities 0 to 3 "
        f"{percent(highest)} less {percent(lowest)} is {more}. Against its own clean pages {' and '.join(lose)}: a "
        f"difference of {lost}."
    )


def arm_epochs(study: Study) -> str:
    """How long each run of an arm trains, in words."""
    return f"{max(1, study.settings.epochs // FEWER_EPOCHS)} epochs each"


def _shift(study: Study) -> str:
    return f", documents whose {study.settings.synth_shift} is new" if study.settings.data == "synth" else ""


def contrasts(study: Study, arm: str, unsure: str = UNSURE) -> list[tuple[Contrast, PairedDifference, str]]:
    """What an arm compares, with its difference in words; `unsure` is added where none cannot be excluded."""
    found = arm_differences(study, arm)
    return [
        (contrast, difference, said(difference, p_value, unsure))
        for (contrast, difference, _), p_value in zip(found, arm_p_values(found), strict=True)
    ]


def _between(found: Sequence[Comparison], ends: tuple[float, float]) -> str:
    """The difference of two ratios in words, corrected for all pairs."""
    p_values = holm_of(found)
    return next(said(found[place][-1], p_values[place]) for place in range(len(found)) if found[place][1:3] == ends)


def said(difference: StudentEstimate, p_value: float, unsure: str = UNSURE) -> str:
    """A difference in points with its interval, and `unsure` where its p-value is not below 0.05."""
    return f"{difference.interval().format(100)} points{'' if p_value < SIGNIFICANT else unsure}"
