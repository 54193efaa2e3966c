"""Markdown, HTML and LaTeX as pandoc's document tree, in which text that came out of data is a leaf.

Everything read here may hold text that came out of data (questions, answers, file names). In the tree such
text is a leaf that the writers quote; no string is ever pasted into markup.
"""

import base64
import functools
import json
import logging
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bleach
import pypandoc
from bleach.css_sanitizer import CSSSanitizer
from pandocfilters import stringify, walk

from docfloqa.exceptions import DocFloQAError

Node = dict[str, Any]

# Markdown as Jupyter reads it: CommonMark with GitHub's additions. No citations (an "@" in a question is no
# reference), no YAML header (a cell may begin with a rule).
MARKDOWN = "commonmark+autolink_bare_uris+footnotes+gfm_auto_identifiers+implicit_figures+pipe_tables+smart"
READERS = {
    "text/markdown": f"{MARKDOWN}+strikeout+task_lists+tex_math_dollars",
    "text/html": "html",
    "text/latex": "latex",
}
IMAGES = {"application/pdf": ".pdf", "image/svg+xml": ".svg", "image/png": ".png", "image/jpeg": ".jpg"}
TAGS = bleach.ALLOWED_TAGS | set(
    "caption table tbody td tfoot th thead tr h1 h2 h3 h4 h5 h6 br del div hr img p pre s small span sub sup u".split()
)
PROTOCOLS = {"http", "https", "mailto", "data"}
CSS_PROPERTIES = {"background-color", "color", "font-style", "font-weight", "text-align"}
CSS_RULE = re.compile(r"([#\w\s,.:()-]+)\{([^{}]*)\}")
HTML_TABLE = re.compile(r"(<table\b.*?</table>)", re.DOTALL | re.IGNORECASE)
HTML_SCRIPT = re.compile(r"<(script|style)\b[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
NO_NUMBER = {"", "nan", "none", "<na>", "n/a", "na", "-", "–", "—", "...", "…"}
NUMBER = re.compile(r"[\s\d.,:/eE+−±×%()\[\]<>=≤≥~≈$€–-]*\d[\s\d.,:/eE+−±×%()\[\]<>=≤≥~≈–-]*[A-Za-zµ]{0,3}")
NO_ATTRIBUTES: list[Any] = ["", [], []]
BIBLIOGRAPHY = Path(__file__).parent / "references.bib"
DATA_URI = re.compile(r"data:(application/pdf|image/(?:png|jpeg|svg\+xml));base64,([A-Za-z0-9+/=\s]+)")


class ReportError(DocFloQAError, ValueError):
    """A notebook, or a folder of them, that cannot become a report; the message names it."""


class Table(NamedTuple):
    """A table in pandoc's tree; a cell is [attributes, alignment, row span, column span, blocks]."""

    caption: list[Node]
    columns: list[list[Node]]
    head: list[list[Any]]
    body: list[list[Any]]

    @classmethod
    def of(cls, value: list[Any]) -> "Table":
        """Take a Table node's content apart."""
        _, caption, columns, head, bodies, foot = value
        body = [row for group in bodies for row in group[2] + group[3]] + foot[1]
        return cls(caption[1], columns, head[1], body)

    @staticmethod
    def placed(rows: list[list[Any]]) -> Iterator[tuple[int, list[Any]]]:
        """Every cell with the column it stands in, row spans taken into account."""
        covered: dict[int, int] = {}
        for _, cells in rows:
            column = 0
            for cell in cells:
                while covered.get(column, 0):
                    covered[column] -= 1
                    column += 1
                yield column, cell
                covered |= dict.fromkeys(range(column, column + cell[3]), cell[2] - 1)
                column += cell[3]
            for rest in filter(lambda index: index >= column and covered[index], list(covered)):
                covered[rest] -= 1


def pandoc(text: str, reader: str, writer: str, *options: str) -> str:
    """Convert `text`; raises ReportError with pandoc's own words when it cannot."""
    command = [pypandoc.get_pandoc_path(), "--sandbox", "--wrap=none", "-f", reader, "-t", writer, *options]
    run = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if run.returncode:
        raise ReportError(f"pandoc could not read this as {reader}: {run.stderr.decode().strip()}")
    if run.stderr:
        logging.getLogger(__name__).warning(run.stderr.decode().strip())
    return run.stdout.decode()


@functools.cache
def _tree_version() -> list[int]:
    return json.loads(pandoc("", "commonmark", "json"))["pandoc-api-version"]


def write(blocks: list[Node], writer: str, *options: str, **head: str) -> str:
    """Blocks of pandoc's tree in any of its output formats; `head` holds plain text for the template."""
    meta = {name: {"t": "MetaInlines", "c": [{"t": "Str", "c": text}]} for name, text in head.items()}
    tree = {"pandoc-api-version": _tree_version(), "meta": meta, "blocks": blocks}
    return pandoc(json.dumps(tree), "json", writer, *options)


@functools.cache
def references() -> list[Node]:
    """All works cited, by author, as blocks; each is a Div whose identifier is `ref-` and its BibTeX key.

    A notebook cites one by a link to it, `[(Xiao et al. 2024)](#ref-xiao2024)`, in pandoc's author-date style.
    """
    return json.loads(pandoc(BIBLIOGRAPHY.read_text(encoding="utf-8"), "bibtex", "json", "--citeproc"))["blocks"]


def references_html() -> str:
    """The same list as HTML."""
    return write(references(), "html")


def clean_html(html: str) -> tuple[str, str]:
    """HTML of an output as (style sheet, body), with nothing in them that runs or fetches.

    Inside a table, a tag that no table needs stays visible as the text it is: the likeliest origin of a
    `<script>` in a table of questions is a question.
    """
    parts = HTML_TABLE.split(html)
    rules = [rule for _, css in HTML_SCRIPT.findall(parts[0]) for rule in CSS_RULE.findall(css)]
    sheet = "\n".join(f"{s.strip()} {{ {_style(rule)} }}" for s, rule in rules if s.strip().startswith("#T_"))
    parts[::2] = [HTML_SCRIPT.sub("", part) for part in parts[::2]]
    return sheet, bleach.clean("".join(parts), tags=TAGS, attributes=_attribute, protocols=PROTOCOLS)


def _style(rule: str) -> str:
    kept = CSSSanitizer(allowed_css_properties=CSS_PROPERTIES).sanitize_css(rule)
    # A ground without an ink of its own would be unreadable on a dark page.
    bare = "background-color" in kept and not re.search(r"(?<!-)color", kept)
    return f"{kept} color: #111;" if bare else kept


def _attribute(tag: str, name: str, value: str) -> bool:
    if name == "href":
        return not value.startswith("data:")
    return (tag, name) == ("img", "src") or name in {"alt", "class", "colspan", "id", "rowspan", "title"}


def read(text: str, mimetype: str, folder: Path, suffix: str) -> list[Node]:
    """Markdown, HTML or LaTeX as blocks that are safe to write.

    Images are embedded as data (those of `folder`, if relative), links between notebooks point to the
    documents made from them (ending in `suffix`), tables are ready to be set. Text that pandoc cannot read
    (broken LaTeX, say) is shown as it stands.
    """
    css = ""
    if mimetype == "text/html":
        css, text = clean_html(text)
    bold = set(re.findall(r"#(\w+)", " ".join(re.findall(r"([^{}]+)\{[^{}]*font-weight: *bold", css))))
    try:
        blocks = json.loads(pandoc(text, READERS[mimetype], "json"))["blocks"]
    except ReportError:
        return [{"t": "CodeBlock", "c": [NO_ATTRIBUTES, text]}]

    def neutral(key: str, value: Any, *_: Any) -> Node | list[Node] | None:
        match key:
            case "RawBlock" | "RawInline":
                return _as_text(key, value[1])
            case "Link":
                return _link(value, suffix)
            case "Image":
                source = _embedded(value[2][0], folder)
                alt = {"t": "Str", "c": stringify(value[1])}
                return {"t": "Image", "c": [NO_ATTRIBUTES, [alt], [source, ""]]} if source else alt
            case "Figure":
                # One whose picture is not there is the text in its place.
                lost = [image for image in images_in(value) if not _embedded(image[2][0], folder)]
                return {"t": "Para", "c": lost[0][1]} if lost else None
            case "Table":
                return {"t": key, "c": _ready(value, bold)}
            case "Div" | "Span":
                return {"t": key, "c": [NO_ATTRIBUTES, value[1]]}
            case "Para" | "Plain" | "Emph" | "Strong":
                return {"t": key, "c": _percents_kept(value)}
            case "Cite":
                return {"t": "Span", "c": [NO_ATTRIBUTES, value[1]]}
        return None

    style = [{"t": "RawBlock", "c": ["html", f"<style>{css}</style>"]}] if css else []
    return style + walk(blocks, neutral, "", {})


def _percents_kept(inlines: list[Node]) -> list[Node]:
    """The same with no line break between a number and its percent sign."""
    kept = list(inlines)
    for index, (number, space, sign) in enumerate(zip(inlines, inlines[1:], inlines[2:], strict=False)):
        text = [number["t"], space["t"], sign["t"]] == ["Str", "Space", "Str"]
        if text and number["c"][-1:].isdigit() and sign["c"].startswith("%"):
            kept[index + 1] = {"t": "Str", "c": "\xa0"}
    return kept


def _as_text(key: str, markup: str) -> Node | list[Node]:
    if markup.startswith("<!--"):
        return []
    if re.fullmatch(r"<br\s*/?>", markup):
        return {"t": "LineBreak"}
    text = {"t": "Str", "c": markup}
    return text if key == "RawInline" else {"t": "Para", "c": [text]}


def _link(value: list[Any], suffix: str) -> Node:
    _, shown, (target, _) = value
    if target.startswith("#"):
        target = target.lower()
    elif not re.match(r"[A-Za-z][\w+.-]*:", target):
        target = re.sub(r"\.ipynb(?=#|$)", suffix, target)
    elif not target.lower().startswith(("http:", "https:", "mailto:")):
        return {"t": "Span", "c": [NO_ATTRIBUTES, shown]}
    return {"t": "Link", "c": [NO_ATTRIBUTES, shown, [target, ""]]}


def _embedded(source: str, folder: Path) -> str | None:
    """An image's source as data; None if there is no such file, or if it would have to be fetched."""
    if source.startswith("data:image/") and DATA_URI.fullmatch(source):
        return source
    kind = next((kind for kind, ending in IMAGES.items() if source.endswith(ending)), "application/pdf")
    if kind == "application/pdf" or ":" in source or not (folder / source).is_file():
        return None
    return f"data:{kind};base64,{base64.b64encode((folder / source).read_bytes()).decode()}"


def images_in(value: Any) -> list[list[Any]]:
    """The contents of all images in a part of the tree."""
    found: list[Any] = []
    walk(value, lambda key, content, *_: found.append(content) if key == "Image" else None, "", {})
    return found


def _ready(value: list[Any], bold: set[str]) -> list[Any]:
    """A Table node's content with numbers to the right, one header row where pandas writes two, bold kept."""
    attributes, caption, columns, head, bodies, foot = value
    table = Table.of(value)
    if len(table.head) == 2 and all(cell[3] == 1 for row in table.head for cell in row[1]):
        pairs = list(zip(*(row[1] for row in table.head), strict=True))
        if all("" in map(cell_text, pair) for pair in pairs):
            head = [head[0], [[table.head[0][0], [upper if cell_text(upper) else lower for upper, lower in pairs]]]]
    entries: list[set[str]] = [set() for _ in columns]
    for column, cell in table.placed(table.body):
        entries[column].add(cell_text(cell))
        if cell[0][0] in bold:
            strong = [{"t": "Strong", "c": inlines["c"]} for inlines in cell[4] if inlines["t"] in ("Plain", "Para")]
            cell[4] = [{"t": "Plain", "c": strong}] if strong else cell[4]
    aligned = []
    for (alignment, _), texts in zip(columns, entries, strict=True):
        texts = {text for text in texts if text.lower() not in NO_NUMBER}
        numeric = bool(texts) and all(map(NUMBER.fullmatch, texts))
        if alignment["t"] == "AlignDefault":
            alignment = {"t": "AlignRight" if numeric else "AlignLeft"}
        aligned.append([alignment, {"t": "ColWidthDefault"}])
    return [attributes, caption, aligned, head, bodies, foot]


def cell_text(cell: list[Any]) -> str:
    """The text of a table's cell, with ordinary spaces."""
    return stringify(cell[4]).replace("\xa0", " ").strip()
