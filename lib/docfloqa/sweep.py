"""One papermill execution of the fine-tuning notebook per ratio and seed, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
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

from docfloqa.arms import RATIOS, choose_arms
from docfloqa.data import data_checksum, load_checked
from docfloqa.florence import load_florence
from docfloqa.monitor import Watcher
from docfloqa.parameters import check_parameters, literal, shown
from docfloqa.paths import NOTEBOOKS, reports_folder, write_whole
from docfloqa.results import PLAN
from docfloqa.runs import COMPLETE, RUN_NOTEBOOK, Run, now, read_record, weights_checksum
from docfloqa.settings import Settings, SettingsError

DEFAULT_KERNEL = "python3"
WIDGET = "application/vnd.jupyter.widget-view+json"
RETRIES = 1  # of a run whose kernel died


class SweepError(RuntimeError):
    """A sweep that cannot begin: names the kernel or the setting, and what is allowed."""


@dataclass(frozen=True)
class Slot:
    """Where one run at a time is executed: a GPU as `CUDA_VISIBLE_DEVICES` names it, or one CPU thread."""

    gpu: str | None
    threads: int | None


@dataclass(frozen=True)
class Plan:
    """The runs of a study: every ratio with every seed, and those of each arm by variant."""

    ratios: list[Run]
    arms: dict[str, dict[str, list[Run]]]

    @property
    def runs(self) -> list[Run]:
        """Every run once, in the order in which they are worth making.

        The ratios come first and of them the longest, so that no slot is idle while the last one ends; what
        no sentence compares comes last.
        """
        ratios = sorted(self.ratios, key=lambda run: run.settings.vision_trainable, reverse=True)
        variants = [runs for arm in self.arms.values() for runs in arm.values()]
        variants.sort(key=len, reverse=True)
        return list({run.id: run for run in chain(ratios, *variants)}.values())


def plan(settings: Settings, ratios: Sequence[float], seeds: Sequence[int], arms: Sequence[str] = ()) -> Plan:
    """The runs of a sweep; loads data and weights to identify them.

    Raises `SettingsError`, `DataError` or `ModelError` before any run when one of them is not usable.
    """
    for name, values in (("ratios", ratios), ("seeds", seeds)):
        if not values or len(set(values)) != len(values):
            raise SettingsError(
                f"{name} are {list(values)!r}; allowed is at least one value, none of them twice"
            )
    chosen = choose_arms(arms, settings)
    variants = [settings.replace(vision_trainable=ratio, seed=seed) for seed in seeds for ratio in ratios]
    open_run = RunOpener()
    return Plan(
        [open_run(variant) for variant in variants],
        {
            arm.name: {
                variant.name: [open_run(one) for one in variant.runs(settings, seeds)]
                for variant in arm.variants
            }
            for arm in chosen
        },
    )


class RunOpener:
    """Opens the runs of some settings; weights and data that they share are loaded once."""

    def __init__(self) -> None:
        self.weights: dict[tuple, str] = {}
        self.data: dict[tuple, str] = {}

    def __call__(self, settings: Settings) -> Run:
        # The model first: it is the smaller download to find wrong.
        weights = (settings.model, settings.prefix)
        if weights not in self.weights:
            self.weights[weights] = weights_checksum(load_florence(*weights)[0])
        data = tuple(
            value
            for name, value in settings.to_dict().items()
            if name.startswith("synth_") or name.endswith(("data", "_questions"))
        )
        if data not in self.data:
            self.data[data] = data_checksum(load_checked(settings)[0])
        return Run.open(settings, self.weights[weights], self.data[data])


def sweep(
    settings: Settings,
    ratios: Sequence[float] = RATIOS,
    seeds: Sequence[int] = (0,),
    kernel: str | None = None,
    arms: Sequence[str] = (),
) -> pd.DataFrame:
    """Make every run that is not complete, and say how each stands.

    Each run is one papermill execution of `02_finetune.ipynb` in a kernel of its own: one per GPU that
    the kernel sees, else one per CPU core with one thread each. A complete run is skipped, an
    interrupted one goes on from its last epoch, a failed one is reported while the others go on. `arms` are
    names of `docfloqa.arms.ARMS`, whose runs are made after those of the ratios.

    Returns one row per run: run, vision_trainable, seed, status, anls (of the last epoch), minutes,
    error. Raises `SweepError` for a kernel that does not exist or lacks the library, `NoGPUError`'s
    text included when the settings want a GPU and the kernel has none.
    """
    check_kernel(kernel)
    # Before gigabytes of data are fetched for a run that cannot be made here.
    cheapest = settings.replace(vision_trainable=min(ratios, default=settings.vision_trainable))
    device = None if settings.allow_cpu else kernel_device(cheapest, kernel)
    planned = plan(settings, ratios, seeds, arms)
    write_plan(settings, planned)
    runs = planned.runs
    pending = [run for run in runs if not run.complete]
    if pending:
        slots = available_slots(device or kernel_device(settings, kernel))[: len(pending)]
        with Watcher(runs, len(slots)) as watcher:
            make(pending, slots, kernel, watcher)
    else:
        tqdm.write(f"all {len(runs)} runs of study {settings.study!r} were complete already")
    # The ratios as they were asked for, then the arms.
    return status(list({run.id: run for run in chain(planned.ratios, runs)}.values()))


def make(pending: Sequence[Run], slots: Sequence[Slot], kernel: str | None, watcher: Watcher) -> None:
    """Make runs in their order, one at a time in every slot; a run waits for the one that it goes on from."""
    free, waiting, running = list(slots), list(pending), {}
    with ThreadPoolExecutor(len(slots)) as pool:
        try:
            while waiting or running:
                unfinished = {run.id for run in (*waiting, *(run for run, _ in running.values()))}
                ready = [run for run in waiting if not (run.predecessor and run.predecessor.id in unfinished)]
                for run in ready[: len(free)]:
                    waiting.remove(run)
                    slot = free.pop()
                    watcher.begin(run)
                    running[pool.submit(execute_run, run, slot, kernel)] = run, slot
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    run, slot = running.pop(future)
                    free.append(slot)
                    watcher.end(run)
                    future.result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            stop_kernels()
            raise


def available_slots(device: dict[str, Any]) -> list[Slot]:
    """One slot per GPU, or one single-threaded slot per CPU core."""
    if device["gpus"]:
        return [Slot(str(place), None) for place in range(device["gpus"])]
    # Two one-thread runs do almost twice the work of one run with two threads.
    return [Slot(None, 1) for _ in range(max(1, device["cores"]))]


def write_plan(settings: Settings, planned: Plan) -> None:
    """Write which runs the study consists of, for whoever reads its results."""
    content = {
        "settings": settings.to_dict(),
        "planned": now(),
        "runs": [run.id for run in planned.ratios],
        "arms": {
            arm: {variant: [run.id for run in runs] for variant, runs in variants.items()}
            for arm, variants in planned.arms.items()
        },
    }
    write_whole(reports_folder(settings.study) / PLAN, json.dumps(content, indent=2))


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
    check_parameters(NOTEBOOKS / RUN_NOTEBOOK, parameters)
    for attempt in range(1 + RETRIES):
        try:
            papermill.execute_notebook(
                literal(NOTEBOOKS / RUN_NOTEBOOK),
                literal(part),
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
    """Move an executed notebook to its place, with further metadata, without widgets and this machine's paths."""
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
    return part.replace(place)


def check_kernel(kernel: str | None) -> str:
    """The name of the kernel; raises `SweepError` when there is none of that name."""
    name = kernel or DEFAULT_KERNEL
    known = KernelSpecManager().get_all_specs()
    if name not in list(known):
        raise SweepError(f"kernel {shown(name)} does not exist; kernels here are {', '.join(sorted(known))}")
    return name


def device_probe(settings: Settings) -> str:
    """The code that asks a kernel; the settings are one literal in it, whatever stands in them."""
    return (
        "import json\n"
        "from docfloqa.device import require_device\n"
        "from docfloqa.settings import Settings\n"
        f"print(json.dumps(require_device(Settings.from_json({settings.to_json()!r}))))"
    )


def kernel_device(settings: Settings, kernel: str | None) -> dict[str, Any]:
    """What the kernel really computes on, asked inside it; raises `SweepError` when it cannot serve."""
    name = check_kernel(kernel)
    probe = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(device_probe(settings))])
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
