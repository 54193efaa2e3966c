"""One process at a time: a lock that says who holds it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from docfloqa.paths import data_folder, write_whole


@contextmanager
def held(name: str, what: str) -> Iterator[None]:
    """Hold the lock `name` of this output folder; while another process has it, say who that is, and wait.

    The system gives a lock back when the process that holds it ends, however that happens.
    """
    path = data_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(path), path.with_suffix(".json")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        tqdm.write(f"{what} is in the hands of {_describe(holder)}; waiting until it ends")
        lock.acquire()
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        # A full disk must not keep anybody from reading what is there.
        with suppress(OSError):
            write_whole(
                holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since})
            )
        yield
    finally:
        lock.release()


def _describe(holder: Path) -> str:
    try:
        known = json.loads(holder.read_text())
        return f"process {known['pid']} on {known['host']} since {known['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
