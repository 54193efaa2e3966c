"""Widgets without a browser: change a control, see what is shown change; the limits of uploads; the demo's page."""

import json
from io import BytesIO

import ipywidgets
import pandas as pd
import pytest
from datasets import DatasetDict
from fake_study import RATIOS, validation_of, write_study
from ipywidgets.widgets.widget_description import DescriptionWidget
from PIL import Image

from docfloqa.analysis.changes import compared
from docfloqa.apps import playground as playing
from docfloqa.apps.ask import Asked
from docfloqa.apps.browser import BEFORE, DocumentBrowser, PredictionComparer, page_html, table_html
from docfloqa.apps.demo import STATIC, demo_config, demo_notebook
from docfloqa.apps.monitor import SweepMonitor, epochs_so_far, states, sweep_curves
from docfloqa.apps.playground import Playground
from docfloqa.data import images as uploads
from docfloqa.data.images import PageError, open_upload
from docfloqa.data.load import SPLITS
from docfloqa.exceptions import RunError
from docfloqa.files import runs_folder
from docfloqa.settings import Settings
from docfloqa.study.kernels import Manager

MARKUP = "<script>alert(1)</script> & $x_1$"


def file_of(kind: str, size: tuple[int, int] = (60, 80), pages: int = 1) -> bytes:
    buffer = BytesIO()
    first, *others = [Image.new("RGB", size, (40 * place,) * 3) for place in range(pages)]
    further = {"save_all": True, "append_images": others} if kind == "PDF" else {}
    first.save(buffer, kind, **further)
    return buffer.getvalue()


def controls_of(widget: ipywidgets.Widget) -> list[ipywidgets.Widget]:
    children = getattr(widget, "children", ())
    return [widget, *(one for child in children for one in controls_of(child))]


def test_text_and_tables_are_shown_as_text():
    html = table_html(pd.DataFrame({MARKUP: [MARKUP, "x" * 200]}), MARKUP)
    assert "<script" not in html and html.count("&lt;script&gt;") == 3 and "x" * 200 in html
    assert "<script" not in page_html(Image.new("L", (5, 5)), MARKUP)


def test_the_browser_filters_by_split_type_and_words(dataset):
    browser = DocumentBrowser(dataset)
    pages = {(split, page) for split in SPLITS for page in dataset[split]["page"]}
    assert {value for _, value in browser.pages.options} == pages
    browser.split.value = "validation"
    assert {split for _, (split, _) in browser.pages.options} == {"validation"}
    row = dataset["validation"][len(dataset["validation"]) - 1]
    browser.words.value = row["question"].upper()
    assert row["page"] in {page for _, (_, page) in browser.pages.options}
    assert "questions on" in browser.found.value
    browser.pages.value = ("validation", row["page"])
    assert row["question"] in browser.table()["question"].tolist()
    assert row["document_id"] in browser.view.value and "<img" in browser.view.value
    browser.kind.value = row["question_types"][0]
    assert browser.pages.options
    browser.words.value = "no question says this"
    assert not browser.pages.options and browser.table().empty and "No page" in browser.view.value
    browser.words.value = ""
    assert "<img" in browser.view.value


def test_a_data_set_with_markup_is_browsed_as_text(dataset):
    rows = dataset["validation"].select(range(2))
    rows = rows.map(lambda row: {**row, "question": MARKUP, "document_id": MARKUP, "answers": [MARKUP]})
    browser = DocumentBrowser(DatasetDict(train=rows, validation=rows))
    assert "<script" not in browser.view.value and "&lt;script&gt;" in browser.view.value


@pytest.fixture
def comparer(output):
    return PredictionComparer(write_study(), validation_of())


def test_differences_are_sorted_and_paired(comparer):
    frame = comparer.frame
    assert frame["difference"].is_monotonic_decreasing and len(frame) == 120
    turned = compared(comparer.answers[comparer.second.value], comparer.answers[comparer.first.value])
    assert sorted(turned["difference"]) == pytest.approx(sorted(-frame["difference"]))
    assert len(comparer.answers) == 1 + 2 * len(RATIOS)


