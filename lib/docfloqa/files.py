"""Where things lie, and how they are written: whole, checked, one writer at a time, told when the disk is full."""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from tqdm.auto import tqdm

from docfloqa.exceptions import DamagedError, DiskFullError, DocFloQAError, FolderError, size
from docfloqa.parameters import check_study_name

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOKS = PROJECT / "notebooks"
TINY_MODEL = PROJECT / "data" / "florence2-tiny"
LOCAL = (".csv", ".tsv", ".jsonl", ".json", ".parquet")  # no repository of the hub is called so
CHECKSUM, MANIFEST, DIGEST_BYTES = "checksum", "checksums.json", 32


def output_folder() -> Path:
    """Where data, figures and reports are written: `DOCFLOQA_OUTPUT` if set, else the project."""
    return Path(os.path.realpath(expanded(os.environ.get("DOCFLOQA_OUTPUT") or PROJECT)))


def data_folder() -> Path:
    """Generated data and caches."""
    return output_folder() / "data"


def reports_folder(study: str) -> Path:
    """A study's executed notebooks, runs, tables, HTML and PDF; raises `SettingsError` for what is no study's name."""
    return output_folder() / "reports" / check_study_name(study)


def figures_folder(study: str) -> Path:
    """A study's figures; raises `SettingsError` for what is no study's name."""
    return output_folder() / "figures" / check_study_name(study)


def runs_folder(study: str) -> Path:
    """The folder in which each run of a study has a folder of its own, named by the run's id."""
    return reports_folder(study) / "runs"


def resolve(name: str | Path) -> str:
    """A local folder or file, taken from the working directory or else the project; anything else is a hub id."""
    found = filter(is_there, (expanded(name), PROJECT / name))
    return str(next((path.resolve() for path in found), name))


def is_there(path: str | Path) -> bool:
    """Whether there is such a file or folder; no name is an error, however long it is and whatever is in it."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: str | Path) -> bool:
    """Whether there is such a folder, as `is_there`."""
    return os.path.isdir(path)  # noqa: PTH112


def expanded(path: str | Path) -> Path:
    """A path with the home folder for "~"; "~name" stays as it is where nobody has that name."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def is_hub_id(name: str) -> bool:
    """Whether a name is of the Hugging Face hub: `owner/name@revision`, or `owner/name` that cannot be meant locally.

    It is where there is a folder `owner`, and where `name` ends as a file of questions does.
    """
    owner, _, rest = name.partition("/")
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@(?!.*\.\.)\w[\w./-]*)?", name) is None:
        return False
    return "@" in name or not (is_folder(owner) or is_folder(PROJECT / owner) or Path(rest).suffix in LOCAL)


def nearest_path(path: str | Path) -> str:
    """What is there in place of a local path that is not, as the end of a sentence; "" where nothing is like it."""
    path = expanded(path)
    with suppress(OSError, ValueError):
        above = next(folder for folder in path.parents if folder.is_dir())
        name = path.relative_to(above).parts[0]
        # What has this very name is a link that leads nowhere.
        if near := get_close_matches(name, [other.name for other in above.iterdir() if other.name != name], n=1):
            return f"; did you mean {str(above / near[0])!r}?"
    return ""


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file so that it appears whole or not at all: beside its place first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        part.replace(path)
    finally:
        # Half a file would take the room that a full disk lacks.
        part.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sealed(path: Path, content: dict[str, Any], files: Iterable[Path] = ()) -> None:
    """Write a JSON object with the checksums of `files`, which lie beside or below it, and one of all its entries."""
    if names := {file.relative_to(path.parent).as_posix(): checksum(file) for file in files}:
        content = {**content, "files": names}
    write_whole(path, json.dumps({**content, CHECKSUM: _checksum_of(content)}, indent=2))


