"""Cached states give what the whole vision tower gives, and a stale or broken one is never read."""

import json
import math
import time
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from damages import empty, flip_a_byte, truncate
from datasets import DatasetDict
from smoke_runs import trainer_of

from docfloqa.model.device import autocast
from docfloqa.model.florence import vision_sub_blocks
from docfloqa.settings import Settings
from docfloqa.training import vision_cache
from docfloqa.training.batches import Pages, QuestionCollator
from docfloqa.training.vision_cache import CachedPages, cache_folder, cache_states, fill


def filled(*args) -> CachedPages:
    """Cached pages whose states are all on the disk."""
    states = CachedPages(*args)
    fill([states], states.settings)
    return states


def cached_bytes() -> int:
    return sum(vision_cache.cached_files().values())


def losses_and_answers(settings: Settings, dataset, monkeypatch) -> tuple[list[float], list[str], int]:
    """The loss of every step and all answers of a run, and how many sub-blocks it had cached."""
    trainer = trainer_of(settings, dataset)
    losses = []
    compute_loss = trainer.compute_loss

    def recorded(*args, **kwargs):
        loss = compute_loss(*args, **kwargs)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(trainer, "compute_loss", recorded)
    run = trainer.fit()
    assert trainer.model.vision_start == 0 and trainer.validation_collator.states is trainer.images["validation"]
    return losses, run.predictions()["prediction"].tolist(), run.record["cached_sub_blocks"]


# Fifty steps are followed, and six with a boundary of every other unit; nothing and everything is the same in all
# (below). What goes on from any other boundary is compared without training.
@pytest.mark.parametrize(
    ("ratio", "unit", "epochs"),
    [
        pytest.param(0.33, "block", 3, marks=pytest.mark.long),
        (0.33, "tensor", 1),
        pytest.param(0.66, "stage", 1, marks=pytest.mark.long),
    ],
)
def test_steps_with_and_without_the_cache_agree(ratio, unit, epochs, dataset, few, output, monkeypatch):
    if epochs > 1:
        few = DatasetDict(train=dataset["train"], validation=few["validation"].select(range(2)))
    # At the smoke profile's rate the losses fall to 0.03 and differences in rounding grow to 3e-5 of them.
    chosen = {"vision_trainable": ratio, "unit": unit, "epochs": epochs}
    settings = Settings.profile("smoke", batch_size=2, learning_rate=1e-4, **chosen)
    cached, answers, sub_blocks = losses_and_answers(settings, few, monkeypatch)
    plain, same, none = losses_and_answers(settings.replace(vision_cache=False), few, monkeypatch)
    assert len(cached) == epochs * math.ceil(len(few["train"]) / 2) and cached == pytest.approx(plain, rel=1e-5)
    assert answers == same
    assert none == 0 < sub_blocks


@pytest.fixture
def pages(tiny, dataset):
    return Pages(dataset["train"], tiny[1])


def files() -> dict[str, float]:
    return {path.name: path.stat().st_mtime_ns for path in cache_folder().iterdir()}


def test_the_model_goes_on_from_the_states(tiny, pages, dataset, smoke, output):
    model, processor = tiny
    plain = QuestionCollator(dataset["train"], model, processor, "token")([0, 4, 9])
    places = plain.pop("index")
    with torch.no_grad():
        expected = model(**plain).logits
        for boundary in range(1, len(vision_sub_blocks(model)) + 1):
            states = cache_states({"train": pages}, model, boundary, smoke)[0]["train"]
            batch = QuestionCollator(dataset["train"], model, processor, "token", states)(places.tolist())
            batch.pop("index")
            assert batch["pixel_values"].shape[1] > 3
            model.vision_start = boundary
            assert torch.allclose(model(**batch).logits, expected, atol=1e-4)
            model.vision_start = 0


def test_runs_with_the_same_prefix_share_it(tiny, pages, smoke, output):
    filled(pages, tiny[0], 3, smoke)
    before = files()
    with torch.no_grad():
        tiny[0].lm_head.weight.add_(1)
    filled(pages, tiny[0], 3, smoke)
    assert files() == before


@pytest.mark.parametrize(
    "changed", ["a frozen weight", "the boundary", "the precision", "the image size", "a library", "the code"]
)
def test_a_stale_entry_is_never_read(tiny, pages, smoke, output, changed, monkeypatch):
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
    elif changed == "a library":
        monkeypatch.setattr(vision_cache, "version", lambda package: "0")
    elif changed == "the code":
        monkeypatch.setattr(vision_cache, "PAGES", 99)
    else:
        pages.processor.image_processor.size = {"height": 96, "width": 96}
    second = CachedPages(pages, model, boundary, settings)
    assert not set(first.chunks) & set(second.chunks)


