"""How far the runs of a sweep are, read from their folders."""

import json
import threading
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

from tqdm.auto import tqdm

from docfloqa.files import reports_folder, runs_folder
from docfloqa.runs.results import PLAN, planned_runs
from docfloqa.runs.run import COMPLETE, PROGRESS, RUNNING, read_record

SECONDS = 1.0  # between two looks at the files


class Watcher:
    """Bars of a sweep from the study's files: one over the `epochs` of all runs, one under it per run that goes on.

    It shows what is planned and done after it began, wherever the runs are made.
    """

    def __init__(self, study: str, epochs: Sequence[int]):
        self.study, self.epochs, self.begun = study, epochs, time.time()
        self.bars: list[tqdm] = []
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.thread.join()
        for bar in reversed(self.bars):
            bar.close()

    def _watch(self) -> None:
        while not self.ended.wait(SECONDS):
            plan = reports_folder(self.study) / PLAN
            if plan.is_file() and plan.stat().st_mtime >= self.begun:
                self.show()

    def show(self) -> None:
        """Read the runs' files and move the bars."""
        done, going_on = 0.0, []
        for run in chain(*planned_runs(self.study)):
            record, progress = read_record(runs_folder(self.study) / run), read_progress(runs_folder(self.study) / run)
            if record.get("status") == COMPLETE:
                done += record["settings"]["epochs"]
            elif record.get("status") == RUNNING and progress["time"] >= self.begun:
                going_on.append((run, record["settings"]["epochs"], progress))
                done += progress["epochs_done"]
        if not self.bars:
            form = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}]"
            runs = f"{len(self.epochs)} runs"
            self.bars.append(tqdm(total=sum(self.epochs), initial=done, desc=runs, bar_format=form))
        self.bars[0].n = round(done, 3)
        self.bars[0].refresh()
        while len(self.bars) - 1 > len(going_on):
            self.bars.pop().close()
        while len(self.bars) - 1 < len(going_on):
            form = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
            self.bars.append(tqdm(position=len(self.bars), leave=False, bar_format=form))
        for bar, (run, epochs, progress) in zip(self.bars[1:], going_on, strict=True):
            if bar.total != epochs:
                bar.reset(epochs)
            bar.n = progress["epochs_done"]
            bar.set_description_str(run, refresh=False)
            bar.set_postfix_str(f"epoch {bar.n:.1f} of {epochs}, {progress['doing']}")


def read_progress(folder: Path) -> dict[str, Any]:
    """What a running run says of itself; a run that has said nothing yet is starting."""
    try:
        return json.loads((folder / PROGRESS).read_text())
    except FileNotFoundError:
        return {"epochs_done": 0.0, "doing": "starting", "time": time.time()}
