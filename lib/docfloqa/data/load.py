"""Questions about documents in one schema, from drawn pages, folders of parquet files or a hub."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict, Image
from tqdm.auto import tqdm

from docfloqa.data.images import LARGEST_IMAGE, ImageError, ImageTooLargeError, decode_page
from docfloqa.data.sources import SPLITS, read_split
from docfloqa.exceptions import DataError, shown
from docfloqa.files import data_folder, is_sound, read_sealed, seal, write_whole
from docfloqa.settings import Settings

CHECKS = 3  # what these checks are called where results are remembered: those of other checks do not count


@dataclass
class Checks:
    """What the checks found: rows read and kept by split, and every row that was left out with its reason."""

    read: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def leave_out(self, split: str, question_id: Any, reason: str) -> None:
        """Record a row that is not used."""
        self.left_out.append({"split": split, "questionId": str(question_id), "reason": reason})

    def summary(self) -> pd.DataFrame:
        """Rows left out, counted by split and reason, with the first question ids of each."""
        columns = ["split", "reason", "rows", "first ids"]
        groups: dict[tuple[str, str], list[str]] = {}
        for row in self.left_out:
            groups.setdefault((row["split"], row["reason"]), []).append(row["questionId"])
        rows = [(*key, len(ids), ", ".join(map(shown, ids[:3]))) for key, ids in groups.items()]
        return pd.DataFrame(rows, columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """For a run's record."""
        return {"read": self.read, "kept": self.kept, "left_out": self.left_out}


def load_docvqa(settings: Settings) -> DatasetDict:
    """The training and validation questions of `settings`, checked (see `load_checked`)."""
    return load_checked(settings)[0]


def load_checked(settings: Settings) -> tuple[DatasetDict, Checks]:
    """Training and validation questions in the schema, and what the checks left out.

    Two columns are added: `page`, the checksum of the image's bytes, equal for questions on the same
    page; and `document_id`, the document that questions are clustered by. Splits are disjoint by
    document and by page: what is also in validation is left out of training, under whatever document id.

    Raises what `read_split` raises, and `DataError` for a split without a usable row; warns when rows are left out.
    """
    checks = Checks()
    sources = {"train": settings.data, "validation": settings.validation_data or settings.data}
    splits = {
        split: _check_split(*read_split(source, split, settings), source, split, checks)
        for split, source in sources.items()
    }
    splits["train"] = _without_validation(splits["validation"], splits["train"], checks)
    limits = {"train": settings.train_questions, "validation": settings.validation_questions}
    for split, limit in limits.items():
        if not len(splits[split]):
            raise DataError(
                f"split {split!r} of {sources[split]!r} has no usable row"
                + (f": {checks.summary().to_string(index=False)}" if checks.left_out else "")
            )
        splits[split] = _draw_documents(splits[split], limit)
        checks.kept[split] = len(splits[split])
    if len(set(splits["validation"]["document_id"])) < 2:
        raise DataError(
            f"split 'validation' of {sources['validation']!r} has one document only; at least two are needed, since "
            "intervals are over documents"
        )
    if checks.left_out:
        warnings.warn(
            f"{len(checks.left_out)} rows are left out:\n{checks.summary().to_string(index=False)}",
            stacklevel=2,
        )
    return DatasetDict(splits), checks