@pytest.mark.parametrize("damage", [flip_a_byte, truncate, empty])
def test_a_damaged_file_is_named_set_aside_and_made_again(damage, tiny, pages, smoke, output):
    states = filled(pages, tiny[0], 2, smoke)
    page, (path, _) = next(iter(states.files.items()))
    good, content = states.load(page), path.read_bytes()
    damage(path)
    with pytest.warns(UserWarning, match=rf"{path.name} is damaged.* kept as .*{path.name}.damaged and made"):
        again = filled(pages, tiny[0], 2, smoke)
    assert torch.equal(again.load(page), good) and path.read_bytes() == content
    assert path.with_name(f"{path.name}.damaged").is_file()


def test_states_that_do_not_fit_are_not_cached(tiny, pages, smoke, output, monkeypatch):
    splits = {"train": pages}
    with pytest.warns(UserWarning, match=r"may be emptied .* of at most 0.0001 \(cache_gib\) .* without them"):
        assert cache_states(splits, tiny[0], 3, smoke.replace(cache_gib=1e-4)) == (splits, 0)
    usage = namedtuple("usage", "free")(vision_cache.SPARE_BYTES + 10)
    monkeypatch.setattr(vision_cache.shutil, "disk_usage", lambda path: usage)
    with pytest.warns(UserWarning, match="0.00 GiB are free"):
        assert cache_states(splits, tiny[0], 3, smoke) == (splits, 0)
    assert not vision_cache.cached_files()


def test_states_of_other_code_make_room_and_no_others_do(tiny, pages, smoke, output):
    splits = {"train": pages}
    other = cache_folder().with_name("pages0-torch-1") / "state.npy"
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(2**20))
    assert cache_states(splits, tiny[0], 3, smoke)[1] == 3
    # It is in nobody's way.
    assert other.is_file()
    own, gib = set(cache_folder().glob("*.npy")), (cached_bytes() + 2**10) / 2**30
    assert cache_states(splits, tiny[0], 4, smoke.replace(cache_gib=gib))[1] == 4
    assert not other.exists() and set(cache_folder().glob("*.npy")) > own


def test_a_full_disk_still_reads_what_is_there(tiny, pages, smoke, output, monkeypatch):
    splits = {"train": pages}
    assert cache_states(splits, tiny[0], 3, smoke)[1] == 3
    monkeypatch.setattr(vision_cache.shutil, "disk_usage", lambda path: namedtuple("usage", "free")(0))
    assert cache_states(splits, tiny[0], 3, smoke.replace(cache_gib=1e-4))[1] == 3


def test_a_part_that_another_run_renames_meanwhile_does_no_harm(tiny, pages, smoke, output):
    splits = {"train": pages}
    cache_folder().mkdir(parents=True)
    # A link to nothing is listed and has no size, as a part that is gone by then.
    (cache_folder() / ".state.npy.1.part").symlink_to(output / "gone")
    assert cache_states(splits, tiny[0], 3, smoke)[1] == 3


def test_a_disk_that_fills_up_meanwhile_costs_the_cache_only(tiny, pages, smoke, output, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vision_cache, "write_whole", full)
    splits = {"train": pages}
    with pytest.warns(UserWarning, match="cannot be written .*No space left on device"):
        assert cache_states(splits, tiny[0], 3, smoke) == (splits, 0)


def test_bf16_states_are_kept_as_they_are(tiny, pages, smoke, output):
    model, settings = tiny[0], smoke.replace(precision="bf16")
    states = filled(pages, model, 4, settings)
    page = pages.names[0]
    with torch.no_grad(), autocast(settings):
        chunk = pages.stack(next(iter(states.chunks.values())))
        expected = model.vision_states(chunk, 0, 4)[0]
    assert states.load(page).dtype == expected.dtype and torch.equal(states.load(page), expected)


