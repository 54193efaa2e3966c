"""One papermill execution of the fine-tuning notebook per ratio and seed, side by side."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, product
from typing import Any, Self

import pandas as pd
from tqdm.auto import tqdm

from docfloqa.arms import RATIOS, choose_arms, legs
from docfloqa.data.hub import pinned
from docfloqa.data.load import data_checksum, load_checked
from docfloqa.exceptions import SettingsError, shown
from docfloqa.files import held, put_back, reports_folder, write_whole
from docfloqa.model.folder import known_weights
from docfloqa.runs.plans import CONFIG, PLAN, check_name
from docfloqa.runs.rates import best_rate, mean_scores, rates_to_try
from docfloqa.runs.recovery import refresh
from docfloqa.runs.results import study_status
from docfloqa.runs.run import COMPLETE, EXECUTED, FAILED, Run, now
from docfloqa.runs.tables import PACKED, is_packed
from docfloqa.settings import Settings
from docfloqa.study.kernels import execute_run
from docfloqa.study.monitor import Watcher
from docfloqa.study.workers import LocalWorkers, make

BEFORE = "before "  # the trials of this name and a variant's are the runs on whose weights the variant's go on


@dataclass(frozen=True)
class Plan:
    """The runs of a study, or settings of theirs: every ratio with every seed, and those of each arm by variant.

    `trials` are those of variants that are tuned: the first seed at several learning rates, and what runs go on from.
    """

    ratios: list[Any]
    arms: dict[str, dict[str, list[Any]]]
    trials: dict[str, dict[str, list[Any]]] = field(default_factory=dict)

    def map(self, function: Callable[[Any], Any]) -> Self:
        """The same plan of what a function gives for each."""
        arms, trials = (
            {arm: {name: [*map(function, runs)] for name, runs in variants.items()} for arm, variants in part.items()}
            for part in (self.arms, self.trials)
        )
        return Plan([*map(function, self.ratios)], arms, trials)

    @property
    def variants(self) -> list[list[Any]]:
        """The runs of each variant of each arm, trials of the same variant apart."""
        return [runs for part in (self.trials, self.arms) for variants in part.values() for runs in variants.values()]

    @property
    def count(self) -> int:
        """How many runs there are, each once."""
        return len({*self.ratios, *chain(*self.variants)})

    @property
    def runs(self) -> list[Run]:
        """Every run once, in the order in which they are worth making.

        The longest of the ratios come first, so that no slot is idle at the end; what no sentence compares comes last.
        """
        ratios = sorted(self.ratios, key=lambda run: run.settings.vision_trainable, reverse=True)
        variants = sorted(self.variants, key=len, reverse=True)
        return list({run.id: run for run in chain(ratios, *variants)}.values())


def settings_of_runs(
    settings: Settings, ratios: Sequence[float], seeds: Sequence[int], arms: Sequence[str] = (), jobs: int | None = None
) -> Plan:
    """What the runs of a sweep are made with; raises `SettingsError` for an argument that is not allowed."""
    for name, values in (("ratios", ratios), ("seeds", seeds)):
        if not values or any(values.count(value) > 1 for value in values):
            raise SettingsError(f"{name} are {list(values)!r}; allowed is at least one value, none of them twice")
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise SettingsError(f"jobs is {shown(jobs)}; allowed is a whole number from 1 on")
    if settings.folds and arms:
        raise SettingsError(
            f"folds is {settings.folds} and arms are {', '.join(arms)}; allowed is one of the two: arms keep the splits"
        )
    folds = range(1, settings.folds + 1) if settings.folds else [None]
    every = product(seeds, ratios, folds)
    of_ratios = [settings.replace(vision_trainable=ratio, seed=seed, fold=fold) for seed, ratio, fold in every]
    chosen = choose_arms(arms, settings)
    of_arms = {arm.name: {variant.name: variant.runs(settings, seeds) for variant in arm.variants} for arm in chosen}
    trials = {
        arm.name: {one.name: at_rates(one.tried(settings, seeds), {}) for one in arm.variants if one.tuned}
        for arm in chosen
    }
    for arm, variants in trials.items():
        for variant, tried in [*variants.items()]:
            if before := [*chain(*map(legs, (*tried, *of_arms[arm][variant])))]:
                variants[BEFORE + variant] = before
    return Plan(of_ratios, of_arms, trials)


def at_rates(tried: Sequence[Settings], scores: dict[float, float]) -> list[Settings]:
    """Settings at the learning rates that are still to be tried, given the validation scores of those that were."""
    return [run.replace(learning_rate=rate) for run in tried for rate in rates_to_try(run.learning_rate, scores)]


def plan(settings: Settings, ratios: Sequence[float], seeds: Sequence[int], arms: Sequence[str] = ()) -> Plan:
    """The runs of a sweep; loads what identifies them: data, and weights that are not known yet, each once.

    A variant that is tuned has its runs once its trials are done. Raises what is wrong with settings, data or model.
    """

    weights = cache(known_weights)

    @cache
    def data(**chosen: Any) -> str:
        return data_checksum(load_checked(settings.replace(**chosen))[0])

    def open_run(one: Settings) -> Run:
        # The model first: it is the smaller download to find wrong.
        model = weights(one.model, one.prefix, one.max_new_tokens, one.num_beams)
        of_data = {
            name: value
            for name, value in one.to_dict().items()
            if name.startswith("synth_") or name.endswith(("data", "_questions")) or name in ("folds", "fold", "seed")
        }
        return Run.open(one, model, data(**of_data))

    planned = settings_of_runs(settings, ratios, seeds, arms).map(open_run)
    for arm in choose_arms(arms, settings):
        of_arm, trials_of_arm = planned.arms[arm.name], planned.trials[arm.name]
        for variant in (one for one in arm.variants if one.tuned):
            tried, trials = variant.tried(settings, seeds), trials_of_arm[variant.name]
            wanted, of_arm[variant.name] = of_arm[variant.name], []
            while all(run.record.get("status") in (COMPLETE, FAILED) for run in trials):
                scores = mean_scores((run.settings.learning_rate, score(run)) for run in trials)
                if not (further := at_rates(tried, scores)):
                    at_best = (run.settings.replace(learning_rate=best_rate(scores)) for run in wanted)
                    of_arm[variant.name] = [*map(open_run, at_best)]
                    break
                trials += map(open_run, further)
            if BEFORE + variant.name in trials_of_arm:
                before = chain(*(legs(run.settings) for run in (*trials, *of_arm[variant.name])))
                trials_of_arm[BEFORE + variant.name] = [*map(open_run, before)]
    return planned


def score(run: Run) -> float:
    """The validation ANLS, in [0, 1], of a run's best epoch; minus infinity of one that failed."""
    if not run.is_complete():
        return -math.inf
    return run.epochs().set_index("epoch")["anls"][run.record["best_epoch"]]


