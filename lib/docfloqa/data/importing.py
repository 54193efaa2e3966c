"""A folder of images and a CSV of questions and answers as a data set in the schema."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset

from docfloqa.data.csv_rows import (
    CsvImportError,
    Problem,
    Question,
    checked_rows,
    read_csv,
    without_duplicates,
)
from docfloqa.data.load import SPLITS
from docfloqa.data.schema import FEATURES
from docfloqa.paths import expanded, is_folder
from docfloqa.whole_folders import check_writable, whole_folder

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
