"""Every comparison that a study plans, made from the names of its ratios, arms and data."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, combinations

import pandas as pd

from docfloqa.analysis import paired
from docfloqa.analysis.intervals import RATIO, percent
from docfloqa.analysis.robustness import ALL_KINDS, AREA, CROSS, KEPT, ROBUSTNESS, area_under_curve, read_scores, scored
from docfloqa.arms import ARMS, shift_of
from docfloqa.runs.plans import study_command
from docfloqa.runs.results import Study, once_for_study
from docfloqa.text import plain

VARIANT = "variant"
# The arm whose comparisons are the claims that a study is made for.
HEADLINE = "parts"
# What is compared on two scores, each a family of its own, and the scores on which it must hold.
CLAIMS = {HEADLINE: "headline claims", "one_rate": "claims at one learning rate"}
ENDPOINTS = {"exact_match": "exact match", "anls": "ANLS"}
FLOOR = 0.05  # ANLS below which ratios are not compared on other data


@dataclass(frozen=True, eq=False)
class Comparison:
    """The group `second` against `first`, by their names; `difference` is None where a `reason` forbids it.

    Holm's correction counts a `family` together. `where` says on which data, `says` what a difference means.
    """

    family: str
    first: str | float = ""
    second: str | float = ""
    where: str = ""
    says: str = ""
    metric: str = "anls"
    difference: paired.StudentEstimate | None = None
    sides: tuple[pd.DataFrame, ...] = ()
    reason: str = ""

    @property
    def groups(self) -> str:
        """As in "66 % − 0 %"."""
        return f"{_group_name(self.second)} − {_group_name(self.first)}"

    @property
    def name(self) -> str:
        """Its groups after the data that it is about; the family where there are none."""
        if self.first == self.second == "":
            return self.family
        return f"{self.where}: {self.groups}" if self.where else self.groups


def _group_name(group: str | float) -> str:
    return group if isinstance(group, str) else percent(group)


def compare(
    answers: pd.DataFrame, by: str, first: str | float, second: str | float, metric: str = "anls", **described: str
) -> Comparison:
    """Two groups of answers, named in the column `by`, on the seeds of both, or the `reason` why that cannot be."""
    groups = {name: answers[answers[by] == name] for name in (first, second)}
    compared = functools.partial(Comparison, first=first, second=second, metric=metric, **described)
    common = set.intersection(*(set(group["seed"]) for group in groups.values()))
    if not common:
        lacking = [_group_name(name) for name, group in groups.items() if group.empty]
        return compared(reason=f"no complete run of {' and of '.join(lacking)}" if lacking else "no seed in common")
    sides = tuple(group[group["seed"].isin(common)] for group in groups.values())
    if sides[0]["document_id"].nunique() < 2:
        return compared(reason="all questions are about one document")
    return compared(difference=paired.paired_difference(*sides, metric), sides=sides)


def compare_all(answers: pd.DataFrame, by: str, metric: str = "anls", **described: str) -> list[Comparison]:
    """Every two groups of the column `by`, the lower one first; see `compare`."""
    return [compare(answers, by, *pair, metric, **described) for pair in combinations(sorted(answers[by].unique()), 2)]


def made(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Those that have a difference."""
    return [comparison for comparison in comparisons if comparison.difference]


def holm_p_values(
    comparisons: Sequence[Comparison], test: Callable[[paired.StudentEstimate], float] = paired.StudentEstimate.p_value
) -> list[float]:
    """P-values of `test` after Holm's correction within each family; NaN for those without a difference."""
    p_values = [test(one.difference) if one.difference else math.nan for one in comparisons]
    tested = pd.DataFrame({"family": [one.family for one in comparisons], "p": p_values}).dropna()
    corrected = tested.groupby("family")["p"].transform(paired.holm)
    return corrected.reindex(range(len(p_values))).tolist()


@once_for_study
def contrasts(study: Study) -> list[Comparison]:
    """Every planned comparison: the claims, of the ratios, of each arm, and of the ratios' best models on other pages.

    Differences, second − first, are in ANLS, of the claims also in exact match, on bad scans also in the share kept.
    """
    found = (of_arm(study, HEADLINE) if HEADLINE in study.arms else []) + ratio_contrasts(study)
    for arm in study.arms:
        found += of_arm(study, arm) if arm != HEADLINE else []
    for name in scored(study):
        answers = read_scores(study, name)
        if name == ROBUSTNESS:
            areas = area_under_curve(answers)
            for metric, family in {AREA: "bad scans", KEPT: "share of the clean score kept on bad scans"}.items():
                found += compare_all(areas[areas["kind"] == ALL_KINDS], RATIO, metric, family=family)
            continue
        pairs = compare_all(answers, RATIO, family="other data", where=f"on {name.removeprefix(CROSS)}")
        if answers.groupby(RATIO)["anls"].mean().max() < FLOOR:
            pairs = [replace(pair, difference=None, reason="every ratio is near 0 there") for pair in pairs]
        found += pairs
    return found


