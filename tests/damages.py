"""What can happen to a file, and a process that is killed for real, at a moment that is chosen."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path


def flip_a_byte(path: Path) -> None:
    """Change one bit of a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0b100
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Cut off the last third."""
    content = path.read_bytes()
    path.write_bytes(content[: 2 * len(content) // 3])


def empty(path: Path) -> None:
    """Leave nothing of it."""
    path.write_bytes(b"")


DAMAGES = (flip_a_byte, truncate, empty)
# What Python tells of before it does it (see "Audit events table" in its manual).
WRITING = os.O_WRONLY | os.O_RDWR
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def killed_at(change: int, folder: Path, work: Callable[[], None]) -> bool:
    """Do some work in a process of its own, which SIGKILL ends before its so many-th change of a file in `folder`.

    Changes are counted from 1 on; they are opening to write, renaming, deleting and making folders. Returns whether the
    process was killed; one that fails otherwise is an error.
    """
    done = 0

    def audit(event: str, arguments: tuple) -> None:
        nonlocal done
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (writes or event in CHANGES) and counts(_whole_path(event, arguments), folder):
            done += 1
            if done == change:
                os.kill(os.getpid(), signal.SIGKILL)

    return _was_killed(_in_a_process(lambda: (sys.addaudithook(audit), work())))


def killed_after(seconds: float, work: Callable[[], None]) -> bool:
    """Do some work in a process of its own, which SIGKILL ends after so many seconds; returns whether it did."""
    child = _in_a_process(work)
    killer = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    killer.start()
    try:
        return _was_killed(child)
    finally:
        killer.cancel()


def _in_a_process(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            # Nothing that the parent has at hand is to be cleaned up twice.
            os._exit(code)
    return child


def _was_killed(child: int) -> bool:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed; its error is above"
    return False


def _whole_path(event: str, arguments: tuple) -> str:
    # What is in a folder that is deleted is named from that folder on, which is open.
    above = arguments[1] if event in {"os.remove", "os.rmdir"} else -1
    return str(arguments[0]) if above == -1 else f"{Path(f'/proc/self/fd/{above}').readlink()}/{arguments[0]}"


def counts(path: str, folder: Path) -> bool:
    """Whether a path is in a folder; how often progress is written depends on how fast the machine is."""
    return str(folder) in path and "progress.json" not in path
