"""Questions from the hub, a folder of parquet files or SynthDocVQA, read in the one schema."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import cast_array_to_feature
from tqdm.auto import tqdm

from docfloqa.data.hub import HubError, snapshot, split_revision
from docfloqa.data.schema import DEMANDED, FEATURES, NAMES, SPLITS
from docfloqa.data.synth.dataset import synth_folder
from docfloqa.exceptions import DataError
from docfloqa.files import checksum, data_folder, held, is_hub_id, remembered, resolve, whole_folder
from docfloqa.settings import Settings

TRAINING_DATA = "HuggingFaceM4/DocumentVQA"
# lmms-lab/DocVQA holds two data sets; its card lists no training split, and its test answers are empty.
HUB_FOLDERS = {"lmms-lab/DocVQA": "DocVQA"}
PARQUET_FILES = ("{split}-*.parquet", "{split}.parquet", "data/{split}-*.parquet")
SHARD = re.compile(r"-(\d+)-of-(\d+)")
ROWS, ROWS_AT_ONCE = "rows.arrow", 100  # each with its page
READING = 1  # what this reading is called where its results are kept: those of another one do not count


def read_split(source: str, split: str, settings: Settings, together: Sequence[str]) -> tuple[Dataset, str]:
    """Every row of a split in the schema, and a checksum of the files that it was read from.

    `together` are the splits that are wanted of this source. Columns that a file lacks are null; `question_types` are
    lists without nulls. Raises `DataError` for a source that cannot be read, a split that is missing or lacks files,
    and a column that is missing or has another type.
    """
    files = files_of(source, split, settings, together)
    of = f"split {split!r} of {source!r}"
    content = _content(files, of)
    folder = data_folder() / "cache" / "questions" / f"{content}-{READING}"
    if not folder.is_dir():
        with held(f"questions-{content[:16]}", f"the reading of {of}"):
            # Whoever held the lock before may have read the same files.
            if not folder.is_dir():
                _write(files, of, folder)
    return Dataset.from_file(str(folder / ROWS)), content


def _write(files: list[Path], of: str, folder: Path) -> None:
    with (
        whole_folder(folder) as part,
        pa.OSFile(str(part / ROWS), "wb") as sink,
        pa.ipc.new_stream(sink, FEATURES.arrow_schema) as writer,
    ):
        for file in tqdm(files, desc="reading", unit="file", leave=False, disable=None):
            for batch in batches_in_schema(file, of):
                writer.write_batch(batch)


def files_of(source: str, split: str, settings: Settings, together: Sequence[str] = SPLITS) -> list[Path]:
    """The parquet files of a split; those `together` are downloaded or drawn. Raises `DataError` where some lack."""
    resolved = str(synth_folder(settings, split)) if source == "synth" else resolve(source)
    folder = Path(resolved)
    if not folder.is_dir():
        if not is_hub_id(resolved):
            raise DataError(
                f"data {source!r} is not a folder; give 'synth', a folder of parquet files, or a hub id such as "
                f"{TRAINING_DATA!r}"
            )
        below = HUB_FOLDERS.get(split_revision(resolved)[0], ".")
        wanted = [str(Path(below, pattern.format(split=one))) for one in together for pattern in PARQUET_FILES]
        try:
            folder = snapshot(resolved, wanted, "dataset") / below
        except HubError as error:
            raise DataError(f"data set {source!r} cannot be had: {error} as data; see data/README.md") from error
    files = sorted(file for pattern in PARQUET_FILES for file in folder.glob(pattern.format(split=split)))
    if not files:
        found = sorted(path.name for path in (*folder.glob("*.parquet"), *folder.glob("data/*.parquet")))
        hint = f"; to train, use {TRAINING_DATA!r} or a folder with both splits" if split == "train" else ""
        raise DataError(
            f"data folder {source!r} has no {split}-*.parquet; it has {', '.join(found[:5]) or 'no parquet file'}{hint}"
        )
    # A name such as train-00001-of-00038.parquet tells of files that may not be there.
    shards = [named.groups() for named in map(SHARD.search, (file.name for file in files)) if named]
    for count in {count for _, count in shards}:
        there = {int(number) for number, of in shards if of == count}
        if missing := {*range(int(count))} - there:
            raise DataError(
                f"data {source!r} has {len(there)} of the {int(count)} files that {files[0].name} is one of; number "
                f"{min(missing)} is missing. Get the others, or give the files names without '-of-{count}'"
            )
    return files


def _content(files: list[Path], of: str) -> str:
    """A checksum of the files' content, in order.

    It is remembered, since a data set has gigabytes, for as long as the system has not noted a change of any file.
    When a file was last modified can be set, and whatever copies files does; when it was last changed (`ctime`)
    cannot. A change of a file's rights or links moves that, too: then the files are read again and found the same.
    """
    try:
        states = [(str(file), file.stat()) for file in files]
        about = [[name, state.st_size, state.st_mtime_ns, state.st_ctime_ns] for name, state in states]
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
        content = remembered(f"files-{key}", lambda: {"files": [*map(checksum, files)]})
    except OSError as error:
        raise DataError(f"a file of {of} cannot be read: {error}") from error
    return hashlib.sha256("".join(content["files"]).encode()).hexdigest()


def batches_in_schema(file: Path, of: str) -> Iterator[pa.RecordBatch]:
    """The rows of a parquet file in the schema, some at a time; columns that the schema has not are not read."""
    try:
        with pq.ParquetFile(file) as shard:
            names = column_names(shard.schema_arrow, of)
            for batch in shard.iter_batches(ROWS_AT_ONCE, columns=list(names.values())):
                yield _in_schema(batch, names, of)
    except DataError:
        raise
    except (pa.ArrowException, LookupError, OSError, ValueError) as error:
        raise DataError(f"{file.name} of {of} cannot be read: {error}") from error


def column_names(schema: pa.Schema, of: str) -> dict[str, str]:
    """What a file calls the columns that it has, by their names in the schema."""
    there = set(schema.names)
    for field in schema:
        if pa.types.is_struct(field.type):
            there |= {f"{field.name}.{inner.name}" for inner in field.type}
    found = {column: [name for name in names if name in there] for column, names in NAMES.items()}
    lacking = [columns for columns in DEMANDED if not any(found[column] for column in columns)]
    if lacking:
        accepted = [[name for column in columns for name in NAMES[column]] for columns in lacking]
        wanted = [f"{first} (or {', '.join(others)})" if others else first for first, *others in accepted]
        raise DataError(f"{of} lacks the columns {', '.join(wanted)}; it has {', '.join(schema.names)}")
    return {column: names[0] for column, names in found.items() if names}


def _in_schema(batch: pa.RecordBatch, names: dict[str, str], of: str) -> pa.RecordBatch:
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
        try:
            columns[column] = cast_array_to_feature(values, FEATURES[column])
            if column != "image":
                # Parquet does not say whether what is called text is in UTF-8.
                columns[column].validate(full=True)
        except (pa.ArrowException, TypeError, ValueError) as error:
            wanted = schema.field(column).type
            raise DataError(f"column {name!r} of {of} has another type than {wanted}: {error}") from error
    kinds = [[kind for kind in row or () if kind] for row in columns["question_types"].to_pylist()]
    columns["question_types"] = pa.array(kinds, schema.field("question_types").type)
    return pa.RecordBatch.from_pydict(columns, schema=schema)