def test_any_two_runs_are_compared_and_a_question_shows_its_page(comparer):
    shown = comparer.view.value
    comparer.first.value = "33 % trained, seed 0"
    assert comparer.first.value in comparer.view.value and comparer.view.value != shown
    comparer.changes.value = -1
    assert all(label.startswith("-") for label, _ in comparer.questions.options)
    labels = [float(label.split()[0]) for label, _ in comparer.questions.options]
    assert labels == sorted(labels)
    comparer.questions.value = comparer.questions.options[3][1]
    assert "<img" in comparer.view.value and "{invoice}" in comparer.view.value
    comparer.second.value = comparer.first.value
    assert not comparer.questions.options and comparer.table().empty
    assert "No question" in comparer.view.value


def test_the_comparers_table_has_both_ends(comparer):
    comparer.first.value = "0 % trained, seed 0"
    signs = [text[0] for text in comparer.table(3)["ANLS, difference"]]
    assert signs == ["+"] * 3 + ["-"] * 3


def test_a_question_that_the_data_lost_says_so(output):
    comparer = PredictionComparer(write_study(), validation_of(documents=1))
    lost = [question for _, question in comparer.questions.options if not question.startswith("q000")]
    comparer.questions.value = lost[-1]
    assert "no such question" in comparer.view.value and "<img" not in comparer.view.value


def begin(study: str, run: str, epochs: int, doing: str, time: float) -> None:
    """A run that is going on, as its files tell it."""
    folder = runs_folder(study) / run
    (folder / "epochs").mkdir(parents=True)
    for epoch in range(epochs):
        row = {"epoch": epoch, "anls": 0.1 * epoch, "val_loss": 2.0 - 0.1 * epoch}
        (folder / "epochs" / f"epoch-{epoch:04d}.json").write_text(json.dumps({"row": row}))
    settings = Settings.profile("embedded", study=study, vision_trainable=0.5, epochs=3).to_dict()
    (folder / "run.json").write_text(json.dumps({"status": "running", "settings": settings, "error": None}))
    progress = {"epochs_done": epochs - 0.5, "epochs": 3, "doing": doing, "time": time}
    (folder / "progress.json").write_text(json.dumps(progress))


def test_the_monitor_follows_runs_from_their_files(output, monkeypatch):
    monkeypatch.setattr("docfloqa.apps.monitor.time.time", lambda: 1000.0)
    monitor = SweepMonitor("fake")
    assert "docfloqa study --name fake --data FOLDER" in monitor.view.value
    assert epochs_so_far("fake").empty and states("fake").empty
    write_study(ratios=(0.0, 1.0), seeds=(0,), missing=2, arms=("side",))
    begin("fake", "vision000-seed99-fake", 2, f"training {MARKUP}", 990.0)
    monitor.again.click()
    table = states("fake").set_index("run")
    assert table.loc["vision000-seed99-fake", ["status", "epochs", "ANLS (%)"]].tolist() == [
        "running",
        "1.5 of 3",
        "10.0",
    ]
    assert table.loc["vision000-seed100-fake", "status"] == "not begun"
    assert table.loc["vision100-seed0-fake", "status"] == "complete"
    assert table.index.str.startswith("side").any()
    assert "<img" in monitor.view.value and "<script" not in monitor.view.value
    assert "silent" not in monitor.view.value and table.index[0] == "vision000-seed99-fake"
    # Arms train the same shares in other ways: they are in the table only.
    assert not epochs_so_far("fake")["run"].str.startswith("side").any()
    monkeypatch.setattr("docfloqa.apps.monitor.time.time", lambda: 1990.0)
    monitor.again.click()
    assert "silent for 17 minutes" in monitor.view.value


