"""The workers of a dask cluster: each makes one run at a time, on the GPU and CPU threads that it was given."""

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any

from distributed import Client, Worker, WorkerPlugin, get_worker
from distributed.scheduler import KilledWorker
from tqdm.auto import tqdm

from docfloqa.exceptions import StudyError
from docfloqa.files import reports_folder
from docfloqa.runs.results import PLAN
from docfloqa.runs.run import IDENTIFYING_VERSIONS, Run, git_commit
from docfloqa.settings import Settings
from docfloqa.study.kernels import Slot, check_kernel, kernel_device, stop_kernels
from docfloqa.study.workers import Execute
from docfloqa.versions import version

RESOURCE = "run"
PATIENCE = 15  # seconds for a scheduler to answer


class Cluster(AbstractContextManager):
    """The workers at the address of a dask scheduler, which may come and go.

    A run whose worker dies is begun again on another one, from its last epoch; it fails when it has lost more workers
    than dask's `allowed-failures`. Raises `StudyError` when no scheduler answers.
    """

    lost = (KilledWorker,)

    def __init__(self, address: str, execute: Execute, kernel: str | None):
        self.address, self.execute, self.kernel = address, execute, kernel
        try:
            self.client = Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise StudyError(
                f"no dask scheduler answers at {address!r} ({error}); start one with: dask scheduler, and workers "
                "with: dask worker ADDRESS --nthreads 1"
            ) from error
        self.executor = self.client.get_executor(pure=False, resources={RESOURCE: 1})
        self.admitted: set[str] = set()

    def __exit__(self, *_: Any) -> None:
        self.client.close()

    def check(self, settings: Settings) -> None:
        """Raises `StudyError` where a present worker cannot compute these settings, for want of a GPU."""
        self.client.run(_in_a_thread, kernel_device, settings, self.kernel)

    def open(self, settings: Settings) -> None:
        """Let every worker make runs, one at a time; raises `StudyError` for one that has other code or other files."""
        try:
            self.client.register_plugin(Admission(settings.study, self.kernel), name="docfloqa")
        except (ImportError, AttributeError, OSError) as error:
            raise StudyError(
                f"a worker at {self.address} went away meanwhile, or cannot load this project ({error}); every machine "
                "needs the same checkout and environment"
            ) from error
        if not self.capacity():
            tqdm.write(f"waiting for workers; start them with: dask worker {self.address} --nthreads 1")

    def capacity(self) -> int:
        """The number of workers that may make runs; says when one has joined or gone."""
        try:
            # `scheduler_info` reads a cache that the client itself empties of workers every two seconds.
            workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        except (OSError, AttributeError) as error:
            raise StudyError(f"the scheduler at {self.address} is gone: {error}") from error
        now = {address for address, worker in workers.items() if worker["resources"].get(RESOURCE)}
        for address in sorted(self.admitted - now):
            tqdm.write(f"worker {address} is gone; its run goes on elsewhere, {len(now)} are left")
        for address in sorted(now - self.admitted):
            tqdm.write(f"worker {address} has joined; there are {len(now)}")
        self.admitted = now
        return len(now)

    def submit(self, run: Run) -> Future:
        """Begin a run on a worker that is free; the future ends with it."""
        return self.executor.submit(_execute_here, self.execute, run, self.kernel)

    def stop(self, running: Mapping[Future, Run]) -> None:
        """End the runs that go on by ending their kernels."""
        self.executor.shutdown(wait=False)
        self.client.run(_in_a_thread, _stop_here, {run.id for run in running.values()})


class Admission(WorkerPlugin):
    """Gives a worker that can make a study's runs the resource to make one at a time."""

    def __init__(self, study: str, kernel: str | None):
        self.study, self.kernel, self.here = study, kernel, software()
        self.plan = (reports_folder(study) / PLAN).read_text()

    async def setup(self, worker: Worker) -> None:
        """Raises `StudyError` where the worker has other code, versions or files, or lacks the kernel."""
        name = f"worker {worker.address} on {socket.gethostname()}"
        for what, there in software().items():
            if there != self.here[what]:
                raise StudyError(
                    f"{name} has other software than the sweep: {what} is {there} there and {self.here[what]} here; "
                    "every machine needs the same checkout and environment"
                )
        path = reports_folder(self.study) / PLAN
        if not path.is_file() or path.read_text() != self.plan:
            raise StudyError(
                f"{name} does not see the plan of the study in {path}; all machines must share one file system, and "
                "DOCFLOQA_OUTPUT must name the same folder on each"
            )
        check_kernel(self.kernel)
        await worker.set_resources(**{RESOURCE: 1})


def software() -> dict[str, str]:
    """What of this process's software a run's results depend on."""
    versions = {package: version(package) for package in IDENTIFYING_VERSIONS}
    return {"the project's commit": git_commit() or "none", **versions}


def _execute_here(execute: Execute, run: Run, kernel: str | None) -> None:
    # The worker's environment names its GPU, which its kernels inherit.
    execute(run, Slot(None, get_worker().state.nthreads), kernel)


def _stop_here(runs: Collection[str]) -> None:
    while stop_kernels(runs):
        time.sleep(0.2)


async def _in_a_thread(function: Callable, *arguments: Any) -> None:
    """So that a worker goes on answering its scheduler meanwhile."""
    await asyncio.to_thread(function, *arguments)
