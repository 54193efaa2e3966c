"""A CSV of questions and answers about images, read and checked row by row."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docfloqa.data.images import decode_page
from docfloqa.data.load import SPLITS
from docfloqa.data.page_files import PageError, read_bytes
from docfloqa.paths import expanded

REQUIRED = ("image", "question", "answers")
OPTIONAL = ("split", "document", "question_id", "question_type")
DELIMITERS = ",;\t"
SEPARATOR = "|"  # between the answers, and between the types, of a question
LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, numbered as a spreadsheet does: the header is row 1."""

    row: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        shown = self.value if len(self.value) <= LONGEST_SHOWN else f"{self.value[:LONGEST_SHOWN]}…"
        return f"row {self.row}, {self.column} {shown!r}: {self.reason}"


class CsvImportError(ValueError):
    """A CSV that cannot become a data set: `problems` are those of single rows, if that is why."""

    def __init__(self, message: str, problems: Iterable[Problem] = ()):
        self.problems = list(problems)
        super().__init__("\n".join([message, *(f"  {problem}" for problem in self.problems)]))


@dataclass
class Question:
    """A row of the CSV, checked; `page` is the checksum of its image, `split` is empty until one is drawn."""

    row: int
    image: Path
    page: str
    question: str
    answers: list[str]
    split: str
    document: str
    question_id: str
    question_types: list[str]


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The columns of a CSV, and the cells of every row that is not blank with the row's number.

    Raises `CsvImportError` for a file that is not there, not in UTF-8, not whole, or lacks a column.
    """
    try:
        content = read_bytes(expanded(path))
        text = content.decode("utf-8-sig")
    except PageError as error:
        raise CsvImportError(str(error)) from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CsvImportError(
            f"{str(path)!r} is not in UTF-8: byte {content[error.start]:#04x} in line {line}; save it as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise CsvImportError(f"{str(path)!r} is not in UTF-8: it has zero bytes; save it as CSV in UTF-8")
    headers = {delimiter: _columns(text, delimiter) for delimiter in DELIMITERS}
    # Not csv.Sniffer, which guesses from how often signs occur: the names of the columns are known.
    delimiter = max(headers, key=lambda sign: len({*headers[sign]} & {*REQUIRED, *OPTIONAL}))
    columns = headers[delimiter]
    missing = [name for name in REQUIRED if name not in columns]
    twice = [name for name in REQUIRED + OPTIONAL if columns.count(name) > 1]
    if missing or twice:
        wrong = f"lacks the columns {', '.join(missing)}" if missing else f"has {', '.join(twice)} twice"
        raise CsvImportError(
            f"{str(path)!r} {wrong}; its first row has {', '.join(columns) or 'nothing'}, and allowed are "
            f"{', '.join(REQUIRED)} and, where wanted, {', '.join(OPTIONAL)}"
        )
    rows, number = [], 0
    try:
        for number, cells in enumerate(_reader(text, delimiter), start=1):
            if number > 1 and any(cell.strip() for cell in cells):
                rows.append((number, [cell.strip() for cell in cells]))
    except csv.Error as error:
        # What follows a quote that is never closed cannot be told apart.
        raise CsvImportError(
            f"{str(path)!r} cannot be read after row {number}: {error}; allowed are cells in quotes, in which a quote "
            "is written twice"
        ) from error
    return columns, rows


def _reader(text: str, delimiter: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)


def _columns(text: str, delimiter: str) -> list[str]:
    try:
        return [name.strip().lower() for name in next(_reader(text, delimiter), [])]
    except csv.Error:
        return []


def checked_rows(
    columns: list[str],
    rows: list[tuple[int, list[str]]],
    stem: str,
    root: Path,
    problems: list[Problem],
) -> Iterator[Question]:
    """The rows without a problem of their own; what is wrong with the others is added to `problems`.

    `root` is the folder of images, resolved; `stem` begins the ids of questions without one.
    """
    images: dict[str, tuple[Path, str, str]] = {}
    first_name: dict[str, str] = {}
    for number, cells in rows:
        if len(cells) != len(columns):
            reason = f"has {len(cells)} cells; allowed are {len(columns)}, as in the first row"
            problems.append(Problem(number, "cells", ", ".join(cells), reason))
            continue
        cell = dict(zip(columns, cells, strict=True))
        name, split = cell["image"], cell.get("split", "").lower()
        if name not in images:
            images[name] = _image(root, name)
        path, page, image_problem = images[name]
        answers = _several(cell["answers"])
        reasons = {
            "image": image_problem,
            "question": "" if cell["question"] else "no question; allowed is any text",
            "answers": "" if answers else f"no answer; allowed is at least one, separated by {SEPARATOR!r}",
            "split": "no split; allowed are train and validation"
            if "split" in columns and split not in SPLITS
            else "",
        }
        found = [
            Problem(number, column, cell[column], reason) for column, reason in reasons.items() if reason
        ]
        problems += found
        if not found:
            # Two files with the same content are one page, so one document unless the CSV says otherwise.
            first_name.setdefault(page, path.relative_to(root).as_posix())
            yield Question(
                row=number,
                image=path,
                page=page,
                question=cell["question"],
                answers=answers,
                split=split,
                document=cell.get("document") or first_name[page],
                question_id=cell.get("question_id") or f"{stem}-{number}",
                question_types=_several(cell.get("question_type", "")),
            )


def _several(cell: str) -> list[str]:
    parts = (part.strip() for part in cell.split(SEPARATOR))
    return list(dict.fromkeys(filter(None, parts)))


def _image(root: Path, name: str) -> tuple[Path, str, str]:
    """An image's path, the checksum of its content, and what is wrong with it."""
    if not name:
        return root, "", "no image; allowed is a file in the folder of images"
    try:
        path = (root / name).resolve()
        # A link that leads out of the folder is followed first.
        if not path.is_relative_to(root):
            return root, "", f"outside of the folder of images; allowed are files in {str(root)!r}"
        content = read_bytes(path)
        decode_page(content)
    except (OSError, RuntimeError, ValueError) as error:
        # RuntimeError: links in a circle.
        return root, "", str(error)
    return path, hashlib.sha1(content, usedforsecurity=False).hexdigest(), ""


def without_duplicates(questions: Iterable[Question], problems: list[Problem]) -> Iterator[Question]:
    """Questions less those whose id, or text and image, an earlier one has; they are added to `problems`."""
    ids: dict[str, int] = {}
    asked: dict[tuple[str, str], int] = {}
    for one in questions:
        key = (one.page, one.question)
        if one.question_id in ids:
            reason = f"also the id of row {ids[one.question_id]}; allowed is every id once"
            problems.append(Problem(one.row, "question_id", one.question_id, reason))
        elif key in asked:
            reason = f"asked of the same image in row {asked[key]}; allowed is once, with all of its answers"
            problems.append(Problem(one.row, "question", one.question, reason))
        else:
            ids[one.question_id] = asked[key] = one.row
            yield one
