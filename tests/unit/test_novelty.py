"""Pages that do not look like those that a model was trained on: told of strangers, not of its own kind."""

import copy

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFilter

from docfloqa import verbs
from docfloqa.apps import ask as asking
from docfloqa.apps.ask import UNLIKE, Asked, is_unlike, novelty
from docfloqa.apps.export import export_run
from docfloqa.data.load import load_docvqa
from docfloqa.data.novelty import PagesRead, page_statistics
from docfloqa.model.florence import load_florence
from docfloqa.settings import Settings
from docfloqa.training.trainer import DocVQATrainer


def pages_of(rows) -> list[Image.Image]:
    return [rows[int(place)]["image"] for place in pd.Series(rows["page"]).drop_duplicates().index]


@pytest.fixture(scope="module")
def drawn():
    settings = Settings.profile("embedded", synth_documents=60, synth_validation_documents=30)
    data = load_docvqa(settings)
    training, validation = pages_of(data["train"]), pages_of(data["validation"])
    return PagesRead.of(training, validation[::2]), validation[1::2]


def strangers() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 9, 3), dtype=np.uint8)).resize((900, 1200))
    receipt = Image.new("RGB", (500, 1500), "#fefefe")
    draw = ImageDraw.Draw(receipt)
    for row in range(30, 1470, 40):
        draw.text((40, row), f"ARTICLE {row}      {row / 100:.2f}", fill="#333333", font_size=28)
    square = receipt.crop((0, 0, 500, 500)).filter(ImageFilter.GaussianBlur(2))
    return {"photograph": coarse, "receipt": receipt, "blurred": square, "blank": Image.new("L", (160, 160), 255)}


def test_drawn_pages_pass_and_strangers_are_told(drawn):
    read, others = drawn
    told = [is_unlike(read.novelty(page)) for page in others]
    assert np.mean(told) <= 0.1
    assert {name: is_unlike(read.novelty(page)) for name, page in strangers().items()} == dict.fromkeys(
        strangers(), True
    )


def test_a_page_of_any_mode_and_size_has_statistics():
    for mode in ("1", "L", "LA", "RGB", "CMYK"):
        for size in ((1, 1), (3000, 2), (160, 160)):
            assert np.isfinite(page_statistics(Image.new(mode, size))).all()


def test_the_threshold_is_the_stated_share_of_validation_pages(drawn):
    read, others = drawn
    again = PagesRead.of(others[:5], others)
    assert np.quantile([again.novelty(page) for page in others], 0.99) == pytest.approx(1)
    assert PagesRead(**vars(read)) == read


def test_pages_that_are_all_alike_leave_room():
    page = Image.new("L", (210, 297), 250)
    read = PagesRead.of([page], [page, Image.new("L", (216, 279), 245)])
    assert read.novelty(page) < 1 and np.isfinite(read.threshold) and read.threshold > 0


def test_asking_says_that_a_page_is_unlike_in_place_of_a_confidence(drawn, tiny, smoke, tmp_path, monkeypatch):
    model, processor = copy.deepcopy(tiny[0]), tiny[1]
    model.config.pages_read = vars(drawn[0])
    models = [Asked("before training", None, smoke), Asked("trained", None, smoke)]
    monkeypatch.setattr(asking, "models_of_study", lambda *_: models)
    monkeypatch.setattr("docfloqa.runs.results.Study.load", lambda _: None)
    loaded = iter([tiny, (model, processor)] * 2)
    monkeypatch.setattr(Asked, "load", lambda self: next(loaded))
    strangers()["receipt"].save(tmp_path / "receipt.png")
    drawn[1][0].save(tmp_path / "drawn.png")
    data, text = verbs.ask(str(tmp_path / "receipt.png"), "What is the total?")
    assert data["novelty"] > 1 and text.count(UNLIKE) == 2 and "sure" not in text
    data, text = verbs.ask(str(tmp_path / "drawn.png"), "What is the total?")
    assert 0 < data["novelty"] < 1 and text.count("% sure") == 2 and UNLIKE not in text
    assert novelty(tiny[0], drawn[1][0]) is None


@pytest.mark.long
def test_a_models_pages_are_kept_with_it_and_with_its_export(output, dataset):
    run = DocVQATrainer(Settings.profile("smoke", epochs=1), dataset, {}).fit()
    page = dataset["train"][0]["image"]
    found = novelty(run.load()[0], page)
    assert 0 < found <= 1 < novelty(run.load()[0], strangers()["receipt"])
    exported, _ = load_florence(export_run(run, output / "mine"))
    assert novelty(exported, page) == found
