"""One papermill execution in a kernel that is watched: one that dies or stands still gets a second chance."""

import json
import signal
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import nbclient
import nbformat
import papermill
import zmq
from jupyter_client.kernelspec import find_kernel_specs
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from docfloqa.exceptions import StudyError, shown
from docfloqa.files import NOTEBOOKS
from docfloqa.model.processes import compute_alone, end_with_parent
from docfloqa.parameters import literal
from docfloqa.runs.run import EXECUTED, FAILED, INTERRUPTED, PROGRESS, Run, read_record
from docfloqa.settings import Settings

# Of what a kernel and its clients say to each other; a kernel without it warns of eavesdropping.
ENCRYPTION = "auto" if zmq.has("curve") else "disabled"
DEFAULT_KERNEL, RUN_NOTEBOOK = "python3", "02_finetune.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"
RETRIES = 1  # of a notebook whose kernel died or was stopped
STALLED_AFTER = 1800.0  # seconds without a word from a run
# Asks a kernel what it computes on; the settings, as JSON, are one literal in it, whatever stands in them.
PROBE = """import json
from docfloqa.model.device import require_device
from docfloqa.settings import Settings
print(json.dumps(require_device(Settings.from_json({!r}))))"""


class Slot(NamedTuple):
    """Where one run at a time is executed: a GPU as `CUDA_VISIBLE_DEVICES` names it, or so many CPU threads."""

    gpu: str | None
    threads: int | None


class Manager(AsyncKernelManager):
    """A kernel whose messages are encrypted where pyzmq can, and which is asked to end before it is interrupted."""

    transport_encryption = ENCRYPTION

    async def shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:
        """End the kernel; one that is interrupted at its end, as the base class does, tells of an error."""
        if not now:
            await self.request_shutdown(restart)
            await self.finish_shutdown(restart=restart)
        await super().shutdown_kernel(now=True, restart=restart)


class Execution(AbstractContextManager):
    """A notebook of a run or study that this process executes, and whose kernel other threads may signal.

    A kernel that leaves `progress` alone for `STALLED_AFTER` seconds is killed; that this process is, ipykernel sees.
    """

    going_on: ClassVar[set[Self]] = set()

    def __init__(self, of: str, progress: Path | None = None):
        self.of, self.progress = of, progress
        self.stopped = self.stalled = False
        self.ended = threading.Event()
        kernels = self.kernels = []

        class Known(Manager):
            def __init__(self, **options: Any):
                super().__init__(**options)
                kernels.append(self)

        self.manager = Known

    def __enter__(self) -> Self:
        self.going_on.add(self)
        if self.progress:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.going_on.discard(self)
        self.ended.set()

    def _watch(self) -> None:
        seen, since = None, time.monotonic()
        while not self.ended.wait(min(1.0, STALLED_AFTER / 4)):
            with suppress(FileNotFoundError):
                touched = self.progress.stat().st_mtime_ns
                if touched != seen:
                    seen, since = touched, time.monotonic()
            if time.monotonic() - since > STALLED_AFTER:
                self.stalled = True
                self.signal(signal.SIGKILL)
                return

    def signal(self, signum: int) -> None:
        """Send a signal to the kernel, if it runs."""
        for kernel in self.kernels:
            if process := getattr(kernel.provisioner, "process", None):
                process.send_signal(signum)


def stop_kernels(of: Collection[str], signum: int = signal.SIGTERM) -> bool:
    """Send a signal to the kernels of these runs or studies; returns whether any goes on."""
    some = [execution for execution in Execution.going_on.copy() if execution.of in of]
    for execution in some:
        execution.stopped = True
        execution.signal(signum)
    return bool(some)


def execute_run(run: Run, slot: Slot, kernel: str | None) -> None:
    """One papermill execution; whether it succeeded is read from `run.json`, not from papermill.

    A kernel that dies, or stands still, gets a second chance; an error in the notebook does not, it would come again.
    """
    parameters = {"settings_json": run.settings.to_json(), **slot._asdict()}
    part = run.folder / ".finetune.part.ipynb"
    error = "the notebook ended without completing this run (did code, data or model change meanwhile?)"
    run.folder.mkdir(parents=True, exist_ok=True)
    try:
        execute(RUN_NOTEBOOK, part, parameters, kernel, run.folder / PROGRESS)
    except KeyboardInterrupt:
        error = None
    except PapermillExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
    except Exception as failure:
        # Whatever else papermill meets, the other runs go on and the sweep tells.
        error = f"{type(failure).__name__}: {failure}"
    try:
        if part.is_file():
            settle(part, run.folder / EXECUTED)
    except ValueError:
        # A full disk has cut it short.
        part.unlink()
    after = Run(run.id, run.settings)
    if not after.is_complete():
        after.record = {**run.record, **read_record(after.folder)}
        after.update(status=FAILED if error else INTERRUPTED, error=error)


