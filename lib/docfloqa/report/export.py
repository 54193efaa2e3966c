"""Executed notebooks as documents to read: a page of HTML that needs no network, and a PDF set like a paper.

A notebook's metadata may say what it belongs to:
`docfloqa = {"study": str, "date": "YYYY-MM-DD", "commit": str, "settings": {name: value}}`. An image's output
metadata may carry `{"image/png": {"alt": str, "caption": str}}`. The first heading of level 1 is the title. Cells
tagged `remove_cell`, and outputs of cells tagged `remove_output`, stay out. The output of a cell tagged `abstract` is
set as one, in place of that of a cell tagged `references` stands the list of works cited, and the appendix begins with
the cell tagged `appendix`; at its end are the settings.
"""

import datetime
import itertools
import json
import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from nbconvert.exporters import Exporter, HTMLExporter
from nbconvert.filters import Highlight2HTML, strip_ansi
from nbconvert.preprocessors import Preprocessor
from nbformat import NotebookNode
from pandocfilters import stringify, walk
from tqdm.auto import tqdm
from traitlets import Bool, List, Unicode, default

from docfloqa.report.document_tree import IMAGES, ReportError, clean_html, read, references_html, write
from docfloqa.report.typst import Document

__all__ = ["HtmlReport", "ReportError", "TypstExporter", "export", "export_study"]

TEMPLATES = Path(__file__).parent / "templates"
TEXTS = ["text/html", "text/markdown", "text/latex", "text/plain"]
LIVE = {"application/vnd.jupyter.widget-view+json", "application/javascript"}
PARAMETERS = {"parameters", "injected-parameters"}
# What nbformat raises, its own error apart, for JSON that is no notebook.
MALFORMED = (AttributeError, LookupError, TypeError, ValueError)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ud800-\udfff]")


@dataclass(frozen=True)
class About:
    """What stands at the head and the end of a report."""

    title: str
    study: str = ""
    date: datetime.date | None = None
    commit: str = ""
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def byline(self) -> str:
        """Study, day and commit, as far as they are known."""
        day = f"{self.date.day} {self.date:%B %Y}" if self.date else ""
        study = f"Study “{self.study}”" if self.study else ""
        return " · ".join(part for part in (study, day, self.commit and f"commit {self.commit[:12]}") if part)

    @classmethod
    def of(cls, nb: NotebookNode, resources: dict[str, Any]) -> "About":
        """Read it from the notebook, never from the clock: the same notebook gives the same report.

        Raises ReportError if the metadata's date is none.
        """
        said = nb.metadata.get("docfloqa", {})
        run = nb.metadata.get("papermill", {})
        modified = resources["metadata"].get("modified_date")
        day = said.get("date") or (run.get("end_time") or "")[:10]
        try:
            date = datetime.date.fromisoformat(day) if day else None
        except ValueError as error:
            raise ReportError(f"metadata.docfloqa.date must be YYYY-MM-DD, not {day!r}") from error
        if date is None and modified:
            date = datetime.datetime.strptime(modified, "%B %d, %Y").date()
        settings = said.get("settings", run.get("parameters", {}))
        return cls(
            title=_title(nb) or resources["metadata"].get("name") or "Notebook",
            study=said.get("study", ""),
            date=date,
            commit=said.get("commit", ""),
            settings={name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()},
        )


def _title(nb: NotebookNode) -> str | None:
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            for block in read(cell.source, "text/markdown", Path(), ""):
                if block["t"] == "Header" and block["c"][0] == 1:
                    return stringify(block["c"][2])
    return None


