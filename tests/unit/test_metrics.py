"""The metrics agree with values worked out by hand from the rules that define them."""

import json
import re
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from docfloqa.metrics import METRICS, anls, contains, contains_first, exact_match, f1, score, similarity_first

# Letters, digits, white space, punctuation, articles, and letters whose length depends on their case.
texts = st.text(alphabet="aAbthe 17\t\n.$,-ßİ", max_size=12)
answer_lists = st.lists(texts, min_size=1, max_size=4)
every_metric = pytest.mark.parametrize("name", METRICS)
over_all_answers = pytest.mark.parametrize("name", ["anls", "exact_match", "f1", "accuracy"])


# The DocVQA challenge's script: distance of the folded, lower-cased texts / length of the longer raw text.
@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("sitting", ["kitten"], 4 / 7),  # k>s, e>i, +g
        ("ITC Limited", ["itc limited"], 1.0),  # case
        (" a \n\t b ", ["a b"], 1.0),  # white space
        ("paris", ["rome", "pari"], 4 / 5),  # the best answer
        ("ab", ["ax"], 0.5),  # exactly the threshold
        ("abc", ["abxyz"], 0.0),  # 1 - 3/5
        ("", [""], 1.0),  # nothing to divide by: no distance
        ("", ["a"], 0.0),
        ("a", [""], 0.0),
        ("  ", [""], 1.0),  # distance 0, length 2
        ("  ab  ", ["ax"], 5 / 6),  # distance 1, raw length 6; folded it would be 1 - 1/2
        ("a ", ["b"], 0.5),  # the raw length lifts it to the threshold
        ("ß", ["x"], 0.5),  # distance 1, upper case "SS" of length 2
    ],
)
def test_anls_follows_the_official_script(prediction, answers, expected):
    assert anls(prediction, answers) == pytest.approx(expected)


@given(st.integers(1, 40), st.data())
def test_anls_counts_from_exactly_one_half(length, data):
    kept = data.draw(st.integers(0, length))
    prediction, answer = "a" * length, "a" * kept + "b" * (length - kept)
    assert anls(prediction, [answer]) == pytest.approx(kept / length if 2 * kept >= length else 0.0)


@given(st.integers(1, 40))
def test_anls_at_and_just_below_one_half(half):
    assert anls("a" * 2 * half, ["a" * half + "b" * half]) == 0.5
    assert anls("a" * (2 * half + 1), ["a" * half + "b" * (half + 1)]) == 0.0


