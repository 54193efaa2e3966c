"""Executed notebooks as documents to read: a page of HTML that needs no network, and a PDF set like a paper.

A notebook's metadata says what it belongs to:
`docfloqa = {"study": str, "date": "YYYY-MM-DD", "commit": str, "settings": {name: value}}`. An image's output
metadata may carry `{"image/png": {"alt": str, "caption": str}}`. The first heading of level 1 is the title. Cells
tagged `remove_cell` stay out. The output of a cell tagged `abstract` is set as one, in place of that of a cell tagged
`references` stands the list of works cited, and the appendix begins with the cell tagged `appendix`; at its end are
the settings.
"""

import base64
import datetime
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import pandas as pd
from nbconvert.exporters import Exporter
from nbformat import NotebookNode
from pandocfilters import stringify, walk
from tqdm.auto import tqdm

from docfloqa.exceptions import DocFloQAError
from docfloqa.files import write_whole
from docfloqa.report.document_tree import (
    NO_ATTRIBUTES,
    READERS,
    Node,
    code_block,
    div,
    legible,
    raw,
    read,
    references,
    words,
    write,
)
from docfloqa.report.typst import SUFFIXES, compile_pdf, typst_of
from docfloqa.text import to_markdown

PAGE = Path(__file__).parent / "templates" / "paper.html"
LIVE = {"application/vnd.jupyter.widget-view+json", "application/javascript"}
MARKDOWN = "text/markdown"


class ReportError(DocFloQAError, ValueError):
    """A notebook, or a folder of them, that cannot become a report; the message names it."""


class Document(NamedTuple):
    """An executed notebook in pandoc's tree, with what stands above it."""

    blocks: list[Node]
    title: str
    study: str
    date: datetime.date | None
    commit: str

    @property
    def byline(self) -> str:
        """Study, date and commit on one line."""
        day = f"{self.date.day} {self.date:%B %Y}" if self.date else ""
        parts = (self.study and f"Study “{self.study}”", day, self.commit and f"commit {self.commit[:12]}")
        return " · ".join(filter(None, parts))


def document(nb: NotebookNode, name: str = "Notebook") -> Document:
    """An executed notebook as a document, `name` being its title where it has none.

    A figure holds all its formats, the vectors first, and code is in divisions of the class "code": each writer takes
    what it can show.
    """
    blocks: list[Node] = []
    title, about = "", nb.metadata.get("docfloqa", {})
    for cell in nb.cells:
        tags, added = cell.metadata.get("tags", []), []
        if cell.cell_type == "markdown":
            added = read(cell.source, MARKDOWN)
            heading = next((block for block in added if block["t"] == "Header" and block["c"][0] == 1), None)
            if heading and not title:
                title = stringify(heading["c"][2])
                added.remove(heading)
        if "remove_cell" in tags:
            continue
        if "appendix" in tags:
            added.insert(0, raw("#show: appendix", "typst"))
        if cell.cell_type == "code":
            code = [code_block(cell.source, "python")] if cell.source.strip() else []
            if blocks and blocks[-1]["t"] == "Div" and "code" in blocks[-1]["c"][0][1]:
                # Cells that show nothing are folded together with the one before.
                blocks[-1]["c"][1] += code
            elif code:
                blocks.append(div("code", code))
            added = references() if "references" in tags else [b for output in cell.outputs for b in _shown(output)]
            added = [div("abstract", added)] if "abstract" in tags else added
        blocks += added
    if settings := about.get("settings"):
        texts = [(key, value if isinstance(value, str) else json.dumps(value)) for key, value in settings.items()]
        table = to_markdown(pd.DataFrame(texts, columns=["Setting", "Value"]))
        blocks += [*read("## Settings", MARKDOWN), div("output", read(table, MARKDOWN))]
    # Never from the clock: the same notebook gives the same report.
    date = datetime.date.fromisoformat(about["date"]) if about.get("date") else None
    return Document(_linked(blocks), title or name, legible(about.get("study", "")), date, about.get("commit", ""))


def _shown(output: NotebookNode) -> list[Node]:
    if output.output_type == "stream":
        return [code_block(output.text, "output")] if output.name == "stdout" and output.text.strip() else []
    if output.output_type == "error":
        return [code_block("\n".join(output.traceback), "output", "error")]
    if LIVE & set(output.data):
        return []
    if figures := {kind: output.data[kind] for kind in SUFFIXES if kind in output.data}:
        about = {key: text for kind in figures for key, text in output.metadata.get(kind, {}).items()}
        return [_figure(figures, about.get("caption", ""), about.get("alt", ""))]
    for mimetype in READERS:
        if output.data.get(mimetype):
            return [div("output", read(output.data[mimetype], mimetype))]
    return [code_block(output.data["text/plain"], "output")] if "text/plain" in output.data else []