class Prepare(Preprocessor):
    """Reduces a notebook to what a reader is to see; each output to the best mimetype of `accepted`."""

    accepted = List(Unicode(), help="Mimetypes that the exporter can show, best first.")

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """Raises ReportError as `About.of` does."""
        nb = _legible(nb)
        resources["about"] = About.of(nb, resources)
        nb.cells = [cell for cell in nb.cells if "remove_cell" not in _tags(cell)]
        section = resources["about"].title
        for cell in nb.cells:
            if cell.cell_type == "markdown":
                headings = re.findall(r"^#{1,6} +(.+)$", cell.source, re.MULTILINE)
                section = headings[-1] if headings else section
            elif cell.cell_type == "code":
                silent = "remove_output" in _tags(cell)
                cell.outputs = [] if silent else [o for o in cell.outputs if self._reduce(o, section)]
        return nb, resources

    def _reduce(self, output: NotebookNode, section: str) -> bool:
        if output.output_type == "stream":
            return output.name == "stdout" and bool(output.text.strip())
        if output.output_type == "error":
            return True
        mimetype = next((kind for kind in self.accepted if output.data.get(kind)), None)
        if mimetype is None or LIVE & set(output.data):
            return False
        about = [output.metadata.get(kind, {}) for kind in (mimetype, *IMAGES)]
        caption = next((entry["caption"] for entry in about if entry.get("caption")), "")
        alt = next((entry["alt"] for entry in about if entry.get("alt")), caption or f"Figure in “{section}”")
        output.data = NotebookNode({mimetype: output.data[mimetype]})
        output.metadata["report"] = NotebookNode(alt=alt, caption=caption)
        return True


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _legible(value: Any) -> Any:
    """The same without what neither HTML nor PDF can hold: control characters and terminal colours."""
    if isinstance(value, str):
        return CONTROL.sub("\ufffd", strip_ansi(value))
    if isinstance(value, list):
        return [_legible(item) for item in value]
    if isinstance(value, dict):
        return NotebookNode({key: _legible(item) for key, item in value.items()})
    return value


class TypstExporter(Exporter):
    """An executed notebook as PDF: `jupyter nbconvert --to typst NOTEBOOK.ipynb`."""

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"
    show_code = Bool(False, help="Show the sources of code cells.").tag(config=True)

    @default("file_extension")
    def _file_extension_default(self) -> str:
        return ".pdf"

    def _init_preprocessors(self) -> None:
        super()._init_preprocessors()
        self.register_preprocessor(Prepare(accepted=[*IMAGES, *TEXTS]), enabled=True)

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[bytes, dict[str, Any]]:
        """The PDF's bytes; raises ReportError when an output cannot be set."""
        nb, resources = super().from_notebook_node(nb, resources, **kw)
        about = resources["about"]
        document = Document(Path(resources["metadata"].get("path") or "."))
        for cell in nb.cells:
            self._add(cell, document)
        document.add_settings(about.settings)
        source = document.source(about.byline, about.date, about.title)
        return document.pdf(source, about.date), resources

    def _add(self, cell: NotebookNode, document: Document) -> None:
        tags = _tags(cell)
        if "appendix" in tags:
            document.begin_appendix()
        if cell.cell_type == "markdown":
            document.add_text(cell.source)
        elif cell.cell_type == "code":
            if self.show_code and cell.source.strip() and not PARAMETERS & set(tags):
                document.add_code(cell.source)
            if "references" in tags:
                document.add_references()
                return
            with document.inside("abstract") if "abstract" in tags else nullcontext():
                for output in cell.outputs:
                    document.add_output(output)


