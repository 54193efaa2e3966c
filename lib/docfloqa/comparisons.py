"""Paired differences between two ratios on the same questions, over documents and seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from docfloqa.stats import Interval

KEYS = ["seed", "document_id", "question_id"]


@dataclass(frozen=True)
class PairedDifference:
    """How much higher the second mean is than the first, on the same questions, and how sure that is.

    Standard errors are in the metric's unit. `over_seeds` is what the seeds add to `over_documents`, 0
    with one seed, which says nothing about others; `seeds` says how many there were.
    """

    estimate: float
    over_documents: float
    over_seeds: float
    documents: int
    seeds: int

    @property
    def standard_error(self) -> float:
        """Of the difference, over documents and seeds."""
        return float(np.hypot(self.over_documents, self.over_seeds))

    @property
    def degrees_of_freedom(self) -> float:
        """Welch and Satterthwaite's, from documents and seeds."""
        by_documents, by_seeds = self.over_documents**2, self.over_seeds**2
        if by_documents + by_seeds == 0:
            return float(self.documents - 1)
        spread = by_documents**2 / (self.documents - 1) + by_seeds**2 / max(1, self.seeds - 1)
        return (by_documents + by_seeds) ** 2 / spread

    def interval(self, confidence: float = 0.95) -> Interval:
        """The difference with Student's interval."""
        half = student.ppf((1 + confidence) / 2, self.degrees_of_freedom) * self.standard_error
        return Interval(self.estimate, self.estimate - half, self.estimate + half)

    def p_value(self) -> float:
        """Two-sided, that there is no difference."""
        if self.standard_error == 0:
            return 1.0 if self.estimate == 0 else 0.0
        return float(2 * student.sf(abs(self.estimate) / self.standard_error, self.degrees_of_freedom))

    def smallest_detectable(self, power: float = 0.8, confidence: float = 0.95) -> float:
        """The difference that would be found with probability `power`, were its standard error this one."""
        quantiles = student.ppf([(1 + confidence) / 2, power], self.degrees_of_freedom)
        return float(quantiles.sum() * self.standard_error)


def paired_difference(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> PairedDifference:
    """The mean of `metric` in `second` less that in `first`, every seed's questions being the same.

    Both frames have a row for every answered question, with `seed`, `document_id`, `question_id` and the
    metric. Questions of a document are right or wrong together, and a seed moves all of them: the variance
    is that of documents plus that of seeds less what both count, which is never taken to be negative
    (Cameron, Gelbach & Miller, Journal of Business & Economic Statistics 29, 2011).

    Raises ValueError for frames whose seeds or questions differ, a question twice, or a single document.
    """
    scores = [frame.set_index(KEYS)[metric].sort_index() for frame in (first, second)]
    if any(score.index.has_duplicates for score in scores) or not scores[0].index.equals(scores[1].index):
        raise ValueError("both sides must have the same questions of the same seeds, each once")
    difference = scores[1] - scores[0]
    cells = difference.groupby(level=["document_id", "seed"]).agg(["sum", "size"]).unstack("seed")
    if len(cells) < 2:
        raise ValueError("there is one document only; at least two are needed")
    if cells.isna().any(axis=None):
        raise ValueError("the seeds differ in their documents")
    return difference_of_cells(cells["sum"].to_numpy(), cells["size"].to_numpy())


def difference_of_cells(sums: NDArray, counts: NDArray) -> PairedDifference:
    """`paired_difference` from sums of differences and numbers of questions, documents x seeds."""
    documents, seeds = sums.shape
    questions = counts.sum()
    estimate = sums.sum() / questions
    residuals = (sums - estimate * counts) / questions
    by_documents = documents / (documents - 1) * np.square(residuals.sum(axis=1)).sum()
    by_seeds = 0.0
    if seeds > 1:
        shared = documents * seeds / (documents * seeds - 1) * np.square(residuals).sum()
        by_seeds = max(0.0, seeds / (seeds - 1) * np.square(residuals.sum(axis=0)).sum() - shared)
    return PairedDifference(
        float(estimate), float(np.sqrt(by_documents)), float(np.sqrt(by_seeds)), documents, seeds
    )
