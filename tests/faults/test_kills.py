"""A study whose processes are killed at random moments ends as an undisturbed one, bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from random import Random

import psutil
import pytest
from smoke_runs import of_interest

from docfloqa.files import NOTEBOOKS
from docfloqa.runs.run import Run, is_complete, read_record
from docfloqa.settings import Settings

SEED = int(os.environ.get("SEED", "1"))
STUDY_KILLS, PAPERMILL_KILLS = 8, 2
EPOCHS = 3
PATIENCE = 300.0  # seconds, for anything that must happen; the machine may do more
ORPHANS_END = 20.0  # seconds in which kernels must notice that their study is gone


def study_process(output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "docfloqa", "sweep", "--profile", "smoke", "--ratios", "0", "1"]
    return start([*command, "--epochs", str(EPOCHS)], output)


def papermill_process(output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "papermill", NOTEBOOKS / "02_finetune.ipynb", output / "by-hand.ipynb"]
    parameters = ["-p", "profile", "smoke", "-p", "vision_trainable", "0", "-p", "threads", "1"]
    further = ["-p", "settings_json", json.dumps({"epochs": EPOCHS})]
    return start([*command, "--cwd", NOTEBOOKS, *parameters, *further], output)


def start(command: list, output: Path) -> subprocess.Popen:
    output.mkdir(exist_ok=True)
    with (output / "log").open("ab") as log:
        return subprocess.Popen(
            [*map(str, command)],
            env=os.environ | {"DOCFLOQA_OUTPUT": str(output)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def runs_of(output: Path) -> dict[str, Run]:
    """The complete runs of the study in an output folder."""
    folders = [path for path in output.glob("reports/smoke/runs/*") if is_complete(path)]
    records = {path: read_record(path) for path in folders}
    return {
        path.name: Run(path.name, Settings.from_dict(record["settings"]), record) for path, record in records.items()
    }


def record_file(output: Path, run: str) -> Path:
    return output / "reports" / "smoke" / "runs" / run / "run.json"


def results(output: Path) -> dict[str, dict]:
    """What is of interest in every complete run of an output folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(output))
        return {name: of_interest(run) for name, run in runs_of(output).items()}


def kernels(process: subprocess.Popen) -> list[psutil.Process]:
    """The kernels that a process has started."""
    try:
        children = psutil.Process(process.pid).children()
        return [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def is_training(process: subprocess.Popen, output: Path) -> bool:
    """Whether a run has been heard of since the process began."""
    begun = psutil.Process(process.pid).create_time()
    return any(path.stat().st_mtime > begun for path in output.glob("reports/smoke/runs/*/progress.json"))


def has_another_kernel(process: subprocess.Popen, before: set[int]) -> bool:
    return bool({child.pid for child in kernels(process)} - before)


def wait(until, process: subprocess.Popen, seconds: float = PATIENCE) -> bool:
    """Wait until something is so; False where the process ends before."""
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if until():
            return True
        assert time.monotonic() < deadline, "nothing moves any more"
        time.sleep(0.05)
    return False


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    output = tmp_path_factory.mktemp("undisturbed")
    assert study_process(output).wait() == 0, (output / "log").read_text()
    expected = results(output)
    assert len(expected) == 2
    return expected


def test_a_study_that_is_killed_at_random_moments_ends_as_an_undisturbed_one(undisturbed, tmp_path, tell):
    rng, injected, lost, rounds = Random(SEED), {}, 0, 0
    slowest = {"orphans end after": 0.0, "a dead kernel is replaced after": 0.0}
    while sum(injected.values()) < STUDY_KILLS:
        output = tmp_path / f"round-{rounds}"
        rounds += 1
        finished: dict[str, int] = {}
        while True:
            process = study_process(output)
            kill_until_it_ends(process, output, rng, injected, slowest)
            # What was complete stays as it was, and is not made again.
            complete = {name: record_file(output, name).stat().st_mtime_ns for name in runs_of(output)}
            lost += sum(complete.get(name) != made for name, made in finished.items())
            finished = complete
            if process.returncode == 0:
                break
        assert results(output) == undisturbed
        assert not list(output.glob("reports/**/*.damaged"))
        left = [path for path in output.glob("reports/smoke/runs/*/.*") if path.name != ".finetune.part.ipynb"]
        assert not left
    total = sum(injected.values())
    told = ", ".join(f"{what}: {count}" for what, count in sorted(injected.items()))
    times = ", ".join(f"{what} {seconds:.1f} s at most" for what, seconds in slowest.items())
    tell(f"seed {SEED}: faults injected {total}, survived {total - lost}, lost {lost}")
    tell(f"({told}; {rounds} studies; {times})")
    assert lost == 0


def kill_until_it_ends(process, output, rng: Random, injected: dict[str, int], slowest: dict[str, float]) -> None:
    """Kill kernels of a study, and at last the study itself, at random moments; or let it end."""
    while sum(injected.values()) < STUDY_KILLS:
        # Most of the time at some moment of a run, else at any moment since the process began.
        if rng.random() < 0.8 and not wait(partial(is_training, process, output), process):
            break
        time.sleep(rng.uniform(0, 6))
        victim = rng.choice(["kernel", "kernel", "kernel", "study"])
        chosen = rng.choice([signal.SIGKILL, signal.SIGTERM])
        running = kernels(process)
        if process.poll() is not None:
            break
        what = f"{chosen.name} to the {victim}"
        if victim == "study":
            process.send_signal(chosen)
            injected[what] = injected.get(what, 0) + 1
            process.wait(PATIENCE)
            begun = time.monotonic()
            _, alive = psutil.wait_procs(running, timeout=ORPHANS_END)
            assert not alive, "kernels outlive their study"
            slowest["orphans end after"] = max(slowest["orphans end after"], time.monotonic() - begun)
            return
        if not running:
            continue
        kernel = rng.choice(running)
        before = {child.pid for child in running}
        kernel.send_signal(chosen)
        injected[what] = injected.get(what, 0) + 1
        begun = time.monotonic()
        if wait(partial(has_another_kernel, process, before), process):
            taken = time.monotonic() - begun
            slowest["a dead kernel is replaced after"] = max(slowest["a dead kernel is replaced after"], taken)
    process.wait(PATIENCE)


def test_papermill_by_hand_goes_on_after_it_was_killed(undisturbed, tmp_path, tell):
    rng, output = Random(SEED), tmp_path / "by-hand"
    for _ in range(PAPERMILL_KILLS):
        process = papermill_process(output)
        assert wait(partial(is_training, process, output), process)
        time.sleep(rng.uniform(0, 5))
        process.kill()
        process.wait()
    assert papermill_process(output).wait() == 0, (output / "log").read_text()
    [(name, found)] = results(output).items()
    assert found == undisturbed[name]
    tell(f"seed {SEED}: papermill killed {PAPERMILL_KILLS}, survived {PAPERMILL_KILLS}, lost 0")


def test_two_studies_on_one_folder_make_every_run_once(undisturbed, tmp_path):
    output = tmp_path / "both"
    both = [study_process(output) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], (output / "log").read_text()
    assert results(output) == undisturbed
    log = (output / "log").read_text()
    assert any(f"study 'smoke' is in the hands of process {process.pid} on " in log for process in both)
    assert "all 2 runs of study 'smoke' were complete already" in log