def data_checksum(dataset: DatasetDict) -> str:
    """A checksum of every question, its answers and its page, in order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        columns = dataset[split].select_columns(["questionId", "question", "answers", "page", "document_id"])
        for batch in columns.iter(batch_size=1000):
            digest.update(json.dumps([split, batch]).encode())
    return digest.hexdigest()


def _check_split(rows: Dataset, content: str, source: str, split: str, checks: Checks) -> Dataset:
    if not len(rows):
        raise DataError(f"split {split!r} of {source!r} is empty")
    found = _inspect(rows, content, split)
    checks.read[split] = len(rows)
    question_ids = rows["questionId"]
    for place, reason in sorted(found["left_out"].items(), key=lambda item: int(item[0])):
        checks.leave_out(split, question_ids[int(place)], reason)
    kept = [place for place in range(len(rows)) if str(place) not in found["left_out"]]
    documents = [
        name or f"docId {number}" for name, number in zip(rows["ucsf_document_id"], rows["docId"], strict=True)
    ]
    rows = rows.add_column("page", found["pages"]).add_column("document_id", documents).select(kept)
    return rows


def _inspect(rows: Dataset, content: str, split: str) -> dict[str, Any]:
    """The page of every row, and the reason of each that cannot be used, by its place; remembered on disk."""
    memory = data_folder() / "cache" / "checks" / f"{content}-{CHECKS}.json"
    if is_sound(memory, read_sealed):
        return read_sealed(memory)
    pages: list[str] = []
    left_out: dict[str, str] = {}
    problems_of_pages: dict[str, str | None] = {}
    seen = Counter()
    raw = rows.cast_column("image", Image(decode=False))
    for place, row in enumerate(tqdm(raw, desc=f"checking {split}", unit="row", leave=False)):
        page, problem = check_image(row["image"], problems_of_pages)
        pages.append(page)
        seen[row["questionId"]] += 1
        answers = [(answer or "").strip() for answer in row["answers"] or ()]
        if not (row["question"] or "").strip():
            problem = "empty question"
        elif not any(answers):
            problem = "no answer"
        elif not all(answers):
            # It would make saying nothing right.
            problem = "an answer is empty"
        elif not (row["questionId"] or "").strip():
            problem = "no question id"
        elif not row["ucsf_document_id"] and row["docId"] is None:
            problem = "no document id"
        elif seen[row["questionId"]] > 1:
            problem = "duplicate question id"
        if problem:
            left_out[str(place)] = problem
    found = {"pages": pages, "left_out": left_out}
    write_whole(memory, seal(found))
    return found


def check_image(image: dict[str, Any] | None, known: dict[str, str | None]) -> tuple[str, str | None]:
    """The page of an image as parquet holds it, a checksum, and why it cannot be used; `known` remembers by page."""
    content = (image or {}).get("bytes")
    if not content:
        # A path would make a data set read whatever file of this machine it names.
        return "", "image is a path, not in the row" if image and image.get("path") else "no image"
    page = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    if page not in known:
        known[page] = _image_problem(content)
    return page, known[page]


def _image_problem(content: bytes) -> str | None:
    try:
        decode_page(content)
    except ImageTooLargeError:
        return f"image of more than {LARGEST_IMAGE:,} pixels"
    except ImageError:
        return "image cannot be decoded"
    return None


def _without_validation(validation: Dataset, train: Dataset, checks: Checks) -> Dataset:
    documents, pages = set(validation["document_id"]), set(validation["page"])
    kept = []
    for place, (document, page, question_id) in enumerate(
        zip(train["document_id"], train["page"], train["questionId"], strict=True)
    ):
        if document in documents:
            checks.leave_out("train", question_id, "document is also in validation")
        elif page in pages:
            # Ids differ between sources, and within one where a page was scanned into two documents.
            checks.leave_out("train", question_id, "page is also in validation")
        else:
            kept.append(place)
    return train.select(kept) if len(kept) < len(train) else train


def _draw_documents(rows: Dataset, limit: int | None) -> Dataset:
    """At most `limit` questions, whole documents in an order that does not depend on the study's seeds."""
    if limit is None or limit >= len(rows):
        return rows
    places: dict[str, list[int]] = {}
    for place, document in enumerate(rows["document_id"]):
        places.setdefault(document, []).append(place)
    documents = sorted(places)
    Random(0).shuffle(documents)
    drawn = [place for document in documents for place in places[document]]
    return rows.select(sorted(drawn[:limit]))
