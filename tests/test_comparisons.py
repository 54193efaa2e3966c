"""Paired differences: worked out by hand, and intervals that cover what they promise at the study's sizes."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from docfloqa.comparisons import difference_of_cells, paired_difference


def answers(scores: dict[tuple[int, str], list[float]]) -> pd.DataFrame:
    """Scores by seed and document as a frame of answered questions."""
    rows = [
        {"seed": seed, "document_id": document, "question_id": f"{document}-{place}", "anls": score}
        for (seed, document), values in scores.items()
        for place, score in enumerate(values)
    ]
    return pd.DataFrame(rows)


FIRST = answers({(0, "a"): [0.0, 0.0], (0, "b"): [0.0], (0, "c"): [0.0]})
SECOND = answers({(0, "a"): [1.0, 0.0], (0, "b"): [1.0], (0, "c"): [0.0]})


# Differences sum to 1, 1, 0 over documents of 2, 1, 1 questions, mean 1/2: residuals 0, 1/2, -1/2, over 4.
def test_documents_by_hand():
    found = paired_difference(FIRST, SECOND, "anls")
    assert found.estimate == 0.5 and found.over_seeds == 0 and found.seeds == 1 and found.documents == 3
    assert found.over_documents == pytest.approx(np.sqrt(3 / 2 * 2 * (0.5 / 4) ** 2))
    half = t.ppf(0.975, 2) * found.over_documents
    assert found.interval().high == pytest.approx(0.5 + half)
    assert found.smallest_detectable() == pytest.approx(
        (t.ppf(0.975, 2) + t.ppf(0.8, 2)) * found.over_documents
    )


def test_the_order_of_the_sides_turns_the_sign():
    forth, back = paired_difference(FIRST, SECOND, "anls"), paired_difference(SECOND, FIRST, "anls")
    assert forth.estimate == -back.estimate and forth.p_value() == back.p_value()


def test_no_difference_at_all_is_not_significant():
    same = paired_difference(FIRST, FIRST, "anls")
    assert same.p_value() == 1 and same.interval().low == same.interval().high == 0


@pytest.mark.parametrize(
    "second",
    [
        SECOND.iloc[:-1],
        SECOND.assign(seed=1),
        pd.concat([SECOND, SECOND.iloc[:1]]),
    ],
    ids=["a question is missing", "another seed", "a question twice"],
)
def test_sides_that_do_not_match_are_refused(second):
    with pytest.raises(ValueError, match="same questions of the same seeds"):
        paired_difference(FIRST, second, "anls")


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=2, max_size=8),
    st.floats(-0.5, 0.5),
)
def test_seeds_only_add_and_a_shift_of_all_moves_the_estimate_alone(sums, shift):
    sums, counts = np.array(sums), np.ones((len(sums), 3))
    found, moved = difference_of_cells(sums, counts), difference_of_cells(sums + shift, counts)
    assert found.standard_error >= found.over_documents
    assert moved.estimate == pytest.approx(found.estimate + shift)
    assert moved.standard_error == pytest.approx(found.standard_error, abs=1e-9)


def coverage(seeds: int, seed_spread: float, documents: int = 140, repetitions: int = 1500) -> float:
    """Share of 95 % intervals that hold the true difference, 0, in simulated studies of the embedded size.

    Answers are right or wrong, with 3 to 6 questions a document. How likely they are right varies between
    documents, between the two ratios on a document, and between the seeds of a ratio.
    """
    rng = np.random.default_rng(seeds)
    held = 0
    for _ in range(repetitions):
        counts = np.repeat(rng.integers(3, 7, size=(documents, 1)), seeds, axis=1)
        chance = 0.5 + rng.normal(0, 0.2, (documents, 1))
        first, second = (
            rng.binomial(
                counts,
                np.clip(
                    chance + rng.normal(0, 0.1, (documents, 1)) + rng.normal(0, seed_spread, (1, seeds)), 0, 1
                ),
            )
            for _ in range(2)
        )
        interval = difference_of_cells(second - first, counts).interval()
        held += interval.low <= 0 <= interval.high
    return held / repetitions


@pytest.mark.parametrize(
    ("seeds", "seed_spread", "found"), [(1, 0.0, 0.95), (3, 0.0, 0.96), (3, 0.01, 0.95), (3, 0.03, 0.90)]
)
def test_coverage_at_the_size_of_the_embedded_study(seeds, seed_spread, found):
    """The README gives these; 1,500 repetitions tell them to about a point."""
    assert coverage(seeds, seed_spread) == pytest.approx(found, abs=0.015)


def test_one_seed_does_not_cover_others():
    assert coverage(1, 0.03) < 0.9
