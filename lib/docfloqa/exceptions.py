"""What a user can cause, and how a message shows what was given."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

LONGEST_SHOWN = 200


class DocFloQAError(Exception):
    """What a user can cause and mend: its message is one sentence with what was given and what is allowed."""


class SettingsError(DocFloQAError, ValueError):
    """A setting or parameter that is unknown or out of range: names it, the value and what is allowed."""


class DataError(DocFloQAError, ValueError):
    """Data that a study cannot use: names where it came from, what is wrong and what is allowed."""


class ModelError(DocFloQAError, ValueError):
    """A model that cannot be loaded, with where it was looked for, or what of its files is wrong, and what to do."""


class RunError(DocFloQAError, ValueError):
    """A run or a study's results that are not there, are not the only ones of their name, or cannot be used."""


class StudyError(DocFloQAError, RuntimeError):
    """A study that cannot begin or go on here: names the notebook, kernel or machine, and what is allowed."""


class IncompleteRunError(DocFloQAError, RuntimeError):
    """A run that is there and has not finished: says where it stands and how to go on."""


class DamagedError(DocFloQAError, ValueError):
    """A file that is not what was written: names it and what is wrong."""


class DiskFullError(DocFloQAError, RuntimeError):
    """A disk without room: names the folder, what needs how much, what is free, and what to do."""


class FolderError(DocFloQAError, ValueError):
    """A folder that must not, or cannot, be written to: names it, what is in the way and what is allowed."""


def shown(value: Any) -> str:
    """A value as a message shows it, the end cut off where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        # Python does not write out an integer of thousands of digits.
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def printable(text: str) -> str:
    """A text as UTF-8 can hold it: what a file's name or JSON may have beside it is written out."""
    return text.encode(errors="backslashreplace").decode()


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """The known name that is closest to a wrong one, as the end of a message; nothing where none is close."""
    close = get_close_matches(name, list(known), n=1) if isinstance(name, str) else ()
    return f"; did you mean {close[0]}?" if close else ""


def size(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"
