"""Confidence is compared with being right as the definitions say, and calibrated confidences are not called wrong."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint
from test_figures import check_pdf, overlapping, said, texts

from docfloqa.analysis import confidence as calibration
from docfloqa.exceptions import RunError
from docfloqa.figures import mistakes as error_figures
from docfloqa.figures import style


def answers_of(confidence, right, documents=None, seeds=None):
    """A frame of one ratio's answers; without documents each answer is on its own."""
    count = len(confidence)
    return pd.DataFrame(
        {
            "vision_trainable": 1.0,
            "epoch": 1,
            "seed": 0 if seeds is None else seeds,
            "document_id": np.arange(count) if documents is None else documents,
            "question_id": np.arange(count).astype(str),
            "confidence": np.asarray(confidence, dtype=float),
            "exact_match": np.asarray(right, dtype=float),
        }
    )


def study_of(answers):
    return SimpleNamespace(name="made", last_answers=answers)


def simulated(rng, shift=0.0, documents=150, questions=4):
    """Answers that are right `shift` less often than their confidence says."""
    confidence = rng.uniform(0.25, 0.95, documents * questions)
    right = rng.random(len(confidence)) < confidence - shift
    return answers_of(confidence, right, np.repeat(np.arange(documents), questions))


def check_figure(figure):
    """Every text is whole and on its own, at the resolution at which figures are saved too."""
    for dpi in (figure.dpi, style.DPI):
        figure.set_dpi(dpi)
        assert overlapping(figure) == []
        for text in texts(figure):
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1, text
    check_pdf(style.render(figure, "pdf"))


@pytest.fixture(scope="module")
def study():
    return write_study("calibration")


def of_two_seeds(rows):
    """A frame of two seeds' answers to the same questions."""
    frames = []
    for seed in (0, 1):
        confidence, right = zip(*(row[seed] for row in rows), strict=True)
        frames.append(answers_of(confidence, right, [row[2] for row in rows], seed))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module", autouse=True)
