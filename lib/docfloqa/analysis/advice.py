"""What to thaw, from gradients before training: the rule, what it predicts, and how well it predicted.

A setting is some documents with a model. Parts are named as the setting `parts` has them, several with blanks between:
"none", "stem stage1", "all".
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from docfloqa.analysis.intervals import ENDS, RESAMPLES, Interval, percent

ENCODER = ["stem", "stage1", "stage2", "stage3", "stage4"]
NONE, INPUT_SIDE, ALL = "none", "stem stage1", "all"
# Both set on development data: the shifts input, layout and content of the drawn pages (seed 101) with the tiny model,
# where the first figure was 1.02, 0.70 and 0.09, the second 2.9, 0.9 and 0.4 (all − none: 12.7, 3.7, −1.8 points).
LITTLE = 0.25  # squared gradient norm of the vision encoder over that of the language model; below it, thaw nothing
STEEP = 2.0  # squared gradient norm of the stem over that of stage 4; from it on, thaw the input side alone
KNOWN = "The rule was set on three shifts of drawn pages; whether it predicts elsewhere is not known."
FEWEST_SETTINGS = 5  # of an interval
WORDS = {
    NONE: "leave the vision encoder frozen",
    INPUT_SIDE: "thaw the stem and stage 1",
    ALL: "thaw the whole vision encoder",
}


def encoder_over_language(statistics: pd.DataFrame) -> float:
    """The squared gradient norm of the vision encoder over that of the language model."""
    squares = statistics.set_index("part")["squared_norm"]
    return float(squares[ENCODER].sum() / squares["language model"])


def stem_over_last(statistics: pd.DataFrame) -> float:
    """The squared gradient norm of the stem over that of stage 4."""
    squares = statistics.set_index("part")["squared_norm"]
    return float(squares["stem"] / squares["stage4"])


def recommend(statistics: pd.DataFrame) -> str:
    """The parts to thaw: `NONE`, `INPUT_SIDE` or `ALL`, by `LITTLE` and `STEEP`."""
    if encoder_over_language(statistics) < LITTLE:
        return NONE
    return INPUT_SIDE if stem_over_last(statistics) >= STEEP else ALL


def predicted_gain(statistics: pd.DataFrame, parts: str) -> float:
    """A score that should order what thawing these parts gains over thawing none, between sets and between settings.

    How far `encoder_over_language` lies above `LITTLE`, times the parts' share of the encoder's squared gradient norm;
    0 for none, below 0 where thawing should harm. It has no unit: no points of ANLS.
    """
    squares = statistics.set_index("part")["squared_norm"][ENCODER]
    some = {NONE: [], ALL: ENCODER}.get(parts, parts.split())
    # No -0.0 of none.
    return (encoder_over_language(statistics) - LITTLE) * float(squares[some].sum() / squares.sum()) + 0.0


def predicted_gains(statistics: pd.DataFrame) -> dict[str, float]:
    """`predicted_gain` of nothing, each part, the input side and everything."""
    return {parts: predicted_gain(statistics, parts) for parts in [NONE, *ENCODER, INPUT_SIDE, ALL]}


def sentence(statistics: pd.DataFrame, costs: pd.DataFrame) -> str:
    """What to thaw, with the evidence and what it costs, in one sentence; `costs` are those of `thawing_costs`."""
    parts, of_sets = recommend(statistics), costs.set_index("parts")
    seconds, share = of_sets["seconds"].map("{:.2g} s".format), percent(of_sets["encoder_share"][parts])
    little = f"the encoder's squared gradient norm is {encoder_over_language(statistics):.2f} of the language model's"
    step = f"and a step takes {seconds[parts]} in place of"
    if parts == NONE:
        return f"{WORDS[parts]}: {little} (below {LITTLE:g}), {step} {seconds[ALL]} with all of it."
    steep = f"the stem's is {stem_over_last(statistics):.1f} of stage 4's"
    why = f"{little} (at least {LITTLE:g}), {steep} ({'at least' if parts == INPUT_SIDE else 'below'} {STEEP:g})"
    return f"{WORDS[parts]} ({share} of the encoder's parameters): {why}, {step} {seconds[NONE]} with none of it."


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


def leaving_out(frame: pd.DataFrame, by: str, statistic: Callable[[pd.DataFrame], Interval]) -> pd.DataFrame:
    """A statistic of the rows without each value of the column `by`, as a shift: columns `by`, estimate, low, high."""
    return pd.DataFrame(
        [{by: value, **vars(statistic(frame[frame[by] != value]))} for value in frame[by].drop_duplicates()]
    )


def _over_settings(count: int, statistic: Callable[[np.ndarray], float]) -> Interval:
    """A statistic of the settings by number, with the percentile interval of those drawn with replacement."""
    estimate = statistic(np.arange(count))
    if count < FEWEST_SETTINGS:
        return Interval(estimate, np.nan, np.nan)
    drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    return Interval(estimate, *map(float, np.nanquantile([statistic(row) for row in drawn], ENDS)))
