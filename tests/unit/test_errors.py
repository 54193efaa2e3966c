"""Answers are told apart by what they look like and where they stand, and differences by chance are called that."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fake_study import validation_of, write_study
from hypothesis import given
from hypothesis import strategies as st
from test_calibration import check_figure
from test_figures import said

from docfloqa.analysis import mistakes as errors
from docfloqa.data.load import load_docvqa
from docfloqa.data.synth.dataset import draw_page, drawing_of, page_seed
from docfloqa.exceptions import RunError
from docfloqa.figures import mistakes as error_figures
from docfloqa.metrics import score
from docfloqa.settings import Settings

DRAWN = {"synth_documents": 2, "synth_validation_documents": 60}
KINDS = {
    "amount of money": ("$659.99", "$1,234", "9,700 EUR", "€ 5", "$2.5 million"),
    "number": ("33", "1,234", "14.5", "-3", ".5", "1984"),
    "time": ("4:30 pm", "12:05", "9 a.m."),
    "number with a unit": ("87 kg", "55.7 %", "12 months", "14 °C", "30 days net", "19%"),
    "date": ("28 Jul", "24 Oct 2021", "Oct 24, 2021", "2024-03-05", "3/5/99", "June 1st, 1984", "Monday, 3 May 2021"),
    "code": ("HT-167", "G9", "(555) 555-0123", "12-345", "123 456 7890"),
    "text with digits": ("12 Oak Avenue, Tampa", "Building 12", "Conference Room B2"),
    "capitalised words": ("Anna", "Clark & Co", "INVOICE", "Director of Research", "A"),
    "other text": ("yes", "the old mill", "not stated", "&"),
}


@pytest.fixture(scope="module")
def study():
    return write_study("errors")


@pytest.fixture(scope="module")
def questions():
    return load_docvqa(Settings.profile("smoke", **DRAWN), "validation")


@pytest.fixture(scope="module")
def drawn(questions):
    """A study of drawn documents: three seeds, half of the answers right, but never a date."""
    study = write_study("errors-drawn", (0.0, 1.0), (0, 1, 2), epochs=1, documents=2, **DRAWN)
    rng, frames = np.random.default_rng(0), []
    for row in study.runs.itertuples():
        for epoch in (0, 1):
            frame = pd.DataFrame(
                {
                    "run": row.run,
                    "vision_trainable": row.vision_trainable,
                    "seed": row.seed,
                    "epoch": epoch,
                    **{new: questions[old] for new, old in (("question_id", "questionId"), ("answers", "answers"))},
                    **{name: questions[name] for name in ("document_id", "question", "question_types")},
                }
            )
            kinds = [errors.answer_kind(answers[0]) for answers in frame["answers"]]
            right = (rng.random(len(frame)) < 0.5) & (np.array(kinds) != "date") & (epoch == 1)
            given = [answers[0] if hit else "zzzzzzzz" for answers, hit in zip(frame["answers"], right, strict=True)]
            sure = rng.uniform(0.02, 1, len(frame))
            frames.append(score(frame.assign(prediction=given, confidence=sure, loss_sum=1.0, tokens=2)))
    predictions = pd.concat(frames, ignore_index=True)
    study.__dict__.update(predictions=predictions, last_answers=predictions[predictions["epoch"] == 1])
    study.__dict__["wrong_pages"] = (
        frames[0]
        .assign(anls=0.0)
        .merge(study.runs[["run"]], how="cross")
        .drop(columns=["run_x", "vision_trainable", "seed"])
        .rename(columns={"run_y": "run"})
        .merge(study.runs[["run", "vision_trainable", "seed"]], on="run")
    )
    return study


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_answers(kind):
    assert {answer: errors.answer_kind(answer) for answer in KINDS[kind]} == dict.fromkeys(KINDS[kind], kind)


@given(st.text())
def test_every_text_has_a_kind(text):
    assert errors.answer_kind(text) in KINDS


def test_lengths_are_those_of_the_text(study):
    names = {1: "1 to 3", 3: "1 to 3", 4: "4 to 6", 10: "7 to 10", 20: "11 to 20", 21: "over 20"}
    for length, name in names.items():
        answers = study.last_answers.assign(answers=[[f"  {'x' * length} "]] * len(study.last_answers))
        grouped = errors.grouped_answers(SimpleNamespace(settings=study.settings, last_answers=answers))
        assert set(grouped["answer_length"]) == {name}


@pytest.mark.parametrize(
    "given", [*({"synth_shift": shift} for shift in ("input", "layout", "content")), {"synth_scale": "full"}], ids=str
)
def test_every_drawn_question_is_located_and_its_answer_stands_there(given):
    documents = 2 if "synth_scale" in given else 24
    settings = Settings.profile("smoke", **{**DRAWN, "synth_validation_documents": documents, **given})
    rows = load_docvqa(settings, "validation")
    places = errors.locate(settings, rows["questionId"])
    assert places.index.tolist() == rows["questionId"] and not places.isna().any(axis=None)
    for place, row in zip(places.itertuples(), rows, strict=True):
        assert place.value == row["answers"][0]
        assert row["ucsf_document_id"].startswith(f"{place.page_kind}-validation-")
        image = row["image"].convert("L")
        assert 0 <= place.left < place.right <= image.width and 0 <= place.top < place.bottom <= image.height
        grey = np.asarray(image)
        box = grey[int(place.top) : int(np.ceil(place.bottom)), int(place.left) : int(np.ceil(place.right))]
        assert (box < np.median(grey) - 50).mean() > 0.04, place
        if settings.synth_scale == "small":
            assert characters_in(settings, place) == place.value.replace(" ", "")


def characters_in(settings, place):
    """What small pages print with its centre in a box, from left to right."""
    document = int(place.Index.split("-")[1])
    drawing = drawing_of(settings)
    page = draw_page(page_seed(drawing, settings.synth_seed, "validation", document), drawing, "validation")
    inside = [
        (x, sign) for x, y, sign in page.characters if place.left < x < place.right and place.top < y < place.bottom
    ]
    return "".join(sign for _, sign in sorted(inside))


def test_thirds_and_heights_are_those_of_the_box():
    settings = Settings.profile("smoke", **DRAWN)
    rows = load_docvqa(settings, "validation")
    places = errors.locate(settings, rows["questionId"])
    middle = (places["top"] + places["bottom"]) / 2
    names = np.select([middle < 160 / 3, middle < 320 / 3], ["top", "middle"], "bottom")
    inside = (places["bottom"] < 160) & (places["top"] > 0)
    assert (places["vertical"] == names)[inside].all()
    heights = (places["bottom"] - places["top"])[inside]
    assert heights.tolist() == pytest.approx(places["height"][inside].tolist(), abs=0.006)
    assert places["height"].between(9, 17).all()


@pytest.mark.parametrize("given", [{"validation_data": "somewhere"}, {"data": "somewhere"}])
def test_other_data_is_not_located(given):
    places = errors.locate(Settings.profile("smoke", **given), ["validation-00000-0", "4711"])
    assert places.isna().all(axis=None) and places.index.tolist() == ["validation-00000-0", "4711"]


def test_questions_that_were_not_drawn_are_not_located(questions):
    settings = Settings.profile("smoke", **DRAWN)
    names = ["q000-0", "train-00000-0", "validation-99999-0", "validation-00000-17", questions["questionId"][0]]
    assert errors.locate(settings, names).isna().all(axis=1).tolist() == [True] * 4 + [False]


def test_groups_of_a_study_that_was_not_drawn_are_not_known(study):
    for group in errors.LOCATED:
        frame = errors.by_group(study, group)
        assert frame.index.tolist() == [errors.NOT_KNOWN] and frame["questions"].tolist() == [120]
        assert "the present code draws again" in frame.attrs["note"]
    lengths = errors.by_group(study, "answer_length")
    assert lengths.index.tolist() == ["7 to 10", "11 to 20"][: len(lengths)] and "note" not in lengths.attrs
    assert errors.by_group(study, "answer_kind").index.tolist() == ["number with a unit"]


@pytest.mark.parametrize("group", errors.GROUPS)
def test_groups_of_drawn_documents_hold_every_question_once(drawn, group):
    table = errors.group_scores(drawn, group)
    assert errors.NOT_KNOWN not in table[group].tolist()
    assert (
        table.groupby("vision_trainable")["questions"].sum().tolist()
        == [drawn.predictions["question_id"].nunique()] * 2
    )
    last = drawn.predictions.query("epoch == 1 and vision_trainable == 1")
    rows = table[table["vision_trainable"] == 1]
    assert (rows["estimate"] * rows["questions"]).sum() / rows["questions"].sum() == pytest.approx(last["anls"].mean())
    frame = errors.by_group(drawn, group)
    assert frame.index.name == errors.GROUPS[group] and frame.columns[1] == "ANLS at 0 %"


def test_ordered_groups_come_in_their_order(drawn):
    assert errors.by_group(drawn, "vertical").index.tolist() == ["top", "middle", "bottom"]
    assert errors.by_group(drawn, "horizontal").index.tolist() == ["left", "centre", "right"]
    heights = errors.by_group(drawn, "height").index.tolist()
    assert [name.split(" ")[0] for name in heights][::2] == ["up", "over"] and len(heights) == 3
    assert errors.by_group(drawn, "answer_kind").loc["date", "ANLS at 100 %"].startswith("0.0 [")


def test_documents_that_the_present_code_draws_otherwise_are_not_located(drawn):
    other = SimpleNamespace(settings=drawn.settings.replace(synth_seed=2), last_answers=drawn.last_answers)
    assert errors.grouped_answers(other)[list(errors.LOCATED)].isna().all(axis=None)
    assert errors.grouped_answers(other)["answer_kind"].notna().all()


def test_the_most_confident_errors_are_the_first_seed_s(study):
    wrong = errors.most_confident_errors(study, 5)
    last = study.predictions.query("epoch == 3 and vision_trainable == 1 and seed == 0 and anls == 0")
    assert errors.best_ratio(study) == 1
    assert wrong["confidence"].tolist() == sorted(last["confidence"], reverse=True)[:5]
    assert set(wrong.index) <= set(last["question_id"]) and (wrong["anls"] < 0.5).all()
    old = write_study("errors-old", (0.0,), (0,), epochs=1, documents=3)
    old.last_answers.drop(columns="confidence", inplace=True)
    with pytest.raises(RunError, match="confidence"):
        errors.most_confident_errors(old, 3)


def made_study(right):
    """A study of exact matches: questions x ratios x seeds, a document for every question."""
    rows = [
        (ratio / 10, seed, question, f"q{question:04d}", float(value))
        for (question, ratio, seed), value in np.ndenumerate(right)
    ]
    names = ["vision_trainable", "seed", "document_id", "question_id", "exact_match"]
    return SimpleNamespace(last_answers=pd.DataFrame(rows, columns=names))


def test_questions_are_counted_by_the_ratios_that_most_seeds_have_right():
    # Of three seeds two are a majority; of two ratios the second has all of ten, the first one of ten.
    right = np.zeros((10, 2, 3))
    right[:, 1, :2] = 1
    right[0, 0] = 1
    right[1, 0, 0] = 1
    sets = errors.only_right_at(made_study(right))
    assert sets.index.tolist() == ["only 10 %", "every ratio"] and sets.index.name == "right at"
    assert [cell.split(" ")[0] for cell in sets["questions"]] == ["9", "1"]
    assert sets["for example"].tolist() == ["q0001, q0005, q0009", "q0000"]
    # Half of the seeds is no majority.
    [none] = errors.only_right_at(made_study(right[2:, :, 1:])).itertuples()
    assert none.Index == "no ratio" and none.questions == "8 [–, –]"


def test_sets_hold_every_question_once(study):
    frame = errors.only_right_at(study)
    counts = [int(cell.split(" ")[0]) for cell in frame["questions"]]
    assert sum(counts) == 120 and counts == sorted(counts, reverse=True) and "every ratio" in frame.index
    assert frame.index.str.contains("only 33 % and 66 % and 100 %").any()
    for count, cell in zip(counts, frame["for example"], strict=True):
        ids = cell.split(", ")
        assert len(ids) == min(3, count) and {*ids} <= {*study.predictions["question_id"]}


STUDIES = {
    "all": {},
    "one": {"ratios": (0.33,), "seeds": (0,), "epochs": 1, "documents": 1},
    "zero": {"seeds": (0,), "epochs": 2, "ability": (0.0, 0.0), "documents": 5},
}


@pytest.mark.parametrize("name", [*STUDIES, "drawn"])
def test_anls_by_group_of_every_study(name, drawn):
    check_figure(
        error_figures.anls_by_group(drawn if name == "drawn" else write_study(f"errors-{name}", **STUDIES[name]))
    )


def test_the_figure_by_group_shows_the_tables(drawn):
    figure = error_figures.anls_by_group(drawn)
    shown = said(figure)
    for group in errors.GROUPS:
        assert errors.GROUPS[group] in shown
        for name, count in errors.by_group(drawn, group)["questions"].items():
            assert f"{name} ({count})" in shown
    estimates = pd.concat([errors.group_scores(drawn, group) for group in errors.GROUPS])
    expected = 100 * estimates.loc[estimates["vision_trainable"] == 1, "estimate"]
    points = [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_marker() == "D"]
    assert points == pytest.approx(expected.tolist())


def test_confident_errors_show_page_box_and_confidence(drawn, questions):
    figure = error_figures.confident_errors(drawn, questions, count=3)
    wrong = errors.most_confident_errors(drawn, 3)
    shown = said(figure)
    assert [text for text in shown if re.fullmatch(r"\d\.\d{3}", text)] == [
        f"{value:.3f}" for value in wrong["confidence"]
    ]
    check_figure(figure)
    boxes = errors.locate(drawn.settings, wrong.index)
    for page, box in zip(figure.axes[::2], boxes.itertuples(), strict=False):
        frame = page.patches[1]
        assert frame.get_x() <= box.left and frame.get_x() + frame.get_width() >= min(160, box.right) - 0.5
        assert frame.get_y() <= box.top and frame.get_y() + frame.get_height() >= min(160, box.bottom) - 0.5


def test_confident_errors_of_other_data_have_no_box(study):
    figure = error_figures.confident_errors(study, validation_of())
    assert all(len(page.patches) == 1 for page in figure.axes[::2])
    check_figure(figure)
    other = validation_of(1).map(lambda row: {"questionId": "x" + row["questionId"]})
    with pytest.raises(ValueError, match="none of the 4 questions"):
        error_figures.confident_errors(study, other)
