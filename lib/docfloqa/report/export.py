"""Executed notebooks as documents to read: a page of HTML that needs no network, and a PDF set like a paper.

A notebook's metadata `docfloqa` has its study, date, commit, settings and the tags of cells that are `left_out`; an
image's output metadata has alt, caption and drawing (lines and text alone: turned in the dark). The first heading of
level 1 is the title. Cells tagged `remove_cell` stay out; the output of `abstract` is the box at the head, of
`references` the works cited; the appendix begins with the cell tagged `appendix`. A cell tagged `named-gains` names its
first figure or table with a caption: a link to `#named-gains` reads "Figure 1", and is its own text where that figure
is left out.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import typst
from nbconvert.exporters import Exporter
from nbformat import NotebookNode
from pandocfilters import Header, Image, Link, Plain, RawBlock, RawInline, Span, Str, stringify, walk
from tqdm.auto import tqdm

from docfloqa.exceptions import DocFloQAError
from docfloqa.files import write_whole
from docfloqa.report import document_tree as tree
from docfloqa.report.document_tree import NO_ATTRIBUTES, Node, read

PAGE, PAPER = (Path(__file__).parent / "templates" / name for name in ("paper.html", "paper.typ"))
SUFFIXES = {"application/pdf": "pdf", "image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}
# Words that mean nothing to Typst wherever they stand; any other text goes in as a quoted string.
PLAIN_WORD = re.compile(r"[^\W\d_][^\W_]*[,.;:!?]?")
UNDATED = "1970-01-01"  # never from the clock: the same notebook gives the same PDF
LONGEST_WORD = 24  # characters; the preamble lets longer ones break
NAMED = re.compile(r"#?named-[\w-]+")
LIVE = {"application/vnd.jupyter.widget-view+json", "application/javascript"}


class ReportError(DocFloQAError, ValueError):
    """A notebook, or a folder of them, that cannot become a report; the message names it."""


def document(nb: NotebookNode, name: str = "Notebook") -> tuple[list[Node], dict[str, str]]:
    """An executed notebook in pandoc's tree, and the texts above it: title (`name` where it has none), byline, date.

    A figure holds all its formats, the vectors first, and code is of the class "code": each writer takes what it can.
    """
    blocks: list[Node] = []
    title, about = "", nb.metadata.get("docfloqa", {})
    for cell in nb.cells:
        tags, added = cell.metadata.get("tags", []), []
        if cell.cell_type == "markdown":
            added = read(cell.source)
            heading = next((block for block in added if block["t"] == "Header" and block["c"][0] == 1), None)
            if heading and not title:
                title = stringify(heading["c"][2])
                added.remove(heading)
        if {"remove_cell", *about.get("left_out", ())} & {*tags}:
            continue
        if "appendix" in tags:
            added.insert(0, RawBlock("typst", "#show: appendix"))
        if cell.cell_type == "code":
            code = [tree.code_block(cell.source, "python")] if cell.source.strip() else []
            if blocks and blocks[-1]["t"] == "Div" and "code" in blocks[-1]["c"][0][1]:
                # Cells that show nothing are folded together with the one before.
                blocks[-1]["c"][1] += code
            elif code:
                blocks.append(tree.div("code", code))
            added = [block for output in cell.outputs for block in _shown(output)]
            added = tree.references() if "references" in tags else added
            added = [tree.div("abstract", added)] if "abstract" in tags else added
        for name, captioned in zip(filter(NAMED.fullmatch, tags), _captioned(added), strict=False):
            captioned["c"][0] = [name, [], []]
        blocks += added
    blocks = _cited(blocks)
    if settings := about.get("settings"):
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
        rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(text)}</td></tr>" for key, text in texts.items())
        table = f"<table><thead><tr><th>Setting</th><th>Value</th></tr></thead><tbody>{rows}</tbody></table>"
        blocks += [*read("## Settings"), tree.div("output", read(table, "text/html"))]
    study, date, commit = (about.get(key, "") for key in ("study", "date", "commit"))
    day = datetime.fromisoformat(date).strftime("%d %B %Y").lstrip("0") if date else ""
    byline = " · ".join(filter(None, (study and f"Study “{study}”", day, commit and f"commit {commit[:12]}")))
    head = {"title": title or name, "byline": byline, "study": study, "date": date, "commit": commit}
    return blocks, {key: tree.legible(text) for key, text in head.items() if text}


def _captioned(blocks: list[Node]) -> list[Node]:
    """The figures and tables that are counted, in their order."""
    found: list[Node] = []

    def keep(key: str, value: Any, *_: Any) -> None:
        if key in ("Figure", "Table") and stringify(value[1][1]):
            found.append({"t": key, "c": value})

    walk(blocks, keep, "", {})
    return found


def _cited(blocks: list[Node]) -> list[Node]:
    """Links to named figures and tables read as their numbers."""
    counts: Counter[str] = Counter()
    numbers = {}
    for one in _captioned(blocks):
        counts[one["t"]] += 1
        numbers[f"#{one['c'][0][0]}"] = f"{one['t']}\u00a0{counts[one['t']]}"

    def cite(key: str, value: Any, *_: Any) -> Node | None:
        if key != "Link" or not NAMED.fullmatch(target := value[2][0]):
            return None
        number = numbers.get(target)
        return Link(value[0], [Str(number)], value[2]) if number else Span(*value[:2])

    return walk(blocks, cite, "", {})


def _shown(output: NotebookNode) -> list[Node]:
    if output.output_type == "stream":
        return [tree.code_block(output.text, "output")] if output.name == "stdout" and output.text.strip() else []
    if output.output_type == "error":
        return [tree.code_block("\n".join(output.traceback), "output", "error")]
    if LIVE & set(output.data):
        return []
    if figures := {kind: output.data[kind] for kind in SUFFIXES if kind in output.data}:
        about = {key: text for kind in figures for key, text in output.metadata.get(kind, {}).items()}
        return [_figure(figures, about)]
    for mimetype in tree.READERS:
        if output.data.get(mimetype):
            return [tree.div("output", read(output.data[mimetype], mimetype))]
    return [tree.code_block(output.data["text/plain"], "output")] if "text/plain" in output.data else []


def _figure(figures: dict[str, str], about: dict[str, Any]) -> Node:
    caption, alt = (tree.legible(about.get(name) or "") for name in ("caption", "alt"))
    images, attributes = [], ["", ["drawing"] if about.get("drawing") else [], []]
    for kind, data in figures.items():
        data = base64.b64encode(data.encode()).decode() if kind == "image/svg+xml" else data
        source = f"data:{kind};base64,{data}"
        images.append(Image(attributes, [Str(alt or caption or "Figure")], [source, ""]))
    captions = [Plain([Str(caption)])] if caption else []
    return {"t": "Figure", "c": [NO_ATTRIBUTES, [None, captions], [Plain(images)]]}


def html_of(blocks: list[Node], head: dict[str, str]) -> str:
    """One page of HTML that fetches nothing and runs nothing; style sheets alone change it."""
    anchors: Counter[str] = Counter()

    def shown(key: str, value: Any, *_: Any) -> Node | list[Node] | None:
        match key:
            case "Header":
                anchors[name := value[1][0]] += 1
                anchor = f"{name}:{anchors[name]}" if anchors[name] > 1 else name
                return Header(value[0], [anchor, [], []], value[2])
            case "Figure":
                # An SVG of many points weighs more than its picture.
                images = [image for image in value[2][0]["c"] if image["c"][2][0].startswith("data:image/")]
                smallest = min(images, key=lambda image: len(image["c"][2][0]), default=value[2][0]["c"][0]["c"][1][0])
                return {"t": key, "c": [*value[:2], [Plain([smallest])]]}
            case "Div" if "code" in value[0][1]:
                fold = '<details class="code"><summary>code</summary>'
                return [RawBlock("html", fold), *value[1], RawBlock("html", "</details>")]
            case "Link":
                return Link(*value[:2], [re.sub(r"\.ipynb(?=#|$)", ".html", value[2][0]), ""])
        return None

    options = ["--standalone", "--mathml", "--toc", f"--template={PAGE}"]
    return tree.write(walk(blocks, shown, "", {}), "html", *options, pagetitle=head["title"], **head)


def quoted(text: str) -> str:
    """Legible text as a Typst string, on one line: without control characters it is written as in JSON."""
    return json.dumps(text, ensure_ascii=False)


def typst_of(blocks: list[Node], head: dict[str, str]) -> tuple[str, dict[str, bytes]]:
    """A document's source, and the pictures that it names, by file name; both arguments as `document` gives them."""
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
                return RawInline("typst", f"#{quoted(value)};")
            case "Code":
                return RawInline("typst", f"#raw({quoted(value[1])});")
            case "CodeBlock":
                # There is no fence that the text could close.
                return RawBlock("typst", f"#raw(block: true, {quoted(value[1].rstrip())})")
            case "Header" if value[0] > 1:
                # The title alone is above the sections.
                return Header(value[0] - 1, *value[1:])
            case "Link" if value[2][0].startswith("#"):
                opening = RawInline("typst", f"#go({quoted(value[2][0][1:])})[")
                return [opening, *walk(value[1], leaf, "", {}), RawInline("typst", "];")]
            case "Link":
                return Link(*value[:2], [re.sub(r"\.ipynb(?=#|$)", ".pdf", value[2][0]), ""])
            case "Figure":
                return RawBlock("typst", f"#{picture(value[2][0]['c'][0]['c'], stringify(value[1][1]))}{_label(value)}")
            case "Image":
                return RawInline("typst", f"#{picture(value, '')};")
            case "Table":
                return _table(value)
            case "Div" if "code" in value[0][1]:
                return []
            case "Div" if name := {"abstract", "references"} & set(value[0][1]):
                return [RawBlock("typst", f"#{name.pop()}["), *walk(value[1], leaf, "", {}), RawBlock("typst", "]")]
            case "Div" if not value[0][0]:
                return walk(value[1], leaf, "", {})
        return None

    call = f"  title: {quoted(head['title'])},\n  byline: {quoted(head.get('byline', ''))},"
    body = tree.write(walk(blocks, leaf, "", {}), "typst-smart").strip()
    return f"{PAPER.read_text(encoding='utf-8')}\n#show: paper.with(\n{call}\n)\n\n{body}", files