def test_every_run_has_a_line_in_its_ratios_look(output):
    write_study(ratios=(0.0, 1.0), seeds=(0, 1))
    scores, losses = sweep_curves(epochs_so_far("fake")).axes
    assert len(scores.lines) == len(losses.lines) == 4
    assert len({line.get_linestyle() for line in scores.lines}) == 2


def test_following_looks_again_and_ends_when_every_run_has_ended(output):
    for study, missing in {"going": 1, "ended": 0}.items():
        write_study(study, ratios=(0.0,), seeds=(0,), missing=missing)
        monitor = SweepMonitor(study)
        monitor.view.value, monitor.follow.playing = "", True
        monitor.follow.value += 1
        assert study in monitor.view.value and monitor.follow.playing == bool(missing)


@pytest.fixture
def playground(output, monkeypatch, smoke):
    models = [Asked(BEFORE, None, smoke), Asked("100 % trained", None, smoke)]
    monkeypatch.setattr(playing.ask, "models_of_study", lambda name: models)
    return Playground("smoke")


def upload(playground: Playground, name: str, content: bytes) -> None:
    """What the browser sends when a file is chosen."""
    named = {"name": name, "size": len(content)}
    playground.upload._handle_custom_msg({**named, "arrived": False}, [])
    if len(content) <= playground.upload.largest:
        playground.upload._handle_custom_msg({**named, "arrived": True}, [memoryview(content)])


def test_of_folds_the_pages_are_those_that_the_models_did_not_train_on(output, monkeypatch, smoke):
    folds = smoke.replace(folds=2)
    models = [Asked(BEFORE, None, folds), Asked("100 % trained, fold 1 of 2", None, folds.replace(fold=1))]
    monkeypatch.setattr(playing.ask, "models_of_study", lambda name: models)
    shown = {label for label, _ in Playground("smoke").document.options}
    assert shown == {*playing.load_docvqa(folds.replace(fold=1), "validation")["document_id"]}


def test_the_playground_answers_at_once_and_again(playground):
    table = playground.table()
    assert table["model"].tolist() == [BEFORE, "100 % trained"] and table["ANLS"].iloc[0] != "–"
    assert f"{playground.asked} Accepted: " in playground.answered.value and playground.note == ""
    playground.question.value = f"What is {MARKUP}?"
    playground.button.click()
    assert playground.asked.endswith("?") and playground.table()["ANLS"].tolist() == ["–", "–"]
    assert "Accepted" not in playground.answered.value
    assert "<script" not in playground.answered.value + playground.view.value
    assert "&lt;script&gt;" in playground.answered.value
    playground.question.value = "  "
    playground.button.click()
    assert "question is" in playground.status.value and playground.asked == ""


def test_no_bar_is_left_beside_the_playground(output, monkeypatch, smoke, capsys):
    def with_a_bar(*chosen, load=playing.load_docvqa):
        print("checking validation: 100%")
        return load(*chosen)

    monkeypatch.setattr(playing.ask, "models_of_study", lambda name: [Asked(BEFORE, None, smoke)])
    monkeypatch.setattr(playing, "load_docvqa", with_a_bar)
    Playground("smoke")
    assert capsys.readouterr().out == ""


@pytest.mark.long
@pytest.mark.parametrize(
    ("where", "error"),
    [("load", OSError(28, "No space left")), ("answer", MemoryError()), ("attention", RunError("it is damaged"))],
)
def test_what_cannot_be_loaded_or_asked_is_said_in_a_sentence(playground, where, error):
    def fail(*_):
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Asked if where == "load" else playing.ask, where, fail)
        for one in (playground, Playground("smoke")):
            one._loaded.clear()
            one.button.click()
            said = one.view.value if where == "attention" else one.status.value
            assert (str(error) or "MemoryError") in said and said.endswith(".</p>")
            assert "Asking" not in one.status.value and not one.button.disabled
            one.model.value = BEFORE
    playground.button.click()
    assert playground.status.value == "<p></p>" and len(playground.answers) == 2