def _figure(figures: dict[str, str], caption: str, alt: str) -> Node:
    images = []
    for kind, data in figures.items():
        data = base64.b64encode(data.encode()).decode() if kind == "image/svg+xml" else data
        source = f"data:{kind};base64,{data}"
        images.append({"t": "Image", "c": [NO_ATTRIBUTES, [words(alt or caption or "Figure")], [source, ""]]})
    captions = [{"t": "Plain", "c": [words(caption)]}] if caption else []
    return {"t": "Figure", "c": [NO_ATTRIBUTES, [None, captions], [{"t": "Plain", "c": images}]]}


def _linked(blocks: list[Node]) -> list[Node]:
    """Blocks in which no two headings have the same anchor, and no link leads to none."""
    anchors: Counter[str] = Counter()

    def anchored(key: str, value: Any, *_: Any) -> None:
        if key == "Header":
            name = value[1][0]
            anchors[name] += 1
            value[1] = [f"{name}:{anchors[name]}" if anchors[name] > 1 else name, [], []]
        elif key == "Div":
            anchors[value[0][0]] += 1

    def linked(key: str, value: Any, *_: Any) -> Node | None:
        if key == "Link" and value[2][0].startswith("#"):
            anchor = value[2][0][1:].lower()
            link = {"t": "Link", "c": [*value[:2], [f"#{anchor}", ""]]}
            return link if anchor in anchors else {"t": "Span", "c": value[:2]}
        return None

    walk(blocks, anchored, "", {})
    return walk(blocks, linked, "", {})


def html_of(paper: Document) -> str:
    """One page of HTML that fetches nothing and runs nothing; style sheets alone change it."""

    def shown(key: str, value: Any, *_: Any) -> Node | list[Node] | None:
        match key:
            case "Figure":
                # An SVG of many points weighs more than its picture.
                images = [image for image in value[2][0]["c"] if image["c"][2][0].startswith("data:image/")]
                smallest = min(images, key=lambda image: len(image["c"][2][0]), default=value[2][0]["c"][0]["c"][1][0])
                return {"t": key, "c": [*value[:2], [{"t": "Plain", "c": [smallest]}]]}
            case "Div" if "code" in value[0][1]:
                fold = '<details class="code"><summary>code</summary>'
                return [raw(fold, "html"), *value[1], raw("</details>", "html")]
            case "Link":
                target = re.sub(r"\.ipynb(?=#|$)", ".html", value[2][0])
                return {"t": key, "c": [*value[:2], [target, ""]]}
        return None

    head = {"title": paper.title, "pagetitle": paper.title, "byline": paper.byline, "study": paper.study}
    head |= {"date": str(paper.date or ""), "commit": paper.commit}
    options = ["--standalone", "--mathml", "--toc", f"--template={PAGE}"]
    said = {name: text for name, text in head.items() if text}
    return write(walk(paper.blocks, shown, "", {}), "html", *options, **said)


def pdf_of(paper: Document) -> bytes:
    """A short paper on A4, without code."""
    source, files = typst_of(paper.blocks, paper.title, paper.byline, paper.date)
    return compile_pdf(source, files, paper.date)


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
        return pdf_of(document(nb, resources["metadata"].get("name", "Notebook"))), resources


def export(notebook: Path) -> list[Path]:
    """Write an executed notebook's page and PDF beside it, each whole or not at all; returns both.

    Raises ReportError, naming the notebook, if it cannot be read, was never executed or holds something that cannot
    be shown.
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
        contents = {".html": html_of(paper), ".pdf": pdf_of(paper)}
    except (RuntimeError, ValueError) as error:
        # pandoc's and Typst's, and a date that is none.
        raise ReportError(f"{notebook}: {error}") from error
    for suffix, content in contents.items():
        write_whole(notebook.with_suffix(suffix), content)
    return [notebook.with_suffix(suffix) for suffix in contents]


def export_study(folder: Path) -> list[Path]:
    """Export every executed `NN_*.ipynb` directly inside `folder`, in the order of their numbers; returns the files.

    Raises ReportError, naming the folder, if it holds none, and as `export` does.
    """
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise ReportError(f"{folder}: no notebook named NN_*.ipynb to report on")
    return [path for notebook in tqdm(notebooks, desc="reports", unit="notebook") for path in export(notebook)]
