"""Questions of one's own to a study's models: answers side by side, and where on the page each model looked."""

import warnings
from collections.abc import Sequence
from typing import Any

import ipywidgets
import pandas as pd
from datasets import Dataset
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from PIL import Image
from transformers.utils import logging

from docfloqa.analysis.intervals import NONE
from docfloqa.apps import ask
from docfloqa.apps.browser import BEFORE, LISTED, control, image_html, offer, page_html, table_html, text_html
from docfloqa.apps.upload import Upload
from docfloqa.data.images import PageError, as_page, check_size, open_upload
from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import RunError
from docfloqa.figures.style import render, shorten
from docfloqa.metrics import anls
from docfloqa.runs.plans import study_command
from docfloqa.settings import Settings

HEADING = 200  # characters


def models_and_note(study: str) -> tuple[list[ask.Asked], str]:
    """The models of a study (see `models_of_study`); with none yet, the one before training and what to do."""
    try:
        return ask.models_of_study(study), ""
    except RunError as error:
        untrained = ask.Asked(BEFORE, None, Settings.profile("embedded", study=study))
        note = f"Only the model before training answers: {error}. The command for it: {study_command(study)}"
        return [untrained], note


def telling_question(models: list[ask.Asked], rows: Dataset, places: Sequence[int]) -> tuple[int | None, str]:
    """What to open on: the first question that the largest share trained gets right and the smallest does not.

    Given are its index in `rows` or None, and the rule as a sentence. Asked are the pages that begin at `places`.
    """
    trained = [asked for asked in models if asked.run]
    if len(trained) < 2:
        return None, ""
    right = []
    for asked in (trained[-1], trained[0]):
        # The model that is asked is that of the best epoch.
        answers = asked.run.answers(asked.run.record["best_epoch"])
        right.append(set(answers["question_id"][answers["exact_match"] == 1]))
    pages = {rows["page"][place] for place in places}
    listed = zip(rows["questionId"], rows["page"], strict=True)
    telling = (index for index, (name, page) in enumerate(listed) if name in right[0] - right[1] and page in pages)
    found, names = next(telling, None), f"{trained[-1].name} answers right and {trained[0].name} does not"
    said = f"the first question that {names}" if found is not None else f"the first of all: there is none that {names}"
    return found, f"What is asked first is {said}."


def failure(name: str, error: Exception) -> str:
    """Why a model did not answer, as one sentence."""
    said = str(error) or type(error).__name__
    return f"{said}." if isinstance(error, RunError) else f"The model {name} cannot answer: {said}."


