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
from docfloqa.files import checksum, data_folder, held, is_hub_id, is_sound, read_sealed, resolve, write_sealed
from docfloqa.settings import Settings

TRAINING_DATA = "HuggingFaceM4/DocumentVQA"
# lmms-lab/DocVQA holds two data sets; its card lists no training split, and its test answers are empty.
HUB_FOLDERS = {"lmms-lab/DocVQA": "DocVQA"}
PARQUET_FILES = ("{split}-*.parquet", "{split}.parquet", "data/{split}-*.parquet")
SHARD = re.compile(r"-(\d+)-of-(\d+)")
ROWS_AT_ONCE = 100  # each with its page
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
    path = data_folder() / "cache" / "questions" / f"{content}-{READING}.arrow"
    if not path.is_file():
        with held(f"questions-{content[:16]}", f"the reading of {of}"):
            # Whoever held the lock before may have read the same files.
            if not path.is_file():
                _write(files, of, path)
    return Dataset.from_file(str(path)), content


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
            f"data folder {source!r} has no {split}-*.parquet (found: {', '.join(found[:5]) or 'no parquet file'})"
            f"{hint}"
        )
    # A name such as train-00001-of-00038.parquet tells of files that may not be there.
    numbers: dict[str, set[int]] = {}
    for named in filter(None, (SHARD.search(file.name) for file in files)):
        numbers.setdefault(named[2], set()).add(int(named[1]))
    for count, there in numbers.items():
        if len(there) < int(count):
            raise DataError(
                f"data {source!r} has {len(there)} of the {int(count)} files that {files[0].name} is one of; number "
                f"{min({*range(int(count))} - there)} is missing. Get the others, or give the files names without "
                f"'-of-{count}'"
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
        memory = data_folder() / "cache" / "checks" / f"content-{key}.json"
        if is_sound(memory, read_sealed):
            return read_sealed(memory)["content"]
        content = hashlib.sha256("".join(map(checksum, files)).encode()).hexdigest()
    except OSError as error:
        raise DataError(f"a file of {of} cannot be read: {error}") from error
    write_sealed(memory, {"content": content})
    return content


def _write(files: list[Path], of: str, path: Path) -> None:
    """Write the rows of parquet files, in the schema, as one Arrow file, which appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_stream(sink, FEATURES.arrow_schema) as writer:
            for file in tqdm(files, desc="reading", unit="file", leave=False):
                for batch in batches_in_schema(file, of):
                    writer.write_batch(batch)
        part.replace(path)
    except BaseException:
        # Half a file would take the room that a full disk lacks.
        part.unlink(missing_ok=True)
        raise


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
    arrays = []
    for column, feature in FEATURES.items():
        values = pa.nulls(len(batch), schema.field(column).type)
        if column in names:
            try:
                values = cast_array_to_feature(_column(batch, names[column]), feature)
                if column != "image":
                    # Parquet does not say whether what is called text is in UTF-8.
                    values.validate(full=True)
            except (pa.ArrowException, TypeError, ValueError) as error:
                raise DataError(
                    f"column {names[column]!r} of {of} has another type than {schema.field(column).type}: {error}"
                ) from error
        if column == "question_types":
            kinds = [[kind for kind in row or () if kind] for row in values.to_pylist()]
            values = pa.array(kinds, schema.field(column).type)
        arrays.append(values)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column, or a part of one ("outer.inner"); a float that is no number is null, as pandas writes missing ids."""
    outer, _, inner = (name, "", "") if name in batch.schema.names else name.partition(".")
    values = pc.struct_field(batch.column(outer), inner) if inner else batch.column(outer)
    return pc.if_else(pc.is_nan(values), None, values) if pa.types.is_floating(values.type) else values
