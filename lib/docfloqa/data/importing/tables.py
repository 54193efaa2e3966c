"""Questions row by row, from a CSV, TSV, JSON or parquet file or what `datasets` has saved, under their usual names."""

import ast
import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from docfloqa.data.images import PageError, read_bytes
from docfloqa.data.schema import COLUMNS, DEMANDED, ONE_PAGE, SEVERAL_PAGES, names_in
from docfloqa.exceptions import DataError, printable, shown

DELIMITERS = ",;\t"
SEPARATOR = "|"  # between the answers, and between the types, of a question
# The longer marks first: one begins as the other.
MARKS = {(codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE): "utf-32", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE): "utf-16"}
AS_UTF8 = "save it as 'CSV UTF-8'"
BRACKETS = {"[": "]", "(": ")", "{": "}"}
LIST = 'allowed are texts separated by \'|\', or a list of texts in quotes such as ["7", "7 USD"]'
ROWS_AT_ONCE = 100  # each with its page


@dataclass(frozen=True)
class Row:
    """A question as it is written: its number in its file, values by the names in `COLUMNS`, what is wrong of all."""

    number: int
    values: dict[str, Any]
    wrong: str = ""


@dataclass(frozen=True)
class Table:
    """The questions of a file or saved split: `read` gives its rows, the same ones whenever it is called.

    `images` is where their paths begin, `split` "" where none is told; with `bars`, "|" separates answers in a cell.
    """

    path: Path
    kind: str
    images: Path
    read: Callable[[], Iterator[Row]]
    split: str = ""
    bars: bool = False
    columns: frozenset[str] = frozenset()


def csv_table(path: Path, demanded: Sequence[str] = DEMANDED, allowed: Sequence[str] = (*COLUMNS,)) -> Table:
    """A CSV or TSV: UTF-8 or with a mark of its encoding, its cells separated by commas, semicolons or tabs.

    Rows are numbered as a spreadsheet does, blank ones included. Raises `DataError` for another encoding, for quotes
    that are not closed and for a header that lacks columns.
    """
    rows = {number: cells for number, cells in enumerate(cells_of(path), 1) if any(cells)}
    header = rows.pop(min(rows)) if rows else []
    names = columns_of(header, path, demanded, allowed)

    def read() -> Iterator[Row]:
        for number, cells in rows.items():
            while len(cells) > len(header) and not cells[-1]:
                cells.pop()
            wrong = f"has {len(cells)} cells; allowed are {len(header)}, as in the first row"
            wrong = f"{wrong} (what holds a separator stands in quotes)" if len(cells) > len(header) else ""
            cells = cells + [""] * (len(header) - len(cells))
            values = {column: cells[header.index(name)] for column, name in names.items()}
            if "page" in values:
                # So pandas writes whole numbers of which one is missing.
                values["page"] = re.sub(r"\.0+$", "", values["page"])
            yield Row(number, values, wrong)

    kind = "a TSV" if path.suffix.lower() == ".tsv" else "a CSV"
    return Table(path, kind, path.parent, read, bars=True, columns=frozenset(names))