class Playground(ipywidgets.VBox):
    """A page, a question, and what every model of a study answers.

    `ask` answers, `model` and `token` choose whose attention is drawn over the page. An uploaded page is kept in this
    process's memory only. A question is asked at once (see `telling_question`).
    """

    def __init__(self, study: str):
        # Transformers' notes would stay in the cell's output.
        logging.set_verbosity_error()
        self.models, self.note = models_and_note(study)
        # Bars of checking would stay, broken: where a kernel is made before its visitor comes, they are gone by then.
        with capture_output():
            # With folds those of the fold that the models did not train on.
            self.rows = load_docvqa(self.models[-1].settings, "validation")
        self._loaded: dict[str, Any] = {}
        self._looked: dict[str, ask.Attention] = {}
        note, self.status, self.answered, self.page, self.view = (ipywidgets.HTML() for _ in range(5))
        # Beside each other where there is room.
        for half in (self.page, self.view):
            half.layout.flex, half.layout.min_width = "1 1 20em", "0"
        places, names = pd.Series(self.rows["page"]).drop_duplicates().index, self.rows["document_id"]
        documents = [(names[place], place) for place in places[:LISTED]]
        models = [asked.name for asked in self.models]
        first, rule = telling_question(self.models, self.rows, places[:LISTED])
        said = " ".join(filter(None, (self.note, rule)))
        note.value = text_html(said) if said else ""

        choice, about = ipywidgets.Dropdown, "Any about the page; those that were asked of it before are suggested"
        self.document = control(choice, "document", "A validation document of the study", options=documents)
        self.upload = Upload(description="or upload a scan")
        self.number = control(ipywidgets.BoundedIntText, "page of the PDF", "From 1 on", min=1, max=9999, value=1)
        self.number.layout.width = "12em"
        self.question = control(ipywidgets.Combobox, "question", about, placeholder="What is the total?")
        self.question.layout.flex = "1"
        self.button = control(ipywidgets.Button, "Ask", "Let every model answer", button_style="primary")
        self.model = control(choice, "where looked", "Whose attention is drawn", options=models, value=models[-1])
        self.token = control(choice, "while it wrote", "A piece of that model's answer", options=[])
        handlers = {self.document: self._choose_document, self.number: self._open_upload}
        handlers |= {self.question: self._forget, self.model: self._choose_model, self.token: self._draw}
        for source, changed in handlers.items():
            source.observe(changed, "value")
        self.upload.observe(self._open_upload, "file")
        self.button.on_click(self.ask)
        self.question.on_msg(self._press)
        self._choose_document()
        if first is not None:
            page = self.rows["page"][first]
            self.document.value = next(place for place in places if self.rows["page"][place] == page)
            self.question.value = self.rows["question"][first]
        self.ask()
        pages, asking = [self.document, self.upload, self.number], [self.question, self.button]
        rows = [note, pages, asking, self.status, self.answered, [self.model, self.token], [self.page, self.view]]
        wrapped = ipywidgets.Layout(flex_flow="row wrap")
        super().__init__([ipywidgets.HBox(row, layout=wrapped) if isinstance(row, list) else row for row in rows])

    def _choose_document(self, *_: Any) -> None:
        if self.document.value is None:
            return
        row = self.rows[self.document.value]
        asked = zip(self.rows["page"], self.rows["question"], self.rows["answers"], strict=True)
        self.known = {question: answers for page, question, answers in asked if page == row["page"]}
        self._show_page(as_page(row["image"]), f"document {row['document_id']}")

    def _open_upload(self, change: dict[str, Any]) -> None:
        file = self.upload.file
        # Another page number means nothing while a document of the study is chosen.
        if file is None or (change["owner"] is self.number and self.document.value is not None):
            return
        # No document is chosen now, so that choosing any of them is a change.
        self.document.value, self.known = None, {}
        try:
            check_size(file.size)
            if file.content is None:
                self._show_no_page(f"{file.name} has not arrived yet")
            else:
                self._show_page(open_upload(file.content, self.number.value), file.name)
        except PageError as error:
            self._show_no_page(f"{file.name}: {error}")

    def _show_no_page(self, why: str) -> None:
        # Whatever page was there before is not the one that was chosen last.
        self.image, self.about = None, f"There is no page to ask about. {why}."
        self.page.value = ""
        self._forget()

    def _show_page(self, image: Image.Image, name: str) -> None:
        self.image, self.about = image, f"The page is {name}."
        self.page.value = page_html(image, f"The page that is asked about: {name}")
        self.question.options = list(self.known)
        self.question.value = next(iter(self.known), self.question.value)
        self._forget()

    def _forget(self, *_: Any) -> None:
        # Answers to another question, or about another page, would be taken for answers to this one.
        self.answers = pd.DataFrame(columns=["text", "confidence", "seconds"])
        self.asked, self.accepted, self.unlike, self._looked = "", [], False, {}
        self.answered.value = self.view.value = ""
        self.status.value = text_html(self.about)
        offer(self.token, [])

    def _press(self, _: Any, told: dict[str, Any], __: Any) -> None:
        # Of the keys only Enter is told.
        if told.get("event") == "submit":
            self.ask()

    def ask(self, *_: Any) -> None:
        """Let every model answer the question about the page; what went wrong with one is said in place of it."""
        question, rows, said = self.question.value.strip(), [], {}
        self._forget()
        if self.image is None:
            return
        self.button.disabled = True
        try:
            # Bars of loading and evaluating would stay in the cell's output.
            with warnings.catch_warnings(record=True) as warned, capture_output():
                warnings.simplefilter("always", UserWarning)
                for asked in self.models:
                    self.status.value = text_html(f"Asking the model {asked.name} …")
                    try:
                        if asked.name not in self._loaded:
                            self._loaded[asked.name] = asked.load()
                        given = ask.answer(self._loaded[asked.name], self.image, question, asked.settings)
                        rows.append({"model": asked.name, **given})
                    except Exception as error:
                        # Whatever it is, nobody would learn of it from a callback.
                        said[failure(asked.name, error)] = None
            # Of a question that is too long the end is cut off, as every model says.
            said |= {str(one.message): None for one in warned if one.category is UserWarning}
            if rows:
                # All models were trained on the same pages, which the one before training does not know.
                found = (ask.novelty(model, self.image) for model, _ in self._loaded.values())
                self.unlike = any(map(ask.is_unlike, found))
                self.asked, self.accepted = question, self.known.get(question, [])
                self.answers = pd.DataFrame(rows).set_index("model")
                # Beside the question and in no column: they are the same in every row, and a phone is narrow.
                known = f" Accepted: {shorten(' · '.join(self.accepted), HEADING, 1)}" if self.accepted else ""
                self.answered.value = table_html(self.table(), f"{shorten(self.asked, HEADING, 1)}{known}")
                self._choose_model()
        finally:
            self.button.disabled = False
            self.status.value = text_html("; ".join(said))

    def table(self) -> pd.DataFrame:
        """The last answers, as text: answer, confidence (none on an unlike page), seconds, ANLS where it is known."""
        columns = {
            "model": self.answers.index,
            "answer": self.answers["text"].replace("", "(nothing)"),
            "confidence (%)": ask.UNLIKE if self.unlike else (100 * self.answers["confidence"]).map("{:.1f}".format),
            "seconds": self.answers["seconds"].map("{:.2f}".format),
            "ANLS": [f"{anls(text, self.accepted):.2f}" if self.accepted else NONE for text in self.answers["text"]],
        }
        return pd.DataFrame(columns).reset_index(drop=True)

    def _choose_model(self, *_: Any) -> None:
        name, why = self.model.value, ""
        try:
            if name not in self._looked and name in self.answers.index:
                [asked] = [asked for asked in self.models if asked.name == name]
                text = self.answers.loc[name, "text"]
                self._looked[name] = ask.attention(self._loaded[name], self.image, self.asked, text, asked.settings)
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
        return ask.attention_figure(self.image, self._looked[self.model.value], self.token.value)

    def caption(self) -> str:
        """What `figure` shows, in words."""
        looked, token = self._looked[self.model.value], self.token.value
        elsewhere = f"{100 * looked.elsewhere(token):.0f} % of its attention was not on a place of the page"
        return (
            f"Where the model {self.model.value} looked while it wrote “{looked.tokens[token]}” of its answer to "
            f"“{shorten(self.asked, HEADING, 1)}”; {elsewhere}."
        )