def read_sealed(path: Path, with_files: bool = False) -> dict[str, Any]:
    """The entries of a JSON object that `write_sealed` has written; one without a checksum is taken as it is.

    Raises `FileNotFoundError`, and `DamagedError` where it or, `with_files`, one of them does not fit its checksum.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path} is damaged: it holds no JSON object")
    if content.pop(CHECKSUM, None) not in (None, _checksum_of(content)):
        raise DamagedError(f"{path} is damaged: it does not fit its checksum")
    if with_files:
        check_files(path.parent, content.get("files", {}))
    return content


def check_files(folder: Path, checksums: dict[str, str], hashed: Callable[[Path], str] = checksum) -> None:
    """Raise `DamagedError` for the first of a folder's files that is missing or does not fit its checksum."""
    for name, recorded in checksums.items():
        if not (folder / name).is_file():
            raise DamagedError(f"{folder / name} is missing")
        if hashed(folder / name) != recorded:
            raise DamagedError(f"{folder / name} is damaged: it does not fit its checksum")


def _checksum_of(content: dict[str, Any]) -> str:
    # As it will be read: JSON knows neither tuples nor keys that are numbers.
    read = json.loads(json.dumps(content))
    return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()


def seal_folder(folder: Path, **about: Any) -> None:
    """Write the checksums of a folder's files into it, last of all, with what else is to be known of it."""
    manifest = folder / MANIFEST
    write_sealed(manifest, about, sorted(path for path in folder.rglob("*") if path.is_file() and path != manifest))


def remove_sealed(folder: Path) -> None:
    """Delete a sealed folder, if it is there: its manifest first, or half of it would be found damaged after a kill."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def check_folder(folder: Path) -> dict[str, Any]:
    """What a sealed folder's manifest says, read with its files; what was added since does not matter."""
    return read_sealed(folder / MANIFEST, with_files=True)


def with_digest(content: bytes) -> bytes:
    """Content with its SHA-256 behind it, for files that are no JSON and lie in no sealed folder."""
    return content + hashlib.sha256(content).digest()


def check_digest(path: Path) -> None:
    """Raise `DamagedError` unless a file is as `with_digest` made it."""
    content = memoryview(path.read_bytes())
    if hashlib.sha256(content[:-DIGEST_BYTES]).digest() != content[-DIGEST_BYTES:]:
        raise DamagedError(f"{path} is damaged: its {len(content):,} bytes do not fit their checksum")


def is_sound(path: Path, check: Callable[[Path], object]) -> bool:
    """Whether a file or folder is there and `check` finds no damage; what is damaged is set aside."""
    # Another process may have set it aside already.
    with suppress(FileNotFoundError):
        try:
            check(path)
        except DamagedError as error:
            set_aside(path, error)
        else:
            return True
    return False


