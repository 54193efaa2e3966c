"""Training steps and evaluations of this study against the published way, and against the machine's limit.

Same weights, questions, batch size, threads and machine; the two take turns, step by step, in one run.
The published way is `published_loop.py`. Run it on a machine that does nothing else:

    .venv/bin/python benchmarks/throughput.py --model tiny --device cpu
    .venv/bin/python benchmarks/throughput.py --model base --device cuda

`tiny` is the shipped model on the embedded study's documents; `base` has Florence-2-base's size with random
weights (speed does not depend on their values), on full pages drawn at 768 x 768 pixels with as many
questions a page as DocVQA has. Writes `reports/benchmarks/throughput-<model>-<device>.json` and `.md`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict
from paper_hours import paper_study_hours
from published_loop import PublishedLoop, load_published
from scipy.stats import bootstrap
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count
from tqdm.auto import tqdm
from transformers import Florence2Processor, TrainerCallback

from docfloqa.analysis.intervals import Interval
from docfloqa.data.load import load_docvqa
from docfloqa.files import PROJECT, write_whole
from docfloqa.model.device import autocast, compute_device, describe_device, finish_device, peak_memory, use_device
from docfloqa.model.device import precision as precision_of
from docfloqa.model.freezing import freeze
from docfloqa.runs.run import git_commit, now
from docfloqa.settings import BATCHINGS, Settings
from docfloqa.study.estimate import like_docvqa, random_base_model
from docfloqa.text import to_markdown
from docfloqa.training.batches import EpochSampler
from docfloqa.training.evaluation import evaluate
from docfloqa.training.trainer import DocVQATrainer
from docfloqa.training.vision_cache import PAGES_PER_FILE, CachedPages, cache_folder

RATIOS = (0.0, 0.33, 0.66, 1.0)
WARM_UP = 3
DOCUMENTS = (120, 60)  # drawn for a base-size model, of training and validation
SCRATCH = "DOCFLOQA_BENCHMARK_SCRATCH"  # tells the processes that measure memory where the documents are
FOLDER = PROJECT / "reports" / "benchmarks"
# Of the published study: the prefix is text, so that the two see the very same prompts.
PREFIX = "text"


def settings_of(model: str, **changes: Any) -> Settings:
    """The embedded study's settings, or those of a base-size model on full drawn pages."""
    if model == "tiny":
        return Settings.profile("embedded", study="benchmark", prefix=PREFIX, **changes)
    chosen = {
        "study": "benchmark",
        "prefix": PREFIX,
        "model": str(random_base_model()),
        "data": "synth",
        "synth_scale": "full",
        "synth_documents": DOCUMENTS[0],
        "synth_validation_documents": DOCUMENTS[1],
        # A random model never ends an answer; DocVQA's are rarely longer.
        "max_new_tokens": 16,
        "allow_cpu": True,
    }
    return Settings.profile("paper", **{**chosen, **changes})


def questions(settings: Settings, model: str) -> DatasetDict:
    """The documents' questions."""
    dataset = load_docvqa(settings)
    if model == "base":
        dataset = DatasetDict({split: like_docvqa(rows) for split, rows in dataset.items()})
    return dataset


def ours(settings: Settings, dataset: DatasetDict) -> DocVQATrainer:
    """The study's own trainer, its states cached."""
    trainer = DocVQATrainer(settings, dataset)
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    # What workers fetch while the other loop computes would be time not counted.
    trainer.args.dataloader_num_workers = 0
    trainer.use_states()
    return trainer


def published(settings: Settings) -> PublishedLoop:
    """The published loop on the native class."""
    # The same pixels as ours, and those of the published script.
    processor = Florence2Processor.from_pretrained(PROJECT / settings.model, backend="pil")
    network = load_published(PROJECT / settings.model).to(compute_device())
    freeze(network, settings)
    return PublishedLoop(network, processor, settings.learning_rate, settings.num_beams, settings.max_new_tokens)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that some work takes, the device's included."""
    finish_device()
    started = time.perf_counter()
    work()
    finish_device()
    return time.perf_counter() - started


