"""The shipped scores, differences and p-values, recomputed from the packed answers without the library.

Written from the published definitions that the library's docstrings name, in numpy and pandas alone: an error of
docfloqa, or of what it is built on, cannot hide in here too.
"""

import functools
import json
import math
import re
import string
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SHIPPED = Path(__file__).parents[2] / "reports" / "shipped"
PLAN, PACKED, TABLES = SHIPPED / "study.json", SHIPPED / "packed", SHIPPED / "tables"
# Each compares groups as "second − first", and has Holm's correction within itself.
COMPARED = ["comparisons", *sorted(path.stem for path in TABLES.glob("arm_*_comparisons.csv"))]
KEYS = ["document_id", "question_id", "seed"]
METRICS = ["anls", "exact_match"]
# Gauss & Legendre's, of integrals from −1 to 1.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


@functools.cache
def distance(one: str, other: str) -> int:
    """Levenshtein's, by Wagner & Fischer."""
    row = list(range(len(other) + 1))
    for place, letter in enumerate(one, 1):
        corner, row[0] = row[0], place
        for at, against in enumerate(other, 1):
            corner, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, corner + (letter != against))
    return row[-1]


def folded(text: str) -> str:
    return " ".join(text.lower().split())


@functools.cache
def similarity(prediction: str, answer: str) -> float:
    texts, longest = (folded(prediction), folded(answer)), max(len(prediction.upper()), len(answer.upper()))
    # Texts that differ in length by more than half of it are below the threshold whatever they say.
    if 2 * abs(len(texts[0]) - len(texts[1])) > longest:
        return 0.0
    return 1 - distance(*texts) / longest if longest else 1.0


def anls(prediction: str, answers: list[str]) -> float:
    best = max(similarity(prediction, answer) for answer in answers)
    return best if best >= 0.5 else 0.0


@functools.cache
def bare(text: str) -> str:
    """SQuAD v1.1's: no case, no punctuation, no articles, single spaces."""
    letters = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", letters).split())


def beyond(t: float, freedom: float) -> float:
    """The probability that Student's t is above `t` or below −`t`: its density, with x = tan, is cos^(freedom − 1)."""

    def integral(low: float) -> float:
        half = (math.pi / 2 - low) / 2
        return half * WEIGHTS @ np.cos(low + half * (1 + NODES)) ** (freedom - 1)

    return integral(math.atan(t / math.sqrt(freedom))) / integral(0)