def _label(node: list[Any]) -> str:
    """The anchor of a named figure or table."""
    return f" <{node[0][0]}>" if NAMED.fullmatch(node[0][0]) else ""


def _array(items: Iterable[str]) -> str:
    return "(" + "".join(f"{item}, " for item in items) + ")"


def _table(table: list[Any]) -> list[Node]:
    """A table as a call of the preamble's `paper-table`, its cells still blocks between the brackets."""
    (_, caption), columns, (_, head), body = *table[1:4], tree.body_of(table)
    lines, longest = [""] * len(columns), [""] * len(columns)
    for column, cell in tree.cells(head + body):
        if cell[3] == 1:
            lines[column] = max(lines[column], tree.cell_text(cell), key=len)
            # An interval has no-break spaces: it is one word.
            pieces = [word[:LONGEST_WORD] for word in re.split(r"[^\S\xa0]+", stringify(cell[4]))]
            longest[column] = max(longest[column], *pieces, key=len)
    sides = _array(alignment["t"].removeprefix("Align").lower() for alignment, _ in columns)
    measures = f"words: {_array(map(quoted, longest))}, lines: {_array(map(quoted, lines))}"
    nodes = [RawBlock("typst", f"#paper-table(align: {sides}, {measures},")]
    if caption:
        nodes += [RawBlock("typst", "caption: ["), *caption, RawBlock("typst", "],")]
    header = [RawBlock("typst", "header: ("), *_set(head, '#set text(weight: "bold")'), RawBlock("typst", "),")]
    return [*nodes, *header, *_set(body), RawBlock("typst", f"){_label(table)}")]