def clear_memory() -> None:
    """Let go of what was measured; a trainer and its callback hold on to each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Turns(TrainerCallback):
    """After every step of the trainer, something else; the trainer's own seconds of each step."""

    def __init__(self, other: Callable[[list[int]], None], trainer: DocVQATrainer):
        self.other, self.trainer, self.seconds = other, trainer, []
        self.order: list[int] = []

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Take the order of the epoch's questions, and start the clock of its first step."""
        sampler = self.trainer._get_train_sampler()
        sampler.set_epoch(round(state.epoch))
        self.order, self.begun = list(sampler), state.global_step
        finish_device()
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Stop the clock, let the other one have its turn on the same questions, start it again."""
        finish_device()
        self.seconds.append(time.perf_counter() - self.started)
        size = self.trainer.settings.batch_size
        place = (state.global_step - 1 - self.begun) * size
        self.other(self.order[place : place + size])
        finish_device()
        self.started = time.perf_counter()


def train(trainer: DocVQATrainer, steps: int, other: Callable[[list[int]], None]) -> list[float]:
    """Seconds of every training step after the first ones, something else done between them.

    On a GPU the second time that these steps are made: for a batch of a new shape libraries choose their kernels, and
    ours captures a graph, which in a run of thousands of steps is soon over for both.
    """
    trainer.args.max_steps = steps + WARM_UP
    for _ in range(2 if trainer.model.device.type == "cuda" else 1):
        turns = Turns(other, trainer)
        trainer.add_callback(turns)
        trainer.train()
        trainer.remove_callback(turns)
    if trainer.micro_batch:
        raise RuntimeError(f"memory takes {trainer.micro_batch} questions at a time: this is no step of a whole batch")
    return turns.seconds[WARM_UP:]


def step_flops(trainer: DocVQATrainer, steps: int) -> float:
    """Mean floating point operations of a training step, forward and backward, over `steps` or an epoch of them."""
    model, size = trainer.model, trainer.settings.batch_size
    order = list(trainer._get_train_sampler())
    batches = [order[start : start + size] for start in range(0, len(order) - size + 1, size)][:steps]
    if not batches:
        raise ValueError(f"a batch of {size} is more than the {len(order)} questions that there are")
    if model.device.type == "cpu":
        # The counter knows no formula for the CPU's fused attention.
        model.set_attn_implementation("eager")
    model.train()
    # Padding that is there for few shapes is no work.
    static, trainer.training_collator.static_shapes = trainer.training_collator.static_shapes, False
    formulas = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        for places in batches:
            batch = trainer.training_collator(places)
            batch.pop("index")
            on_device = {name: tensor.to(model.device) for name, tensor in batch.items()}
            with autocast(trainer.settings):
                loss = model(**on_device).loss
            loss.backward()
            model.zero_grad()
    model.set_attn_implementation("sdpa")
    trainer.training_collator.static_shapes = static
    return counter.get_total_flops() / len(batches)


def convolution_backward_flops(gradient, images, weights, *others, out_shape, **more) -> int:
    """Of the gradients that are asked for, of images and weights: each takes what the forward pass does.

    torch's own formula forgets that a depthwise convolution has groups, and counts its weights' gradient as many
    times as there are channels.
    """
    wanted = others[-1][:2]
    return sum(wanted) * conv_flop_count(images, weights, gradient)


def median_interval(values: Sequence[float]) -> Interval:
    """The median with its 95 % bootstrap interval."""
    found = bootstrap((values,), np.median, method="percentile", rng=np.random.default_rng(0))
    return Interval(statistics.median(values), *map(float, found.confidence_interval))


def matrix_product_rate(precision: torch.dtype) -> float:
    """Floating point operations a second of a matrix product on this process's device: its limit."""
    side = 8192 if torch.cuda.is_available() else 1024
    matrix = torch.rand(side, side, device=compute_device()).to(precision)
    timer = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads())
    return 2 * side**3 / timer.blocked_autorange(min_run_time=0.3).mean


