"""Executed notebooks as documents to read: a page of HTML that needs no network, and a PDF set like a paper.

A notebook's metadata may say what it belongs to:
`docfloqa = {"study": str, "date": "YYYY-MM-DD", "commit": str, "settings": {name: value}}`. An image's output
metadata may carry `{"image/png": {"alt": str, "caption": str}}`. The first heading of level 1 is the title. Cells
tagged `remove_cell`, and outputs of cells tagged `remove_output`, stay out. The output of a cell tagged `abstract` is
set as one, in place of that of a cell tagged `references` stands the list of works cited, and the appendix begins with
the cell tagged `appendix`; at its end are the settings.
"""

import base64
import datetime
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import Exporter
from nbconvert.filters import strip_ansi
from nbformat import NotebookNode
from pandocfilters import stringify, walk
from tqdm.auto import tqdm
from traitlets import Bool, default

from docfloqa.files import write_whole
from docfloqa.report.document_tree import IMAGES, NO_ATTRIBUTES, Node, ReportError, read, references, write
from docfloqa.report.typst import compile_pdf, typst_of

__all__ = ["HtmlReport", "ReportError", "TypstExporter", "export", "export_study"]

PAGE = Path(__file__).parent / "templates" / "paper.html"
TEXTS = ["text/html", "text/markdown", "text/latex", "text/plain"]
LIVE = {"application/vnd.jupyter.widget-view+json", "application/javascript"}
PARAMETERS = {"parameters", "injected-parameters"}
# What nbformat raises, its own error apart, for JSON that is no notebook.
MALFORMED = (AttributeError, LookupError, TypeError, ValueError)
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ud800-\udfff]")
FOLD = "</details>"


def _raw(markup: str, writer: str = "html") -> Node:
    return {"t": "RawBlock", "c": [writer, markup]}


def _code(text: str, *classes: str) -> Node:
    return {"t": "CodeBlock", "c": [["", classes, []], text]}


def _div(name: str, blocks: list[Node]) -> Node:
    return {"t": "Div", "c": [["", [name], []], blocks]}


def _figure(source: str, alt: str, caption: str) -> Node:
    image = {"t": "Image", "c": [NO_ATTRIBUTES, [{"t": "Str", "c": alt}], [source, ""]]}
    captions = [{"t": "Plain", "c": [{"t": "Str", "c": caption}]}] if caption else []
    return {"t": "Figure", "c": [NO_ATTRIBUTES, [None, captions], [{"t": "Plain", "c": [image]}]]}


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _legible(value: Any) -> Any:
    """The same without what neither HTML nor PDF can hold: control characters and terminal colours."""
    if isinstance(value, str):
        return CONTROL.sub("\ufffd", strip_ansi(value))
    if isinstance(value, list):
        return [_legible(item) for item in value]
    if isinstance(value, dict):
        return NotebookNode({key: _legible(item) for key, item in value.items()})
    return value


class _Report(Exporter):
    """An executed notebook as one document of pandoc's tree, which the subclasses write."""

    accepted: Sequence[str]  # mimetypes that can be shown, best first

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **kw: Any
    ) -> tuple[Any, dict[str, Any]]:
        """The document; raises ReportError when an output cannot be set, or the metadata's date is none."""
        nb, resources = super().from_notebook_node(nb, resources, **kw)
        nb, about = _legible(nb), resources["metadata"]
        self._folder, self._title, self._blocks = Path(about.get("path") or "."), "", []
        for cell in nb.cells:
            self._add(cell)
        said, run = nb.metadata.get("docfloqa", {}), nb.metadata.get("papermill", {})
        # Never from the clock: the same notebook gives the same report.
        day = said.get("date") or (run.get("end_time") or "")[:10]
        try:
            date = datetime.date.fromisoformat(day) if day else None
        except ValueError as error:
            raise ReportError(f"metadata.docfloqa.date must be YYYY-MM-DD, not {day!r}") from error
        if date is None and about.get("modified_date"):
            date = datetime.datetime.strptime(about["modified_date"], "%B %d, %Y").date()
        self._add_settings(said.get("settings", run.get("parameters", {})))
        title = self._title or about.get("name") or "Notebook"
        return self._write(title, said.get("study", ""), date, said.get("commit", "")), resources

    def _add(self, cell: NotebookNode) -> None:
        tags, added = _tags(cell), []
        if cell.cell_type == "markdown":
            added = read(cell.source, "text/markdown", self._folder, self.file_extension)
            titles = [block for block in added if block["t"] == "Header" and block["c"][0] == 1]
            if titles and not self._title:
                self._title = stringify(titles[0]["c"][2])
                added.remove(titles[0])
        if "remove_cell" in tags:
            return
        if "appendix" in tags:
            added.insert(0, _raw("#show: appendix", "typst"))
        if cell.cell_type == "code":
            self._add_code(cell)
            outputs = [] if "remove_output" in tags else cell.outputs
            added = references() if "references" in tags else [block for o in outputs for block in self._shown(o)]
            added = [_div("abstract", added)] if "abstract" in tags else added
        self._blocks += added

    def _shown(self, output: NotebookNode) -> list[Node]:
        if output.output_type == "stream":
            return [_code(output.text, "output")] if output.name == "stdout" and output.text.strip() else []
        if output.output_type == "error":
            return [_code("\n".join(output.traceback), "output", "error")]
        mimetype = next((kind for kind in self.accepted if output.data.get(kind)), None)
        if mimetype is None or LIVE & set(output.data):
            return []
        data = output.data[mimetype]
        if mimetype == "text/plain":
            return [_code(data, "output")]
        if mimetype not in IMAGES:
            return [_div("output", read(data, mimetype, self._folder, self.file_extension))]
        said = [output.metadata.get(kind, {}) for kind in (mimetype, *IMAGES)]
        caption, alt = (next((each[key] for each in said if each.get(key)), "") for key in ("caption", "alt"))
        headings = [stringify(block["c"][2]) for block in self._blocks if block["t"] == "Header"]
        alt = alt or caption or f"Figure in “{(headings or [self._title or 'Notebook'])[-1]}”"
        if mimetype == "image/svg+xml" and data.lstrip().startswith("<"):
            data = base64.b64encode(data.encode()).decode()
        return [_figure(f"data:{mimetype};base64,{data}", alt, caption)]

    def _add_settings(self, settings: dict[str, Any]) -> None:
        if settings:
            texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
            rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in texts.items())
            table = f"<table><thead><tr><th>Setting</th><th>Value</th></tr></thead><tbody>{rows}</tbody></table>"
            heading = read("## Settings", "text/markdown", self._folder, "")
            self._blocks += [*heading, _div("output", read(table, "text/html", self._folder, ""))]


