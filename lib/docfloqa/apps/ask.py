"""One question about one page: what a model answers, how sure it is and how long it took."""

import time
import warnings
from dataclasses import dataclass

from datasets import Dataset
from PIL import Image
from transformers import Florence2Processor

from docfloqa.data.images import as_page
from docfloqa.exceptions import RunError
from docfloqa.files import reports_folder, runs_folder
from docfloqa.model.device import compute_device
from docfloqa.model.florence import Florence2ForDocVQA, encode_prompts, load_florence
from docfloqa.runs.results import PLAN, Study, open_run
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate

BEFORE = "before training"
NEVER_CUT = 10**9


@dataclass(frozen=True)
class Answer:
    """What a model says: `confidence` is the probability that it gives this very answer, in [0, 1]."""

    text: str
    confidence: float
    seconds: float


@dataclass(frozen=True)
class Asked:
    """A model that can be asked: its name, the run that made it if one did, and its settings."""

    name: str
    run: Run | None
    settings: Settings

    def load(self) -> tuple[Florence2ForDocVQA, Florence2Processor]:
        """The model on the device where there is one, and its processor; raises `RunError` or `ModelError`."""
        if self.run:
            return self.run.load()
        model, processor = load_florence(self.settings.model, self.settings.prefix)
        return model.to(compute_device()), processor


def answer(
    model: Florence2ForDocVQA, processor: Florence2Processor, image: Image.Image, question: str, settings: Settings
) -> Answer:
    """What the model answers to a question about a page.

    `image` is the whole page in any mode and size; `settings` say how prompts and answers are made (prefix,
    precision, num_beams, max_new_tokens). `seconds` are from image to text, loading the model not counted. Special
    tokens in the question are taken as text; of a question that is too long the end is cut off, with a warning.
    Raises `RunError` for an empty question.
    """
    check_question(question)
    longest = model.config.text_config.max_position_embeddings
    [prompt] = encode_prompts(processor, [question], settings.prefix, NEVER_CUT)
    if len(prompt) > longest:
        warnings.warn(
            f"the question is cut: with its page it has {len(prompt):,} tokens, and the model reads {longest:,}",
            stacklevel=2,
        )
    started = time.perf_counter()
    asked = {
        "questionId": "asked",
        "question": question,
        "question_types": [],
        "image": as_page(image),
        # For the loss, which nobody sees here.
        "answers": [""],
        "page": "asked",
        "document_id": "asked",
    }
    rows = Dataset.from_list([asked])
    collator = QuestionCollator(rows, model, processor, settings.prefix)
    row = evaluate(model, collator, settings).iloc[0]
    return Answer(row["prediction"], float(row["confidence"]), time.perf_counter() - started)


def check_question(question: str) -> None:
    """Raise `RunError` for a question without any text, or with bytes that are no text."""
    if not question.strip():
        raise RunError(f"question is {question!r}; allowed is any text but an empty one")
    try:
        question.encode()
    except UnicodeEncodeError:
        raise RunError(f"question is {question!r}; allowed is text in UTF-8") from None


def models_of_study(name: str, ratio: float | None = None) -> list[Asked]:
    """What can be asked of a study: the model before training, then the best one of each ratio, the lowest first.

    Of several seeds the first is taken; with `ratio`, only that one, and nothing before training. Raises `RunError`
    for a study that is not there or has no complete run, a ratio that it does not have, and a run that has lost its
    model.
    """
    if not (reports_folder(name) / PLAN).is_file():
        raise RunError(
            f"there is no run of study {name!r} to ask yet; make its runs with: docfloqa study --name {name}"
        )
    study = Study.load(name)
    runs = [open_run(runs_folder(name) / run) for run in study.records]
    runs.sort(key=lambda run: (run.settings.vision_trainable, -run.settings.seed))
    # Of a ratio's runs the last one stays, that of the first seed.
    of_ratio = {run.settings.vision_trainable: run for run in runs}
    if ratio is not None and ratio not in of_ratio:
        ratios = ", ".join(f"{one:g}" for one in of_ratio)
        raise RunError(f"ratio is {ratio:g}; allowed are those of study {name!r}: {ratios}")
    trained = [
        Asked(f"{100 * one:g} % trained", run, run.settings)
        for one, run in of_ratio.items()
        if ratio in (None, one) and run.model_folder
    ]
    return [*([Asked(BEFORE, None, study.settings)] if ratio is None else []), *trained]


def model_of_run(run: Run) -> Asked:
    """The best model of a run."""
    return Asked(run.name, run, run.settings)


def model_of_folder(model: str) -> Asked:
    """A model folder or a hub id, asked as the embedded profile would ask it."""
    return Asked(model, None, Settings.profile("embedded", model=model))