def page_seconds(trainer: DocVQATrainer) -> dict[str, float]:
    """Seconds for a page to be decoded and resized, and for its states to be computed, many pages at once."""
    images, model = trainer.images["train"], trainer.model
    chunk, pages = images.names[:PAGES_PER_FILE], CachedPages(images, model, 0, trainer.settings)
    contents: list[bytes] = []
    # Not from memory, where a page that was decoded is kept.
    decoding = timed(lambda: contents.append(pages.content(chunk)))
    found = {"decoding_seconds_per_page": decoding / len(chunk), "states_seconds_per_page": 0.0}
    boundary = trainer.trainable.frozen_prefix
    if boundary:
        pixels = torch.from_numpy(np.load(BytesIO(contents[0])))

        def states() -> None:
            with torch.no_grad(), autocast(trainer.settings):
                model.vision_states(pixels.to(model.device), 0, boundary).cpu()

        model.eval()
        states()
        found["states_seconds_per_page"] = timed(states) / len(chunk)
    return found


def compare_training(
    settings: Settings, dataset: DatasetDict, pairs: int, precision: torch.dtype, counted: int | None = None
) -> dict:
    """One ratio and batching: steps of both, taking turns, and the share of the limit.

    Operations are those of the first `counted` batches, of as many as there are pairs by default.
    """
    trainer, loop = ours(settings, dataset), published(settings)
    flops = step_flops(trainer, counted or pairs)
    filling = page_seconds(trainer)
    theirs: list[float] = []
    if trainer.model.device.type == "cuda":
        # The same steps before: of a long run few come in a shape for which a GPU has to get ready first.
        train(trainer, 2 * pairs, lambda places: None)
    rates = [matrix_product_rate(precision)]
    seconds = train(
        trainer, pairs, lambda places: theirs.append(timed(lambda: loop.training_step(dataset["train"], places)))
    )
    rates.append(matrix_product_rate(precision))
    theirs = theirs[-len(seconds) :]
    ratios = [other / own for own, other in zip(seconds, theirs, strict=True)]
    own = statistics.median(seconds)
    return {
        "part": "training step",
        "vision_trainable": settings.vision_trainable,
        "batching": settings.batching,
        "batch_size": settings.batch_size,
        "pairs": pairs,
        "samples_per_second": settings.batch_size / own,
        "published_samples_per_second": settings.batch_size / statistics.median(theirs),
        "ratio": vars(median_interval(ratios)),
        "gflop_per_sample": flops / settings.batch_size / 1e9,
        "matrix_product_gflops": statistics.mean(rates) / 1e9,
        "share_of_matrix_product_rate": flops / own / statistics.mean(rates),
        "caching_seconds": trainer.run.record["caching_seconds"],
        **filling,
    }


def compare_evaluation(settings: Settings, dataset: DatasetDict, pairs: int) -> dict:
    """One ratio: evaluations of both, taking turns."""
    trainer, loop = ours(settings, dataset), published(settings)
    rows = dataset["validation"]
    own, theirs = [], []
    for _ in range(pairs + 1):
        own.append(timed(lambda: evaluate(trainer.model, trainer.validation_collator, settings)))
        theirs.append(timed(lambda: loop.evaluate(rows, settings.eval_batch_size)))
    own, theirs = own[1:], theirs[1:]
    ratios = [other / mine for mine, other in zip(own, theirs, strict=True)]
    return {
        "part": "evaluation",
        "vision_trainable": settings.vision_trainable,
        "batching": "-",
        "batch_size": settings.eval_batch_size,
        "pairs": pairs,
        "samples_per_second": len(rows) / statistics.median(own),
        "published_samples_per_second": len(rows) / statistics.median(theirs),
        "ratio": vars(median_interval(ratios)),
    }


def at_batch_size(settings: Settings, dataset: DatasetDict, size: int, steps: int, precision: torch.dtype) -> dict:
    """The share of the matrix-product rate at 100 % with batches of this size."""
    trainer = ours(settings.replace(vision_trainable=1.0, batch_size=size), dataset)
    flops = step_flops(trainer, steps)
    rates = [matrix_product_rate(precision)]
    seconds = statistics.median(train(trainer, steps, lambda places: None))
    rates.append(matrix_product_rate(precision))
    return {
        "batch_size": size,
        "samples_per_second": size / seconds,
        "gflop_per_sample": flops / size / 1e9,
        "matrix_product_gflops": statistics.mean(rates) / 1e9,
        "share_of_matrix_product_rate": flops / seconds / statistics.mean(rates),
    }


