"""Document questions in one schema, from the hub, a folder of parquet files or SynthDocVQA, checked."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import Dataset, DatasetDict, Image, load_dataset
from datasets.exceptions import DatasetGenerationError
from tqdm.auto import tqdm

from docfloqa.hub import HubError, snapshot, split_revision
from docfloqa.integrity import is_sound, read_sealed, seal
from docfloqa.page_images import LARGEST_IMAGE, ImageError, ImageTooLargeError, decode_page
from docfloqa.parameters import shown
from docfloqa.paths import data_folder, is_hub_id, resolve, write_whole
from docfloqa.schema import COLUMNS, FEATURES
from docfloqa.settings import Settings
from docfloqa.synth import synth_folder

SPLITS = ("train", "validation")
TRAINING_DATA = "HuggingFaceM4/DocumentVQA"
# lmms-lab/DocVQA holds two data sets; its test answers are empty and it has no training split.
HUB_FOLDERS = {"lmms-lab/DocVQA": "DocVQA"}
PARQUET_FILES = ("{split}-*.parquet", "{split}.parquet", "data/{split}-*.parquet")
CHECKS = 2  # what these checks are called where results are remembered: those of other checks do not count


class DataError(ValueError):
    """Data that a study cannot use: names where it came from, what is wrong and what is allowed."""


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
    document: a document that is also in validation is left out of training.

    Raises `DataError` for a source that cannot be read, a missing split or column, or a split without
    a usable row; warns when rows are left out.
    """
    checks = Checks()
    sources = {"train": settings.data, "validation": settings.validation_data or settings.data}
    splits = {
        split: _check_split(_read(source, split, settings), source, split, checks)
        for split, source in sources.items()
    }
    splits["train"] = _without_documents_of(splits["validation"], splits["train"], checks)
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


def _read(source: str, split: str, settings: Settings) -> Dataset:
    resolved = str(synth_folder(settings)) if source == "synth" else resolve(source)
    if Path(resolved).is_dir():
        return _read_folder(Path(resolved), source, split)
    if not is_hub_id(resolved):
        raise DataError(
            f"data {source!r} is not a folder; give 'synth', a folder of parquet files, or a hub id such as "
            f"{TRAINING_DATA!r}"
        )
    below = HUB_FOLDERS.get(split_revision(resolved)[0], ".")
    # Both splits at once where both come from here, so that one command fills the cache.
    splits = SPLITS if settings.validation_data in (None, settings.data) else (split,)
    files = [str(Path(below, pattern.format(split=one))) for one in splits for pattern in PARQUET_FILES]
    try:
        folder = snapshot(resolved, files, "dataset") / below
    except HubError as error:
        raise DataError(f"data set {source!r} cannot be had: {error} as data; see data/README.md") from error
    return _read_folder(folder, source, split)


def _read_folder(folder: Path, source: str, split: str) -> Dataset:
    files = sorted(
        str(file) for pattern in PARQUET_FILES for file in folder.glob(pattern.format(split=split))
    )
    if not files:
        found = sorted(path.name for path in (*folder.glob("*.parquet"), *folder.glob("data/*.parquet")))
        hint = f"; to train, use {TRAINING_DATA!r} or a folder with both splits" if split == "train" else ""
        raise DataError(
            f"data folder {source!r} has no {split}-*.parquet (found: {', '.join(found[:5]) or 'no parquet file'})"
            f"{hint}"
        )
    try:
        return load_dataset(
            "parquet",
            # A folder's name may have what would be a pattern.
            data_files={split: [escape(file) for file in files]},
            split=split,
            cache_dir=str(data_folder() / "cache" / "datasets"),
        )
    except (DatasetGenerationError, pa.ArrowException, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise DataError(f"a parquet file of {source!r} ({split}) cannot be read: {cause}") from error


def _check_split(rows: Dataset, source: str, split: str, checks: Checks) -> Dataset:
    missing = [column for column in COLUMNS if column not in rows.column_names]
    if missing:
        raise DataError(
            f"split {split!r} of {source!r} lacks the columns {', '.join(missing)}; it has "
            f"{', '.join(rows.column_names)}"
        )
    if not len(rows):
        raise DataError(f"split {split!r} of {source!r} is empty")
    try:
        rows = rows.select_columns(list(COLUMNS)).cast(FEATURES)
        # Parquet does not say whether what is called text is in UTF-8.
        rows.remove_columns("image").data.validate(full=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"a column of split {split!r} of {source!r} has another type: {error}") from error
    found = _inspect(rows, split)
    checks.read[split] = len(rows)
    question_ids = rows["questionId"]
    for place, reason in sorted(found["left_out"].items(), key=lambda item: int(item[0])):
        checks.leave_out(split, question_ids[int(place)], reason)
    types = [[kind for kind in kinds or () if kind] for kinds in rows["question_types"]]
    if types != rows["question_types"][:]:
        rows = rows.remove_columns("question_types").add_column(
            "question_types", types, feature=FEATURES["question_types"]
        )
        rows = rows.select_columns(list(COLUMNS))
    kept = [place for place in range(len(rows)) if str(place) not in found["left_out"]]
    documents = [
        name or f"docId {number}"
        for name, number in zip(rows["ucsf_document_id"], rows["docId"], strict=True)
    ]
    rows = rows.add_column("page", found["pages"]).add_column("document_id", documents).select(kept)
    return rows


def _inspect(rows: Dataset, split: str) -> dict[str, Any]:
    """The page of every row, and the reason of each that cannot be used, by its place; remembered on disk."""
    memory = data_folder() / "cache" / "checks" / f"{rows._fingerprint}-{CHECKS}.json"
    if is_sound(memory, read_sealed):
        return read_sealed(memory)
    pages: list[str] = []
    left_out: dict[str, str] = {}
    problems_of_pages: dict[str, str | None] = {}
    seen = Counter()
    raw = rows.cast_column("image", Image(decode=False))
    for place, row in enumerate(tqdm(raw, desc=f"checking {split}", unit="row", leave=False)):
        page, problem = _check_image(row["image"], problems_of_pages)
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


def _check_image(image: dict[str, Any] | None, known: dict[str, str | None]) -> tuple[str, str | None]:
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


def _without_documents_of(validation: Dataset, train: Dataset, checks: Checks) -> Dataset:
    held_out = set(validation["document_id"])
    kept = []
    for place, (document, question_id) in enumerate(
        zip(train["document_id"], train["questionId"], strict=True)
    ):
        if document in held_out:
            checks.leave_out("train", question_id, "document is also in validation")
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
