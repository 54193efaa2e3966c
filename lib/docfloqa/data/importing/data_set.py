"""A data set from whatever holds questions and pages: every row checked, pages put into parquet files."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from docfloqa.data.hub import data_snapshot
from docfloqa.data.importing.kinds import Found, recognise
from docfloqa.data.importing.pages import Pages
from docfloqa.data.importing.summary import FEWEST_FOR_STUDY, Imported, Problem, counted, grouped
from docfloqa.data.importing.tables import ROWS_AT_ONCE, Table, plain_text, text_of, texts
from docfloqa.data.schema import DISJOINT, FEATURES, SPLIT_NAMES, SPLITS, TEST
from docfloqa.exceptions import DataError, printable
from docfloqa.files import check_writable, expanded, is_folder, is_hub_id, resolve, whole_folder
from docfloqa.parameters import check_source

IMPORTING = 2  # what these rules are called where their results are kept: those of others do not count
LEFT = {"train": "training", TEST: TEST}
NO_SPLIT = "no split; allowed are train, validation and test"
TEXTS = ("question", "split", "document", "question_id", "page")


class ImportProblems(DataError):
    """What cannot become a data set: `problems` are those of single rows, if that is why."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()):
        self.problems = list(problems)
        super().__init__("\n".join([message, *(f"  {line}" for line in grouped(self.problems))]))


def import_data(
    source: str | Path,
    folder: Path,
    images: Path | None = None,
    validation_share: float = 0.2,
    seed: int = 0,
    skip_bad_rows: bool = False,
) -> Imported:
    """Write `train-`, `validation-` and, where it has answers, `test-00000-of-00001.parquet` into a new `folder`.

    Paths of images begin at `images`, else where the questions are, and lie below it. Where no split is told,
    `validation_share` of the documents, in (0, 1), at least two, validate. Raises `ImportProblems` with the problems
    of all rows, unless `skip_bad_rows` leaves them out, and for too few documents; `DataError` for a source that cannot
    be read; `FolderError` for a folder that is not empty.
    """
    if not 0 < validation_share < 1:
        raise ImportProblems(f"validation_share is {validation_share!r}; allowed is a number between 0 and 1")
    check_source("source", str(source))
    check_writable(folder)
    found = find(source)
    root = expanded(images) if images else None
    if root is not None and not is_folder(root):
        raise ImportProblems(f"there is no folder of images {str(root)!r}")
    pages = Pages(root)
    rows, problems = _rows(found.tables, pages)
    aside, tested = found.left_aside, rows[rows["split"] == TEST]
    if len(tested) and not tested["answers"].map(len).any():
        # As published test splits are.
        rows, without = rows.drop(tested.index), {*zip(tested["file"], tested["row"], strict=True)}
        problems = [problem for problem in problems if (problem.file, problem.row) not in without]
        aside += (f"{counted(len(tested), 'question')} of test, without answers",)
    leaks: list[Problem] = []
    rows, drawn = _checked(rows, problems, leaks, found.tables, validation_share, seed)
    for some in (problems, leaks):
        some.sort(key=lambda problem: (problem.file, problem.row))
    name = str(source)
    if problems and not skip_bad_rows:
        bad = counted(len({(problem.file, problem.row) for problem in problems}), "row")
        told = f"{name!r}: {bad} cannot be used, and nothing is written"
        raise ImportProblems(f"{told}; docfloqa import with --skip-bad-rows leaves them out", problems)
    by_split = rows.groupby("split")["document"]
    questions, documents = by_split.size().to_dict(), by_split.nunique().to_dict()
    fewest = FEWEST_FOR_STUDY if drawn else 1
    if documents.get("validation", 0) < fewest or (drawn and "train" not in documents):
        raise ImportProblems(
            f"{name!r} has usable questions on {counted(sum(documents.values()), 'document')}, of which "
            f"{documents.get('validation', 0)} are for validation; allowed are at least {fewest} for "
            f"validation{' and one for training' if drawn else ''}",
            problems,
        )
    number = rows.groupby("document")["content"].transform(lambda some: pd.factorize(some)[0] + 1).astype(str)
    rows["page"] = rows["page"].where(rows["page"] != "", number)
    rows["docId"] = pd.factorize(rows["document"])[0]
    with whole_folder(folder) as part:
        for split, chosen in rows.groupby("split"):
            path = part / f"{split}-00000-of-00001.parquet"
            with pq.ParquetWriter(path, FEATURES.arrow_schema) as writer:
                in_schema = _in_schema(chosen, found.tables, pages)
                while some := [*islice(in_schema, ROWS_AT_ONCE)]:
                    writer.write_batch(pa.RecordBatch.from_pylist(some, schema=FEATURES.arrow_schema))
        # Another import may have been faster.
        check_writable(folder)
    answers = [first for first, *_ in rows["answers"]]
    left, share = problems + leaks, validation_share if drawn else None
    return Imported(expanded(folder), found.kind, questions, documents, left, aside, answers, share)


