"""What one kind of run takes on this machine: a few steps, an evaluation and a checkpoint, made for real."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from datasets import DatasetDict
from transformers import TrainerCallback

from docfloqa.data.load import data_checksum
from docfloqa.exceptions import StudyError
from docfloqa.model.device import finish_device, peak_memory, use_device
from docfloqa.model.florence import load_florence
from docfloqa.model.freezing import freeze
from docfloqa.runs.identity import weights_checksum
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.study.kernels import Slot
from docfloqa.training.evaluation import evaluate
from docfloqa.training.trainer import DocVQATrainer
from docfloqa.training.vision_cache import cache_states

SAMPLE = "sample"
STEPS, WARM_UP = 24, 4
LONGEST = 60.0  # seconds of training steps for one kind of run


@dataclass(frozen=True)
class Calibration:
    """What one kind of run takes on one slot: seconds of each part, peak memory in MiB, sizes in bytes."""

    start_seconds: float
    decoding_seconds_per_page: float
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


def calibrate_in_a_slot(settings: Settings, slots: SimpleQueue[Slot], scratch: str) -> Calibration:
    """`calibrate` in the next free slot, in a process of its own; raises `StudyError` when that dies."""
    slot = slots.get()
    try:
        # A process of its own, started afresh, as a run's kernel is: its memory is its own.
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as process:
            return process.submit(calibrate, settings, slot, scratch, time.time()).result()
    except BrokenProcessPool:
        raise StudyError(
            f"the calibration at vision_trainable {settings.vision_trainable:g} died, most likely for want of "
            "memory; try a smaller batch_size or gradient_checkpointing"
        ) from None
    finally:
        slots.put(slot)


def end_with_parent() -> None:
    """Let this process end as soon as the one that began it is gone, however that ended."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def calibrate(settings: Settings, slot: Slot, scratch: str, asked: float) -> Calibration:
    """A few steps, an evaluation and a checkpoint of one run on a sample of its data, in this process."""
    use_device(slot.gpu, slot.threads)
    os.environ["DOCFLOQA_OUTPUT"] = tempfile.mkdtemp(dir=scratch)
    dataset = DatasetDict.load_from_disk(str(Path(scratch, SAMPLE)))
    network, processor = load_florence(settings.model, settings.prefix)
    weights = weights_checksum(network)
    freezing = freeze(network, settings.freezing)
    # One epoch over the sample, whose length the trainer takes from the data.
    run = Run.open(settings.replace(epochs=1), weights, data_checksum(dataset))
    trainer = DocVQATrainer(run, network, processor, dataset, freezing)
    start_seconds = time.time() - asked
    begun = time.perf_counter()
    # The resized pages by themselves, which runs share whatever is frozen.
    cache_states(trainer.images, network, 0, settings)
    decoding = time.perf_counter() - begun
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
        decoding_seconds_per_page=decoding / pages,
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


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