@once_for_study
def ratio_contrasts(study: Study) -> list[Comparison]:
    """Every two ratios on what is compared, the lower one first, then planned ratios without a complete run."""
    planned = set()
    for run, record in study.missing.items():
        # Of a run that was never begun there is only its name.
        if named := re.search(r"vision(\d{3})-", run):
            planned.add(record["settings"][RATIO] if record else int(named[1]) / 100)
    return compare_all(study.compared, RATIO, family="ratios") + [
        Comparison("ratios", study.runs[RATIO].min(), ratio, reason=f"no complete run of {percent(ratio)}")
        for ratio in sorted(planned - set(study.runs[RATIO]))
    ]


def lacking(study: Study, arm: str) -> str:
    """Why an arm has nothing to compare; empty where it has complete runs and this version knows it."""
    if arm not in ARMS:
        return f"This version has no arm `{arm}`; it has {', '.join(ARMS)}."
    if study.arm(arm):
        return ""
    return f"This study has no complete run of the arm `{arm}`; `{study_command(study.name, (arm,))}` makes it."


def of_arm(study: Study, arm: str) -> list[Comparison]:
    """All that an arm compares, how it differs between shifts, too; of `CLAIMS` on both `ENDPOINTS`."""
    if arm not in CLAIMS or lacking(study, arm):
        return arm_contrasts(study, arm) + interactions(study, arm)
    found = [arm_contrasts(study, arm, metric) + interactions(study, arm, metric) for metric in ENDPOINTS]
    # The endpoints of a claim beside each other.
    return [
        replace(one, family=CLAIMS[arm], where=", ".join(filter(None, (ENDPOINTS[one.metric], one.where))))
        for one in chain(*zip(*found, strict=True))
    ]


@once_for_study
def arm_contrasts(study: Study, arm: str, metric: str = "anls") -> list[Comparison]:
    """What an arm compares, in its order; a single one that says why where it has nothing to compare."""
    if why := lacking(study, arm):
        return [Comparison(f"arm {arm}", reason=why)]
    answers, planned = study.arm(arm).compared, ARMS[arm](study.settings)
    found = [
        compare(answers, VARIANT, each.first, each.second, metric, family=f"arm {arm}", says=each.says)
        for each in planned.contrasts
    ]
    if not planned.pooled:
        return found
    means = answers.pivot_table(metric, VARIANT, "seed")
    return [replace(one, difference=_pooled(one, means)) if one.difference else one for one in found]


def _pooled(one: Comparison, means: pd.DataFrame) -> paired.PairedDifference:
    """Its difference with the variance over seeds of all variants under its shift that have its seeds."""
    alike = [variant for variant in means.index if shift_of(variant) == shift_of(one.first)]
    return paired.pooled_over_seeds(one.difference, means.loc[alike, sorted(set(one.sides[0]["seed"]))].dropna())


@once_for_study
def interactions(study: Study, arm: str, metric: str = "anls") -> list[Comparison]:
    """By how much an arm's differences differ between the documents of two shifts, where it asks that."""
    if lacking(study, arm):
        return []
    planned = ARMS[arm](study.settings)
    compared, found = dict(zip(planned.contrasts, arm_contrasts(study, arm, metric), strict=True)), []
    for there, here in planned.interactions:
        pair = compared[there], compared[here]
        difference = paired.Interaction(*(each.difference for each in pair)) if made(pair) == [*pair] else None
        reason = "; ".join(sorted({each.reason for each in pair if each.reason}))
        between = f"arm {arm}, between shifts", shift_of(there.first), shift_of(here.first), here.says, "", metric
        found.append(Comparison(*between, difference=difference, reason=reason))
    return found


@once_for_study
def gains(study: Study) -> list[Comparison]:
    """What training each part adds to training none: `where` are the documents, `says` the part, in plain words.

    Parts are the variants of the arm `parts`, else of `side`, which have as many seeds as the others; else the ratios.
    """
    for name in (HEADLINE, "side"):
        if arm := study.arm(name):
            seeds = arm.runs.groupby(VARIANT)["seed"].nunique()
            variants = [variant for variant in study.arms[name] if seeds.get(variant) == seeds.max()]
            named = {variant: plain(variant).rpartition(": ")[::2] for variant in variants}
            none = {where: variant for variant, (where, what) in named.items() if what == "none"}
            planned = {one.second: one for one in arm_contrasts(study, name) if one.first in none.values()}
            found = []
            for variant, (where, what) in named.items():
                if where in none and what != "none":
                    one = planned.get(variant) or compare(arm.compared, VARIANT, none[where], variant, family="gains")
                    found.append(replace(one, where=where, says=what))
            return made(found)
    pairs, lowest = made(ratio_contrasts(study)), study.compared[RATIO].min()
    return [replace(one, says=_group_name(one.second)) for one in pairs if one.first == lowest]
