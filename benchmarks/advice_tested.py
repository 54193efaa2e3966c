"""Does the advice before training predict what training gains? Judged on the grid of shifts of a study.

    .venv/bin/python benchmarks/advice_tested.py [STUDY]

takes for every cell of the arm `grid` what `docfloqa advise` measures before training, on the first seed's training
documents, and sets what it predicts beside what training gained on the study's test documents ("shipped" where
no study is named). Writes `reports/benchmarks/advice_tested.json` and `.md`; some ten minutes on one core.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from docfloqa.analysis.advice import ALL, ENCODER, INPUT_SIDE, NONE, predicted_gain, recommend
from docfloqa.analysis.contrasts import VARIANT
from docfloqa.analysis.intervals import ENDS, RESAMPLES, Interval
from docfloqa.arms import STRENGTHS, cell
from docfloqa.files import PROJECT, write_whole
from docfloqa.model.device import use_device
from docfloqa.parameters import mixture_text
from docfloqa.runs.results import Study
from docfloqa.runs.run import git_commit, now
from docfloqa.settings import Settings
from docfloqa.text import to_markdown
from docfloqa.training.gradients import LATER, measure

FOLDER = PROJECT / "reports" / "benchmarks"
FEWEST_SETTINGS = 5  # of an interval
ADVISED, AUTO_RGN = "advised", "Auto-RGN"
# The sets of parts that the arm `grid` trains, by what it calls them.
SETS = {"none": NONE, "input side": INPUT_SIDE, "output side": ENCODER[-1], "all": ALL, AUTO_RGN: AUTO_RGN}
METRICS = {"anls": "ANLS", "exact_match": "exact match"}


def rank_correlation(frame: pd.DataFrame) -> Interval:
    """Spearman's rank correlation of `predicted` with `measured` gains, with a 95 % bootstrap interval over settings.

    `frame` has a row for every `setting` and set of parts; a setting is drawn with all of its rows. The ends are NaN
    below `FEWEST_SETTINGS`, and too narrow below about 20; draws in which one side does not vary are left out.
    """
    pairs = [part[["predicted", "measured"]].to_numpy(float) for _, part in frame.groupby("setting")]

    def correlation(drawn: np.ndarray) -> float:
        ranked = pd.DataFrame(np.concatenate([pairs[index] for index in drawn])).corr("spearman")
        return float(ranked.iat[0, 1])

    return _over_settings(len(pairs), correlation)


def regret(measured: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """How much less than the best of its setting each choice gained: columns `setting`, `policy`, `regret` (0 or more).

    `measured` has `setting`, `parts` and `gain` (of none: 0), `chosen` `setting`, `policy` and `parts`, which may be
    any name that `measured` has, as that of Auto-RGN. The policies "always all" and "always none" are added. Raises
    ValueError for a choice that was not measured.
    """
    settings = chosen["setting"].unique()
    always = [pd.DataFrame({"setting": settings, "policy": f"always {parts}", "parts": parts}) for parts in (ALL, NONE)]
    made = pd.concat([chosen, *always], ignore_index=True).merge(measured, "left", ["setting", "parts"])
    if missing := made.loc[made["gain"].isna(), ["setting", "parts"]].drop_duplicates().to_numpy().tolist():
        raise ValueError(f"the gain of {missing[0][1]!r} was not measured in setting {missing[0][0]!r}")
    best = measured.groupby("setting")["gain"].max()
    return made.assign(regret=made["setting"].map(best) - made["gain"])[["setting", "policy", "regret"]]


def mean_regrets(regrets: pd.DataFrame, policy: str) -> pd.DataFrame:
    """Mean regret of every policy, and of this `policy` − each other's, with 95 % bootstrap intervals over settings.

    Columns `policy`, `regret` and `difference` (an `Interval` each; that of the policy itself is 0). `regrets` are
    those of `regret`; settings are drawn for all policies together, so differences are paired.
    """
    by_policy = regrets.pivot(index="setting", columns="policy", values="regret")
    rows = []
    for name in by_policy:
        sides = by_policy[name].to_numpy(), (by_policy[policy] - by_policy[name]).to_numpy()
        means = [_over_settings(len(side), lambda drawn, side=side: float(side[drawn].mean())) for side in sides]
        rows.append([name, *means])
    return pd.DataFrame(rows, columns=["policy", "regret", "difference"])


def _over_settings(count: int, statistic: Callable[[np.ndarray], float]) -> Interval:
    """A statistic of the settings by number, with the percentile interval of those drawn with replacement."""
    estimate = statistic(np.arange(count))
    if count < FEWEST_SETTINGS:
        return Interval(estimate, np.nan, np.nan)
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    return Interval(estimate, *map(float, np.nanquantile([statistic(row) for row in drawn], ENDS)))


def shift_in(pixels: float, content: float) -> str:
    """Which shift there is more of in a cell of the grid."""
    return "both alike" if pixels == content else "pixels" if pixels > content else "content"


def predictions(settings: Settings) -> pd.DataFrame:
    """For every cell and set of parts what is predicted before training: setting, shift, parts, predicted, advised."""
    rows = []
    for strengths in tqdm([*product(STRENGTHS, STRENGTHS)], "cells of the grid", unit="cell", disable=None):
        shift = mixture_text(dict(zip(("input", "content"), strengths, strict=True)))
        measured, _ = measure(settings.replace(synth_shift=shift))
        later = measured[measured["when"] == LATER]
        about = {"setting": cell(*strengths), "shift": shift_in(*strengths), "advised": recommend(later)}
        gains = {parts: predicted_gain(later, parts) for parts in SETS.values() if parts != AUTO_RGN}
        rows += [about | {"parts": parts, "predicted": gain} for parts, gain in gains.items()]
    return pd.DataFrame(rows)


def measured_gains(answers: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What training each set of parts gained over none in every cell, in points: columns setting, parts, gain."""
    scores = 100 * answers.groupby([VARIANT, "seed"])[metric].mean().groupby(VARIANT).mean()
    frame = scores.rename("score").reset_index()
    frame[["setting", "parts"]] = frame.pop(VARIANT).str.split(": ", expand=True)
    frame["parts"] = frame["parts"].map(SETS)
    none = frame[frame["parts"] == NONE].set_index("setting")["score"]
    return frame.assign(gain=frame["score"] - frame["setting"].map(none))[["setting", "parts", "gain"]]


