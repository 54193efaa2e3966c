"""What every widget is made of (controls with labels, escaped HTML); browsers of pages and of two runs' answers."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import ipywidgets
import pandas as pd
from datasets import Dataset, DatasetDict
from PIL import Image, ImageOps

from docfloqa.analysis.changes import compared
from docfloqa.analysis.intervals import RATIO, percent
from docfloqa.data.images import as_page
from docfloqa.data.load import SPLITS
from docfloqa.figures.data import questions
from docfloqa.report import tables
from docfloqa.runs.results import Study

BEFORE = "before training"
CHANGES = {"better and worse": None, "better": 1, "worse": -1}
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
    """A frame as a table in the notebook's own look (see `docfloqa.report.tables.table_html`)."""
    # The class is what themes give colours to.
    table = tables.table_html(frame, caption)
    return f'<div class="jp-RenderedHTMLCommon" style="overflow-x: auto; padding: 0">{table}</div>'


def beside_html(table: str, page: str) -> str:
    """A table and a page side by side where there is room, else below each other."""
    return (
        '<div style="display: flex; flex-wrap: wrap; gap: 1em; align-items: flex-start">'
        f'<div>{table}</div><div style="flex: 1 1 20em; min-width: 0">{page}</div></div>'
    )


class Browser(ipywidgets.VBox):
    """Filters, what they `found`, a list to choose from that `_search` fills, and a `view` that `_show` fills."""

    def __init__(self, filters: Sequence[Any], chosen: ipywidgets.Select):
        self.found, self.view = ipywidgets.HTML(), ipywidgets.HTML()
        for one in filters:
            one.observe(self._search, "value")
        chosen.observe(self._show, "value")
        self._search()
        super().__init__([ipywidgets.HBox(filters), self.found, chosen, self.view])


class DocumentBrowser(Browser):
    """The pages of a data set, each with all that is asked of it; `words` are in question, answers or document."""

    def __init__(self, dataset: DatasetDict):
        self.dataset, self.asked = dataset, questions(dataset)
        self.asked["place"] = self.asked.groupby("split").cumcount()
        names = [self.asked["question"], self.asked["answers"].str.join(" "), self.asked["document_id"]]
        self._searched = names[0].str.cat(names[1:], sep=" ").str.casefold()
        kinds = sorted({*self.asked["question_types"].explode().dropna()})
        self.split = control(ipywidgets.Dropdown, "split", "Show one split only", options=[ALL_SPLITS, *SPLITS])
        self.kind = control(ipywidgets.Dropdown, "question type", "Show one type only", options=[ALL_TYPES, *kinds])
        tooltip = "In questions, answers and names of documents"
        self.words = control(ipywidgets.Text, "search", tooltip, placeholder="total")
        self.pages = control(ipywidgets.Select, "page", "Choose a page with the arrow keys", rows=10)
        super().__init__([self.split, self.kind, self.words], self.pages)

    def _search(self, *_: Any) -> None:
        wanted = self._searched.str.contains(self.words.value.strip().casefold(), regex=False)
        if self.split.value != ALL_SPLITS:
            wanted &= self.asked["split"] == self.split.value
        if self.kind.value != ALL_TYPES:
            wanted &= self.asked["question_types"].map(lambda types: self.kind.value in types)
        # A page of the same image in both splits is two entries.
        found = self.asked[wanted].groupby(["split", "page"], sort=False)["document_id"].agg(["first", "size"])
        more = f", the first {LISTED} listed" if len(found) > LISTED else ""
        self.found.value = text_html(f"{int(wanted.sum()):,} questions on {len(found):,} pages{more}")
        listed = found.head(LISTED).itertuples(name=None)
        offer(self.pages, [(f"{name} ({page[0]}): {count} found", page) for page, name, count in listed])
        self._show()

    def _show(self, *_: Any) -> None:
        table = self.table()
        if table.empty:
            self.view.value = text_html("No page has such a question.")
            return
        split, name = self.pages.value[0], table["document"].iloc[0]
        image = self.dataset[split][int(self._on_page()["place"].iloc[0])]["image"]
        table = table_html(table.drop(columns="document"), f"Everything asked of {name}")
        self.view.value = beside_html(table, page_html(image, f"Page of document {name}"))

    def _on_page(self) -> pd.DataFrame:
        split, page = self.pages.value or ("", "")
        return self.asked[(self.asked["split"] == split) & (self.asked["page"] == page)]

    def table(self) -> pd.DataFrame:
        """What is asked of the page that is chosen, as text: question, accepted answers, types; may be empty."""
        rows = self._on_page()
        names = {"document": rows["document_id"], "question": rows["question"]}
        lists = {"accepted answers": rows["answers"].str.join(" · "), "types": rows["question_types"].str.join(", ")}
        return pd.DataFrame(names | lists).reset_index(drop=True)


