"""A study whose runs are made up: each starts a child in place of a kernel, and tells when it begins and ends."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

from docfloqa.files import reports_folder, write_whole
from docfloqa.runs.results import PLAN
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.study.kernels import Execution, Slot

SETTINGS = Settings.profile("smoke", study="scattered")
IDENTITY = {"identity": {"weights": "w", "data": "d"}}


def made_up_runs(count: int) -> list[Run]:
    return [Run(f"run{place}", SETTINGS.replace(seed=place), dict(IDENTITY)) for place in range(count)]


def pretend(run: Run, slot: Slot, kernel: str | None) -> None:
    """In place of a papermill execution: a child process for a kernel, and a line for every beginning and end."""
    about = {"run": run.id, "worker": os.getpid(), "threads": slot.threads}
    tell("begun", {**about, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")})
    seconds = (reports_folder(SETTINGS.study) / "seconds").read_text()
    process = subprocess.Popen([sys.executable, "-S", "-c", f"import time; time.sleep({seconds})"])
    with Execution(run.id) as execution:
        execution.kernels.append(SimpleNamespace(provisioner=SimpleNamespace(process=process)))
        process.wait()
    tell("ended", about)


def tell(what: str, about: dict) -> None:
    with (reports_folder(SETTINGS.study) / what).open("a") as file:
        print(json.dumps({**about, "time": time.time()}), file=file)


def told(what: str) -> list[dict]:
    path = reports_folder(SETTINGS.study) / what
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def names(lines: list[dict]) -> list[str]:
    return [line["run"] for line in lines]


def until(met, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.1)


def plan(seconds: float) -> None:
    """A study with a plan, whose made-up runs take so many seconds."""
    write_whole(reports_folder(SETTINGS.study) / PLAN, "{}")
    write_whole(reports_folder(SETTINGS.study) / "seconds", str(seconds))


def interrupt_when(met, monkeypatch) -> None:
    def interrupt(*_) -> None:
        until(met)
        raise KeyboardInterrupt

    monkeypatch.setattr("docfloqa.study.workers.wait", interrupt)
