"""Confidence is compared with being right as the definitions say."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study
from test_figures import check_pdf, overlapping, texts

from docfloqa.analysis import confidence as calibration
from docfloqa.exceptions import RunError
from docfloqa.figures import mistakes as error_figures
from docfloqa.figures import style


def study_of(confidence, right, documents=None, seeds=0):
    """A study of one ratio's answers; without documents each answer is on its own."""
    names = np.arange(len(confidence))
    answers = pd.DataFrame(
        {
            "vision_trainable": 1.0,
            "seed": seeds,
            "document_id": names if documents is None else documents,
            "question_id": names,
            "confidence": np.asarray(confidence, dtype=float),
            "exact_match": np.asarray(right, dtype=float),
        }
    )
    return SimpleNamespace(name="made", last_answers=answers)


def simulated(seed, shift=0.0, documents=150, questions=4):
    """Answers that are right `shift` less often than their confidence says."""
    rng = np.random.default_rng(seed)
    confidence = rng.uniform(0.25, 0.95, documents * questions)
    right = rng.random(len(confidence)) < confidence - shift
    return study_of(confidence, right, np.repeat(np.arange(documents), questions))


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


def test_bins_have_equally_many_answers_in_order_of_confidence():
    confidence = np.random.default_rng(0).random(470)
    # Right where the confidence is above one half: the upper bins.
    table = calibration.reliability(study_of(confidence, confidence > 0.5))
    means = np.sort(confidence).reshape(10, 47).mean(axis=1)
    assert table["bin"].tolist() == [*range(1, 11)] and table["confidence"].tolist() == pytest.approx(means.tolist())
    assert table["estimate"].iloc[[0, -1]].tolist() == [0, 1]
    # Equal confidences, and fewer answers than bins.
    assert (calibration.reliability(study_of([0.5] * 20, [1, 0] * 10))["confidence"] == 0.5).all()
    assert len(calibration.reliability(study_of([0.5] * 4, [1, 0] * 2))) == 4


def test_too_much_confidence_is_found_with_its_size():
    for shift in (0, 0.2):
        cell = calibration.calibration(simulated(1, shift)).loc["100 %", "confidence − right"]
        low, high = map(float, cell.partition("[")[2].strip("]").split(",\xa0"))
        assert low <= 100 * shift <= high and (low > 0) == (shift > 0)


def test_seeds_are_averaged():
    made = study_of([0.9, 0.8, 0.3, 0.6], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1])
    made.last_answers["question_id"] = ["a", "b", "a", "b"]
    row = calibration.calibration(made).loc["100 %"]
    assert row["confidence − right"] == "15.0 [–,\xa0–]"
    # The surer half of each seed, not of both together.
    assert row["right of the surer half (%)"] == "50.0 [–,\xa0–]"


def test_the_curve_is_the_share_right_of_the_most_confident():
    curve = calibration.coverage_curve(study_of([0.3, 0.9, 0.1, 0.8], [0, 1, 0, 1]))
    at = curve.set_index(curve["coverage"].round(2))["estimate"]
    # A fifth of four answers is none.
    assert at.index.min() == 0.25 and at[[0.25, 0.5, 0.75, 1.0]].tolist() == pytest.approx([1, 1, 2 / 3, 0.5])
    made = simulated(0)
    curve = calibration.coverage_curve(made)
    assert len(curve) == 20 and curve.loc[0, "estimate"] == 1 and curve.loc[0, ["low", "high"]].isna().all()
    assert (curve["low"] < curve["estimate"])[1:].all() and (curve["estimate"] < curve["high"])[1:].all()
    surest = made.last_answers.sort_values("confidence", ascending=False)["exact_match"]
    assert curve["estimate"].tolist() == pytest.approx([surest[: 30 * fifth].mean() for fifth in range(1, 21)])


def test_reliability_has_the_answers_of_all_seeds(study):
    table = calibration.reliability(study)
    last = study.last_answers.groupby("vision_trainable")
    means = table.groupby("vision_trainable")
    assert (means.size() == calibration.BINS).all()
    # 240 answers are ten bins of 24.
    assert means["estimate"].mean().tolist() == pytest.approx(last["exact_match"].mean().tolist())
    assert means["confidence"].mean().tolist() == pytest.approx(last["confidence"].mean().tolist())
    assert all(bins["confidence"].is_monotonic_increasing for _, bins in means)
    assert (table["low"] <= table["estimate"]).all() and (table["estimate"] <= table["high"]).all()


def test_the_table_holds_what_its_parts_say(study):
    frame = calibration.calibration(study)
    assert frame.index.tolist() == ["0 %", "33 %", "66 %", "100 %"] and frame.index.name == "ratio"
    assert frame.columns.tolist() == [*calibration.COLUMNS.values()]
    last = study.predictions.query("epoch == 3 and vision_trainable == 0.66")
    row = frame.loc["66 %"]
    assert row["mean confidence (%)"].startswith(f"{100 * last['confidence'].mean():.1f} [")
    assert row["right (%)"].startswith(f"{100 * last['exact_match'].mean():.1f} [")
    gap = 100 * (last["confidence"] - last["exact_match"]).mean()
    assert row["confidence − right"].startswith(f"{gap:.1f} [")
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
