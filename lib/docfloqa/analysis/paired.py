"""Two groups of runs on the same questions: paired differences, and whether they are chance."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import permutation_test
from scipy.stats import t as student

from docfloqa.analysis.intervals import Interval
from docfloqa.metrics import FEWEST_DOCUMENTS

KEYS = ["seed", "document_id", "question_id"]
MOST_DOCUMENTS = 10**15
SIGNIFICANT = 0.05


class StudentEstimate:
    """An `estimate` and its independent `variances`, each with its degrees of freedom, by Student's distribution.

    On fewer than `FEWEST_DOCUMENTS`, and without any variance, how sure it is cannot be told: all such figures are NaN.
    """

    estimate: float
    variances: tuple[tuple[float, int], ...]
    documents: int

    @property
    def doubt(self) -> str:
        """Why it cannot be told how sure the estimate is; empty where it can."""
        if self.documents < FEWEST_DOCUMENTS:
            return f"{self.documents} documents, and intervals need {FEWEST_DOCUMENTS}"
        return "" if self.standard_error > 0 else "every document has the same difference"

    @property
    def standard_error(self) -> float:
        """The root of the variances' sum, in the estimate's unit."""
        return math.sqrt(sum(variance for variance, _ in self.variances))

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's (Biometrics Bulletin 2, 1946)."""
        together = sum(variance for variance, _ in self.variances)
        return together**2 / sum(variance**2 / freedom for variance, freedom in self.variances)

    def interval(self, confidence: float = 0.95) -> Interval:
        """The estimate with Student's interval."""
        if self.doubt:
            return Interval(self.estimate, math.nan, math.nan)
        half = student.ppf((1 + confidence) / 2, self.degrees_of_freedom) * self.standard_error
        return Interval(self.estimate, self.estimate - half, self.estimate + half)

    def p_value(self) -> float:
        """Two-sided, that the truth is 0."""
        return 2 * self._beyond(abs(self.estimate))

    def equivalence_p_value(self, points: float = 2.0) -> float:
        """That the truth is `points` hundredths or more from 0: two one-sided tests, small where it is nearer.

        Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987.
        """
        return self._beyond(points / 100 - abs(self.estimate))

    def _beyond(self, difference: float) -> float:
        """The probability of a `difference` or more by chance."""
        if self.doubt:
            return math.nan
        return float(student.sf(difference / self.standard_error, self.degrees_of_freedom))

    def smallest_detectable(self, power: float = 0.8, confidence: float = 0.95) -> float:
        """The truth that would be told from 0 with probability `power`, were the standard error this one."""
        if self.doubt:
            return math.nan
        quantiles = stdtrit(self.degrees_of_freedom, [(1 + confidence) / 2, power])
        return float(quantiles.sum() * self.standard_error)


@dataclass(frozen=True)
class PairedDifference(StudentEstimate):
    """How much higher the second mean is than the first, on the same questions, and how sure that is.

    Each standard error includes the scatter of single answers; `over_seeds` is 0 with one seed, and may be
    `pooled_over_seeds`.
    """

    estimate: float
    over_documents: float
    over_seeds: float
    documents: int
    seeds: int
    seeds_freedom: int | None = None

    @property
    def variances(self) -> tuple[tuple[float, int], ...]:
        """Over documents and over seeds."""
        freedom = self.seeds_freedom or max(1, self.seeds - 1)
        return (self.over_documents**2, self.documents - 1), (self.over_seeds**2, freedom)

    def documents_needed(self, difference: float) -> int | float:
        """The fewest documents with which `smallest_detectable` is at most `difference`, `math.inf` where none are.

        `difference` is above 0, in the metric's unit; NaN where there is a `doubt`. The variance over documents falls
        as one over their number, what seeds add stays: the least to plan with where there was one seed. The power is
        0.8 to 0.001 from 10 degrees of freedom on, and 0.77 with 2.
        Source: Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, chapter 2.
        """

        def suffices(documents: int) -> bool:
            spread = self.over_documents * math.sqrt(self.documents / documents)
            study = replace(self, over_documents=spread, documents=documents)
            # Equal but for rounding is enough.
            return study.smallest_detectable() <= difference * (1 + 1e-12)

        if self.doubt:
            return math.nan
        # More documents can leave fewer degrees of freedom, so what suffices need not be one stretch without
        # an end: the numbers are searched in steps of 2 % for the first that does, then what lies below it.
        steps = sorted({math.ceil(step) for step in np.geomspace(FEWEST_DOCUMENTS, MOST_DOCUMENTS, 2000)})
        for below, step in pairwise([FEWEST_DOCUMENTS - 1, *steps]):
            if suffices(step):
                between = range(below + 1, step + 1)
                return between[bisect_left(between, True, key=suffices)]
        return math.inf


