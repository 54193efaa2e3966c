"""Seconds of a training step of the `paper` profile with its defaults, where they go, and what makes them fewer.

    python benchmarks/paper_step.py --device cuda

A model of Florence-2-base's size with random weights, full drawn pages, batch 6 with a page for every question,
0 and 100 % of the vision encoder trained. First the trainer's own steps; then the same steps by hand, part by part,
under the profiler, and in other ways (`--tries`), each of which must give eager's loss and gradient where nothing
is left to chance. Writes `paper_step-<device>.json` and `.md` after every measurement; tries that are asked for
later are added to what is there. With `--rehearse` the shipped tiny model stands in, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from throughput import SCRATCH, WARM_UP, confine, ours, questions, settings_of
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from docfloqa.files import PROJECT, write_whole
from docfloqa.model.device import autocast, describe_device, finish_device
from docfloqa.model.florence import vision_sub_blocks
from docfloqa.runs.run import git_commit, now
from docfloqa.settings import Settings
from docfloqa.text import to_markdown
from docfloqa.training.trainer import DocVQATrainer

FOLDER = PROJECT / "reports" / "benchmarks"
TRIES = ("eager", "no mask", "static shapes", "CUDA graph", "CUDA graph with optimizer")
# Each shape of a batch costs something when it comes first, so these are to be tried in processes of their own.
TRAINERS = ("trainer, eager", "trainer, static shapes only", "trainer, no cuDNN attention")
COMPILED = ("compiled", "compiled, CUDA graph", "compiled, reduce-overhead")
BATCH_SIZE = 6
PROFILED = 3  # steps
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
# Of the loss and of the gradient's norm: eager and another way round the same bf16 sums differently.
SAME = 0.02


def paper_settings(arguments: argparse.Namespace, ratio: float) -> Settings:
    """The paper profile's settings on a stand-in for model and data."""
    changes: dict[str, Any] = {"vision_trainable": ratio, "batch_size": BATCH_SIZE, "batching": "uniform"}
    training, validation = arguments.documents
    changes |= {"synth_documents": training, "synth_validation_documents": validation}
    return settings_of("tiny" if arguments.rehearse else "base", **changes)


def with_own_pages(rows: Dataset, batch_size: int) -> list[list[int]]:
    """Batches of questions with a page each, as a batch of DocVQA's pages nearly always has."""
    first = list({page: place for place, page in reversed(list(enumerate(rows["page"])))}.values())[::-1]
    return [first[start : start + batch_size] for start in range(0, len(first) - batch_size + 1, batch_size)]


class Steps:
    """Training steps by hand, as the trainer makes them: forward, backward, clipping, AdamW."""

    def __init__(self, trainer: DocVQATrainer, batches: list[list[int]]):
        self.trainer, self.settings, self.batches = trainer, trainer.settings, batches
        self.model = trainer.model.train()
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = self.adamw()

    def adamw(self, **further: Any) -> torch.optim.AdamW:
        """The trainer's optimizer."""
        settings = self.settings
        chosen = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "fused": True}
        return torch.optim.AdamW(self.parameters, **{**chosen, **further})

    def fetch(self, number: int, static: bool = False) -> dict[str, Tensor]:
        """A batch on the device, in one of few shapes if `static`."""
        collator = self.trainer.training_collator
        collator.static_shapes = static
        batch = collator(self.batches[number % len(self.batches)])
        batch.pop("index")
        return {name: tensor.to(self.model.device, non_blocking=True) for name, tensor in batch.items()}

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss."""
        with autocast(self.settings):
            return self.model(**batch).loss

    def clip(self) -> Tensor:
        """The norm of the gradient, which is cut to the settings' largest."""
        return nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)

    def step(self, number: int, static: bool = False, mask: bool = True) -> None:
        """One whole step."""
        batch = self.fetch(number, static)
        if not mask:
            batch.pop("attention_mask")
        self.forward(batch).backward()
        self.clip()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def loss_and_norm(self, batch: dict[str, Tensor]) -> tuple[float, float]:
        """Of a batch; gradients are cleared before and after."""
        self.optimizer.zero_grad()
        loss = self.forward(batch)
        loss.backward()
        norm = torch.linalg.vector_norm(
            torch.stack(torch._foreach_norm([p.grad for p in self.parameters if p.grad is not None]))
        )
        found = loss.item(), norm.item()
        self.optimizer.zero_grad()
        return found


