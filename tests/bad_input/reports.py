"""What reports and figures make of texts out of data; slower than the other classes, so several texts a case."""

import tempfile
import xml.etree.ElementTree as ET
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pypdfium2
from datasets import Dataset
from hypothesis import strategies as st
from PIL import Image

from bad_input.case import BadInput
from bad_input.rows import row
from bad_input.texts import ANY_TEXT, TRICKY, Page
from docfloqa.apps.browser import table_html
from docfloqa.data.schema import FEATURES
from docfloqa.figures.data import plot_samples
from docfloqa.figures.style import render
from docfloqa.report.export import export
from docfloqa.text import to_markdown

SAFE = "the last cell of the table"
RUNNING = {"script", "iframe", "object", "embed", "form", "svg", "base", "link", "meta"}


def notebook_of(texts: list[str]) -> nbformat.NotebookNode:
    """An executed notebook that shows texts in every way in which the project's notebooks do."""
    frame = pd.DataFrame({"said": [*texts, SAFE]})
    image = {"image/svg+xml": "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"}
    about = {kind: {"alt": texts[0], "caption": texts[-1]} for kind in image}
    outputs = [
        nbformat.v4.new_output("display_data", {"text/markdown": to_markdown(frame)}),
        nbformat.v4.new_output("display_data", {"text/html": table_html(frame, texts[0])}),
        nbformat.v4.new_output("display_data", {"text/html": frame.to_html()}),
        nbformat.v4.new_output("display_data", image, metadata=about),
        nbformat.v4.new_output("stream", name="stdout", text="\n".join(texts)),
        nbformat.v4.new_output("error", ename="E", evalue=texts[0], traceback=texts),
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# Title"),
        nbformat.v4.new_code_cell("x", execution_count=1, outputs=outputs),
    ]
    metadata = {"docfloqa": {"study": "x", "date": "2000-01-01", "commit": "x", "settings": {"data": texts[0]}}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def tags_of(html: str) -> dict[str, int]:
    page = Page(html)
    return {tag: page.tags.count(tag) for tag in RUNNING}


def reported(texts: list[str]) -> int:
    with tempfile.TemporaryDirectory() as name:
        made = {}
        for which, shown in (("harmless", ["x"] * len(texts)), ("tricky", texts)):
            path = Path(name) / f"{which}.ipynb"
            nbformat.write(notebook_of(shown), path)
            made[which] = export(path)
        html, pdf = made["tricky"]
        harmless, _ = made["harmless"]
        page = Page(html.read_text(encoding="utf-8"))
        assert tags_of(html.read_text(encoding="utf-8")) == tags_of(harmless.read_text(encoding="utf-8"))
        assert not [one for one in page.attributes if one.startswith("on")]
        assert "".join(page.texts).count(SAFE) == 3
        with pypdfium2.PdfDocument(pdf) as document:
            pages = [one.get_textpage().get_text_bounded() for one in document]
        assert " ".join(" ".join(pages).split()).count(SAFE) == 3
    return len(texts)


def drawn(texts: list[str]) -> int:
    rows = [row("train", place, question=text, answers=[text]) for place, text in enumerate(texts)]
    pages = Dataset.from_list(rows, features=FEATURES).add_column(
        "page", [str(place // 4) for place in range(len(texts))]
    )
    figure = plot_samples(pages)
    try:
        ET.fromstring(render(figure, "svg"))
        assert Image.open(BytesIO(render(figure, "png"))).size[0] > 100
        assert render(figure, "pdf").startswith(b"%PDF-")
    finally:
        plt.close(figure)
    return len(texts)


REPORTS = [
    BadInput(
        "text in reports, HTML and PDF",
        "the report is made, with no more tags than one of harmless text",
        st.lists(TRICKY | ANY_TEXT, min_size=24, max_size=24),
        reported,
        0.1,
    ),
    BadInput(
        "text in figures",
        "drawn as text in PNG, SVG and PDF",
        st.lists(TRICKY | ANY_TEXT, min_size=16, max_size=16),
        drawn,
        0.15,
    ),
]
