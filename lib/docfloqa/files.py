"""Where things lie, and how they are written: whole, checked, one writer at a time, told when the disk is full."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm.auto import tqdm

from docfloqa.exceptions import DamagedError, DiskFullError, DocFloQAError, FolderError
from docfloqa.parameters import check_study_name

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOKS = PROJECT / "notebooks"
TINY_MODEL = PROJECT / "data" / "florence2-tiny"


def output_folder() -> Path:
    """Where data, figures and reports are written: `DOCFLOQA_OUTPUT` if set, else the project."""
    return Path(os.environ.get("DOCFLOQA_OUTPUT") or PROJECT).expanduser().resolve()


def data_folder() -> Path:
    """Generated data and caches."""
    return output_folder() / "data"


def reports_folder(study: str) -> Path:
    """A study's executed notebooks, runs, tables, HTML and PDF; raises `SettingsError` for what is no study's name."""
    check_study_name(study)
    return output_folder() / "reports" / study


def figures_folder(study: str) -> Path:
    """A study's figures; raises `SettingsError` for what is no study's name."""
    check_study_name(study)
    return output_folder() / "figures" / study


def runs_folder(study: str) -> Path:
    """The folder in which each run of a study has a folder of its own, named by the run's id."""
    return reports_folder(study) / "runs"


def resolve(name: str | Path) -> str:
    """A local folder, taken from the working directory or else the project; anything else is a hub id."""
    for candidate in (expanded(name), PROJECT / name):
        if is_folder(candidate):
            return str(candidate.resolve())
    return str(name)


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder; no name is an error, however long it is and whatever is in it."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def expanded(path: str | Path) -> Path:
    """A path with the home folder for "~"; "~name" stays as it is where nobody has that name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form `owner/name` or `owner/name@revision` of the Hugging Face hub."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@(?!.*\.\.)\w[\w./-]*)?", name) is not None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it appears whole or not at all: beside its place first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    except BaseException:
        # Half a file would take the room that a full disk lacks.
        part.unlink(missing_ok=True)
        raise


CHECKSUM, MANIFEST = "checksum", "checksums.json"
DIGEST_BYTES = 32


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
    beside = folder or path.parent
    names = (f"{path.name}.damaged{number if number > 1 else ''}" for number in count(1))
    kept = next(beside / name for name in names if not (beside / name).exists())
    path.rename(kept)
    warnings.warn(f"{why}. It is kept as {kept} and made again", stacklevel=2)
    return kept


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
        who = "another process"
        with suppress(OSError, ValueError, KeyError):
            who = "process {pid} on {host} since {since}".format(**json.loads(holder.read_text()))
        tqdm.write(f"{what} is in the hands of {who}; waiting until it ends")
        lock.acquire()
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        # A full disk must not keep anybody from reading what is there.
        with suppress(OSError):
            write_whole(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        lock.release()


# What libraries say that write files without Python, and so raise no OSError.
FULL = re.compile(r"No space left on device|Disk quota exceeded|PytorchStreamWriter|unexpected pos \d+")

OUT_OF_REACH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)

WAY_OUT = (
    "What is finished is kept: make room, and the same command goes on; or set DOCFLOQA_OUTPUT to a folder on another "
    "disk"
)


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
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL.search(str(error)) is not None


@contextmanager
def room_for(folder: Path, needed: int, what: str) -> Iterator[None]:
    """Work that writes so many bytes into a folder.

    Raises `DiskFullError` before it where they are not free, and in the middle of it where the disk fills up.
    """

    def missing(free: int, said: object = "") -> DiskFullError:
        need = f"{what} needs {size(needed)} more on the disk of {folder}, of which {size(free)} are free"
        return DiskFullError(f"{need}. {WAY_OUT}{said}")

    free = free_bytes(folder)
    if free < needed:
        raise missing(free)
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_full(error):
            raise missing(free_bytes(folder), f" ({error})") from error
        raise


def caused_by_user(error: Exception) -> DocFloQAError | None:
    """An error as a user may mend it: one of the library's own, a full disk, a file out of reach; None for a fault."""
    if isinstance(error, DocFloQAError):
        return error
    name = getattr(error, "filename", None)
    if is_full(error):
        folder = Path(name or output_folder())
        free = size(free_bytes(folder))
        return DiskFullError(f"the disk of {folder} is full ({error}), of which {free} are free. {WAY_OUT}")
    if name and error.errno in OUT_OF_REACH:
        return FolderError(f"{str(name)!r} is out of reach: {error.strerror}")
    return None


def size(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def check_writable(folder: Path, replaceable: Callable[[Path], bool] | None = None) -> None:
    """Raise `FolderError` unless `folder` is not there yet, is empty, or `replaceable` says that it may be replaced."""
    folder = _resolved(folder)
    if folder.exists() and not folder.is_dir():
        raise FolderError(f"{str(folder)!r} is a file; give a folder that is empty or does not exist yet")
    if folder.is_dir() and any(folder.iterdir()) and not (replaceable and replaceable(folder)):
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
def whole_folder(folder: Path, replaceable: Callable[[Path], bool] | None = None) -> Iterator[Path]:
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
        if old.is_dir() and not folder.is_dir():
            old.rename(folder)
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)
