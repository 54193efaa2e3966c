"""How many runs at a time this machine carries: a GPU each, or a core each within its container's quota and memory."""

import math
import os
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
from safetensors import safe_open

from docfloqa.data.hub import MODEL_FILES, cached_snapshot
from docfloqa.files import is_hub_id, resolve
from docfloqa.settings import Settings
from docfloqa.study.kernels import Slot

CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Of a run on a CPU: the tiny model's take 0.8 to 1.0 GiB, most of it Python's libraries; of a larger model every
# parameter may be trained in fp32, with its gradient and AdamW's two numbers.
KERNEL_BYTES, BYTES_A_PARAMETER = 2**30, 16


def available_slots(device: dict[str, Any], settings: Settings) -> list[Slot]:
    """One slot per GPU, or one single-threaded slot per CPU core that quota and free memory allow, at least one."""
    if device["gpus"]:
        return [Slot(name, None) for name in device["visible"]]
    # Python 3.13 knows how many it may use by PYTHON_CPU_COUNT, too.
    cores = min(device["cores"], getattr(os, "process_cpu_count", os.cpu_count)() or 1, cpu_quota())
    fitting = available_memory() // (KERNEL_BYTES + BYTES_A_PARAMETER * parameters(settings.model))
    # Two one-thread runs do almost twice the work of one run with two threads.
    return [Slot(None, 1)] * max(1, int(min(cores, fitting)))


def parameters(model: str) -> int:
    """How many parameters the files of a model have; 0 where they are not here."""
    source = resolve(model)
    folder = cached_snapshot(source, MODEL_FILES) if is_hub_id(source) else Path(source)
    count = 0
    for file in folder.glob("*.safetensors") if folder else ():
        with safe_open(file, "np") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    return count


def cpu_quota() -> float:
    """How many cores this process's control groups allow, a share of one included; infinite without a quota."""
    allowed = math.inf
    for folder in _groups("cpu"):
        quota, period, *_ = [
            *_words(folder / "cpu.max"),
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
            *("max", "max"),
        ]
        if quota not in ("max", "-1"):
            allowed = min(allowed, int(quota) / int(period))
    return allowed


def available_memory() -> int:
    """Bytes that this machine has free and this process's control groups allow; file caches count as free."""
    free = psutil.virtual_memory().available
    for folder in _groups("memory"):
        limit, *_ = [*_words(folder / "memory.max"), *_words(folder / "memory.limit_in_bytes"), "max"]
        used, *_ = [*_words(folder / "memory.current"), *_words(folder / "memory.usage_in_bytes"), "0"]
        words = _words(folder / "memory.stat")
        caches = dict(zip(words[::2], words[1::2], strict=True))
        if limit != "max":
            cached = caches.get("total_inactive_file", caches.get("inactive_file", 0))
            free = min(free, int(limit) - int(used) + int(cached))
    return free


def _groups(controller: str) -> list[Path]:
    """The folders of this process's control group and of those around it, of version 2 and of version 1."""
    folders = []
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            top = CONTROL_GROUPS / controller if controllers else CONTROL_GROUPS
            # In a container the own group may not be seen by the name that it has outside.
            group = PurePosixPath(name)
            folders += [top / one.relative_to("/") for one in (group, *group.parents)]
    return folders


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []
