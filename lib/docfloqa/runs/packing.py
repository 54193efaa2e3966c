"""A study's runs packed: one Parquet file for each kind of result, in place of a folder for each run."""

import base64
import json
import math
import warnings
from io import BytesIO
from pathlib import Path

import nbformat
import pandas as pd
from PIL import Image

from docfloqa.exceptions import RunError
from docfloqa.files import held, put_back, reports_folder, seal_folder, whole_folder, write_whole
from docfloqa.runs import tables
from docfloqa.runs.plans import study_command
from docfloqa.runs.results import planned_runs, run_folders
from docfloqa.runs.run import EXECUTED, is_complete, read_record
from docfloqa.runs.tables import (
    CONTROL,
    EPOCHS,
    PACKED,
    PACKED_RECORDS,
    PREDICTIONS,
    RECORD,
    TEST_ANSWERS,
    packed_records,
)

# Pixels that a figure of an executed notebook is wide; HTML and PDF have it finer.
NOTEBOOK_WIDTH = 700
# What an answer is, beside its scores.
ANSWER = ["prediction", "confidence"]
LOSS = ["loss_sum", "tokens"]
# Computed in 32 bits: their last bytes, which are zeros, are put together. Of arms' test answers they are not kept.
FLOATS = ["confidence", "loss_sum"]
# Texts that all runs repeat in the same order: as they are, on one page, they are stored once.
REPEATED = ["question_id", "document_id", "question", "prediction", "answers", "tokens"]


def pack(name: str) -> Path:
    """Put a study's complete runs into `reports/<name>/packed/` and remove their folders; returns that folder.

    What stays is told in `lib/README.md`; weights are never removed, and the figures of the study's notebooks get
    small (`keep_png`). What was packed earlier stays packed. A folder loses its results only after all that was packed
    has been read back and found equal. A study that is not complete goes on where it stopped, without the packed runs.
    Raises `RunError` without a complete run, and `DamagedError` for packed files that are damaged.
    """
    study = reports_folder(name)
    with held(f"sweep-{name}", f"study {name!r}"):
        put_back(study / PACKED)
        if not planned_runs(name):
            raise RunError(f"study {name!r} has no runs to pack; {study_command(name)} makes them")
        folders = [*filter(is_complete, run_folders(name))]
        if not folders:
            raise RunError(f"study {name!r} has no complete run to pack; {study_command(name)} goes on with it")
        with whole_folder(study / PACKED, lambda folder: bool(packed_records(folder.parent))) as part:
            names = _write(name, folders, part)
            seal_folder(part)
        for folder in folders:
            # The record first: without it the folder is no run any more.
            for result in (RECORD, *names, EXECUTED):
                (folder / result).unlink(missing_ok=True)
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        for notebook in study.glob("[0-9][0-9]_*.ipynb"):
            try:
                keep_png(notebook)
            except ValueError as error:
                warnings.warn(f"{notebook} stays as it is, for it cannot be read: {error}", stacklevel=2)
    return study / PACKED


def _write(name: str, folders: list[Path], part: Path) -> list[str]:
    """Write the packed files, each read back; returns the names of the tables in them."""
    study, made = reports_folder(name), {folder.name: read_record(folder) for folder in folders}
    records = {"run": list(made), "record": [json.dumps(record) for record in made.values()]}
    pd.DataFrame(records).to_parquet(part / PACKED_RECORDS, compression="zstd")
    # What is compared of an arm, where all is compared on the test split, are its test answers.
    tested = all("test" in record for record in made.values())
    tested_arms = {run for run, arm in planned_runs(name).items() if arm and tested}
    earlier = {path.name for path in (study / PACKED).glob("*.parquet")}
    names = {EPOCHS, *earlier, *(path.name for folder in folders for path in folder.glob("*.parquet"))}
    names -= {PACKED_RECORDS, tables.packed_file(study, EPOCHS).name}
    for file in names:
        found = tables.read_tables(folders, file).items()
        packed = {run: _kept(file, table, run in tested_arms) for run, table in found}
        packed = {run: table for run, table in packed.items() if table is not None}
        if packed:
            _write_tables(part / tables.packed_file(study, file).name, packed)
    return sorted(names)


def _write_tables(path: Path, packed: dict[str, pd.DataFrame]) -> None:
    together = pd.concat([table.assign(run=run) for run, table in packed.items()], ignore_index=True)
    together.attrs = {run: table.attrs for run, table in packed.items()}
    floats = [column for column in FLOATS if column in together]
    together.to_parquet(
        path,
        index=False,
        compression="zstd",
        compression_level=19,
        row_group_size=len(together),
        max_rows_per_page=len(together),
        data_page_size=2**30,
        use_dictionary=[column for column in together if column not in [*floats, *REPEATED]],
        column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
    )
    again = pd.read_parquet(path)
    if again.attrs != together.attrs or not again.equals(together):
        raise RunError(f"{path} is not read back as it was written; no run was removed")


def _kept(name: str, table: pd.DataFrame, tested_arm: bool) -> pd.DataFrame | None:
    """What is kept of a run's table; of one of an arm that is compared on test answers, these, without confidence."""
    if tested_arm and name in (PREDICTIONS, CONTROL):
        return None
    if name == TEST_ANSWERS:
        return table.assign(**dict.fromkeys(FLOATS, math.nan)) if tested_arm else table
    if name != PREDICTIONS:
        return table.drop(columns=[*ANSWER, *LOSS], errors="ignore")
    between = ~table["epoch"].isin([0, table["epoch"].max()])
    return table.assign(**{column: table[column].mask(between) for column in ANSWER if column in table})


def keep_png(path: Path) -> None:
    """Drop PDF and SVG from the figures of an executed notebook that have a PNG, make that small, and write it."""
    notebook = nbformat.read(path, as_version=4)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        if png := output.get("data", {}).get("image/png"):
            with Image.open(BytesIO(base64.b64decode(png))) as image:
                small = image.convert("RGB")
            if small.width > NOTEBOOK_WIDTH:
                small.thumbnail((NOTEBOOK_WIDTH, small.height))
                buffer = BytesIO()
                small.quantize(64, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
                output.data["image/png"] = base64.b64encode(buffer.getvalue()).decode()
            for kind in ("application/pdf", "image/svg+xml"):
                output.data.pop(kind, None)
                output.metadata.pop(kind, None)
    write_whole(path, nbformat.writes(notebook))
