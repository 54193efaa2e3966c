"""Which ratios get a question right: questions counted by the set of ratios that do, against chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from docfloqa.analysis.intervals import Interval, bootstrap_interval, p_text
from docfloqa.analysis.paired import holm
from docfloqa.analysis.tables import RATIO, last_epoch, percent
from docfloqa.runs.results import Study, once_for_study

RELABELLINGS = 2000


@once_for_study
def right_sets(study: Study) -> pd.DataFrame:
    """A row for every set of ratios that some question is answered right by, and by no other ratio.

    Columns: ratios (a tuple, from the lowest), estimate, low, high (how many questions; 95 % bootstrap
    interval over documents), chance, chance_low, chance_high (how many would be expected if seeds alone
    differed, and the middle 95 % of what that gives), p (two-sided, with Holm's correction for all rows),
    questions (their ids). The most frequent set comes first.

    A ratio is right if more than half of its seeds are (exact match after the last epoch). If the ratio made
    no difference, the runs of a document could change their labels: chance is the mean of `RELABELLINGS`
    such changes, of each document's runs among themselves, with its questions kept together. It holds given
    how many runs get each question right; a seed that does better on all documents is not part of it.
    Raises ValueError for runs that answered different questions.
    Sources: Cochran, Biometrika 37, 1950, for the condition; Phipson & Smyth, Statistical Applications in
    Genetics and Molecular Biology 9, 2010, for p.
    """
    answers = last_epoch(study.predictions)
    table = answers.pivot(index=["document_id", "question_id"], columns=[RATIO, "seed"], values="exact_match")
    if table.isna().any(axis=None):
        raise ValueError(f"the runs of study {study.name!r} answered different questions")
    right, documents = table.to_numpy() > 0, table.index.get_level_values("document_id")
    ratios, starts, seeds = np.unique(
        table.columns.get_level_values(RATIO), return_index=True, return_counts=True
    )
    observed = _sets(right, starts, seeds)
    document_of = pd.factorize(documents)[0]
    rng, size = np.random.default_rng(0), (document_of.max() + 1, right.shape[1])
    relabelled = np.empty((RELABELLINGS, 2 ** len(ratios)))
    for place in range(RELABELLINGS):
        order = rng.random(size).argsort(axis=1)[document_of]
        changed = _sets(np.take_along_axis(right, order, axis=1), starts, seeds)
        relabelled[place] = np.bincount(changed, minlength=2 ** len(ratios))
    rows = []
    for number in np.unique(observed):
        has, by_chance = observed == number, relabelled[:, number]
        interval = bootstrap_interval(has, documents)
        further = np.abs(by_chance - by_chance.mean()) >= abs(has.sum() - by_chance.mean()) - 1e-9
        low, high = np.quantile(by_chance, [0.025, 0.975])
        rows.append(
            {
                "ratios": tuple(ratio for bit, ratio in enumerate(ratios.tolist()) if number >> bit & 1),
                **{name: len(table) * end for name, end in vars(interval).items()},
                "chance": by_chance.mean(),
                "chance_low": low,
                "chance_high": high,
                "p": (1 + further.sum()) / (1 + RELABELLINGS),
                "questions": sorted(table.index.get_level_values("question_id")[has]),
            }
        )
    frame = pd.DataFrame(rows).assign(p=lambda sets: holm(sets["p"]))
    return frame.sort_values("estimate", ascending=False, kind="stable", ignore_index=True)


def only_right_at(study: Study, examples: int = 3) -> pd.DataFrame:
    """`right_sets` as text, indexed by the set, with up to `examples` question ids evenly spaced through each."""
    rows = {}
    for row in right_sets(study).itertuples():
        places = np.linspace(0, len(row.questions) - 1, min(examples, len(row.questions))).round().astype(int)
        rows[set_name(row.ratios, study)] = {
            "questions": Interval(row.estimate, row.low, row.high).format(1, 0),
            "by chance [middle 95 %]": Interval(row.chance, row.chance_low, row.chance_high).format(1, 0),
            "p (Holm)": p_text(row.p),
            "for example": ", ".join(row.questions[place] for place in places),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("right at")


def set_name(ratios: tuple[float, ...], study: Study) -> str:
    """A set of the study's ratios in words: "no ratio", "every ratio", "only 66 %", "only 0 % and 33 %"."""
    if not ratios:
        return "no ratio"
    if len(ratios) == study.runs[RATIO].nunique():
        return "every ratio"
    return f"only {' and '.join(map(percent, ratios))}"


def _sets(right: NDArray[np.bool_], starts: NDArray, seeds: NDArray) -> NDArray[np.int64]:
    """For every question the set of ratios as a number, with a bit for each; columns are runs, sorted by ratio."""
    majority = 2 * np.add.reduceat(right.astype(int), starts, axis=1) > seeds
    return majority @ (1 << np.arange(len(starts)))
