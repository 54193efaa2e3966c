"""One papermill execution of the fine-tuning notebook per ratio and seed, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import pandas as pd
from tqdm.auto import tqdm

from docfloqa.arms import RATIOS, choose_arms
from docfloqa.data.load import data_checksum, load_checked
from docfloqa.exceptions import SettingsError
from docfloqa.files import held, reports_folder, write_whole
from docfloqa.hub import pinned
from docfloqa.model.florence import load_florence
from docfloqa.model.targets import generation_config
from docfloqa.runs.identity import weights_checksum
from docfloqa.runs.recovery import refresh
from docfloqa.runs.results import PLAN
from docfloqa.runs.run import COMPLETE, Run, now, read_record
from docfloqa.settings import Settings
from docfloqa.study.kernels import execute_run, notebook_of
from docfloqa.study.monitor import Watcher
from docfloqa.study.workers import LocalWorkers, make


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
            raise SettingsError(f"{name} are {list(values)!r}; allowed is at least one value, none of them twice")
    chosen = choose_arms(arms, settings)
    variants = [settings.replace(vision_trainable=ratio, seed=seed) for seed in seeds for ratio in ratios]
    open_run = RunOpener()
    return Plan(
        [open_run(variant) for variant in variants],
        {
            arm.name: {
                variant.name: [open_run(one) for one in variant.runs(settings, seeds)] for variant in arm.variants
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
            network, _ = load_florence(*weights)
            # Refused here, not in every run.
            generation_config(network, settings.max_new_tokens, settings.num_beams)
            self.weights[weights] = weights_checksum(network)
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
    scheduler: str | None = None,
) -> pd.DataFrame:
    """Make every run that is not complete, and say how each stands.

    Each run is one papermill execution of `02_finetune.ipynb` in a kernel of its own: one per GPU that
    the kernel sees, else one per CPU core with one thread each; or one per worker of the dask cluster whose
    `scheduler` has this address. A complete run is skipped, an interrupted one goes on from its last epoch, a
    failed one is reported while the others go on; a study that another process makes is waited for. `arms` are
    names of `docfloqa.arms.ARMS`, whose runs are made after those of the ratios.

    Returns one row per run: run, vision_trainable, seed, status, anls (of the last epoch), minutes,
    error. Raises `StudyError` for a kernel that does not exist or lacks the library, `NoGPUError`'s
    text included when the settings want a GPU and the kernel has none, and what `docfloqa.study.cluster` raises.
    """
    if scheduler:
        # Not above: to import dask takes a second.
        from docfloqa.study.cluster import Cluster

        workers = Cluster(scheduler, execute_run, kernel)
    else:
        workers = LocalWorkers(execute_run, kernel)
    with workers, held(f"sweep-{settings.study}", f"study {settings.study!r}"):
        # Before gigabytes of data are fetched for a run that cannot be made here.
        if not settings.allow_cpu:
            workers.check(settings.replace(vision_trainable=min(ratios, default=settings.vision_trainable)))
        settings = pinned(settings)
        planned = plan(settings, ratios, seeds, arms)
        write_plan(settings, planned)
        runs = planned.runs
        pending = [run for run in runs if not is_finished(run)]
        if pending:
            workers.open(settings)
            with Watcher(runs) as watcher:
                make(pending, workers, watcher)
        else:
            tqdm.write(f"all {len(runs)} runs of study {settings.study!r} were complete already")
    # The ratios as they were asked for, then the arms.
    return status(list({run.id: run for run in chain(planned.ratios, runs)}.values()))


def is_finished(run: Run) -> bool:
    """Whether a run is complete with its notebook; what is damaged of a complete one is set aside first."""
    if run.record.get("status") == COMPLETE:
        refresh(run)
    if not run.complete:
        return False
    run.tidy()
    return notebook_of(run).is_file()


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
