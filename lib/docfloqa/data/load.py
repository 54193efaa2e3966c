"""Questions about documents in one schema, from drawn pages, folders of parquet files or a hub."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict, Image
from tqdm.auto import tqdm

from docfloqa.data.images import LARGEST_IMAGE, ImageTooLargeError, PageError, decode_page
from docfloqa.data.sources import SPLITS, read_split
from docfloqa.exceptions import DataError, shown
from docfloqa.files import remembered
from docfloqa.settings import Settings

CHECKS = 3  # what these checks are called where results are remembered: those of other checks do not count


@dataclass
class Checks:
    """What the checks found: rows read and kept by split, and every row that was left out with its reason."""

    read: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)

    def leave_out(self, split: str, rows: Dataset, reasons: dict[int, str]) -> Dataset:
        """The rows without those of these indices, which are recorded with their reasons."""
        ids = rows["questionId"] if reasons else ()
        for index, reason in sorted(reasons.items()):
            self.left_out.append({"split": split, "questionId": str(ids[index]), "reason": reason})
        return rows.select([index for index in range(len(rows)) if index not in reasons]) if reasons else rows

    def summary(self) -> pd.DataFrame:
        """Rows left out, counted by split and reason, with the first question ids of each."""
        frame = pd.DataFrame(self.left_out, columns=["split", "questionId", "reason"])
        ids = frame.groupby(["split", "reason"], sort=False)["questionId"]
        first = ids.agg(lambda some: ", ".join(map(shown, some[:3])))
        return pd.DataFrame({"rows": ids.size(), "first ids": first}).reset_index()

    def __str__(self) -> str:
        return f"{len(self.left_out)} rows are left out:\n{self.summary().to_string(index=False)}"


def load_docvqa(settings: Settings, split: str | None = None) -> DatasetDict | Dataset:
    """The training and validation questions of `settings`, checked, or those of one split (see `load_checked`)."""
    dataset = load_checked(settings, [split] if split else SPLITS)[0]
    return dataset[split] if split else dataset


def load_checked(settings: Settings, splits: Sequence[str] = SPLITS) -> tuple[DatasetDict, Checks]:
    """Questions in the schema by split, and what the checks left out; no other split is read, or drawn.

    Two columns are added: `page`, the checksum of the image's bytes, equal for questions on the same
    page; and `document_id`, the document that questions are clustered by. Where both splits are loaded they are
    disjoint by document and by page: what is also in validation is left out of training, under whatever document id.

    Raises what `read_split` raises, and `DataError` for a split without a usable row; warns when rows are left out.
    """
    checks, found = Checks(), {}
    sources = {"train": settings.data, "validation": settings.validation_data or settings.data}
    for split in splits:
        # At once from one source, so that one command fills the hub's cache.
        together = [other for other in splits if sources[other] == sources[split]]
        rows, content = read_split(sources[split], split, settings, together)
        if not len(rows):
            raise DataError(f"split {split!r} of {sources[split]!r} is empty")
        checks.read[split] = len(rows)
        inspected = remembered(f"{content}-{CHECKS}", partial(_inspect, rows, split))
        reasons = {int(index): reason for index, reason in inspected["left_out"].items()}
        ids = zip(rows["ucsf_document_id"], rows["docId"], strict=True)
        documents = [name or f"docId {number}" for name, number in ids]
        rows = rows.add_column("page", inspected["pages"]).add_column("document_id", documents)
        found[split] = checks.leave_out(split, rows, reasons)
    if {*found} == {*SPLITS}:
        # Ids differ between sources, and within one where a page was scanned into two documents.
        shared = {
            index: f"{column.removesuffix('_id')} is also in validation"
            for column in ("page", "document_id")
            for index in np.flatnonzero(pd.Series(found["train"][column][:]).isin(found["validation"][column][:]))
        }
        found["train"] = checks.leave_out("train", found["train"], shared)
    for split, rows in found.items():
        if not len(rows):
            raise DataError(f"split {split!r} of {sources[split]!r} has no usable row; {checks}")
        found[split] = draw_documents(rows, getattr(settings, f"{split}_questions"))
        checks.kept[split] = len(found[split])
    if "validation" in found and len(set(found["validation"]["document_id"])) < 2:
        raise DataError(
            f"split 'validation' of {sources['validation']!r} has one document only; at least two are needed, since "
            "intervals are over documents"
        )
    if checks.left_out:
        warnings.warn(str(checks), stacklevel=2)
    return DatasetDict(found), checks


def data_checksum(dataset: DatasetDict) -> str:
    """A checksum of every question, its answers and its page, in order."""
    digest = hashlib.sha256()
    for split in SPLITS:
        columns = dataset[split].select_columns(["questionId", "question", "answers", "page", "document_id"])
        for batch in columns.iter(batch_size=1000):
            digest.update(json.dumps([split, batch]).encode())
    return digest.hexdigest()


def _inspect(rows: Dataset, split: str) -> dict[str, Any]:
    """The page of every row, and the reason of each that cannot be used, by its index."""
    images = rows.select_columns("image").cast_column("image", Image(decode=False))
    known: dict[str, str | None] = {}
    checked = [
        check_image(row["image"], known)
        for row in tqdm(images, f"checking {split}", unit="row", leave=False, disable=None)
    ]
    texts = rows.remove_columns("image").to_pandas()
    missing = texts[["question", "questionId"]].fillna("").map(str.strip) == ""
    answers = pd.Series([[(one or "").strip() for one in several or ()] for several in rows["answers"]])
    problems = pd.Series([problem for _, problem in checked], dtype=object)
    # The last that holds is told. An empty answer would make saying nothing right.
    problems[texts["questionId"].duplicated()] = "duplicate question id"
    problems[texts["ucsf_document_id"].fillna("").eq("") & texts["docId"].isna()] = "no document id"
    problems[missing["questionId"]] = "no question id"
    problems[~answers.map(all)] = "an answer is empty"
    problems[~answers.map(any)] = "no answer"
    problems[missing["question"]] = "empty question"
    return {"pages": [page for page, _ in checked], "left_out": problems.dropna().to_dict()}


def check_image(image: dict[str, Any] | None, known: dict[str, str | None]) -> tuple[str, str | None]:
    """The page of an image as parquet holds it, a checksum, and why it cannot be used; `known` remembers by page."""
    content = (image or {}).get("bytes")
    if not content:
        # A path would make a data set read whatever file of this machine it names.
        return "", "image is a path, not in the row" if image and image.get("path") else "no image"
    page = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    if page not in known:
        known[page] = None
        try:
            decode_page(content)
        except ImageTooLargeError:
            known[page] = f"image of more than {LARGEST_IMAGE:,} pixels"
        except PageError:
            known[page] = "image cannot be decoded"
    return page, known[page]


def draw_documents(rows: Dataset, limit: int | None) -> Dataset:
    """At most `limit` questions, whole documents in an order that does not depend on the study's seeds."""
    if limit is None or limit >= len(rows):
        return rows
    documents = sorted(set(rows["document_id"]))
    Random(0).shuffle(documents)
    ranks = pd.Series(range(len(documents)), documents)[list(rows["document_id"])].to_numpy()
    return rows.select(np.sort(ranks.argsort(kind="stable")[:limit]))
