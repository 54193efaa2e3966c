"""Every figure works on every study, is the same every time, and shows the numbers of the predictions."""

import base64
import re
import struct
from itertools import combinations
from unittest.mock import patch

import matplotlib.pyplot as plt
import pytest
import torch
from fake_study import RATIOS, validation_of, write_study
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from docfloqa.analysis.tables import percent
from docfloqa.figures import study as figures
from docfloqa.figures import style
from docfloqa.files import figures_folder
from docfloqa.model.florence import Florence2ForDocVQA, base_config
from docfloqa.model.freezing import freeze
from docfloqa.settings import Freezing

PLOTS = [figures.ablation_metrics, figures.training_validation_metrics, figures.compare_finetune]
STUDIES = {
    "full": {},
    "one ratio": {"ratios": (0.33,), "seeds": (0,), "epochs": 1, "documents": 1},
    "zero": {"seeds": (0,), "epochs": 2, "ability": (0.0, 0.0), "documents": 5},
    "other ratios": {"ratios": (0.1, 0.5, 0.9), "documents": 5, "missing": 2},
}


@pytest.fixture(scope="module")
def studies():
    return {name: write_study("figures-" + name.replace(" ", "-"), **given) for name, given in STUDIES.items()}


@pytest.fixture(scope="module")
def validation():
    return validation_of()


def texts(figure):
    """Every text that is drawn; ticks outside of an axis have texts too, which are not."""
    drawn = []
    draw = Text.draw

    def record(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        draw(text, renderer)

    with patch.object(Text, "draw", record):
        figure.draw_without_rendering()
    return drawn


def said(figure):
    return [text.get_text() for text in texts(figure)]


def overlapping(figure):
    """Pairs of texts whose boxes share more than a hair."""
    # An annotation's own extent would include its pointer.
    boxes = [(text.get_text(), Text.get_window_extent(text).padded(-1)) for text in texts(figure)]
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


def check_pdf(content):
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content and b"/FontFile2" in content
    assert b"CreationDate" not in content


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.__name__)
def test_every_figure_of_every_study(plot, name, studies):
    figure = plot(studies[name])
    assert isinstance(figure, Figure)
    assert figure.get_figwidth() in (style.ONE_COLUMN, style.TWO_COLUMNS)
    assert overlapping(figure) == []
    if name == "full":
        check_pdf(style.render(figure, "pdf"))


def test_the_same_bytes_every_time(studies):
    figure, another = (figures.compare_finetune(studies["full"]) for _ in range(2))
    once = {kind: style.render(figure, kind) for kind in style.FORMATS}
    # Whatever was drawn before.
    for kind in reversed(style.FORMATS):
        assert style.render(figure, kind) == style.render(another, kind) == once[kind]


def test_a_reader_s_own_settings_change_nothing(studies):
    pdf = style.render(figures.compare_finetune(studies["full"]), "pdf")
    with plt.rc_context({"pdf.fonttype": 3, "font.size": 20, "lines.linewidth": 5}):
        assert style.render(figures.compare_finetune(studies["full"]), "pdf") == pdf


def test_a_ratio_has_one_look_and_no_two_ratios_share_it():
    looks = [style.mark(ratio) for ratio in RATIOS]
    assert looks == [style.mark(ratio) for ratio in RATIOS]
    for part in ("color", "marker", "linestyle"):
        assert len({str(look[part]) for look in looks}) == len(RATIOS)
    grey = [sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), to_rgb(look["color"]), strict=True)) for look in looks]
    assert min(abs(a - b) for a, b in combinations(grey, 2)) > 0.1