def quantile(outside: float, freedom: float) -> float:
    """The t that is exceeded on either side with this probability, by bisection."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle, freedom) > outside else (low, middle)
    return low


def holm(p_values: list[float]) -> list[float]:
    corrected, highest = dict.fromkeys(range(len(p_values))), 0.0
    for rank, place in enumerate(sorted(corrected, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return [*corrected.values()]


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


class Student:
    """An estimate with independent variances, each with its degrees of freedom."""

    def __init__(self, estimate: float, variances: list[float], freedoms: list[int]):
        self.estimate, self.variances, self.freedoms = estimate, variances, freedoms
        self.error = math.sqrt(sum(variances))
        # Satterthwaite 1946.
        each = zip(variances, freedoms, strict=True)
        self.freedom = sum(variances) ** 2 / sum(variance**2 / freedom for variance, freedom in each)
        self.p = beyond(abs(estimate) / self.error, self.freedom)

    def interval(self) -> str:
        half = quantile(0.05, self.freedom) * self.error
        ends = (f"{100 * value:z.1f}" for value in (self.estimate, self.estimate - half, self.estimate + half))
        return "{} [{}, {}]".format(*ends)

    def smallest_shown(self) -> str:
        """With a power of 0.8: the t that is exceeded by 0.2 is exceeded on either side by 0.4."""
        return f"{100 * (quantile(0.05, self.freedom) + quantile(0.4, self.freedom)) * self.error:.1f}"


def difference(
    first: pd.DataFrame, second: pd.DataFrame, metric: str = "anls", means: pd.DataFrame | None = None
) -> Student:
    """Of the means of two groups' answers to the same questions, over documents and over seeds.

    With `means`, of several groups (rows) and the seeds (columns), what a seed adds is pooled over all groups.
    """
    sides = (side[[*KEYS, metric]] for side in (second, first))
    pairs = pd.merge(*sides, on=KEYS, suffixes=("", " of the first"), validate="one_to_one")
    assert len(pairs) == len(first) == len(second) > 0
    gain = pairs[metric] - pairs[f"{metric} of the first"]
    residuals, variances, freedoms = (gain - gain.mean()) / len(gain), [], []
    # Variance of a sum of independent clusters (Cameron, Gelbach & Miller 2011), with n / (n − 1).
    for cluster in ("document_id", "seed"):
        sums = residuals.groupby(pairs[cluster]).sum()
        count = len(sums)
        variances.append(count / max(1, count - 1) * (sums**2).sum() if count > 1 else 0.0)
        freedoms.append(max(1, count - 1))
    if means is not None and means.shape[1] > 1:
        # Two-way: what neither its group nor its seed explains of a mean.
        left = (
            means.to_numpy() - means.to_numpy().mean(1, keepdims=True) - means.to_numpy().mean(0) + means.stack().mean()
        )
        freedoms[1] = (means.shape[0] - 1) * (means.shape[1] - 1)
        variances[1] = 2 * (left**2).sum() / freedoms[1] / means.shape[1]
    return Student(gain.mean(), variances, freedoms)


@pytest.fixture(scope="module")
def answers() -> pd.DataFrame:
    """All answers that are kept in full, of every run its first epoch's and its last's, scored anew."""
    columns = ["run", "epoch", "document_id", "question_id", "prediction", "answers", *METRICS]
    kept = pd.read_parquet(PACKED / "predictions.parquet", columns=columns).dropna(subset="prediction")
    rows = [*zip(kept["prediction"], map(tuple, kept["answers"]), strict=True)]
    scored = {row: (anls(*row), float(bare(row[0]) in map(bare, row[1]))) for row in set(rows)}
    made = pd.DataFrame([scored[row] for row in rows], kept.index, METRICS)
    records = pd.read_parquet(PACKED / "runs.parquet").set_index("run")["record"].map(json.loads)
    settings = pd.DataFrame([record["settings"] for record in records], records.index)[["seed", "vision_trainable"]]
    whole = kept.rename(columns={metric: f"{metric}_shipped" for metric in METRICS}).join(made).join(settings, on="run")
    return whole.assign(last=whole["epoch"] == whole.groupby("run")["epoch"].transform("max"))


@pytest.fixture(scope="module")
def groups(answers) -> dict[str, dict[str, pd.DataFrame]]:
    """The last answers of what each table compares, by the names that it has there."""
    plan, last = json.loads(PLAN.read_text()), answers[answers["last"]]
    own = last[last["run"].isin(plan["runs"])]
    found = {"comparisons": {f"{100 * ratio:g} %": part for ratio, part in own.groupby("vision_trainable")}}
    for arm, variants in plan["arms"].items():
        found[f"arm_{arm}_comparisons"] = {name: last[last["run"].isin(runs)] for name, runs in variants.items()}
    return found


def table(name: str) -> pd.DataFrame:
    return pd.read_csv(TABLES / f"{name}.csv", dtype=str, index_col=0)


def test_every_answer_of_every_run_has_its_score(answers):
    for metric in METRICS:
        assert (answers[metric] - answers[f"{metric}_shipped"]).abs().max() < 1e-12, metric
    epochs = pd.read_parquet(PACKED / "epochs.parquet").set_index(["run", "epoch"])[METRICS]
    means = answers.groupby(["run", "epoch"])[METRICS].mean()
    assert set(means.index.get_level_values("run")) == set(epochs.index.get_level_values("run"))
    pd.testing.assert_frame_equal(means, epochs.loc[means.index], rtol=0, atol=1e-12)


def test_the_shipped_scores_are_the_means_of_seeds(groups):
    shipped = pd.read_csv(TABLES / "scores.csv").set_index(["vision_trainable", "epoch", "metric"])["estimate"]
    shown = table("summary")
    for name, part in groups["comparisons"].items():
        means = part.groupby("seed")[METRICS].mean().mean()
        [place] = {*part[["vision_trainable", "epoch"]].itertuples(index=False, name=None)}
        for metric in METRICS:
            assert shipped[(*place, metric)] == pytest.approx(means[metric], rel=1e-12), (name, metric)
        for column, metric in {"ANLS (%)": "anls", "exact match (%)": "exact_match"}.items():
            assert shown.loc[name, column].split(" [")[0] == f"{100 * means[metric]:.1f}", (name, column)


@pytest.mark.parametrize("name", COMPARED)
def test_differences_intervals_and_p_values_are_those_of_the_answers(groups, name):
    shipped, named = table(name), groups[name]
    found = []
    for comparison in shipped.index:
        second, first = (named[group] for group in comparison.split(" − "))
        seeds = {*first["seed"]} & {*second["seed"]}
        found.append(difference(*(side[side["seed"].isin(seeds)] for side in (first, second))))
        assert str(len(seeds)) == shipped.loc[comparison, "seeds"], comparison
    made = {
        "difference": [one.interval() for one in found],
        "p (Holm)": [p_text(p) for p in holm([one.p for one in found])],
        "smallest shown": [one.smallest_shown() for one in found],
    }
    if name == "comparisons":
        made["standard error, documents"] = [f"{100 * math.sqrt(one.variances[0]):.2f}" for one in found]
        made["standard error, seeds"] = [f"{100 * math.sqrt(one.variances[1]):.2f}" for one in found]
    for start, values in made.items():
        column = next(column for column in shipped if column.startswith(start))
        assert shipped[column].tolist() == values, column


def test_exact_match_of_two_ratios_differs_by_mcnemars_test(groups):
    shipped, named = pd.read_csv(TABLES / "exact_match_pairs.csv", dtype=str), groups["comparisons"]
    rows, p_values = [], []
    for pair, seed in zip(shipped["ratios"], shipped["seed"], strict=True):
        sides = (named[group].query(f"seed == {seed}").set_index("question_id") for group in pair.split(" and "))
        first, second = (side["exact_match"].sort_index() for side in sides)
        only = int((first > second).sum()), int((second > first).sum())
        rows.append([*map(str, only)])
        ways = sum(math.comb(sum(only), count) for count in range(min(only) + 1))
        p_values.append(min(1.0, 2 * ways / 2 ** sum(only)))
    assert shipped[["right at the lower only", "right at the higher only"]].to_numpy().tolist() == rows
    assert shipped["p (Holm)"].tolist() == [*map(p_text, holm(p_values))]


def test_what_is_compared_covers_the_headlines(groups):
    """Five differences at least, each of several seeds; the rest of a family is there for Holm's correction."""
    assert {*COMPARED} <= {*groups} and (TABLES / "comparisons.csv").is_file()
    assert sum((table(name)["seeds"].astype(int) > 1).sum() for name in COMPARED) >= 5
