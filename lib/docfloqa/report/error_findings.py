"""Where the models err, in words made from the numbers; what cannot be distinguished is said to be so."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from docfloqa.analysis.confidence import (
    calibration_error,
    confident_answers,
    error_if_calibrated,
    has_confidence,
    overconfidence,
)
from docfloqa.analysis.intervals import Interval
from docfloqa.analysis.mistakes import GROUPS, best_ratio, grouped_answers, right_sets, set_name
from docfloqa.analysis.paired import PairedDifference, holm
from docfloqa.analysis.tables import RATIO, percent
from docfloqa.report.findings import SIGNIFICANT, at_floor
from docfloqa.runs.results import Study
from docfloqa.text import escaped

# On fewer documents a group's questions may all be wrong, or all right, by chance alone.
FEWEST_DOCUMENTS = 10


def errors_conclusion(study: Study) -> str:
    """What the study lets one say about where models err, as a Markdown list; near the floor nothing is compared.

    Groups are those of `errors.GROUPS`, each against all other questions (see `group_contrasts`), sets of
    ratios those of `right_sets`; "distinguished" is p < 0.05 after Holm's correction. Calibration is left out
    for a study without confidence.
    """
    if at_floor(study):
        return (
            "It could not be shown that the model reads these documents, so nothing can be concluded about where it "
            "errs."
        )
    best = best_ratio(study)
    values = grouped_answers(study).pivot_table(index="question_id", columns=RATIO, values="anls")
    lowest, highest = values.columns.min(), values.columns.max()
    level = f"ANLS with {percent(best)} of the vision encoder trained"
    said = [f"**What is hard.** {_groups_said(study, values[best], level, ('lower', 'higher'))}"]
    if lowest < highest:
        gain = f"What training {percent(highest)} adds to the ANLS with {percent(lowest)}"
        gains = _groups_said(study, values[highest] - values[lowest], gain, ("less", "more"))
        said += [f"**Where unfreezing matters.** {gains}", f"**Who gets what right.** {_sets_said(study)}"]
    if has_confidence(study):
        said.append(f"**Confidence.** {_calibration_said(study, best)}")
    seeds = study.runs["seed"].nunique()
    scope = "this seed" if seeds == 1 else f"these {seeds} seeds"
    said.append(f"All of this is about {scope}: intervals (95 %, one group alone) and p-values are over documents.")
    return "".join(f"- {each}\n" for each in said)


def group_contrasts(study: Study, values: pd.Series) -> Iterator[tuple[str, str, PairedDifference]]:
    """Every group with each of its names, and how much higher the mean of `values` is there than elsewhere.

    `values` has one number for every question, by question id; see `contrast`. Left out are names with
    questions on fewer than `FEWEST_DOCUMENTS` documents, or elsewhere on fewer.
    """
    answers = grouped_answers(study).drop_duplicates("question_id").set_index("question_id")
    values, documents = values.reindex(answers.index), answers["document_id"]
    for group in GROUPS:
        # A question with several types is in several groups.
        names = answers[group].astype(object).explode().dropna()
        for name in names.unique():
            inside = pd.Series(answers.index.isin(names.index[names == name]), answers.index)
            if min(documents[side].nunique() for side in (inside, ~inside)) >= FEWEST_DOCUMENTS:
                yield group, name, contrast(values, inside, documents)


def contrast(values: pd.Series, inside: pd.Series, documents: pd.Series) -> PairedDifference:
    """How much higher the mean of `values` is where `inside` is true than where it is not.

    Its standard error is that of a regression on the indicator, clustered by document: residuals over the
    size of their side are summed by document. Degrees of freedom are one less than the documents of the side
    with fewer, and seeds add nothing: `values` are one for each question. The three have one index.
    Source: Cameron & Miller, Journal of Human Resources 50, 2015.
    """
    means, sizes = values.groupby(inside).mean(), inside.value_counts()
    shares = (values - inside.map(means)) / inside.map(sizes) * inside.map({True: 1, False: -1})
    by_document = shares.groupby(documents).sum()
    variance = len(by_document) / (len(by_document) - 1) * (by_document**2).sum()
    fewer = min(documents[side].nunique() for side in (inside, ~inside))
    return PairedDifference(float(means[True] - means[False]), float(variance**0.5), 0.0, fewer, 1)


def _groups_said(study: Study, values: pd.Series, what: str, sides: tuple[str, str]) -> str:
    contrasts = sorted(group_contrasts(study, values), key=lambda contrast: contrast[2].estimate)
    if not contrasts:
        return f"No group has questions on {FEWEST_DOCUMENTS} documents, so nothing is compared."
    p_values = holm([difference.p_value() for *_, difference in contrasts])
    named: dict[str, list[str]] = {side: [] for side in sides}
    for (group, name, difference), p_value in zip(contrasts, p_values, strict=True):
        if p_value < SIGNIFICANT:
            points = difference.interval().format(100)
            named[sides[difference.estimate > 0]].append(f"{GROUPS[group]} *{escaped(name)}* ({points})")
    clear = [f"{side} for {', '.join(names)}" for side, names in named.items() if names]
    distinguished = sum(map(len, named.values()))
    rest = f"{len(contrasts) - distinguished} of {len(contrasts)} groups cannot be distinguished from the others."
    return (
        f"{what}, in points against all other questions, is {'; '.join(clear)}. {rest}" if clear else f"{what}: {rest}"
    )


def _sets_said(study: Study) -> str:
    sets = right_sets(study)
    clear = [
        f"{set_name(row.ratios, study)} ({row.estimate:.0f}; by chance "
        f"{Interval(row.chance, row.chance_low, row.chance_high).format(1, 0)})"
        for row in sets[sets["p"] < SIGNIFICANT].itertuples()
    ]
    rest = f"{len(sets) - len(clear)} of {len(sets)} sets of ratios cannot be distinguished from chance."
    return f"More or fewer questions than by chance are right at {', '.join(clear)}. {rest}" if clear else rest


def _calibration_said(study: Study, ratio: float) -> str:
    answers = confident_answers(study)
    answers = answers[answers[RATIO] == ratio]
    excess, error = overconfidence(answers), calibration_error(answers)
    limit = float(np.quantile(error_if_calibrated(answers), 0.95))
    difference = f"At {percent(ratio)} mean confidence less the share that is right is {excess.format(100)} points"
    too = {1: "the model is too sure", -1: "the model is not sure enough"}
    sign = int(excess.low > 0) - int(excess.high < 0)
    calibrated = "which cannot be distinguished from what calibrated confidences would give by chance"
    beyond = f"calibrated confidences would stay below {100 * limit:.1f} in 95 % of cases"
    return (
        f"{difference}: {too.get(sign, 'the two cannot be distinguished')}. The calibration error is "
        f"{error.format(100)} points; {beyond if error.estimate > limit else calibrated}."
    )
