"""How often the intervals hold the truth, and the tests find a difference where there is none, by simulation.

    .venv/bin/python benchmarks/coverage.py

draws made-up studies of the embedded size and writes `reports/benchmarks/coverage.md`, in about three minutes
on one core. The intervals and p-values are those of the functions that the reports use.

The model that generates them: 140 documents with 3 to 6 questions each (610 in the mean), four ratios, one or
three seeds. An answer has a latent quality, normal with variance 1 where seeds are alike: a sum of what belongs
to the document (0.21), to the question (0.60), to document and ratio (0.02), to question and ratio (0.06) and to
the single answer (0.11). These shares are close to what the shipped study's exact matches show (tetrachoric
correlations: 0.89 of a question's answers at one ratio under two seeds, 0.82 at two ratios, 0.22 of two questions
of a document). Answers above one threshold match exactly and have ANLS 1 (22 %), those below it but above
another have an ANLS that is uniform in [0.5, 0.8] (25 %), the others 0, as in the shipped study. No ratio is
better than another, but every seed of every ratio shifts all of its answers by a normal amount, whose standard
deviation is given as what it makes of ANLS.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint, test_proportions_2indep

from docfloqa.analysis.intervals import interval_table
from docfloqa.analysis.paired import difference_of_cells, permutation_p_value
from docfloqa.files import PROJECT, write_whole
from docfloqa.text import to_markdown

COMMAND = ".venv/bin/python benchmarks/coverage.py"
PLACE = PROJECT / "reports" / "benchmarks" / "coverage.md"
SIMULATIONS = 1000
RESAMPLES = 499  # of the permutation test, whose level any number keeps; reports use more, for finer p-values
DOCUMENTS, RATIOS = 140, 4
QUESTIONS_PER_DOCUMENT = {3: 0.2, 4: 0.4, 5: 0.25, 6: 0.15}
SHARES = {"document": 0.21, "question": 0.60, "document and ratio": 0.02, "question and ratio": 0.06, "answer": 0.11}
EXACT, PARTIAL, PARTIAL_SCORES = 0.22, 0.25, (0.5, 0.8)
# Mean quality above the thresholds for an exact and for a partial match.
ABOVE = norm.ppf([EXACT, EXACT + PARTIAL])
# ANLS is the sum of these, each times the share of answers above its threshold.
STEPS = np.array([1 - np.mean(PARTIAL_SCORES), np.mean(PARTIAL_SCORES)])
SCENARIOS = [(seeds, spread) for seeds in (1, 3) for spread in (0.0, 0.01, 0.03)]
SCORES = {"anls": "ANLS", "exact_match": "exact match"}
LEVEL = 0.05
HOLDS, FINDS = "95 % intervals that hold the truth", f"p < {LEVEL}"


class SimulatedStudy:
    """Answers of every ratio, seed and question, and what their expected scores are.

    `anls` and `exact_match` are ratios x seeds x questions; `spread` is the seeds' standard deviation of ANLS.
    """

    def __init__(self, rng: np.random.Generator, seeds: int, spread: float) -> None:
        sizes = rng.choice([*QUESTIONS_PER_DOCUMENT], DOCUMENTS, p=[*QUESTIONS_PER_DOCUMENT.values()])
        self.starts = np.concatenate([[0], sizes.cumsum()[:-1]])
        self.sizes, self.seeds = sizes, seeds
        self.document = np.repeat(np.arange(DOCUMENTS), sizes)
        questions = len(self.document)
        of_seeds = spread / (STEPS @ norm.pdf(ABOVE))
        shift = rng.normal(0, of_seeds, (RATIOS, seeds))
        shapes = {
            "document": (1, 1, DOCUMENTS),
            "question": (1, 1, questions),
            "document and ratio": (RATIOS, 1, DOCUMENTS),
            "question and ratio": (RATIOS, 1, questions),
            "answer": (RATIOS, seeds, questions),
        }
        parts = {name: rng.normal(0, np.sqrt(SHARES[name]), shape) for name, shape in shapes.items()}
        quality = shift[:, :, None] + sum(
            part[..., self.document] if name.startswith("document") else part for name, part in parts.items()
        )
        self.exact_match = (quality > -ABOVE[0]).astype(float)
        partial = (quality > -ABOVE[1]) * rng.uniform(*PARTIAL_SCORES, quality.shape)
        self.anls = np.maximum(self.exact_match, partial)
        self.given_seeds = _expected(ABOVE[:, None] + shift[0])
        self.over_seeds = _expected(ABOVE[:, None] / np.hypot(1, of_seeds))
        self.of_first_seed = _expected(ABOVE[:, None] + shift[0, :1])

    def frame(self, ratio: int) -> pd.DataFrame:
        """A ratio's answers, as `Study.predictions` has them."""
        questions = len(self.document)
        return pd.DataFrame(
            {
                "ratio": ratio,
                "seed": np.repeat(np.arange(self.seeds), questions),
                "document_id": np.tile(self.document, self.seeds),
                "question_id": np.tile(np.arange(questions), self.seeds),
                "anls": self.anls[ratio].ravel(),
                "exact_match": self.exact_match[ratio].ravel(),
            }
        )

    def cells(self, score: str) -> tuple[NDArray, NDArray]:
        """Sums of a score, ratios x documents x seeds, and numbers of questions, documents x seeds."""
        sums = np.add.reduceat(getattr(self, score), self.starts, axis=2).transpose(0, 2, 1)
        return sums, np.repeat(self.sizes[:, None], self.seeds, axis=1)


