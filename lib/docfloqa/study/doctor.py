"""What a study would meet here, looked at before anything is downloaded or trained: what was found, what to do."""

import logging
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm.auto import tqdm

from docfloqa.exceptions import DocFloQAError, StudyError
from docfloqa.files import TINY_MODEL, caused_by_user, resolve
from docfloqa.settings import Settings
from docfloqa.study.kernels import in_own_process
from docfloqa.text import flat

# In the order in which they are looked at: what is to be written is known last of all.
SUBJECTS = "python torch device kernel hub model data question disk".split()
BEFORE_A_STUDY = SUBJECTS[3:]


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do where it is not well."""

    subject: str
    found: str
    to_do: str | None = None

    def __str__(self) -> str:
        lines = [*self.found.splitlines(), *([f"-> {flat(self.to_do)}"] if self.to_do else [])]
        return f"{self.subject:<11} " + f"\n{'':<12}".join(map(flat, lines))


def examine(settings: Settings, kernel: str | None = None, subjects: list[str] = SUBJECTS, runs=1) -> list[Finding]:
    """What a study of these settings would meet here, one finding for each of `subjects`; downloads nothing.

    `runs` is how many it has, for the disk. What fails is a finding with what to do, and the rest is looked at.
    """
    # Here: who makes a study that need not be looked at would wait seconds for torch and transformers.
    import torch

    from docfloqa.study.examination import NEEDS, Examination, NotHereError

    examination, findings, well = Examination(settings, kernel, runs), [], set()
    # A process that is killed for want of memory has told at least what it was looking at.
    with _quiet() as terminal, tqdm(subjects, leave=False, disable=None, file=terminal) as progress:
        for subject in progress:
            progress.set_description(subject)
            lacking = [need for need in NEEDS.get(subject, ()) if need not in well]
            found, to_do = "", None
            try:
                if lacking:
                    raise NotHereError(f"not tried: it needs the {lacking[0]}")
                found = getattr(examination, subject)()
                well.add(subject)
            except NotHereError as reason:
                found = str(reason)
            except torch.OutOfMemoryError as error:
                to_do = f"the memory of the GPU does not suffice for one question: {error}"
            except (OSError, DocFloQAError) as error:
                to_do = str(caused_by_user(error) or error)
            except Exception as error:
                # A fault of ours, or of a library under a machine that nobody has tried.
                place = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(place.filename).name}, line {place.lineno}"
                to_do = f"{type(error).__name__}: {error} ({where}); please report this output"
            findings.append(Finding(subject, found, to_do))
    return findings


def verdict(findings: Sequence[Finding]) -> str:
    """The findings, one below the other, and whether a study can begin: "ok", or how many things are to be done."""
    wrong = sum(finding.to_do is not None for finding in findings)
    things = f"{wrong} thing" + "s" * (wrong > 1)
    return "\n".join([*map(str, findings), f"not ok: {things} to do, marked with ->" if wrong else "ok"])


def check_study(settings: Settings, kernel: str | None = None, scheduler: str | None = None, runs: int = 1) -> None:
    """Raise `StudyError` with what was found where a study of so many runs would fail later; quiet otherwise.

    With a `scheduler` the runs are made on other machines, whose kernels it asks itself.
    """
    # These the study's first step loads in seconds and without a download: it finds the same.
    if resolve(settings.model) == str(TINY_MODEL) and {settings.data, settings.validation_data} <= {"synth", None}:
        return
    subjects = [subject for subject in BEFORE_A_STUDY if not (scheduler and subject == "kernel")]
    # In a process of its own: a GPU that was used here would not give all of its memory to the runs.
    try:
        findings = in_own_process(examine, settings, kernel, subjects, runs)
    except BrokenProcessPool:
        killed = "the process that looked at it was killed, most likely for want of memory: take a machine with more"
        findings = [Finding("model", "", killed)]
    if any(finding.to_do for finding in findings):
        raise StudyError(f"this study cannot be made here as it is\n{verdict(findings)}")


@contextmanager
def _quiet() -> Iterator[TextIO]:
    """Without what libraries and kernels write, which tells a user nothing that a finding does not; the terminal."""
    with (
        os.fdopen(os.dup(2), "w") as terminal,
        Path(os.devnull).open("w") as nowhere,
        warnings.catch_warnings(action="ignore"),
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        logging.disable(logging.ERROR)
        # A kernel writes to this process's own.
        os.dup2(nowhere.fileno(), 2)
        try:
            yield terminal
        finally:
            os.dup2(terminal.fileno(), 2)
            logging.disable(logging.NOTSET)
