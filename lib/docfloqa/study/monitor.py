"""How far the runs of a sweep are, read from their folders."""

import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from tqdm.auto import tqdm

from docfloqa.files import reports_folder, runs_folder
from docfloqa.runs.progress import epoch_line, epochs_so_far, read_progress, scores
from docfloqa.runs.results import PLAN, read_plan
from docfloqa.runs.run import COMPLETE, RUNNING, read_record

SECONDS = 1.0  # between two looks at the files
FORM = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
FORM_OF_ALL = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}]"


class Watcher(AbstractContextManager):
    """Bars of a sweep from the study's files: one over the epochs of all runs, one under it per run that goes on.

    Where nothing can be drawn over, as in a file, every epoch of a run has a line, with the time left for all runs.
    """

    def __init__(self, study: str):
        self.study, self.begun = study, time.time()
        self.every: tqdm | None = None
        self.bars: dict[str, tqdm] = {}
        self.told: dict[str, float] = {}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.thread.join()
        self.look()
        for bar in (*reversed(self.bars.values()), self.every):
            if bar is not None:
                bar.close()

    def _watch(self) -> None:
        while not self.ended.wait(SECONDS):
            self.look()

    def look(self) -> None:
        """Read the runs' files and show what they say, where the study has been planned meanwhile."""
        plan = reports_folder(self.study) / PLAN
        if not plan.is_file() or plan.stat().st_mtime < self.begun:
            return
        planned, done, going_on, rows = read_plan(plan.parent)["epochs"], 0.0, {}, {}
        for run, epochs in planned.items():
            folder = runs_folder(self.study) / run
            status, progress = read_record(folder).get("status"), read_progress(folder)
            there = rows[run] = epochs_so_far(folder) if self.told.get(run, 0) < epochs else []
            if status == COMPLETE:
                done += epochs
            elif status == RUNNING and progress["time"] >= self.begun:
                going_on[run] = progress
                # An epoch is kept before the run says so.
                done += max([progress["epochs_done"], *(row["epoch"] for row in there)])
        if self.every is None:
            shown = {"desc": f"{len(planned)} runs", "bar_format": FORM_OF_ALL, "disable": None}
            self.every = tqdm(total=sum(planned.values()), initial=done, **shown)
            self.since, self.before = time.monotonic(), done
            # What was there already is not told.
            self.told = {run: there[-1]["epoch"] for run, there in rows.items() if there}
        if self.every.disable:
            self._tell(planned, rows, done)
        else:
            self._draw(planned, rows, done, going_on)

    def _tell(self, planned: dict[str, int], rows: dict[str, list[dict]], done: float) -> None:
        a_second = max(done - self.before, 1e-9) / (time.monotonic() - self.since + 1e-9)
        for run, there in rows.items():
            for row in there:
                if row["epoch"] > self.told.get(run, 0):
                    self.told[run] = row["epoch"]
                    left = (sum(planned.values()) - done) / a_second
                    tqdm.write(epoch_line(short(run, planned), planned[run], row, left))

    def _draw(self, planned: dict[str, int], rows: dict[str, list[dict]], done: float, going_on: dict) -> None:
        self.every.total, self.every.n = sum(planned.values()), round(done, 3)
        self.every.refresh()
        for run in self.bars.keys() - going_on.keys():
            self.bars.pop(run).close()
        for run, progress in going_on.items():
            if run not in self.bars:
                self.bars[run] = tqdm(total=planned[run], desc=run, leave=False, bar_format=FORM)
            self.bars[run].n = progress["epochs_done"]
            last = [scores(row) for row in rows[run][-1:]]
            doing = [f"epoch {progress['epochs_done']:.1f} of {planned[run]}", progress["doing"], *last]
            self.bars[run].set_postfix_str(", ".join(doing))


def short(run: str, runs: Iterable[str]) -> str:
    """The beginning of a run's id that no other one of `runs` has, of whole words: "vision100", "vision100-seed1"."""
    words = run.split("-")
    beginnings = ("-".join(words[:count]) for count in range(1, len(words) + 1))
    return next(one for one in beginnings if sum(other.startswith(one) for other in runs) == 1)
