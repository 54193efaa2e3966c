"""A data set from a folder of images and a CSV of questions and answers."""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset

from docfloqa.data.images import decode_page, read_bytes
from docfloqa.data.schema import FEATURES, SPLITS
from docfloqa.exceptions import DocFloQAError, shown
from docfloqa.files import check_writable, expanded, is_folder, whole_folder

REQUIRED, OPTIONAL = ("image", "question", "answers"), ("split", "document", "question_id", "question_type")
DELIMITERS = ",;\t"
SEPARATOR = "|"  # between the answers, and between the types, of a question
FEWEST_VALIDATED = 2  # documents: intervals are over documents


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, numbered as a spreadsheet does: the header is row 1."""

    row: int
    column: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}, {self.column} {shown(self.value)}: {self.reason}"


class CsvImportError(DocFloQAError, ValueError):
    """A CSV that cannot become a data set: `problems` are those of single rows, if that is why."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()):
        self.problems = list(problems)
        super().__init__("\n".join([message, *(f"  {problem}" for problem in self.problems)]))


@dataclass(frozen=True)
class Imported:
    """What came of an import: questions and documents by split, and the problems of rows that were left out."""

    folder: Path
    questions: dict[str, int]
    documents: dict[str, int]
    left_out: list[Problem]


def import_csv(
    path: Path, folder: Path, images: Path | None = None, validation_share=0.2, seed=0, skip_bad_rows=False
) -> Imported:
    """Write `train-` and `validation-00000-of-00001.parquet` into `folder`, which appears whole or not at all.

    The CSV is in UTF-8, its columns are separated by commas, semicolons or tabs: image (a file in the folder `images`,
    else the CSV's own), question and answers (accepted ones, separated by "|"); where wanted split ("train" or
    "validation"), document (what belongs together; else every image is one), question_id and question_type. Without a
    split, `validation_share` of the documents, in (0, 1), at least two, are drawn with `seed` for validation.

    Raises `CsvImportError` with the problems of all rows, unless `skip_bad_rows` leaves these rows out, and for what is
    no such CSV or has too few documents; `PageError` for a file that cannot be read; `FolderError` for a folder that is
    not empty.
    """
    if not 0 < validation_share < 1:
        raise CsvImportError(f"validation_share is {validation_share!r}; allowed is a number between 0 and 1")
    check_writable(folder)
    root = expanded(images or path.parent)
    if not is_folder(root):
        raise CsvImportError(f"there is no folder of images {str(root)!r}")
    root = root.resolve()
    rows, problems = _read(path)
    drawn = "split" not in rows
    rows = rows.reindex(columns=REQUIRED + OPTIONAL, fill_value="")
    rows["split"] = rows["split"].str.lower()
    files = {name: _image(root, name) for name in rows["image"].unique()}
    rows = rows.join(pd.DataFrame.from_dict(files, "index", columns=["file", "page", "wrong"]), on="image")
    no_answer = f"no answer; allowed is at least one, separated by {SEPARATOR!r}"
    reasons = {
        "image": rows["wrong"],
        "question": rows["question"].map({"": "no question; allowed is any text"}),
        "answers": rows["answers"].map(_several).map(len).map({0: no_answer}),
        "split": (drawn | rows["split"].isin(SPLITS)).map({False: "no split; allowed are train and validation"}),
    }
    reasons = pd.DataFrame(reasons).fillna("")
    for column in reasons:
        _less(rows, column, reasons[column], problems)
    rows = rows[(reasons == "").all(axis=1)].copy()
    # Two files with the same content are one page, so one document unless the CSV says otherwise.
    name = rows["file"].str["path"].groupby(rows["page"]).transform("first")
    rows["document"] = rows["document"].where(rows["document"] != "", name)
    number = rows.index.astype(str)
    rows["question_id"] = rows["question_id"].where(rows["question_id"] != "", f"{path.stem}-" + number)
    for column, keys, reason in (
        ("question_id", ["question_id"], "also the id of row {}; allowed is every id once"),
        ("question", ["question", "page"], "asked of the same image in row {}; allowed is once, with all its answers"),
    ):
        first = _first(rows, keys)
        rows = _less(rows, column, first.map(reason.format).where(first != first.index, ""), problems)
    if drawn:
        documents = sorted(set(rows["document"]))
        wanted = max(FEWEST_VALIDATED, round(validation_share * len(documents)))
        chosen = Random(seed).sample(documents, min(wanted, len(documents)))
        rows = rows.assign(split=np.where(rows["document"].isin(chosen), "validation", "train"))
    for column, key in (("document", "document"), ("image", "page")):
        first = _first(rows, [key])
        earlier = rows["split"][first].to_numpy()
        reason = "in " + rows["split"] + ", and in " + earlier + " in row " + first.astype(str)
        reason += "; allowed is one split, as for all of a document"
        rows = _less(rows, column, reason.where(rows["split"] != earlier, ""), problems)
    problems.sort(key=lambda problem: problem.row)
    if problems and not skip_bad_rows:
        bad = len({problem.row for problem in problems})
        raise CsvImportError(f"{str(path)!r}: {bad} rows cannot be used, and nothing is written", problems)
    by_split = rows.groupby("split")["document"]
    questions, documents = by_split.size().to_dict(), by_split.nunique().to_dict()
    if documents.get("validation", 0) < FEWEST_VALIDATED or (drawn and "train" not in documents):
        raise CsvImportError(
            f"{str(path)!r} has usable questions on {sum(documents.values())} documents, of which "
            f"{documents.get('validation', 0)} are for validation; allowed are at least {FEWEST_VALIDATED} for "
            f"validation{' and one for training' if drawn else ''}",
            problems,
        )
    number = rows.groupby("document")["page"].transform(lambda some: pd.factorize(some)[0] + 1)
    of_schema = {
        "questionId": rows["question_id"],
        "question": rows["question"],
        "question_types": rows["question_type"].map(_several),
        "image": rows["file"],
        "docId": pd.factorize(rows["document"])[0],
        "ucsf_document_id": rows["document"],
        "ucsf_document_page_no": number.astype(str),
        "answers": rows["answers"].map(_several),
        "data_split": rows["split"],
    }
    with whole_folder(folder) as part:
        for split, chosen in pd.DataFrame(of_schema).groupby("data_split"):
            dataset = Dataset.from_dict(chosen.to_dict("list"), FEATURES)
            dataset.to_parquet(part / f"{split}-00000-of-00001.parquet")
    return Imported(folder, questions, documents, problems)