def memory(arguments: argparse.Namespace, whose: str, settings: Settings, dataset: DatasetDict) -> dict:
    """Peak memory of a few steps of one of the two, the filling of the cache included.

    Of a GPU what torch has allocated above what it had before; else that of a process of its own.
    """
    shutil.rmtree(cache_folder(), ignore_errors=True)
    if arguments.device == "cuda":
        clear_memory()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
        peak = measure_memory(whose, settings, dataset)["gpu_mib"]
        return {"gpu_mib": round(peak - before, 1)}
    command = [sys.executable, __file__, "--model", arguments.model, "--device", arguments.device]
    command += ["--ratios", str(settings.vision_trainable), "--batchings", settings.batching]
    command += ["--documents", *map(str, arguments.documents)] if arguments.documents else []
    command += ["--threads", str(arguments.threads)] if arguments.threads else []
    command += ["--memory-of", whose]
    environment = {**os.environ, SCRATCH: os.environ["DOCFLOQA_OUTPUT"]}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(
            f"memory of {whose} at {settings.vision_trainable:g} cannot be measured: {done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def measure_memory(whose: str, settings: Settings, dataset: DatasetDict) -> dict[str, float]:
    """Peak memory of this process after a few steps."""
    if whose == "ours":
        train(ours(settings, dataset), 1, lambda places: None)
    else:
        loop = published(settings)
        order = list(EpochSampler(dataset["train"]["page"], settings.batching, settings.seed))
        size = settings.batch_size
        for step in range(WARM_UP + 1):
            loop.training_step(dataset["train"], order[step * size : (step + 1) * size])
    return peak_memory()


def summary(tiny: dict, base: dict | None) -> pd.DataFrame:
    """How many times faster, a row per part and ratio: tiny model on a CPU beside base size on a GPU."""

    def cells(result: dict | None) -> dict[tuple[str, str], str]:
        return {
            (
                f"{part['part']}, {part['batching']}".removesuffix(", -"),
                f"{100 * part['vision_trainable']:.0f} %",
            ): Interval(**part["ratio"]).format()
            for part in (result["parts"] if result else [])
        }

    card = base["machine"]["name"].removeprefix("NVIDIA ") if base else "GPU"
    measured = {"CPU, tiny model": cells(tiny), f"{card}, base size, random weights": cells(base)}
    keys = sorted(measured["CPU, tiny model"], key=lambda key: (key[0] == "evaluation", key[0]))
    ratios = list(dict.fromkeys(ratio for _, ratio in keys))
    rows = []
    for part in dict.fromkeys(part for part, _ in keys):
        for column, found in measured.items():
            cells_of_part = {ratio: found.get((part, ratio), "not measured") for ratio in ratios}
            rows.append({"times faster": part, "on": column, **cells_of_part})
    return pd.DataFrame(rows)


def markdown(result: dict) -> str:
    """The result as a page of Markdown."""
    machine = result["machine"]
    kind = "gpu_mib" if machine["kind"] == "cuda" else "resident_mib"
    rows = []
    for part in result["parts"]:
        own, theirs = part.get("memory", {}).get(kind), part.get("published_memory", {}).get(kind)
        share = part.get("share_of_matrix_product_rate")
        rows.append(
            {
                "part": part["part"],
                "vision encoder trained": f"{100 * part['vision_trainable']:.0f} %",
                "batching": part["batching"],
                "samples/s": f"{part['samples_per_second']:.1f}",
                "published, samples/s": f"{part['published_samples_per_second']:.1f}",
                "times faster": Interval(**part["ratio"]).format(),
                "peak MiB, training": f"{own:,.0f}" if own else "",
                "published, peak MiB, training": f"{theirs:,.0f}" if theirs else "",
                "of the matrix-product rate": f"{100 * share:.0f} %" if share else "",
            }
        )
    sizes = [
        {
            "batch size": row["batch_size"],
            "samples/s": f"{row['samples_per_second']:.1f}",
            "GFLOP a sample": f"{row['gflop_per_sample']:.2f}",
            "matrix product, GFLOP/s": f"{row['matrix_product_gflops']:.0f}",
            "of the matrix-product rate": f"{100 * row['share_of_matrix_product_rate']:.0f} %",
        }
        for row in result["batch_sizes"]
    ]
    data = result["data"]
    return "\n\n".join(
        [
            f"# Throughput: {result['model']} model, {machine['name']}",
            f"`{result['command']}`, {result['date']}, commit {result['commit']}",
            f"{machine['threads']} of {machine['cores']} CPU threads"
            + (f", {machine['gpus']} GPU" if machine["gpus"] else "")
            + f"; {machine['system']}; "
            + ", ".join(f"{name} {number}" for name, number in result["versions"].items())
            + f". {data['questions']:,} questions on {data['pages']:,} pages of {data['pixels']} x {data['pixels']} "
            f"pixels, batch {result['parts'][0]['batch_size']}, {result['parts'][0]['pairs']} pairs; answers of at "
            f"most {data['max_new_tokens']} tokens, {data['num_beams']} beams.",
            to_markdown(pd.DataFrame(rows)).strip(),
            f"Ours computes in {result['precision']}, the published loop in fp32, as published. Times faster: median "
            "of the pairs [95 % bootstrap interval]; other times and machines differ by more. Training is the "
            "trainer's whole step, from fetching the questions to the optimizer; states of frozen parts are on the "
            "disk, and computing them once is counted apart (`caching_seconds` in the JSON). Evaluation is loss, "
            "answers and, of ours alone, the probability of each answer. "
            + (
                "Memory is what torch allocates while the cache is filled and a few training steps are taken; the "
                "published loop's is the same for both batchings. "
                if machine["kind"] == "cuda"
                else "Memory is of a process of its own that fills the cache and takes a few training steps. "
            )
            + "Operations are counted, for depthwise convolutions "
            "with their groups.",
            *(
                f"The paper's study (4 ratios x 8 epochs x 39,463 questions, 500-question evaluations, decoding and "
                f"cache filling included), extrapolated from these parts, 33 and 66 % counted as 100 % where they were "
                f"not measured: {hours:,.2f} hours with {batching}."
                for batching, hours in result["paper_study_hours"].items()
            ),
            *(["## The share of the limit at 100 %, by batch size", to_markdown(pd.DataFrame(sizes))] if sizes else []),
        ]
    )


def confine(arguments: argparse.Namespace) -> None:
    """Compute on the device that is asked for, with so many threads; ends the program where there is no GPU."""
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not torch.cuda.is_available():
        sys.exit("--device is cuda, and this machine has no GPU that PyTorch can use")
    use_device(threads=arguments.threads)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "base"), default="tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; the embedded study's runs have one")
    parser.add_argument("--ratios", type=float, nargs="+", default=RATIOS)
    parser.add_argument("--batchings", nargs="+", choices=BATCHINGS, default=("by_image", "uniform"))
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=(6, 12, 24, 48, 96))
    parser.add_argument(
        "--documents",
        type=int,
        nargs=2,
        metavar=("TRAINING", "VALIDATION"),
        help=f"drawn; default: the embedded study's, for the base model {DOCUMENTS[0]} and {DOCUMENTS[1]}",
    )
    parser.add_argument("--pairs", type=int, default=30, help="pairs of training steps, at least 2")
    parser.add_argument("--evaluation-pairs", type=int, default=10)
    parser.add_argument("--evaluated", type=int, default=128, help="validation questions at most")
    parser.add_argument("--counted", type=int, help="batches whose operations are counted; default: --pairs")
    parser.add_argument("--output", type=Path, default=FOLDER)
    parser.add_argument("--memory-of", choices=("ours", "published"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure everything and write the two files."""
    arguments = parse(argv)
    if arguments.device == "cpu":
        arguments.threads = arguments.threads or 1
    confine(arguments)
    changes = {"validation_questions": arguments.evaluated}
    if arguments.documents:
        training, validation = arguments.documents
        changes |= {"synth_documents": training, "synth_validation_documents": validation}
    settings = settings_of(arguments.model, **changes)
    if min(arguments.pairs, arguments.evaluation_pairs) < 2:
        sys.exit(f"--pairs is {arguments.pairs}, --evaluation-pairs {arguments.evaluation_pairs}; allowed is 2 or more")
    dataset = questions(settings, arguments.model)
    variants = [
        settings.replace(vision_trainable=ratio, batching=batching)
        for ratio in arguments.ratios
        for batching in arguments.batchings
    ]
    if arguments.memory_of:
        print(json.dumps(measure_memory(arguments.memory_of, variants[0], dataset)))
        return
    rows = dataset["train"]
    precision = torch.bfloat16 if precision_of(settings) == "bf16" else torch.float32
    result = {
        "command": f"python benchmarks/throughput.py {' '.join(sys.argv[1:] if argv is None else argv)}".strip(),
        "date": now()[:10],
        "commit": git_commit(),
        "model": arguments.model,
        "machine": describe_device() | {"system": f"{platform.system()} {platform.machine()}"},
        "precision": "bf16 autocast" if precision == torch.bfloat16 else "fp32",
        "versions": {"Python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers")},
        "data": {
            "questions": len(rows),
            "pages": len(set(rows["page"])),
            "pixels": page_side(settings),
            "max_new_tokens": settings.max_new_tokens,
            "num_beams": settings.num_beams,
        },
        "parts": [],
        "batch_sizes": [],
        "paper_study_hours": {},
    }

    def keep() -> None:
        # What is measured so far: a later part may run out of memory or time.
        name = f"throughput-{arguments.model}-{arguments.device}"
        write_whole(arguments.output / f"{name}.json", json.dumps(result, indent=2) + "\n")
        write_whole(arguments.output / f"{name}.md", markdown(result))
        clear_memory()

    for variant in tqdm(variants, desc="training steps", unit="variant"):
        result["parts"].append(compare_training(variant, dataset, arguments.pairs, precision, arguments.counted))
        keep()
    for ratio in tqdm(arguments.ratios, desc="evaluations", unit="ratio"):
        variant = settings.replace(vision_trainable=ratio)
        result["parts"].append(compare_evaluation(variant, dataset, arguments.evaluation_pairs))
        keep()
    if arguments.model == "base" and {0.0, 1.0} <= set(arguments.ratios):
        for batching in arguments.batchings:
            result["paper_study_hours"][batching] = paper_study_hours(result["parts"], batching)
    by_image = settings.replace(batching="by_image")
    for size in tqdm(arguments.batch_sizes, desc="batch sizes", unit="size"):
        steps = max(5, arguments.pairs // 2)
        result["batch_sizes"].append(at_batch_size(by_image, dataset, size, steps, precision))
        keep()
    # Last, since it empties the cache.
    for part in tqdm(result["parts"][: len(variants)], desc="memory", unit="variant"):
        place = {name: part[name] for name in ("vision_trainable", "batching")}
        part["memory"] = memory(arguments, "ours", settings.replace(**place), dataset)
        same = [
            other
            for other in result["parts"]
            if arguments.device == "cuda"
            and other["vision_trainable"] == part["vision_trainable"]
            and "published_memory" in other
        ]
        part["published_memory"] = (
            same[0]["published_memory"] if same else memory(arguments, "published", settings.replace(**place), dataset)
        )
        keep()
    print(markdown(result))


def page_side(settings: Settings) -> int:
    """Side of the pages in pixels, as the processor makes them."""
    processor = Florence2Processor.from_pretrained(PROJECT / settings.model)
    return processor.image_processor.size["height"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        # Runs, states and pages of the benchmark are nobody's results.
        os.environ["DOCFLOQA_OUTPUT"] = os.environ.get(SCRATCH, scratch)
        main()
