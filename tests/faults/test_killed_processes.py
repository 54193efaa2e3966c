"""Processes that make one run together are killed, and go on from their last epoch."""

import json
import signal
import subprocess
import time
from contextlib import suppress

import pandas as pd
import psutil
import pytest
from test_processes import FEW, TORCHRUN, options

from docfloqa.files import runs_folder
from docfloqa.runs.run import read_record
from docfloqa.settings import Settings
from docfloqa.training.trainer import make_run

EPOCHS = 4
FURTHER = {**FEW, "epochs": EPOCHS}


def together() -> subprocess.Popen:
    command = [*TORCHRUN, "2", "-m", "docfloqa", "run", "--profile", "smoke", "--name", "two"]
    return subprocess.Popen([*command, *options(FURTHER)])


def epochs_done() -> float:
    for path in runs_folder("two").glob("*/progress.json"):
        return json.loads(path.read_text())["epochs_done"]
    return 0.0


def test_killed_processes_go_on_and_end_with_the_loss_curve_of_one(output):
    first = together()
    while not 1 < epochs_done() < EPOCHS:
        assert first.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    for process in (*psutil.Process(first.pid).children(recursive=True), psutil.Process(first.pid)):
        process.send_signal(signal.SIGKILL)
    first.wait()
    [folder] = runs_folder("two").iterdir()
    kept = sorted(path.stem for path in (folder / "epochs").glob("*.json"))
    assert 2 <= len(kept) <= EPOCHS and read_record(folder)["status"] == "running"
    before = {name: (folder / "epochs" / f"{name}.json").read_text() for name in kept[:2]}
    again = together()
    while again.poll() is None:
        for name, content in before.items():
            # They are dropped when the run is complete.
            with suppress(FileNotFoundError):
                now = (folder / "epochs" / f"{name}.json").read_text()
                assert now == content, "epochs that were kept are not made again"
        time.sleep(0.2)
    assert again.returncode == 0 and read_record(folder)["status"] == "complete"
    one = make_run(Settings.profile("smoke", study="one", **FURTHER))
    curves = [pd.read_csv(path / "epochs.csv") for path in (one.folder, folder)]
    for column in ("train_loss", "val_loss"):
        assert curves[0][column].tolist() == pytest.approx(curves[1][column].tolist(), abs=1e-4, nan_ok=True)


def test_a_loss_that_is_not_finite_fails_the_run_in_all_processes(output):
    # Every batch is a full one.
    further = {**FEW, "train_questions": 24, "epochs": 1, "learning_rate": 1e30}
    command = [*TORCHRUN, "2", "-m", "docfloqa", "run", "--profile", "smoke", "--name", "far"]
    done = subprocess.run([*command, *options(further)], capture_output=True, timeout=500)
    assert done.returncode != 0
    [folder] = runs_folder("far").iterdir()
    record = read_record(folder)
    assert record["status"] == "failed" and "the training loss is" in record["error"]
    questions = record["error"].split("questions of the batch: ")[1].split(", ")
    assert len(questions) == 8, "those of both processes"
