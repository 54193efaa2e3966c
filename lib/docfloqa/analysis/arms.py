"""What is told of arms beside scores: learning rates that were tried, the grid's cells, answers that are new."""

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from docfloqa.analysis.contrasts import (
    ENDPOINTS,
    HEADLINE,
    VARIANT,
    arm_contrasts,
    compare,
    holm_p_values,
    lacking,
    of_arm,
)
from docfloqa.analysis.intervals import NONE, interval, interval_table, text_table, unbroken
from docfloqa.analysis.paired import SIGNIFICANT, paired_difference
from docfloqa.arms import ARMS, ENDS, STRENGTHS, WHOLE, cell, is_drawn, shift_of
from docfloqa.data.synth.vocabulary import has_new_word
from docfloqa.files import runs_folder
from docfloqa.runs.rates import at_the_edge, best_rate, mean_scores
from docfloqa.runs.results import Study, once_for_study
from docfloqa.runs.run import read_record
from docfloqa.runs.tables import EPOCHS, TEST_ANSWERS, read_tables
from docfloqa.text import NO_BREAK

SEEN, NEW = "seen", "never seen"
KINDS = {SEEN: False, NEW: True}
TUNED = BEST, RISE = ("best rate", "loss at the end above its least")
# What the contrasts of the arm `grid` say, in short.
GAINS = {WHOLE: "all − none", ENDS: "input side − output side"}


def trial_scores(study: Study, arm: str) -> dict[str, dict[float, float]]:
    """Validation ANLS of the best epoch, in [0, 1], by learning rate, of each variant that is tuned.

    It is the mean over the documents that a rate was tried on; minus infinity of a trial without a result.
    """
    folders = [runs_folder(study.name) / run for runs in study.trials.get(arm, {}).values() for run in runs]
    epochs, found = read_tables(folders, EPOCHS) if folders else {}, {}
    for variant, runs in study.trials.get(arm, {}).items():
        records = {run: read_record(runs_folder(study.name) / run) for run in runs}
        found[variant] = mean_scores(
            (
                record["settings"]["learning_rate"],
                epochs[run].set_index("epoch")["anls"][record["best_epoch"]] if run in epochs else -math.inf,
            )
            for run, record in records.items()
            if record
        )
    return found


def rates_tried(study: Study, arm: str) -> pd.DataFrame:
    """Validation ANLS in percent by learning rate, of each variant that is tuned, as text, after its `BEST` rate.

    A star at that: none beyond it was tried. May be empty.
    """
    tried = {variant: scores for variant, scores in trial_scores(study, arm).items() if scores}
    columns = {rate: f"at {rate:g}" for rate in sorted({rate for scores in tried.values() for rate in scores})}
    frame = pd.DataFrame.from_dict(tried, orient="index", columns=[*columns]).map(_score).rename(columns=columns)
    frame.insert(0, BEST, [f"{best_rate(one):g}{f'{NO_BREAK}*' * at_the_edge(one)}" for one in tried.values()])
    return frame.rename_axis(VARIANT)


def at_one_rate(study: Study, arm: str) -> pd.DataFrame:
    """What an arm compares, at every learning rate that both variants were tried at: exact match · ANLS, in points.

    Of the first seed's test answers, with intervals over documents; it says whether a difference is one of rates. Empty
    where nothing is tested, and where a rate was tried on several kinds of documents.
    """
    if not study.tested or arm not in study.trials:
        return pd.DataFrame()
    at: dict[str, dict[float, pd.DataFrame]] = {}
    for variant, runs in filter(all, study.trials[arm].items()):
        answers = read_tables([runs_folder(study.name) / run for run in runs], TEST_ANSWERS)
        rates = {run: read_record(runs_folder(study.name) / run)["settings"]["learning_rate"] for run in answers}
        if len({*rates.values()}) == len(rates):
            at[variant] = {rates[run]: table.assign(seed=0) for run, table in answers.items()}
    rows: dict[str, dict[str, str]] = {}
    for each in ARMS[arm](study.settings).contrasts:
        first, second = (at.get(variant, {}) for variant in (each.first, each.second))
        for rate in sorted(first.keys() & second.keys()):
            found = (paired_difference(first[rate], second[rate], metric).interval() for metric in ENDPOINTS)
            rows.setdefault(f"{each.second} − {each.first}", {})[rate] = " · ".join(map(unbroken, found))
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame[sorted(frame)].rename(columns="at {:g}".format).fillna(NONE).rename_axis("points, one seed")


def loss_rise(epochs: pd.DataFrame) -> float:
    """By what share the validation loss after the last epoch is above the lowest after an epoch, the mean over runs."""
    losses = epochs[epochs["epoch"] > 0].sort_values("epoch").groupby("run")["val_loss"]
    return float((losses.last() / losses.min() - 1).mean())


def _score(score: float) -> str:
    return NONE if math.isnan(score) else f"{100 * score:.1f}" if math.isfinite(score) else "failed"


