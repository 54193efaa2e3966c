"""Answers and scores of a model on validation questions, over one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import pandas as pd
import torch
from torch import Tensor, distributed
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import SettingsError
from docfloqa.metrics import score
from docfloqa.model.device import autocast
from docfloqa.model.florence import Florence2ForDocVQA
from docfloqa.model.targets import generation_config, target_format
from docfloqa.runs.saved_runs import SavedRun
from docfloqa.settings import EVALUATION_SETTINGS, Settings
from docfloqa.training.batches import QuestionCollator


def rank_and_size() -> tuple[int, int]:
    """This process's place among those that make the run, from 0, and how many they are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gathered(content: Any) -> list[Any]:
    """What every process gives, in their order; all of them must call it."""
    _, size = rank_and_size()
    if size == 1:
        return [content]
    contents = [None] * size
    distributed.all_gather_object(contents, content)
    return contents


def agreed(find: Callable[[], Any]) -> Any:
    """What the first process finds, for all of them; the others wait for it."""
    rank, size = rank_and_size()
    found = [find() if rank == 0 else None]
    if size > 1:
        distributed.broadcast_object_list(found)
    return found[0]


# Batches whose pages are encoded together: their questions are sorted by length without encoding a page twice,
# and the features of no more pages are in memory.
BATCHES_PER_WINDOW = 8
PAGES_PER_PASS = 16


@torch.no_grad()
def evaluate(
    model: Florence2ForDocVQA,
    collator: QuestionCollator,
    settings: Settings,
    on_batch: Callable[[], None] = lambda: None,
) -> pd.DataFrame:
    """One row per question of the collator's split: what was asked, the answer, its loss and every metric.

    Columns: question_id, document_id, question, question_types, prediction, confidence (the probability that the
    model gives this answer, in [0, 1]: its end included where the model ended it, the forced start not), answers,
    loss_sum (the summed cross-entropy of the first accepted answer's tokens, in nats), tokens, and the metrics of
    `docfloqa.metrics`. Leaves the model in the mode in which it was. Calls `on_batch` after every batch. Processes
    that make a run together share the questions, and each has all answers.
    """
    rows = collator.rows
    decoding = generation_config(model, settings.max_new_tokens, settings.num_beams)
    was_training = model.training
    model.eval()
    answered: dict[int, tuple[str, float, float, int]] = {}
    with tqdm(total=len(rows), desc="evaluating", unit="question", leave=False) as progress:
        windows = _windows(collator, BATCHES_PER_WINDOW * settings.eval_batch_size)
        rank, processes = rank_and_size()
        # As the windows are the same however many processes share them, so are the answers.
        for pages, window in islice(windows, rank, None, processes):
            position = {page: index for index, page in enumerate(pages)}
            features = _page_features(model, collator, pages, settings)
            by_length = sorted(window, key=lambda place: (len(collator.prompts[place]), place))
            for places in _split(by_length, settings.eval_batch_size):
                chosen = features[[position[collator.pages[place]] for place in places]]
                answers = _answer(model, collator, places, chosen, decoding, settings)
                answered.update(zip(places, answers, strict=True))
                progress.update(len(places))
                on_batch()
    model.train(was_training)
    answered = {place: answer for part in gathered(answered) for place, answer in part.items()}
    predictions, confidences, losses, tokens = zip(*(answered[place] for place in range(len(rows))), strict=True)
    frame = pd.DataFrame(
        {
            "question_id": rows["questionId"],
            "document_id": rows["document_id"],
            "question": rows["question"],
            "question_types": rows["question_types"],
            "prediction": predictions,
            "confidence": confidences,
            "answers": rows["answers"],
            "loss_sum": losses,
            "tokens": tokens,
        }
    )
    return score(frame)


def _split(items: Sequence, size: int) -> list[Sequence]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _windows(collator: QuestionCollator, questions: int) -> Iterator[tuple[list[str], list[int]]]:
    """Pages and the places of all of their questions, about so many at a time."""
    places_of_page: dict[str, list[int]] = {}
    for place, page in enumerate(collator.pages):
        places_of_page.setdefault(page, []).append(place)
    pages: list[str] = []
    window: list[int] = []
    for page in sorted(places_of_page):
        pages.append(page)
        window += places_of_page[page]
        if len(window) >= questions:
            yield pages, window
            pages, window = [], []
    if window:
        yield pages, window


def _page_features(
    model: Florence2ForDocVQA, collator: QuestionCollator, pages: Sequence[str], settings: Settings
) -> Tensor:
    with autocast(settings):
        passes = [
            model.page_features(collator.states.stack(chunk).to(model.device))
            for chunk in _split(pages, PAGES_PER_PASS)
        ]
    return torch.cat(passes)


def _answer(
    model: Florence2ForDocVQA,
    collator: QuestionCollator,
    places: Sequence[int],
    features: Tensor,
    decoding: GenerationConfig,
    settings: Settings,
) -> list[tuple[str, float, float, int]]:
    """Answer, its probability, summed loss and label tokens of each question, from one pass through the encoder."""
    batch = {name: tensor.to(model.device) for name, tensor in collator.texts(places).items()}
    mask, labels = batch["attention_mask"], batch["labels"]
    with autocast(settings):
        encoded = model.encode(batch["input_ids"], mask, features)
        # A copy: beam search repeats what it is given for every beam, in place.
        answers = model.generate(
            encoder_outputs=BaseModelOutput(**encoded), attention_mask=mask, generation_config=decoding
        )
        # Without the token that every answer starts with. Once more through the decoder, since what generation
        # tells of its scores is of beams, and of the whole vocabulary at every step.
        given = answers[:, 1:].masked_fill(answers[:, 1:] == collator.pad_token_id, -100)
        surprise, losses = (_token_losses(model, encoded, mask, tokens) for tokens in (given, labels))
    # What decoding forces was not the model's choice.
    surprise, losses = surprise[:, len(target_format(model).start) :].sum(1), losses.sum(1)
    texts = collator.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
    return list(
        zip(
            (text.strip() for text in texts),
            (-surprise).exp().tolist(),
            losses.tolist(),
            (labels != -100).sum(1).tolist(),
            strict=True,
        )
    )


def _token_losses(model: Florence2ForDocVQA, encoded: BaseModelOutput, mask: Tensor, labels: Tensor) -> Tensor:
    logits = model(encoder_outputs=encoded, attention_mask=mask, labels=labels).logits.float()
    return cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)


# What else a run's settings say is about training, and changes nothing about a model that is there.


def evaluation_settings(run: SavedRun, data: str | None, further: dict[str, Any]) -> Settings:
    """The settings to evaluate a run with: its own, on other validation data if `data` is given.

    `further` may change what an evaluation depends on, `EVALUATION_SETTINGS`; `SettingsError` for anything else.
    """
    for name in further:
        if name not in EVALUATION_SETTINGS:
            raise SettingsError(
                f"setting {name!r} changes nothing about a model that is trained; allowed are "
                f"{', '.join(EVALUATION_SETTINGS)}"
            )
    return run.settings.replace(**further, **({"validation_data": data} if data else {}))


def evaluate_run(run: SavedRun, settings: Settings) -> pd.DataFrame:
    """Every validation question of `settings`, answered by the run's best model; columns as `evaluate` gives them.

    Raises `RunError` where the model is gone, and what `load_docvqa` raises.
    """
    model, processor = run.load()
    rows = load_docvqa(settings, "validation")
    shuffled = settings.shuffled_questions
    collator = QuestionCollator(rows, model, processor, settings.prefix, shuffled_questions=shuffled)
    return evaluate(model, collator, settings)
