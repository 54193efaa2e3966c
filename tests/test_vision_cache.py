"""Cached states give what the whole vision tower gives, and a stale or broken one is never read."""

from collections import namedtuple

import numpy as np
import pytest
import torch

from docfloqa import vision_cache
from docfloqa.batches import Pages, QuestionCollator
from docfloqa.data import data_checksum
from docfloqa.florence import load_florence, vision_sub_blocks
from docfloqa.freezing import freeze
from docfloqa.runs import Run, weights_checksum
from docfloqa.settings import UNITS, Settings
from docfloqa.training import DocVQATrainer
from docfloqa.vision_cache import CachedPages, cache_folder, cache_states


def losses_and_answers(settings: Settings, dataset, monkeypatch) -> tuple[list[float], list[str]]:
    """The loss of every step and the last epoch's answers of a run."""
    model, processor = load_florence(settings.model)
    weights = weights_checksum(model)
    freezing = freeze(model, settings.vision_trainable, settings.unit)
    trainer = DocVQATrainer(
        Run.open(settings, weights, data_checksum(dataset)), model, processor, dataset, freezing
    )
    losses = []
    compute_loss = trainer.compute_loss

    def recorded(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(trainer, "compute_loss", recorded)
    return losses, trainer.fit().predictions()["prediction"].tolist()


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ratio", [0.0, 0.33, 0.66, 1.0])
def test_fifty_steps_with_and_without_the_cache_agree(ratio, unit, dataset, output, monkeypatch):
    settings = Settings.profile("smoke", vision_trainable=ratio, unit=unit, batch_size=5, epochs=8)
    cached, answers = losses_and_answers(settings, dataset, monkeypatch)
    plain, same = losses_and_answers(settings.replace(vision_cache=False), dataset, monkeypatch)
    assert len(cached) >= 50 and cached == pytest.approx(plain, rel=1e-5)
    assert answers == same
    assert cache_folder().is_dir() == (ratio < 1)


@pytest.fixture
def pages(tiny, dataset):
    return Pages(dataset["train"], tiny[1])


def files() -> dict[str, float]:
    return {path.name: path.stat().st_mtime_ns for path in cache_folder().iterdir()}


def test_the_model_goes_on_from_the_states(tiny, pages, dataset, smoke, output):
    model, processor = tiny
    plain = QuestionCollator(dataset["train"], model, processor, "token")([0, 4, 9])
    places = plain.pop("places")
    with torch.no_grad():
        expected = model(**plain).logits
        for boundary in range(1, len(vision_sub_blocks(model)) + 1):
            states = cache_states({"train": pages}, model, boundary, smoke)["train"]
            batch = QuestionCollator(dataset["train"], model, processor, "token", states)(places.tolist())
            batch.pop("places")
            assert model.vision_start == boundary and batch["pixel_values"].shape[1] > 3
            assert torch.allclose(model(**batch).logits, expected, atol=1e-4)
            model.vision_start = 0


def test_runs_with_the_same_prefix_share_it(tiny, pages, smoke, output):
    CachedPages(pages, tiny[0], 3, smoke)
    before = files()
    with torch.no_grad():
        tiny[0].lm_head.weight.add_(1)
    CachedPages(pages, tiny[0], 3, smoke)
    assert files() == before


@pytest.mark.parametrize("changed", ["a frozen weight", "the boundary", "the precision", "the image size"])
def test_a_stale_entry_is_never_read(tiny, pages, smoke, output, changed):
    model = tiny[0]
    first = CachedPages(pages, model, 2, smoke)
    boundary, settings = 2, smoke
    if changed == "a frozen weight":
        with torch.no_grad():
            next(vision_sub_blocks(model)[1][1].parameters()).mul_(1.5)
    elif changed == "the boundary":
        boundary = 1
    elif changed == "the precision":
        settings = smoke.replace(precision="bf16")
    else:
        pages.processor.image_processor.size = {"height": 96, "width": 96}
    second = CachedPages(pages, model, boundary, settings)
    assert not {path for path, _ in first.files.values()} & {path for path, _ in second.files.values()}


def test_a_broken_file_is_named_and_made_again(tiny, pages, smoke, output):
    states = CachedPages(pages, tiny[0], 2, smoke)
    page, (path, _) = next(iter(states.files.items()))
    good = states[page]
    for content in (b"", path.read_bytes()[:200], b"not an array"):
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=f"{path.name} cannot be read .* it is made again"):
            again = CachedPages(pages, tiny[0], 2, smoke)
        assert torch.equal(again[page], good)


def test_states_that_do_not_fit_are_not_cached(tiny, pages, smoke, output, monkeypatch):
    with pytest.warns(UserWarning, match=r"limit \(cache_gib\) is 0.0001 GiB .* going on without a cache"):
        splits = cache_states({"train": pages}, tiny[0], 3, smoke.replace(cache_gib=1e-4))
    assert splits["train"] is pages and tiny[0].vision_start == 0
    usage = namedtuple("usage", "free")(vision_cache.SPARE_BYTES + 10)
    monkeypatch.setattr(vision_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.warns(UserWarning, match="0.00 GiB are free"):
        assert cache_states({"train": pages}, tiny[0], 3, smoke)["train"] is pages
    assert not list(cache_folder().iterdir())


def test_states_are_as_many_as_distinct_pages(tiny, pages, smoke, output):
    states = CachedPages(pages, tiny[0], 2, smoke)
    stored = sum(len(np.load(path)) for path in {path for path, _ in states.files.values()})
    assert stored == len(set(pages.of_question)) < len(pages.of_question)
