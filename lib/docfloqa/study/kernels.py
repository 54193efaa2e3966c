"""One papermill execution in a kernel that is watched: one that dies or stands still gets a second chance."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import nbformat
import papermill
import psutil
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from docfloqa.exceptions import DocFloQAError, StudyError, shown
from docfloqa.files import NOTEBOOKS, DiskFullError, is_full
from docfloqa.parameters import check_parameters, literal
from docfloqa.runs.run import INTERRUPTED, PROGRESS, Run, read_record
from docfloqa.settings import Settings

DEFAULT_KERNEL, RUN_NOTEBOOK = "python3", "02_finetune.ipynb"
WIDGET = "application/vnd.jupyter.widget-view+json"
RETRIES = 1  # of a notebook whose kernel died or was stopped
STALLED_AFTER = 1800.0  # seconds without a word from a run
# Runs and studies whose kernels this process ends on purpose.
stopped: set[str] = set()


class KernelDiedError(DocFloQAError, RuntimeError):
    """A kernel that died, or stood still and was stopped, and did so again: says which of the two."""


@dataclass(frozen=True)
class Slot:
    """Where one run at a time is executed: a GPU as `CUDA_VISIBLE_DEVICES` names it, or one CPU thread."""

    gpu: str | None
    threads: int | None


def execute_run(run: Run, slot: Slot, kernel: str | None) -> None:
    """One papermill execution; whether it succeeded is read from `run.json`, not from papermill.

    A kernel that dies, or says nothing for `STALLED_AFTER` seconds, gets a second chance; an error in the
    notebook does not, it would come again.
    """
    parameters = {"settings_json": run.settings.to_json(), "gpu": slot.gpu, "threads": slot.threads}
    part = run.folder / ".finetune.part.ipynb"
    error = "the notebook ended without completing this run (did code, data or model change meanwhile?)"
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        try:
            execute(RUN_NOTEBOOK, part, parameters, kernel, run.folder / PROGRESS)
        except PapermillExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
        except Exception as failure:
            # Whatever else papermill meets, the other runs go on and the sweep tells.
            error = f"{type(failure).__name__}: {failure}"
        try:
            if part.is_file():
                settle(part, notebook_of(run))
        except ValueError:
            # A full disk has cut it short.
            part.unlink()
        after = Run(run.id, run.settings)
        if not after.is_complete():
            after.record = {**run.record, **read_record(after.folder)}
            if run.id in stopped:
                after.update(status=INTERRUPTED, error=None)
            else:
                after.fail(error)
    except OSError as failure:
        if not is_full(failure):
            raise
        raise DiskFullError(f"{error}; and the disk of {run.folder} is full: {failure}") from failure


def notebook_of(run: Run) -> Path:
    """Where the executed notebook of a run is kept."""
    return run.folder / "finetune.ipynb"


def execute(
    notebook: str,
    part: Path,
    parameters: dict[str, Any],
    kernel: str | None = None,
    progress: Path | None = None,
    **options: Any,
) -> None:
    """Execute a notebook of the project into the file `part`; once more if its kernel dies. Papermill gets `options`.

    With `progress`, a kernel that does not touch that file for `STALLED_AFTER` seconds is stopped, as if it had died.
    Raises `SettingsError` for a parameter that the notebook does not have, `PapermillExecutionError` for an error in a
    cell, and `KernelDiedError`.
    """
    check_parameters(NOTEBOOKS / notebook, parameters)
    options |= {"kernel_name": kernel or DEFAULT_KERNEL, "progress_bar": False, "cwd": NOTEBOOKS}
    for attempt in range(1 + RETRIES):
        with watched(progress) as (manager, stalled):
            try:
                paths = literal(NOTEBOOKS / notebook), literal(part)
                papermill.execute_notebook(*paths, parameters, kernel_manager_class=manager, **options)
                return
            # DeadKernelError is one, and so is what comes of a kernel that dies before it answers.
            except RuntimeError as failure:
                died = f"the kernel died (out of memory, or killed from outside): {failure}"
                if stalled.is_set():
                    died = f"the kernel was stopped, for it had not moved for {STALLED_AFTER:g} s"
        if part.parent.name in stopped:
            break
        if attempt < RETRIES:
            tqdm.write(f"{part.parent.name}: {died}; once more, from its last epoch")
    raise KernelDiedError(died)


@contextmanager
def watched(progress: Path | None) -> Iterator[tuple[type[AsyncKernelManager], threading.Event]]:
    """What is to start the kernel of the block, and whether the kernel was stopped for standing still.

    When this process is killed, its kernels notice within a second and end (ipykernel does so).
    """
    started: list[AsyncKernelManager] = []
    stalled, ended = threading.Event(), threading.Event()

    class Manager(AsyncKernelManager):
        def __init__(self, **kwargs: Any):
            super().__init__(**kwargs)
            started.append(self)

    def watch() -> None:
        seen, since = None, time.monotonic()
        while not ended.wait(min(1.0, STALLED_AFTER / 4)):
            with suppress(FileNotFoundError):
                touched = progress.stat().st_mtime_ns
                if touched != seen:
                    seen, since = touched, time.monotonic()
            if time.monotonic() - since > STALLED_AFTER:
                stalled.set()
                for manager in started:
                    # It may have ended at this moment.
                    with suppress(RuntimeError):
                        asyncio.run(manager.signal_kernel(signal.SIGKILL))
                return

    thread = threading.Thread(target=watch if progress else ended.wait, daemon=True)
    thread.start()
    try:
        yield Manager, stalled
    finally:
        ended.set()
        thread.join()


def signal_kernels(signum: int) -> None:
    """Send a signal to the kernels that this process has started."""
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            child.send_signal(signum)


def stop_kernels(going_on: Callable[[], bool]) -> None:
    """End the kernels that this process has started, and those that it starts yet, until nothing goes on."""
    while going_on():
        signal_kernels(signal.SIGTERM)
        time.sleep(0.2)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a process started afresh, whose memory is its own and which ends with this one.

    Raises `BrokenProcessPool` when the process is killed.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent) as process:
        return process.submit(function, *arguments).result()


def end_with_parent() -> None:
    """Let this process end as soon as the one that began it is gone, however that ended."""

    def watch() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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
    name = kernel or DEFAULT_KERNEL
    known = KernelSpecManager().get_all_specs()
    if name not in list(known):
        raise StudyError(f"kernel {shown(name)} does not exist; kernels here are {', '.join(sorted(known))}")
    return name


def device_probe(settings: Settings) -> str:
    """The code that asks a kernel; the settings are one literal in it, whatever stands in them."""
    return (
        "import json\n"
        "from docfloqa.model.device import require_device\n"
        "from docfloqa.settings import Settings\n"
        f"print(json.dumps(require_device(Settings.from_json({settings.to_json()!r}))))"
    )


def kernel_device(settings: Settings, kernel: str | None) -> dict[str, Any]:
    """What the kernel really computes on, asked inside it; raises `StudyError` when it cannot serve."""
    name = check_kernel(kernel)
    probe = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(device_probe(settings))])
    for attempt in range(1 + RETRIES):
        try:
            resources = {"metadata": {"path": NOTEBOOKS}}
            NotebookClient(probe, kernel_name=name, timeout=300, resources=resources).execute()
            break
        except CellExecutionError as error:
            raise StudyError(f"kernel {name!r} cannot serve this study: {error.ename}: {error.evalue}") from None
        except (TimeoutError, RuntimeError) as error:
            # DeadKernelError is one of them.
            if attempt == RETRIES:
                raise StudyError(f"kernel {name!r} does not answer: {error}") from error
    printed = "".join(output.get("text", "") for output in probe.cells[0].outputs if output.get("name") == "stdout")
    return json.loads(printed.splitlines()[-1])
