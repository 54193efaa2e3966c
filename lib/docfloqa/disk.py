"""Room on the disk: asked for before work begins, and told of when it runs out."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from docfloqa.paths import output_folder

# What libraries say that write files without Python, and so raise no OSError.
FULL = re.compile(r"No space left on device|Disk quota exceeded|PytorchStreamWriter|unexpected pos \d+")

WAY_OUT = (
    "What is finished is kept: make room, and the same command goes on; or set DOCFLOQA_OUTPUT to a folder on another "
    "disk"
)


class DiskFullError(RuntimeError):
    """A disk without room: names the folder, what needs how much, what is free, and what to do."""


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def folder_bytes(folder: Path) -> int:
    """Bytes in a folder, without what was set aside in it as damaged."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if ".damaged" not in str(path.relative_to(folder)))


def is_full(error: Exception) -> bool:
    """Whether an error says that the disk is full."""
    return (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL.search(str(error)) is not None
    )


@contextmanager
def room_for(folder: Path, needed: int, what: str) -> Iterator[None]:
    """Work that writes so many bytes into a folder.

    Raises `DiskFullError` before it where they are not free, and in the middle of it where the disk fills up.
    """
    free = free_bytes(folder)
    if free < needed:
        raise DiskFullError(_explain(folder, needed, free, what))
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_full(error):
            raise DiskFullError(f"{_explain(folder, needed, free_bytes(folder), what)} ({error})") from error
        raise


def full_disk(error: Exception) -> DiskFullError | None:
    """What to tell of an error that says that the disk is full, of which nobody knew before; None for any other."""
    if not is_full(error):
        return None
    folder = Path(getattr(error, "filename", None) or output_folder())
    return DiskFullError(
        f"the disk of {folder} is full ({error}), of which {size(free_bytes(folder))} are free. {WAY_OUT}"
    )


def _explain(folder: Path, needed: int, free: int, what: str) -> str:
    return (
        f"{what} needs {size(needed)} more on the disk of {folder}, of which {size(free)} are free. {WAY_OUT}"
    )


def size(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