def test_the_other_models_answer_where_one_cannot(playground):
    broken = Asked("100 % trained", None, playground.models[1].settings.replace(model="nowhere"))
    playground.models[1] = broken
    playground._loaded.pop(broken.name)
    playground.button.click()
    assert list(playground.answers.index) == [BEFORE] and "nowhere" in playground.status.value
    assert playground.model.value == broken.name and not playground.token.options


def test_the_playground_shows_where_each_model_looked(playground):
    assert playground.model.value == "100 % trained"
    first, caption = playground.view.value, playground.caption()
    playground.token.value = len(playground.token.options) - 1
    assert playground.view.value != first and "(end)" in playground.caption() != caption
    playground.model.value = BEFORE
    assert BEFORE in playground.caption() and len(playground.figure().axes) == 2


def test_another_document_brings_its_own_questions(playground):
    before = playground.page.value
    playground.document.value = playground.document.options[1][1]
    row = playground.rows[playground.document.value]
    assert playground.page.value != before and playground.question.value == row["question"]
    assert row["question"] == playground.question.options[0]


def test_a_scan_is_uploaded_asked_and_left_again(playground):
    chosen = playground.document.value
    upload(playground, f"scan {MARKUP}.pdf", file_of("PDF", pages=3))
    assert playground.document.value is None and not playground.question.options
    assert "<script" not in playground.page.value + playground.status.value
    first = playground.image.getpixel((5, 5))
    playground.number.value = 3
    assert playground.image.getpixel((5, 5)) != first
    playground.number.value = 4
    assert "has 3 pages" in playground.status.value and playground.image is None
    playground.number.value = 3
    playground.question.value = "What is this?"
    playground.button.click()
    assert playground.table()["ANLS"].tolist() == ["–", "–"]
    upload(playground, "notes.txt", b"no image")
    assert "notes.txt: the file is no image" in playground.status.value
    playground.document.value = chosen
    assert playground.question.options
    playground.number.value = 1
    assert playground.document.value == chosen


def nothing_stands_beside(playground: Playground) -> bool:
    """Whether no answer, no attention and none of its tokens is shown."""
    return not (playground.answered.value or playground.view.value or playground.token.options or playground.asked)


def test_a_page_that_does_not_arrive_leaves_no_other_page_to_ask_about(playground):
    chosen = playground.document.value
    too_large = {"name": "large.png", "size": 12 * 2**20, "arrived": False}
    lost = {"name": "lost.png", "size": 1000, "arrived": False}
    sentences = {"large.png": "the file has 12.0 MiB; allowed are PNG", "lost.png": "lost.png has not arrived yet"}
    for told in (too_large, lost, too_large):
        assert playground.table()["answer"].size and playground.image
        playground.upload._handle_custom_msg(told, [])
        for _ in range(2):
            assert sentences[told["name"]] in playground.status.value
            assert playground.image is None and not playground.page.value and nothing_stands_beside(playground)
            playground.button.click()
        # The same file again is told again.
        playground.document.value = chosen
        playground.button.click()
    upload(playground, "small.png", file_of("PNG"))
    assert "The page is small.png" in playground.status.value and nothing_stands_beside(playground)
    upload(playground, "notes.txt", b"no image")
    assert playground.image is None and not playground.page.value


def test_answers_go_with_their_question_and_their_page(playground):
    for change in (
        lambda: setattr(playground.question, "value", "What else?"),
        lambda: setattr(playground.document, "value", playground.document.options[1][1]),
        lambda: upload(playground, "scan.png", file_of("PNG")),
    ):
        assert playground.answered.value and playground.view.value
        change()
        assert nothing_stands_beside(playground)
        playground.button.click()


def test_enter_asks(playground):
    playground.question.value = "What is new?"
    playground.question._handle_custom_msg({"event": "submit"}, [])
    assert playground.asked == "What is new?" and "What is new?" in playground.answered.value