def few_documents():
    """What is made up here has fewer documents than intervals are given for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "FEWEST_DOCUMENTS", 2)
        yield


ANSWER = st.tuples(st.floats(0, 1), st.booleans())
FRAMES = st.lists(st.tuples(ANSWER, ANSWER, st.integers(0, 5)), min_size=1, max_size=40).map(of_two_seeds)


@settings(max_examples=40)
@given(FRAMES)
def test_figures_are_shares_within_their_intervals(answers):
    several = answers["document_id"].nunique() > 1
    for interval in (calibration.calibration_error(answers), calibration.coverage_area(answers)):
        assert 0 <= interval.estimate <= 1 + 1e-12
        assert np.isnan(interval.low) != several
        assert not several or 0 <= interval.low <= interval.high <= 1 + 1e-12
    error = calibration.calibration_error(answers)
    assert not error.low > error.estimate and not error.high < error.estimate
    assert abs(calibration.overconfidence(answers).estimate) <= 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=60))
def test_a_share_s_interval_holds_it_and_has_a_length(rows):
    right, documents = zip(*rows, strict=True)
    interval = calibration.clustered_share(right, documents)
    assert interval.estimate == pytest.approx(np.mean(right))
    if len(set(documents)) > 1:
        assert 0 <= interval.low <= interval.estimate + 1e-12 and interval.estimate - 1e-12 <= interval.high <= 1
        assert interval.high - interval.low > 0.05
    else:
        assert np.isnan(interval.low)


def test_answers_on_different_documents_have_wilson_s_interval():
    right = [1] * 30 + [0] * 70
    interval, wilson = calibration.clustered_share(right, range(100)), proportion_confint(30, 100, method="wilson")
    assert (interval.low, interval.high) == pytest.approx(wilson, abs=2e-3)
    # Ten answers a document that agree say no more than one.
    together = calibration.clustered_share(np.repeat(right, 10), np.repeat(range(100), 10))
    assert (together.low, together.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    everything = calibration.clustered_share([1] * 40, np.repeat(range(20), 2))
    assert (everything.low, everything.high) == pytest.approx(proportion_confint(20, 20, method="wilson"))


def test_the_error_is_the_mean_gap_of_equal_bins():
    answers = answers_of([0.9, 0.8, 0.3, 0.6], [1, 1, 0, 0])
    assert calibration.calibration_error(answers).estimate == pytest.approx((0.1 + 0.2 + 0.3 + 0.6) / 4)
    # Twenty answers make ten bins of two: half right at 0.5 is no error, at 0.7 one of 0.2.
    halves = [1, 0] * 10
    assert calibration.calibration_error(answers_of([0.5] * 20, halves)).estimate == pytest.approx(0)
    pairs = np.repeat([0.5, 0.7], 10)
    assert calibration.calibration_error(answers_of(pairs, halves)).estimate == pytest.approx(0.1)


def test_bins_have_equally_many_answers_in_order_of_confidence():
    confidence = np.random.default_rng(0).random(47)
    bins = calibration.equal_bins(confidence)
    sizes = np.bincount(bins)
    assert len(sizes) == calibration.BINS and sizes.max() - sizes.min() <= 1
    assert (np.diff(bins[np.argsort(confidence)]) >= 0).all()


def test_calibrated_confidences_are_not_called_wrong():
    beyond, covered = 0, 0
    for seed in range(20):
        answers = simulated(np.random.default_rng(seed))
        error, chance = calibration.calibration_error(answers), calibration.error_if_calibrated(answers)
        assert error.estimate < 0.08 and error.high < 0.13
        covered += error.low == 0
        beyond += error.estimate > np.quantile(chance, 0.95)
    assert covered >= 18 and beyond <= 3


def test_too_much_confidence_is_found_with_its_size():
    held = {"error": 0, "excess": 0}
    for seed in range(20):
        answers = simulated(np.random.default_rng(seed), shift=0.2)
        error, excess = calibration.calibration_error(answers), calibration.overconfidence(answers)
        assert excess.low > 0
        assert error.estimate > np.quantile(calibration.error_if_calibrated(answers), 0.95)
        held["error"] += error.low <= 0.2 <= error.high
        held["excess"] += excess.low <= 0.2 <= excess.high
    assert min(held.values()) >= 17


def test_seeds_are_averaged():
    answers = answers_of([0.9, 0.8, 0.3, 0.6], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1])
    answers["question_id"] = ["a", "b", "a", "b"]
    assert calibration.calibration_error(answers).estimate == pytest.approx(((0.1 + 0.2) / 2 + (0.3 + 0.6) / 2) / 2)
    assert calibration.coverage_area(answers).estimate == pytest.approx(0.5)


def test_the_area_is_the_mean_accuracy_over_all_coverages():
    area = calibration.coverage_area(answers_of([0.9, 0.5, 0.2], [1, 0, 1])).estimate
    assert area == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    rng = np.random.default_rng(0)
    right = rng.random(4000) < 0.4
    nothing = calibration.coverage_area(answers_of(rng.random(4000), right))
    assert nothing.low < 0.4 < nothing.high
    knowing = calibration.coverage_area(answers_of(right, right)).estimate
    share = right.mean()
    assert knowing == pytest.approx(share - share * np.log(share), abs=1e-3)


def test_the_curve_is_the_share_right_of_the_most_confident():
    curve = calibration.coverage_curve(study_of(answers_of([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0])))
    at = curve.set_index(curve["coverage"].round(2))["estimate"]
    assert at[[0.05, 0.5, 0.75, 1.0]].tolist() == pytest.approx([1, 1, 2 / 3, 0.5])
    assert (curve["low"] <= curve["estimate"]).all() and (curve["estimate"] <= curve["high"]).all()


def test_reliability_has_the_answers_of_all_seeds(study):
    table = calibration.reliability(study)
    assert table.groupby("vision_trainable")["answers"].sum().tolist() == [240] * 4
    assert (table["low"] <= table["estimate"]).all() and (table["estimate"] <= table["high"]).all()
    for ratio, bins in table.groupby("vision_trainable"):
        assert bins["confidence"].is_monotonic_increasing
        right = (bins["answers"] * bins["estimate"]).sum()
        last = study.predictions[study.predictions["vision_trainable"] == ratio].query("epoch == 3")
        assert right == pytest.approx(last["exact_match"].sum())


def test_the_table_holds_what_its_parts_say(study):
    frame = calibration.calibration(study)
    assert frame.index.tolist() == ["0 %", "33 %", "66 %", "100 %"]
    last = study.predictions.query("epoch == 3 and vision_trainable == 0.66")
    row = frame.loc["66 %"]
    assert row["mean confidence (%)"] == f"{100 * last['confidence'].mean():.1f}"
    assert row["right (%)"].startswith(f"{100 * last['exact_match'].mean():.1f} [")
    gap = 100 * (last["confidence"] - last["exact_match"]).mean()
    assert row["confidence − right"].startswith(f"{gap:.1f} [")
    assert row["calibration error"] == calibration.calibration_error(last).format(100)
    curve = calibration.coverage_curve(study).query("vision_trainable == 0.66")
    half = curve.loc[np.isclose(curve["coverage"], 0.5), "estimate"].item()
    assert row["right of the surer half (%)"].startswith(f"{100 * half:.1f} [")


def test_a_study_without_confidence_says_so():
    old = write_study("calibration-old", (0.0,), (0,), epochs=1, documents=3)
    old.last_answers.drop(columns="confidence", inplace=True)
    assert not calibration.has_confidence(old)
    for use in (calibration.calibration, calibration.reliability, calibration.coverage_curve):
        with pytest.raises(RunError, match="'calibration-old' has a run whose predictions lack"):
            use(old)
    # Runs of two versions in one study.
    old.last_answers["confidence"] = [0.5] * 6 + [np.nan] * 6
    with pytest.raises(RunError, match="Make the study's runs again"):
        calibration.confident_answers(old)


@pytest.mark.parametrize("plot", [error_figures.reliability_diagram, error_figures.accuracy_by_coverage])
@pytest.mark.parametrize("given", [{}, {"ratios": (0.33,), "documents": 1}, {"ratios": (0.0, 0.2, 0.5, 0.7, 1.0)}])
def test_figures_of_confidence(plot, given):
    figure = plot(write_study(f"calibration-{plot.__name__}-{len(given)}{len(str(given))}", **given))
    check_figure(figure)


def test_the_diagram_shows_the_table(study):
    figure = error_figures.reliability_diagram(study)
    table = calibration.reliability(study)
    for ax, (_, bins) in zip(figure.axes, table.groupby("vision_trainable"), strict=True):
        [points] = [line for line in ax.lines if line.get_marker() in [*"os^D"]]
        assert list(points.get_xdata()) == pytest.approx((100 * bins["confidence"]).tolist())
        assert list(points.get_ydata()) == pytest.approx((100 * bins["estimate"]).tolist())
    answers = study.predictions.query("epoch == 3 and vision_trainable == 1")
    assert f"100 %: error {calibration.calibration_error(answers).format(100)}" in said(figure)
