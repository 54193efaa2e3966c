"""Answers and scores of a model on validation questions, over one process or several."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pandas as pd
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers.modeling_outputs import BaseModelOutput

from docfloqa.data.load import load_docvqa
from docfloqa.metrics import score
from docfloqa.model.device import autocast
from docfloqa.model.florence import Florence2ForDocVQA, generation_config, target_format
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.training.batches import Alive, QuestionCollator, split

# Batches whose pages are encoded together: their questions are sorted by length without encoding a page twice,
# and the features of no more pages are in memory.
BATCHES_PER_WINDOW = 8
PAGES_PER_PASS = 16


@torch.no_grad()
def evaluate(
    model: Florence2ForDocVQA, collator: QuestionCollator, settings: Settings, alive: Alive = lambda: None
) -> pd.DataFrame:
    """One row per question of the collator's split, for each process that shares the work: answer, loss, metrics.

    `confidence` is the probability in [0, 1] that the model gives this answer, its end included where it ended, the
    forced start not; `loss_sum` the cross-entropy of the first accepted answer's `tokens`, in nats. Leaves the model in
    its mode. Calls `alive` after every batch.
    """
    rows, process = collator.rows, PartialState()
    was_training = model.training
    model.eval()
    answered: list[tuple[int, str, float, float, int]] = []
    with tqdm(total=len(rows), desc="evaluating", unit="question", leave=False, disable=None) as progress:
        windows = _windows(collator, BATCHES_PER_WINDOW * settings.eval_batch_size)
        # As the windows are the same however many processes share them, so are the answers.
        for pages, window in islice(windows, process.process_index, None, process.num_processes):
            with autocast(settings):
                chunks = split(pages, PAGES_PER_PASS)
                features = [model.page_features(collator.states.stack(chunk).to(model.device)) for chunk in chunks]
            of_page = dict(zip(pages, torch.cat(features), strict=True))
            by_length = sorted(window, key=lambda index: (len(collator.prompts[index]), index))
            for questions in split(by_length, settings.eval_batch_size):
                chosen = torch.stack([of_page[collator.pages[index]] for index in questions])
                answered += _answer(model, collator, questions, chosen, settings)
                progress.update(len(questions))
                alive()
    model.train(was_training)
    columns = ["index", "prediction", "confidence", "loss_sum", "tokens"]
    made = pd.DataFrame(sorted(gather_object(answered)), columns=columns).drop(columns="index")
    asked = {name: list(rows[name]) for name in ("document_id", "question", "question_types")}
    made.insert(2, "answers", list(rows["answers"]))
    return score(pd.DataFrame({"question_id": list(rows["questionId"]), **asked, **made}))


def _windows(collator: QuestionCollator, questions: int) -> Iterator[tuple[list[str], list[int]]]:
    """Pages and the indices of all of their questions, about so many at a time."""
    pages, window = [], []
    for page, indices in sorted(pd.Series(collator.pages).groupby(collator.pages).indices.items()):
        pages.append(page)
        window += indices.tolist()
        if len(window) >= questions:
            yield pages, window
            pages, window = [], []
    if window:
        yield pages, window


def _answer(
    model: Florence2ForDocVQA, collator: QuestionCollator, questions: Sequence[int], pages: Tensor, settings: Settings
) -> list[tuple[int, str, float, float, int]]:
    """Each question with its answer, that one's probability, summed loss and label tokens, from one encoder pass."""
    batch = {name: tensor.to(model.device) for name, tensor in collator.texts(questions).items()}
    mask, labels = batch["attention_mask"], batch["labels"]
    decoding = generation_config(model, settings.max_new_tokens, settings.num_beams)

    def losses(encoded: BaseModelOutput, tokens: Tensor) -> Tensor:
        logits = model(encoder_outputs=encoded, attention_mask=mask, labels=tokens).logits.float()
        return cross_entropy(logits.transpose(1, 2), tokens, reduction="none", ignore_index=-100)

    with autocast(settings):
        encoded = model.encode(batch["input_ids"], mask, pages)
        # A copy: beam search repeats what it is given for every beam, in place.
        copied = {"encoder_outputs": BaseModelOutput(**encoded), "attention_mask": mask}
        answers = model.generate(**copied, generation_config=decoding)
        # Without the token that every answer starts with. Once more through the decoder, since what generation
        # tells of its scores is of beams, and of the whole vocabulary at every step.
        given = answers[:, 1:].masked_fill(answers[:, 1:] == collator.pad_token_id, -100)
        # What decoding forces was not the model's choice.
        surprise = losses(encoded, given)[:, len(target_format(model).start) :].sum(1)
        loss = losses(encoded, labels).sum(1)
    texts = collator.processor.tokenizer.batch_decode(answers, skip_special_tokens=True)
    figures = ((-surprise).exp().tolist(), loss.tolist(), (labels != -100).sum(1).tolist())
    return list(zip(questions, (text.strip() for text in texts), *figures, strict=True))


def evaluate_run(run: Run, settings: Settings) -> pd.DataFrame:
    """`evaluate` of a run's best model on the validation questions of `settings`; raises as loading either does."""
    (model, processor), rows = run.load(), load_docvqa(settings, "validation")
    shuffled = {"shuffled_questions": settings.shuffled_questions}
    return evaluate(model, QuestionCollator(rows, model, processor, settings.prefix, **shuffled), settings)