def sweep(
    settings: Settings,
    ratios: Sequence[float] = RATIOS,
    seeds: Sequence[int] = (0,),
    kernel: str | None = None,
    arms: Sequence[str] = (),
    scheduler: str | None = None,
    jobs: int | None = None,
) -> pd.DataFrame:
    """Make every run that is not complete, first those of the ratios, and give `study_status`.

    Each run is one papermill execution in its own kernel, in every slot of this machine or on every worker of the
    dask cluster at `scheduler`, `jobs` at a time at most. A failed run is told while the others go on; a study that
    another process makes is waited for. Raises what `plan` does, and `StudyError` for what cannot serve.
    """
    settings_of_runs(settings, ratios, seeds, arms, jobs)
    check_name(settings)
    if scheduler:
        # Not above: to import dask takes a second.
        from docfloqa.study.cluster import Cluster

        workers = Cluster(scheduler, execute_run, kernel)
    else:
        workers = LocalWorkers(execute_run, kernel)
    with workers, held(f"sweep-{settings.study}", f"study {settings.study!r}"):
        put_back(reports_folder(settings.study) / PACKED)
        # Before gigabytes of data are fetched for a run that cannot be made here.
        if not settings.allow_cpu:
            workers.check(settings.replace(vision_trainable=min(ratios)))
        settings = pinned(settings)
        planned, made = plan(settings, ratios, seeds, arms), {}
        with Watcher(settings.study):
            again = settings.to_config(ratios=ratios, seeds=seeds, arms=arms)
            write_whole(reports_folder(settings.study) / CONFIG, again)
            while True:
                write_plan(settings, planned)
                pending = {run.id: run for run in planned.runs if run.id not in made and not is_finished(run)}
                if not pending:
                    break
                workers.open(settings)
                make([*pending.values()], workers, jobs)
                made |= pending
                # What was tried says what is to be made at which rate.
                planned = plan(settings, ratios, seeds, arms)
            if not made:
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
    return (run.folder / EXECUTED).is_file()


def write_plan(settings: Settings, planned: Plan) -> None:
    """Write which runs the study consists of, for whoever reads its results."""
    ids = planned.map(lambda run: run.id)
    content = {"settings": settings.to_dict(), "planned": now(), "runs": ids.ratios, "arms": ids.arms}
    content |= {"trials": ids.trials, "epochs": {run.id: run.settings.epochs for run in planned.runs}}
    write_whole(reports_folder(settings.study) / PLAN, json.dumps(content, indent=2))
