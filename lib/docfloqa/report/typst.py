"""From pandoc's document tree to Typst and PDF."""

import base64
import datetime
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typst
from pandocfilters import stringify, walk

from docfloqa.report.document_tree import Node, body_of, cell_text, cells, raw, write

SUFFIXES = {"application/pdf": "pdf", "image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}
# Words that mean nothing to Typst wherever they stand; any other text goes in as a quoted string.
PLAIN_WORD = re.compile(r"[^\W\d_][^\W_]*[,.;:!?]?")
PREAMBLE = Path(__file__).parent / "templates" / "paper.typ"
LONGEST_WORD = 24  # characters; the preamble lets longer ones break


def quoted(text: str) -> str:
    """Legible text as a Typst string, on one line: without control characters it is written as in JSON."""
    return json.dumps(text, ensure_ascii=False)


def typst_of(blocks: list[Node], title: str, byline: str, date: datetime.date | None) -> tuple[str, dict[str, bytes]]:
    """A document's source, and the pictures that it names, by file name."""
    files: dict[str, bytes] = {}

    def picture(image: list[Any], caption: str) -> str:
        kind, data = image[2][0].removeprefix("data:").split(";base64,")
        name = f"figure-{len(files) + 1}.{SUFFIXES[kind]}"
        files[name] = base64.b64decode(data)
        shown = quoted(caption) if caption else "none"
        return f"picture({quoted(name)}, alt: {quoted(stringify(image[1]))}, caption: {shown})"

    def leaf(key: str, value: Any, *_: Any) -> Node | list[Node] | None:
        match key:
            case "Str" if not PLAIN_WORD.fullmatch(value):
                return raw(f"#{quoted(value)};", "typst", "RawInline")
            case "Code":
                return raw(f"#raw({quoted(value[1])});", "typst", "RawInline")
            case "CodeBlock":
                # There is no fence that the text could close.
                return raw(f"#raw(block: true, {quoted(value[1].rstrip())})", "typst")
            case "Header" if value[0] > 1:
                # The title alone is above the sections.
                return {"t": key, "c": [value[0] - 1, *value[1:]]}
            case "Link":
                target = re.sub(r"\.ipynb(?=#|$)", ".pdf", value[2][0])
                return {"t": key, "c": [*value[:2], [target, ""]]}
            case "Figure":
                return raw(f"#{picture(value[2][0]['c'][0]['c'], stringify(value[1][1]))}", "typst")
            case "Image":
                return raw(f"#{picture(value, '')};", "typst", "RawInline")
            case "Table":
                return _table(value)
            case "Div" if "code" in value[0][1]:
                return []
            case "Div" if name := {"abstract", "references"} & set(value[0][1]):
                return [raw(f"#{name.pop()}[", "typst"), *walk(value[1], leaf, "", {}), raw("]", "typst")]
            case "Div" if not value[0][0]:
                return walk(value[1], leaf, "", {})
        return None

    day = f"datetime(year: {date.year}, month: {date.month}, day: {date.day})" if date else "none"
    call = f"  title: {quoted(title)},\n  byline: {quoted(byline)},\n  date: {day},"
    body = write(walk(blocks, leaf, "", {}), "typst-smart").strip()
    return f"{PREAMBLE.read_text(encoding='utf-8')}\n#show: paper.with(\n{call}\n)\n\n{body}", files


def compile_pdf(source: str, files: dict[str, bytes], date: datetime.date | None) -> bytes:
    """What `typst_of` gave as PDF; raises TypstError when that fails."""
    midnight = datetime.datetime.combine(date or datetime.date(1970, 1, 1), datetime.time(), datetime.UTC)
    with tempfile.TemporaryDirectory() as folder:
        main = Path(folder) / "main.typ"
        for name, content in {main.name: source.encode(), **files}.items():
            main.with_name(name).write_bytes(content)
        return typst.compile(main, format="pdf", ignore_system_fonts=True, timestamp=midnight)


def _array(items: Iterable[str]) -> str:
    return "(" + "".join(f"{item}, " for item in items) + ")"


def _table(table: list[Any]) -> list[Node]:
    """A table as a call of the preamble's `paper-table`, its cells still blocks between the brackets."""
    (_, caption), columns, (_, head), body = *table[1:4], body_of(table)
    lines, words = [""] * len(columns), [""] * len(columns)
    for column, cell in cells(head + body):
        if cell[3] == 1:
            lines[column] = max(lines[column], cell_text(cell), key=len)
            # An interval has no-break spaces: it is one word.
            pieces = [word[:LONGEST_WORD] for word in re.split(r"[^\S\xa0]+", stringify(cell[4]))]
            words[column] = max(words[column], *pieces, key=len)
    sides = _array(alignment["t"].removeprefix("Align").lower() for alignment, _ in columns)
    measures = f"words: {_array(map(quoted, words))}, lines: {_array(map(quoted, lines))}"
    nodes = [raw(f"#paper-table(align: {sides}, {measures},", "typst")]
    if caption:
        nodes += [raw("caption: [", "typst"), *caption, raw("],", "typst")]
    header = [raw("header: (", "typst"), *_set(head, '#set text(weight: "bold")'), raw("),", "typst")]
    return [*nodes, *header, *_set(body), raw(")", "typst")]


def _set(rows: list[list[Any]], style: str = "") -> Iterator[Node]:
    for cell in (cell for _, row in rows for cell in row):
        centred = ", align: center" if cell[3] > 1 else ""
        yield raw(f"table.cell(rowspan: {cell[2]}, colspan: {cell[3]}{centred})[{style}", "typst")
        yield from cell[4]
        yield raw("],", "typst")