@pytest.mark.parametrize("ratio", [0.0, pytest.param(1.0, marks=pytest.mark.long)])
def test_steps_on_the_disk_in_the_memory_of_the_device_and_without_a_cache_agree(ratio, few, output, monkeypatch):
    settings = Settings.profile("smoke", vision_trainable=ratio, epochs=1, batch_size=2, learning_rate=1e-4)
    cached, answers, sub_blocks = losses_and_answers(settings, few, monkeypatch)
    loads, load = [], CachedPages.load
    monkeypatch.setattr(CachedPages, "load", lambda pages, page: loads.append(page) or load(pages, page))
    monkeypatch.setattr(vision_cache, "free_device_memory", lambda device: 2**30)
    resident, same, _ = losses_and_answers(settings.replace(study="resident"), few, monkeypatch)
    assert (resident, same) == (cached, answers) and len(cached) == 6
    counts = Counter(loads)
    assert len(counts) == len({*few["train"]["page"], *few["validation"]["page"]})
    assert max(counts.values()) <= 3, "a page leaves the disk when its size is asked and when it moves, not at steps"
    plain, same, none = losses_and_answers(settings.replace(vision_cache=False), few, monkeypatch)
    assert cached == pytest.approx(plain, rel=1e-5) and answers == same
    assert none == 0 and (sub_blocks > 0) == (ratio < 1)


@pytest.mark.long
def test_every_image_is_decoded_once_in_a_study(few, output, monkeypatch):
    decoded, load = [], Pages.load
    monkeypatch.setattr(Pages, "load", lambda pages, page: decoded.append(page) or load(pages, page))
    for ratio in (0.0, 1.0):
        trainer_of(Settings.profile("smoke", vision_trainable=ratio, epochs=1 + (ratio == 0)), few).fit()
    distinct = {*few["train"]["page"], *few["validation"]["page"]}
    # One page is decoded beforehand, to learn how large it is.
    assert set(decoded) == distinct and len(decoded) == len(distinct) + 1


def test_runs_that_fill_the_cache_together_share_the_work(tiny, pages, smoke, output, monkeypatch):
    monkeypatch.setattr(vision_cache, "PAGES_PER_FILE", 2)
    computed = []

    class Counted(CachedPages):
        def content(self, chunk):
            # One page alone tells how large a file will be.
            computed.extend(chunk[:1] if len(chunk) > 1 else [])
            return super().content(chunk)

    with ThreadPoolExecutor(3) as runs:
        list(runs.map(lambda _: fill([Counted(pages, tiny[0], 3, smoke)], smoke), range(3)))
    assert len(computed) == len(set(computed)) == 4


def together(boundaries, pages, model, settings, monkeypatch) -> list[int]:
    """What runs that look for room at the same moment cache, in the order of what they want."""
    counted = vision_cache.cached_files

    def slowly() -> dict:
        found = counted()
        time.sleep(0.3)
        return found

    with monkeypatch.context() as patch, ThreadPoolExecutor(len(boundaries)) as runs:
        patch.setattr(vision_cache, "cached_files", slowly)
        made = list(runs.map(lambda boundary: cache_states({"train": pages}, model, boundary, settings), boundaries))
    return [start for _, start in made]


def bytes_of(boundary: int, pages, model, settings) -> int:
    return len(CachedPages(pages, model, boundary, settings).content(pages.names[:1])) * len(pages.names)


def test_runs_that_begin_together_stay_within_the_limit(tiny, pages, smoke, output, monkeypatch):
    model = tiny[0]
    cache_states({"train": pages}, model, 0, smoke)
    one, other = (bytes_of(boundary, pages, model, smoke) for boundary in (3, 4))
    limit = cached_bytes() + max(one, other)
    settings = smoke.replace(cache_gib=(limit + min(one, other) // 2) / 2**30)
    with pytest.warns(UserWarning, match=r"vision states cannot be written .* \(cache_gib\)"):
        starts = together((3, 4), pages, model, settings, monkeypatch)
    assert starts in ([3, 0], [0, 4])
    assert cached_bytes() <= settings.cache_gib * 2**30


def test_states_that_several_runs_want_need_room_once(tiny, pages, smoke, output, monkeypatch):
    model = tiny[0]
    cache_states({"train": pages}, model, 0, smoke)
    settings = smoke.replace(cache_gib=(cached_bytes() + 1.5 * bytes_of(3, pages, model, smoke)) / 2**30)
    # Of a run that was killed: nobody holds its lock.
    room = cache_folder() / "room" / "killed.json"
    room.parent.mkdir(exist_ok=True)
    room.write_text(json.dumps({"states.npy": 2**40}))
    assert together((3, 3, 3), pages, model, settings, monkeypatch) == [3, 3, 3]
    assert not list(room.parent.iterdir())


def test_states_are_as_many_as_distinct_pages(tiny, pages, smoke, output):
    states = filled(pages, tiny[0], 2, smoke)
    stored = sum(len(np.load(path)) for path in states.chunks)
    assert stored == len(pages.names) < len(pages.rows)
