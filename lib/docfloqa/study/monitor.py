"""How far the runs of a sweep are, read from their folders."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from docfloqa.runs.run import FAILED, PROGRESS, Run, read_record


class Watcher:
    """Bars of a sweep from its files: one over the epochs of all runs, one under it per running run."""

    def __init__(self, runs: Sequence[Run]):
        done = sum(run.settings.epochs for run in runs if run.complete)
        self.runs, self.finished_epochs = {run.id: run for run in runs}, float(done)
        self.total = tqdm(
            total=sum(run.settings.epochs for run in runs),
            initial=done,
            desc=f"{len(runs)} runs",
            unit="epoch",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} epochs [{elapsed}<{remaining}]",
        )
        self.bars: list[tqdm] = []
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.places: dict[str, int] = {}
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self.thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop.set()
        self.thread.join()
        for bar in (*self.bars, self.total):
            bar.close()

    def begin(self, run: Run) -> None:
        """Give a run that begins a bar of its own."""
        with self.lock:
            place = min(set(range(len(self.places) + 1)) - set(self.places.values()))
            if place == len(self.bars):
                bar_format = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
                self.bars.append(tqdm(position=place + 1, leave=False, bar_format=bar_format))
            self.places[run.id] = place
            self.bars[place].reset(run.settings.epochs)

    def end(self, run: Run) -> None:
        """Take the bar back from a run that ended, and say how it ended."""
        with self.lock:
            del self.places[run.id]
            self.finished_epochs += run.settings.epochs
        record = read_record(run.folder)
        if record.get("status") == FAILED:
            tqdm.write(f"{run.id} failed: {record['error']}")

    def _watch(self) -> None:
        while not self.stop.wait(1.0):
            self.show()
        self.show()

    def show(self) -> None:
        """Read the running runs' progress files and move the bars."""
        with self.lock:
            done = self.finished_epochs
            for name, place in self.places.items():
                progress = read_progress(self.runs[name].folder)
                bar = self.bars[place]
                bar.n = progress["epochs_done"]
                bar.set_description_str(name)
                bar.set_postfix_str(f"epoch {bar.n:.1f} of {bar.total}, {progress['doing']}", refresh=True)
                done += bar.n
            self.total.n = round(done, 3)
            self.total.refresh()


def read_progress(folder: Path) -> dict[str, Any]:
    """What a running run says of itself; a run that has said nothing yet is starting."""
    try:
        return json.loads((folder / PROGRESS).read_text())
    except FileNotFoundError:
        return {"epochs_done": 0.0, "doing": "starting", "time": time.time()}
