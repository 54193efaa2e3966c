"""One papermill execution of the fine-tuning notebook per ratio and seed, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import nbformat
import pandas as pd
import papermill
import psutil
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm.auto import tqdm

from docfloqa.data import data_checksum, load_checked
from docfloqa.florence import load_florence
from docfloqa.monitor import Watcher
from docfloqa.paths import NOTEBOOKS, reports_folder, write_whole
from docfloqa.results import PLAN
from docfloqa.runs import COMPLETE, RUN_NOTEBOOK, Run, now, read_record, weights_checksum
from docfloqa.settings import Settings, SettingsError

DEFAULT_KERNEL = "python3"
RETRIES = 1  # of a run whose kernel died


class SweepError(RuntimeError):
    """A sweep that cannot begin: names the kernel or the setting, and what is allowed."""


@dataclass(frozen=True)
class Slot:
    """Where one run at a time is executed: a GPU as `CUDA_VISIBLE_DEVICES` names it, or one CPU thread."""

    gpu: str | None
    threads: int | None


def plan(settings: Settings, ratios: Sequence[float], seeds: Sequence[int]) -> list[Run]:
    """The runs of a sweep, every ratio with every seed; loads the data and the weights to identify them.

    Raises `SettingsError`, `DataError` or `ModelError` before any run when one of them is not usable.
    """
    for name, values in (("ratios", ratios), ("seeds", seeds)):
        if not values or len(set(values)) != len(values):
            raise SettingsError(
                f"{name} are {list(values)!r}; allowed is at least one value, none of them twice"
            )
    variants = [settings.replace(vision_trainable=ratio, seed=seed) for seed in seeds for ratio in ratios]
    # The model first: it is the smaller download to find wrong.
    model, _ = load_florence(settings.model, settings.prefix)
    weights = weights_checksum(model)
    dataset, _ = load_checked(settings)
    data = data_checksum(dataset)
    return [Run.open(variant, weights, data) for variant in variants]


def sweep(
    settings: Settings,
    ratios: Sequence[float] = (0.0, 0.33, 0.66, 1.0),
    seeds: Sequence[int] = (0,),
    kernel: str | None = None,
) -> pd.DataFrame:
    """Make every run that is not complete, and say how each stands.

    Each run is one papermill execution of `02_finetune.ipynb` in a kernel of its own: one per GPU that
    the kernel sees, else one per CPU core with one thread each. A complete run is skipped, an
    interrupted one goes on from its last epoch, a failed one is reported while the others go on.

    Returns one row per run: run, vision_trainable, seed, status, anls (of the last epoch), minutes,
    error. Raises `SweepError` for a kernel that does not exist or lacks the library, `NoGPUError`'s
    text included when the settings want a GPU and the kernel has none.
    """
    check_kernel(kernel)
    # Before gigabytes of data are fetched for a run that cannot be made here.
    cheapest = settings.replace(vision_trainable=min(ratios, default=settings.vision_trainable))
    device = None if settings.allow_cpu else kernel_device(cheapest, kernel)
    runs = plan(settings, ratios, seeds)
    write_plan(settings, runs)
    # The longest first, so that no slot is idle while the last one ends.
    pending = [run for run in runs if not run.complete]
    pending.sort(key=lambda run: run.settings.vision_trainable, reverse=True)
    if pending:
        device = device or kernel_device(settings, kernel)
        slots: SimpleQueue[Slot] = SimpleQueue()
        for slot in available_slots(device)[: len(pending)]:
            slots.put(slot)
        with ExitStack() as stack:
            watcher = stack.enter_context(Watcher(runs, workers=slots.qsize()))
            pool = stack.enter_context(ThreadPoolExecutor(slots.qsize()))
            try:
                for ended in as_completed(
                    [pool.submit(execute, run, slots, kernel, watcher) for run in pending]
                ):
                    ended.result()
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                stop_kernels()
                raise
    else:
        tqdm.write(f"all {len(runs)} runs of study {settings.study!r} were complete already")
    return status(runs)


def available_slots(device: dict[str, Any]) -> list[Slot]:
    """One slot per GPU, or one single-threaded slot per CPU core."""
    if device["gpus"]:
        return [Slot(str(place), None) for place in range(device["gpus"])]
    # Two one-thread runs do almost twice the work of one run with two threads.
    return [Slot(None, 1) for _ in range(max(1, device["cores"]))]


def write_plan(settings: Settings, runs: Sequence[Run]) -> None:
    """Write which runs the study consists of, for whoever reads its results."""
    content = {"settings": settings.to_dict(), "planned": now(), "runs": [run.id for run in runs]}
    write_whole(reports_folder(settings.study) / PLAN, json.dumps(content, indent=2))


def execute(run: Run, slots: SimpleQueue[Slot], kernel: str | None, watcher: Watcher) -> None:
    """Execute the fine-tuning notebook for one run, in the next free slot; an error goes into its record."""
    slot = slots.get()
    watcher.begin(run)
    try:
        execute_run(run, slot, kernel)
    finally:
        watcher.end(run)
        slots.put(slot)


def execute_run(run: Run, slot: Slot, kernel: str | None) -> None:
    """One papermill execution; whether it succeeded is read from `run.json`, not from papermill.

    A kernel that dies gets a second chance; an error in the notebook does not, it would come again.
    """
    settings = run.settings
    parameters = {
        "vision_trainable": settings.vision_trainable,
        "seed": settings.seed,
        "settings_json": settings.to_json(),
        "gpu": slot.gpu,
        "threads": slot.threads,
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    part = run.folder / ".finetune.part.ipynb"
    error = "the notebook ended without completing this run (did code, data or model change meanwhile?)"
    for attempt in range(1 + RETRIES):
        try:
            papermill.execute_notebook(
                NOTEBOOKS / RUN_NOTEBOOK,
                part,
                parameters,
                kernel_name=kernel or DEFAULT_KERNEL,
                progress_bar=False,
                cwd=NOTEBOOKS,
            )
        except PapermillExecutionError as failure:
            error = f"{failure.ename}: {failure.evalue}"
        except DeadKernelError:
            error = "the kernel died (out of memory, or killed from outside)"
            if attempt < RETRIES:
                tqdm.write(f"{run.id}: {error}; once more, from its last epoch")
                continue
        except Exception as failure:
            # Whatever else papermill meets, the other runs go on and the sweep tells.
            error = f"{type(failure).__name__}: {failure}"
        break
    if part.is_file():
        settle(part, run.folder / "finetune.ipynb")
    after = Run(run.id, settings)
    if not after.complete:
        after.record = {**run.record, **read_record(after.folder)}
        after.fail(error)


def settle(part: Path, place: Path, **metadata: Any) -> Path:
    """Move an executed notebook to its place, with further metadata and without this machine's paths."""
    notebook = nbformat.read(part, as_version=4)
    for name in ("input_path", "output_path"):
        if name in notebook.metadata.get("papermill", {}):
            notebook.metadata.papermill[name] = Path(notebook.metadata.papermill[name]).name
    notebook.metadata.update(metadata)
    nbformat.write(notebook, part)
    return part.replace(place)


