"""The works that reports cite: one BibTeX file, set in the same way in the notebook, in HTML and in PDF.

A notebook cites one by a link to it, `[(Xiao et al. 2024)](#ref-xiao2024)`, in pandoc's author-date style.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

from docfloqa.report.document_tree import Node, pandoc, write

BIBLIOGRAPHY = Path(__file__).parent / "references.bib"


@functools.cache
def references() -> list[Node]:
    """All works by author as blocks of pandoc's tree; each is a Div whose identifier is `ref-` and its BibTeX key."""
    return json.loads(pandoc(BIBLIOGRAPHY.read_text(encoding="utf-8"), "bibtex", "json", "--citeproc"))["blocks"]


def references_html() -> str:
    """The same list as HTML."""
    return write(references(), "html")
