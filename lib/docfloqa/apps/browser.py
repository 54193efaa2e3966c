"""A browser of a data set's pages, and what every widget is made of: controls with labels, escaped HTML."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import ipywidgets
import pandas as pd
from datasets import DatasetDict
from PIL import Image, ImageOps

from docfloqa.data.images import as_page
from docfloqa.data.load import SPLITS
from docfloqa.figures.data import questions

ALL_SPLITS, ALL_TYPES = "both splits", "all types"
LISTED = 200  # pages or questions in a list to choose from
SHOWN_PAGE = 1000  # pixels of the longer side of a page that is shown


def control(kind: type[ipywidgets.DOMWidget], label: str, tooltip: str, **traits: Any) -> Any:
    """A control as wide as its place, with a label that is never cut off and a tooltip that says what it does."""
    widget = kind(description=label, tooltip=tooltip, **traits)
    widget.style.description_width = "initial"
    widget.layout.width = "auto"
    return widget


def offer(choice: Any, options: Sequence[Any]) -> None:
    """Give a list to choose from other options, the first of which is chosen where there is one."""
    choice.options = options
    choice.index = 0 if options else None


def text_html(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def page_html(page: Image.Image, alt: str) -> str:
    """A whole page as large as its place and the window allow, with its text alternative."""
    shown = as_page(page)
    shown.thumbnail((SHOWN_PAGE, SHOWN_PAGE))
    buffer = BytesIO()
    # The edge of a white page is to be seen on a white ground.
    ImageOps.expand(shown, border=1, fill="gray").save(buffer, "PNG")
    style = "width: 100%; max-height: 60vh; object-fit: contain; object-position: left top"
    return image_html(buffer.getvalue(), alt, style)


def image_html(png: bytes, alt: str, style: str = "") -> str:
    """An image that is as wide as its place at most, with its text alternative."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f'<img src="{source}" alt="{escape(alt)}" style="max-width: 100%; {style}">'


def table_html(frame: pd.DataFrame, caption: str) -> str:
    """A frame as a table in the notebook's own look, its cells plain text, none of them cut off."""
    with pd.option_context("display.max_colwidth", None):
        table = frame.to_html(escape=True, index=False, border=0)
    start = table.index(">") + 1
    # The class is what themes give colours to.
    return (
        '<div class="jp-RenderedHTMLCommon" style="overflow-x: auto; padding: 0">'
        f"{table[:start]}<caption>{escape(caption)}</caption>{table[start:]}</div>"
    )


def beside_html(table: str, page: str) -> str:
    """A table and a page side by side where there is room, else below each other."""
    return (
        '<div style="display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start">'
        f'<div>{table}</div><div style="flex: 1 1 20em; min-width: 0">{page}</div></div>'
    )


class Browser(ipywidgets.VBox):
    """Filters, what they `found`, a list of it to choose from, and a `view` of what is chosen.

    A subclass fills the list in `_search` and the view in `_show`.
    """

    def __init__(self, filters: Sequence[Any], chosen: ipywidgets.Select):
        self.found, self.view = ipywidgets.HTML(), ipywidgets.HTML()
        for one in filters:
            one.observe(self._search, "value")
        chosen.observe(self._show, "value")
        self._search()
        super().__init__([ipywidgets.HBox(filters), self.found, chosen, self.view])


class DocumentBrowser(Browser):
    """The pages of a data set (see `load_docvqa`), each with everything that is asked of it.

    `split`, `kind` and `words` (in any case, in question, answers or the document's name) filter the questions.
    """

    def __init__(self, dataset: DatasetDict):
        self.dataset, self.asked = dataset, questions(dataset)
        self.asked["place"] = self.asked.groupby("split").cumcount()
        names = [self.asked["question"], self.asked["answers"].str.join(" "), self.asked["document_id"]]
        self._searched = names[0].str.cat(names[1:], sep=" ").str.casefold()
        kinds = sorted({kind for types in self.asked["question_types"] for kind in types})
        self.split = control(ipywidgets.Dropdown, "split", "Show one split only", options=[ALL_SPLITS, *SPLITS])
        self.kind = control(ipywidgets.Dropdown, "question type", "Show one type only", options=[ALL_TYPES, *kinds])
        self.words = control(
            ipywidgets.Text, "search", "In questions, answers and names of documents", placeholder="total"
        )
        self.pages = control(ipywidgets.Select, "page", "Choose a page with the arrow keys", rows=10)
        super().__init__([self.split, self.kind, self.words], self.pages)

    def _search(self, *_: Any) -> None:
        wanted = self._searched.str.contains(self.words.value.strip().casefold(), regex=False)
        if self.split.value != ALL_SPLITS:
            wanted &= self.asked["split"] == self.split.value
        if self.kind.value != ALL_TYPES:
            wanted &= self.asked["question_types"].map(lambda types: self.kind.value in types)
        pages = self.asked[wanted].groupby(["split", "page"], sort=False)
        listed = pages.agg(name=("document_id", "first"), questions=("questionId", "size")).reset_index()
        more = f", the first {LISTED} listed" if len(listed) > LISTED else ""
        self.found.value = text_html(f"{int(wanted.sum()):,} questions on {len(listed):,} pages{more}")
        # A page of the same image in both splits is two entries.
        pages = [
            (f"{row.name} ({row.split}): {row.questions} found", (row.split, row.page))
            for row in listed.head(LISTED).itertuples(index=False)
        ]
        offer(self.pages, pages)
        self._show()

    def _show(self, *_: Any) -> None:
        if self.pages.value is None:
            self.view.value = text_html("No page has such a question.")
            return
        rows = self._on_page()
        image = self.dataset[rows["split"].iloc[0]][int(rows["place"].iloc[0])]["image"]
        name = rows["document_id"].iloc[0]
        table = table_html(self.table().drop(columns="document"), f"Everything asked of {name}")
        self.view.value = beside_html(table, page_html(image, f"Page of document {name}"))

    def _on_page(self) -> pd.DataFrame:
        split, page = self.pages.value
        return self.asked[(self.asked["split"] == split) & (self.asked["page"] == page)]

    def table(self) -> pd.DataFrame:
        """What is asked of the page that is chosen, as text: question, accepted answers, types; may be empty."""
        rows = self.asked.iloc[:0] if self.pages.value is None else self._on_page()
        return pd.DataFrame(
            {
                "document": rows["document_id"],
                "question": rows["question"],
                "accepted answers": [" · ".join(answers) for answers in rows["answers"]],
                "types": [", ".join(types) for types in rows["question_types"]],
            }
        ).reset_index(drop=True)
