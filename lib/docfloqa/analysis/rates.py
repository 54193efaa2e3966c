"""Whether the learning rates and the epochs of an arm's variants were right for them: validation only."""

import math

import pandas as pd

from docfloqa.analysis.intervals import percent
from docfloqa.files import runs_folder
from docfloqa.runs.rates import at_the_edge, best_rate
from docfloqa.runs.results import Study
from docfloqa.runs.run import read_record
from docfloqa.runs.tables import EPOCHS, read_tables


def trial_scores(study: Study, arm: str) -> dict[str, dict[float, float]]:
    """Validation ANLS of the best epoch, in [0, 1], by learning rate, of each variant that is tuned.

    Minus infinity of a trial without a result.
    """
    folders = [runs_folder(study.name) / run for runs in study.trials.get(arm, {}).values() for run in runs]
    epochs, found = read_tables(folders, EPOCHS) if folders else {}, {}
    for variant, runs in study.trials.get(arm, {}).items():
        records = {run: read_record(runs_folder(study.name) / run) for run in runs}
        found[variant] = {
            record["settings"]["learning_rate"]: (
                epochs[run].set_index("epoch")["anls"][record["best_epoch"]] if run in epochs else -math.inf
            )
            for run, record in records.items()
            if record
        }
    return found


def chosen_rates(study: Study, arm: str) -> dict[str, str]:
    """For each variant that is tuned its best rate and the others tried, with validation ANLS in percent, as text."""
    texts = {}
    for variant, scores in trial_scores(study, arm).items():
        if scores:
            best = best_rate(scores)
            edge = ", the last of those tried" if at_the_edge(scores) else ""
            others = ", ".join(f"{rate:g}: {_score(scores[rate])}" for rate in sorted(scores) if rate != best)
            texts[variant] = f"{best:g}: {_score(scores[best])}{edge} ({others})"
    return texts


def loss_rise(epochs: pd.DataFrame) -> float:
    """By what share the validation loss after the last epoch is above the lowest after an epoch, the mean over runs."""
    losses = epochs[epochs["epoch"] > 0].sort_values("epoch").groupby("run")["val_loss"]
    return float((losses.last() / losses.min() - 1).mean())


def tuned(rates: dict[str, str], variant: str, epochs: pd.DataFrame) -> dict[str, str]:
    """What a table says of a variant that is tuned: its rate of `chosen_rates`, and `loss_rise`; else nothing."""
    if variant not in rates:
        return {}
    return {
        "best rate: validation ANLS (others)": rates[variant],
        "loss at the end above its least": percent(loss_rise(epochs)),
    }


def _score(score: float) -> str:
    return f"{100 * score:.1f}" if math.isfinite(score) else "failed"
