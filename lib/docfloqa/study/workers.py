"""The runs of a sweep, one at a time in every slot of this machine or on every worker of a cluster."""

import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
from huggingface_hub import parse_local_safetensors_file_metadata
from tqdm.auto import tqdm

from docfloqa.data.hub import MODEL_FILES, cached_snapshot
from docfloqa.exceptions import StudyError
from docfloqa.files import is_hub_id, resolve
from docfloqa.runs.run import FAILED, Run, read_record
from docfloqa.settings import Settings
from docfloqa.study.kernels import Slot, check_kernel, kernel_device, stop_kernels

SECONDS = 1.0  # between two looks at how many workers there are
CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Of a run on a CPU: the tiny model's take 0.8 to 1.0 GiB, most of it Python's libraries; of a larger model every
# parameter may be trained in fp32, with its gradient and AdamW's two numbers.
KERNEL_BYTES, BYTES_A_PARAMETER = 2**30, 16
Execute = Callable[[Run, Slot, str | None], None]


class LocalWorkers(AbstractContextManager):
    """The slots of this machine, a thread for each; raises `StudyError` for a kernel that does not exist."""

    lost: tuple[type[Exception], ...] = ()

    def __init__(self, execute: Execute, kernel: str | None):
        self.execute, self.kernel = execute, check_kernel(kernel)
        self.count, self.pool, self.own = 0, ThreadPoolExecutor(1), threading.local()

    def __exit__(self, *_: Any) -> None:
        self.pool.shutdown()

    def open(self, settings: Settings) -> None:
        """Ask the kernel, once, what it computes on, and share that out; raises `StudyError` where it lacks a GPU."""
        if not self.count:
            slots = available_slots(kernel_device(settings, self.kernel), settings)
            self.count = len(slots)
            self.pool = ThreadPoolExecutor(self.count, initializer=self._take, initargs=(slots,))

    check = open

    def capacity(self) -> int:
        """The number of slots."""
        return self.count

    def submit(self, run: Run) -> Future:
        """Begin a run in a slot that is free; the future ends with it."""
        return self.pool.submit(lambda: self.execute(run, self.own.slot, self.kernel))

    def _take(self, slots: list[Slot]) -> None:
        self.own.slot = slots.pop()

    def stop(self, running: Mapping[Future, Run]) -> None:
        """End the runs that go on by ending their kernels."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        while not all(future.done() for future in running):
            stop_kernels([run.id for run in running.values()])
            time.sleep(0.2)


def make(pending: Sequence[Run], workers: LocalWorkers, jobs: int | None = None) -> None:
    """Make runs in their order, as many at a time as `workers`, a `Cluster` as well, have room for, and at most `jobs`.

    A run waits for the one that it goes on from. One that has lost too many workers fails, the others go on.
    """
    waiting, running = list(pending), {}
    try:
        while waiting or running:
            unfinished = {run.id for run in (*waiting, *running.values())}
            ready = [run for run in waiting if not (run.predecessor and run.predecessor.id in unfinished)]
            room = min(workers.capacity(), jobs or sys.maxsize) - len(running)
            for run in ready[: max(0, room)]:
                waiting.remove(run)
                running[workers.submit(run)] = run
            if not running:
                time.sleep(SECONDS)
            for future in wait(running, SECONDS, FIRST_COMPLETED).done:
                run = running.pop(future)
                if future.cancelled():
                    raise StudyError(
                        f"the scheduler is gone, and {run.id} with it; start scheduler and workers again, and the "
                        "same command goes on from the last epochs"
                    )
                try:
                    future.result()
                except workers.lost as error:
                    run.record |= read_record(run.folder)
                    run.fail(f"{type(error).__name__}: {error}")
                record = read_record(run.folder)
                if record.get("status") == FAILED:
                    tqdm.write(f"{run.id} failed: {record['error']}")
    except KeyboardInterrupt:
        workers.stop(running)
        raise


def available_slots(device: dict[str, Any], settings: Settings) -> list[Slot]:
    """One slot per GPU, or one single-threaded slot per CPU core that quota and free memory allow, at least one."""
    if device["gpus"]:
        return [Slot(name, None) for name in device["visible"]]
    fitting = available_memory() // (KERNEL_BYTES + BYTES_A_PARAMETER * parameters(settings.model))
    # Two one-thread runs do almost twice the work of one run with two threads.
    return [Slot(None, 1)] * max(1, int(min(device["cores"], cpu_quota(), fitting)))


def parameters(model: str) -> int:
    """How many parameters the files of a model have; 0 where they are not here."""
    source = resolve(model)
    folder = cached_snapshot(source, MODEL_FILES) if is_hub_id(source) else Path(source)
    files = folder.glob("*.safetensors") if folder else ()
    return sum(sum(parse_local_safetensors_file_metadata(file).parameter_count.values()) for file in files)


def cpu_quota() -> float:
    """How many cores this process's control groups allow, a share of one included; infinite without a quota."""
    allowed = [math.inf]
    for folder in _groups("cpu"):
        words = _words(folder, "cpu.max", "cpu.cfs_quota_us") + _words(folder, "cpu.cfs_period_us")
        if words and words[0] not in ("max", "-1"):
            allowed.append(int(words[0]) / int(words[1]))
    return min(allowed)


def available_memory() -> int:
    """Bytes that this machine has free and this process's control groups allow; file caches count as free."""
    free = [psutil.virtual_memory().available]
    for folder in _groups("memory"):
        [limit] = _words(folder, "memory.max", "memory.limit_in_bytes") or ["max"]
        [used] = _words(folder, "memory.current", "memory.usage_in_bytes") or ["0"]
        words = _words(folder, "memory.stat")
        caches = dict(zip(words[::2], words[1::2], strict=True))
        if limit != "max":
            cached = caches.get("total_inactive_file", caches.get("inactive_file", 0))
            free.append(int(limit) - int(used) + int(cached))
    return min(free)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, of version 2 and of version 1."""
    for line in OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.is_file() else ():
        _, controllers, name = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            top = CONTROL_GROUPS / controller if controllers else CONTROL_GROUPS
            # In a container the own group may not be seen by the name that it has outside.
            yield from (top / group.relative_to("/") for group in (PurePosixPath(name), *PurePosixPath(name).parents))


def _words(folder: Path, *names: str) -> list[str]:
    """The words of the first of these files that is there, of version 2 or 1."""
    return next(((folder / name).read_text().split() for name in names if (folder / name).is_file()), [])