def test_lines_are_means_over_seeds_and_bands_are_intervals_over_documents(studies):
    study = studies["full"]
    curves = figures.compare_finetune(study).axes[0]
    means = 100 * study.predictions.groupby(["vision_trainable", "epoch"])["anls"].mean()
    assert len(curves.lines) == len(curves.collections) == len(RATIOS)
    table = figures.scores(study).query("metric == 'anls'")
    for ratio, line, band in zip(RATIOS, curves.lines, curves.collections, strict=True):
        assert list(line.get_ydata()) == pytest.approx(means[ratio].tolist())
        rows = table[table["vision_trainable"] == ratio]
        corners = band.get_paths()[0].vertices[:, 1]
        assert corners.max() == pytest.approx(100 * rows["high"].max())
        assert corners.min() == pytest.approx(100 * rows["low"].min())


def test_loss_panels_show_both_losses(studies):
    study = studies["full"]
    loss = figures.training_validation_metrics(study).axes[0]
    validation, training = loss.lines
    rows = study.epochs.query("vision_trainable == 0").groupby("epoch")[["val_loss", "train_loss"]].mean()
    assert list(validation.get_ydata()) == pytest.approx(rows["val_loss"].tolist())
    assert list(training.get_ydata()[1:]) == pytest.approx(rows["train_loss"].tolist()[1:])


def test_ablation_shows_shares_of_parameters_and_single_seeds(studies):
    ax = figures.ablation_metrics(studies["full"]).axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0\n0", "33\n51", "66\n79", "100\n100"]
    by_seed = studies["full"].epochs.query("epoch == 3 and vision_trainable == 1")["anls"]
    dots = [line for line in ax.lines if line.get_marker() == "."]
    assert len(dots) == len(RATIOS)
    assert sorted(dots[-1].get_ydata()) == pytest.approx(sorted(100 * by_seed))


def test_scores_are_drawn_from_zero(studies):
    for name in ("full", "zero"):
        assert figures.compare_finetune(studies[name]).axes[0].get_ylim()[0] == 0


def test_the_pipeline_is_florence_2_base():
    """The committed drawing says what the code computes; each text stands before its outline as a comment."""
    drawn = re.findall("<!-- (.*) -->", style.MODEL_PIPELINE.read_text())
    with torch.device("meta"):
        model = Florence2ForDocVQA(base_config())
    for ratio in RATIOS:
        share = freeze(model, Freezing(ratio)).table().loc["vision encoder, parameters", "share"]
        assert f"= {percent(share)} of the vision encoder's parameters" in drawn, ratio
    vision = base_config().vision_config
    for stage, (depth, width) in enumerate(zip(vision.depths, vision.embed_dim, strict=True)):
        place = drawn.index(f"stage {stage + 1}")
        assert drawn[place + 1 : place + 3] == [f"{depth} block{'s' * (depth > 1)}", f"{width}-d"]


def test_examples_are_chosen_by_rule(studies, validation):
    figure = figures.qualitative_examples(studies["full"], validation)
    asked = sorted(validation["questionId"])
    # The middles of four stretches of 30 among 120 questions.
    expected = [validation[validation["questionId"].index(asked[place])]["question"] for place in (15, 45, 75, 105)]
    shown = [text.replace("\n", " ") for text in said(figure)]
    assert [text for text in shown if text.startswith("What is")] == expected
    assert all("$" in question and "\\noletter" in question for question in expected)
    assert overlapping(figure) == []
    check_pdf(style.render(figure, "pdf"))


def test_examples_show_the_first_seed_s_answers(studies, validation):
    shown = said(figures.qualitative_examples(studies["full"], validation, count=1))
    rows = studies["full"].predictions.query("question_id == 'q015-0' and seed == 0")
    for query, name in (
        ("vision_trainable == 0 and epoch == 0", "before training"),
        ("vision_trainable == 0 and epoch == 3", "after, 0 % of vision trained"),
        ("vision_trainable == 1 and epoch == 3", "after, 100 % of vision trained"),
    ):
        row = rows.query(query).iloc[0]
        label = f"{name}: ANLS {row['anls']:.2f}"
        assert shown[shown.index(label) + 1] == (row["prediction"] or "(nothing)")


