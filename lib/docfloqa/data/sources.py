"""Questions from the hub, from what is here in any kind, or from SynthDocVQA, read in the one schema."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import cast_array_to_feature
from tqdm.auto import tqdm

from docfloqa import files
from docfloqa.data.hub import data_snapshot
from docfloqa.data.importing.data_set import find, import_data, state_of
from docfloqa.data.importing.kinds import SAVED, parquet_files, parquet_folder
from docfloqa.data.schema import DEMANDED, FEATURES, NAMES, ONE_PAGE, SEVERAL_PAGES, SPLITS, TEST, names_in
from docfloqa.data.synth.dataset import synth_folder
from docfloqa.exceptions import DataError, SettingsError
from docfloqa.settings import Settings

TRAINING_DATA = "HuggingFaceM4/DocumentVQA"
IMPORT_TAKES = "docfloqa import SOURCE FOLDER takes tables with images beside them, too"
TEXTS_TOO = "docfloqa import SOURCE FOLDER takes a text in place of a list, too"
IMAGES_ARE = 'A row holds its image as {"bytes": ..., "path": ...}; docfloqa import SOURCE FOLDER puts files in'
ROWS, ROWS_AT_ONCE = "rows.arrow", 100  # each with its page
READING = 2  # what this reading is called where its results are kept: those of another one do not count


def split_sources(settings: Settings) -> dict[str, str]:
    """Where every split comes from, of folds no test split; raises `SettingsError` for one without documents."""
    validated = settings.validation_data or settings.data
    found = {"train": settings.data, "validation": validated}
    drawn = validated == "synth"
    if drawn and settings.test_questions and not settings.synth_test_documents:
        raise SettingsError(
            f"test_questions is {settings.test_questions} and the documents are drawn; allowed is synth_test_documents "
            "above 0 beside it"
        )
    asked = settings.synth_test_documents if drawn else settings.test_questions
    return found | ({TEST: validated} if asked and not settings.folds else {})


def read_split(source: str, split: str, settings: Settings, together: Sequence[str]) -> tuple[Dataset, str]:
    """Every row of a split in the schema, and a checksum of the files that it was read from.

    `together` are the splits wanted of this source; columns that a file lacks are null. Raises `DataError` for a source
    that cannot be read, a split that is missing or lacks files, and a column that is missing or has another type.
    """
    paths = files_of(source, split, settings, together)
    of = f"split {split!r} of {source!r}"
    content = _content(paths, of)
    folder = files.data_folder() / "cache" / "questions" / f"{content}-{READING}"
    if not folder.is_dir():
        with files.held(f"questions-{content[:16]}", f"the reading of {of}"):
            # Whoever held the lock before may have read the same files.
            if not folder.is_dir():
                _write(paths, of, folder)
    return Dataset.from_file(str(folder / ROWS)), content


def _write(paths: list[Path], of: str, folder: Path) -> None:
    with files.whole_folder(folder) as part, pa.ipc.new_stream(str(part / ROWS), FEATURES.arrow_schema) as writer:
        for file in tqdm(paths, desc="reading", unit="file", leave=False, disable=None):
            for batch in batches_in_schema(file, of):
                writer.write_batch(batch)


def files_of(source: str, split: str, settings: Settings, together: Sequence[str] = SPLITS) -> list[Path]:
    """The parquet files of a split, `together` downloaded, drawn or imported; raises `DataError` where some lack."""
    resolved = str(synth_folder(settings, split)) if source == "synth" else files.resolve(source)
    path = Path(resolved)
    if files.is_hub_id(resolved) and not files.is_there(path):
        folder = data_snapshot(resolved, together)
    elif not files.is_there(path):
        raise DataError(
            f"data {source!r} is not a folder or file; give 'synth', a folder, a file of questions, or a hub id such "
            f"as {TRAINING_DATA!r}{files.nearest_path(resolved)}"
        )
    else:
        folder = _as_parquet(path, source)
    if not (paths := parquet_files(folder, split)):
        there = sorted(path.name for path in (*folder.glob("*.parquet"), *folder.glob("data/*.parquet")))
        found = ", ".join(there[:5]) or "no parquet file"
        hint = f"; to train, use {TRAINING_DATA!r} or a folder with both splits" if split == "train" else ""
        raise DataError(f"data folder {source!r} has no {split}-*.parquet; it has {found}{hint}")
    return paths


def _as_parquet(path: Path, source: str) -> Path:
    """The folder with the parquet files of what is here; what is of another kind is imported once, into the cache."""
    saved = path.is_dir() and any((path / name).is_file() for name in SAVED)
    if path.is_dir() and not saved and (folder := parquet_folder(path)):
        return folder
    found = find(path)
    folder = files.data_folder() / "cache" / "imported" / state_of(found)
    if not folder.is_dir():
        with files.held(f"imported-{folder.name}", f"the import of {source!r}"):
            if not folder.is_dir():
                tqdm.write(f"{source}: {found.kind}; its pages are put into {folder}")
                import_data(path, folder)
    return folder


def _content(paths: list[Path], of: str) -> str:
    """A checksum of the files' content, in order; remembered, since a data set has gigabytes."""
    try:
        states = [(str(file), file.stat()) for file in paths]
        # Whoever copies a file may set when it was modified, nobody when it was changed (ctime).
        about = [[name, state.st_size, state.st_mtime_ns, state.st_ctime_ns] for name, state in states]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        content = files.remembered(f"files-{key}", lambda: {"files": [*map(files.checksum, paths)]})
    except OSError as error:
        raise DataError(f"a file of {of} cannot be read: {error}") from error
    return hashlib.sha256("".join(content["files"]).encode()).hexdigest()


