"""One papermill execution of the fine-tuning notebook per ratio and seed, side by side."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from docfloqa.arms import RATIOS, choose_arms
from docfloqa.data.hub import pinned
from docfloqa.data.load import data_checksum, load_checked
from docfloqa.exceptions import SettingsError, shown
from docfloqa.files import held, reports_folder, runs_folder, write_whole
from docfloqa.model.florence import generation_config, load_florence
from docfloqa.runs.recovery import refresh
from docfloqa.runs.results import PLAN, planned_runs
from docfloqa.runs.run import COMPLETE, Run, is_complete, now, read_record, weights_checksum
from docfloqa.runs.tables import EPOCHS, is_packed, read_table
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


def settings_of_runs(
    settings: Settings, ratios: Sequence[float], seeds: Sequence[int], arms: Sequence[str] = (), jobs: int | None = None
) -> tuple[list[Settings], dict[str, dict[str, list[Settings]]]]:
    """What the runs of a sweep are made with: those of its ratios, and those of each arm by variant.

    Raises `SettingsError` for an argument of `sweep` that is not allowed; nothing is loaded.
    """
    for name, values in (("ratios", ratios), ("seeds", seeds)):
        if not values or len(set(values)) != len(values):
            raise SettingsError(f"{name} are {list(values)!r}; allowed is at least one value, none of them twice")
    if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1):
        raise SettingsError(f"jobs is {shown(jobs)}; allowed is a whole number from 1 on")
    of_ratios = [settings.replace(vision_trainable=ratio, seed=seed) for seed in seeds for ratio in ratios]
    of_arms = {
        arm.name: {variant.name: variant.runs(settings, seeds) for variant in arm.variants}
        for arm in choose_arms(arms, settings)
    }
    return of_ratios, of_arms


def plan(settings: Settings, ratios: Sequence[float], seeds: Sequence[int], arms: Sequence[str] = ()) -> Plan:
    """The runs of a sweep; loads data and weights to identify them.

    Raises `SettingsError`, `DataError` or `ModelError` before any run when one of them is not usable.
    """
    of_ratios, of_arms = settings_of_runs(settings, ratios, seeds, arms)
    open_run = run_opener()
    ratio_runs = list(map(open_run, of_ratios))
    arm_runs = {
        arm: {name: list(map(open_run, runs)) for name, runs in variants.items()} for arm, variants in of_arms.items()
    }
    return Plan(ratio_runs, arm_runs)


def run_opener() -> Callable[[Settings], Run]:
    """A function that opens the run of some settings; weights and data that runs share are loaded once."""
    data: dict[tuple, str] = {}

    @cache
    def weights(model: str, prefix: str, new_tokens: int, beams: int) -> str:
        network, _ = load_florence(model, prefix)
        # Refused here, not in every run.
        generation_config(network, new_tokens, beams)
        return weights_checksum(network)

    def open_run(settings: Settings) -> Run:
        # The model first: it is the smaller download to find wrong.
        model = weights(settings.model, settings.prefix, settings.max_new_tokens, settings.num_beams)
        key = tuple(
            value
            for name, value in settings.to_dict().items()
            if name.startswith("synth_") or name.endswith(("data", "_questions"))
        )
        if key not in data:
            data[key] = data_checksum(load_checked(settings)[0])
        return Run.open(settings, model, data[key])

    return open_run


def sweep(
    settings: Settings,
    ratios: Sequence[float] = RATIOS,
    seeds: Sequence[int] = (0,),
    kernel: str | None = None,
    arms: Sequence[str] = (),
    scheduler: str | None = None,
    jobs: int | None = None,
) -> pd.DataFrame:
    """Make every run that is not complete, and say how each stands.

    Each run is one papermill execution of `02_finetune.ipynb` in a kernel of its own: one per GPU that
    the kernel sees, else one with one thread per CPU core that quota and memory allow; or one per worker of the dask
    cluster whose `scheduler` has this address; and `jobs` at a time at most. A complete run is skipped, an
    interrupted one goes on from its last epoch, a failed one is reported while the others go on; a study that
    another process makes is waited for. `arms` are names of `docfloqa.arms.ARMS`, whose runs are made after those of
    the ratios.

    Returns one row per run: run, vision_trainable, seed, status, anls (of the last epoch), minutes,
    error. Raises `StudyError` for a kernel that does not exist or lacks the library, `NoGPUError`'s
    text included when the settings want a GPU and the kernel has none, and what `docfloqa.study.cluster` raises.
    """
    settings_of_runs(settings, ratios, seeds, arms, jobs)
    if scheduler:
        # Not above: to import dask takes a second.
        from docfloqa.study.cluster import Cluster

        workers = Cluster(scheduler, execute_run, kernel)
    else:
        workers = LocalWorkers(execute_run, kernel)
    with workers, held(f"sweep-{settings.study}", f"study {settings.study!r}"):
        # Before gigabytes of data are fetched for a run that cannot be made here.
        if not settings.allow_cpu:
            workers.check(settings.replace(vision_trainable=min(ratios)))
        settings = pinned(settings)
        planned = plan(settings, ratios, seeds, arms)
        pending = [run for run in planned.runs if not is_finished(run)]
        with Watcher(settings.study, [run.settings.epochs for run in planned.runs]):
            write_plan(settings, planned)
            again = settings.to_config(ratios=ratios, seeds=seeds, arms=arms)
            write_whole(reports_folder(settings.study) / "study.yaml", again)
            if pending:
                workers.open(settings)
                make(pending, workers, jobs)
            else:
                tqdm.write(f"all {len(planned.runs)} runs of study {settings.study!r} were complete already")
    return study_status(settings.study)


def is_finished(run: Run) -> bool:
    """Whether a run is complete with its notebook; what is damaged of a complete one is set aside first."""
    if is_packed(run.folder):
        return True
    if run.record.get("status") == COMPLETE:
        refresh(run)
    if not run.is_complete():
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


def study_status(study: str) -> pd.DataFrame:
    """How each planned run of a study stands, the ratios as they were asked for, then the arms."""
    return _status([runs_folder(study) / run for run in chain(*planned_runs(study))])


def status(runs: Sequence[Run]) -> pd.DataFrame:
    """How each run stands, read from its folder."""
    return _status([run.folder for run in runs])


def _status(folders: Sequence[Path]) -> pd.DataFrame:
    rows = []
    for folder in folders:
        record, complete = read_record(folder), is_complete(folder)
        settings = record.get("identity", {}).get("settings", {})
        rows.append(
            {
                "run": folder.name,
                "vision_trainable": settings.get("vision_trainable"),
                "seed": settings.get("seed"),
                "status": COMPLETE if complete else record.get("status", "not begun"),
                "anls": read_table(folder, EPOCHS)["anls"].iloc[-1] if complete else None,
                "minutes": round(record["seconds"] / 60, 2) if complete else None,
                "error": record.get("error"),
            }
        )
    return pd.DataFrame(rows)
