"""From a notebook's parts to Typst and PDF, by way of pandoc's document tree."""

import base64
import copy
import datetime
import functools
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typst
from nbformat import NotebookNode
from pandocfilters import stringify, walk

from docfloqa.report.document_tree import (
    DATA_URI,
    IMAGES,
    NO_ATTRIBUTES,
    READERS,
    Node,
    ReportError,
    Table,
    cell_text,
    first_image,
    read,
    references,
    write,
)

# Words that mean nothing to Typst wherever they stand; any other text goes in as a quoted string.
PLAIN_WORD = re.compile(r"[^\W\d_][^\W_]*[,.;:!?]?")
PREAMBLE = Path(__file__).parent / "templates" / "paper" / "paper.typ"
LONGEST_WORD = 24  # characters; the preamble lets longer ones break


def quoted(text: str) -> str:
    """Any text as a Typst string, on one line."""
    for character, escape in {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}.items():
        text = text.replace(character, escape)
    return f'"{text}"'


def verbatim(text: str, language: str = "") -> Node:
    """A block of text shown character by character; there is no fence that the text could close."""
    kind = f"lang: {quoted(language)}, " if language else ""
    return _typst(f"#raw(block: true, {kind}{quoted(text.rstrip())})")


def _typst(markup: str, kind: str = "RawBlock") -> Node:
    return {"t": kind, "c": ["typst", markup]}


def _array(items: Iterable[str]) -> str:
    return "(" + "".join(f"{item}, " for item in items) + ")"


def _set_table(key: str, value: Any, *_: Any) -> list[Node] | None:
    """A Table node as a call of the preamble's `paper-table`, its cells still blocks between the brackets."""
    if key != "Table":
        return None
    table = Table.of(value)
    lines = ["" for _ in table.columns]
    words = ["" for _ in table.columns]
    for column, cell in [*table.placed(table.head), *table.placed(table.body)]:
        if cell[3] == 1:
            lines[column] = max(lines[column], cell_text(cell), key=len)
            # An interval has no-break spaces: it is one word.
            pieces = [word[:LONGEST_WORD] for word in re.split(r"[^\S\xa0]+", stringify(cell[4]))]
            words[column] = max(words[column], "", *pieces, key=len)
    sides = [alignment["t"].removeprefix("Align").lower() for alignment, _ in table.columns]
    measures = f"words: {_array(map(quoted, words))}, lines: {_array(map(quoted, lines))}"
    caption = [_typst("caption: ["), *table.caption, _typst("],")] if table.caption else []
    return [
        _typst(f"#paper-table(align: {_array(sides)}, {measures},"),
        *caption,
        _typst("header: ("),
        *_cells(table.head, '#set text(weight: "bold")'),
        _typst("),"),
        *_cells(table.body, ""),
        _typst(")"),
    ]


def _cells(rows: list[list[Any]], style: str) -> Iterator[Node]:
    for cell in (cell for row in rows for cell in row[1]):
        centred = ", align: center" if cell[3] > 1 else ""
        yield _typst(f"table.cell(rowspan: {cell[2]}, colspan: {cell[3]}{centred})[{style}")
        yield from cell[4]
        yield _typst("],")


