"""Where things are: the project, its data and caches, a study's folders, a run's folder."""

from __future__ import annotations

import os
import re
from pathlib import Path

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
