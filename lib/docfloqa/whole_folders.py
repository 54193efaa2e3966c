"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from docfloqa.paths import expanded


class FolderError(ValueError):
    """A folder that must not, or cannot, be written to: names it, what is in the way and what is allowed."""


def never(folder: Path) -> bool:
    """False: no folder with anything in it may be replaced."""
    return False


def check_writable(folder: Path, replaceable: Callable[[Path], bool] = never) -> None:
    """Raise `FolderError` unless `folder` is not there yet, is empty, or may be replaced as `replaceable` says."""
    folder = _resolved(folder)
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{str(folder)!r} is a file; give a folder that is empty or does not exist yet")
    if folder.is_dir() and any(folder.iterdir()) and not replaceable(folder):
        raise FolderError(
            f"folder {str(folder)!r} is not empty, and nothing in it is overwritten; give one that is empty or does "
            "not exist yet"
        )


def _resolved(folder: Path) -> Path:
    try:
        resolved = expanded(folder).resolve()
        resolved.exists()
    except (OSError, RuntimeError, ValueError) as error:
        # RuntimeError: links in a circle. ValueError: a name that no folder can have.
        reason = getattr(error, "strerror", error)
        raise FolderError(f"folder {str(folder)!r} cannot be made: {reason}") from error
    return resolved


@contextmanager
def whole_folder(folder: Path, replaceable: Callable[[Path], bool] = never) -> Iterator[Path]:
    """A folder to write into that takes the place of `folder` at the end; on an error nothing is left of it.

    Raises `FolderError` as `check_writable` does, and where no folder can be made.
    """
    check_writable(folder, replaceable)
    folder = _resolved(folder)
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise FolderError(f"folder {str(folder)!r} cannot be made: {error.strerror}") from error
    try:
        yield part
        if folder.is_dir():
            folder.rename(old)
        part.rename(folder)
    finally:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
