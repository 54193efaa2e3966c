"""A sweep to watch while it runs, here or elsewhere: its curves and states, read from its files."""

import time
from typing import Any

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure

from docfloqa.analysis.intervals import NONE, RATIO, number, percent
from docfloqa.apps.browser import control, image_html, table_html, text_html
from docfloqa.figures.style import TWO_COLUMNS, line, mark, panels, render, styled
from docfloqa.files import runs_folder
from docfloqa.runs.plans import study_command
from docfloqa.runs.progress import epochs_so_far as so_far
from docfloqa.runs.progress import read_progress
from docfloqa.runs.results import planned_runs
from docfloqa.runs.run import COMPLETE, FAILED, INTERRUPTED, NOT_BEGUN, RUNNING, is_complete, read_record

SECONDS = 5  # between two looks at the files
STATUSES = (RUNNING, FAILED, INTERRUPTED, NOT_BEGUN, COMPLETE)
SILENT = 300.0  # seconds without a word after which a run that says it is running may have been killed


def epochs_so_far(study: str) -> pd.DataFrame:
    """One row per run of the ratios and epoch that is done: run, vision_trainable, those of `epochs.csv`; or none."""
    frames = [pd.DataFrame(columns=["run", RATIO, "epoch"])]
    for run, arm in planned_runs(study).items():
        folder = runs_folder(study) / run
        if not arm and (rows := so_far(folder)):
            frames.append(pd.DataFrame(rows).assign(run=run, **{RATIO: read_record(folder)["settings"][RATIO]}))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def states(study: str) -> pd.DataFrame:
    """How every planned run stands, as text, those that go on first: run, status, epochs, doing, ANLS (%) so far."""
    rows = []
    for run in planned_runs(study):
        folder = runs_folder(study) / run
        record, done = read_record(folder), so_far(folder)
        status = COMPLETE if is_complete(folder) else record.get("status", NOT_BEGUN)
        epochs = at = (record.get("settings") or {}).get("epochs")
        doing = record.get("error") or ""
        if status == RUNNING:
            progress = read_progress(folder)
            doing, at = progress["doing"], round(progress["epochs_done"], 1)
            silent = time.time() - progress["time"]
            doing += f"; silent for {silent / 60:.0f} minutes" if silent > SILENT else ""
        known = NONE if epochs is None or status == FAILED else f"{at:g} of {epochs}"
        anls = number(100 * done[-1]["anls"]) if done else NONE
        rows.append((run, status, known, doing, anls))
    rows.sort(key=lambda row: STATUSES.index(row[1]))
    return pd.DataFrame(rows, columns=["run", "status", "epochs", "doing", "ANLS (%)"])


@styled
def sweep_curves(so_far: pd.DataFrame) -> Figure:
    """ANLS and validation loss by epoch, a line for every run of `epochs_so_far`, with one look for every ratio."""
    figure, ((scores, losses),) = panels(TWO_COLUMNS, 2.2, 1, 2)
    for (ratio, _), rows in so_far.groupby([RATIO, "run"]):
        line(scores, rows["epoch"], 100 * rows["anls"], label=percent(ratio), **mark(ratio))
        line(losses, rows["epoch"], rows["val_loss"], **mark(ratio))
    for ax, label in ((scores, "ANLS (%)"), (losses, "validation loss (nats per token)")):
        ax.set(xlabel="epoch", ylabel=label)
    # Runs that differ in their seed alone share an entry.
    entries = dict(zip(*scores.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(entries.values(), entries, title="vision trained", loc="outside right center")
    return figure


class SweepMonitor(ipywidgets.VBox):
    """A study's sweep as its files tell it; looks again with `again`, and while `follow` plays, every few seconds.

    Nothing else than the study's folder is needed. Following ends by itself when every run has ended.
    """

    def __init__(self, study: str):
        self.study, self.view = study, ipywidgets.HTML()
        self.again = control(ipywidgets.Button, "Look again", "Read the files of the study again")
        about = f"Look again every {SECONDS} seconds"
        self.follow = control(ipywidgets.Play, "follow", about, interval=1000 * SECONDS, max=10**9, show_repeat=False)
        self.again.on_click(self.look)
        self.follow.observe(self.look, "value")
        super().__init__([ipywidgets.HBox([self.again, self.follow]), self.view])
        self.look()

    def look(self, *_: Any) -> None:
        """Read the files and show what they say."""
        table = states(self.study)
        if table.empty:
            begin = f"Study {self.study!r} has no plan yet. It begins with: {study_command(self.study)}"
            self.view.value = text_html(begin)
            return
        so_far, curves = epochs_so_far(self.study), ""
        if len(so_far):
            alt = "ANLS and validation loss by epoch; the table below has the last values."
            curves = image_html(render(sweep_curves(so_far), "png"), alt)
        self.view.value = curves + table_html(table, f"Study {self.study}, at {time.strftime('%H:%M:%S')}")
        if table["status"].isin([COMPLETE, FAILED, INTERRUPTED]).all():
            self.follow.playing = False
