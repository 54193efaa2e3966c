"""What a run computes on: choosing it, describing it, and refusing a hopeless one before any work."""

import os
import platform
import re
import resource
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from docfloqa.exceptions import DocFloQAError, SettingsError
from docfloqa.model.processes import compute_alone
from docfloqa.settings import Settings

FP16, BF16_CAPABILITY = "fp16", (8, 0)


class NoGPUError(DocFloQAError, RuntimeError):
    """The run wants a GPU and the kernel has none; says how to go on."""


def use_device(gpu: str | None = None, threads: int | None = None) -> None:
    """Confine this process to itself, one GPU (of `CUDA_VISIBLE_DEVICES`), so many threads; `RuntimeError` if late."""
    compute_alone()
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
        "kind": compute_device().type,
        "name": torch.cuda.get_device_name(0) if gpus else processor,
        "gpus": gpus,
        "visible": visible_gpus(gpus),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def visible_gpus(count: int) -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` names each of so many GPUs: a number, a UUID, or a part of one (MIG)."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if not count or not named:
        return [str(index) for index in range(count)]
    # A process sees one MIG part only, so all that are named count.
    return named if all(name.startswith("MIG-") for name in named) else named[:count]


def _proc(file: str, pattern: str) -> str | None:
    path = Path("/proc", file)
    found = re.search(pattern, path.read_text()) if path.is_file() else None
    return found and found[1].strip()


def peak_memory() -> dict[str, float]:
    """Largest memory of this process so far in MiB: resident, and allocated on the GPU where there is one."""
    # What getrusage tells on Linux is at least what the process that started this one had; elsewhere it tells bytes.
    kib = _proc("self/status", r"VmHWM:\s+(\d+) kB")
    resident = int(kib) * 2**10 if kib else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = {"resident_mib": round(resident / 2**20, 1)}
    if torch.cuda.is_available():
        peak["gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak


def precision(settings: Settings) -> str:
    """What the run computes in under autocast, "fp32", "bf16" or "fp16".

    "auto" is fp32 on a CPU, and on a GPU bf16 where it has that, else fp16; fp16 is fp32 on a CPU.
    """
    gpu = torch.cuda.is_available()
    if settings.precision == "auto":
        # CUDA supports bf16 on older ones too, by emulation.
        return ("bf16" if torch.cuda.get_device_capability() >= BF16_CAPABILITY else FP16) if gpu else "fp32"
    return "fp32" if settings.precision == FP16 and not gpu else settings.precision


def uses_static_shapes(settings: Settings, processes: int) -> bool:
    """Whether batches of training come in few shapes: asked for, or "auto" where a GPU trains alone."""
    alone = settings.static_shapes == "auto" and torch.cuda.is_available() and processes == 1
    return alone or settings.static_shapes == "on"


def autocast(settings: Settings) -> AbstractContextManager:
    """The autocast context of evaluation; training's is the trainer's, by the same rule."""
    dtype = {"bf16": torch.bfloat16, FP16: torch.half}.get(precision(settings), torch.float32)
    return torch.autocast(compute_device().type, dtype, enabled=dtype != torch.float32)


def require_device(settings: Settings) -> dict[str, Any]:
    """`describe_device()`; raises `NoGPUError` without a wanted GPU, `SettingsError` without fp16 or a tracker."""
    for tracker in settings.report_to:
        if not find_spec(tracker):
            raise SettingsError(f"report_to has {tracker!r}, which is not installed here: pip install {tracker}")
    device = describe_device()
    if device["kind"] == "cpu" and settings.precision == FP16:
        raise SettingsError("precision is fp16 and there is no GPU; allowed without one are auto, fp32 and bf16")
    if device["kind"] == "cpu" and not settings.allow_cpu:
        raise NoGPUError(
            f"this run wants a GPU and the kernel has none ({device['name']}, {device['cores']} cores). Choose a "
            "kernel with a GPU (KERNEL=...), or go on all the same with allow_cpu=True (ALLOW_CPU=1): make estimate "
            "tells how long that takes"
        )
    return device


def finish_device() -> None:
    """Wait until a GPU has done what it was given; a CPU always has."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
