"""Questions of one's own to a study's models: answers side by side, and where on the page each model looked."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ipywidgets
import pandas as pd
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from PIL import Image
from transformers.utils import logging

from docfloqa.analysis.intervals import NONE
from docfloqa.apps.ask import BEFORE, Answer, Asked, answer, check_question, models_of_study
from docfloqa.apps.attention import Attention, attention, attention_figure
from docfloqa.apps.browser import LISTED, control, image_html, offer, page_html, table_html, text_html
from docfloqa.data.images import ALLOWED, KINDS, PageError, as_page, open_upload
from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import RunError
from docfloqa.figures.style import render
from docfloqa.metrics import anls
from docfloqa.settings import Settings


def models_and_note(study: str) -> tuple[list[Asked], str]:
    """The models of a study (see `models_of_study`); with none yet, the one before training and what to do."""
    try:
        return models_of_study(study), ""
    except RunError as error:
        untrained = Asked(BEFORE, None, Settings.profile("embedded", study=study))
        note = f"Only the model before training answers: {error}. The command for it: make study NAME={study}"
        return [untrained], note


def failure(name: str, error: Exception) -> str:
    """Why a model did not answer, as one sentence."""
    if isinstance(error, RunError):
        return f"{error}."
    return f"The model {name} cannot answer: {str(error) or type(error).__name__}."


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what would stay in a cell's output: bars of loading and evaluating, transformers' notes on its loss."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with capture_output():
            yield
    finally:
        logging.set_verbosity(verbosity)


class Playground(ipywidgets.VBox):
    """A page, a question, and what every model of a study answers.

    The page is one of the study's validation documents or an uploaded PNG, JPEG or page of a PDF, which is kept
    in this process's memory only. `ask` answers, `model` and `token` choose whose attention is drawn over the
    page. The first question of the first document is asked at once, so that there is something to see.
    """

    def __init__(self, study: str):
        self.models, self.note = models_and_note(study)
        self.rows = load_docvqa(self.models[0].settings, "validation")
        self._loaded: dict[str, Any] = {}
        self._looked: dict[str, Attention] = {}
        # What the present answers are answers to; the controls may have moved on.
        self.answers = pd.DataFrame(columns=["text", "confidence", "seconds"])
        self.asked, self.accepted = "", []
        self._make_controls()
        self.document.observe(self._choose_document, "value")
        self.example.observe(self._choose_example, "value")
        for source in (self.upload, self.number):
            source.observe(self._open_upload, "value")
        self.button.on_click(self.ask)
        self.model.observe(self._choose_model, "value")
        self.token.observe(self._draw, "value")
        self._choose_document()
        self.ask()
        super().__init__(
            [
                ipywidgets.HTML(text_html(self.note) if self.note else ""),
                ipywidgets.HBox([self.document, self.upload, self.number]),
                self.example,
                ipywidgets.HBox([self.question, self.button]),
                self.status,
                self.answered,
                ipywidgets.HBox([self.model, self.token]),
                ipywidgets.HBox([self.page, self.view]),
            ]
        )

    def _make_controls(self) -> None:
        first = dict(zip(self.rows["page"][::-1], range(len(self.rows))[::-1], strict=True))
        names = self.rows["document_id"]
        documents = [(names[index], index) for index in sorted(first.values())[:LISTED]]
        tooltip = "A validation document of the study"
        self.document = control(ipywidgets.Dropdown, "document", tooltip, options=documents)
        self.upload = ipywidgets.FileUpload(
            description="or upload a scan", accept=KINDS, multiple=False, icon="", tooltip=ALLOWED
        )
        self.upload.layout.width = "auto"
        self.number = control(ipywidgets.BoundedIntText, "page of the PDF", "From 1 on", min=1, max=9999, value=1)
        self.number.layout.width = "12em"
        self.example = control(ipywidgets.Dropdown, "asked of it before", "Puts a question below", options=[])
        tooltip = "Any question about the page"
        self.question = control(ipywidgets.Text, "question", tooltip, placeholder="What is the total?")
        self.question.layout.flex = "1"
        self.button = ipywidgets.Button(description="Ask", tooltip="Let every model answer", button_style="primary")
        self.status, self.answered = ipywidgets.HTML(), ipywidgets.HTML()
        names = [asked.name for asked in self.models]
        shown = {"options": names, "value": names[-1]}
        self.model = control(ipywidgets.Dropdown, "where looked", "Whose attention is drawn", **shown)
        self.token = control(ipywidgets.Dropdown, "while it wrote", "A piece of that model's answer", options=[])
        self.page, self.view = ipywidgets.HTML(), ipywidgets.HTML()
        self.page.layout.width = self.view.layout.width = "50%"

    def _choose_document(self, *_: Any) -> None:
        if self.document.value is None:
            return
        row = self.rows[self.document.value]
        on_page = self.rows.select([index for index, page in enumerate(self.rows["page"]) if page == row["page"]])
        self.known = dict(zip(on_page["question"], on_page["answers"], strict=True))
        self._show_page(as_page(row["image"]), f"document {row['document_id']}")

    def _open_upload(self, change: dict[str, Any]) -> None:
        # Another page number means nothing while a document of the study is chosen.
        if not self.upload.value or (change["owner"] is self.number and self.document.value is not None):
            return
        [upload] = self.upload.value
        try:
            image = open_upload(bytes(upload["content"]), self.number.value)
        except PageError as error:
            self.status.value = text_html(f"{upload['name']}: {error}.")
            return
        # No document is chosen now, so that choosing any of them is a change.
        self.document.value = None
        self.known = {}
        self._show_page(image, upload["name"])

    def _show_page(self, image: Image.Image, name: str) -> None:
        self.image = image
        self.page.value = page_html(image, f"The page that is asked about: {name}")
        self.status.value = text_html(f"The page is {name}.")
        offer(self.example, list(self.known))
        self._choose_example()

    def _choose_example(self, *_: Any) -> None:
        if self.example.value:
            self.question.value = self.example.value

    def ask(self, *_: Any) -> None:
        """Let every model answer the question about the page; what went wrong with one is said in place of it."""
        question, rows, said = self.question.value.strip(), [], {}
        self.button.disabled = True
        try:
            with warnings.catch_warnings(record=True) as warned, _quietly():
                warnings.simplefilter("always", UserWarning)
                for asked in self.models:
                    self.status.value = text_html(f"Asking the model {asked.name} …")
                    try:
                        rows.append({"model": asked.name, **vars(self._answer(asked, question))})
                    except Exception as error:
                        # Whatever it is, nobody would learn of it from a callback.
                        said[failure(asked.name, error)] = None
            # Of a question that is too long the end is cut off, as every model says.
            said |= {str(one.message): None for one in warned if one.category is UserWarning}
            if rows:
                self.asked, self.accepted = question, self.known.get(question, [])
                self.answers = pd.DataFrame(rows).set_index("model")
                self._looked, self._page_asked = {}, self.image
                self.answered.value = table_html(self.table(), self.asked)
                self._choose_model()
        finally:
            self.button.disabled = False
            self.status.value = text_html("; ".join(said))

    def _answer(self, asked: Asked, question: str) -> Answer:
        check_question(question)
        if asked.name not in self._loaded:
            self._loaded[asked.name] = asked.load()
        return answer(*self._loaded[asked.name], self.image, question, asked.settings)

    def table(self) -> pd.DataFrame:
        """What every model answered last, as text: answer, confidence, seconds; ANLS where the answer is known."""
        score = [anls(text, self.accepted) for text in self.answers["text"]] if self.accepted else None
        return pd.DataFrame(
            {
                "model": self.answers.index,
                "answer": [text or "(nothing)" for text in self.answers["text"]],
                "confidence (%)": [f"{100 * sure:.1f}" for sure in self.answers["confidence"]],
                "seconds": [f"{seconds:.2f}" for seconds in self.answers["seconds"]],
                "accepted": " · ".join(self.accepted) or NONE,
                "ANLS": [f"{one:.2f}" for one in score] if score else NONE,
            }
        )

    def _choose_model(self, *_: Any) -> None:
        name, why = self.model.value, ""
        try:
            if name not in self._looked and name in self.answers.index:
                [asked] = [asked for asked in self.models if asked.name == name]
                text = self.answers.loc[name, "text"]
                self._looked[name] = attention(*self._loaded[name], self._page_asked, self.asked, text, asked.settings)
        except Exception as error:
            why = failure(name, error)
        tokens = self._looked[name].tokens if name in self._looked else []
        offer(self.token, [(f"{index + 1}: {text}", index) for index, text in enumerate(tokens)])
        if tokens:
            self._draw()
        else:
            self.view.value = text_html(why or f"The model {name} has not answered.")

    def _draw(self, *_: Any) -> None:
        if self.token.value is not None:
            self.view.value = image_html(render(self.figure(), "png"), self.caption())

    def figure(self) -> Figure:
        """The attention that is chosen, over its page (see `attention_figure`)."""
        return attention_figure(self._page_asked, self._looked[self.model.value], self.token.value)

    def caption(self) -> str:
        """What `figure` shows, in words."""
        looked = self._looked[self.model.value]
        away = 100 * looked.elsewhere(self.token.value)
        return (
            f"Where the model {self.model.value} looked while it wrote “{looked.tokens[self.token.value]}” of its "
            f"answer to “{self.asked}”; {away:.0f} % of its attention was not on a place of the page."
        )