class Chance:
    """Within this, dropout and stochastic depth are off, and training is the same whoever computes it."""

    def __init__(self, model: nn.Module):
        self.places = [
            (module, name, getattr(module, name))
            for module in model.modules()
            for name in ("dropout", "activation_dropout", "attention_dropout", "drop_prob", "p")
            if isinstance(getattr(module, name, None), float)
        ]

    def __enter__(self) -> None:
        for module, name, _ in self.places:
            setattr(module, name, 0.0)

    def __exit__(self, *error: Any) -> None:
        for module, name, value in self.places:
            setattr(module, name, value)


class FreeRun(TrainerCallback):
    """Seconds of the trainer's steps after the first ones, the device waited for at the end only."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        """Start or stop the clock."""
        if state.global_step in (WARM_UP, WARM_UP + self.steps):
            finish_device()
            now = time.perf_counter()
            self.seconds = now - getattr(self, "started", now)
            self.started = now


def trainers_step(trainer: DocVQATrainer, steps: int) -> float:
    """Seconds of a step of the trainer, as in a run."""
    clock = FreeRun(steps)
    trainer.add_callback(clock)
    trainer.args.max_steps = WARM_UP + steps
    trainer.train()
    trainer.remove_callback(clock)
    return clock.seconds / steps


def seconds_of(work: Callable[[int], Any], steps: int) -> float:
    """Seconds that `work(number)` takes, one after another without waiting between them."""
    for number in range(WARM_UP):
        work(number)
    finish_device()
    started = time.perf_counter()
    for number in range(steps):
        work(number)
    finish_device()
    return (time.perf_counter() - started) / steps


def parts_of_a_step(steps: Steps, count: int) -> dict[str, float]:
    """Seconds of each part, the device waited for after each: together more than a step that waits for nothing."""
    total: Counter[str] = Counter()
    for number in range(WARM_UP + count):
        clock = {"": time.perf_counter()}

        def done(part: str, clock: dict[str, float] = clock) -> None:
            finish_device()
            clock[part] = time.perf_counter()

        batch = steps.fetch(number)
        done("fetching")
        loss = steps.forward(batch)
        done("forward")
        loss.backward()
        done("backward")
        steps.clip()
        done("clipping")
        steps.optimizer.step()
        done("AdamW")
        steps.optimizer.zero_grad()
        done("clearing gradients")
        names = list(clock)
        if number >= WARM_UP:
            total.update({part: clock[part] - clock[before] for before, part in pairwise(names)})
    return {part: seconds / count for part, seconds in total.items()}


def profiled(work: Callable[[int], Any]) -> dict[str, Any]:
    """What the device and the host do in a step: kernels, launches, waiting, from the profiler's trace."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    work(0)
    finish_device()
    with profile(activities=activities) as profiler:
        for number in range(PROFILED):
            work(number)
        finish_device()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        events = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("ph") == "X"]
    return summary_of(events, PROFILED)


def summary_of(events: Sequence[dict], steps: int) -> dict[str, Any]:
    """A step's share of a trace's events, in seconds and numbers."""
    on_device = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    calls = [event for event in events if event.get("cat") in ("cuda_runtime", "cuda_driver")]
    launches = [event for event in calls if event["name"] in LAUNCHES]
    waits = [event for event in calls if event["name"] in WAITS]
    busy, end = 0.0, 0.0
    for event in sorted(on_device, key=lambda event: event["ts"]):
        stop = event["ts"] + event["dur"]
        busy += max(0.0, stop - max(end, event["ts"]))
        end = max(end, stop)
    kernels: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for event in on_device:
        kernels[event["name"]] += event["dur"]
        numbers[event["name"]] += 1
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    return {
        "device_busy_seconds": busy / steps / 1e6,
        "kernels": sum(event["cat"] == "kernel" for event in on_device) / steps,
        "copies": sum(event["cat"] != "kernel" for event in on_device) / steps,
        "launches": len(launches) / steps,
        "launch_seconds": sum(event["dur"] for event in launches) / steps / 1e6,
        "waits": len(waits) / steps,
        "wait_seconds": sum(event["dur"] for event in waits) / steps / 1e6,
        "operators": len(operators) / steps,
        "longest_kernels": [
            {"name": name[:120], "seconds": microseconds / steps / 1e6, "calls": numbers[name] / steps}
            for name, microseconds in kernels.most_common(15)
        ],
    }


def same_shape(steps: Steps) -> list[dict[str, Tensor]]:
    """The static batches that have the commonest shape."""
    batches = [steps.fetch(number, static=True) for number in range(len(steps.batches))]
    shapes = [tuple(tensor.shape for tensor in batch.values()) for batch in batches]
    [(common, _)] = Counter(shapes).most_common(1)
    return [batch for batch, shape in zip(batches, shapes, strict=True) if shape == common]


