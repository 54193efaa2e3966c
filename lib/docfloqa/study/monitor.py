"""How far the runs of a sweep are, read from their folders."""

import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from docfloqa.files import reports_folder, runs_folder
from docfloqa.runs.results import PLAN, planned_runs
from docfloqa.runs.run import COMPLETE, PROGRESS, RUNNING, read_record

SECONDS = 1.0  # between two looks at the files
SECONDS_OF_A_LINE = 60.0  # between two lines where they are kept, in a file or a pipe
FORM = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
FORM_OF_ALL = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}]"


class Watcher(AbstractContextManager):
    """Bars of a sweep from the study's files: one over the `epochs` of all runs, one under it per run that goes on.

    It shows what is planned and done after it began, wherever the runs are made. Where nothing can be drawn over, as
    in a file, all runs have a line now and then.
    """

    def __init__(self, study: str, epochs: Sequence[int]):
        self.study, self.epochs, self.begun = study, epochs, time.time()
        self.bars: dict[str, tqdm] = {}
        # A kernel draws bars as widgets.
        self.lines = not sys.stderr.isatty() and "ipykernel.kernelapp" not in sys.modules
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.thread.join()
        for bar in reversed(self.bars.values()):
            bar.close()

    def _watch(self) -> None:
        plan = reports_folder(self.study) / PLAN
        while not self.ended.wait(SECONDS_OF_A_LINE if self.lines and self.bars else SECONDS):
            if plan.is_file() and plan.stat().st_mtime >= self.begun:
                self.show()

    def show(self) -> None:
        """Read the runs' files and move the bars."""
        done, all_runs, going_on = 0.0, f"{len(self.epochs)} runs", {}
        for run in chain(*planned_runs(self.study)):
            record, progress = read_record(runs_folder(self.study) / run), read_progress(runs_folder(self.study) / run)
            if record.get("status") == COMPLETE:
                done += record["settings"]["epochs"]
            elif record.get("status") == RUNNING and progress["time"] >= self.begun:
                going_on[run] = record["settings"]["epochs"], progress
                done += progress["epochs_done"]
        if not self.bars:
            form = FORM_OF_ALL + "\n" * self.lines
            self.bars[all_runs] = tqdm(total=sum(self.epochs), initial=done, desc=all_runs, bar_format=form)
        self.bars[all_runs].n = round(done, 3)
        self.bars[all_runs].refresh()
        if self.lines:
            return
        for run in self.bars.keys() - going_on.keys() - {all_runs}:
            self.bars.pop(run).close()
        for run, (epochs, progress) in going_on.items():
            if run not in self.bars:
                self.bars[run] = tqdm(total=epochs, desc=run, leave=False, bar_format=FORM)
            self.bars[run].n = progress["epochs_done"]
            self.bars[run].set_postfix_str(f"epoch {progress['epochs_done']:.1f} of {epochs}, {progress['doing']}")


def read_progress(folder: Path) -> dict[str, Any]:
    """What a running run says of itself; a run that has said nothing yet is starting."""
    try:
        return json.loads((folder / PROGRESS).read_text())
    except FileNotFoundError:
        return {"epochs_done": 0.0, "doing": "starting", "time": time.time()}
