"""The table of published differences that a report shows is what the published figures say."""

import math
import re
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from docfloqa.analysis import tables
from docfloqa.files import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
from published_differences import mcnemar_bounds, published_differences


@pytest.fixture(scope="module")
def frame():
    return published_differences()


def test_the_committed_table_is_the_one_that_is_computed(frame):
    committed = tables.published("published_differences")
    pd.testing.assert_frame_equal(committed, frame)
    assert committed.attrs == frame.attrs


@given(st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_mcnemar_bounds_are_those_of_every_way_to_be_right(questions, data):
    first, second = (data.draw(st.integers(0, questions)) for _ in range(2))
    both = range(max(0, first + second - questions), min(first, second) + 1)
    p_values = [
        binomtest(first - shared, first + second - 2 * shared).pvalue if first + second > 2 * shared else 1
        for shared in both
    ]
    assert mcnemar_bounds(first, second, questions) == pytest.approx((min(p_values), max(p_values)))


def test_the_published_ratios_cannot_be_told_apart_unpaired_and_the_best_not_even_paired(frame):
    assert frame.index.tolist() == [
        f"{high} % − {low} %" for low, high in ((0, 33), (0, 66), (0, 100), (33, 66), (33, 100), (66, 100))
    ]
    for measure, differences in (
        ("accuracy", ["3.7", "5.5", "4.6", "1.8", "0.9", "-0.9"]),
        ("exact match", ["4.3", "5.7", "5.1", "1.4", "0.8", "-0.6"]),
    ):
        cells = frame[measure]
        assert [cell.split(" ")[0] for cell in cells["difference [95 %, unpaired]"]] == differences
        assert (cells["p (Holm, unpaired)"].astype(float) > 0.4).all()
        least = [cell.split(" to ")[0] for cell in cells["p if paired, one pair"]]
        assert least[:3] == ["< 0.001"] * 3 and float(least[-1]) > 0.05
    # 255 or 256 of 500 against 251: at best 5 questions that one ratio alone has right.
    assert frame.loc["100 % − 66 %", ("accuracy", "p if paired, one pair")].startswith(f"{2 / 2**5:.3f} to")


def test_the_published_interval_is_that_of_miettinen_and_nurminen(frame):
    """At the ends of the interval the score statistic is the normal quantile: checked by its definition."""
    [text] = frame.loc[["66 % − 0 %"], ("accuracy", "difference [95 %, unpaired]")]
    low, high = (float(end) / 100 for end in re.search(r"\[(.*), (.*)\]", text).groups())
    shares = np.linspace(0, 1, 200_001)
    for end in (low, high):
        inside = shares[(shares + end > 0) & (shares + end < 1) & (shares > 0) & (shares < 1)]
        likelihood = 500 * (
            0.456 * np.log(inside)
            + 0.544 * np.log(1 - inside)
            + 0.511 * np.log(inside + end)
            + 0.489 * np.log(1 - inside - end)
        )
        best = inside[likelihood.argmax()]
        variance = (best * (1 - best) + (best + end) * (1 - best - end)) / 500 * 1000 / 999
        assert abs(0.055 - end) / math.sqrt(variance) == pytest.approx(1.96, abs=0.02)


def test_the_published_differences_say_what_they_rest_on(frame):
    note = frame.attrs["note"]
    for part in ("500 questions", "was not published", "bounds only", "as independent", "49.3 % accuracy"):
        assert part in note
    assert "45.6 %" not in note and "50.2 %" not in note, "these are shares of 500"
