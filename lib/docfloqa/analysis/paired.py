"""Paired differences between two groups of runs on the same questions, over documents and seeds."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import permutation_test
from scipy.stats import t as student
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from docfloqa.analysis.intervals import Interval

KEYS = ["seed", "document_id", "question_id"]
FEWEST_DOCUMENTS, MOST_DOCUMENTS = 2, 10**15
SIGNIFICANT = 0.05


class StudentEstimate:
    """An `estimate` and its `variances`, each with its degrees of freedom, by Student's distribution.

    Variances are independent and in the square of the estimate's unit. Degrees of freedom of their sum: Satterthwaite,
    Biometrics Bulletin 2, 1946; those of the first where all are 0.
    """

    estimate: float
    variances: tuple[tuple[float, int], ...]

    @property
    def standard_error(self) -> float:
        """The root of the variances' sum."""
        return math.sqrt(sum(variance for variance, _ in self.variances))

    @property
    def degrees_of_freedom(self) -> float:
        """Welch and Satterthwaite's."""
        together = sum(variance for variance, _ in self.variances)
        if together == 0:
            return float(self.variances[0][1])
        return together**2 / sum(variance**2 / freedom for variance, freedom in self.variances)

    def interval(self, confidence: float = 0.95) -> Interval:
        """The estimate with Student's interval."""
        half = student.ppf((1 + confidence) / 2, self.degrees_of_freedom) * self.standard_error
        return Interval(self.estimate, self.estimate - half, self.estimate + half)

    def p_value(self) -> float:
        """Two-sided, that the truth is 0."""
        if self.standard_error == 0:
            return 1.0 if self.estimate == 0 else 0.0
        return float(2 * student.sf(abs(self.estimate) / self.standard_error, self.degrees_of_freedom))

    def equivalence_p_value(self, points: float = 2.0) -> float:
        """Of two one-sided tests, that the truth is `points` hundredths or more from 0; small where it is nearer.

        Raises ValueError for a margin that is not above 0. Source: Schuirmann, Journal of Pharmacokinetics and
        Biopharmaceutics 15, 1987.
        """
        if not points > 0:
            raise ValueError(f"the margin must be above 0 points, not {points}")
        inside = points / 100 - abs(self.estimate)
        if self.standard_error == 0:
            return 0.0 if inside > 0 else 1.0
        return float(student.sf(inside / self.standard_error, self.degrees_of_freedom))

    def smallest_detectable(self, power: float = 0.8, confidence: float = 0.95) -> float:
        """The truth that would be told from 0 with probability `power`, were the standard error this one."""
        quantiles = student.ppf([(1 + confidence) / 2, power], self.degrees_of_freedom)
        return float(quantiles.sum() * self.standard_error)


@dataclass(frozen=True)
class Interaction(StudentEstimate):
    """How much larger a difference is on some documents than another one is on other documents."""

    there: "PairedDifference"
    here: "PairedDifference"

    @property
    def estimate(self) -> float:
        """The difference here − that there."""
        return self.here.estimate - self.there.estimate

    @property
    def variances(self) -> tuple[tuple[float, int], ...]:
        """Those of both; a seed is an order of other questions there than here."""
        return (*self.here.variances, *self.there.variances)