def batches_in_schema(file: Path, of: str) -> Iterator[pa.RecordBatch]:
    """The rows of a parquet file in the schema, some at a time; columns that the schema has not are not read."""
    try:
        with pq.ParquetFile(file) as shard:
            names, number = column_names(shard.schema_arrow, of), 0
            for batch in shard.iter_batches(ROWS_AT_ONCE, columns=list(names.values())):
                yield _in_schema(batch, names, of, [f"{file.stem}-{number + row}" for row in range(len(batch))])
                number += len(batch)
    except DataError:
        raise
    except (pa.ArrowException, LookupError, OSError, ValueError) as error:
        raise DataError(f"{file.name} of {of} cannot be read: {error}") from error


def column_names(schema: pa.Schema, of: str) -> dict[str, str]:
    """What a file calls the columns that it has, by their names in the schema."""
    there = names_in(schema)
    found = {column: [name for name in names if name in there] for column, names in NAMES.items()}
    lacking = [column for column in DEMANDED if not found[column]]
    if "image" in lacking and (several := [name for name in schema.names if name in SEVERAL_PAGES]):
        raise DataError(f"{of} {ONE_PAGE.format(several[0])}")
    if lacking:
        wanted = [f"{one} (or {', '.join(others)})" if others else one for one, *others in map(NAMES.get, lacking)]
        raise DataError(f"{of} lacks the columns {', '.join(wanted)}; it has {', '.join(schema.names)}. {IMPORT_TAKES}")
    return {column: names[0] for column, names in found.items() if names}


def _in_schema(batch: pa.RecordBatch, names: dict[str, str], of: str, ids: list[str]) -> pa.RecordBatch:
    # Types are those of the schema: in one file of a data set a column may be null throughout.
    schema = FEATURES.arrow_schema
    columns = {field.name: pa.nulls(len(batch), field.type) for field in schema}
    for column, name in names.items():
        # "outer.inner" is a part of a column, unless a column is called so.
        outer, _, inner = (name, "", "") if name in batch.schema.names else name.partition(".")
        values = pc.struct_field(batch.column(outer), inner) if inner else batch.column(outer)
        if pa.types.is_floating(values.type):
            # So pandas writes missing ids.
            values = pc.if_else(pc.is_nan(values), None, values)
        wanted = schema.field(column).type
        try:
            columns[column] = cast_array_to_feature(values, FEATURES[column])
            if column != "image":
                # Parquet does not say whether what is called text is in UTF-8.
                columns[column].validate(full=True)
        except (pa.ArrowException, TypeError, ValueError) as error:
            if column == "docId" and not pa.types.is_nested(values.type):
                # A document's name, not its number: the id of documents that have no other.
                columns[column] = pa.nulls(len(batch), wanted)
                if "ucsf_document_id" not in names:
                    columns["ucsf_document_id"] = values.cast(pa.string())
                continue
            hint = {"image": f". {IMAGES_ARE}", "answers": f". {TEXTS_TOO}"}.get(column, "")
            told = " ".join(str(error).split())
            raise DataError(f"column {name!r} of {of} has another type than {wanted}: {told}{hint}") from error
    kinds = [[kind for kind in row or () if kind] for row in columns["question_types"].to_pylist()]
    columns["question_types"] = pa.array(kinds, schema.field("question_types").type)
    given = columns["questionId"].to_pylist()
    filled = [one if (one or "").strip() else name for one, name in zip(given, ids, strict=True)]
    columns["questionId"] = pa.array(filled, schema.field("questionId").type)
    return pa.RecordBatch.from_pydict(columns, schema=schema)