def find(source: str | Path) -> Found:
    """The kind and tables of what is here, or of a hub id; raises `DataError`."""
    resolved = resolve(source)
    return recognise(data_snapshot(resolved, (*SPLITS, TEST)) if is_hub_id(resolved) else expanded(resolved))


def state_of(found: Found) -> str:
    """A checksum of what a source's tables say, and of the size and last change of every file that they name."""
    digest, pages = hashlib.sha256(), Pages(None)
    for table in found.tables:
        # Images within a table are not read for this.
        for file in sorted(table.path.rglob("*")) if table.path.is_dir() else [table.path]:
            state = file.stat()
            digest.update(repr([file.name, state.st_size, state.st_mtime_ns, state.st_ctime_ns]).encode())
        for row in table.read():
            image = row.values["image"]
            within = len(image["bytes"] or b"") if isinstance(image, dict) else None
            values = row.values if within is None else {**row.values, "image": within}
            digest.update(repr([row.number, values]).encode())
            with suppress(OSError, RuntimeError, TypeError, ValueError):
                state = pages.file_of(table, image).stat()
                digest.update(repr([state.st_size, state.st_mtime_ns, state.st_ctime_ns]).encode())
    return f"{digest.hexdigest()}-{IMPORTING}"


def _rows(tables: Sequence[Table], pages: Pages) -> tuple[pd.DataFrame, list[Problem]]:
    """The rows of all tables without their images, and the problems of those that have one by themselves."""
    rows, problems = [], []
    # train/1.png and validation/1.png are two documents.
    apart = not pages.root and len({table.images for table in tables}) > 1
    for place, table in enumerate(tables):
        file = table.path.name if len(tables) > 1 else ""
        for row in table.read():
            one = {**dict.fromkeys(TEXTS, ""), "answers": [], "question_type": []}
            wrong = {"cells": row.wrong} if row.wrong else {}
            for name in one:
                value = row.values.get(name)
                try:
                    one[name] = plain_text(value) if name in TEXTS else texts(value, table.bars)
                except ValueError as error:
                    wrong[name] = str(error)
            one["split"] = SPLIT_NAMES.get(table.split or one["split"].lower(), one["split"])
            one["image"] = printable(_given(row.values, "image"))
            if not row.wrong:
                one["name"], one["content"], wrong["image"] = pages.look(table, row.values["image"], one["page"])
                if one["name"] and apart:
                    one["name"] = f"{table.images.name}/{one['name']}"
                if not one["question"]:
                    wrong.setdefault("question", "no question; allowed is any text")
                if not one["answers"]:
                    wrong.setdefault("answers", "no answer; allowed is at least one, separated by '|'")
            told = {name: reason for name, reason in wrong.items() if reason}
            problems += [Problem(row.number, name, _given(row.values, name), why, file) for name, why in told.items()]
            rows.append({"table": place, "row": row.number, "file": file, "bad": bool(told), **one})
    columns = ["table", "row", "file", "bad", *TEXTS, "image", "answers", "question_type", "name", "content"]
    return pd.DataFrame(rows, columns=columns), problems


def _given(values: dict[str, Any], column: str) -> str:
    if column == "cells":
        return ", ".join(map(text_of, values.values()))
    value = values.get(column)
    return text_of(value.get("path") if isinstance(value, dict) else value)