def json_table(path: Path) -> Table:
    """JSON lines, a JSON list of objects, or RRC's JSON, an object with such a list as `data`; rows count from 1."""
    text, kind = text_in(path), "JSON lines"
    try:
        rows = json.loads(text)
        if isinstance(rows, dict) and isinstance(rows.get("data"), list):
            rows, kind = rows["data"], "RRC's JSON"
        elif isinstance(rows, list):
            kind = "a JSON list"
        else:
            rows = [rows]
    except (RecursionError, ValueError):
        rows = []
        # Not splitlines, which takes signs that a text may hold for ends of lines.
        for number, line in enumerate(text.split("\n"), 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except (RecursionError, ValueError) as error:
                raise DataError(f"{str(path)!r} is no JSON: line {number}: {error}") from None
    if wrong := [row for row in rows if not isinstance(row, dict)]:
        raise DataError(f"{str(path)!r} holds {shown(wrong[0])}; allowed are objects with {', '.join(DEMANDED)}")
    rows = [_flat(row) for row in rows]
    names = columns_of(dict.fromkeys(name for row in rows for name in row), path)

    def read() -> Iterator[Row]:
        for number, row in enumerate(rows, 1):
            yield Row(number, _values(row, names, path))

    return Table(path, kind, path.parent, read, columns=frozenset(names))


def parquet_table(path: Path) -> Table:
    """A parquet file; rows count from 1."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{str(path)!r} cannot be read as parquet: {error}") from None

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(ROWS_AT_ONCE, columns=columns)

    return arrow_table(path, "parquet", schema, batches)


def arrow_table(path: Path, kind: str, schema: pa.Schema, batches: Callable[[list[str]], Iterable[Any]]) -> Table:
    """Rows of batches that arrow holds, of which the columns that are wanted are asked for by name."""
    names = columns_of(names_in(schema), path)

    def read() -> Iterator[Row]:
        wanted = {name if name in schema.names else name.partition(".")[0] for name in names.values()}
        try:
            rows = (row for batch in batches(sorted(wanted)) for row in batch.to_pylist())
            for number, row in enumerate(map(_flat, rows), 1):
                yield Row(number, _values(row, names, path))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{str(path)!r} cannot be read: {error}") from error

    return Table(path, kind, path.parent, read, columns=frozenset(names))


def columns_of(
    header: Iterable[str], path: Path, demanded: Sequence[str] = DEMANDED, allowed: Sequence[str] = (*COLUMNS,)
) -> dict[str, str]:
    """What a table calls those of the `allowed` columns that it has, by their names in `COLUMNS`."""
    header = list(header)
    folded = [_folded(name) for name in header]
    found = {column: next((name for name in map(_folded, COLUMNS[column]) if name in folded), "") for column in allowed}
    several = [name for name in header if name.lower() in SEVERAL_PAGES]
    if several and "image" in demanded and not found["image"]:
        raise DataError(f"{str(path)!r} {ONE_PAGE.format(several[0])}")
    missing = [column for column in demanded if not found[column]]
    twice = [column for column, name in found.items() if name and folded.count(name) > 1]
    if missing or twice:
        wrong = f"lacks the columns {', '.join(missing)}" if missing else f"has {', '.join(twice)} twice"
        further = ", ".join(column for column in allowed if column not in demanded)
        raise DataError(
            f"{str(path)!r} {wrong}; it has {shown(', '.join(header))[1:-1] or 'nothing'}, and allowed are "
            f"{', '.join(demanded)} and, where wanted, {further}"
        )
    return {column: header[folded.index(name)] for column, name in found.items() if name}


def texts(value: Any, bars: bool) -> list[str]:
    """The texts of a cell: a list's, those between bars where `bars`, or those of a list that is written as Python or
    JSON writes it, numpy's without commas included. Raises `ValueError` for another list."""
    if isinstance(value, list):
        if wrong := next((one for one in value if not isinstance(one, str | int | float | None)), None):
            raise ValueError(f"{shown(wrong)} is no text; allowed is a text or a list of texts")
        found = map(plain_text, value)
    else:
        cell = plain_text(value)
        found = _written_list(cell)
        if found is None:
            found = cell.split(SEPARATOR) if bars else [cell]
    return list(dict.fromkeys(filter(None, map(str.strip, found))))


def text_of(value: Any) -> str:
    """A value as text: nothing for what is missing, whole numbers without a point."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).strip()


def plain_text(value: Any) -> str:
    """`text_of` what must be a text or a number; raises `ValueError` for what holds others, and what is no UTF-8."""
    if isinstance(value, bytes | dict | list | tuple):
        raise ValueError(f"is {shown(value)}; allowed is a text or a number")
    text = text_of(value)
    if text != printable(text):
        raise ValueError("holds a half of a sign (from \\ud800 to \\udfff); allowed is any text in UTF-8")
    return text


def _written_list(cell: str) -> list[str] | None:
    """The texts of a written list, None for what is no list; raises `ValueError` for a list of anything else."""
    begins = cell[:2] in ("['", '["')
    if not begins and BRACKETS.get(cell[:1], "") != cell[-1:]:
        return None
    try:
        found = json.loads(cell)
    except (RecursionError, ValueError):
        found = _python_list(cell)
    if isinstance(found, list | tuple | set) and found != () and all(isinstance(one, str) for one in found):
        return sorted(found) if isinstance(found, set) else [*found]
    # "[illegible]" is an answer, and so is "(12)".
    if isinstance(found, list) or begins:
        raise ValueError(f"looks like a list that is cut, or holds more than texts; {LIST}")
    return None


def _python_list(cell: str) -> Any:
    # numpy writes ['a' 'b'], which Python would take for one text.
    quoted = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
    apart = cell
    if re.fullmatch(rf"\[\s*(?:{quoted})(?:\s+(?:{quoted}))+\s*\]", cell):
        apart = re.sub(rf"({quoted})\s+(?=['\"])", r"\1, ", cell)
    try:
        return ast.literal_eval(apart)
    except (MemoryError, RecursionError, SyntaxError, ValueError):
        return None


def text_in(path: Path) -> str:
    """What a file says, in UTF-8 or as its mark tells; raises `DataError` for another encoding, with the remedy."""
    try:
        content = read_bytes(path)
    except PageError as error:
        raise DataError(str(error)) from None
    encoding = next((name for marks, name in MARKS.items() if content.startswith(marks)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise DataError(f"{str(path)!r} is not in {encoding.upper()}, as its first bytes say: {error}") from None
        line, byte = error.object[: error.start].count(b"\n") + 1, error.object[error.start : error.start + 1]
        with_windows = byte.decode("cp1252", errors="ignore")
        known = f", {with_windows!r} in Windows' cp1252" if with_windows else ""
        raise DataError(
            f"{str(path)!r} is not in UTF-8: byte {byte[0]:#04x} in line {line}{known}; {AS_UTF8}, or: "
            f"iconv -f CP1252 -t UTF-8 {path.name} > utf8-{path.name}"
        ) from None
    if "\0" in text:
        raise DataError(f"{str(path)!r} is not in UTF-8: it has zero bytes; {AS_UTF8}")
    return text


def cells_of(path: Path) -> list[list[str]]:
    """The cells of every row of a CSV or TSV; raises `DataError` where they cannot be told apart."""
    text = text_in(path)
    # Blank rows may come before the header.
    first = text.lstrip(f" \r\n{DELIMITERS}").partition("\n")[0]
    # Excel's own mark of the separator.
    told = re.match(r"\ufeff?\"?sep=(.)\"?\r?$", first)
    if told:
        delimiter = told[1]
    elif not set(DELIMITERS) & set(first):
        # One column: what stands in it is not taken apart.
        delimiter = "\x1f"
    else:
        # Not csv.Sniffer, which guesses from how often signs occur: the names of the columns are known.
        known = {_folded(name) for several in COLUMNS.values() for name in several}
        delimiter = max(DELIMITERS, key=lambda sign: len({_folded(name) for name in first.split(sign)} & known))
    rows: list[list[str]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            rows.append([cell.strip() for cell in row])
    except csv.Error as error:
        # What follows a quote that is never closed cannot be told apart.
        raise DataError(
            f"{str(path)!r} cannot be read after row {len(rows)}: {error}; allowed are cells in quotes, in which a "
            "quote is written twice"
        ) from error
    if told:
        next(filter(any, rows)).clear()
    return rows


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _values(row: dict[str, Any], names: dict[str, str], path: Path) -> dict[str, Any]:
    """A row's values by the names in `COLUMNS`, its image as a path or as parquet holds one."""
    values = {column: row.get(name) for column, name in names.items()}
    if isinstance(values["image"], list):
        if len(values["image"]) != 1:
            raise DataError(f"{str(path)!r} {ONE_PAGE.format('image')}")
        [values["image"]] = values["image"]
    if isinstance(values["image"], bytes):
        values["image"] = {"bytes": values["image"], "path": None}
    return values


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the fields of its structs beside them, as "struct.field"."""
    structs = {name: value for name, value in row.items() if isinstance(value, dict)}
    return {f"{name}.{field}": one for name, fields in structs.items() for field, one in fields.items()} | row


# By what files of questions end with.
READERS = dict.fromkeys((".csv", ".tsv"), csv_table) | dict.fromkeys((".jsonl", ".ndjson", ".json"), json_table)
READERS |= {".parquet": parquet_table}
