"""Processes that make one run together have the loss curve of one, also when they are killed."""

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pandas as pd
import psutil
import pytest

from docfloqa.files import runs_folder
from docfloqa.runs.run import read_record
from docfloqa.settings import Settings
from docfloqa.training.trainer import make_run

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
# 17 questions in batches of 8: in the last one of each epoch a process has no question.


def options(settings: dict) -> list[str]:
    """Settings as the command line takes them."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


FEW = {"train_questions": 17, "validation_questions": 8, "epochs": 1, "vision_trainable": 0.33}


EPOCHS = 4
FURTHER = {**FEW, "epochs": EPOCHS}


def together() -> subprocess.Popen:
    command = [*TORCHRUN, "2", "-m", "docfloqa", "run", "--profile", "smoke", "--name", "two"]
    return subprocess.Popen([*command, *options(FURTHER)])


def epochs_done() -> float:
    for path in runs_folder("two").glob("*/progress.json"):
        return json.loads(path.read_text())["epochs_done"]
    return 0.0


def test_two_processes_have_the_loss_curve_of_one(output):
    command = [*TORCHRUN, "2", "-m", "docfloqa", "run", "--profile", "smoke", "--name", "two", "--ratio", "0.33"]
    command += ["--json", *options({name: FEW[name] for name in list(FEW)[:3]})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["status"] == "complete", "one process tells"
    one = make_run(Settings.profile("smoke", study="one", **FEW))
    assert told["run"] == one.id, "how many processes make it does not make it another run"
    two = runs_folder("two") / one.id
    assert [read_record(folder)["processes"] for folder in (one.folder, two)] == [1, 2]
    curves = [pd.read_csv(folder / "epochs.csv") for folder in (one.folder, two)]
    for column in ("train_loss", "val_loss"):
        assert curves[0][column].tolist() == pytest.approx(curves[1][column].tolist(), abs=1e-5, nan_ok=True)
    answers = [pd.read_parquet(folder / "predictions.parquet") for folder in (one.folder, two)]
    assert answers[0]["question_id"].equals(answers[1]["question_id"])
    before = [frame.query("epoch == 0") for frame in answers]
    pd.testing.assert_frame_equal(*before, check_exact=True)
    assert {path.name for path in one.folder.iterdir()} == {path.name for path in two.iterdir()}


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
