"""Whether a model knows when it is right: the confidence of its answers against their being right."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from statsmodels.stats.proportion import proportion_confint

from docfloqa.analysis.intervals import RATIO, Interval, number, percent
from docfloqa.exceptions import RunError
from docfloqa.metrics import FEWEST_DOCUMENTS
from docfloqa.runs.results import Study, once_for_study

# A confidence is the probability of one text, so "right" is what is said of one text.
RIGHT = "exact_match"
BINS = 10
COVERAGES = np.arange(5, 101) / 100
RESAMPLES = 1000
Floats = NDArray[np.float64]
# From confidences (the highest first), being right and weights (resamples x answers) to resamples x figures.
Statistic = Callable[[Floats, Floats, Floats], Floats]


def has_confidence(study: Study) -> bool:
    """Whether every answer of the study came with its probability; runs of earlier versions lack it."""
    return "confidence" in study.last_answers and study.last_answers["confidence"].notna().all()


def confident_answers(study: Study) -> pd.DataFrame:
    """The answers after the last epoch, each with its `confidence` in [0, 1]; raises `RunError` where one has none."""
    if not has_confidence(study):
        raise RunError(
            f"study {study.name!r} has a run whose predictions lack the column 'confidence': an earlier version made "
            "it. Make the study's runs again to see whether the model knows when it is right"
        )
    return study.last_answers


def clustered_share(right: ArrayLike, documents: ArrayLike) -> Interval:
    """The share of answers that are right (each 0 or 1), with Wilson's 95 % interval over documents.

    The number of answers is the effective one, with the same variance if answers on one document were independent, or
    that of documents where all or none are right. Below `FEWEST_DOCUMENTS` the ends are NaN. Sources: Korn & Graubard,
    Survey Methodology 24, 1998; Dean & Pagano, Journal of Survey Statistics and Methodology 3, 2015.
    """
    right, document_of = np.asarray(right, dtype=float), pd.factorize(np.asarray(documents))[0]
    count, share = document_of.max() + 1, right.mean()
    if count < FEWEST_DOCUMENTS:
        return Interval(share, np.nan, np.nan)
    residuals = np.bincount(document_of, right - share) / len(right)
    variance = count / (count - 1) * np.square(residuals).sum()
    spread = share * (1 - share)
    size = spread / max(variance, spread / len(right)) if spread else count
    return Interval(share, *np.clip(proportion_confint(share * size, size, method="wilson"), 0, 1))


def reliability(study: Study) -> pd.DataFrame:
    """Tidy: ratio, bin of `equal_bins` (all seeds), answers, mean confidence, the `clustered_share` of right ones."""
    answers = confident_answers(study)
    answers = answers.assign(bin=answers.groupby(RATIO)["confidence"].transform(equal_bins))
    rows = []
    for (ratio, index), part in answers.groupby([RATIO, "bin"]):
        means = {"answers": len(part), "confidence": part["confidence"].mean()}
        rows.append({RATIO: ratio, "bin": index, **means, **vars(clustered_share(part[RIGHT], part["document_id"]))})
    return pd.DataFrame(rows)


def equal_bins(confidence: ArrayLike) -> NDArray[np.int64]:
    """The bin of every answer, from 0, the least confident, to `BINS` - 1, with equally many in each or nearly so."""
    return (rankdata(confidence, "ordinal").astype(int) - 1) * BINS // len(confidence)


def calibration_error(answers: pd.DataFrame) -> Interval:
    """Expected calibration error of one ratio's answers, in [0, 1], with its 95 % interval over documents.

    Mean over bins of equally many answers of |mean confidence − share right|, and over seeds. Chance alone makes it
    too high, and resampling documents adds as much again: the interval goes as far below the estimate as the 97.5 %
    quantile of the resamples is above it, and begins at 0 unless the estimate is beyond what chance gives calibrated
    confidences in 97.5 % of cases. Below `FEWEST_DOCUMENTS` the ends are NaN.
    Sources: Guo et al., ICML 2017; Davison & Hinkley, Bootstrap Methods and their Application, 1997, 5.2.
    """
    [(error, _, above)] = _intervals(answers, _error)
    if np.isnan(above):
        return Interval(error, above, above)
    high = max(error, above)
    beyond_chance = error > np.quantile(error_if_calibrated(answers), 0.975)
    return Interval(error, max(0.0, 2 * error - high) if beyond_chance else 0.0, high)


def error_if_calibrated(answers: pd.DataFrame) -> Floats:
    """`RESAMPLES` draws of `calibration_error`, were every answer right as often as its confidence says.

    A question is drawn once for all seeds: seeds agree as much as they could.
    Source: Bröcker & Smith, Weather and Forecasting 22, 2007.
    """
    question_of, questions = pd.factorize(answers["question_id"])
    luck = np.random.default_rng(0).random((RESAMPLES, len(questions)))
    errors = []
    for _, part in answers.assign(question=question_of).groupby("seed"):
        confidence = part["confidence"].to_numpy()
        gaps = confidence - (luck[:, part["question"]] < confidence)
        errors.append(np.abs(gaps @ np.eye(BINS)[equal_bins(confidence)]).sum(axis=1) / len(part))
    return np.mean(errors, axis=0)


def coverage_curve(study: Study) -> pd.DataFrame:
    """Tidy: ratio, coverage, estimate, low, high: the share right of the most confident share of the answers.

    All in [0, 1]. Source: El-Yaniv & Wiener, Journal of Machine Learning Research 11, 2010 (accuracy is 1 − risk).
    """
    rows = []
    for ratio, answers in confident_answers(study).groupby(RATIO):
        rows += [(ratio, *row) for row in zip(COVERAGES, *_intervals(answers, _accuracies).T, strict=True)]
    return pd.DataFrame(rows, columns=[RATIO, "coverage", "estimate", "low", "high"])


def coverage_area(answers: pd.DataFrame) -> Interval:
    """Mean accuracy over every number of most confident answers of one ratio, in [0, 1], with its 95 % interval."""
    return Interval(*_intervals(answers, _area)[0])


def overconfidence(answers: pd.DataFrame) -> Interval:
    """Mean confidence − the share right of one ratio's answers, in [-1, 1], with its 95 % interval over documents."""
    return Interval(*_intervals(answers, _excess)[0])