@dataclass(frozen=True)
class PairedDifference(StudentEstimate):
    """How much higher the second mean is than the first, on the same questions, and how sure that is.

    Standard errors, in the metric's unit, are a little too large together, since both count single answers.
    `over_seeds` is that of the seeds' own differences, 0 with one seed, which says nothing about others.
    """

    estimate: float
    over_documents: float
    over_seeds: float
    documents: int
    seeds: int

    @property
    def variances(self) -> tuple[tuple[float, int], ...]:
        """Over documents and over seeds."""
        return (self.over_documents**2, self.documents - 1), (self.over_seeds**2, max(1, self.seeds - 1))

    def documents_needed(self, difference: float, power: float = 0.8, confidence: float = 0.95) -> int | float:
        """The fewest documents with which `smallest_detectable` is at most `difference`, `math.inf` where none are.

        `difference` is in the metric's unit (0.009 is 0.9 points of a share). The variance over documents falls as
        one over their number; what seeds add is held where it is, so it is the least that one should plan with where
        there was one seed. A power of 0.8 is right to 0.001 from 10 degrees of freedom on, and is 0.77 with 2.

        Raises ValueError for a difference that is not finite and positive, a power outside [0.5, 1) or a
        confidence outside (0, 1). Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988,
        chapter 2.
        """
        if not (math.isfinite(difference) and difference > 0):
            raise ValueError(f"difference must be finite and above 0, not {difference}")
        if not 0.5 <= power < 1:
            raise ValueError(f"power must be at least 0.5 and below 1, not {power}")
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, not {confidence}")

        def suffices(documents: NDArray) -> NDArray:
            variance = self.over_documents**2 * self.documents / documents
            together = variance + self.over_seeds**2
            freedom = variance**2 / (documents - 1) + self.over_seeds**4 / max(1, self.seeds - 1)
            freedom = np.divide(together**2, freedom, out=documents - 1, where=freedom > 0)
            quantiles = student.ppf([[(1 + confidence) / 2], [power]], freedom).sum(axis=0)
            # Equal but for rounding is enough.
            return quantiles * np.sqrt(together) <= difference * (1 + 1e-12)

        # More documents can leave fewer degrees of freedom, so what suffices need not be one stretch without
        # an end: the numbers are searched in steps of 2 % for the first that does, then what lies below it.
        below, numbers = FEWEST_DOCUMENTS - 1, np.geomspace(FEWEST_DOCUMENTS, MOST_DOCUMENTS, 2000)
        while True:
            numbers = np.unique(np.ceil(numbers))
            found = suffices(numbers)
            if not found.any():
                return math.inf
            first = found.argmax()
            below = numbers[first - 1] if first else below
            if numbers[first] - below <= 1:
                return int(numbers[first])
            numbers = np.linspace(below + 1, numbers[first], 2000)


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> PairedDifference:
    """The mean of `metric` in `second` − that in `first`, every seed's questions being the same.

    Both frames have a row for every answered question, with `KEYS` and the metric. The variance is that of documents
    plus that of seeds (Cameron, Gelbach & Miller, Journal of Business & Economic Statistics 29, 2011), without taking
    off what both count: with few seeds intervals would hold the truth too seldom then (`benchmarks/coverage.py`).

    Raises KeyError for a missing column and ValueError for frames whose seeds or questions differ, a question
    twice, a score that is not finite, a missing key, or a single document.
    """
    return difference_of_cells(*_cells(first, second, metric))


def difference_of_cells(sums: NDArray, counts: NDArray) -> PairedDifference:
    """`paired_difference` from sums of differences and numbers of questions, documents x seeds."""
    documents, seeds = sums.shape
    questions = counts.sum()
    estimate = sums.sum() / questions
    residuals = (sums - estimate * counts) / questions
    by_documents = documents / (documents - 1) * np.square(residuals.sum(axis=1)).sum()
    by_seeds = seeds / (seeds - 1) * np.square(residuals.sum(axis=0)).sum() if seeds > 1 else 0.0
    return PairedDifference(float(estimate), float(np.sqrt(by_documents)), float(np.sqrt(by_seeds)), documents, seeds)


