"""The runs of a sweep, one at a time in every slot of this machine or on every worker of a cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from docfloqa.exceptions import StudyError
from docfloqa.runs.run import FAILED, Run, read_record
from docfloqa.settings import Settings
from docfloqa.study.kernels import Slot, check_kernel, kernel_device, stop_kernels, stopped
from docfloqa.study.slots import available_slots

if TYPE_CHECKING:
    from docfloqa.study.cluster import Cluster

SECONDS = 1.0  # between two looks at how many workers there are
Execute = Callable[[Run, Slot, str | None], None]


class LocalWorkers(AbstractContextManager):
    """The slots of this machine: a thread for each, which waits for the kernel of its run.

    Raises `StudyError` for a kernel that does not exist.
    """

    lost: tuple[type[Exception], ...] = ()

    def __init__(self, execute: Execute, kernel: str | None):
        self.execute, self.kernel = execute, check_kernel(kernel)
        self.device: dict[str, Any] | None = None
        self.slots: SimpleQueue[Slot] = SimpleQueue()
        self.pool = ThreadPoolExecutor(1)
        self.count = 0
        self.futures: list[Future] = []
        self.going_on: set[str] = set()

    def __exit__(self, *_: Any) -> None:
        self.pool.shutdown()

    def check(self, settings: Settings) -> None:
        """Raises `StudyError` where the kernel cannot compute these settings, for want of a GPU."""
        self.device = kernel_device(settings, self.kernel)

    def open(self, settings: Settings) -> None:
        """Ask the kernel what it computes on, unless it was asked before, and share that out."""
        slots = available_slots(self.device or kernel_device(settings, self.kernel), settings)
        for slot in slots:
            self.slots.put(slot)
        self.count, self.pool = len(slots), ThreadPoolExecutor(len(slots))

    def capacity(self) -> int:
        """The number of slots."""
        return self.count

    def submit(self, run: Run) -> Future:
        """Begin a run in a slot that is free; the future ends with it."""
        self.futures.append(self.pool.submit(self._execute, run))
        return self.futures[-1]

    def _execute(self, run: Run) -> None:
        slot = self.slots.get()
        self.going_on.add(run.id)
        try:
            self.execute(run, slot, self.kernel)
        finally:
            self.going_on.discard(run.id)
            stopped.discard(run.id)
            self.slots.put(slot)

    def stop(self) -> None:
        """End the runs that go on by ending their kernels."""
        stopped.update(self.going_on)
        self.pool.shutdown(wait=False, cancel_futures=True)
        stop_kernels(lambda: any(not future.done() for future in self.futures))


def make(pending: Sequence[Run], workers: LocalWorkers | Cluster, jobs: int | None = None) -> None:
    """Make runs in their order, as many at a time as workers have room for, and `jobs` at most.

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
        workers.stop()
        raise
