"""What a study will take, before it starts: from a short calibration on the machine at hand."""

from __future__ import annotations

import heapq
import math
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm

from docfloqa.arms import RATIOS, choose_arms
from docfloqa.data.hub import cached_model
from docfloqa.data.load import load_checked
from docfloqa.data.schema import DOCVQA
from docfloqa.files import is_hub_id, resolve
from docfloqa.model.device import describe_device
from docfloqa.model.florence import load_florence
from docfloqa.settings import Settings
from docfloqa.study.kernels import Slot
from docfloqa.study.slots import available_slots
from docfloqa.study.stand_in import like_docvqa, random_base_model
from docfloqa.study.timing import SAMPLE, STEPS, WARM_UP, Calibration, calibrate_in_a_slot
from docfloqa.training.trainer import CHECKPOINTS

# What a run's time, memory and disk depend on; runs that agree in all of it are of one kind.
COSTLY = ("vision_trainable", "unit", "side", "counted", "lora")
EVALUATED = 192  # questions
RANDOM_ANSWER = 16  # tokens; a random model never ends an answer, and DocVQA's are rarely longer
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

    def __str__(self) -> str:
        device = f"{self.device['name']}, {self.slots} at a time"
        total = (
            f"the study: {_duration(self.hours)}, at most {self.memory_gib:.1f} GiB of memory and "
            f"{self.disk_gib:.1f} GiB on disk ({device})"
        )
        table = self.kinds.round(2).to_string(index=False)
        return "\n".join([table, *(f"stood in for {one}" for one in self.stand_ins), total])


def estimate(
    settings: Settings,
    ratios: Sequence[float] = RATIOS,
    seeds: Sequence[int] = (0,),
    arms: Sequence[str] = (),
    jobs: int | None = None,
) -> Estimate:
    """Time, memory and disk of the study that `sweep` would make with these arguments on this machine.

    For every kind of run (see `COSTLY`), some steps of training, an evaluation and a checkpoint are made for
    real, in processes of their own, as many side by side as the study would have. A model of the hub that is
    not in its cache is stood in for by one of Florence-2-base's size, data of the hub by drawn pages in
    DocVQA's numbers; nothing is downloaded, and what stands in is kept under `data/`. Documents of an arm
    under another shift are taken to be as many as the study's. States that a GPU keeps in its memory are not
    in `gpu_mib`. The scoring on bad scans that a study with arms ends with is not counted.

    Raises `DataError`, `ModelError` or `SettingsError` as `sweep` does, and `StudyError` when a
    calibration does not survive.
    """
    chosen = choose_arms(arms, settings)
    runs = [settings.replace(vision_trainable=ratio, seed=seed) for ratio in ratios for seed in seeds]
    runs += [run for arm in chosen for variant in arm.variants for run in variant.runs(settings, seeds)]
    stand_ins: list[str] = []
    model = _model(settings, stand_ins)
    if model != settings.model:
        changes = {"model": model, "max_new_tokens": min(RANDOM_ANSWER, settings.max_new_tokens)}
        settings, runs = settings.replace(**changes), [run.replace(**changes) for run in runs]
    sample, sizes = _data(settings, stand_ins)
    device = describe_device()
    slots: SimpleQueue[Slot] = SimpleQueue()
    places = available_slots(device, settings)[:jobs]
    for slot in places:
        slots.put(slot)
    kinds = list(dict.fromkeys(_kind(run, settings) for run in dict.fromkeys(runs)))
    kinds.sort(key=lambda kind: kind.vision_trainable, reverse=True)
    with tempfile.TemporaryDirectory() as scratch:
        sample.save_to_disk(Path(scratch, SAMPLE))
        with ThreadPoolExecutor(len(places)) as pool:
            asked = [pool.submit(calibrate_in_a_slot, kind, slots, scratch) for kind in kinds]
            progress = tqdm(asked, desc="calibrating", unit="kind of run")
            calibrations = {kind: one.result() for kind, one in zip(kinds, progress, strict=True)}
    differing = [name for name in COSTLY if len({getattr(kind, name) for kind in kinds}) > 1]
    table, hours, cached, models = {}, [], set(), 0
    pages = sizes["train"][1] + sizes["validation"][1]
    for run in dict.fromkeys(runs):
        one = calibrations[_kind(run, settings)]
        key = tuple(getattr(run, name) for name in (*differing, "epochs"))
        row = table.setdefault(
            key, {**dict(zip([*differing, "epochs"], key, strict=True)), "runs": 0, **_row(one, run, sizes)}
        )
        row["runs"] += 1
        # What one run has kept, others find: pages those with the same data, states those with the same frozen part.
        kept = {
            (None, run.synth_shift): one.decoding_seconds_per_page,
            (one.cached_sub_blocks, run.synth_shift): one.caching_seconds_per_page,
        }
        found = pages * sum(seconds for key, seconds in kept.items() if key in cached)
        hours.append(row["run_minutes"] / 60 - found / 3600)
        cached |= kept.keys()
        # The weights after the last epoch and those of the best one.
        models += 2 * one.model_bytes
    checkpoints = sorted((one.checkpoint_bytes for one in calibrations.values()), reverse=True)
    # One more than is kept, while it is written.
    disk = models + sum((CHECKPOINTS + 1) * size for size in checkpoints[: len(places)])
    if settings.vision_cache:
        # Runs of kinds with the same frozen beginning share its states; the resized images are shared by all.
        states = {one.cached_sub_blocks: one.state_bytes_per_page for one in calibrations.values()}
        shifts = {shift for _, shift in cached}
        sizes_of_states = [states[boundary] for boundary, _ in cached if boundary]
        filled = pages * (len(shifts) * _page_bytes(settings) + sum(sizes_of_states))
        disk += min(filled, settings.cache_gib * 2**30)
    busy = sorted((one.memory_mib for one in calibrations.values()), reverse=True)[: len(places)]
    return Estimate(
        pd.DataFrame(table.values()),
        hours=makespan(hours, len(places)) + BESIDE_RUNS / 3600,
        memory_gib=sum(busy) / 2**10,
        disk_gib=disk / 2**30,
        device=device,
        slots=len(places),
        stand_ins=stand_ins,
    )


def _kind(run: Settings, settings: Settings) -> Settings:
    return settings.replace(**{name: getattr(run, name) for name in COSTLY})


def makespan(durations: Sequence[float], slots: int) -> float:
    """When the last of some runs ends that are begun the longest first, each in the next free slot."""
    free = [0.0] * slots
    for duration in sorted(durations, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def _duration(hours: float) -> str:
    return f"{hours:,.1f} hours" if hours >= 2 else f"{60 * hours:.1f} minutes"


def _model(settings: Settings, stand_ins: list[str]) -> str:
    source = resolve(settings.model)
    if not is_hub_id(source) or cached_model(source):
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
    return DatasetDict({split: _sample(rows, wanted[split], batching[split]) for split, rows in dataset.items()}), sizes


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


def _row(one: Calibration, run: Settings, sizes: dict[str, tuple[int, int]]) -> dict:
    (training, training_pages), (validation, validation_pages) = sizes["train"], sizes["validation"]
    steps = math.ceil(training / run.batch_size)
    pages = training_pages + validation_pages
    caching = pages * (one.decoding_seconds_per_page + one.caching_seconds_per_page)
    # Before training, after every epoch, and once on wrong pages.
    evaluations = (run.epochs + 2) * validation * one.evaluation_seconds_per_question
    epochs = run.epochs * (steps * one.step_seconds + one.save_seconds)
    return {
        "samples_per_second": run.batch_size / one.step_seconds,
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
