"""What a run computes on: choosing it, describing it, and refusing a hopeless one before any work."""

import os
import platform
import re
import resource
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from docfloqa.exceptions import DocFloQAError
from docfloqa.files import resolve
from docfloqa.settings import Settings

PROMPT_TOKENS, ANSWER_TOKENS = 20, 8


class NoGPUError(DocFloQAError, RuntimeError):
    """The run wants a GPU and the kernel has none; says how long it would take and how to go on."""


def use_device(gpu: str | None = None, threads: int | None = None) -> None:
    """Confine this process to one GPU (as `CUDA_VISIBLE_DEVICES` names it) and to so many CPU threads.

    Raises `RuntimeError` when CUDA has been used already: the choice would have no effect.
    """
    if gpu is not None:
        if torch.cuda.is_initialized():
            raise RuntimeError(f"GPU {gpu!r} is chosen too late: CUDA is already in use; restart the kernel")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if threads is not None:
        torch.set_num_threads(threads)


def compute_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def describe_device() -> dict[str, Any]:
    """Kind ("cuda" or "cpu"), name, GPUs and what CUDA calls them, CPU cores and threads of this process."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    processor = _proc("cpuinfo", r"model name\s*:(.*)") or platform.processor() or platform.machine()
    return {
        "kind": "cuda" if gpus else "cpu",
        "name": torch.cuda.get_device_name(0) if gpus else processor,
        "gpus": gpus,
        "visible": visible_gpus(gpus),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def visible_gpus(count: int) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` names each of so many GPUs: a number, a UUID, or a part of one (MIG).

    A process sees one MIG part only, so all that are named count.
    """
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not count or not named:
        return [str(place) for place in range(count)]
    return named if all(name.startswith("MIG-") for name in named) else named[:count]


def _proc(file: str, pattern: str) -> str | None:
    """What a file of Linux says; None where there is none of it."""
    path = Path("/proc", file)
    found = re.search(pattern, path.read_text()) if path.is_file() else None
    return found and found[1].strip()


def peak_memory() -> dict[str, float]:
    """Largest memory of this process so far in MiB: resident, and allocated on the GPU where there is one."""
    # What getrusage tells on Linux is at least what the process that started this one had.
    kib = _proc("self/status", r"VmHWM:\s+(\d+) kB")
    unit = 1 if sys.platform == "darwin" else 2**10
    resident = int(kib) * 2**10 if kib else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peak = {"resident_mib": round(resident / 2**20, 1)}
    if torch.cuda.is_available():
        peak["gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def uses_bf16(settings: Settings) -> bool:
    """Whether the run computes in bf16 under autocast: asked for, or "auto" on a GPU that has it."""
    if settings.precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return settings.precision == "bf16"


def uses_static_shapes(settings: Settings, processes: int) -> bool:
    """Whether batches of training come in few shapes: asked for, or "auto" where a GPU trains alone."""
    if settings.static_shapes == "auto":
        return torch.cuda.is_available() and processes == 1
    return settings.static_shapes == "on"


def autocast(settings: Settings) -> AbstractContextManager:
    """The autocast context of evaluation; training's is the trainer's, by the same rule."""
    return torch.autocast(compute_device().type, torch.bfloat16, enabled=uses_bf16(settings))


def require_device(settings: Settings) -> dict[str, Any]:
    """`describe_device()`, unless the settings want a GPU and there is none.

    Raises `NoGPUError` with the run's time on this CPU as the published loop would need it: its floating
    point operations over the rate of a matrix product measured here.
    """
    device = describe_device()
    if device["kind"] == "cpu" and not settings.allow_cpu:
        # Only now, and below too: a kernel that is asked for its device answers without what takes seconds to import.
        from docfloqa.data.schema import DOCVQA

        questions = settings.train_questions or DOCVQA["train"][0]
        flops = training_flops(settings) * questions * settings.epochs
        rate = matrix_product_rate()
        hours = flops / rate / 3600
        time_needed = f"{hours / 24:,.1f} days" if hours > 48 else f"{hours:,.1f} hours"
        raise NoGPUError(
            f"this run wants a GPU and the kernel has none ({device['name']}, {device['cores']} cores). "
            f"{settings.epochs} epochs over {questions:,} questions, each with its page through the whole encoder, "
            f"are {flops:.1e} floating point operations; at the {rate / 1e9:,.0f} GFLOP/s of a matrix product here "
            f"that is {time_needed} for one ratio and seed; pages that are shared or kept make it less, "
            "and make estimate tells how much. Choose a kernel with a GPU (KERNEL=...), or go on all the same "
            "with allow_cpu=True (ALLOW_CPU=1)"
        )
    return device


def training_flops(settings: Settings) -> float:
    """Floating point operations to train on one question, its page passed through the whole vision tower.

    Counted on tensors without data by `torch.utils.flop_counter`; the backward pass costs two forward
    passes, of which frozen parts of the vision tower need none. A hub id counts as Florence-2-base.
    """
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Florence2Config

    from docfloqa.model.florence import Florence2ForDocVQA, base_config, load_processor
    from docfloqa.model.microsoft_layout import is_original_layout

    folder = Path(resolve(settings.model))
    config, side = base_config(), 768
    if (folder / "config.json").is_file() and not is_original_layout(folder):
        config = Florence2Config.from_pretrained(folder)
        side = load_processor(folder).image_processor.size["height"]
    with torch.device("meta"), torch.no_grad():
        # Other attention implementations look at the values of a mask, and in train mode layers are dropped by chance:
        # tensors without data have no values.
        model = Florence2ForDocVQA._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
        with FlopCounterMode(display=False) as vision:
            pages = model.get_image_features(torch.zeros(1, 3, side, side)).pooler_output
        text = torch.zeros(1, pages.shape[1] + PROMPT_TOKENS, config.text_config.d_model)
        with FlopCounterMode(display=False) as language:
            model(inputs_embeds=text, decoder_input_ids=torch.zeros(1, ANSWER_TOKENS, dtype=torch.long))
    backward = 2 * settings.vision_trainable * vision.get_total_flops()
    return vision.get_total_flops() + backward + 3 * language.get_total_flops()


def matrix_product_rate(precision: torch.dtype = torch.float32, seconds: float = 0.3) -> float:
    """Floating point operations a second of a matrix product on this process's device: its limit."""
    device = compute_device()
    side = 8192 if device.type == "cuda" else 1024
    matrix = torch.rand(side, side, device=device).to(precision)
    matrix @ matrix
    finish_device()
    products, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        matrix @ matrix
        products += 1
        finish_device()
    return 2 * side**3 * products / (time.perf_counter() - start)


def finish_device() -> None:
    """Wait until a GPU has done what it was given; a CPU always has."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