class Document:
    """Collects a notebook's blocks, in order, and makes a PDF of them."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._blocks: list[Node] = []
        self._files: dict[str, bytes] = {}

    def add_text(self, text: str, mimetype: str = "text/markdown") -> None:
        """Add Markdown, HTML or LaTeX."""
        self._blocks += read(text, mimetype, self._folder, ".pdf")

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """What is added meanwhile goes through the preamble's function of this name."""
        self._blocks.append(_typst(f"#{name}["))
        yield
        self._blocks.append(_typst("]"))

    def begin_appendix(self) -> None:
        """What is added from now on is the appendix."""
        self._blocks.append(_typst("#show: appendix"))

    def add_references(self) -> None:
        """Add the list of works cited."""
        with self.inside("references"):
            self._blocks += copy.deepcopy(references())

    def add_settings(self, settings: dict[str, str]) -> None:
        """Add a section with names and values."""
        if settings:
            pairs = _array(f"({quoted(key)}, {quoted(value)})" for key, value in settings.items())
            self._blocks.append(_typst(f"#settings({pairs})"))

    def add_code(self, source: str) -> None:
        """Add a code cell's source."""
        self._blocks.append(verbatim(source, "python"))

    def add_output(self, output: NotebookNode) -> None:
        """Add an output of a code cell that has been reduced to the one mimetype that is to be shown."""
        if output.output_type == "stream":
            self._blocks.append(verbatim(output.text))
        elif output.output_type == "error":
            self._blocks.append(verbatim("\n".join(output.traceback)))
        else:
            ((mimetype, data),) = output.data.items()
            if mimetype in IMAGES:
                about = output.metadata.report
                picture = self._picture(data, mimetype, about.alt, about.caption)
                self._blocks.append(_typst(f"#{picture}"))
            elif mimetype in READERS:
                self.add_text(data, mimetype)
            else:
                self._blocks.append(verbatim(data))

    def source(self, byline: str, date: datetime.date | None, name: str) -> str:
        """The whole document in Typst; `name` is its title if no level-1 heading gives one."""
        title = next((b for b in self._blocks if b["t"] == "Header" and b["c"][0] == 1), None)
        shown = title["c"][2] if title else [{"t": "Str", "c": name}]
        sections: dict[str, str] = {}

        def number(key: str, value: Any, *_: Any) -> Node | None:
            if key == "Div" and value[0][0]:
                sections.setdefault(value[0][0], value[0][0])
            if key != "Header":
                return None
            section = f"section-{len(sections) + 1}"
            sections.setdefault(value[1][0] or section, section)
            return {"t": key, "c": [max(1, value[0] - 1), [section, [], []], value[2]]}

        blocks = walk([block for block in self._blocks if block is not title], number, "", {})
        arguments = {
            "title": f"[{self._markup([{'t': 'Plain', 'c': shown}], sections)}]",
            "byline": quoted(byline),
            "date": f"datetime(year: {date.year}, month: {date.month}, day: {date.day})" if date else "none",
        }
        call = ",\n".join(f"  {key}: {value}" for key, value in arguments.items())
        preamble = PREAMBLE.read_text(encoding="utf-8")
        return f"{preamble}\n#show: paper.with(\n{call},\n)\n\n{self._markup(blocks, sections)}"

    def pdf(self, source: str, date: datetime.date | None) -> bytes:
        """Compile what `source` gave; raises ReportError with Typst's words and the line when that fails."""
        midnight = datetime.datetime.combine(date or datetime.date(1970, 1, 1), datetime.time(), datetime.UTC)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in {"main.typ": source.encode(), **self._files}.items():
                (Path(folder) / name).write_bytes(content)
            main = str(Path(folder) / "main.typ")
            compiler = typst.Compiler(main, root=folder, ignore_system_fonts=True)
            try:
                return compiler.compile(format="pdf", timestamp=int(midnight.timestamp()))
            except typst.TypstError as error:
                raise ReportError(error.diagnostic.replace(folder, "")) from error

    def _markup(self, blocks: list[Node], sections: dict[str, str]) -> str:
        blocks = walk(blocks, _set_table, "", {})
        return write(walk(blocks, functools.partial(self._leaf, sections), "", {}), "typst-smart").strip()

    def _leaf(self, sections: dict[str, str], key: str, value: Any, *_: Any) -> Node | None:
        match key:
            case "Str" if not PLAIN_WORD.fullmatch(value):
                return _typst(f"#{quoted(value)};", "RawInline")
            case "Code":
                return _typst(f"#raw({quoted(value[1])});", "RawInline")
            case "CodeBlock":
                return verbatim(value[1], *value[0][1][:1])
            case "Link" if value[2][0].startswith("#"):
                section = sections.get(value[2][0][1:])
                link = {"t": "Link", "c": [NO_ATTRIBUTES, value[1], [f"#{section}", ""]]}
                return link if section else {"t": "Span", "c": value[:2]}
            case "Figure" if image := first_image(value):
                return _typst(f"#{self._drawing(image, captioned=True)}")
            case "Image":
                return _typst(f"#{self._drawing(value, captioned=False)};", "RawInline")
        return None

    def _drawing(self, image: list[Any], captioned: bool) -> str:
        kind, data = DATA_URI.fullmatch(image[2][0]).groups()
        alt = stringify(image[1])
        return self._picture(data, kind, alt, alt if captioned else "")

    def _picture(self, data: str, mimetype: str, alt: str, caption: str) -> str:
        """Keep an image for the compiler; the call that shows it."""
        text = mimetype == "image/svg+xml" and data.lstrip().startswith("<")
        name = f"figure-{len(self._files) + 1}{IMAGES[mimetype]}"
        self._files[name] = data.encode() if text else base64.b64decode(data)
        shown = quoted(caption) if caption else "none"
        return f"picture({quoted(name)}, alt: {quoted(alt)}, caption: {shown})"
