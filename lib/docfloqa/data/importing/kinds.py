"""Which kind of data a file or folder is, and the tables of questions in it."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PureWindowsPath

from datasets import Dataset, load_from_disk

from docfloqa.data.importing.tables import READERS, ROWS_AT_ONCE, Row, Table, arrow_table, parquet_table
from docfloqa.data.schema import SPLIT_NAMES, SPLITS, TEST
from docfloqa.exceptions import DataError
from docfloqa.files import is_folder, is_there, nearest_path

PARQUET_FILES = ("{split}-*.parquet", "{split}.parquet", "data/{split}-*.parquet")
SHARD = re.compile(r"-(\d+)-of-(\d+)")
ALL = (*SPLITS, TEST)
SAVED = ("dataset_dict.json", "state.json")
ACCEPTED = (
    "a folder with train-*.parquet and validation-*.parquet, a CSV, TSV, JSON or parquet file of questions or a folder "
    "with one, or what datasets' save_to_disk has written"
)


@dataclass(frozen=True)
class Found:
    """What a source is, and its tables; `left_aside` are files of other splits."""

    kind: str
    tables: list[Table]
    left_aside: tuple[str, ...] = ()


def patterns(split: str) -> list[str]:
    """What files of a split are called in a folder of parquet files."""
    names = [name for name, meant in SPLIT_NAMES.items() if meant == split]
    return [pattern.format(split=name) for name in names for pattern in PARQUET_FILES]


def parquet_folder(folder: Path) -> Path | None:
    """The folder itself, or the one below it, as the hub's client downloads it, that has parquet files by split.

    Raises `DataError` where there are several, or tables of questions beside the only one.
    """
    files = [file for split in ALL for file in parquet_files(folder, split)]
    # Those of an earlier import are not to stand for questions beside them. Data sets of the hub have JSON there.
    here = any(file.parent == folder for file in files)
    beside = [] if here else [file for file in _questions(folder) if file.suffix.lower() not in (".json", ".parquet")]
    if files and not beside:
        return folder
    below = [one for one in sorted(folder.iterdir()) if one.is_dir() and not one.name.startswith(".")]
    found = [one for one in below if any(parquet_files(one, split) for split in ALL)]
    if found and len(found) + len(beside) > 1:
        names = ", ".join(str(one) for one in (*found, *beside))
        raise DataError(f"{str(folder)!r} has several data sets; give one of {names}")
    return found[0] if found else None


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The parquet files of a split, in order; raises `DataError` where one of several is not there."""
    files = sorted({file for pattern in patterns(split) for file in folder.glob(pattern)})
    # A name such as train-00001-of-00038.parquet tells of files that may not be there.
    shards = [named.groups() for named in map(SHARD.search, (file.name for file in files)) if named]
    for count in {count for _, count in shards}:
        there = {int(number) for number, of in shards if of == count}
        if missing := {*range(int(count))} - there:
            raise DataError(
                f"data {str(folder)!r} has {len(there)} of the {int(count)} files that {files[0].name} is one of; "
                f"number {min(missing)} is missing. Get the others, or give the files names without '-of-{count}'"
            )
    return files


def recognise(path: Path) -> Found:
    """The kind and tables of a file or folder; raises `DataError` for what is neither there nor of a known kind."""
    if not is_there(path):
        raise DataError(f"there is no file or folder {str(path)!r}{nearest_path(path)}")
    if not path.is_dir():
        if path.suffix.lower() not in READERS:
            raise DataError(f"{str(path)!r} is no file of questions; allowed are {', '.join(READERS)}")
        # Of a file that is given by its name all questions are meant, whatever split it tells.
        table = READERS[path.suffix.lower()](path)
        return Found(table.kind, [table])
    if saved := next((path / name for name in SAVED if (path / name).is_file()), None):
        return _saved(path, saved.name)
    if folder := parquet_folder(path):
        tables = [_of_files(folder, split, files) for split in ALL if (files := parquet_files(folder, split))]
        return Found("parquet files by split", tables)
    return _of_tables(path)


def _split_of(name: str) -> str:
    """The split that a file's name tells, "" where it tells none."""
    return next((SPLIT_NAMES[word] for word in re.findall(r"[a-z]+", name.lower()) if word in SPLIT_NAMES), "")


