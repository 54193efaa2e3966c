"""What an import tells: problems of rows, a line for each kind, and what came of it."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docfloqa.data.schema import SPLITS
from docfloqa.exceptions import shown
from docfloqa.files import TINY_MODEL
from docfloqa.settings import EMBEDDED

FEWEST_FOR_INTERVAL = 10  # documents: intervals over fewer hold the truth too rarely
FEWEST_FOR_STUDY = 2  # documents to validate on: answers on other documents' pages are asked for, too
LONGEST_ANSWER = EMBEDDED.max_new_tokens


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, numbered as its file is read: the header of a CSV is row 1."""

    row: int
    column: str
    value: str
    reason: str
    file: str = ""  # where there are several

    def __str__(self) -> str:
        return f"{self.where()}: {self.reason}"

    def where(self) -> str:
        """The row, its column and value."""
        return f"{self.file and f'{self.file} '}row {self.row}, {self.column} {shown(self.value)}"


def grouped(problems: Sequence[Problem]) -> list[str]:
    """A line for each reason, with the first row that has it and how many more there are."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        # Numbers and names in a reason tell of the row, not of the kind of problem.
        alike.setdefault((problem.column, re.sub(r"\d+|'[^']*'", "#", problem.reason)), []).append(problem)
    return [
        str(first) if not more else f"{1 + len(more)} rows: {first.reason}; the first is {first.where()}"
        for first, *more in alike.values()
    ]


@dataclass(frozen=True)
class Imported:
    """What came of an import: its kind, questions and documents by split, rows and files that were left out.

    `answers` are the first ones, which are trained on.
    """

    folder: Path
    kind: str
    questions: dict[str, int]
    documents: dict[str, int]
    left_out: list[Problem]
    left_aside: tuple[str, ...]
    answers: list[str]


def summary(done: Imported, source: str | Path) -> list[str]:
    """What came of an import, for people, the next command at the end."""
    counts = {split: done.questions.get(split, 0) for split in SPLITS}
    lines = [
        f"{Path(source).name or source}: {done.kind}, {counts['train']} training and {counts['validation']} validation "
        "questions"
    ]
    lines += [f"left aside, as no split of its name is used: {name}" for name in done.left_aside]
    for split, count in done.questions.items():
        lines.append(f"{split}: {counted(count, 'question')} on {counted(done.documents[split], 'document')}")
    few = done.documents["validation"]
    if few < FEWEST_FOR_INTERVAL:
        lines.append(
            f"{counted(few, 'document')} to validate on: below {FEWEST_FOR_INTERVAL} no interval is given, and what "
            "differs may be chance"
        )
    lines.append("the first answer of a question is the one trained on; when answers are scored, any of them counts")
    lengths = [len(encoding.ids) + 1 for encoding in _tokenizer().encode_batch(done.answers, add_special_tokens=False)]
    if long := sum(length > LONGEST_ANSWER for length in lengths):
        lines.append(
            f"{long} of {counted(len(lengths), 'first answer')} {'is' if long == 1 else 'are'} longer than the "
            f"{LONGEST_ANSWER} tokens that the tiny model answers with (other models' tokens are longer): "
            f"--max-new-tokens {max(lengths)} lets it answer them"
        )
    whole = shlex.quote(str(done.folder.resolve()))
    if "train" not in done.questions:
        return [*lines, f"next: docfloqa evaluate RUN --data {whole}"]
    if few < FEWEST_FOR_STUDY:
        return [*lines, f"a study needs {FEWEST_FOR_STUDY} documents to validate on: add one before the next command"]
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", done.folder.resolve().name).strip("_-") or "mine"
    return [*lines, f"next: make study PROFILE=own DATA={whole} NAME={name[:60]}"]


def counted(count: int, what: str) -> str:
    """A number of things, "1 row" or "2 rows"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def _tokenizer() -> Any:
    # Not above: DATA is imported without it.
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
