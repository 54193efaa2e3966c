"""Two runs of a study side by side: which questions one of them answers better, and what both said."""

from typing import Any

import ipywidgets
import pandas as pd
from datasets import Dataset

from docfloqa.analysis.changes import compared
from docfloqa.analysis.intervals import RATIO, percent
from docfloqa.apps.browser import LISTED, Browser, beside_html, control, offer, page_html, table_html, text_html
from docfloqa.runs.results import Study

CHANGES = {"better and worse": None, "better": 1, "worse": -1}
BEFORE = "before training"


def answers_by_run(study: Study) -> dict[str, pd.DataFrame]:
    """The last answers of every run of a study by ratio and seed, after those before any training."""
    first = study.first_answers
    frames = {BEFORE: first[first["run"] == first["run"].iloc[0]]}
    for (ratio, seed, _), rows in study.last_answers.groupby([RATIO, "seed", "run"]):
        frames[f"{percent(ratio)} trained, seed {seed}"] = rows
    return frames


class PredictionComparer(Browser):
    """Any two runs of a study after their last epoch; `validation` has the pages of its questions.

    `first` and `second` name the runs, `changes` says whether what got better, worse or both is listed in
    `questions`, the largest difference in ANLS first; the chosen one is shown with its page.
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
        both = pd.DataFrame(
            {
                "run": [self.first.value, self.second.value],
                "answer": [row["prediction_first"], row["prediction_second"]],
                "ANLS": [f"{row['anls_first']:.2f}", f"{row['anls_second']:.2f}"],
            }
        )
        caption = f"{row['question']} Accepted: {' · '.join(row['answers'])}"
        page = text_html("The data set has no such question any more.")
        if self.questions.value in self.indices:
            image = self.validation[self.indices[self.questions.value]]["image"]
            page = page_html(image, f"Page of document {row['document_id']}")
        self.view.value = beside_html(table_html(both, caption), page)

    def table(self, count: int = 5) -> pd.DataFrame:
        """The `count` questions that got better by most and those that got worse by most, as text; may be empty."""
        better = self.frame[self.frame["difference"] > 0].head(count)
        worse = self.frame[self.frame["difference"] < 0].tail(count)[::-1]
        rows = pd.concat([better, worse])
        return pd.DataFrame(
            {
                "question": rows["question"],
                "accepted": [" · ".join(answers) for answers in rows["answers"]],
                self.first.value: rows["prediction_first"],
                # Two equal names would be one column.
                f"then {self.second.value}": rows["prediction_second"],
                "ANLS, difference": [f"{value:+.2f}" for value in rows["difference"]],
            }
        ).reset_index(drop=True)
