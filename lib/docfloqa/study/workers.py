"""The runs of a sweep, one at a time in every slot of this machine or on every worker of a cluster."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from queue import SimpleQueue
from typing import Any

import psutil

from docfloqa.exceptions import StudyError
from docfloqa.runs.run import Run, read_record
from docfloqa.settings import Settings
from docfloqa.study.kernels import Slot, check_kernel, kernel_device, stopped
from docfloqa.study.monitor import Watcher

SECONDS = 1.0  # between two looks at how many workers there are


Execute = Callable[[Run, Slot, str | None], None]


class Workers(AbstractContextManager):
    """What makes runs, each with `execute(run, slot, kernel)`."""

    lost: tuple[type[Exception], ...] = ()  # what the future of a run raises that lost its workers

    def __init__(self, execute: Execute, kernel: str | None):
        self.execute, self.kernel = execute, kernel

    @abstractmethod
    def check(self, settings: Settings) -> None:
        """Raises `StudyError` where these settings cannot be computed, for want of a GPU."""

    @abstractmethod
    def open(self, settings: Settings) -> None:
        """Make ready for the runs of a study that is planned."""

    @abstractmethod
    def capacity(self) -> int:
        """How many runs can go on at the same time at present."""

    @abstractmethod
    def submit(self, run: Run) -> Future:
        """Begin a run; the future ends with it."""

    @abstractmethod
    def stop(self) -> None:
        """End the runs that go on by ending their kernels."""


class LocalWorkers(Workers):
    """The slots of this machine: a thread for each, which waits for the kernel of its run.

    Raises `StudyError` for a kernel that does not exist.
    """

    def __init__(self, execute: Execute, kernel: str | None):
        super().__init__(execute, check_kernel(kernel))
        self.device: dict[str, Any] | None = None
        self.slots: SimpleQueue[Slot] = SimpleQueue()
        self.pool: ThreadPoolExecutor | None = None
        self.count = 0
        self.futures: list[Future] = []
        self.going_on: set[str] = set()

    def __exit__(self, *_: Any) -> None:
        if self.pool:
            self.pool.shutdown()

    def check(self, settings: Settings) -> None:
        """Raises `StudyError` where the kernel cannot compute these settings, for want of a GPU."""
        self.device = kernel_device(settings, self.kernel)

    def open(self, settings: Settings) -> None:
        """Ask the kernel what it computes on, unless it was asked before, and share that out."""
        slots = available_slots(self.device or kernel_device(settings, self.kernel))
        for slot in slots:
            self.slots.put(slot)
        self.count, self.pool = len(slots), ThreadPoolExecutor(len(slots))

    def capacity(self) -> int:
        """The number of slots."""
        return self.count

    def submit(self, run: Run) -> Future:
        """Begin a run in a slot that is free."""
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


def make(pending: Sequence[Run], workers: Workers, watcher: Watcher) -> None:
    """Make runs in their order, as many at a time as workers have room for.

    A run waits for the one that it goes on from. One that has lost too many workers fails, the others go on.
    """
    waiting, running = list(pending), {}
    try:
        while waiting or running:
            unfinished = {run.id for run in (*waiting, *running.values())}
            ready = [run for run in waiting if not (run.predecessor and run.predecessor.id in unfinished)]
            for run in ready[: max(0, workers.capacity() - len(running))]:
                waiting.remove(run)
                watcher.begin(run)
                running[workers.submit(run)] = run
            if not running:
                time.sleep(SECONDS)
            ended, _ = wait(running, SECONDS, FIRST_COMPLETED)
            for future in ended:
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
                watcher.end(run)
    except KeyboardInterrupt:
        workers.stop()
        raise


def available_slots(device: dict[str, Any]) -> list[Slot]:
    """One slot per GPU, or one single-threaded slot per CPU core."""
    if device["gpus"]:
        return [Slot(name, None) for name in device["visible"]]
    # Two one-thread runs do almost twice the work of one run with two threads.
    return [Slot(None, 1) for _ in range(max(1, device["cores"]))]


def stop_kernels(going_on: Callable[[], bool]) -> None:
    """End the kernels that this process has started, and those that it starts yet, until no run goes on."""
    while going_on():
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                child.terminate()
        time.sleep(0.2)