def _checked(
    rows: pd.DataFrame, problems: list[Problem], leaks: list[Problem], tables: Sequence[Table], share: float, seed: int
) -> tuple[pd.DataFrame, bool]:
    """The rows that go well together, with ids, documents and splits, and whether the splits were drawn.

    `leaks` get the training rows about documents or pages of validation or test, and the test rows about validation's.
    """
    # A column without any split tells none.
    told = any("split" in table.columns for table in tables if not table.split) and (rows["split"] != "").any()
    drawn = not told and all(table.split in ("", "train", TEST) for table in tables)
    if not drawn:
        wrong = ["" if split in (*SPLITS, TEST) else NO_SPLIT for split in rows["split"]]
        rows = _less(rows, "split", wrong, problems)
    rows = rows[~rows["bad"].astype(bool)].copy()
    # Two files with the same pixels are one page, so one document unless the questions say otherwise.
    own = rows["name"].where(rows["name"] != "", "page " + rows["content"].astype(str).str[:12])
    name = own.groupby(rows["content"]).transform("first") if len(rows) else own
    rows["document"] = rows["document"].where(rows["document"] != "", name)
    stems = [table.path.stem for table in tables]
    if len({*stems}) < len(stems):
        stems = [f"{table.path.parent.name}-{table.path.stem}" for table in tables]
    stems = rows["table"].map(dict(enumerate(stems)))
    rows["question_id"] = rows["question_id"].where(rows["question_id"] != "", stems + "-" + rows["row"].astype(str))
    by_hand = rows["table"].map(dict(enumerate(table.bars for table in tables)))
    for column, keys, reason in (
        ("question_id", ["question_id"], "also the id of {}; allowed is every id once"),
        ("question", ["question", "content"], "asked of the same image in {}; allowed is once, with all its answers"),
    ):
        first = rows.index.to_series().groupby([rows[key] for key in ("split", *keys)]).transform("first")
        if column == "question":
            # In a published data set people were asked the same twice.
            first = first.where(by_hand, rows.index)
        reasons = ["" if here == there else reason.format(_row_of(rows.loc[there])) for here, there in first.items()]
        rows = _less(rows, column, reasons, problems)
    if drawn:
        documents = sorted(set(rows["document"][rows["split"] != TEST]))
        wanted = max(FEWEST_FOR_STUDY, round(share * len(documents)))
        chosen = Random(seed).sample(documents, min(wanted, len(documents)))
        split = np.where(rows["document"].isin(chosen), "validation", "train")
        rows = rows.assign(split=rows["split"].where(rows["split"] == TEST, split))
    for split, other in DISJOINT:
        for column, key in (("document", "document"), ("image", "content")):
            there = rows[rows["split"] == other].drop_duplicates(key).set_index(key)
            reasons = [
                f"also in {other}, in {_row_of(there.loc[row[key]])}; left out of {LEFT[split]}"
                if row["split"] == split and row[key] in there.index
                else ""
                for row in rows.to_dict("records")
            ]
            rows = _less(rows, column, reasons, leaks)
    return rows, drawn


def _less(rows: pd.DataFrame, column: str, reasons: list[str], problems: list[Problem]) -> pd.DataFrame:
    """The rows without a reason to leave them out; the others are added to `problems`."""
    for row, reason in zip(rows.to_dict("records"), reasons, strict=True):
        if reason:
            problems.append(Problem(row["row"], column, row[column], reason, row["file"]))
    return rows[np.array(reasons, dtype=object) == ""].copy()


def _row_of(row: pd.Series) -> str:
    return f"{row['file'] and row['file'] + ' '}row {row['row']}"


def _in_schema(chosen: pd.DataFrame, tables: Sequence[Table], pages: Pages) -> Iterator[dict[str, Any]]:
    """The rows of a split in the schema, in order; images are read again, since memory may not hold them all."""
    wanted = {(row["table"], row["row"]): row for row in chosen.to_dict("records")}
    for place in sorted(set(chosen["table"])):
        for row in tables[place].read():
            if one := wanted.get((place, row.number)):
                yield {
                    "questionId": one["question_id"],
                    "question": one["question"],
                    "question_types": one["question_type"],
                    "image": pages.load(tables[place], row.values["image"], text_of(row.values.get("page"))),
                    "docId": one["docId"],
                    "ucsf_document_id": one["document"],
                    "ucsf_document_page_no": one["page"],
                    "answers": one["answers"],
                    "data_split": one["split"],
                }