def judged(predicted: pd.DataFrame, gains: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The tables that say how well the advice predicted: of all cells, and leaving one shift out at a time."""
    pairs = predicted.merge(gains.rename(columns={"gain": "measured"}), on=["setting", "parts"])
    cells = predicted.drop_duplicates("setting")[["setting", "shift", "advised"]]
    names = {policy: cells[["setting"]].assign(policy=policy) for policy in (ADVISED, AUTO_RGN)}
    chosen = [names[ADVISED].assign(parts=cells["advised"]), names[AUTO_RGN].assign(parts=AUTO_RGN)]
    regrets = regret(gains, pd.concat(chosen)).merge(cells[["setting", "shift"]], on="setting")
    correlations, losses = [], []
    for without in ["", *cells["shift"].drop_duplicates()]:
        of_sets = pairs[(pairs["shift"] != without) & (pairs["parts"] != NONE)]
        found = rank_correlation(of_sets[of_sets["parts"] == ALL]), rank_correlation(of_sets)
        correlations.append([without, *found])
        losses.append(mean_regrets(regrets[regrets["shift"] != without], ADVISED).assign(without=without))
    questions = ["which cell gains by training all", "which set of parts gains where"]
    shown = cells.merge(gains.pivot(index="setting", columns="parts", values="gain").reset_index(), on="setting")
    return {
        "rank correlations": pd.DataFrame(correlations, columns=["without", *questions]),
        "regrets": pd.concat(losses).set_index("without").reset_index(),
        "gains": shown,
    }


def main(name: str = "shipped") -> None:
    """Measure the statistics, judge them, and write what came out."""
    use_device(threads=1)
    study = Study.load(name)
    grid = study.arm("grid")
    predicted = predictions(study.settings)
    about = {"command": f"python benchmarks/advice_tested.py {name}", "date": now()[:10], "commit": git_commit()}
    page = [
        "# Does the advice before training predict what training gains?",
        f"`{about['command']}`, {about['date']}, commit {about['commit']}. Gains are points over training none, on "
        "test documents, the mean over seeds. A regret is by how many points a choice gains less than its cell's best.",
    ]
    data: dict = about | {"predicted": predicted.to_dict("records")}
    for metric, called in METRICS.items():
        tables = judged(predicted, measured_gains(grid.compared, metric))
        data[metric] = {which: json.loads(table.to_json(orient="records")) for which, table in tables.items()}
        for which, table in tables.items():
            texts = table.map(lambda one: one.format(digits=2) if isinstance(one, Interval) else one)
            page += [f"## {called}: {which}", to_markdown(texts.set_index(texts.columns[0]).round(1)).strip()]
    write_whole(FOLDER / "advice_tested.json", json.dumps(data, indent=1) + "\n")
    write_whole(FOLDER / "advice_tested.md", "\n\n".join(page) + "\n")
    print("\n\n".join(page))


if __name__ == "__main__":
    main(*sys.argv[1:])
