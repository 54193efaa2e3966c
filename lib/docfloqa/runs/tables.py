"""What runs have left, wherever it lies: in the run's own folder, or packed with the other runs of its study."""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from docfloqa.exceptions import DamagedError, RunError
from docfloqa.files import check_folder

RECORD, EPOCHS, PREDICTIONS, CONTROL = "run.json", "epochs.csv", "predictions.parquet", "wrong_pages.parquet"
TEST_ANSWERS = "test_predictions.parquet"
PACKED, PACKED_RECORDS = "packed", "runs.parquet"


def ended_at(record: dict[str, Any]) -> int:
    """The last epoch of a run, from its record: the settings' number of epochs, unless something else ended it."""
    return record.get("last_epoch", record["settings"]["epochs"])


def packed_file(study: Path, name: str) -> Path:
    """Where a study's folder keeps the tables `name` of its packed runs: one Parquet file, with a column `run`."""
    return (study / PACKED / name).with_suffix(".parquet")


def packed_records(study: Path) -> dict[str, str]:
    """A study's packed records, as JSON, by run id; raises `DamagedError` for a file that is not as it was written."""
    files = sorted((study / PACKED).glob("[!.]*"))
    return _records(study / PACKED, tuple((file.name, file.stat().st_mtime_ns) for file in files)) if files else {}


@lru_cache(maxsize=4)
def _records(folder: Path, _files: tuple) -> dict[str, str]:
    try:
        check_folder(folder)
    except (FileNotFoundError, DamagedError) as error:
        what = f"{error.filename} is missing" if isinstance(error, FileNotFoundError) else str(error)
        raise DamagedError(f"{what}; put a copy there, or remove {folder}, and its runs are made again") from None
    return pd.read_parquet(folder / PACKED_RECORDS).set_index("run")["record"].to_dict()


def is_packed(folder: Path) -> bool:
    """Whether the run of this folder is packed; one that lies in its folder again is not."""
    return not (folder / RECORD).is_file() and folder.name in packed_records(folder.parent.parent)


def read_tables(
    folders: Iterable[Path], name: str, columns: list[str] | None = None, epochs: Iterable[int] = ()
) -> dict[str, pd.DataFrame]:
    """The table `name` of each run of a study that has it, by the run's id; `folders` are those of the runs.

    What lies in a run's folder comes before what is packed. `columns` and `epochs` are all that is read then.
    """
    folders = list(folders)
    found = {one.name: _read(one / name, columns, epochs) for one in folders if (one / name).is_file()}
    rest = [one.name for one in folders if one.name not in found]
    study = folders[0].parents[1]
    if rest and packed_records(study) and packed_file(study, name).is_file():
        rows = _read(packed_file(study, name), columns and ["run", *columns], epochs, rest)
        for run, table in rows.groupby("run", sort=False):
            found[run] = table.drop(columns="run").reset_index(drop=True)
            found[run].attrs = rows.attrs[run]
    return {one.name: found[one.name] for one in folders if one.name in found}


def read_table(folder: Path, name: str, **chosen: Any) -> pd.DataFrame:
    """The table `name` of the run of a folder, chosen as `read_tables` does; raises `no_table`."""
    for table in read_tables([folder], name, **chosen).values():
        return table
    raise no_table(folder, name)


def no_table(folder: Path, name: str) -> RunError:
    """What is said of a run that lacks a table."""
    return RunError(f"{folder} has no {name}; of a packed run of an arm only test answers are kept")


def _read(path: Path, columns: list[str] | None, epochs: Iterable[int], runs: Iterable[str] = ()) -> pd.DataFrame:
    if path.suffix == ".csv":
        return pd.read_csv(path)
    filters = [(column, "in", list(values)) for column, values in (("run", runs), ("epoch", epochs)) if values]
    there = columns and pq.read_schema(path).names
    return pd.read_parquet(path, columns=there and [one for one in columns if one in there], filters=filters or None)
