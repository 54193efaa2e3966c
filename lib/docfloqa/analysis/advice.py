"""What to thaw, from gradients after a short training of the language model alone: the rule, and what it predicts.

A setting is some documents with a model. Parts are named as the setting `parts` has them, several with blanks between:
"none", "stem stage1 stage2", "all".
"""

import pandas as pd

from docfloqa.analysis.intervals import percent

ENCODER = ["stem", "stage1", "stage2", "stage3", "stage4"]
NONE, INPUT_SIDE, ALL = "none", "stem stage1 stage2", "all"
# Both set on development data: the shifts input, layout and content of the drawn pages (seed 101) with the tiny model.
# After the short training of the language model the first figure was 0.52, 0.69 and 0.22, the second 2.3, 0.8 and 0.4.
# At the starting weights the first was 0.23, 0.32 and 0.06: who does not know the task tells less of the pages.
LITTLE = 0.25  # squared gradient norm of the vision encoder over that of the language model; below it, thaw nothing
STEEP = 2.0  # squared gradient norm of the stem over that of stage 4; from it on, thaw the input side alone
KNOWN = "The rule was set on three shifts of drawn pages; whether it predicts elsewhere is not known."
WORDS = {
    NONE: "leave the vision encoder frozen",
    INPUT_SIDE: "thaw the stem and stages 1 and 2",
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