class HtmlReport(HTMLExporter):
    """An executed notebook as one page of HTML that fetches nothing and runs nothing; style sheets alone change it."""

    export_from_notebook = "HTML report"

    @default("template_name")
    def _template_name_default(self) -> str:
        return "paper"

    @default("extra_template_basedirs")
    def _extra_template_basedirs_default(self) -> list[str]:
        return [str(TEMPLATES)]

    def _init_preprocessors(self) -> None:
        super()._init_preprocessors()
        self.register_preprocessor(Prepare(accepted=[*list(IMAGES)[1:], *TEXTS]), enabled=True)

    def default_filters(self) -> Any:
        """nbconvert's filters, and `prose` for everything that pandoc reads."""
        yield from super().default_filters()
        yield "prose", self._prose

    def _prose(self, text: str, mimetype: str, path: str) -> str:
        blocks = read(text, mimetype, Path(path or "."), ".html")
        html = write(walk(blocks, _highlight, "", {}), "html", "--mathml")
        # pandoc numbers the footnotes of every cell from 1.
        html = re.sub(r'((?:id="|href="#)fn(?:ref)?)(?=\d)', rf"\g<1>{next(self._parts)}-", html)
        css = clean_html(text)[0] if mimetype == "text/html" else ""
        return f"<style>{css}</style>\n{html}" if css else html

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[str, dict[str, Any]]:
        """The page; raises ReportError as `Prepare` does."""
        self._parts = itertools.count(1)
        resources = resources or {}
        resources["references"] = references_html()
        html, resources = super().from_notebook_node(nb, resources, **kw)
        page = BeautifulSoup(html, features="html.parser")
        if title := page.select_one("main h1"):
            page.select_one("header h1").replace_with(title.extract())
        for fold in page.select("details.code + details.code"):
            first = fold.find_previous_sibling("details")
            first.extend(fold.find_all("div", class_="highlight"))
            fold.extract()
        contents = []
        seen: set[str] = set()
        for heading in page.select("main :is(h2, h3)"):
            name = heading["id"] = _unused(heading.get("id") or "section", seen)
            link = f'<a href="#{escape(name)}">{escape(heading.text)}</a>'
            contents.append(f'<li class="{heading.name}">{link}</li>')
        page.select_one("nav ul").append(BeautifulSoup("".join(contents), features="html.parser"))
        return str(page), resources


def _highlight(key: str, value: Any, *_: Any) -> dict[str, Any] | None:
    language = value[0][1][0] if key == "CodeBlock" and value[0][1] else ""
    # Not every nbconvert escapes the language that it writes into the page.
    if not re.fullmatch(r"[\w+-]+", language):
        return None
    return {"t": "RawBlock", "c": ["html", Highlight2HTML()(value[1], language=language)]}


def _unused(name: str, seen: set[str]) -> str:
    """`name`, numbered if two cells have a heading of that name."""
    free = next(n for n in (name, *(f"{name}-{count}" for count in range(2, len(seen) + 3))) if n not in seen)
    seen.add(free)
    return free


EXPORTERS: dict[str, type[Exporter]] = {"html": HtmlReport, "pdf": TypstExporter}


def export(notebook: Path, formats: Sequence[str] = ("html", "pdf")) -> list[Path]:
    """Write an executed notebook's reports beside it; each file appears whole or not at all.

    Returns their paths in the order of `formats`. Raises ReportError, naming the notebook, if it cannot be
    read, was never executed or holds something that cannot be shown, and ValueError for a format that is
    neither html nor pdf.
    """
    notebook = Path(notebook)
    unknown = set(formats) - set(EXPORTERS)
    if unknown:
        raise ValueError(f"formats: {', '.join(sorted(unknown))} (allowed: {', '.join(EXPORTERS)})")
    _check(notebook)
    written = []
    for name in formats:
        try:
            content, _ = EXPORTERS[name]().from_filename(str(notebook))
        except ReportError as error:
            raise ReportError(f"{notebook}: {error}") from error
        target = notebook.with_suffix(f".{name}")
        partial = notebook.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(content if isinstance(content, bytes) else content.encode())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        written.append(target)
    return written


def export_study(folder: Path, formats: Sequence[str] = ("html", "pdf")) -> list[Path]:
    """Export every executed `NN_*.ipynb` directly inside `folder`, in the order of their numbers.

    Returns the paths written. Raises ReportError, naming the folder, if it holds none, and as `export` does.
    """
    notebooks = sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise ReportError(f"{folder}: no notebook named NN_*.ipynb to report on")
    shown = tqdm(notebooks, desc="reports", unit="notebook")
    return [path for notebook in shown for path in export(notebook, formats)]


def _check(notebook: Path) -> None:
    try:
        content = json.loads(notebook.read_text(encoding="utf-8"))
        nbformat.validate(content)
        nb = nbformat.read(notebook, as_version=4)
    except (*MALFORMED, OSError, nbformat.ValidationError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ReportError(f"{notebook}: cannot be read as a notebook ({reason})") from error
    if not any(cell.get("execution_count") for cell in nb.cells if cell.cell_type == "code"):
        raise ReportError(f"{notebook}: was never executed (no code cell has an execution count)")
