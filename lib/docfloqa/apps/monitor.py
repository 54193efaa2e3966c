"""A sweep to watch while it runs, here or elsewhere: its curves and states, read from its files."""

import threading
import time
from html import escape
from itertools import chain
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from docfloqa.analysis.intervals import NONE, RATIO, number, percent
from docfloqa.apps.browser import control, image_html, table_html, text_html
from docfloqa.exceptions import DamagedError
from docfloqa.figures.style import TWO_COLUMNS, mark, render, styled
from docfloqa.files import read_sealed, runs_folder
from docfloqa.runs.results import planned_runs
from docfloqa.runs.run import COMPLETE, FAILED, INTERRUPTED, RUNNING, is_complete, read_record
from docfloqa.runs.tables import EPOCHS, read_table
from docfloqa.study.monitor import read_progress

SECONDS = 5.0  # between two looks at the files
NOT_BEGUN = "not begun"
STATUSES = (RUNNING, FAILED, INTERRUPTED, NOT_BEGUN, COMPLETE)
SILENT = 300.0  # seconds without a word after which a run that says it is running may have been killed


def epochs_so_far(study: str) -> pd.DataFrame:
    """One row per run of the ratios and epoch that is done; may be empty.

    Columns: run, vision_trainable, then those of `epochs.csv`.
    """
    frames = []
    for run in planned_runs(study)[0]:
        folder = runs_folder(study) / run
        rows = _epochs(folder)
        if len(rows):
            rows.insert(0, RATIO, read_record(folder)["settings"][RATIO])
            rows.insert(0, "run", run)
            frames.append(rows)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["run", RATIO, "epoch"])


def _epochs(folder: Path) -> pd.DataFrame:
    if is_complete(folder):
        return read_table(folder, EPOCHS)
    rows = []
    for path in sorted((folder / "epochs").glob("*.json")):
        try:
            rows.append(read_sealed(path)["row"])
        except FileNotFoundError:
            # The run has ended between the two looks; the next one finds its epochs.csv.
            return pd.DataFrame()
        except DamagedError:
            # The run sets it aside and makes it again.
            continue
    return pd.DataFrame(rows)


def states(study: str) -> pd.DataFrame:
    """How every planned run stands, as text, those that go on first: run, status, epochs, doing, ANLS (%) so far."""
    rows = []
    for run in chain(*planned_runs(study)):
        folder = runs_folder(study) / run
        record, done = read_record(folder), _epochs(folder)
        status = COMPLETE if is_complete(folder) else record.get("status", NOT_BEGUN)
        epochs = record["settings"]["epochs"] if record.get("settings") else None
        doing, at = record.get("error") or "", epochs
        if status == RUNNING:
            progress = read_progress(folder)
            doing, at = progress["doing"], round(progress["epochs_done"], 1)
            silent = time.time() - progress["time"]
            if silent > SILENT:
                doing += f"; silent for {silent / 60:.0f} minutes"
        known = NONE if epochs is None or status == FAILED else f"{at:g} of {epochs}"
        anls = number(100 * done["anls"].iloc[-1]) if len(done) else NONE
        rows.append((run, status, known, doing, anls))
    rows.sort(key=lambda row: STATUSES.index(row[1]))
    return pd.DataFrame(rows, columns=["run", "status", "epochs", "doing", "ANLS (%)"])


@styled
def sweep_curves(so_far: pd.DataFrame) -> Figure:
    """ANLS and validation loss by epoch, a line for every run of `epochs_so_far`, with one look for every ratio."""
    figure = Figure(figsize=(TWO_COLUMNS, 2.2), layout="constrained")
    scores, losses = figure.subplots(1, 2)
    for (ratio, _), rows in so_far.groupby([RATIO, "run"]):
        scores.plot(rows["epoch"], 100 * rows["anls"], label=percent(ratio), **mark(ratio))
        losses.plot(rows["epoch"], rows["val_loss"], **mark(ratio))
    for ax, label in ((scores, "ANLS (%)"), (losses, "validation loss (nats per token)")):
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Runs that differ in their seed alone share an entry.
    entries = dict(zip(*scores.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(entries.values(), entries, title="vision trained", loc="outside right center", frameon=False)
    return figure


class SweepMonitor(ipywidgets.VBox):
    """A study's sweep as its files tell it; looks again with `again`, and while `follow` is on, every `SECONDS`.

    Nothing else than the study's folder is needed, so the sweep may run in another notebook or on another
    machine with the same file system. Following ends by itself when every run has ended.
    """

    def __init__(self, study: str):
        self.study = study
        self.again = ipywidgets.Button(description="Look again", tooltip="Read the files of the study again")
        self.follow = control(ipywidgets.Checkbox, "follow", f"Look again every {SECONDS:.0f} seconds", indent=False)
        self.view, self._ended = ipywidgets.HTML(), threading.Event()
        self.again.on_click(self.look)
        self.follow.observe(self._follow, "value")
        super().__init__([ipywidgets.HBox([self.again, self.follow]), self.view])
        self.look()

    def look(self, *_: Any) -> bool:
        """Read the files and show what they say; returns whether every planned run has ended."""
        table = states(self.study)
        if table.empty:
            self.view.value = text_html(
                f"Study {self.study!r} has no plan yet. It begins with: make study NAME={self.study}"
            )
            return False
        so_far, curves = epochs_so_far(self.study), ""
        if len(so_far):
            alt = "ANLS and validation loss by epoch; the table below has the last values."
            curves = image_html(render(sweep_curves(so_far), "png"), alt)
        caption = f"Study {self.study}, at {time.strftime('%H:%M:%S')}"
        self.view.value = curves + table_html(table, caption)
        return bool(table["status"].isin([COMPLETE, FAILED, INTERRUPTED]).all())

    def _follow(self, change: dict[str, Any]) -> None:
        self._ended.set()
        if change["new"]:
            # One of its own for each thread: one that still waits must not go on beside its successor.
            self._ended = threading.Event()
            threading.Thread(target=self._watch, args=(self._ended,), daemon=True).start()

    def _watch(self, ended: threading.Event) -> None:
        try:
            while not ended.is_set() and not self.look():
                ended.wait(SECONDS)
        except Exception as error:
            # Nobody sees what a thread raises.
            self.view.value += f"<p>Following ended: {escape(str(error))}</p>"
        if not ended.is_set():
            self.follow.value = False
