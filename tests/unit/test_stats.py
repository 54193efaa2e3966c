"""Intervals agree with distributions worked out by hand, and cover what they promise to cover."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docfloqa.analysis import intervals
from docfloqa.analysis.intervals import Interval, interval_table, p_text

scores = st.floats(0, 1).map(lambda value: round(value, 3))


@pytest.fixture(scope="module", autouse=True)
def few_documents():
    """What is worked out by hand has fewer documents than intervals are given for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "FEWEST_DOCUMENTS", 2)
        yield


@st.composite
def clustered(draw, fewest_clusters=2):
    """Values, the cluster of each, and positive weights."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=fewest_clusters, max_size=8))
    clusters = [f"doc{place}" for place, size in enumerate(sizes) for _ in range(size)]
    count = len(clusters)
    values = draw(st.lists(scores, min_size=count, max_size=count))
    weights = draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    return np.array(values), np.array(clusters), np.array(weights)


def interval_of(values, clusters, weights=None):
    """The interval of sum(values) / sum(weights) over clusters."""
    tokens = np.ones(len(values)) if weights is None else weights
    frame = pd.DataFrame({"of": "all", "loss_sum": values, "tokens": tokens, "document_id": clusters})
    return intervals.interval(next(interval_table(frame, ["of"], ["val_loss"]).itertuples()))


def bounds(interval):
    return interval.low, interval.high


def width(interval):
    return interval.high - interval.low


# Three documents with means 0, 0, 1: the resampled mean is k/3 with k ~ Binomial(3, 1/3), whose distribution
# function is 8/27 = 0.296, 20/27 = 0.741, 26/27 = 0.963, 1.
@pytest.mark.parametrize(("confidence", "low", "high"), [(0.6, 0, 2 / 3), (0.9, 0, 2 / 3), (0.95, 0, 1)])
def test_percentiles_of_three_documents(confidence, low, high, monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 20_000)
    monkeypatch.setattr(intervals, "ENDS", ((1 - confidence) / 2, (1 + confidence) / 2))
    interval = interval_of([0, 0, 1], ["a", "b", "c"])
    assert interval.estimate == pytest.approx(1 / 3)
    assert bounds(interval) == pytest.approx((low, high))


# Two documents: the resamples are aa, ab, ba, bb, so the ends are the documents' own ratios.
def test_ratio_of_sums_not_mean_of_ratios():
    interval = interval_of([1, 2, 9], ["a", "a", "b"], weights=[1, 1, 10])
    assert interval.estimate == 12 / 12
    assert bounds(interval) == pytest.approx((9 / 10, 3 / 2))


def test_without_weights_every_question_counts_once():
    interval = interval_of([1, 0, 0, 1], ["a", "a", "a", "b"])
    assert interval.estimate == 1 / 2
    assert bounds(interval) == pytest.approx((1 / 3, 1))


@given(clustered())
@settings(max_examples=50)
def test_the_interval_holds_the_estimate_and_stays_among_the_documents(data):
    values, clusters, weights = data
    interval = interval_of(values, clusters, weights)
    assert interval.estimate == pytest.approx(values.sum() / weights.sum())
    # NaN where every document has the same.
    assert not interval.low - 1e-9 > interval.estimate and not interval.high + 1e-9 < interval.estimate
    ratios = [values[clusters == c].sum() / weights[clusters == c].sum() for c in np.unique(clusters)]
    assert not min(ratios) - 1e-9 > interval.low and not interval.high > max(ratios) + 1e-9


@given(clustered(), st.data())
@settings(max_examples=50)
def test_row_order_does_not_matter(data, choice):
    values, clusters, weights = data
    order = choice.draw(st.permutations(range(len(values))))
    first = interval_of(values, clusters, weights)
    second = interval_of(values[order], clusters[order], weights[order])
    assert (second.estimate, *bounds(second)) == pytest.approx((first.estimate, *bounds(first)), nan_ok=True)


@given(clustered(), scores)
@settings(max_examples=50)
def test_equal_values_have_no_interval(data, value):
    _, clusters, _ = data
    interval = interval_of([value] * len(clusters), clusters)
    assert interval.estimate == pytest.approx(value) and np.isnan(bounds(interval)).all()


def test_one_document_has_no_interval():
    interval = interval_of([0, 1, 1, 1], ["a"] * 4)
    assert interval.estimate == 0.75
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_more_documents_are_narrower():
    values = np.random.default_rng(0).random(100)
    four_times = width(interval_of(np.tile(values, 4), range(400)))
    assert four_times == pytest.approx(width(interval_of(values, range(100))) / 2, rel=0.15)


# Answers of one document agree: 25 documents with 8 questions each, right with a chance of 0.1 or 0.9.
# The variance of the mean is then 0.16/25 + 0.09/200 = 0.00685, and 0.25/200 = 0.00125 with questions as
# independent, so that an interval from questions is 2.3 times too short and covers about 60 %.
@pytest.mark.long
def test_coverage_is_right_for_documents_and_far_off_for_questions(monkeypatch):
    monkeypatch.setattr(intervals, "RESAMPLES", 300)
    rng = np.random.default_rng(20)
    documents = np.repeat(np.arange(25), 8)
    covered = {"documents": 0, "questions": 0}
    trials = 300
    for _ in range(trials):
        right = rng.random(200) < rng.choice([0.1, 0.9], size=25)[documents]
        for unit, clusters in (("documents", documents), ("questions", np.arange(200))):
            interval = interval_of(right, clusters)
            covered[unit] += interval.low <= 0.5 <= interval.high
    assert 0.90 <= covered["documents"] / trials <= 0.98
    assert covered["questions"] / trials < 0.75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": [1, math.nan], "clusters": ["a", "b"]}, "finite"),
        ({"values": [1, math.inf], "clusters": ["a", "b"]}, "finite"),
        ({"values": [1, 1], "clusters": ["a", "b"], "weights": [1, math.nan]}, "tokens"),
        ({"values": [1, 1], "clusters": ["a", "b"], "weights": [1, 0]}, "tokens"),
        ({"values": [1, 1], "clusters": ["a", None]}, "missing"),
        ({"values": [1, 1], "clusters": ["a", math.nan]}, "missing"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        interval_of(**arguments)


def test_an_interval_as_text():
    interval = Interval(0.4123, 0.38, 0.4449)
    assert interval.format(scale=100) == "41.2 [38.0, 44.5]"
    assert interval.format(digits=3) == "0.412 [0.380, 0.445]"
    assert Interval(-0.01, -0.04, 0.02).format() == "0.0 [0.0, 0.0]"
    assert Interval(0.5, math.nan, math.nan).format(100, 0) == "50 [–, –]"


def predictions(**columns):
    """Two documents, three questions, answered by two ratios with two seeds each."""
    rows = [
        {"ratio": ratio, "seed": seed, "document_id": document, "question_id": question}
        for ratio in (0.0, 0.66)
        for seed in (1, 2)
        for question, document in (("q1", "a"), ("q2", "a"), ("q3", "b"))
    ]
    return pd.DataFrame(rows).assign(**columns)


# Ratio 0: seed 1 has document means 1 and 0, seed 2 has 1/2 and 0. Drawn twice, document a gives 3/4 over the
# seeds and document b gives 0; all questions give (2/3 + 1/3) / 2. Ratio 0.66 has everything right.
# Ratio 0's loss: seed 1 has (1 + 3) / (1 + 1) = 2 and 6 / 2 = 3, seed 2 has 1 and 1, at the same tokens.
def test_interval_table_by_hand():
    frame = predictions(
        accuracy=[1, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1],
        loss_sum=[1, 3, 6, 1, 1, 2, 1, 1, 2, 1, 1, 2],
        tokens=[1, 1, 2] * 4,
    )
    table = interval_table(frame, by=["ratio"], metrics=["accuracy", "val_loss"])
    assert list(table.columns) == ["ratio", "metric", "estimate", "low", "high"]
    assert table["ratio"].to_list() == [0.0, 0.0, 0.66, 0.66]
    assert table["metric"].to_list() == ["accuracy", "val_loss"] * 2
    assert table["estimate"].to_list() == pytest.approx([1 / 2, (10 / 4 + 1) / 2, 1, 1])
    # Where every document has the same there is no interval.
    assert table["low"].to_list() == pytest.approx([0, (2 + 1) / 2, math.nan, math.nan], nan_ok=True)
    assert table["high"].to_list() == pytest.approx([3 / 4, (3 + 1) / 2, math.nan, math.nan], nan_ok=True)


# Losses per token: seed 1 has 4/4 and seed 2 has 9/3, mean 2; all in one would be 13/7.
def test_the_estimate_is_the_mean_of_the_seeds():
    frame = pd.DataFrame({"arm": "x", "seed": [1, 2], "document_id": "a", "loss_sum": [4.0, 9.0], "tokens": [4, 3]})
    table = interval_table(frame, ["arm"], ["val_loss"])
    assert table["estimate"].to_list() == [2.0]
    assert table[["low", "high"]].isna().all(axis=None)


def test_groups_are_alone_and_row_order_is_ignored():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"document_id": rng.integers(12, size=60), "epoch": np.arange(60) % 2})
    frame = frame.assign(arm="x", f1=rng.random(60), loss_sum=rng.random(60), tokens=rng.integers(1, 5, 60))
    table = interval_table(frame, ["arm", "epoch"], ["f1", "val_loss"])
    for epoch, part in frame.groupby("epoch"):
        expected = [
            interval_of(part["f1"], part["document_id"]),
            interval_of(part["loss_sum"], part["document_id"], part["tokens"]),
        ]
        found = table.loc[table["epoch"] == epoch, ["estimate", "low", "high"]].to_numpy()
        assert found == pytest.approx(np.array([(e.estimate, e.low, e.high) for e in expected]))
    shuffled = interval_table(frame.sample(frac=1, random_state=0), ["arm", "epoch"], ["f1", "val_loss"])
    pd.testing.assert_frame_equal(shuffled, table)


# Two seeds with opposite scores: drawn with both seeds, any documents have the mean 1/2; drawn apart, the
# seeds would not cancel.
def test_a_document_is_drawn_with_all_its_seeds():
    right = np.random.default_rng(0).random(20)
    run = pd.DataFrame({"arm": "x", "document_id": range(20)})
    frame = pd.concat([run.assign(seed=1, accuracy=right), run.assign(seed=2, accuracy=1 - right)])
    table = interval_table(frame, ["arm"], ["accuracy"])
    assert table.loc[0, ["estimate", "low", "high"]].to_list() == pytest.approx([0.5, math.nan, math.nan], nan_ok=True)
    apart = interval_table(frame, ["arm", "seed"], ["accuracy"])
    assert (apart["high"] - apart["low"] > 0.1).all()


def test_interval_table_refuses_what_would_be_pooled_wrongly():
    frame = predictions(accuracy=1.0)
    with pytest.raises(ValueError, match="differ in their documents"):
        interval_table(frame[(frame["seed"] == 1) | (frame["document_id"] == "a")], ["ratio"], ["accuracy"])
    epochs = pd.concat([frame.assign(epoch=0), frame.assign(epoch=1)])
    with pytest.raises(ValueError, match="more than once"):
        interval_table(epochs, ["ratio"], ["accuracy"])
    assert len(interval_table(epochs, ["ratio", "epoch"], ["accuracy"])) == 4
    with pytest.raises(ValueError, match="finite"):
        interval_table(frame.assign(accuracy=np.nan), ["ratio"], ["accuracy"])
    with pytest.raises(ValueError, match="missing"):
        interval_table(frame.assign(document_id=None), ["ratio"], ["accuracy"])
    with pytest.raises(KeyError, match="loss_sum"):
        interval_table(frame, ["ratio"], ["val_loss"])


def test_interval_table_of_nothing_is_empty():
    table = interval_table(predictions(accuracy=1.0).iloc[:0], ["ratio"], ["accuracy"])
    assert table.empty
    assert list(table.columns) == ["ratio", "metric", "estimate", "low", "high"]


def test_a_p_value_as_text_is_never_none_at_all():
    assert [*map(p_text, (0.0, 0.0009, 0.001, 0.04349, 1.0))] == ["< 0.001", "< 0.001", "0.001", "0.043", "1.000"]
