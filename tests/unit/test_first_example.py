"""The first example of the README, and the question that the playground opens on: by rules, not by choice."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, ImageChops
from small_study import small_study

from docfloqa import verbs
from docfloqa.apps.ask import UNKNOWN, answer, models_of_study
from docfloqa.apps.playground import telling_question
from docfloqa.data.load import load_docvqa
from docfloqa.data.synth.vocabulary import has_new_word
from docfloqa.files import PROJECT, TINY_MODEL
from docfloqa.model.florence import load_florence
from docfloqa.runs.run import Run
from docfloqa.settings import Settings

EXAMPLE, QUESTION, ANSWER = PROJECT / "docs" / "example.png", "Which name of the addressee is shown?", "Zonas"


def test_it_gives_the_right_answer_without_any_training():
    readme = Path(PROJECT / "README.md").read_text()
    assert f'docfloqa ask docs/example.png "{QUESTION}" --model data/florence2-tiny   # {ANSWER}\n' in readme
    data, text = verbs.ask(str(EXAMPLE), QUESTION, model=str(TINY_MODEL))
    assert [one["text"] for one in data["answers"]] == [ANSWER] and ANSWER in text
    assert text.endswith(f"\n{UNKNOWN}"), "a model folder without statistics of pages"


def test_it_is_the_first_word_that_the_model_never_read_and_reads_untrained_and_it_stands_there_once():
    settings = Settings.profile("embedded", synth_shift="input:0")
    rows, loaded = load_docvqa(settings, "validation"), load_florence(str(TINY_MODEL))
    answers = pd.Series(rows["answers"]).str[0]
    alone = answers.groupby([pd.Series(rows["page"]), answers]).transform("size") == 1
    new = [place for place, text in enumerate(answers) if alone[place] and has_new_word(text)]
    first = next(
        place
        for place in new
        if answer(loaded, rows[place]["image"], rows[place]["question"], settings)["text"] == answers[place]
    )
    assert (rows[first]["question"], rows[first]["answers"]) == (QUESTION, [ANSWER])
    with Image.open(EXAMPLE) as shipped:
        assert ImageChops.difference(shipped, rows[first]["image"]).getbbox() is None


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_the_playground_opens_on_what_only_training_gets_right(wrong, output, monkeypatch):
    small_study()
    models = models_of_study("embedded")
    rows = load_docvqa(models[0].settings, "validation")
    names, places = list(rows["questionId"]), [*pd.Series(rows["page"]).drop_duplicates().index]
    # The last models are right on all but the first, the frozen one on all but the last `wrong`.
    right = {models[-1].run.id: names[1:], models[1].run.id: names[:-wrong]}
    monkeypatch.setattr(
        Run,
        "answers",
        lambda run, epoch: pd.DataFrame(
            {"question_id": names, "exact_match": [name in right[run.id] for name in names]}
        ),
    )
    found, said = telling_question(models, rows, places)
    assert found == len(names) - wrong
    assert (
        said == "What is asked first is the first question that 100 % trained answers right and 0 % trained does not."
    )
    right[models[1].run.id] = names
    found, said = telling_question(models, rows, places)
    assert found is None and "the first of all: there is none that 100 % trained answers right" in said
    assert telling_question(models[:2], rows, places) == (None, "")
