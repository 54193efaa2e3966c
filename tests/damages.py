"""What can happen to a file, and a process that is killed for real, at a moment that is chosen."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random


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
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"}


def killed_at(change: int, folder: Path, work: Callable[[], None]) -> bool:
    """Do some work in a process of its own, which SIGKILL ends before its so many-th change of a file in `folder`.

    Changes are counted from 1 on; they are opening to write, renaming and deleting. Returns whether the process was
    killed; one that fails otherwise is an error.
    """
    child = os.fork()
    if child == 0:
        done = 0

        def audit(event: str, arguments: tuple) -> None:
            nonlocal done
            writes = (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if (writes or event in CHANGES) and str(folder) in str(arguments[0]):
                done += 1
                if done == change:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        code = 1
        try:
            work()
            code = 0
        finally:
            # Nothing that the parent has at hand is to be cleaned up twice.
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, f"ended by signal {os.WTERMSIG(status)}"
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed; its error is above"
    return False


def moments(seed: int, count: int, last: int) -> list[int]:
    """So many different numbers from 1 to `last`, drawn from a seed."""
    return Random(seed).sample(range(1, last + 1), count)
