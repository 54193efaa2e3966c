"""What a study will take, before it starts: from a short calibration on the machine at hand."""

import heapq
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm

from docfloqa.data.load import load_checked
from docfloqa.data.schema import DOCVQA, SPLITS, TEST
from docfloqa.exceptions import StudyError
from docfloqa.files import TINY_MODEL, data_folder, is_hub_id, resolve, whole_folder
from docfloqa.model.device import describe_device
from docfloqa.model.florence import Florence2ForDocVQA, base_config, generation_config, load_florence, load_processor
from docfloqa.settings import Settings
from docfloqa.study.calibration import MEASURED, SAMPLE, WARM_UP, calibrate
from docfloqa.study.kernels import Slot, in_own_process
from docfloqa.study.sweep import settings_of_runs
from docfloqa.study.workers import available_slots, parameters
from docfloqa.training.trainer import CHECKPOINTS

# What a run's time, memory and disk depend on; runs that agree in all of it are of one kind.
COSTLY = ("vision_trainable", "parts", "unit", "side", "counted", "lora", "lora_rank", "lora_targets")
STEPS = 24
MINUTE = 60.0  # seconds of measuring, of which every kind of run has its share
EVALUATED = 192  # questions
DRAWN = {"train": 24, "validation": 8}  # documents in place of the hub's; one takes half a second
RANDOM_ANSWER = 16  # tokens; a random model never ends an answer, and DocVQA's are rarely longer
PAGE_SIZE = 768
QUESTIONS_PER_PAGE = 3.9  # of DocVQA's training split: 39,463 questions on 10,194 pages
# What a study does beside its runs, in seconds on two cores: it asks the kernel, checks the data, executes and
# exports the notebooks that report (the embedded study's, see reports/log.md).
BESIDE_RUNS = 85.0


@dataclass(frozen=True)
class Estimate:
    """What a study will take: one row per kind of run, the totals, and what stood in for what is not at hand."""

    kinds: pd.DataFrame
    hours: float
    memory_gib: float
    disk_gib: float
    device: dict[str, Any]
    slots: int
    stand_ins: list[str]
    measured: str

    def __str__(self) -> str:
        lasting = f"{self.hours:,.1f} hours" if self.hours >= 2 else f"{60 * self.hours:.1f} minutes"
        total = (
            f"the study: {lasting}, at most {self.memory_gib:.1f} GiB of memory and {self.disk_gib:.1f} GiB on disk "
            f"({self.device['name']}, {self.slots} at a time)"
        )
        table = self.kinds.round(2).to_string(index=False)
        return "\n".join([table, *(f"stood in for {one}" for one in self.stand_ins), self.measured, total])