def _expected(above: NDArray) -> dict[str, float]:
    """Scores expected of all documents, in the mean of seeds, from thresholds x seeds."""
    shares = norm.cdf(above).mean(axis=1)
    return {"anls": float(STEPS @ shares), "exact_match": float(shares[0])}


class Outcome(NamedTuple):
    """What one method did with one study, and whether the method's promise covers such a study."""

    method: str
    score: str
    counted: str
    happened: bool
    promised: bool


def outcomes(study: SimulatedStudy, spread: float) -> Iterator[Outcome]:
    """What every method does with a study whose seeds differ by `spread`."""
    first, second = study.frame(0), study.frame(1)
    alike, covered = spread == 0, spread == 0 or study.seeds > 1
    for row in interval_table(first, ["ratio"], [*SCORES]).itertuples():
        for about, truth, promised in (
            ("these seeds", study.given_seeds[row.metric], True),
            ("other seeds too", study.over_seeds[row.metric], alike),
        ):
            method, holds = f"one ratio, interval_table: {about}", row.low <= truth <= row.high
            yield Outcome(method, SCORES[row.metric], HOLDS, holds, promised)
    right = study.exact_match[:2, 0].sum(axis=1).astype(int)
    questions, exact = len(study.document), SCORES["exact_match"]
    wilson = proportion_confint(right[0], questions, method="wilson")
    holds = wilson[0] <= study.of_first_seed["exact_match"] <= wilson[1]
    yield Outcome("one run, Wilson's interval", exact, HOLDS, holds, False)
    for metric, score in SCORES.items():
        sums, counts = study.cells(metric)
        pairs = [difference_of_cells(sums[high] - sums[low], counts) for low, high in combinations(range(RATIOS), 2)]
        interval = pairs[0].interval()
        holds = interval.low <= 0 <= interval.high
        yield Outcome("two ratios, PairedDifference.interval", score, HOLDS, holds, covered)
        # Holm corrects the smallest p-value as Bonferroni does, and finds a difference where that does.
        finds = len(pairs) * min(pair.p_value() for pair in pairs) < LEVEL
        yield Outcome("any of six pairs, PairedDifference.p_value and Holm", score, FINDS, finds, covered)
    finds = permutation_p_value(first, second, "anls", resamples=RESAMPLES) < LEVEL
    yield Outcome("two ratios, permutation_p_value", SCORES["anls"], FINDS, finds, alike)
    finds = mcnemar(pd.crosstab(*study.exact_match[:2, 0])).pvalue < LEVEL
    yield Outcome("two runs, McNemar's exact test", exact, FINDS, finds, False)
    unpaired = test_proportions_2indep(right[1], questions, right[0], questions, method="score")
    yield Outcome("two runs, unpaired score test", exact, FINDS, unpaired.pvalue < LEVEL, False)


def measure(simulations: int) -> pd.DataFrame:
    """Text in percent with its Monte Carlo standard error: a row per method and score, a column per scenario."""
    columns = {}
    for place, (seeds, spread) in enumerate(SCENARIOS):
        rng = np.random.default_rng([2024, place])
        studies = (SimulatedStudy(rng, seeds, spread) for _ in range(simulations))
        seen = pd.DataFrame(outcome for study in studies for outcome in outcomes(study, spread))
        cells = {}
        for key, rows in seen.groupby(["method", "score", "counted"], sort=False):
            share = rows["happened"].mean()
            error = np.sqrt(share * (1 - share) / simulations)
            text = f"{100 * share:.1f} ± {100 * error:.1f}"
            cells[key] = text if rows["promised"].all() else f"({text})"
        columns[f"{seeds} seed{'s' if seeds > 1 else ''}, {100 * spread:g} point{'' if spread == 0.01 else 's'}"] = (
            cells
        )
    frame = pd.DataFrame(columns)
    frame.index = frame.index.set_names(["method", "score", "counted (%)"])
    return frame.reset_index()


def main(simulations: int = SIMULATIONS, place: Path = PLACE) -> None:
    """Simulate, print the table and write it to `place`."""
    text = (
        "# Do the intervals and tests keep what they promise?\n\n"
        f"`{COMMAND}`: {simulations:,} simulated studies for each column, with {DOCUMENTS} documents, about 610 "
        f"questions and {RATIOS} ratios of which none is better; seeds differ by a standard deviation of 0, 1 or "
        "3 points of ANLS. Figures are percentages ± their Monte Carlo standard error. Intervals should hold "
        "the truth in 95 %, tests should find a difference in at most 5 %. In brackets: what the method does "
        "not promise, because it takes seeds as given or there is one of them, or because it takes questions as "
        "independent. The head of the script states the model.\n\n" + to_markdown(measure(simulations))
    )
    write_whole(place, text)
    print(text)


if __name__ == "__main__":
    main()
