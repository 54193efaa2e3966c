"""Whether a model knows when it is right: the confidence of its answers against their being right."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from docfloqa.analysis.intervals import RATIO, Interval, number, percent
from docfloqa.exceptions import RunError
from docfloqa.runs.results import Study, once_for_study

# A confidence is the probability of one text, so "right" is what is said of one text.
RIGHT = "exact_match"
BINS = 10
COVERAGES = np.arange(5, 101) / 100
RESAMPLES = 1000
Floats = NDArray[np.float64]
# From confidences, being right (both: answers) and weights (resamples x answers) to resamples x figures.
Statistic = Callable[[Floats, Floats, Floats], Floats]


def has_confidence(study: Study) -> bool:
    """Whether every answer of the study came with its probability; runs of earlier versions lack it."""
    return "confidence" in study.last_answers and study.last_answers["confidence"].notna().all()


def confident_answers(study: Study) -> pd.DataFrame:
    """The answers after the last epoch, each with its `confidence` in [0, 1].

    Raises `RunError` for a study with a run that did not record any.
    """
    if not has_confidence(study):
        raise RunError(
            f"study {study.name!r} has a run whose predictions lack the column 'confidence': an earlier version made "
            "it. Make the study's runs again to see whether the model knows when it is right"
        )
    return study.last_answers


def clustered_share(right: ArrayLike, documents: ArrayLike) -> Interval:
    """The share of answers that are right (each 0 or 1), with Wilson's 95 % interval over documents.

    Wilson's formula has the effective number of answers for their number: what would give the same variance if answers
    on one document were independent; the number of documents where all or none are right. On one document the ends
    are NaN. Raises ValueError for no answers or lengths that differ. Source: Korn & Graubard, Survey Methodology 24,
    1998, with Wilson's interval, as in Dean & Pagano, Journal of Survey Statistics and Methodology 3, 2015.
    """
    right, document_of = np.asarray(right, dtype=float), pd.factorize(np.asarray(documents))[0]
    if not 0 < len(right) == len(document_of):
        raise ValueError(f"{len(right)} answers on {len(document_of)} documents are no share")
    count, share = document_of.max() + 1, right.mean()
    if count < 2:
        return Interval(float(share), np.nan, np.nan)
    residuals = np.bincount(document_of, right - share) / len(right)
    variance = count / (count - 1) * np.square(residuals).sum()
    spread = share * (1 - share)
    size = spread / max(variance, spread / len(right)) if spread else count
    z = norm.ppf(0.975)
    middle = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z / (1 + z**2 / size) * np.sqrt(spread / size + (z / (2 * size)) ** 2)
    return Interval(float(share), float(max(0.0, middle - half)), float(min(1.0, middle + half)))


def reliability(study: Study) -> pd.DataFrame:
    """Tidy: ratio, bin (0 the least confident), answers, confidence (mean), estimate, low, high (share right).

    Bins of one ratio have equally many answers, all seeds together; shares are those of `clustered_share`.
    """
    answers = confident_answers(study)
    answers = answers.assign(bin=answers.groupby(RATIO)["confidence"].transform(equal_bins))
    rows = []
    for (ratio, place), part in answers.groupby([RATIO, "bin"]):
        means = {"answers": len(part), "confidence": part["confidence"].mean()}
        rows.append({RATIO: ratio, "bin": place, **means, **vars(clustered_share(part[RIGHT], part["document_id"]))})
    return pd.DataFrame(rows)


def equal_bins(confidence: ArrayLike) -> NDArray[np.int64]:
    """The bin of every answer, from 0 to at most `BINS` - 1, so that bins have equally many answers or nearly so."""
    ranks = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
    return ranks * BINS // len(ranks)


def calibration_error(answers: pd.DataFrame) -> Interval:
    """Expected calibration error of one ratio's answers, in [0, 1], with its 95 % interval over documents.

    The mean over bins of equally many answers of |mean confidence − share right|, and of the seeds' own errors the
    mean. `answers` has the columns seed, document_id, question_id, confidence and `RIGHT`.

    Chance alone makes the estimate too high, and resampling documents adds as much again. So the interval goes as far
    below the estimate as the 97.5 % quantile of the resamples is above it, and begins at 0 unless the estimate is
    beyond what chance gives calibrated confidences in 97.5 % of cases. On one document the ends are NaN.
    Sources: Guo et al., ICML 2017; Davison & Hinkley, Bootstrap Methods and their Application, 1997, 5.2.
    """
    error, *resampled = over_documents(answers, _error)[:, 0]
    if answers["document_id"].nunique() < 2:
        return Interval(float(error), np.nan, np.nan)
    high = max(error, np.quantile(resampled, 0.975))
    beyond_chance = error > np.quantile(error_if_calibrated(answers), 0.975)
    return Interval(float(error), float(max(0.0, 2 * error - high)) if beyond_chance else 0.0, float(high))


def error_if_calibrated(answers: pd.DataFrame) -> Floats:
    """What `calibration_error` would be by chance, were every answer right as often as its confidence says.

    `RESAMPLES` draws, in [0, 1]. A question is drawn once for all seeds: seeds agree as much as they could.
    Source: Bröcker & Smith, Weather and Forecasting 22, 2007.
    """
    question_of, questions = pd.factorize(answers["question_id"])
    luck = np.random.default_rng(0).random((RESAMPLES, len(questions)))
    errors = []
    for _, part in answers.assign(question=question_of).groupby("seed"):
        confidence = part["confidence"].to_numpy()
        gaps = confidence - (luck[:, part["question"]] < confidence)
        errors.append(np.abs(gaps @ _indicators(confidence)).sum(axis=1) / len(part))
    return np.mean(errors, axis=0)


def coverage_curve(study: Study) -> pd.DataFrame:
    """Tidy: ratio, coverage, estimate, low, high: the share right of the most confident share of the answers.

    Means over seeds, 95 % intervals over documents, all in [0, 1]. Source: El-Yaniv & Wiener, Journal of Machine
    Learning Research 11, 2010 (the risk-coverage curve; accuracy is 1 − risk).
    """
    rows = []
    for ratio, answers in confident_answers(study).groupby(RATIO):
        intervals = _percentile(answers, _accuracies)
        rows += [{RATIO: ratio, "coverage": c, **vars(i)} for c, i in zip(COVERAGES, intervals, strict=True)]
    return pd.DataFrame(rows)


def coverage_area(answers: pd.DataFrame) -> Interval:
    """Area under accuracy against coverage of one ratio's answers, in [0, 1], with its 95 % interval over documents.

    Accuracy of every number of most confident answers, and the mean of the seeds' own areas.
    """
    return _percentile(answers, _area)[0]


@once_for_study
def calibration(study: Study) -> pd.DataFrame:
    """By ratio, as text: confidence against being right, in percent and points, with 95 % intervals over documents."""
    rows = {}
    half = COVERAGES.tolist().index(0.5)
    for ratio, answers in confident_answers(study).groupby(RATIO):
        chance, accuracies = error_if_calibrated(answers), _percentile(answers, _accuracies)
        rows[percent(ratio)] = {
            "mean confidence (%)": number(100 * answers["confidence"].mean()),
            "right (%)": accuracies[-1].format(100),
            "confidence − right": overconfidence(answers).format(100),
            "calibration error": calibration_error(answers).format(100),
            "if calibrated: mean, 95 % below": f"{100 * chance.mean():.1f}, {100 * np.quantile(chance, 0.95):.1f}",
            "right of the surer half (%)": accuracies[half].format(100),
            "area under accuracy by coverage (%)": coverage_area(answers).format(100),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ratio")


def overconfidence(answers: pd.DataFrame) -> Interval:
    """Mean confidence − the share right of one ratio's answers, in [-1, 1]; its 95 % interval is over documents."""
    return _percentile(answers, _excess)[0]


