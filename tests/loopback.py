"""A dask scheduler and workers on this machine, each in a process of its own."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

DASK = [sys.executable, "-m", "dask"]


@contextmanager
def scheduler(folder: Path):
    """Start a scheduler; gives its address, and a function that starts a worker and gives its process."""
    processes, file = [], folder / "scheduler.json"

    def start(*arguments: str, **environment: str) -> subprocess.Popen:
        with (folder / f"process-{len(processes)}.log").open("w") as log:
            process = subprocess.Popen(
                [*DASK, *arguments], env=os.environ | environment, stdout=log, stderr=log, cwd=folder
            )
        processes.append(process)
        return process

    def worker(*arguments: str, **environment: str) -> subprocess.Popen:
        # Without a nanny, which would start a killed worker again.
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
        return start("worker", "--scheduler-file", str(file), *options, *arguments, **environment)

    start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    try:
        while not file.is_file():
            assert processes[0].poll() is None, (folder / "process-0.log").read_text()
            time.sleep(0.1)
        yield json.loads(file.read_text())["address"], worker
    finally:
        for process in processes:
            process.kill()
            process.wait()