class Graph:
    """Forward and backward pass, with the optimizer or without, as a CUDA graph for batches of one shape."""

    def __init__(self, steps: Steps, batch: dict[str, Tensor], with_optimizer: bool = False):
        self.steps, self.with_optimizer = steps, with_optimizer
        self.inputs = {name: tensor.clone() for name, tensor in batch.items()}
        if with_optimizer:
            steps.optimizer = steps.adamw(capturable=True)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                steps.optimizer.zero_grad()
                self._work()
        torch.cuda.current_stream().wait_stream(side)
        # Made anew in the capture, where every replay then writes them: nothing has to be cleared.
        steps.optimizer.zero_grad()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss = self._work()

    def _work(self) -> Tensor:
        steps = self.steps
        loss = steps.forward(self.inputs)
        loss.backward()
        if self.with_optimizer:
            steps.clip()
            steps.optimizer.step()
        return loss.detach()

    def replay(self, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch; its gradients are in the parameters."""
        for name, tensor in batch.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.loss

    def step(self, batch: dict[str, Tensor]) -> None:
        """One whole step."""
        self.replay(batch)
        if not self.with_optimizer:
            self.steps.clip()
            self.steps.optimizer.step()

    def loss_and_norm(self, batch: dict[str, Tensor]) -> tuple[float, float]:
        """Of a batch."""
        loss = self.replay(batch)
        norms = torch._foreach_norm([p.grad for p in self.steps.parameters if p.grad is not None])
        return loss.item(), torch.linalg.vector_norm(torch.stack(norms)).item()


def compiled_in_regions(model: nn.Module, mode: str | None) -> None:
    """Compile every sub-block of the vision tower and every layer of the language model by itself.

    Blocks that are alike share what is compiled, which takes the compiler a minute less than the whole model, and the
    numbers that layers draw for layer drop stay outside.
    """
    language = model.model.language_model
    # Without a GPU it is only seen whether the model can be traced.
    how = {"mode": mode} if model.device.type == "cuda" else {"backend": "aot_eager"}
    # A class of layers has a piece of code compiled for each of its shapes.
    torch._dynamo.config.recompile_limit = 64
    if mode:
        torch.compiler.reset()
    for module in (
        *(sub_block for _, sub_block in vision_sub_blocks(model)),
        *language.encoder.layers,
        *language.decoder.layers,
    ):
        module._compiled_call_impl = None
        module.compile(dynamic=False, **how)


def not_compiled(model: nn.Module) -> None:
    """Undo `compiled_in_regions`."""
    for module in model.modules():
        module._compiled_call_impl = None


def tried(name: str, steps: Steps, count: int) -> dict[str, Any]:
    """Seconds of a step in one of the ways, and whether loss and gradient are eager's."""
    model = steps.model
    if name in TRAINERS:
        trainer, cudnn = steps.trainer, torch.backends.cuda.cudnn_sdp_enabled()
        captured, trainer.captured = trainer.captured, None
        trainer.training_collator.static_shapes = name.endswith("only")
        torch.backends.cuda.enable_cudnn_sdp(cudnn and not name.endswith("attention"))
        try:
            return {"seconds_per_step": trainers_step(trainer, count)}
        finally:
            torch.backends.cuda.enable_cudnn_sdp(cudnn)
            trainer.captured = captured
    if name == "eager":
        return {"seconds_per_step": seconds_of(steps.step, count), "same_loss": True}
    if name == "no mask":
        # As if no prompt were shorter than another: another loss, the least that attention could take.
        seconds = seconds_of(lambda number: steps.step(number, mask=False), count)
        return {"seconds_per_step": seconds, "same_loss": False}
    batches = same_shape(steps)
    with Chance(model):
        expected = steps.loss_and_norm(steps.fetch(0))
    if name == "static shapes":
        with Chance(model):
            found = steps.loss_and_norm(steps.fetch(0, static=True))
        seconds = seconds_of(lambda number: steps.step(number, static=True), count)
        return {"seconds_per_step": seconds, **compared(expected, found)}
    with Chance(model):
        expected = steps.loss_and_norm(batches[0])
    if name.startswith("CUDA graph"):
        return graphed(steps, batches, count, expected, with_optimizer=name.endswith("optimizer"))
    try:
        begun = time.perf_counter()
        # Blocks differ in how often they are skipped, and each would be compiled by itself.
        with Chance(model):
            compiled_in_regions(model, "reduce-overhead" if name.endswith("overhead") else None)
            found = steps.loss_and_norm(batches[0])
            compiling = time.perf_counter() - begun
            result = {"compile_seconds": compiling, **compared(expected, found)}
            if name.endswith("graph"):
                return result | graphed(steps, batches, count, expected)

            def step(number: int) -> None:
                torch.compiler.cudagraph_mark_step_begin()
                steps.step(number, static=True)

            return result | {"seconds_per_step": seconds_of(step, count)}
    finally:
        not_compiled(model)


def graphed(
    steps: Steps,
    batches: list[dict[str, Tensor]],
    count: int,
    expected: tuple[float, float],
    with_optimizer: bool = False,
) -> dict[str, Any]:
    """A CUDA graph against eager, without chance and with the graph of forward and backward; then its seconds."""
    steps.optimizer.zero_grad()
    with Chance(steps.model):
        # The last of the batches is captured, so that what a replay gets from its inputs alone is compared.
        one = Graph(steps, batches[-1])
        found = one.loss_and_norm(batches[0])
        del one
    steps.optimizer.zero_grad()
    begun = time.perf_counter()
    graph = Graph(steps, batches[-1], with_optimizer)
    finish_device()
    capturing = time.perf_counter() - begun

    def step(number: int) -> None:
        # Fetched, though its shape may be another than the captured one.
        steps.fetch(number, static=True)
        graph.step(batches[number % len(batches)])

    result = {
        "capture_seconds": capturing,
        "seconds_per_step": seconds_of(step, count),
        "replay_only_seconds": seconds_of(lambda number: graph.replay(batches[0]), count),
        **compared(expected, found),
    }
    if with_optimizer:
        steps.optimizer = steps.adamw()
    steps.optimizer.zero_grad()
    return result


def compared(expected: tuple[float, float], found: tuple[float, float]) -> dict[str, Any]:
    """Loss and gradient norm beside eager's."""
    same = all(abs(one - other) <= SAME * abs(one) for one, other in zip(expected, found, strict=True))
    return {"eager_loss_and_norm": expected, "loss_and_norm": found, "same_loss": same}


def prepared(arguments: argparse.Namespace, ratio: float) -> Steps:
    """Trainer, data and steps of one ratio."""
    settings = paper_settings(arguments, ratio)
    dataset = questions(settings, "tiny" if arguments.rehearse else "base")
    batches = with_own_pages(dataset["train"], settings.batch_size)
    # Every question with a page of its own for the trainer too.
    chosen = dataset["train"].select([place for places in batches for place in places])
    trainer = ours(settings, DatasetDict({**dataset, "train": chosen}))
    trainer.model.to(trainer.args.device)
    return Steps(trainer, with_own_pages(chosen, settings.batch_size))


def measure_eager(steps: Steps, count: int, measured: dict[str, Any], keep: Callable[[], None]) -> None:
    """The trainer's step and the parts of one by hand, kept one by one."""
    # Once more, when every shape has been there: the difference is what a shape costs that comes first.
    measured["trainer_first_seconds_per_step"] = trainers_step(steps.trainer, count)
    measured["trainer_seconds_per_step"] = trainers_step(steps.trainer, count)
    keep()
    measured["parts"] = parts_of_a_step(steps, count)
    keep()


def measure_try(name: str, steps: Steps, count: int, measured: dict[str, Any]) -> None:
    """One of the ways, or what it raised."""
    one: dict[str, Any] = {"name": name}
    measured["tries"] = [other for other in measured["tries"] if other["name"] != name] + [one]
    begun = time.perf_counter()
    try:
        one |= tried(name, steps, count)
    # Whatever a compiler or a capture raises, the other ways are still of interest.
    except Exception as error:
        one["error"] = f"{type(error).__name__}: {str(error)[:600]}"
        steps.optimizer = steps.adamw()
        steps.optimizer.zero_grad()
    one["took_seconds"] = time.perf_counter() - begun
    print(f"{steps.settings.vision_trainable:g} {json.dumps(one)}", flush=True)


def markdown(result: dict) -> str:
    """The result as a page of Markdown."""
    machine = result["machine"]
    sections = [
        f"# A step of the paper profile: {result['model']} model, {machine['name']}",
        f"{result['date']}, commit {result['commit']}; "
        + ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        + f". Batch 6, a page for every question, {result['steps']} steps after {WARM_UP} of warming up, the device "
        "waited for at their end only. Ways other than the trainer's are steps by hand: fetching, forward, backward, "
        "clipping, AdamW. Loss and gradient norm are eager's within 2 % where dropout and stochastic depth are off; "
        "what is compiled is timed without them.",
    ]
    for ratio, measured in result["ratios"].items():
        sections.append(f"## {100 * float(ratio):.0f} % of the vision encoder trained")
        rows = []
        for way, key in (
            ("the trainer, first steps", "trainer_first_seconds_per_step"),
            ("the trainer", "trainer_seconds_per_step"),
        ):
            if key in measured:
                rows.append({"way": way, "ms a step": f"{1e3 * measured[key]:.1f}"})
        for one in measured["tries"]:
            seconds, compiling = one.get("seconds_per_step"), one.get("compile_seconds")
            rows.append(
                {
                    "way": one["name"],
                    "ms a step": f"{1e3 * seconds:.1f}" if seconds else "",
                    "replay alone, ms": f"{1e3 * one['replay_only_seconds']:.1f}"
                    if "replay_only_seconds" in one
                    else "",
                    "compiling, s": f"{compiling:.0f}" if compiling else "",
                    "eager's loss and gradient": {True: "yes", False: "no", None: ""}[one.get("same_loss")],
                    "failed": one.get("error", "").partition("\n")[0][:100],
                }
            )
        sections.append(to_markdown(pd.DataFrame(rows).fillna("")).strip())
        if "parts" in measured:
            parts = {part: f"{1e3 * seconds:.2f}" for part, seconds in measured["parts"].items()}
            frame = pd.DataFrame({"part": parts.keys(), "ms, waited for": parts.values()})
            sections.append(to_markdown(frame).strip())
        if "profile" in measured:
            found = measured["profile"]
            eager = next((one.get("seconds_per_step") for one in measured["tries"]), None)
            sections.append(
                f"Profiled: the device is busy {1e3 * found['device_busy_seconds']:.1f} ms of a step"
                + (
                    f", idle {100 * max(0.0, 1 - found['device_busy_seconds'] / eager):.0f} % of an eager one"
                    if eager
                    else ""
                )
                + f"; {found['kernels']:.0f} kernels and {found['copies']:.0f} copies; {found['launches']:.0f} "
                f"launches take the host {1e3 * found['launch_seconds']:.1f} ms; it waits {found['waits']:.0f} times, "
                f"{1e3 * found['wait_seconds']:.1f} ms; {found['operators']:.0f} operators."
            )
            longest = [
                {"kernel": row["name"][:80], "ms": f"{1e3 * row['seconds']:.2f}", "calls": f"{row['calls']:.0f}"}
                for row in found["longest_kernels"]
            ]
            if longest:
                sections.append(to_markdown(pd.DataFrame(longest)).strip())
    return "\n\n".join(sections) + "\n"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="with the tiny model")
    parser.add_argument("--prepare", action="store_true", help="only draw the pages, resize them, write the model")
    parser.add_argument("--ratios", type=float, nargs="+", default=(0.0, 1.0))
    parser.add_argument("--tries", nargs="+", choices=(*TRIES, *TRAINERS, *COMPILED), default=TRIES)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--documents", type=int, nargs=2, default=(60, 16), metavar=("TRAINING", "VALIDATION"))
    parser.add_argument("--output", type=Path, default=FOLDER)
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the two files."""
    arguments = parse(argv)
    confine(arguments)
    if arguments.prepare:
        # Resized pages are the same whatever is trained and wherever.
        ours(paper_settings(arguments, 1.0), questions(paper_settings(arguments, 1.0), "base"))
        return
    file = arguments.output / f"paper_step-{arguments.device}.json"
    result: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"ratios": {}}
    result |= {
        "date": now()[:10],
        "commit": git_commit(),
        "model": "tiny" if arguments.rehearse else "base",
        "machine": describe_device(),
        "batch_size": BATCH_SIZE,
        "steps": arguments.steps,
        "versions": {"Python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers")},
    }

    def keep() -> None:
        write_whole(file, json.dumps(result, indent=2) + "\n")
        write_whole(file.with_suffix(".md"), markdown(result))

    every = {}
    for ratio in arguments.ratios:
        every[ratio] = prepared(arguments, ratio)
        measured = result["ratios"].setdefault(f"{ratio:g}", {"tries": []})
        if "eager" in arguments.tries:
            measure_eager(every[ratio], arguments.steps, measured, keep)
    # Last what may leave the device in disorder.
    for name in arguments.tries:
        for ratio, steps in every.items():
            measure_try(name, steps, arguments.steps, result["ratios"][f"{ratio:g}"])
            keep()
    if "eager" in arguments.tries:
        # What listens to the device for the profiler slows down whatever comes after.
        for ratio, steps in every.items():
            result["ratios"][f"{ratio:g}"]["profile"] = profiled(steps.step)
            keep()
    print(markdown(result))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DOCFLOQA_OUTPUT"] = os.environ.get(SCRATCH, scratch)
        main()
