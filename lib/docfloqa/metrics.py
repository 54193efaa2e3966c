"""How well an answer agrees with the accepted ones: the official metrics, and the published study's own.

Like every function of a prediction here, they raise ValueError without an accepted answer.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from rapidfuzz.distance import Levenshtein

# On fewer, 95 % intervals hold the truth too seldom (83 % of the time on 5), so that none is given.
FEWEST_DOCUMENTS = 10
Metric = Callable[[str, Sequence[str]], float]

ANLS_THRESHOLD = 0.5
PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one question: 0, or between 0.5 and 1.

    1 - distance / length for the best answer; what is below 0.5 counts 0, exactly 0.5 counts. Distances
    are between lower-cased texts with white space folded, lengths are of the raw texts in upper case. A
    raw length of 0 on both sides gives 1. All of this is what the DocVQA challenge's evaluation script does
    (rrc.cvc.uab.es, as published with its task InfographicVQA); the metric is Biten et al.'s of 2019.
    """
    distances = []
    for answer in _checked(answers):
        distance = Levenshtein.distance(_folded(prediction), _folded(answer))
        # Upper case, because it can be longer than the text itself ("ß"): the script's totals depend on it.
        length = max(len(prediction.upper()), len(answer.upper()))
        distances.append(distance / length if length else 0.0)
    similarity = 1.0 - min(distances)
    return similarity if similarity >= ANLS_THRESHOLD else 0.0


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction equals an accepted answer after SQuAD v1.1's normalisation, else 0.

    Two texts of which nothing is left are equal.
    """
    return float(_normalised(prediction) in map(_normalised, _checked(answers)))


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the words shared with the best accepted answer, between 0 and 1, after SQuAD v1.1's normalisation.

    0 without a shared word, so also where nothing is left of either text (there exact match is 1).
    """
    predicted, best = _normalised(prediction).split(), 0.0
    for answer in _checked(answers):
        accepted = _normalised(answer).split()
        if shared := (Counter(predicted) & Counter(accepted)).total():
            precision, recall = shared / len(predicted), shared / len(accepted)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def contains(prediction: str, answers: Sequence[str]) -> float:
    """This study's accuracy: 1 if an accepted answer that is not blank stands somewhere in the prediction, else 0.

    Both lower-cased, stripped, white space folded; any run of characters counts: "12" is contained in "3124".
    """
    text = _folded(prediction)
    return float(any(answer != "" and answer in text for answer in map(_folded, _checked(answers))))


# What the published study's `finetune.py` computes, with the first answer alone, whose white space inside is kept.


def similarity_first(prediction: str, answers: Sequence[str]) -> float:
    """What the published study calls ANLS: similarity with the first answer, between 0 and 1, no threshold.

    1 - distance / length of the longer text, both lower-cased and stripped; two empty texts give 1. Source:
    `compute_levenshtein_similarity`, without its rounding to four digits.
    """
    return Levenshtein.normalized_similarity(prediction.strip().lower(), _checked(answers)[0].strip().lower())


def contains_first(prediction: str, answers: Sequence[str]) -> float:
    """What the published study calls accuracy: 1 if the first answer stands in the prediction, else 0.

    Both are lower-cased and stripped. Unlike in `contains`, an empty answer counts. Source: `visualize_and_log`.
    """
    return float(_checked(answers)[0].strip().lower() in prediction.strip().lower())


METRICS: dict[str, Metric] = {
    "anls": anls,
    "exact_match": exact_match,
    "f1": f1,
    "accuracy": contains,
    "similarity_first": similarity_first,
    "contains_first": contains_first,
    "exact_match_first": lambda prediction, answers: exact_match(prediction, _checked(answers)[:1]),
    "f1_first": lambda prediction, answers: f1(prediction, _checked(answers)[:1]),
}


def score(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of `frame` with a float column for every metric, computed (anew) from its `prediction` and `answers`."""
    rows = list(zip(frame["prediction"], frame["answers"], strict=True))
    values = {name: np.array([metric(*row) for row in rows], float) for name, metric in METRICS.items()}
    return frame.assign(**values)


def _checked(answers: Sequence[str]) -> Sequence[str]:
    # One string is a sequence of strings too, and would be scored letter by letter without a word.
    if isinstance(answers, str):
        raise ValueError(f"answers must be a list of strings, not the string {answers!r}")
    if len(answers) == 0:
        raise ValueError("answers is empty: a question needs at least one accepted answer")
    return answers


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


def _normalised(text: str) -> str:
    # The order matters: "a.m." is a word when its full stops go first, an article and "m" otherwise.
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())