def permutation_p_value(
    first: pd.DataFrame, second: pd.DataFrame, metric: str, resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value, that the sign of a document's difference is a matter of chance; in (0, 1].

    Takes frames as `paired_difference` does, and tests its estimate: a document's differences, of all its questions
    and seeds, change sign together. Exact where all 2^documents ways are no more than `resamples`; else from random
    ones, drawn with `seed`, of which the ways found count as one. No distribution of scores is assumed, but seeds
    are taken as given: other ones may differ as much by themselves, which `PairedDifference.p_value` covers.

    Raises as `paired_difference` does, and ValueError for fewer than one resample.
    Sources: Fisher, The Design of Experiments, 1935, section 21; Phipson & Smyth, Statistical Applications in
    Genetics and Molecular Biology 9, 2010, for the random ways.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    sums, _ = _cells(first, second, metric)
    # All ways have the same number of questions, so sums rank them as means do.
    result = permutation_test(
        (sums.sum(axis=1),),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def mcnemar_p_value(first: pd.DataFrame, second: pd.DataFrame, metric: str = "exact_match") -> pd.DataFrame:
    """McNemar's exact test of every seed: `only_first`, `only_second` (questions) and `p_value`, by `seed`.

    Takes frames as `paired_difference` does, with a metric that is 0 or 1. The p-values must not be pooled, and the
    smallest of them is no result. Questions are taken as independent; those of one document are not, so p may be too
    small: `permutation_p_value` allows for it.

    Raises as `paired_difference` does, though one document will do, and ValueError for a metric that is not 0
    or 1. Source: McNemar, Psychometrika 12, 1947; exact: binomial, two-sided by doubling.
    """
    sides = _matched(first, second, metric)
    for side in sides:
        other = side[~side.isin([0, 1])]
        if len(other):
            raise ValueError(f"{metric} must be 0 or 1 for McNemar's test, not {other.iloc[0]}")
    first_only, second_only = ((one > other).groupby(level="seed").sum() for one, other in (sides, reversed(sides)))
    tables = zip(first_only, second_only, strict=True)
    p_values = [float(mcnemar([[0, second], [first, 0]], exact=True).pvalue) for first, second in tables]
    return pd.DataFrame({"only_first": first_only, "only_second": second_only, "p_value": p_values})


def mcnemar_bounds(first: int, second: int, questions: int) -> tuple[float, float]:
    """The least and the greatest p-value of McNemar's exact test that two numbers of right answers allow.

    Which of the same `questions` were right is not known. The least comes where one side is right wherever the other
    is, the greatest where they are right on as different questions as there can be.

    Raises ValueError for fewer than one question or a number of right answers outside 0..questions.
    """
    for right in (first, second):
        if not 0 <= right <= questions or questions < 1:
            raise ValueError(f"right answers must be between 0 and {questions} questions (1 or more), not {right}")
    worse, better = sorted((first, second))
    # Only the worse side has `swapped` questions right; p rises with every one.
    least, greatest = (
        float(mcnemar([[0, swapped], [swapped + better - worse, 0]], exact=True).pvalue)
        for swapped in (0, min(worse, questions - better))
    )
    return least, greatest


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm's correction for as many tests as there are; none for none.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    return list(_holm(tuple(map(float, p_values))))


@functools.lru_cache
def _holm(p_values: tuple[float, ...]) -> tuple[float, ...]:
    # Kept: statsmodels collects garbage at every call, which takes a third of a second in a notebook.
    return tuple(multipletests(p_values, method="holm")[1].tolist()) if p_values else ()


def _matched(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> list[pd.Series]:
    scores = [frame.set_index(KEYS)[metric].sort_index() for frame in (first, second)]
    if any(score.index.has_duplicates for score in scores) or not scores[0].index.equals(scores[1].index):
        raise ValueError("both sides must have the same questions of the same seeds, each once")
    # Sums by document would leave such rows out, and counts would not.
    if first[KEYS].isna().any(axis=None):
        raise ValueError("seed, document_id or question_id has missing values")
    for score in scores:
        values = score.to_numpy(dtype=float)
        if not np.isfinite(values).all():
            raise ValueError(f"{metric} must be finite, not {values[~np.isfinite(values)][0]}")
    return scores


def _cells(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> tuple[NDArray, NDArray]:
    """Sums of differences and numbers of questions, documents x seeds."""
    before, after = _matched(first, second, metric)
    cells = (after - before).groupby(level=["document_id", "seed"]).agg(["sum", "size"]).unstack("seed")
    if len(cells) < FEWEST_DOCUMENTS:
        raise ValueError("there is one document only; at least two are needed")
    if cells.isna().any(axis=None):
        raise ValueError("the seeds differ in their documents")
    return cells["sum"].to_numpy(), cells["size"].to_numpy()