def over_documents(answers: pd.DataFrame, statistic: Statistic) -> Floats:
    """Mean over seeds of `statistic` for the answers themselves (row 0) and for `RESAMPLES` draws of documents.

    Documents are drawn with replacement, each with its answers of all seeds. Raises ValueError for seeds that
    differ in their documents.
    """
    document_of, names = pd.factorize(answers["document_id"], sort=True)
    if (answers.groupby("seed")["document_id"].nunique() < len(names)).any():
        raise ValueError("the seeds differ in their documents")
    chances = np.full(len(names), 1 / len(names))
    draws = np.random.default_rng(0).multinomial(len(names), chances, size=RESAMPLES)
    draws = np.vstack([np.ones(len(names)), draws])
    by_seed = []
    for _, part in answers.assign(document=document_of).groupby("seed"):
        columns = (part[name].to_numpy(float) for name in ("confidence", RIGHT))
        by_seed.append(statistic(*columns, draws[:, part["document"]]))
    return np.mean(by_seed, axis=0)


def _percentile(answers: pd.DataFrame, statistic: Statistic) -> Sequence[Interval]:
    estimates, *resampled = over_documents(answers, statistic)
    ends = np.quantile(resampled, [0.025, 0.975], axis=0)
    if answers["document_id"].nunique() < 2:
        ends = np.full_like(ends, np.nan)
    return [Interval(*map(float, row)) for row in zip(estimates, *ends, strict=True)]


def _excess(confidence: Floats, right: Floats, weights: Floats) -> Floats:
    return (weights @ (confidence - right) / weights.sum(axis=1))[:, None]


def _indicators(confidence: Floats) -> Floats:
    return np.eye(BINS)[equal_bins(confidence)]


def _error(confidence: Floats, right: Floats, weights: Floats) -> Floats:
    gaps = weights @ ((confidence - right)[:, None] * _indicators(confidence))
    return (np.abs(gaps).sum(axis=1) / weights.sum(axis=1))[:, None]


def _by_confidence(confidence: Floats, right: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weights, and cumulative sums of weights and of right answers, from the most confident answer on."""
    order = np.argsort(-confidence, kind="stable")
    weights = weights[:, order]
    return weights, weights.cumsum(axis=1), (weights * right[order]).cumsum(axis=1)


def _accuracies(confidence: Floats, right: Floats, weights: Floats) -> Floats:
    _, answered, correct = _by_confidence(confidence, right, weights)
    curves = zip(np.insert(answered, 0, 0, axis=1), np.insert(correct, 0, 0, axis=1), strict=True)
    return np.array([np.interp(COVERAGES * total[-1], total, hits) / (COVERAGES * total[-1]) for total, hits in curves])


def _area(confidence: Floats, right: Floats, weights: Floats) -> Floats:
    weights, answered, correct = _by_confidence(confidence, right, weights)
    # An answer of a document that was not drawn has no weight, and nothing may have been answered before it.
    accuracy = np.divide(correct, answered, out=np.zeros_like(correct), where=answered > 0)
    return ((weights * accuracy).sum(axis=1) / weights.sum(axis=1))[:, None]