class Interaction(StudentEstimate):
    """How much larger the difference `here` is than the one `there`, of other documents and other orders of them."""

    def __init__(self, there: PairedDifference, here: PairedDifference) -> None:
        self.estimate = here.estimate - there.estimate
        self.variances = (*here.variances, *there.variances)
        self.documents = min(here.documents, there.documents)


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> PairedDifference:
    """The mean of `metric` in `second` − that in `first`: frames of the same questions and seeds, with `KEYS`.

    The variance is that of documents plus that of seeds (Cameron, Gelbach & Miller, Journal of Business & Economic
    Statistics 29, 2011), without taking off what both count: with few seeds intervals would hold the truth too seldom
    then (`benchmarks/coverage.py`). Raises ValueError for other questions or seeds, a score that is not finite, a
    missing key, and a single document.
    """
    return difference_of_cells(*_cells(first, second, metric))


def difference_of_cells(sums: NDArray, counts: NDArray) -> PairedDifference:
    """`paired_difference` from sums of differences and numbers of questions, documents x seeds."""
    (documents, seeds), questions = sums.shape, counts.sum()
    estimate = sums.sum() / questions
    residuals = (sums - estimate * counts) / questions
    by_documents = documents / (documents - 1) * np.square(residuals.sum(axis=1)).sum()
    by_seeds = seeds / (seeds - 1) * np.square(residuals.sum(axis=0)).sum() if seeds > 1 else 0.0
    return PairedDifference(float(estimate), float(np.sqrt(by_documents)), float(np.sqrt(by_seeds)), documents, seeds)


def pooled_over_seeds(difference: PairedDifference, means: pd.DataFrame) -> PairedDifference:
    """The same difference, its variance over seeds from several groups' mean scores, groups x seeds.

    Seeds are blocks: what a seed does to all groups alike leaves a difference, what is left is taken to vary as much in
    every group, and has (groups − 1)(seeds − 1) degrees of freedom. Of two groups it is what it was; with one seed it
    stays 0. Source: Fisher, The Design of Experiments, 1935, chapter 4.
    """
    if len(means.columns) < 2:
        return difference
    residuals = means.sub(means.mean(axis=1), axis=0).sub(means.mean(), axis=1) + means.to_numpy().mean()
    freedom = (len(means) - 1) * (len(means.columns) - 1)
    variance = np.square(residuals.to_numpy()).sum() / freedom
    return replace(difference, over_seeds=math.sqrt(2 * variance / difference.seeds), seeds_freedom=freedom)


def permutation_p_value(first: pd.DataFrame, second: pd.DataFrame, metric: str, resamples: int = 10_000) -> float:
    """Two-sided p-value, that the sign of a document's difference is a matter of chance; in (0, 1].

    A document's differences, of all questions and seeds, change sign together: in all ways if these are no more than
    `resamples`, else in random ones. Other seeds are not covered. Raises as `paired_difference`. Sources: Fisher, The
    Design of Experiments, 1935, 21; Phipson & Smyth, Statistical Applications in Genetics and Molecular Biology 9,
    2010.
    """
    sums, _ = _cells(first, second, metric)
    # All ways have the same number of questions, so sums rank them as means do.
    ways = {"permutation_type": "samples", "n_resamples": resamples, "rng": np.random.default_rng(0)}
    return float(permutation_test((sums.sum(axis=1),), np.sum, vectorized=True, **ways).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values after Holm's correction (Scandinavian Journal of Statistics 6, 1979) for as many tests as there are."""
    # Statsmodels' `multipletests` collects garbage at every call, which takes longer than a table.
    found = np.asarray(p_values)
    order = np.argsort(found)
    raised = np.maximum.accumulate(found[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return raised[np.argsort(order)].tolist()


def _matched(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> list[pd.Series]:
    scores = [frame.set_index(KEYS)[metric].sort_index() for frame in (first, second)]
    if scores[0].index.has_duplicates or not scores[0].index.equals(scores[1].index):
        raise ValueError("both sides must have the same questions of the same seeds, each once")
    # Sums by document would leave such rows out, and counts would not.
    if first[KEYS].isna().any(axis=None):
        raise ValueError("seed, document_id or question_id has missing values")
    values = np.concatenate([score.to_numpy(dtype=float) for score in scores])
    if not np.isfinite(values).all():
        raise ValueError(f"{metric} must be finite, not {values[~np.isfinite(values)][0]}")
    return scores


def _cells(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> tuple[NDArray, NDArray]:
    """Sums of differences and numbers of questions, documents x seeds."""
    before, after = _matched(first, second, metric)
    cells = (after - before).groupby(level=["document_id", "seed"]).agg(["sum", "size"]).unstack("seed")
    if len(cells) < 2:
        raise ValueError("there is one document only; at least two are needed")
    if cells.isna().any(axis=None):
        raise ValueError("the seeds differ in their documents")
    return cells["sum"].to_numpy(), cells["size"].to_numpy()
