"""How sure a figure is: intervals from resampled documents, and how they are written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from docfloqa.metrics import FEWEST_DOCUMENTS, METRICS
from docfloqa.text import NO_BREAK

LOSS, RATIO = "val_loss", "vision_trainable"
NONE = "–"
TITLES = {
    **{"anls": "ANLS (%)", "exact_match": "exact match (%)"},
    **{"own": "ANLS, own page (%)", "wrong": "ANLS, wrong page (%)"},
    **{"clean": "clean pages (%)", "area": "area under the curve (%)", "kept": "share of the clean score kept (%)"},
}
RESAMPLES = 2000
UNKNOWN = "unknown"
ENDS = (1 - 0.95) / 2, 1 - (1 - 0.95) / 2


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its interval; the ends are NaN where there is no interval."""

    estimate: float
    low: float
    high: float

    def format(self, scale: float = 1, digits: int = 1) -> str:
        """All three times `scale`, as in "41.2 [38.0, 44.5]"; "41.2 [–, –]" where there is no interval."""
        # "z": a rounded -0.04 reads 0.0, not -0.0.
        ends = (NONE if np.isnan(end) else f"{end * scale:z.{digits}f}" for end in (self.low, self.high))
        return f"{self.estimate * scale:z.{digits}f} [{', '.join(ends)}]"


def interval_table(frame: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Columns `by`, `metric`, `estimate`, `low`, `high` (95 %): a row for every group of `by` and metric.

    `frame` has a row for every answered question; `val_loss` is `loss_sum` over `tokens`. Percentile bootstrap: whole
    documents are drawn, each with its answers of all seeds, so the interval covers other documents and not other seeds.
    With a column `seed` the estimate is the mean of the seeds' own. Below about 20 documents it is somewhat too narrow;
    of fewer than `FEWEST_DOCUMENTS`, and where no document differs from another, the ends are NaN. Raises ValueError
    for what is not finite, and for a group that has a question twice or lacks a seed's document. Source: Davison &
    Hinkley, Bootstrap Methods and their Application, 1997, 3.8 and 5.3.
    """
    rows = []
    for group, part in frame.groupby(list(by), dropna=False, observed=True):
        key = dict(zip(by, group, strict=True))
        part = part.assign(seed=part.get("seed", 0), one=1)
        if "question_id" in part and part.duplicated(["question_id", "seed"]).any():
            raise ValueError(f"the group {key} has a question more than once: `by` lacks a column")
        values = part[["loss_sum" if name == LOSS else name for name in metrics]].to_numpy(float)
        weights = part[["tokens" if name == LOSS else "one" for name in metrics]].to_numpy(float)
        if not (np.isfinite(values) & np.isfinite(weights) & (weights > 0)).all():
            raise ValueError(f"scores and tokens of the group {key} must be finite, and tokens above 0")
        if part[["document_id", "seed"]].isna().any(axis=None):
            raise ValueError(f"a document_id or seed of the group {key} is missing")
        cells = tuple(pd.factorize(part[name], sort=True)[0] for name in ("document_id", "seed"))
        shape = (*(codes.max() + 1 for codes in cells), len(metrics))
        sums, totals = np.zeros(shape), np.zeros(shape)
        np.add.at(sums, cells, values)
        np.add.at(totals, cells, weights)
        if not totals.all():
            raise ValueError(f"the seeds of the group {key} differ in their documents")
        estimates, ends = (sums.sum(axis=0) / totals.sum(axis=0)).mean(axis=0), np.full((2, len(metrics)), np.nan)
        if len(sums) >= FEWEST_DOCUMENTS:
            draws = _draws(len(sums), RESAMPLES)
            resampled = (np.tensordot(draws, sums, 1) / np.tensordot(draws, totals, 1)).mean(axis=1)
            ends = np.quantile(resampled, ENDS, axis=0)
            # That no document differed from another does not say that none would.
            ends[:, np.isclose(*ends, rtol=0, atol=1e-12)] = np.nan
        for name, *interval in zip(metrics, estimates, *ends, strict=True):
            rows.append([*group, name, *map(float, interval)])
    return pd.DataFrame(rows, columns=[*by, "metric", "estimate", "low", "high"])


# The groups of a table have the same documents one after another.
@lru_cache(maxsize=1)
def _draws(documents: int, resamples: int) -> NDArray[np.float64]:
    """How often each document (column) was drawn in each resample (row)."""
    drawn = np.random.default_rng(0).integers(documents, size=(resamples, documents))
    places = drawn + documents * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)


def interval(row: Any) -> Interval:
    """The interval of a row of `interval_table`."""
    return Interval(row.estimate, row.low, row.high)


def score_intervals(answers: pd.DataFrame) -> dict[str, Interval]:
    """Every metric in [0, 1], and `val_loss` in nats per token, with its 95 % interval over documents."""
    table = interval_table(answers.assign(run=0), ["run"], [*METRICS, LOSS])
    return {row.metric: interval(row) for row in table.itertuples()}


def number(value: float, digits: int = 1) -> str:
    """A number with so many digits, "–" where there is none."""
    return NONE if pd.isna(value) else f"{value:,.{digits}f}"


def percent(share: float) -> str:
    """A share in [0, 1] as "33 %", with at most one digit after the point."""
    return f"{round(100 * share, 1):g} %"


def p_text(p_value: float) -> str:
    """A p-value as "0.043", "< 0.001" where three digits would read as none at all, "–" where there is none."""
    return "< 0.001" if p_value < 0.001 else number(p_value, 3)


def unbroken(estimate: Interval, scale: float = 100, digits: int = 1) -> str:
    """An interval as text, by default in percent, that stays in one piece where it wraps in a narrow column."""
    return estimate.format(scale, digits).replace(", ", f",{NO_BREAK}")


def texts(table: pd.DataFrame) -> list[str]:
    """The rows of an `interval_table` as text: scores in percent with one digit, losses with three."""
    return [unbroken(interval(row), *((1, 3) if row.metric == LOSS else (100, 1))) for row in table.itertuples()]


def text_table(table: pd.DataFrame, index: str | list[str], columns: str, name: str | None = None) -> pd.DataFrame:
    """An `interval_table` as text, its rows by `index` (called `name`) and its columns by `columns`, with `TITLES`."""
    frame = table.assign(text=texts(table)).pivot(index=index, columns=columns, values="text").rename_axis(columns=None)
    frame = frame[table[columns].unique()].rename(columns=percent if columns == RATIO else TITLES)
    frame = frame.rename(index=percent) if index == RATIO else frame
    return frame.rename_axis(name) if name else frame


def last_epoch(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a frame's last epoch."""
    return frame[frame["epoch"] == frame["epoch"].max()]