def estimate(
    settings: Settings, ratios: Sequence[float], seeds: Sequence[int], arms: Sequence[str] = (), jobs: int | None = None
) -> Estimate:
    """Time, memory and disk of the study that `sweep` would make with these arguments on this machine.

    Every kind of run (see `COSTLY`) is calibrated in its share of `MINUTE`, as many side by side as the study has; of a
    model too slow for that, kinds not begun within `MINUTE` count as the one that trains most. Nothing is downloaded: a
    model of the hub that is not in its cache is one of Florence-2-base's size, data of the hub are drawn pages in
    DocVQA's numbers. Not counted: states in a GPU's memory, stopping early, the scoring on bad scans of a study with
    arms. Raises what `sweep` does for what is given, and `StudyError` when a calibration does not survive.
    """
    planned, stand_ins = settings_of_runs(settings, ratios, seeds, arms, jobs), []
    source = resolve(settings.model)
    if is_hub_id(source) and not parameters(source):
        stand_ins.append(
            f"model {settings.model}: a model of Florence-2-base's size with random weights, "
            f"answers of at most {RANDOM_ANSWER} tokens"
        )
        changes = {"model": str(random_base_model()), "max_new_tokens": min(RANDOM_ANSWER, settings.max_new_tokens)}
        settings, planned = settings.replace(**changes), planned.map(lambda run: run.replace(**changes))
    runs = chain(planned.ratios, *planned.variants)
    kinds = {run: settings.replace(**{name: getattr(run, name) for name in COSTLY}) for run in runs}
    sample, sizes = _data(settings, stand_ins)
    device = describe_device()
    slots = available_slots(device, settings)[:jobs]
    largest, *others = sorted(set(kinds.values()), key=lambda kind: -kind.vision_trainable)
    # The least that is trained comes second: whatever is left out lies between the two.
    calibrated = _calibrate([largest, *others[-1:], *others[:-1]], slots, sample)
    if left := {*kinds.values()} - calibrated.keys():
        calibrated |= dict.fromkeys(left, calibrated[largest])
        stand_ins += [f"{len(left)} of {len(others) + 1} kinds of run: that which trains most, the minute being over"]
    each = pd.DataFrame([run.to_dict() | calibrated[kind] | sizes[run.fold] for run, kind in kinds.items()])
    found = pd.DataFrame(calibrated.values())
    measured = "measured: " + "; ".join(
        f"{name} {least:g}" + f" to {most:g}" * (most > least)
        for name, least, most in found[[*MEASURED]].agg(["min", "max"]).T.itertuples()
    )
    each["samples_per_second"] = each["batch_size"] / each["step"]
    each["caching_minutes"] = each["pages"] * (each["decoding_a_page"] + each["caching_a_page"]) / 60
    batches = np.ceil(each["training"] / each["batch_size"])
    steps = np.ceil(batches / each["gradient_accumulation_steps"])
    passes = (each["max_steps"].astype(float) / steps).fillna(each["epochs"])
    each["epochs"] = np.ceil(passes).astype(int)
    each["training_minutes"] = (passes * batches * each["step"] + each["epochs"] * each["save"]) / 60
    # All are answered before training and on wrong pages, and after the last and the best epoch where others have some.
    some = np.minimum(each["eval_questions"].astype(float).fillna(np.inf), each["validation"])
    answered = each["validation"] * np.where(some < each["validation"], 4, 2) + each["epochs"] * some + each[TEST]
    each["evaluation_minutes"] = answered * each["evaluation_a_question"] / 60
    each["run_minutes"] = each["start"] / 60 + each.filter(regex="_minutes$").sum(axis=1)
    # What one run has kept, others find: pages those with the same data, states those with the same frozen part.
    data = ["synth_shift", "fold"]
    states = [*data, "cached_sub_blocks"]
    shared = each["decoding_a_page"] * each.duplicated(data) + each["caching_a_page"] * each.duplicated(states)
    hours = each["run_minutes"] / 60 - each["pages"] * shared / 3600
    key = [*(name for name in COSTLY if each[name].nunique() > 1), "epochs"]
    each["runs"] = each.groupby(key)["seed"].transform("size")
    table = each.drop_duplicates(key, ignore_index=True)
    # As many as run side by side.
    busy = found[["memory_mib", "checkpoint_bytes"]].apply(lambda sizes: sizes.nlargest(len(slots)).sum())
    # One checkpoint more than is kept, while it is written; the weights after the last epoch and those of the best one.
    disk = (CHECKPOINTS + 1) * busy["checkpoint_bytes"] + 2 * each["model_bytes"].sum()
    if settings.vision_cache:
        # Runs of kinds with the same frozen beginning share its states; the resized images are shared by all.
        kept = each[each["cached_sub_blocks"] > 0].drop_duplicates(states)
        size = load_florence(settings.model, settings.prefix)[1].image_processor.size
        images = 3 * size["height"] * size["width"] * each.drop_duplicates(data)["pages"].sum()
        disk += min(images + (kept["pages"] * kept["state_bytes"]).sum(), settings.cache_gib * 2**30)
    table = table[[*key, "runs"]].join([table.filter(regex="_per_second$|_minutes$"), table.filter(regex="_mib$")])
    hours = makespan(hours, len(slots)) + BESIDE_RUNS / 3600
    memory_gib, disk_gib = busy["memory_mib"] / 2**10, disk / 2**30
    return Estimate(table, hours, memory_gib, disk_gib, device, len(slots), stand_ins, measured)


def makespan(durations: Sequence[float], slots: int) -> float:
    """When the last of some runs ends that are begun the longest first, each in the next free slot."""
    free = [0.0] * slots
    for duration in sorted(durations, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _calibrate(kinds: Sequence[Settings], slots: Sequence[Slot], sample: DatasetDict) -> dict[Settings, dict]:
    """`calibrate` for each kind that there is time for, in a process of its own; each thread has a slot."""
    free, own, begun, slow = [*slots], threading.local(), time.monotonic(), threading.Event()

    def take() -> None:
        own.slot = free.pop()

    def one(kind: Settings) -> dict[str, float] | None:
        if slow.is_set() and time.monotonic() - begun > MINUTE:
            return None
        try:
            found = in_own_process(calibrate, kind, own.slot, scratch, time.time(), MINUTE * len(slots) / len(kinds))
        except BrokenProcessPool:
            raise StudyError(
                f"the calibration at vision_trainable {kind.vision_trainable:g} died, most likely for want of "
                "memory; try a smaller batch_size or gradient_checkpointing"
            ) from None
        if found["answers"] == 1:
            slow.set()
        return found

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(slots), initializer=take) as pool:
        sample.save_to_disk(Path(scratch, SAMPLE))
        made = tqdm(pool.map(one, kinds), total=len(kinds), desc="calibrating", unit="kind of run", disable=None)
        return {kind: found for kind, found in zip(kinds, made, strict=True) if found}