def answers_by_run(study: Study) -> dict[str, pd.DataFrame]:
    """The last answers of a study by ratio and seed, those of all folds together, after those before any training."""
    keys = [RATIO, "seed"]
    frames = {BEFORE: next(rows for _, rows in study.first_answers.groupby(keys))}
    for (ratio, seed), rows in study.last_answers.groupby(keys):
        frames[f"{percent(ratio)} trained, seed {seed}"] = rows
    return frames


class PredictionComparer(Browser):
    """Any two runs of a study after their last epoch; `validation` has the pages of its questions.

    `changes` says whether what got better, worse or both is listed in `questions`, the largest change in ANLS first.
    """

    def __init__(self, study: Study, validation: Dataset):
        self.validation, self.answers = validation, answers_by_run(study)
        self.indices = {question: index for index, question in enumerate(validation["questionId"])}
        names = list(self.answers)
        self.first = control(ipywidgets.Dropdown, "from", "The run to start from", options=names, value=names[0])
        self.second = control(ipywidgets.Dropdown, "to", "The run to compare with it", options=names, value=names[-1])
        self.changes = control(ipywidgets.Dropdown, "show", "What got better, what got worse", options=CHANGES)
        self.questions = control(ipywidgets.Select, "question", "Choose a question with the arrow keys", rows=10)
        super().__init__([self.first, self.second, self.changes], self.questions)

    def _search(self, *_: Any) -> None:
        self.frame = compared(self.answers[self.first.value], self.answers[self.second.value])
        difference = self.frame["difference"]
        self.found.value = text_html(
            f"{(difference > 0).sum():,} questions better, {(difference < 0).sum():,} worse, "
            f"{(difference == 0).sum():,} with the same ANLS; {100 * difference.mean():+.1f} points in all"
        )
        sign = self.changes.value
        listed = self.frame[difference * sign > 0 if sign else difference != 0]
        listed = listed.sort_values("difference", key=abs, ascending=False, kind="stable").head(LISTED)
        labels = [f"{row.difference:+.2f}  {row.question}" for row in listed.itertuples()]
        offer(self.questions, list(zip(labels, listed["question_id"], strict=True)))
        self._show()

    def _show(self, *_: Any) -> None:
        if self.questions.value is None:
            self.view.value = text_html("No question differs in this way.")
            return
        row = self.frame.set_index("question_id").loc[self.questions.value]
        both = {"run": [self.first.value, self.second.value], "answer": [row["first"], row["second"]]}
        both["ANLS"] = [f"{row['anls_first']:.2f}", f"{row['anls_second']:.2f}"]
        caption = f"{row['question']} Accepted: {' · '.join(row['answers'])}"
        page = text_html("The data set has no such question any more.")
        if self.questions.value in self.indices:
            image = self.validation[self.indices[self.questions.value]]["image"]
            page = page_html(image, f"Page of document {row['document_id']}")
        self.view.value = beside_html(table_html(pd.DataFrame(both), caption), page)

    def table(self, count: int = 5) -> pd.DataFrame:
        """The `count` questions that got better by most and those that got worse by most, as text; may be empty."""
        better, worse = self.frame.query("difference > 0"), self.frame.query("difference < 0")
        rows = pd.concat([better.head(count), worse.tail(count)[::-1]], ignore_index=True)
        columns = {"question": rows["question"], "accepted": rows["answers"].str.join(" · ")}
        # Two equal names would be one column.
        columns |= {self.first.value: rows["first"], f"then {self.second.value}": rows["second"]}
        return pd.DataFrame(columns | {"ANLS, difference": rows["difference"].map("{:+.2f}".format)})
