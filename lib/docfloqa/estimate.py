"""What a study will take, before it starts: from a short calibration on the machine at hand."""

from __future__ import annotations

import heapq
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict
from huggingface_hub import try_to_load_from_cache
from tqdm.auto import tqdm
from transformers import TrainerCallback

from docfloqa.data import data_checksum, load_checked
from docfloqa.device import describe_device, finish_device, peak_memory, use_device
from docfloqa.evaluation import evaluate
from docfloqa.florence import load_florence
from docfloqa.freezing import freeze
from docfloqa.paths import is_hub_id, resolve
from docfloqa.runs import Run, weights_checksum
from docfloqa.settings import Settings
from docfloqa.stand_in import like_docvqa, random_base_model
from docfloqa.sweep import Slot, available_slots
from docfloqa.training import DocVQATrainer

STEPS, WARM_UP = 24, 4
LONGEST = 60.0  # seconds of training steps for one ratio
EVALUATED = 192  # questions
RANDOM_ANSWER = 16  # tokens; a random model never ends an answer, and DocVQA's are rarely longer
# Published sizes of DocVQA (Mathew et al., WACV 2021): questions and pages.
DOCVQA = {"train": (39_463, 10_194), "validation": (5_349, 1_286)}
# What a study does beside its runs, in seconds on two cores: it asks the kernel, checks the data, executes and
# exports the notebooks that report (the embedded study's, see reports/log.md).
BESIDE_RUNS = 85.0


class CalibrationError(RuntimeError):
    """A calibration whose process died: most likely the run would not fit in memory either."""