@once_for_study
def calibration(study: Study) -> pd.DataFrame:
    """By ratio, as text: confidence against being right, in percent and points, with 95 % intervals over documents."""
    rows = {}
    for ratio, answers in confident_answers(study).groupby(RATIO):
        chance, accuracies = error_if_calibrated(answers), _intervals(answers, _accuracies)
        rows[percent(ratio)] = {
            "mean confidence (%)": number(100 * answers["confidence"].mean()),
            "right (%)": Interval(*accuracies[-1]).format(100),
            "confidence − right": overconfidence(answers).format(100),
            "calibration error": calibration_error(answers).format(100),
            "if calibrated: mean, 95 % below": f"{100 * chance.mean():.1f}, {100 * np.quantile(chance, 0.95):.1f}",
            "right of the surer half (%)": Interval(*accuracies[COVERAGES == 0.5][0]).format(100),
            "area under accuracy by coverage (%)": coverage_area(answers).format(100),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ratio")


def _intervals(answers: pd.DataFrame, statistic: Statistic) -> Floats:
    """Means over seeds of each figure of `statistic` with their ends over `RESAMPLES` draws of documents: figures x 3.

    Below `FEWEST_DOCUMENTS` the ends are NaN.
    """
    document_of, names = pd.factorize(answers["document_id"], sort=True)
    draws = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    # The first row is the answers themselves.
    draws = np.vstack([np.ones(len(names)), draws])
    by_seed = []
    ordered = answers.assign(document=document_of).sort_values("confidence", ascending=False, kind="stable")
    for _, part in ordered.groupby("seed"):
        by_seed.append(statistic(*part[["confidence", RIGHT]].to_numpy(float).T, draws[:, part["document"]]))
    estimates, *resampled = np.mean(by_seed, axis=0)
    ends = np.quantile(resampled, [0.025, 0.975], axis=0)
    if len(names) < FEWEST_DOCUMENTS:
        ends[:] = np.nan
    return np.stack([estimates, *ends], axis=1)


def _excess(confidence: Floats, right: Floats, weights: Floats) -> Floats:
    return (weights @ (confidence - right) / weights.sum(axis=1))[:, None]


def _error(confidence: Floats, right: Floats, weights: Floats) -> Floats:
    gaps = weights @ ((confidence - right)[:, None] * np.eye(BINS)[equal_bins(confidence)])
    return (np.abs(gaps).sum(axis=1) / weights.sum(axis=1))[:, None]


def _accuracies(_: Floats, right: Floats, weights: Floats) -> Floats:
    curves = (np.insert(each.cumsum(axis=1), 0, 0, axis=1) for each in (weights, weights * right))
    pairs = zip(*curves, strict=True)
    return np.array([np.interp(COVERAGES * total[-1], total, hits) / (COVERAGES * total[-1]) for total, hits in pairs])


def _area(_: Floats, right: Floats, weights: Floats) -> Floats:
    answered, correct = weights.cumsum(axis=1), (weights * right).cumsum(axis=1)
    # An answer of a document that was not drawn has no weight, and nothing may have been answered before it.
    accuracy = np.divide(correct, answered, out=np.zeros_like(correct), where=answered > 0)
    return ((weights * accuracy).sum(axis=1) / weights.sum(axis=1))[:, None]