def _read(path: Path) -> tuple[pd.DataFrame, list[Problem]]:
    """The rows of a CSV that are not blank, by their numbers, and those that have too many or too few cells."""
    content, known = read_bytes(expanded(path)), {*REQUIRED, *OPTIONAL}
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CsvImportError(
            f"{str(path)!r} is not in UTF-8: byte {content[error.start]:#04x} in line {line}; save it as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise CsvImportError(f"{str(path)!r} is not in UTF-8: it has zero bytes; save it as CSV in UTF-8")
    # Not csv.Sniffer, which guesses from how often signs occur: the names of the columns are known.
    first = text.partition("\n")[0].lower()
    delimiter = max(DELIMITERS, key=lambda sign: len({name.strip(' "\r') for name in first.split(sign)} & known))
    rows: dict[int, list[str]] = {}
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            rows[len(rows) + 1] = [cell.strip() for cell in row]
    except csv.Error as error:
        # What follows a quote that is never closed cannot be told apart.
        raise CsvImportError(
            f"{str(path)!r} cannot be read after row {len(rows)}: {error}; allowed are cells in quotes, in which a "
            "quote is written twice"
        ) from error
    columns = [name.lower() for name in rows.pop(1, [])]
    missing = [name for name in REQUIRED if name not in columns]
    twice = [name for name in REQUIRED + OPTIONAL if columns.count(name) > 1]
    if missing or twice:
        wrong = f"lacks the columns {', '.join(missing)}" if missing else f"has {', '.join(twice)} twice"
        raise CsvImportError(
            f"{str(path)!r} {wrong}; its first row has {', '.join(columns) or 'nothing'}, and allowed are "
            f"{', '.join(REQUIRED)} and, where wanted, {', '.join(OPTIONAL)}"
        )
    rows = {number: cells for number, cells in rows.items() if any(cells)}
    allowed = f"allowed are {len(columns)}, as in the first row"
    problems = [
        Problem(number, "cells", ", ".join(cells), f"has {len(cells)} cells; {allowed}")
        for number, cells in rows.items()
        if len(cells) != len(columns)
    ]
    whole = {number: cells for number, cells in rows.items() if len(cells) == len(columns)}
    frame = pd.DataFrame.from_dict(whole, "index", dtype=object, columns=columns)
    return frame.loc[:, frame.columns.isin(REQUIRED + OPTIONAL)], problems


def _less(rows: pd.DataFrame, column: str, reasons: pd.Series, problems: list[Problem]) -> pd.DataFrame:
    """The rows without a reason to leave them out; the others are added to `problems`."""
    problems += [Problem(row, column, rows.at[row, column], reason) for row, reason in reasons.items() if reason]
    return rows[reasons == ""]


def _first(rows: pd.DataFrame, keys: list[str]) -> pd.Series:
    """The number of the first row with the same values in these columns."""
    return rows.index.to_series().groupby([rows[key] for key in keys]).transform("first")


def _several(cell: str) -> list[str]:
    return list(dict.fromkeys(filter(None, map(str.strip, cell.split(SEPARATOR)))))


def _image(root: Path, name: str) -> tuple[dict[str, Any], str, str]:
    """An image's name and content, the checksum of that, and what is wrong with it."""
    try:
        if not name:
            raise ValueError("no image; allowed is a file in the folder of images")
        path = (root / name).resolve()
        # A link that leads out of the folder is followed first.
        if not path.is_relative_to(root):
            raise ValueError(f"outside of the folder of images; allowed are files in {str(root)!r}")
        content = read_bytes(path)
        decode_page(content)
    except (OSError, RuntimeError, ValueError) as error:
        # RuntimeError: links in a circle.
        return {}, "", str(error)
    page = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return {"bytes": content, "path": path.relative_to(root).as_posix()}, page, ""