@once_for_study
def grid_cells(study: Study) -> pd.DataFrame:
    """Tidy: pixels, content (strengths in [0, 1]), gain (of `GAINS`), estimate, low, high (ANLS), p (Holm, all)."""
    found = [] if lacking(study, "grid") else arm_contrasts(study, "grid")
    strengths = {cell(*pair): pair for pair in product(STRENGTHS, STRENGTHS)}
    rows = [
        (*strengths[shift_of(one.first)], GAINS[one.says], *vars(one.difference.interval()).values(), p_value)
        for one, p_value in zip(found, holm_p_values(found), strict=True)
        if one.difference and shift_of(one.first) in strengths
    ]
    return pd.DataFrame(rows, columns=["pixels", "content", "gain", "estimate", "low", "high", "p"])


def grid_table(study: Study) -> pd.DataFrame:
    """The cells of the grid as text, in points, by how much is new; a star: p below 0.05 (Holm); may be empty."""
    cells = grid_cells(study)
    stars = [f"{NO_BREAK}*" if p < SIGNIFICANT else "" for p in cells["p"]]
    texts = [unbroken(interval(row)) + star for row, star in zip(cells.itertuples(), stars, strict=True)]
    by = ["pixels", "content"]
    frame = cells.assign(text=texts).pivot(index=by, columns="gain", values="text").rename_axis(columns=None)
    return frame[[gain for gain in GAINS.values() if gain in frame]].rename(index=lambda strength: f"{strength:g}")


def _with_words(study: Study, arm: str) -> pd.DataFrame | None:
    """What is compared in an arm, with whether the answer is a new word; None where not both kinds are there."""
    if lacking(study, arm) or not is_drawn(study.settings):
        return None
    answers = study.arm(arm).compared
    is_new = {answer: has_new_word(answer) for answer in answers["answers"].str[0].unique()}
    answers = answers.assign(unseen=answers["answers"].str[0].map(is_new).astype("boolean"))
    return answers if answers["unseen"].nunique() == 2 else None


def word_scores(study: Study, arm: str) -> pd.DataFrame:
    """ANLS of an arm's variants on made-up words, apart for those that training has and never has; may be empty."""
    if (answers := _with_words(study, arm)) is None:
        return pd.DataFrame()
    answers = answers.dropna(subset="unseen")
    answers["words"] = np.where(answers["unseen"], NEW, SEEN)
    table = text_table(interval_table(answers, [VARIANT, "words"], ["anls"]), VARIANT, "words", "ANLS (%)")
    return table.reindex([one for one in study.arms[arm] if one in table.index], columns=[SEEN, NEW])


def new_words(study: Study, arm: str) -> pd.DataFrame:
    """What an arm compares, apart for made-up words that training has and never has, as text, in points.

    The last column is by how much the difference is larger on words that it never has, of means linearised as in
    `robustness.area_under_curve`.
    """
    if (answers := _with_words(study, arm)) is None:
        return pd.DataFrame()
    columns = {name: (answers["unseen"] == is_new).fillna(False).astype(float) for name, is_new in KINDS.items()}
    for name, inside in columns.items():
        part = inside * answers["anls"]
        by = [answers[VARIANT], answers["seed"]]
        mean = part.groupby(by).transform("sum") / inside.groupby(by).transform("sum")
        share = inside.groupby(by).transform("mean")
        answers[name] = mean + inside * (answers["anls"] - mean) / share
    answers[f"{NEW} − {SEEN}"] = answers[NEW] - answers[SEEN]
    names = [*columns, f"{NEW} − {SEEN}"]
    rows = {}
    for each in ARMS[arm](study.settings).contrasts:
        found = {name: compare(answers, VARIANT, each.first, each.second, name, family=name) for name in names}
        if all(one.difference for one in found.values()):
            texts = {name: unbroken(one.difference.interval()) for name, one in found.items()}
            rows[f"{each.second} − {each.first}"] = texts
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ANLS, points, answers with words")


def checkpoints(studies: Sequence[Study]) -> pd.DataFrame:
    """The claims with different starting weights side by side, as text, and whether signs agree; nothing is pooled."""
    made_of = {study.name: of_arm(study, HEADLINE) for study in studies if not lacking(study, HEADLINE)}
    if len(made_of) < 2:
        return pd.DataFrame()
    columns = {}
    for study in studies:
        if study.name in made_of:
            columns[f"{Path(study.settings.model).name} ({study.name})"] = {
                one.name: one.difference for one in made_of[study.name] if one.difference
            }
    frame = pd.DataFrame(columns).dropna()
    signs = frame.map(lambda one: one.estimate > 0)
    frame = frame.map(lambda one: unbroken(one.interval()))
    frame["sign"] = ["agrees" if row.nunique() == 1 else "differs" for _, row in signs.iterrows()]
    return frame.rename_axis("points")
