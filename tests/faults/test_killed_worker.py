"""A worker of a cluster is killed in mid-run, for real: real runs in real kernels on three workers."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
from loopback import scheduler

from docfloqa.files import runs_folder
from docfloqa.runs.results import Study
from docfloqa.runs.run import COMPLETE, read_record
from docfloqa.settings import Settings
from docfloqa.study.sweep import sweep

RATIOS, SEEDS = (0, 1), (0, 1)
TIMES = ["train_seconds", "train_samples_per_second", "evaluation_seconds"]


def settings(study: str) -> Settings:
    return Settings.profile("smoke", study=study, epochs=3)


def progress(folder: Path) -> float:
    try:
        return json.loads((folder / "progress.json").read_text())["epochs_done"]
    except FileNotFoundError:
        return 0.0


def kill_a_worker(workers: dict[int, psutil.Process], killed: dict) -> None:
    """SIGKILL to the worker of the first run that has an epoch behind it, in the middle of the next one."""
    while True:
        for folder in runs_folder("scattered").glob("vision*"):
            if 1 < progress(folder) < 3:
                for pid, worker in workers.items():
                    kernels = worker.children(recursive=True)
                    if any(holds(kernel, folder) for kernel in kernels):
                        os.kill(pid, signal.SIGKILL)
                        killed |= {"worker": pid, "run": folder.name, "kernels": kernels}
                        return
        time.sleep(0.05)


def holds(kernel: psutil.Process, folder: Path) -> bool:
    """Whether a kernel makes this run: it has the lock of the run open."""
    try:
        return any(folder.name in file.path for file in kernel.open_files())
    except psutil.NoSuchProcess:
        return False


def test_a_workers_run_goes_on_elsewhere_and_every_run_counts_once(output, capsys):
    local = sweep(settings("local"), RATIOS, SEEDS)
    assert (local["status"] == COMPLETE).all()
    killed: dict = {}
    with scheduler(output) as (address, worker):
        processes = [worker() for _ in range(3)]
        found = {process.pid: psutil.Process(process.pid) for process in processes}
        killer = threading.Thread(target=kill_a_worker, args=(found, killed), daemon=True)
        killer.start()
        runs = sweep(settings("scattered"), RATIOS, SEEDS, scheduler=address)
        killer.join(1)
        assert killed, "no worker was killed in mid-run"
        assert [process.poll() for process in processes].count(None) == 2
    said = capsys.readouterr().out
    assert "its run goes on elsewhere, 2 are left" in said
    # The kernel of a killed worker ends by itself, before another one makes the run.
    assert not any(kernel.is_running() and kernel.status() != "zombie" for kernel in killed["kernels"])
    assert (runs["status"] == COMPLETE).all() and runs["run"].tolist() == local["run"].tolist()
    folders = [path.name for path in runs_folder("scattered").iterdir()]
    assert sorted(folders) == sorted(runs["run"]), "every run once, and nothing else"
    one, other = Study.load("local"), Study.load("scattered")
    for table in ("epochs", "predictions", "wrong_pages"):
        frames = [getattr(study, table) for study in (one, other)]
        if table == "epochs":
            frames = [frame.drop(columns=TIMES) for frame in frames]
        pd.testing.assert_frame_equal(*frames, check_exact=True)
    record = read_record(runs_folder("scattered") / killed["run"])
    assert record["status"] == COMPLETE and record["processes"] == 1
