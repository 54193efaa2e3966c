"""One kind of run of a study, measured on a sample of its data: a few steps, some answers, a checkpoint."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from transformers import Florence2Processor, TrainerCallback

from docfloqa.files import folder_bytes
from docfloqa.model.device import compute_device, finish_device, peak_memory, use_device
from docfloqa.model.florence import Florence2ForDocVQA, load_florence
from docfloqa.model.freezing import trained
from docfloqa.settings import Settings
from docfloqa.study.kernels import Slot
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate
from docfloqa.training.trainer import DocVQATrainer
from docfloqa.training.vision_cache import cache_states

SAMPLE, WARM_UP = "sample", 4
# Of the seconds that it may take, these parts are steps and answers.
OF_STEPS, OF_ANSWERS = 0.4, 0.3
# Of a question answered, at most: its page through the vision encoder, backwards as well, and the optimizer's step.
STEP = 3.0
MEASURED = ("steps", "questions in a batch", "answers", "pages")


def calibrate(settings: Settings, slot: Slot, scratch: str, asked: float, seconds: float) -> dict[str, float]:
    """Steps, answers and a checkpoint of one run on a sample of its data: seconds of each part, sizes, how many.

    Takes about so many `seconds` after the start, or one question's step and answer; a step is scaled to the batch.
    """
    use_device(*slot)
    os.environ["DOCFLOQA_OUTPUT"] = tempfile.mkdtemp(dir=scratch)
    dataset = DatasetDict.load_from_disk(str(Path(scratch, SAMPLE)))
    loaded = load_florence(settings.model, settings.prefix)
    start = time.time() - asked
    one, batch, at_once = _seconds_a_question(*loaded, dataset["validation"], settings, seconds), settings.batch_size, 1
    if compute_device().type == "cpu":
        questions = int(OF_STEPS * seconds / (STEP * one))
        batch = max(1, min(batch, questions // 2))
        dataset["train"] = _first(dataset["train"], max(batch, questions // batch * batch))
    else:
        # As long as one takes, so many do.
        at_once = settings.eval_batch_size
    # A question's wrong page is that of another document.
    documents = pd.factorize(np.array(dataset["validation"]["document_id"]))[0]
    fewest, fitting = int((documents == 0).sum()) + 1, int(OF_ANSWERS * seconds / one) * at_once
    dataset["validation"], answers = _first(dataset["validation"], max(fewest, fitting)), 1
    # One epoch over the sample, whose length the trainer takes from the data.
    whole_epoch = {"epochs": 1, "max_steps": None, "early_stopping_patience": None}
    trainer = DocVQATrainer(settings.replace(batch_size=batch, **whole_epoch), dataset, loaded=loaded)
    network, run = trainer.model, trainer.run
    if fitting <= fewest:
        # One page is enough where no further questions are answered.
        trainer.images["validation"] = trainer.images["train"]
    pages = len({name for images in trainer.images.values() for name in images.names})
    begun = time.perf_counter()
    # The resized pages by themselves, which runs share whatever is frozen.
    cache_states(trainer.images, network, 0, settings)
    decoding = time.perf_counter() - begun
    trainer.use_states()
    collator = trainer.validation_collator
    finish_device()
    if fitting > fewest:
        begun, answers = time.perf_counter(), len(dataset["validation"])
        evaluate(network, collator, settings)
        one = (time.perf_counter() - begun) / answers
    before = peak_memory()["resident_mib"]
    clock = _Clock(OF_STEPS * seconds)
    trainer.add_callback(clock)
    trainer.args.eval_strategy = "no"
    trainer.train()
    whole, peak = settings.batch_size / batch, peak_memory()
    # Gradients and AdamW's two numbers do not grow with the batch, activations do.
    grows = max(0.0, peak["resident_mib"] - before - sum(3 * one.nbytes for one in trained(network)) / 2**20)
    checkpoint = [*run.checkpoints.rglob("*.*")]
    return {
        "start": start,
        "decoding_a_page": decoding / pages,
        "caching_a_page": run.record["caching_seconds"] / pages,
        "step": whole * np.diff(clock.times)[min(WARM_UP, len(clock.times) - 2) :].mean(),
        "evaluation_a_question": one,
        "save": clock.saving,
        "memory_mib": peak["resident_mib"] + (whole - 1) * grows,
        "gpu_mib": peak.get("gpu_mib", 0.0),
        "state_bytes": trainer.training_collator.states.stack(trainer.training_collator.pages[:1]).nbytes,
        "cached_sub_blocks": run.record["cached_sub_blocks"],
        # What is not the state of the training.
        "model_bytes": sum(file.stat().st_size for file in checkpoint if file.suffix in (".safetensors", ".json")),
        "checkpoint_bytes": folder_bytes(run.checkpoints),
        **dict(zip(MEASURED, (len(clock.times) - 1, batch, answers, pages), strict=True)),
    }


def _seconds_a_question(
    network: Florence2ForDocVQA, processor: Florence2Processor, rows: Dataset, settings: Settings, seconds: float
) -> float:
    """How long it takes to answer one question, its page through the whole vision encoder."""
    collator = QuestionCollator(_first(rows, 1), network, processor, settings.prefix)
    for _ in range(2):
        begun = time.perf_counter()
        evaluate(network, collator, settings)
        finish_device()
        took = time.perf_counter() - begun
        # The first time a device may only be getting ready.
        if took > seconds / 10:
            break
    return took


def _first(rows: Dataset, count: int) -> Dataset:
    return rows.select(range(min(count, len(rows))))


class _Clock(TrainerCallback):
    """When every batch of training has ended, and how many seconds it took to save a checkpoint after the last."""

    def __init__(self, longest: float):
        self.times: list[float] = []
        self.longest = longest

    def on_substep_end(self, *_, **__):
        finish_device()
        self.times.append(time.perf_counter())

    on_epoch_begin = on_substep_end

    def on_step_end(self, args, state, control, **_):
        self.on_substep_end()
        control.should_training_stop |= self.times[-1] - self.times[0] > self.longest

    def on_save(self, *_, **__):
        self.saving = time.perf_counter() - self.times[-1]
