"""From pandoc's document tree to Typst and PDF."""

import base64
import datetime
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typst
from pandocfilters import stringify, walk

from docfloqa.report.document_tree import (
    DATA_URI,
    IMAGES,
    NO_ATTRIBUTES,
    Node,
    ReportError,
    Table,
    cell_text,
    images_in,
    write,
)

# Words that mean nothing to Typst wherever they stand; any other text goes in as a quoted string.
PLAIN_WORD = re.compile(r"[^\W\d_][^\W_]*[,.;:!?]?")
PREAMBLE = Path(__file__).parent / "templates" / "paper.typ"
LONGEST_WORD = 24  # characters; the preamble lets longer ones break


def quoted(text: str) -> str:
    """Any text as a Typst string, on one line."""
    for character, escape in {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}.items():
        text = text.replace(character, escape)
    return f'"{text}"'


def typst_of(blocks: list[Node], title: str, byline: str, date: datetime.date | None) -> tuple[str, dict[str, bytes]]:
    """A document's source, and the pictures that it names, by file name."""
    files: dict[str, bytes] = {}
    sections: dict[str, str] = {}

    def number(key: str, value: Any, *_: Any) -> Node | None:
        if key == "Div" and value[0][0]:
            sections.setdefault(value[0][0], value[0][0])
        if key != "Header":
            return None
        section = f"section-{len(sections) + 1}"
        sections.setdefault(value[1][0] or section, section)
        return {"t": key, "c": [max(1, value[0] - 1), [section, [], []], value[2]]}

    def picture(image: list[Any], caption: str) -> str:
        kind, data = DATA_URI.fullmatch(image[2][0]).groups()
        name = f"figure-{len(files) + 1}{IMAGES[kind]}"
        files[name] = base64.b64decode(data)
        shown = quoted(caption) if caption else "none"
        return f"picture({quoted(name)}, alt: {quoted(stringify(image[1]))}, caption: {shown})"

    def leaf(key: str, value: Any, *_: Any) -> Node | list[Node] | None:
        match key:
            case "Str" if not PLAIN_WORD.fullmatch(value):
                return _raw(f"#{quoted(value)};", "RawInline")
            case "Code":
                return _raw(f"#raw({quoted(value[1])});", "RawInline")
            case "CodeBlock":
                # There is no fence that the text could close.
                language = f"lang: {quoted(value[0][1][0])}, " if value[0][1] and value[0][1][0] != "output" else ""
                return _raw(f"#raw(block: true, {language}{quoted(value[1].rstrip())})")
            case "Link" if value[2][0].startswith("#"):
                section = sections.get(value[2][0][1:])
                link = {"t": "Link", "c": [NO_ATTRIBUTES, value[1], [f"#{section}", ""]]}
                return link if section else {"t": "Span", "c": value[:2]}
            case "Figure":
                images = images_in(value)
                return _raw(f"#{picture(images[0], stringify(value[1][1]))}") if images else None
            case "Image":
                return _raw(f"#{picture(value, '')};", "RawInline")
            case "Div" if name := {"abstract", "references"} & set(value[0][1]):
                return [_raw(f"#{name.pop()}["), *value[1], _raw("]")]
            case "Div" if not value[0][0]:
                return value[1]
        return None

    blocks = walk(walk(blocks, number, "", {}), _set_table, "", {})
    day = f"datetime(year: {date.year}, month: {date.month}, day: {date.day})" if date else "none"
    call = f"  title: {quoted(title)},\n  byline: {quoted(byline)},\n  date: {day},"
    body = write(walk(blocks, leaf, "", {}), "typst-smart").strip()
    return f"{PREAMBLE.read_text(encoding='utf-8')}\n#show: paper.with(\n{call}\n)\n\n{body}", files


def compile_pdf(source: str, files: dict[str, bytes], date: datetime.date | None) -> bytes:
    """What `typst_of` gave as PDF; raises ReportError with Typst's words and the line when that fails."""
    midnight = datetime.datetime.combine(date or datetime.date(1970, 1, 1), datetime.time(), datetime.UTC)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {"main.typ": source.encode(), **files}.items():
            (Path(folder) / name).write_bytes(content)
        compiler = typst.Compiler(str(Path(folder) / "main.typ"), root=folder, ignore_system_fonts=True)
        try:
            return compiler.compile(format="pdf", timestamp=int(midnight.timestamp()))
        except typst.TypstError as error:
            raise ReportError(error.diagnostic.replace(folder, "")) from error


def _raw(markup: str, kind: str = "RawBlock") -> Node:
    return {"t": kind, "c": ["typst", markup]}


def _array(items: Iterable[str]) -> str:
    return "(" + "".join(f"{item}, " for item in items) + ")"


def _set_table(key: str, value: Any, *_: Any) -> list[Node] | None:
    """A Table node as a call of the preamble's `paper-table`, its cells still blocks between the brackets."""
    if key != "Table":
        return None
    table = Table.of(value)
    lines, words = ["" for _ in table.columns], ["" for _ in table.columns]
    for column, cell in [*table.placed(table.head), *table.placed(table.body)]:
        if cell[3] == 1:
            lines[column] = max(lines[column], cell_text(cell), key=len)
            # An interval has no-break spaces: it is one word.
            pieces = [word[:LONGEST_WORD] for word in re.split(r"[^\S\xa0]+", stringify(cell[4]))]
            words[column] = max(words[column], "", *pieces, key=len)
    sides = [alignment["t"].removeprefix("Align").lower() for alignment, _ in table.columns]
    measures = f"words: {_array(map(quoted, words))}, lines: {_array(map(quoted, lines))}"
    nodes = [_raw(f"#paper-table(align: {_array(sides)}, {measures},")]
    if table.caption:
        nodes += [_raw("caption: ["), *table.caption, _raw("],")]
    for rows, opening, style, closing in (
        (table.head, "header: (", '#set text(weight: "bold")', "),"),
        (table.body, "", "", ")"),
    ):
        nodes.append(_raw(opening))
        for cell in (cell for row in rows for cell in row[1]):
            centred = ", align: center" if cell[3] > 1 else ""
            start = f"table.cell(rowspan: {cell[2]}, colspan: {cell[3]}{centred})[{style}"
            nodes += [_raw(start), *cell[4], _raw("],")]
        nodes.append(_raw(closing))
    return nodes
