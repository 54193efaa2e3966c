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

from docfloqa.data.folds import of_fold
from docfloqa.data.images import FORMATS, PageError, count_pages, decode_page
from docfloqa.data.schema import DISJOINT, SPLITS
from docfloqa.data.sources import IMAGES_ARE, read_split, split_sources
from docfloqa.exceptions import DataError, shown
from docfloqa.files import remembered
from docfloqa.settings import Settings

CHECKS = 4  # what these checks are called where results are remembered: those of other checks do not count


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
        count = len(self.left_out)
        return f"{count} {'row is' if count == 1 else 'rows are'} left out:\n{self.summary().to_string(index=False)}"


def load_docvqa(settings: Settings, split: str | None = None) -> DatasetDict | Dataset:
    """The questions of `settings` by split, checked, or those of one split (see `load_checked`)."""
    dataset = load_checked(settings, [split] if split else None)[0]
    return dataset[split] if split else dataset


def load_checked(settings: Settings, splits: Sequence[str] | None = None) -> tuple[DatasetDict, Checks]:
    """Questions in the schema by split, and what the checks left out; no other split is read, or drawn.

    By default the splits of `split_sources`. `page` is the checksum of the image's bytes, `document_id` what questions
    are clustered by; splits share neither, nor pixels, as `DISJOINT` says. With `folds`, `of_fold` divides them. Raises
    what `read_split` raises, and `DataError` for a split without a usable row; warns when rows are left out.
    """
    checks, found, pixels = Checks(), {}, {}
    sources = split_sources(settings)
    splits = SPLITS if settings.folds else splits or [*sources]
    for split in splits:
        # At once from one source, so that one command fills the hub's cache.
        together = [other for other in splits if sources[other] == sources[split]]
        rows, content = read_split(sources[split], split, settings, together)
        if not len(rows):
            raise DataError(f"split {split!r} of {sources[split]!r} is empty")
        checks.read[split] = len(rows)
        inspected = remembered(f"{content}-{CHECKS}", partial(_inspect, rows, split))
        reasons = {int(index): reason for index, reason in inspected["left_out"].items()}
        pixels |= inspected["pixels"]
        ids = zip(rows["ucsf_document_id"], rows["docId"], strict=True)
        named = [name or (None if number is None else f"docId {number}") for name, number in ids]
        # What has no document's id is a document of its own.
        documents = [name or f"page {page[:12]}" for name, page in zip(named, inspected["pages"], strict=True)]
        rows = rows.add_column("page", inspected["pages"]).add_column("document_id", documents)
        found[split] = checks.leave_out(split, rows, reasons)
    if settings.folds:
        found = of_fold(found, settings.folds, settings.fold, pixels)
    else:
        for split, other in (pair for pair in DISJOINT if {*pair} <= found.keys()):
            # Ids differ between sources, and within one where a page was scanned into two documents.
            shared = {}
            for column, known in (("page", pixels), ("document_id", {})):
                ours, theirs = ([known.get(one, one) for one in found[part][column]] for part in (split, other))
                where = np.flatnonzero(pd.Series(ours, dtype=object).isin(theirs))
                shared |= dict.fromkeys(where, f"{column.removesuffix('_id')} is also in {other}")
            found[split] = checks.leave_out(split, found[split], shared)
    for split, rows in found.items():
        if not len(rows):
            raise DataError(f"split {split!r} of {sources[split]!r} has no usable row; {checks}")
        found[split] = draw_documents(rows, getattr(settings, f"{split}_questions") or None)
        checks.kept[split] = len(found[split])
        if split != "train" and len(set(found[split]["document_id"])) < 2:
            raise DataError(
                f"split {split!r} of {sources[split]!r} has one document only; at least two are needed, since "
                "intervals are over documents"
            )
    if checks.left_out:
        warnings.warn(str(checks), stacklevel=2)
    return DatasetDict(found), checks


def data_checksum(dataset: DatasetDict) -> str:
    """A checksum of every question, its answers and its page, in order."""
    digest = hashlib.sha256()
    for split in [*SPLITS, *dataset.keys() - {*SPLITS}]:
        columns = dataset[split].select_columns(["questionId", "question", "answers", "page", "document_id"])
        for batch in columns.iter(batch_size=1000):
            digest.update(json.dumps([split, batch]).encode())
    return digest.hexdigest()


def _inspect(rows: Dataset, split: str) -> dict[str, Any]:
    """The page of every row, and the reason of each that cannot be used, by its index."""
    images = rows.select_columns("image").cast_column("image", Image(decode=False))
    known: dict[str, tuple[str | None, str]] = {}
    bar = tqdm(images, f"checking {split}", unit="row", leave=False, disable=None)
    checked = [check_image(row["image"], known) for row in bar]
    texts = rows.remove_columns("image").to_pandas()
    missing = texts["question"].fillna("").str.strip() == ""
    answers = pd.Series([[(one or "").strip() for one in several or ()] for several in rows["answers"]])
    problems = pd.Series([problem for _, problem, _ in checked], dtype=object)
    # The last that holds is told. An empty answer would make saying nothing right.
    problems[texts["questionId"].duplicated()] = "duplicate question id"
    problems[~answers.map(all)] = "an answer is empty"
    problems[~answers.map(any)] = "no answer"
    problems[missing] = "empty question"
    pages = [page for page, _, _ in checked]
    pixels = {page: one for page, _, one in checked if one}
    return {"pages": pages, "pixels": pixels, "left_out": problems.dropna().to_dict()}


def check_image(image: dict[str, Any] | None, known: dict[str, tuple[str | None, str]]) -> tuple[str, str | None, str]:
    """Three things of an image as parquet holds it: its page, a checksum; why it cannot be used; one of its pixels.

    `known` remembers them by page. Two files with the same pixels are two pages here, with one checksum of pixels.
    """
    content = (image or {}).get("bytes")
    if not content:
        # A path would make a data set read whatever file of this machine it names.
        return "", f"image is a path, not in the row. {IMAGES_ARE}" if image and image.get("path") else "no image", ""
    page = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    if page not in known:
        wrong, pixels = None, ""
        try:
            decoded = decode_page(content)
            pixels = hashlib.sha1(str(decoded.size).encode() + decoded.tobytes(), usedforsecurity=False).hexdigest()
            if (pages := count_pages(content, FORMATS)) > 1:
                wrong = f"image has {pages} pages, and a row has one; docfloqa import takes a column page"
        except PageError as error:
            wrong = f"image cannot be decoded: {error.reason}"
        known[page] = wrong, pixels
    return page, *known[page]


def draw_documents(rows: Dataset, limit: int | None) -> Dataset:
    """At most `limit` questions, whole documents in an order that does not depend on the study's seeds."""
    if limit is None or limit >= len(rows):
        return rows
    documents = sorted(set(rows["document_id"]))
    Random(0).shuffle(documents)
    ranks = pd.Series(range(len(documents)), documents)[list(rows["document_id"])].to_numpy()
    return rows.select(np.sort(ranks.argsort(kind="stable")[:limit]))