# SQuAD v1.1's script: lower case, then punctuation, then the articles a, an, the; words in any order.
@pytest.mark.parametrize(
    ("prediction", "answers", "match", "overlap"),
    [
        ("The Eiffel  Tower.", ["eiffel tower"], 1.0, 1.0),
        ("the cat sat", ["cat sat down"], 0.0, 0.8),  # precision 2/2, recall 2/3
        ("x x", ["x"], 0.0, 2 / 3),  # a word counts as often as both have it: 1/2 and 1/1
        ("b c", ["c b"], 0.0, 1.0),
        ("x y", ["z", "x w", "x"], 0.0, 2 / 3),  # the best answer
        ("$1,000.50", ["100050"], 1.0, 1.0),
        ("a.m.", ["am"], 1.0, 1.0),  # full stops go before articles
        ("then", ["n"], 0.0, 0.0),  # an article is a whole word
        ("the", ["a."], 1.0, 0.0),  # nothing left of either: equal, yet no shared word
        ("", ["word"], 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_follow_squad(prediction, answers, match, overlap):
    assert exact_match(prediction, answers) == match
    assert f1(prediction, answers) == pytest.approx(overlap)


# This project's accuracy, and the published one ("gt.strip().lower() in generated.strip().lower()").
@pytest.mark.parametrize(
    ("prediction", "answers", "accuracy", "published"),
    [
        ("The date is 3 MAY 1999.", [" 3 May\t1999"], 1.0, 0.0),  # only the former folds white space
        ("total: $12", ["$12 "], 1.0, 1.0),
        ("3124", ["12"], 1.0, 1.0),  # inside a longer number
        ("12", ["3124"], 0.0, 0.0),  # not the other way round
        ("paris", ["rome", "paris"], 1.0, 0.0),  # the second answer
        ("anything", [""], 0.0, 1.0),  # an empty answer
        ("anything", [" \n"], 0.0, 1.0),
        ("", [""], 0.0, 1.0),
        ("x", ["", "x"], 1.0, 1.0),
    ],
)
def test_containment_of_any_and_of_the_first_answer(prediction, answers, accuracy, published):
    assert contains(prediction, answers) == accuracy
    assert contains_first(prediction, answers) == published


# The published study's script: 1 - distance / (longer length or 1), stripped and lower-cased, first answer.
@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("sitting", ["kitten", "sitting"], 4 / 7),
        ("abc", ["xyz"], 0.0),
        ("abc", ["axy"], 1 / 3),  # no threshold
        (" ABC ", ["abc"], 1.0),
        ("a  b", ["a b"], 3 / 4),  # white space inside counts
        ("", [" "], 1.0),
    ],
)
def test_published_similarity(prediction, answers, expected):
    assert similarity_first(prediction, answers) == pytest.approx(expected)


@every_metric
@given(prediction=texts, answers=answer_lists)
def test_range(name, prediction, answers):
    value = METRICS[name](prediction, answers)
    assert isinstance(value, float)
    assert 0.0 <= value <= 1.0


@every_metric
@given(text=texts.filter(lambda text: re.search("[b17]", text)))
def test_identity(name, text):
    assert METRICS[name](text, [text]) == 1.0


@over_all_answers
@given(prediction=texts, answers=answer_lists, data=st.data())
def test_order_of_answers_does_not_matter(name, prediction, answers, data):
    shuffled = data.draw(st.permutations(answers))
    assert METRICS[name](prediction, shuffled) == METRICS[name](prediction, answers)


@over_all_answers
@given(prediction=texts, answers=answer_lists, more=answer_lists)
def test_more_answers_give_the_better_of_both(name, prediction, answers, more):
    metric = METRICS[name]
    assert metric(prediction, answers + more) == max(metric(prediction, answers), metric(prediction, more))


@pytest.mark.parametrize("name", [name for name in METRICS if name.endswith("_first")])
@given(prediction=texts, answers=answer_lists, more=answer_lists)
def test_published_metrics_see_the_first_answer_only(name, prediction, answers, more):
    metric = METRICS[name]
    assert metric(prediction, answers + more) == metric(prediction, answers[:1])


@every_metric
@pytest.mark.parametrize("answers", [[], (), np.array([], dtype=object), "paris"])
def test_answers_must_be_a_list_with_an_answer(name, answers):
    with pytest.raises(ValueError, match="answers"):
        METRICS[name]("paris", answers)


def test_score_adds_a_column_for_every_metric_and_leaves_its_input_alone():
    answers = [["Paris"], np.array(["x", "ab"], dtype=object), ("sat down",)]
    frame = pd.DataFrame(
        {"prediction": ["in paris", "ax", "sat"], "answers": answers, "anls": [9.0, 9.0, 9.0]}, index=[7, 7, 1]
    )
    before = frame.copy(deep=True)
    scored = score(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert list(scored.columns) == [
        "prediction",
        "answers",
        "anls",
        "exact_match",
        "f1",
        "accuracy",
        "similarity_first",
        "contains_first",
        "exact_match_first",
        "f1_first",
    ]
    assert list(scored.index) == [7, 7, 1]
    assert scored["anls"].to_list() == pytest.approx([5 / 8, 0.5, 0.0])
    assert scored["exact_match"].to_list() == [0.0, 0.0, 0.0]
    assert scored["f1"].to_list() == pytest.approx([2 / 3, 0.0, 2 / 3])
    assert scored["accuracy"].to_list() == [1.0, 1.0, 0.0]
    assert scored["similarity_first"].to_list() == pytest.approx([5 / 8, 0.5, 3 / 8])
    assert scored["contains_first"].to_list() == [1.0, 1.0, 0.0]
    assert scored["exact_match_first"].to_list() == [0.0, 0.0, 0.0]
    assert scored["f1_first"].to_list() == pytest.approx([2 / 3, 0.0, 2 / 3])


def test_the_published_scores_miss_what_only_a_later_answer_allows():
    assert (exact_match("12", ["$12", "twelve", "12"]), f1("12", ["twelve", "12"])) == (1.0, 1.0)
    assert (METRICS["exact_match_first"]("12", ["twelve", "12"]), METRICS["f1_first"]("12", ["twelve", "12"])) == (0, 0)


def test_score_of_nothing_has_the_columns():
    scored = score(pd.DataFrame({"prediction": [], "answers": []}))
    assert scored.empty
    assert all(scored[name].dtype == np.float64 for name in METRICS)


def test_score_names_a_question_without_answers():
    with pytest.raises(ValueError, match="answers is empty"):
        score(pd.DataFrame({"prediction": ["a", "b"], "answers": [["a"], []]}))


def test_published_figures_ship_with_the_package():
    published = json.loads(files("docfloqa.analysis").joinpath("published.json").read_text())
    ablation = published["freezing_ablation_epoch_8"]
    assert ablation["vision_trainable"] == [0.0, 0.33, 0.66, 1.0]
    assert ablation["accuracy"] == [45.6, 49.3, 51.1, 50.2]
    for table in (ablation, published["epoch_progress_ratio_0"]):
        assert len({len(column) for column in table.values()}) == 1
