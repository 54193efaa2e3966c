"""How sure a figure is: intervals from resampled documents, and how they are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from docfloqa.metrics import METRICS
from docfloqa.text import NO_BREAK

LOSS = "val_loss"
RATIO = "vision_trainable"
NONE = "–"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its interval; the ends are NaN where there is no interval."""

    estimate: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval's length; NaN where there is no interval."""
        return (self.high - self.low) / 2

    def format(self, scale: float = 1, digits: int = 1) -> str:
        """All three times `scale`, as in "41.2 [38.0, 44.5]"; "41.2 [–, –]" where there is no interval."""
        # "z": a rounded -0.04 reads 0.0, not -0.0.
        ends = ("–" if np.isnan(end) else f"{end * scale:z.{digits}f}" for end in (self.low, self.high))
        return f"{self.estimate * scale:z.{digits}f} [{', '.join(ends)}]"


def bootstrap_interval(
    values: ArrayLike,
    clusters: ArrayLike,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """sum(values) / sum(weights) with its percentile bootstrap interval over clusters (documents).

    Whole clusters are drawn with replacement, since questions on one document are right or wrong together. Without
    weights each value counts 1; summed losses with token counts as weights give the loss per token. Of one cluster the
    ends are NaN; with fewer than about 20 the interval is somewhat too narrow.

    Raises ValueError for no values, lengths that differ, a value that is not finite, a weight that is not
    finite and positive, a missing cluster, a confidence outside (0, 1) or fewer than one resample.
    Source: Davison & Hinkley, Bootstrap Methods and their Application, 1997, sections 3.8 and 5.3.
    """
    values = np.asarray(values, dtype=float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, dtype=float)
    if not values.ndim == weights.ndim == 1 or not len(values) == len(weights) == len(clusters):
        raise ValueError("values, clusters and weights must be one-dimensional and equally long")
    if not len(values):
        raise ValueError("there are no values")
    frame = pd.DataFrame({"loss_sum": values, "tokens": weights, "document_id": pd.Series(list(clusters)), "group": 0})
    return interval(next(interval_table(frame, ["group"], [LOSS], confidence, resamples, seed).itertuples()))


def interval_table(
    frame: pd.DataFrame,
    by: Sequence[str],
    metrics: Sequence[str],
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Columns `by`, `metric`, `estimate`, `low`, `high`: a row for every group of `by` and metric.

    `frame` has a row for every answered question, with `document_id` and the metrics' columns; `val_loss` is the loss
    per token, from `loss_sum` and `tokens`. Of a group with several seeds (column `seed`) the estimate is the mean of
    the seeds' own, and a document is drawn with its answers of all seeds: the interval covers other documents and not
    other seeds. Groups with the same documents share their draws.

    An empty frame gives an empty table. Raises KeyError for a missing column and ValueError as
    `bootstrap_interval` does, for seeds of a group that differ in their documents, and, where there is a
    column `question_id`, for a question that a group has twice: then `by` lacks a column, such as `epoch`.
    """
    rows = []
    for group, part in frame.groupby(list(by), dropna=False):
        key = dict(zip(by, group, strict=True))
        runs = part["seed"].to_numpy() if "seed" in part else np.zeros(len(part), dtype=int)
        if "question_id" in part and part.assign(seed=runs).duplicated(["question_id", "seed"]).any():
            raise ValueError(f"the group {key} has a question more than once: `by` lacks a column")
        pairs = [(part["loss_sum"], part["tokens"]) if name == LOSS else (part[name], None) for name in metrics]
        values = np.stack([sums.to_numpy(float) for sums, _ in pairs], axis=1)
        weights = np.stack([np.ones(len(part)) if w is None else w.to_numpy(float) for _, w in pairs], axis=1)
        _check(values, weights, confidence, resamples)
        if part["document_id"].isna().any():
            raise ValueError(f"a document_id of the group {key} is missing")
        sums = _by_document(values, part["document_id"], runs)
        totals = _by_document(weights, part["document_id"], runs)
        # Weights are positive, so only a document that a seed has not seen can have a total of 0.
        if not totals.all():
            raise ValueError(f"the seeds of the group {key} differ in their documents")
        intervals = _intervals(sums, totals, confidence, _draws(len(sums), resamples, seed))
        for name, interval in zip(metrics, intervals, strict=True):
            rows.append({**key, "metric": name, **vars(interval)})
    return pd.DataFrame(rows, columns=[*by, "metric", "estimate", "low", "high"])


def percent(share: float) -> str:
    """A share in [0, 1] as "33 %", with at most one digit after the point."""
    return f"{round(100 * share, 1):g} %"


def interval(row: Any) -> Interval:
    """The interval of a row of `interval_table`."""
    return Interval(row.estimate, row.low, row.high)


def unbroken(estimate: Interval, scale: float = 100, digits: int = 1) -> str:
    """An interval as text, by default in percent, that stays in one piece where it wraps in a narrow column."""
    return estimate.format(scale, digits).replace(", ", f",{NO_BREAK}")


def texts(table: pd.DataFrame) -> list[str]:
    """The rows of an `interval_table` as text: scores in percent with one digit, losses with three."""
    return [unbroken(interval(row), *((1, 3) if row.metric == LOSS else (100, 1))) for row in table.itertuples()]


def text_table(table: pd.DataFrame, index: str | list[str], columns: str, name: str | None = None) -> pd.DataFrame:
    """An `interval_table` as text, its rows by `index` (called `name`) and its columns by `columns`; ratios in percent.

    Rows and columns are in order.
    """
    frame = table.assign(text=texts(table)).pivot(index=index, columns=columns, values="text")
    if index == RATIO:
        frame.index = frame.index.map(percent)
    if columns == RATIO:
        frame.columns = frame.columns.map(percent)
    frame = frame.rename_axis(columns=None)
    return frame.rename_axis(name) if name else frame


def number(value: float, digits: int = 1) -> str:
    """A number with so many digits, "–" where there is none."""
    return NONE if pd.isna(value) else f"{value:,.{digits}f}"


def last_epoch(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame's last epoch."""
    return frame[frame["epoch"] == frame["epoch"].max()]


def p_text(p_value: float) -> str:
    """A p-value as "0.043", "< 0.001" where three digits would read as none at all, "–" where there is none."""
    if pd.isna(p_value):
        return NONE
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def _check(values: Floats, weights: Floats, confidence: float, resamples: int) -> None:
    if not np.isfinite(values).all():
        raise ValueError("values must be finite")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError("weights must be finite and positive")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")


def _by_document(values: Floats, documents: pd.Series, runs: NDArray) -> Floats:
    """Sums of `values` (questions x metrics) as documents x seeds x metrics."""
    document_of, document_names = pd.factorize(documents, sort=True)
    run_of, run_names = pd.factorize(runs, sort=True)
    if (document_of < 0).any() or (run_of < 0).any():
        raise ValueError("document_id or seed has missing values")
    sums = np.zeros((len(document_names), len(run_names), values.shape[1]))
    np.add.at(sums, (document_of, run_of), values)
    return sums


def _draws(documents: int, resamples: int, seed: int) -> Floats:
    """How often each document (column) was drawn in each resample (row)."""
    drawn = np.random.default_rng(seed).integers(documents, size=(resamples, documents))
    drawn += np.arange(resamples)[:, None] * documents
    return np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)


def _intervals(sums: Floats, totals: Floats, confidence: float, draws: Floats) -> list[Interval]:
    """An interval for each metric; sums and totals are documents x seeds x metrics."""
    estimates = (sums.sum(axis=0) / totals.sum(axis=0)).mean(axis=0)
    if len(sums) == 1:
        return [Interval(float(estimate), np.nan, np.nan) for estimate in estimates]
    resampled = (np.tensordot(draws, sums, 1) / np.tensordot(draws, totals, 1)).mean(axis=1)
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return [Interval(*map(float, ends)) for ends in zip(estimates, lows, highs, strict=True)]


def score_intervals(answers: pd.DataFrame) -> dict[str, Interval]:
    """Every metric in [0, 1], and `val_loss` in nats per token, with its 95 % interval over documents."""
    table = interval_table(answers.assign(run=0), ["run"], [*METRICS, LOSS])
    return {row.metric: interval(row) for row in table.itertuples()}