class TypstExporter(_Report):
    """An executed notebook as PDF: `jupyter nbconvert --to typst NOTEBOOK.ipynb`."""

    export_from_notebook = "PDF via Typst"
    output_mimetype = "application/pdf"
    accepted = (*IMAGES, *TEXTS)
    show_code = Bool(False, help="Show the sources of code cells.").tag(config=True)

    @default("file_extension")
    def _file_extension_default(self) -> str:
        return ".pdf"

    def _add_code(self, cell: NotebookNode) -> None:
        if self.show_code and cell.source.strip() and not PARAMETERS & _tags(cell):
            self._blocks.append(_code(cell.source, "python"))

    def _write(self, title: str, study: str, date: datetime.date | None, commit: str) -> bytes:
        source, files = typst_of(self._blocks, title, _byline(study, date, commit), date)
        return compile_pdf(source, files, date)


class HtmlReport(_Report):
    """An executed notebook as one page of HTML that fetches nothing and runs nothing; style sheets alone change it."""

    export_from_notebook = "HTML report"
    output_mimetype = "text/html"
    accepted = (*[kind for kind in IMAGES if kind != "application/pdf"], *TEXTS)

    @default("file_extension")
    def _file_extension_default(self) -> str:
        return ".html"

    def _add_code(self, cell: NotebookNode) -> None:
        if not cell.source.strip():
            return
        # Cells that show nothing are folded together with the one before.
        if self._blocks and self._blocks[-1] == _raw(FOLD):
            self._blocks.pop()
        else:
            self._blocks.append(_raw('<details class="code"><summary>code</summary>'))
        self._blocks += [_code(cell.source, "python"), _raw(FOLD)]

    def _write(self, title: str, study: str, date: datetime.date | None, commit: str) -> str:
        seen: set[str] = set()

        def named(key: str, value: Any, *_: Any) -> None:
            # Two cells may have a heading of the same name.
            if key == "Header":
                name = value[1][0] or "section"
                free = next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(seen) + 3))) if n not in seen)
                seen.add(free)
                value[1] = [free, [], []]

        walk(self._blocks, named, "", {})
        head = {"title": title, "study": study, "date": date and str(date), "commit": commit}
        head |= {"pagetitle": title, "byline": _byline(study, date, commit)}
        options = ["--standalone", "--mathml", "--toc", f"--template={PAGE}"]
        return write(self._blocks, "html", *options, **{name: text for name, text in head.items() if text})


def _byline(study: str, date: datetime.date | None, commit: str) -> str:
    day = f"{date.day} {date:%B %Y}" if date else ""
    return " · ".join(filter(None, (study and f"Study “{study}”", day, commit and f"commit {commit[:12]}")))


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
    try:
        nbformat.validate(json.loads(notebook.read_text(encoding="utf-8")))
        nb = nbformat.read(notebook, as_version=4)
    except (*MALFORMED, OSError, nbformat.ValidationError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ReportError(f"{notebook}: cannot be read as a notebook ({reason})") from error
    if not any(cell.get("execution_count") for cell in nb.cells if cell.cell_type == "code"):
        raise ReportError(f"{notebook}: was never executed (no code cell has an execution count)")
    written = []
    for name in formats:
        try:
            content, _ = EXPORTERS[name]().from_filename(str(notebook))
        except ReportError as error:
            raise ReportError(f"{notebook}: {error}") from error
        written.append(notebook.with_suffix(f".{name}"))
        write_whole(written[-1], content)
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