def _set(rows: list[list[Any]], style: str = "") -> Iterator[Node]:
    for cell in (cell for _, row in rows for cell in row):
        centred = ", align: center" if cell[3] > 1 else ""
        yield RawBlock("typst", f"table.cell(rowspan: {cell[2]}, colspan: {cell[3]}{centred})[{style}")
        yield from cell[4]
        yield RawBlock("typst", "],")


def pdf_of(blocks: list[Node], head: dict[str, str]) -> bytes:
    """A short paper on A4, without code, of its date or of `UNDATED`; raises TypstError when a picture is none."""
    source, files = typst_of(blocks, head)
    midnight = datetime.fromisoformat(f"{head.get('date', UNDATED)}T00:00:00Z")
    with TemporaryDirectory() as folder:
        main = Path(folder) / "main.typ"
        for name, content in {main.name: source.encode(), **files}.items():
            main.with_name(name).write_bytes(content)
        return typst.compile(main, format="pdf", ignore_system_fonts=True, timestamp=midnight)


class TypstExporter(Exporter):
    """An executed notebook as PDF: `jupyter nbconvert --to typst NOTEBOOK.ipynb`."""

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"
    file_extension = ".pdf"

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[bytes, dict[str, Any]]:
        """The PDF, and what nbconvert knows of it."""
        nb, resources = super().from_notebook_node(nb, resources, **kw)
        return pdf_of(*document(nb)), resources


def export(notebook: Path) -> list[Path]:
    """Write an executed notebook's page and PDF beside it, each whole or not at all; returns both.

    Raises ReportError, naming the notebook, if it cannot be read or shown, or was never executed.
    """
    try:
        nb = nbformat.read(notebook, as_version=4)
        nbformat.validate(nb)
    except Exception as error:
        # Of JSON that is no notebook nbformat raises anything.
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ReportError(f"{notebook}: cannot be read as a notebook ({reason})") from error
    if not any(cell.get("execution_count") for cell in nb.cells):
        raise ReportError(f"{notebook}: was never executed (no code cell has an execution count)")
    try:
        paper = document(nb, notebook.stem)
        contents = {".html": html_of(*paper), ".pdf": pdf_of(*paper)}
    except (RuntimeError, ValueError) as error:
        # pandoc's and Typst's, and a date that is none.
        raise ReportError(f"{notebook}: {error}") from error
    for suffix, content in contents.items():
        write_whole(notebook.with_suffix(suffix), content)
    return [*map(notebook.with_suffix, contents)]


def export_study(folder: Path) -> list[Path]:
    """Export every executed `NN_*.ipynb` in `folder`, in order; returns the files; raises ReportError for none."""
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise ReportError(f"{folder}: no notebook named NN_*.ipynb to report on")
    bar = tqdm(notebooks, desc="reports", unit="notebook", disable=None)
    return [path for notebook in bar for path in export(notebook)]