@pytest.mark.parametrize("name", ["one ratio", "zero"])
def test_examples_of_small_studies(name, studies, validation):
    figure = figures.qualitative_examples(studies[name], validation, count=5)
    count = min(5, studies[name].predictions["question_id"].nunique())
    assert said(figure).count("question") == count
    style.render(figure, "png")


def test_examples_of_another_data_set_are_refused(studies):
    other = validation_of(1).map(lambda row: {"questionId": "x" + row["questionId"]})
    with pytest.raises(ValueError, match="none of the 4 questions"):
        figures.qualitative_examples(studies["full"], other)


def test_long_texts_are_cut_and_stay_in_their_column(studies, validation):
    study = write_study("figures-long", (0.0,), (0,), documents=30)
    study.first_answers["prediction"] = study.last_answers["prediction"] = "a word " * 50 + "\x07\n"
    figure = figures.qualitative_examples(study, validation)
    cut = [text for text in said(figure) if text.startswith("a word")]
    assert cut and all(text.endswith("…") and text.count("\n") == 1 for text in cut)
    assert overlapping(figure) == []


@pytest.fixture
def displayed(monkeypatch):
    """What `display` is called with."""
    calls = []
    monkeypatch.setattr(style, "display", lambda data, **options: calls.append((data, options)))
    return calls


@pytest.mark.parametrize("drawing", [True, False])
def test_a_figure_is_shown_once_with_its_texts_and_whether_it_is_a_drawing(displayed, drawing):
    figure, ax = plt.subplots()
    if not drawing:
        style.page(ax, Image.new("L", (9, 9)))
    style.show(figure, caption="what it is", alt="what one sees")
    assert not plt.fignum_exists(figure.number)
    ((data, options),) = displayed
    assert set(data) == {"application/pdf", "image/png", *(["image/svg+xml"] if drawing else [])} and options["raw"]
    about = {"alt": "what one sees", "caption": "what it is", "drawing": drawing}
    assert options["metadata"] == dict.fromkeys(data, about)
    assert base64.b64decode(data["application/pdf"]).startswith(b"%PDF")
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert not drawing or ("<svg" in data["image/svg+xml"] and "<dc:date>" not in data["image/svg+xml"])


def test_a_figure_is_published_whole_as_pdf_and_png_and_shown(displayed, studies):
    style.publish(figures.compare_finetune(studies["full"]), "published", "curve", "caption", "alt")
    paths = [figures_folder("published") / "curve.pdf", figures_folder("published") / "curve.png"]
    assert sorted(figures_folder("published").iterdir()) == paths
    check_pdf(paths[0].read_bytes())
    width, _ = struct.unpack(">II", paths[1].read_bytes()[16:24])
    assert width == round(style.TWO_COLUMNS * style.DPI)
    ((data, _),) = displayed
    assert base64.b64decode(data["application/pdf"]) == paths[0].read_bytes()


@pytest.mark.parametrize("name", ["one ratio", "zero"])
def test_a_run_has_its_scores_and_losses(name, studies):
    study = studies[name]
    epochs = study.epochs[study.epochs["run"] == study.runs["run"].iloc[0]].reset_index(drop=True)
    settings = study.settings.replace(vision_trainable=study.runs["vision_trainable"].iloc[0])
    figure = figures.run_progress(epochs, settings)
    assert overlapping(figure) == []
    assert {"ANLS", "exact match", "validation", "training"} <= set(said(figure))


def test_studies_side_by_side_show_the_score_before_training_in_each(studies):
    figure = figures.across_studies([studies["full"], studies["one ratio"]])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [studies["full"].name, studies["one ratio"].name]
    for ax, name in zip(figure.axes, ("full", "one ratio"), strict=True):
        before = studies[name].epochs.query("epoch == 0")["anls"].mean()
        [line] = [line for line in ax.lines if line.get_linestyle() == "--" and len(line.get_xdata()) == 2]
        assert line.get_ydata()[0] == pytest.approx(100 * before)
    check_pdf(style.render(figure, "pdf"))
