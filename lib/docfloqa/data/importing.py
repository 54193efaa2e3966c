"""A data set from a folder of images and a CSV of questions and answers."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset

from docfloqa.data.images import PageError, decode_page, read_bytes
from docfloqa.data.load import SPLITS
from docfloqa.data.schema import FEATURES
from docfloqa.exceptions import DocFloQAError
from docfloqa.files import check_writable, expanded, is_folder, whole_folder

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


class CsvImportError(DocFloQAError, ValueError):
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
            "split": "no split; allowed are train and validation" if "split" in columns and split not in SPLITS else "",
        }
        found = [Problem(number, column, cell[column], reason) for column, reason in reasons.items() if reason]
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


FEWEST_VALIDATED = 2  # documents: intervals are over documents


@dataclass(frozen=True)
class Imported:
    """What came of an import: questions and documents by split, and the problems of rows that were left out."""

    folder: Path
    questions: dict[str, int]
    documents: dict[str, int]
    left_out: list[Problem] = field(default_factory=list)


def import_csv(
    path: Path,
    folder: Path,
    images: Path | None = None,
    validation_share: float = 0.2,
    seed: int = 0,
    skip_bad_rows: bool = False,
) -> Imported:
    """Write `train-` and `validation-00000-of-00001.parquet` into `folder`, which appears whole or not at all.

    The CSV is in UTF-8 (with or without a mark), its columns are separated by commas, semicolons or tabs. It has
    the columns image (a file in the folder `images`, the CSV's own if not given), question and answers (accepted
    ones, separated by "|"), and may have split ("train" or "validation"), document (what belongs together; else
    every image is one), question_id and question_type (several separated by "|"); no other column is read. Without
    the column split, `validation_share` of the documents, in (0, 1), at least two of them, are drawn with `seed` for
    validation. With it there may be validation questions only.

    Raises `CsvImportError` with the problems of all rows, unless `skip_bad_rows` leaves these rows out; for a file
    that cannot be read as a whole or has too few documents; and `FolderError` for a folder that is not empty.
    """
    if not 0 < validation_share < 1:
        raise CsvImportError(f"validation_share is {validation_share!r}; allowed is a number between 0 and 1")
    check_writable(folder)
    root = expanded(images or path.parent)
    if not is_folder(root):
        raise CsvImportError(f"there is no folder of images {str(root)!r}")
    root = root.resolve()
    columns, rows = read_csv(path)
    problems: list[Problem] = []
    sound = checked_rows(columns, rows, path.stem, root, problems)
    questions = list(without_duplicates(sound, problems))
    drawn = "split" not in columns
    if drawn:
        _draw_splits(questions, validation_share, seed)
    questions = list(_without_conflicts(questions, problems))
    problems.sort(key=lambda problem: problem.row)
    if problems and not skip_bad_rows:
        bad = len({problem.row for problem in problems})
        raise CsvImportError(f"{str(path)!r}: {bad} rows cannot be used, and nothing is written", problems)
    splits = {split: [one for one in questions if one.split == split] for split in SPLITS}
    splits = {split: chosen for split, chosen in splits.items() if chosen}
    documents = {split: len({one.document for one in chosen}) for split, chosen in splits.items()}
    if documents.get("validation", 0) < FEWEST_VALIDATED or (drawn and "train" not in documents):
        raise CsvImportError(
            f"{str(path)!r} has usable questions on {sum(documents.values())} documents, of which "
            f"{documents.get('validation', 0)} are for validation; allowed are at least {FEWEST_VALIDATED} for "
            f"validation{' and one for training' if drawn else ''}",
            problems,
        )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(one.document for one in questions))}
    with whole_folder(folder) as part:
        for split, chosen in splits.items():
            of_schema = Dataset.from_list(list(_rows(chosen, numbers)), features=FEATURES)
            of_schema.to_parquet(part / f"{split}-00000-of-00001.parquet")
    return Imported(folder, {split: len(chosen) for split, chosen in splits.items()}, documents, problems)


def _draw_splits(questions: list[Question], validation_share: float, seed: int) -> None:
    documents = sorted({one.document for one in questions})
    wanted = max(FEWEST_VALIDATED, round(validation_share * len(documents)))
    drawn = {*Random(seed).sample(documents, min(wanted, len(documents)))}
    for one in questions:
        one.split = "validation" if one.document in drawn else "train"


def _without_conflicts(questions: list[Question], problems: list[Problem]) -> Iterator[Question]:
    """Questions less those whose document, or image, is in the other split in an earlier row."""
    first: dict[tuple[str, str], Question] = {}
    for one in questions:
        keys = {"document": one.document, "image": one.page}
        earlier = {column: first.setdefault((column, key), one) for column, key in keys.items()}
        column = next((column for column, other in earlier.items() if other.split != one.split), None)
        if column is None:
            yield one
            continue
        other = earlier[column]
        value = one.document if column == "document" else one.image.name
        problems.append(
            Problem(
                one.row,
                column,
                value,
                f"in {one.split}, and in {other.split} in row {other.row}; allowed is one split, as for all of a "
                "document",
            )
        )


def _rows(questions: list[Question], numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Questions of one split as rows of the schema; `numbers` are those of documents."""
    contents: dict[str, bytes] = {}
    pages: dict[str, dict[str, int]] = defaultdict(dict)
    for one in questions:
        if one.page not in contents:
            contents[one.page] = one.image.read_bytes()
        of_document = pages[one.document]
        yield {
            "questionId": one.question_id,
            "question": one.question,
            "question_types": one.question_types,
            "image": {"bytes": contents[one.page], "path": one.image.name},
            "docId": numbers[one.document],
            "ucsf_document_id": one.document,
            "ucsf_document_page_no": str(of_document.setdefault(one.page, len(of_document) + 1)),
            "answers": one.answers,
            "data_split": one.split,
        }
