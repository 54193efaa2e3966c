"""Learning rates: those that a variant is tried at, which of them it is compared at, and where the search ends."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean

# Half a power of ten between two rates, as 3e-4, 1e-3, 3e-3; so many of them at most.
STEP, MOST = 10**0.5, 7


def rate_beside(middle: float, steps: int) -> float:
    """The rate so many half powers of ten above another one, to one digit."""
    return float(f"{middle * STEP**steps:.0e}") if steps else middle


def rates_to_try(middle: float, scores: Mapping[float, float]) -> list[float]:
    """The learning rates that are still to be tried, given the validation scores of those that were.

    Three around `middle`; then one more beyond the best while that is at an end, `MOST` in all. Empty when done.
    """
    if missing := [rate for rate in (rate_beside(middle, steps) for steps in (-1, 0, 1)) if rate not in scores]:
        return missing
    best = best_rate(scores)
    beyond = {min(scores): -1, max(scores): 1}.get(best, 0)
    # Where no rate has trained at all there is no direction.
    if not beyond or len(scores) >= MOST or not math.isfinite(scores[best]):
        return []
    return [rate_beside(middle, round(math.log(best / middle, STEP)) + beyond)]


def mean_scores(tried: Iterable[tuple[float, float]]) -> dict[float, float]:
    """The mean score of every rate, from rates with the score of a run each; minus infinity where one has none."""
    scores = defaultdict(list)
    for rate, score in tried:
        scores[rate].append(score)
    return {rate: fmean(found) for rate, found in scores.items()}


def best_rate(scores: Mapping[float, float]) -> float:
    """The rate of the highest validation score; of several with it the lowest."""
    return max(sorted(scores), key=scores.__getitem__)


def at_the_edge(scores: Mapping[float, float]) -> bool:
    """Whether the best rate is the lowest or the highest of those tried, so that a better one may lie beyond."""
    return best_rate(scores) in (min(scores), max(scores))