def _of_files(folder: Path, split: str, files: Sequence[Path]) -> Table:
    tables = [parquet_table(file) for file in files]

    def read() -> Iterator[Row]:
        rows = chain.from_iterable(table.read() for table in tables)
        yield from (Row(number, row.values) for number, row in enumerate(rows, 1))

    columns = frozenset().union(*(table.columns for table in tables))
    return Table(folder / split, "parquet", folder, read, split, columns=columns)


def _saved(folder: Path, name: str) -> Found:
    try:
        saved = load_from_disk(str(folder))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{str(folder)!r} has {name}, and datasets cannot load it: {error}") from error
    parts = {"": saved} if isinstance(saved, Dataset) else dict(saved)
    aside = tuple(split for split in parts if split and not _split_of(split))
    if len(aside) == len(parts):
        raise DataError(f"{str(folder)!r} has the splits {', '.join(parts)}; allowed are {', '.join(SPLIT_NAMES)}")
    tables = []
    for split in (name for name in parts if name not in aside):

        def batches(columns: list[str], part: Dataset = parts[split]):
            return part.select_columns(columns).with_format("arrow").iter(ROWS_AT_ONCE)

        table = arrow_table(folder / split, "saved", parts[split].features.arrow_schema, batches)
        tables.append(replace(table, images=folder, split=_split_of(split)))
    return Found("a data set saved by datasets", tables, aside)


def _of_tables(folder: Path) -> Found:
    places = (folder, *filter(is_folder, folder.iterdir()))
    metadata = sorted(chain.from_iterable(_questions(place, "metadata") for place in places))
    if metadata:
        # datasets' ImageFolder tells the split by the folder: of the table, or of the images.
        tables, aside = _readable(metadata, lambda file: _split_of(file.parent.name) if file.parent != folder else "")
        tables = [_by_folder(one) if one.path.parent == folder else one for one in tables]
        return Found(f"datasets' ImageFolder with {metadata[0].name}", tables, aside)
    files = _questions(folder)
    used = [file for file in files if _split_of(file.stem)] or files
    if not used:
        there = ", ".join(sorted(one.name for one in folder.iterdir())[:5]) or "nothing"
        raise DataError(f"data folder {str(folder)!r} has no questions: it has {there}; allowed is {ACCEPTED}")
    if len(used) > 1 and not all(_split_of(file.stem) for file in used):
        names = ", ".join(file.name for file in used[:5])
        raise DataError(f"data folder {str(folder)!r} has several files of questions, {names}; give one of them")
    tables, aside = _readable(used, lambda file: _split_of(file.stem))
    aside += tuple(file.name for file in files if file not in used)
    return Found(", ".join(dict.fromkeys(table.kind for table in tables)), tables, aside)


def _readable(files: Sequence[Path], split_of: Callable[[Path], str]) -> tuple[list[Table], tuple[str, ...]]:
    """The tables of files with their splits, and the names of test files that are none: many have no answers."""
    tables, aside = [], []
    for file in files:
        try:
            tables.append(replace(READERS[file.suffix.lower()](file), split=split_of(file)))
        except DataError:
            if split_of(file) != TEST:
                raise
            aside.append(file.name)
    return tables, tuple(aside)


def _by_folder(table: Table) -> Table:
    """A table whose images lie in folders named by split: a row's is its image's."""
    folders = {_first_folder(row) for row in table.read()}
    if "split" in table.columns or not all(map(_split_of, folders)):
        return table

    def read() -> Iterator[Row]:
        for row in table.read():
            split = _split_of(_first_folder(row))
            yield replace(row, values={**row.values, "split": split})

    return replace(table, read=read, columns=table.columns | {"split"})


def _first_folder(row: Row) -> str:
    # It takes both kinds of slashes, and no "./" for a folder.
    return next(iter(PureWindowsPath(str(row.values["image"])).parts), "")


def _questions(folder: Path, stem: str = "") -> list[Path]:
    files = (file for file in folder.iterdir() if file.suffix.lower() in READERS and file.is_file())
    # macOS puts ._questions.csv beside questions.csv.
    return sorted(file for file in files if not file.name.startswith(".") and stem in ("", file.stem))