@dataclass(frozen=True)
class Calibration:
    """What one ratio takes on one slot: seconds of each part, peak memory in MiB, sizes in bytes."""

    start_seconds: float
    caching_seconds_per_page: float
    step_seconds: float
    evaluation_seconds_per_question: float
    save_seconds: float
    memory_mib: float
    gpu_mib: float
    state_bytes_per_page: int
    cached_sub_blocks: int
    model_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What a study will take: one row per ratio, the totals, and what stood in for what is not at hand."""

    ratios: pd.DataFrame
    hours: float
    memory_gib: float
    disk_gib: float
    device: dict[str, Any]
    slots: int
    stand_ins: list[str]

    def __str__(self) -> str:
        device = f"{self.device['name']}, {self.slots} at a time"
        total = (
            f"the study: {_duration(self.hours)}, at most {self.memory_gib:.1f} GiB of memory and "
            f"{self.disk_gib:.1f} GiB on disk ({device})"
        )
        table = self.ratios.round(2).to_string(index=False)
        return "\n".join([table, *(f"stood in for {one}" for one in self.stand_ins), total])


def estimate(
    settings: Settings, ratios: Sequence[float] = (0.0, 0.33, 0.66, 1.0), seeds: Sequence[int] = (0,)
) -> Estimate:
    """Time, memory and disk of the study that `sweep` would make with these arguments on this machine.

    For every ratio, some steps of training, an evaluation and a checkpoint are made for real, in processes of
    their own, as many side by side as the study would have. A model of the hub that is not in its cache is
    stood in for by one of Florence-2-base's size, data of the hub by drawn pages in DocVQA's numbers;
    nothing is downloaded, and what stands in is kept under `data/`. States that a GPU keeps in its memory
    are not in `gpu_mib`.

    Raises `DataError`, `ModelError` or `SettingsError` as `sweep` does, and `CalibrationError` when a
    calibration does not survive.
    """
    stand_ins: list[str] = []
    model = _model(settings, stand_ins)
    if model != settings.model:
        settings = settings.replace(model=model, max_new_tokens=min(RANDOM_ANSWER, settings.max_new_tokens))
    dataset, sizes = _data(settings, stand_ins)
    device = describe_device()
    slots: SimpleQueue[Slot] = SimpleQueue()
    places = available_slots(device)
    for slot in places:
        slots.put(slot)
    with tempfile.TemporaryDirectory() as scratch:
        dataset.save_to_disk(Path(scratch, "sample"))
        variants = [settings.replace(vision_trainable=ratio) for ratio in sorted(ratios, reverse=True)]
        with ThreadPoolExecutor(len(places)) as pool:
            asked = [pool.submit(_in_a_slot, variant, slots, scratch) for variant in variants]
            progress = tqdm(asked, desc="calibrating", unit="ratio")
            calibrations = {
                variant.vision_trainable: one.result()
                for variant, one in zip(variants, progress, strict=True)
            }
    rows = [_row(ratio, calibrations[ratio], settings, sizes) for ratio in ratios]
    # What the first seed's run has kept, the others find.
    runs = [
        (row["run_minutes"] - (row["caching_minutes"] if place else 0)) / 60
        for row in rows
        for place in range(len(seeds))
    ]
    pages = sizes["train"][1] + sizes["validation"][1]
    # Runs of ratios with the same frozen beginning share its states; the resized images are shared by all.
    states = {one.cached_sub_blocks: one.state_bytes_per_page for one in calibrations.values()}
    side = _page_bytes(settings)
    # The weights after the last epoch and those of the best one.
    models = [2 * calibrations[ratio].model_bytes for ratio in ratios for _ in seeds]
    checkpoints = sorted((one.checkpoint_bytes for one in calibrations.values()), reverse=True)
    disk = sum(models) + sum(checkpoints[: len(places)])
    if settings.vision_cache:
        cached = pages * (side + sum(size for boundary, size in states.items() if boundary))
        disk += min(cached, settings.cache_gib * 2**30)
    busy = sorted((one.memory_mib for one in calibrations.values()), reverse=True)[: len(places)]
    return Estimate(
        pd.DataFrame(rows),
        hours=makespan(runs, len(places)) + BESIDE_RUNS / 3600,
        memory_gib=sum(busy) / 2**10,
        disk_gib=disk / 2**30,
        device=device,
        slots=len(places),
        stand_ins=stand_ins,
    )


def makespan(durations: Sequence[float], slots: int) -> float:
    """When the last of some runs ends that are begun the longest first, each in the next free slot."""
    free = [0.0] * slots
    for duration in sorted(durations, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def calibrate(settings: Settings, slot: Slot, scratch: str, asked: float) -> Calibration:
    """A few steps, an evaluation and a checkpoint of one run on a sample of its data, in this process."""
    use_device(slot.gpu, slot.threads)
    os.environ["DOCFLOQA_OUTPUT"] = tempfile.mkdtemp(dir=scratch)
    dataset = DatasetDict.load_from_disk(str(Path(scratch, "sample")))
    network, processor = load_florence(settings.model, settings.prefix)
    weights = weights_checksum(network)
    chosen = settings.unit, settings.side, settings.counted, settings.lora
    freezing = freeze(network, settings.vision_trainable, *chosen)
    # One epoch over the sample, whose length the trainer takes from the data.
    run = Run.open(settings.replace(epochs=1), weights, data_checksum(dataset))
    trainer = DocVQATrainer(run, network, processor, dataset, freezing)
    start_seconds = time.time() - asked
    trainer.use_states()
    clock = Clock()
    trainer.add_callback(clock)
    trainer.args.eval_strategy = "no"
    trainer.train()
    collator = trainer.validation_collator
    finish_device()
    begun = time.perf_counter()
    evaluate(network, collator, settings)
    evaluation = time.perf_counter() - begun
    memory = peak_memory()
    pages = sum(len(images.first_place) for images in trainer.images.values())
    first = collator.states.load(collator.pages[0])
    network.save_pretrained(run.folder / "model")
    return Calibration(
        start_seconds=start_seconds,
        caching_seconds_per_page=run.record["caching_seconds"] / pages,
        step_seconds=statistics.mean(clock.steps[min(WARM_UP, len(clock.steps) - 1) :]),
        evaluation_seconds_per_question=evaluation / len(dataset["validation"]),
        save_seconds=clock.saving,
        memory_mib=memory["resident_mib"],
        gpu_mib=memory.get("gpu_mib", 0.0),
        state_bytes_per_page=first.nbytes,
        cached_sub_blocks=run.record["cached_sub_blocks"],
        model_bytes=_bytes(run.folder / "model"),
        checkpoint_bytes=_bytes(run.checkpoints),
    )


class Clock(TrainerCallback):
    """Seconds of every step, from the end of the one before, and of saving a checkpoint after the last."""

    def __init__(self):
        self.steps: list[float] = []
        self.saving = 0.0

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Start."""
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Note a step."""
        finish_device()
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.last = now
        if len(self.steps) > WARM_UP and sum(self.steps) > LONGEST:
            control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        """Note the checkpoint."""
        self.saving = time.perf_counter() - self.last


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 2 else f"{60 * hours:.1f} minutes"


def _in_a_slot(settings: Settings, slots: SimpleQueue[Slot], scratch: str) -> Calibration:
    slot = slots.get()
    try:
        # A process of its own, started afresh, as a run's kernel is: its memory is its own.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(calibrate, settings, slot, scratch, time.time()).result()
    except BrokenProcessPool:
        raise CalibrationError(
            f"the calibration at vision_trainable {settings.vision_trainable:g} died, most likely for want of "
            "memory; try a smaller batch_size or gradient_checkpointing"
        ) from None
    finally:
        slots.put(slot)


def _model(settings: Settings, stand_ins: list[str]) -> str:
    source = resolve(settings.model)
    if not is_hub_id(source) or isinstance(try_to_load_from_cache(source, "config.json"), str):
        return settings.model
    stand_ins.append(
        f"model {settings.model}: a model of Florence-2-base's size with random weights, "
        f"answers of at most {RANDOM_ANSWER} tokens"
    )
    return str(random_base_model())


def _data(settings: Settings, stand_ins: list[str]) -> tuple[DatasetDict, dict[str, tuple[int, int]]]:
    """A sample of the data, and questions and pages of each split in full."""
    wanted = {"train": (STEPS + WARM_UP) * settings.batch_size, "validation": EVALUATED}
    limits = {"train": settings.train_questions, "validation": settings.validation_questions}
    if is_hub_id(resolve(settings.data)):
        stand_ins.append(f"data {settings.data}: drawn pages, counted as DocVQA's")
        documents = {split: math.ceil(questions / 3) for split, questions in wanted.items()}
        drawn, _ = load_checked(
            settings.replace(
                data="synth",
                validation_data=None,
                synth_scale="full",
                synth_documents=documents["train"],
                synth_validation_documents=documents["validation"],
            )
        )
        dataset = DatasetDict({split: like_docvqa(rows) for split, rows in drawn.items()})
        sizes = {}
        for split, (questions, pages) in DOCVQA.items():
            used = min(limits[split] or questions, questions)
            sizes[split] = (used, math.ceil(pages * used / questions))
    else:
        dataset, _ = load_checked(settings)
        sizes = {split: (len(rows), len(set(rows["page"]))) for split, rows in dataset.items()}
    # An evaluation always groups questions by page.
    batching = {"train": settings.batching, "validation": "by_image"}
    return DatasetDict(
        {split: _sample(rows, wanted[split], batching[split]) for split, rows in dataset.items()}
    ), sizes


def _sample(rows: Dataset, questions: int, batching: str) -> Dataset:
    """The first questions; of as many pages as there are where a batch of the whole data would hardly share one."""
    if batching == "by_image":
        return rows.select(range(min(questions, len(rows))))
    seen: dict[str, int] = {}
    rank = []
    for place, page in enumerate(rows["page"]):
        seen[page] = seen.get(page, 0) + 1
        rank.append((seen[page], place))
    return rows.select(sorted(place for _, place in sorted(rank)[:questions]))


def _row(ratio: float, one: Calibration, settings: Settings, sizes: dict[str, tuple[int, int]]) -> dict:
    (training, training_pages), (validation, validation_pages) = sizes["train"], sizes["validation"]
    steps = math.ceil(training / settings.batch_size)
    caching = one.caching_seconds_per_page * (training_pages + validation_pages)
    # Before training, after every epoch, and once on wrong pages.
    evaluations = (settings.epochs + 2) * validation * one.evaluation_seconds_per_question
    epochs = settings.epochs * (steps * one.step_seconds + one.save_seconds)
    return {
        "vision_trainable": ratio,
        "samples_per_second": settings.batch_size / one.step_seconds,
        "caching_minutes": caching / 60,
        "training_minutes": epochs / 60,
        "evaluation_minutes": evaluations / 60,
        "run_minutes": (one.start_seconds + caching + epochs + evaluations) / 60,
        "memory_mib": one.memory_mib,
        "gpu_mib": one.gpu_mib,
    }


def _page_bytes(settings: Settings) -> int:
    processor = load_florence(settings.model, settings.prefix)[1]
    size = processor.image_processor.size
    return 3 * size["height"] * size["width"]


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