def test_a_long_question_leaves_room_for_its_answers(playground):
    playground.question.value = "why " * 1250
    playground.button.click()
    assert "question is cut" in playground.status.value and len(playground.asked) > 4900
    assert playground.answered.value.count("why") < 60 and playground.caption().count("why") < 60


def test_without_runs_the_model_before_training_answers_and_the_command_is_named(output, monkeypatch, smoke):
    monkeypatch.setattr(playing.Settings, "profile", lambda *_, **__: smoke)
    playground = Playground("nothing-yet")
    assert playground.table()["model"].tolist() == [BEFORE]
    assert "docfloqa study --name nothing-yet --data FOLDER" in playground.children[0].value


def test_every_control_has_a_label_and_a_tooltip(playground, comparer, dataset):
    for widget in (playground, comparer, DocumentBrowser(dataset), SweepMonitor("fake")):
        for one in controls_of(widget):
            if isinstance(one, DescriptionWidget | ipywidgets.Button) and not isinstance(one, ipywidgets.HTML):
                assert one.description and one.tooltip, type(one)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "PDF"])
def test_pages_are_read_from_images_and_documents(kind):
    page = open_upload(file_of(kind, (600, 800)))
    assert page.mode == "RGB" and max(page.size) <= uploads.UPLOAD["longest"]
    assert page.width / page.height == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no image"),
        (b"<html>", "no image"),
        (file_of("GIF"), "no image"),
        (file_of("PNG")[:60], "no image"),
        (b"%PDF-1.7 nothing", "damaged"),
        (file_of("PDF"), "has 1 page, and page is 2; allowed is 1"),
    ],
)
def test_what_is_no_page_is_refused(content, message):
    with pytest.raises(PageError, match=message):
        uploads.decode_page(content, number=2, **uploads.UPLOAD)


def test_large_files_and_pages_are_refused():
    with pytest.raises(PageError, match=r"8\.0 MiB; allowed are PNG, JPEG and PDF"):
        open_upload(b"x" * (uploads.LARGEST_UPLOAD + 1))
    for kind, pixels in {"PNG": "4,800", "PDF": "37,0.."}.items():
        with pytest.raises(PageError, match=f"has {pixels} pixels; allowed are at most 100"):
            uploads.decode_page(file_of(kind), (kind,), largest=100)
    large = uploads.decode_page(file_of("PDF", (600, 800)), ("PDF",), longest=300)
    assert large.size == (225, 300)


def test_a_file_that_keeps_the_reader_busy_is_given_up(monkeypatch):
    monkeypatch.setattr(uploads, "SECONDS", 0.001)
    with pytest.raises(PageError, match="not read within"):
        open_upload(file_of("PNG"))


def test_a_file_that_ends_the_reader_is_reported(monkeypatch):
    monkeypatch.setattr(uploads.sys, "executable", "false")
    with pytest.raises(PageError, match="stopped the program"):
        open_upload(file_of("PNG"))


def test_the_demo_serves_one_notebook_for_one_study():
    notebook = demo_notebook("mine")
    sources = [cell.source for cell in notebook.cells]
    assert any('study = "mine"' in source for source in sources)
    assert not [cell for cell in notebook.cells if STATIC in cell.metadata.get("tags", [])]
    assert sources[0] == "# Ask a document" and notebook.metadata["title"] == "Ask a document (mine)"
    assert sum(cell.cell_type == "markdown" for cell in notebook.cells) == 2
    assert (
        sources[-1].startswith("<details><summary>How this works</summary>") and "# The playground" not in sources[-1]
    )
    config = demo_config(8866)
    assert config.VoilaConfiguration.preheat_kernel
    # Its kernels have a manager of their own class, which none of the study's settings reach.
    assert config.MappingKernelManager.transport_encryption == Manager().transport_encryption == "auto"
    assert config.Voila.ip == "127.0.0.1" and config.Voila.auto_token
    assert config.VoilaConfiguration.file_allowlist == []
    assert "default-src 'self'" in config.Voila.tornado_settings["headers"]["Content-Security-Policy"]