def check_kernel(kernel: str | None) -> str:
    """The name of the kernel; raises `SweepError` when there is none of that name."""
    name = kernel or DEFAULT_KERNEL
    known = KernelSpecManager().get_all_specs()
    if name not in known:
        raise SweepError(f"kernel {name!r} does not exist; kernels here are {', '.join(sorted(known))}")
    return name


def kernel_device(settings: Settings, kernel: str | None) -> dict[str, Any]:
    """What the kernel really computes on, asked inside it; raises `SweepError` when it cannot serve."""
    name = check_kernel(kernel)
    source = (
        "import json\n"
        "from docfloqa.device import require_device\n"
        "from docfloqa.settings import Settings\n"
        f"print(json.dumps(require_device(Settings.from_json({settings.to_json()!r}))))"
    )
    probe = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    try:
        NotebookClient(
            probe, kernel_name=name, timeout=300, resources={"metadata": {"path": NOTEBOOKS}}
        ).execute()
    except CellExecutionError as error:
        raise SweepError(f"kernel {name!r} cannot serve this study: {error.ename}: {error.evalue}") from None
    except (DeadKernelError, TimeoutError, RuntimeError) as error:
        raise SweepError(f"kernel {name!r} does not answer: {error}") from error
    printed = "".join(
        output.get("text", "") for output in probe.cells[0].outputs if output.get("name") == "stdout"
    )
    return json.loads(printed.splitlines()[-1])


def stop_kernels() -> None:
    """End the kernels that this process has started."""
    for child in psutil.Process().children():
        child.terminate()


def status(runs: Sequence[Run]) -> pd.DataFrame:
    """How each run stands, read from its folder."""
    rows = []
    for planned in runs:
        run = Run(planned.id, planned.settings, read_record(planned.folder))
        last = run.epochs().iloc[-1] if run.complete else {}
        rows.append(
            {
                "run": run.id,
                "vision_trainable": run.settings.vision_trainable,
                "seed": run.settings.seed,
                "status": COMPLETE if run.complete else run.record.get("status", "not begun"),
                "anls": last.get("anls"),
                "minutes": round(run.record["seconds"] / 60, 2) if run.complete else None,
                "error": run.record.get("error"),
            }
        )
    return pd.DataFrame(rows)