def random_base_model() -> Path:
    """The folder of a random model of Florence-2-base's size, 0.5 GB, with the tiny one's vocabulary; made once."""
    folder = data_folder() / "cache" / "florence2-base-random"
    if not folder.is_dir():
        processor = load_processor(TINY_MODEL)
        processor.image_processor.size = {"height": PAGE_SIZE, "width": PAGE_SIZE}
        processor.image_processor.image_seq_length = (PAGE_SIZE // 32) ** 2 + 1
        config = base_config()
        config.image_token_id = processor.image_token_id
        torch.manual_seed(0)
        model = Florence2ForDocVQA(config).half()
        # As the real one's targets begin.
        model.generation_config.forced_bos_token_id = config.text_config.bos_token_id
        model.generation_config = generation_config(model, max_new_tokens=20)
        with whole_folder(folder) as part:
            model.save_pretrained(part)
            processor.save_pretrained(part)
    return folder


def _data(settings: Settings, stand_ins: list[str]) -> tuple[DatasetDict, dict[int | None, dict[str, int]]]:
    """A sample of the data, and how many questions of either kind, and pages, the runs of each fold have."""
    wanted = {"train": (STEPS + WARM_UP) * settings.batch_size, "validation": EVALUATED}
    folds = range(1, settings.folds + 1) if settings.folds else [None]
    settings = settings.replace(fold=folds[0])
    if is_hub_id(resolve(settings.data)):
        stand_ins.append(f"data {settings.data}: drawn pages, counted as DocVQA's")
        documents = {"synth_documents": max(DRAWN["train"], 2 * settings.batch_size)}
        documents["synth_validation_documents"] = DRAWN["validation"]
        drawn, _ = load_checked(Settings(synth_scale="full", **documents))
        dataset = {split: like_docvqa(rows) for split, rows in drawn.items()}
        counts = np.array([DOCVQA["train"], DOCVQA["validation"]], float)
        tested = min(settings.test_questions, DOCVQA[TEST][0])
        if settings.folds:
            counts = np.outer([1 - 1 / settings.folds, 1 / settings.folds], counts.sum(axis=0))
        limits = [settings.train_questions or np.inf, settings.validation_questions or np.inf]
        counts *= np.minimum(1, limits / counts[:, 0])[:, None]
        (training, more), (validation, pages) = np.ceil(counts.round(6)).astype(int)
        counted = {"training": training, "validation": validation, "pages": more + pages, TEST: tested}
        sizes = dict.fromkeys(folds, counted)
    else:
        dataset, _ = load_checked(settings, SPLITS)
        sizes = {fold: _sizes(load_checked(settings.replace(fold=fold))[0]) for fold in folds}
    for split, rows in dataset.items():
        # Many pages, where a batch of the whole data would hardly share one; an evaluation always groups by page.
        by_image = split == "validation" or settings.batching == "by_image"
        order = np.arange(len(rows)) if by_image else _earlier(rows).argsort(kind="stable")
        dataset[split] = rows.select(order[: wanted[split]])
    return DatasetDict(dataset), sizes


def _sizes(dataset: DatasetDict) -> dict[str, int]:
    pages = sum(len(set(dataset[split]["page"])) for split in SPLITS)
    counts = {"training": len(dataset["train"]), "validation": len(dataset["validation"]), "pages": pages}
    return counts | {TEST: len(dataset.get(TEST, ()))}


def like_docvqa(rows: Dataset) -> Dataset:
    """The first questions of every page, so many that their mean over pages is DocVQA's."""
    page = pd.factorize(np.array(rows["page"]))[0]
    room = np.floor(QUESTIONS_PER_PAGE * (page + 1)) - np.floor(QUESTIONS_PER_PAGE * page)
    return rows.select(np.flatnonzero(_earlier(rows) < room))


def _earlier(rows: Dataset) -> np.ndarray:
    """How many questions of the same page come before each."""
    pages = pd.Series(list(rows["page"]))
    return pages.groupby(pages).cumcount().to_numpy()
