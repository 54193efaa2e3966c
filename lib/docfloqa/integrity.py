"""Whether files are still what was written: checksums, and damaged ones named and set aside."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from docfloqa.paths import write_whole

CHECKSUM, MANIFEST = "checksum", "checksums.json"
DIGEST_BYTES = hashlib.sha256().digest_size


class DamagedError(ValueError):
    """A file that is not what was written: names it and what is wrong."""


def checksum(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(content: dict[str, Any]) -> str:
    """A JSON object with a checksum of its other entries, as text."""
    return json.dumps({**content, CHECKSUM: _checksum_of(content)}, indent=2)


def read_sealed(path: Path) -> dict[str, Any]:
    """The entries of a JSON object that `seal` has written; one without a checksum is taken as it is.

    Raises `DamagedError` where it does not fit its checksum or is no JSON object, and `FileNotFoundError`.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object")
    given = content.pop(CHECKSUM, None)
    if given is not None and given != _checksum_of(content):
        raise DamagedError(f"{path} is damaged: it does not fit its checksum")
    return content


def _checksum_of(content: dict[str, Any]) -> str:
    # As it will be read: JSON knows neither tuples nor keys that are numbers.
    read = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def with_digest(content: bytes) -> bytes:
    """Content with its SHA-256 behind it."""
    return content + hashlib.sha256(content).digest()


def check_digest(path: Path) -> None:
    """Raise `DamagedError` unless a file is as `with_digest` made it."""
    size = path.stat().st_size
    if size > DIGEST_BYTES:
        content = np.memmap(path, dtype=np.uint8, mode="r")
        if hashlib.sha256(content[:-DIGEST_BYTES]).digest() == content[-DIGEST_BYTES:].tobytes():
            return
    raise DamagedError(f"{path} is damaged: its {size:,} bytes do not fit their checksum")


def seal_folder(folder: Path, **about: Any) -> None:
    """Write the checksums of a folder's files into it, last of all, with what else is to be known of it."""
    written = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    files = {path.relative_to(folder).as_posix(): checksum(path) for path in written}
    write_whole(folder / MANIFEST, seal({**about, "files": files}))


def check_folder(folder: Path) -> dict[str, Any]:
    """What was to be known of a folder that `seal_folder` has sealed.

    Raises `DamagedError` where a file is missing or differs, and `FileNotFoundError` for a folder that is not there
    or was never sealed. What was added since does not matter.
    """
    about = read_sealed(folder / MANIFEST)
    files = about.pop("files", {})
    for name, recorded in files.items():
        if not (folder / name).is_file():
            raise DamagedError(f"{folder / name} is missing")
        if checksum(folder / name) != recorded:
            raise DamagedError(f"{folder / name} is damaged: it does not fit its checksum")
    return about


def is_sound(path: Path, check: Callable[[Path], object]) -> bool:
    """Whether a file or folder is there and `check` finds no damage; what is damaged is set aside."""
    try:
        check(path)
    except FileNotFoundError:
        return False
    except DamagedError as error:
        # Another process may have done so already.
        with suppress(FileNotFoundError):
            set_aside(path, error)
        return False
    return True


def set_aside(path: Path, why: object, folder: Path | None = None) -> Path:
    """Rename a damaged file or folder to `<name>.damaged`, in `folder` if given; warns, naming it."""
    place, number = (folder or path.parent) / f"{path.name}.damaged", 1
    while place.exists():
        number += 1
        place = place.with_name(f"{path.name}.damaged{number}")
    path.rename(place)
    warnings.warn(f"{why}. It is kept as {place} and made again", stacklevel=2)
    return place