def remembered(name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `compute` gave when it was first asked for under this name; computed again where the file is damaged."""
    memory = data_folder() / "cache" / "checks" / f"{name}.json"
    if not is_sound(memory, read_sealed):
        write_sealed(memory, compute())
    return read_sealed(memory)


def set_aside(path: Path, why: object, folder: Path | None = None) -> None:
    """Rename a damaged file or folder to `<name>.damaged`, in `folder` if given; warns, naming it."""
    names = (f"{path.name}.damaged{number}" for number in chain([""], count(2)))
    kept = next(place for name in names if not (place := (folder or path.parent) / name).exists())
    path.rename(kept)
    warnings.warn(f"{why}. It is kept as {kept} and made again", stacklevel=2)


@contextmanager
def held(name: str, what: str) -> Iterator[None]:
    """Hold the lock `name` of this output folder while this process lives; while another has it, say who and wait."""
    path = data_folder() / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(path), path.with_suffix(".json")
    try:
        acquired = lock.acquire(blocking=False)
    except Timeout:
        who = "another process"
        with suppress(OSError, ValueError, KeyError):
            who = "process {pid} on {host} since {since}".format(**json.loads(holder.read_text()))
        tqdm.write(f"{what} is in the hands of {who}; waiting until it ends")
        acquired = lock.acquire()
    with acquired:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        # A full disk must not keep anybody from reading what is there.
        with suppress(OSError):
            write_whole(holder, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield


# What libraries say that write files without Python, and so raise no OSError.
FULL = re.compile(r"No space left on device|Disk quota exceeded|PytorchStreamWriter|unexpected pos \d+")
OUT_OF_REACH = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
WAY_OUT = "What is finished is kept: make room, or set DOCFLOQA_OUTPUT to another disk, and the same command goes on"


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free


def folder_bytes(folder: Path) -> int:
    """Bytes in a folder, without what was set aside in it as damaged."""
    sound = (path for path in folder.rglob("*") if ".damaged" not in str(path.relative_to(folder)))
    return sum(path.stat().st_size for path in sound if path.is_file())


def is_full(error: Exception) -> bool:
    """Whether an error says that the disk is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL.search(str(error)) is not None


@contextmanager
def room_for(folder: Path, needed: int, what: str) -> Iterator[None]:
    """Work that writes so many bytes into a folder.

    Raises `DiskFullError` before it where they are not free, and in the middle of it where the disk fills up.
    """
    need = f"{what} needs {size(needed)} more on the disk of {folder}, of which"
    if (free := free_bytes(folder)) < needed:
        raise DiskFullError(f"{need} {size(free)} are free. {WAY_OUT}")
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_full(error):
            raise
        raise DiskFullError(f"{need} {size(free_bytes(folder))} are free. {WAY_OUT} ({error})") from error


def caused_by_user(error: Exception) -> DocFloQAError | None:
    """An error as a user may mend it: one of the library's own, a full disk, a file out of reach; None for a fault."""
    if isinstance(error, DocFloQAError):
        return error
    name = getattr(error, "filename", None)
    if is_full(error):
        folder = Path(name or output_folder())
        free = f"of which {size(free_bytes(folder))} are free"
        return DiskFullError(f"the disk of {folder} is full ({error}), {free}. {WAY_OUT}")
    if name and error.errno in OUT_OF_REACH:
        return FolderError(f"{str(name)!r} is out of reach: {error.strerror}{_elsewhere(name, error)}")
    return None


def _elsewhere(path: str | Path, error: OSError) -> str:
    """The end of a message where it is the output folder that cannot be written to."""
    below = Path(path).absolute().is_relative_to(output_folder())
    return "; set DOCFLOQA_OUTPUT to a folder that can be written to" if below and error.errno in UNWRITABLE else ""


def check_writable(folder: Path, replaceable: Callable[[Path], bool] | None = None) -> Path:
    """A folder's whole path where it is not there yet, is empty, or `replaceable` says so; else `FolderError`."""
    try:
        folder = expanded(folder).resolve()
        there = [folder] if folder.is_file() else [*folder.iterdir()] if folder.exists() else []
    except (OSError, RuntimeError, ValueError) as error:
        # RuntimeError: links in a circle. ValueError: a name that no folder can have.
        reason = getattr(error, "strerror", error)
        raise FolderError(f"folder {str(folder)!r} cannot be made: {reason}") from error
    if there and not (replaceable and folder.is_dir() and replaceable(folder)):
        wrong = "is not empty, and nothing in it is overwritten" if folder.is_dir() else "is a file"
        raise FolderError(f"folder {str(folder)!r} {wrong}; give one that is empty or does not exist yet")
    return folder


@contextmanager
def whole_folder(folder: Path, replaceable: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """A folder to write into that takes the place of `folder` at the end; on an error nothing is left of it.

    Raises `FolderError` as `check_writable` does, and where no folder can be made.
    """
    folder = check_writable(folder, replaceable)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    old = put_back(folder)
    try:
        part.mkdir(parents=True)
    except OSError as error:
        reason = f"{error.strerror}{_elsewhere(folder, error)}"
        raise FolderError(f"folder {str(folder)!r} cannot be made: {reason}") from error
    try:
        yield part
        for path in part.rglob("*"):
            # What is written by way of a temporary file would be for its owner alone.
            path.chmod(part.stat().st_mode & (0o777 if path.is_dir() else 0o666))
        if folder.is_dir():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        part.rename(folder)
    finally:
        put_back(folder)
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)


def put_back(folder: Path) -> Path:
    """Put back what a process was killed over while `whole_folder` replaced it; returns where it had been moved."""
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.is_dir():
        old.rename(folder)
    return old
