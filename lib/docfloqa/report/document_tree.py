"""Markdown and HTML as pandoc's document tree, where text of the data is a leaf that is quoted, never pasted."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pypandoc
from nbconvert.filters import strip_ansi
from pandocfilters import CodeBlock, Div, Para, Span, Str, stringify, walk

Node = dict[str, Any]

# Markdown as Jupyter reads it: CommonMark with GitHub's additions. No citations (an "@" in a question is no
# reference), no YAML header (a cell may begin with a rule).
MARKDOWN = "commonmark+autolink_bare_uris+footnotes+pipe_tables+smart+strikeout+task_lists+tex_math_dollars"
READERS = {"text/html": "html", "text/markdown": MARKDOWN}
LINK = re.compile(r"(#|https?:|mailto:)\S*|[\w./-]+(#\S*)?", re.IGNORECASE)
DATA_URI = re.compile(r"data:image/(png|jpeg|svg\+xml);base64,[A-Za-z0-9+/=\s]+")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ud800-\udfff]")
# The space between a number and its percent sign, in the tree's JSON, where text cannot hold a bare quotation mark.
SPACE_OF_PERCENT = re.compile(r'(?<=\d"\},)\{"t":"Space"\}(?=,\{"t":"Str","c":"%)')
NO_NUMBER = {"", "nan", "none", "<na>", "n/a", "na", "-", "–", "—", "...", "…"}
NUMBER = re.compile(r"[\s\d.,:/eE+−±×%()\[\]<>=≤≥~≈$€–-]*\d[\s\d.,:/eE+−±×%()\[\]<>=≤≥~≈–-]*[A-Za-zµ]{0,3}")
NO_ATTRIBUTES: list[Any] = ["", [], []]
BIBLIOGRAPHY = Path(__file__).parent / "references.bib"


def code_block(text: str, *classes: str) -> Node:
    """Text that is shown as it stands."""
    return CodeBlock(["", classes, []], legible(text))


def div(name: str, blocks: list[Node]) -> Node:
    """Blocks with a class."""
    return Div(["", [name], []], blocks)


def legible(text: str) -> str:
    """Text without what neither HTML nor PDF can hold: control characters and terminal colours."""
    return CONTROL.sub("\ufffd", strip_ansi(text))


def pandoc(text: str, reader: str, writer: str, *options: str) -> str:
    """Convert `text`; raises RuntimeError with pandoc's own words when it cannot."""
    return pypandoc.convert_text(text, writer, reader, ["--sandbox", "--wrap=none", *options], verify_format=False)


def write(blocks: list[Node], writer: str, *options: str, **head: str) -> str:
    """Blocks of pandoc's tree in any of its output formats; `head` holds plain text for the template."""
    meta = {name: {"t": "MetaString", "c": legible(text)} for name, text in head.items()}
    tree = json.loads(pandoc("", "commonmark", "json")) | {"meta": meta, "blocks": blocks}
    return pandoc(json.dumps(tree), "json", writer, *options)


@cache
def references() -> list[Node]:
    """All works cited, by author, as blocks; each is a Div whose identifier is `ref-` and its BibTeX key.

    A notebook cites one by a link to it, `[(Xiao et al. 2024)](#ref-xiao2024)`, in pandoc's author-date style.
    """
    return json.loads(pandoc(BIBLIOGRAPHY.read_text(encoding="utf-8"), "bibtex", "json", "--citeproc"))["blocks"]


def references_html() -> str:
    """The same list as HTML."""
    return write(references(), "html")


def read(text: str, mimetype: str = "text/markdown") -> list[Node]:
    """Markdown or HTML as blocks that are safe to write: nothing in them runs, is fetched or has a style.

    pandoc leaves scripts out of HTML; raw HTML in Markdown becomes text; attributes and odd links go.
    """
    tree = pandoc(legible(text), READERS[mimetype], "json")
    blocks = json.loads(SPACE_OF_PERCENT.sub('{"t":"Str","c":"\u00a0"}', tree))["blocks"]
    return walk(_bare(blocks), _harmless, mimetype, {})


def _bare(value: Any) -> Any:
    """A part of the tree without attributes."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    return NO_ATTRIBUTES if [*map(type, value)] == [str, list, list] else [*map(_bare, value)]


def _harmless(key: str, value: Any, mimetype: str, _: Any) -> Node | list[Node] | None:
    match key:
        case "RawInline" if mimetype == "text/html":
            # Of a style sheet.
            return []
        case "RawBlock":
            return Para([Str(value[1])])
        case "RawInline":
            return Str(value[1])
        case "Header":
            value[1] = [re.sub(r"\W+", "-", stringify(value[2]).lower()).strip("-") or "section", [], []]
        case "Link" | "Image" if not (LINK if key == "Link" else DATA_URI).fullmatch(value[2][0]):
            return Span(*value[:2])
        case "Figure":
            # What stands for a node is not visited itself.
            return walk(value[2], _harmless, mimetype, {})
        case "Table":
            _set_up(value)
    return None


def _set_up(table: list[Any]) -> None:
    """Put a table's numbers to the right, and one header row where pandas writes two."""
    columns, head = table[2], table[3][1]
    if len(head) == 2 and all(len(row) == len(columns) for _, row in head):
        pairs = [sorted(pair, key=cell_text) for pair in zip(*(row for _, row in head), strict=True)]
        if not any(cell_text(empty) for empty, _ in pairs):
            table[3][1] = [[NO_ATTRIBUTES, [name for _, name in pairs]]]
    entries: list[set[str]] = [set() for _ in columns]
    for column, cell in cells(body_of(table)):
        entries[column].add(cell_text(cell))
    for column, texts in zip(columns, entries, strict=True):
        numbers = [text for text in texts if text.lower() not in NO_NUMBER]
        if column[0]["t"] == "AlignDefault":
            column[0] = {"t": "AlignRight" if numbers and all(map(NUMBER.fullmatch, numbers)) else "AlignLeft"}
        column[1] = {"t": "ColWidthDefault"}


def body_of(table: list[Any]) -> list[list[Any]]:
    """The rows of a Table node's content below its head."""
    return [row for group in table[4] for row in group[2] + group[3]] + table[5][1]


def cells(rows: list[list[Any]]) -> Iterator[tuple[int, list[Any]]]:
    """Every cell, [attributes, alignment, row span, column span, blocks], with its column: -1 is the last one.

    From there it is counted, since what spans rows does so on the left, in pandas' index.
    """
    for _, row in rows:
        column = 0
        for cell in reversed(row):
            column -= cell[3]
            yield column, cell


def cell_text(cell: list[Any]) -> str:
    """The text of a table's cell, with ordinary spaces."""
    return stringify(cell[4]).replace("\xa0", " ").strip()