def execute(
    notebook: str, part: Path, parameters: dict, kernel: str | None = None, progress: Path | None = None, **options: Any
) -> None:
    """Execute a notebook of the project into the file `part`; once more if its kernel dies. Papermill gets `options`.

    With `progress`, a kernel that stands still (see `Execution`) counts as dead. Names of `parameters` are run as code:
    they are the caller's own. Raises `PapermillExecutionError` for an error in a cell, `StudyError` for a kernel that
    died again, `KeyboardInterrupt` after `stop_kernels`.
    """
    compute_alone()
    options |= {"kernel_name": kernel or DEFAULT_KERNEL, "progress_bar": False, "cwd": NOTEBOOKS}
    paths = literal(NOTEBOOKS / notebook), literal(part)
    for attempt in range(1 + RETRIES):
        with Execution(part.parent.name, progress) as execution:
            try:
                papermill.execute_notebook(*paths, parameters, kernel_manager_class=execution.manager, **options)
                return
            except PapermillExecutionError:
                if not execution.stopped:
                    raise
            # DeadKernelError is one, and so is what comes of a kernel that dies before it answers.
            except RuntimeError as failure:
                died = f"the kernel died (out of memory, or killed from outside): {failure}"
        if execution.stopped:
            raise KeyboardInterrupt
        if execution.stalled:
            died = f"the kernel was stopped, for it had not moved for {STALLED_AFTER:g} s"
        if attempt < RETRIES:
            tqdm.write(f"{part.parent.name}: {died}; once more, from its last epoch")
    raise StudyError(f"{Path(notebook).stem} stopped: {died}; the same command goes on from here")


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a fresh process that ends with this one; raises `BrokenProcessPool` if it is killed."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as process:
        return process.submit(function, *arguments).result()


def settle(part: Path, path: Path, **metadata: Any) -> Path:
    """Move an executed notebook to its path, with further metadata, without widgets and this machine's paths."""
    notebook = nbformat.read(part, as_version=4)
    for name in ("input_path", "output_path"):
        if name in notebook.metadata.get("papermill", {}):
            notebook.metadata.papermill[name] = Path(notebook.metadata.papermill[name]).name
    # A progress bar whose kernel is gone shows nothing, and its state is most of the file.
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    notebook.metadata.update(metadata)
    nbformat.write(notebook, part)
    return part.replace(path)


def check_kernel(kernel: str | None) -> str:
    """The name of the kernel; raises `StudyError` when there is none of that name."""
    name, known = kernel or DEFAULT_KERNEL, sorted(find_kernel_specs())
    if name not in known:
        raise StudyError(f"kernel {shown(name)} does not exist; kernels here are {', '.join(known)}")
    return name


def kernel_device(settings: Settings, kernel: str | None) -> dict[str, Any]:
    """What the kernel really computes on, asked inside it; raises `StudyError` when it cannot serve."""
    name = check_kernel(kernel)
    probe = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROBE.format(settings.to_json()))])
    try:
        # In the main thread nbclient would answer signals itself, and badly.
        with ThreadPoolExecutor(1) as thread:
            options = {"kernel_name": name, "kernel_manager_class": Manager, "timeout": 300}
            thread.submit(nbclient.execute, probe, NOTEBOOKS, **options).result()
    except CellExecutionError as error:
        raise StudyError(f"kernel {name!r} cannot serve this study: {error.ename}: {error.evalue}") from None
    # DeadKernelError is one of them.
    except (TimeoutError, RuntimeError) as error:
        raise StudyError(f"kernel {name!r} does not answer: {error}") from error
    printed = "".join(output.get("text", "") for output in probe.cells[0].outputs if output.get("name") == "stdout")
    return json.loads(printed.splitlines()[-1])
