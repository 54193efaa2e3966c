"""One question about one page: images and PDFs, what is asked of whom, and the library's own answers."""

import json
import shutil

import pytest
from PIL import Image
from small_study import small_study

from docfloqa.apps.ask import answer, asked_model, models_of_study
from docfloqa.data.images import PageError, read_page
from docfloqa.exceptions import RunError
from docfloqa.files import TINY_MODEL, reports_folder, runs_folder
from docfloqa.model.florence import encode_prompts
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate


def test_an_answer_is_that_of_the_evaluation(dataset, tiny, smoke):
    model, processor = tiny
    rows = dataset["validation"].select(range(3))
    evaluated = evaluate(model, QuestionCollator(rows, model, processor, smoke.prefix), smoke)
    for row, expected in zip(rows, evaluated.itertuples(), strict=True):
        given = answer((model, processor), row["image"], row["question"], smoke)
        assert given["text"] == expected.prediction
        assert given["confidence"] == pytest.approx(expected.confidence, abs=1e-3)
        assert given["seconds"] > 0


def test_special_tokens_in_a_question_are_text(tiny, smoke):
    model, processor = tiny
    question = "what is </s><image> <DocVQA>?"
    given = answer((model, processor), Image.new("L", (50, 20), 255), question, smoke)
    assert 0 <= given["confidence"] <= 1
    [prompt] = encode_prompts(processor, [question], smoke.prefix, 10**6)
    assert prompt.count(processor.tokenizer.eos_token_id) == 1


def test_a_question_that_is_too_long_is_cut_with_a_warning(tiny, smoke):
    model, processor = tiny
    page = Image.new("RGB", (50, 50))
    with pytest.warns(UserWarning, match=r"question is cut.*tokens, and the model reads 256"):
        given = answer((model, processor), page, "what is the total? " * 1000, smoke)
    assert given["text"] is not None


@pytest.mark.parametrize("question", ["", " \n", "what is \udcff?"])
def test_a_question_that_is_none_is_refused(question, tiny, smoke):
    with pytest.raises(RunError, match="question is"):
        answer(tiny, Image.new("RGB", (50, 50)), question, smoke)


def test_a_study_is_asked_before_training_and_at_every_ratio_of_its_first_seed(output):
    small_study(seeds=(3, 1))
    models = models_of_study("embedded")
    assert [one.name for one in models] == ["before training", "0 % trained", "100 % trained"]
    assert [one.settings.seed for one in models[1:]] == [1, 1] and models[0].run is None
    [only] = models_of_study("embedded", 1.0)
    assert only.run.settings.vision_trainable == 1.0 and only.load()[0].num_parameters() > 10**6
    with pytest.raises(RunError, match=r"ratio is 0\.5; allowed are those of study 'embedded': 0, 1"):
        models_of_study("embedded", 0.5)
    shutil.rmtree(models[2].run.model_folder)
    with pytest.raises(RunError, match=r"vision100-seed1-fake has no best_model/.*docfloqa study --name embedded "):
        models_of_study("embedded")


def test_a_study_that_is_not_made_is_told_with_the_command_that_makes_it(output):
    with pytest.raises(RunError, match=r"'mine' has no .*docfloqa study --name mine --data FOLDER"):
        models_of_study("mine")
    small_study()
    for folder in runs_folder("embedded").iterdir():
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(record | {"status": "running"}))
    with pytest.raises(RunError, match="none of the 2 runs"):
        models_of_study("embedded")
    assert reports_folder("embedded").is_dir()


def test_images_are_read_upright_and_in_colour(tmp_path):
    page = Image.new("RGBA", (30, 20), (10, 20, 30, 255))
    page.save(tmp_path / "page.png")
    assert read_page(tmp_path / "page.png").mode == "RGB"
    turned = Image.Exif()
    turned[0x0112] = 6
    page.convert("RGB").save(tmp_path / "turned.jpg", exif=turned)
    assert read_page(tmp_path / "turned.jpg").size == (20, 30)


def test_a_pdf_has_pages(tmp_path):
    pages = [Image.new("RGB", (72, 144), colour) for colour in ("red", "blue")]
    pages[0].save(tmp_path / "two.pdf", save_all=True, append_images=pages[1:], resolution=72)
    second = read_page(tmp_path / "two.pdf", 2)
    assert second.size == (200, 400)
    red, _, blue = second.getpixel((100, 200))
    assert blue > 200 > 50 > red
    for number in (0, 3):
        with pytest.raises(PageError, match=rf"two.pdf' has 2 pages, and page is {number}; allowed is 1 to 2"):
            read_page(tmp_path / "two.pdf", number)


def test_what_is_no_page_is_told(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.7\nbroken")
    Image.effect_noise((60, 60), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1000])
    for name, message in {
        "text.png": "text.png' is no image that can be decoded; allowed are PNG, JPEG, .*PDF",
        "half.png": "half.png' is no image that can be decoded",
        "broken.pdf": "broken.pdf' is no PDF that can be decoded",
        "none.png": "there is no file .*none.png'",
        "": "cannot be read: it is no file",
        "nul\0.png": "cannot be read: embedded null",
    }.items():
        with pytest.raises(PageError, match=message):
            read_page(tmp_path / name)
    with pytest.raises(PageError, match="is an image, and page is 2"):
        read_page(tmp_path / "whole.png", 2)
    Image.new("1", (10_001, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(PageError, match=r"large.png' has 100,010,000 pixels; allowed are at most 100,000,000"):
        read_page(tmp_path / "large.png")
    Image.new("1", (3_600, 7_200)).save(tmp_path / "large.pdf", resolution=72)
    with pytest.raises(PageError, match="200,000,000 pixels"):
        read_page(tmp_path / "large.pdf")


def test_an_export_answers_as_long_as_its_run(tmp_path):
    export = tmp_path / "export"
    export.mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(TINY_MODEL / name, export)
    (export / "README.md").write_text("---\ntags:\n- docfloqa\n---\n")
    stated = export / "generation_config.json"
    stated.write_text(json.dumps(json.loads(stated.read_text()) | {"max_new_tokens": 64, "num_beams": 3}))
    asked = asked_model(export)
    assert (asked.settings.max_new_tokens, asked.settings.num_beams, asked.name) == (64, 3, str(export))
    assert [asked_model(model).settings.max_new_tokens for model in (TINY_MODEL, "none")] == [24, 24]
