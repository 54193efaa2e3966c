"""Questions to batches: prompts, labels, each page once, and the order of an epoch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from transformers import Florence2Processor

from docfloqa.florence import Florence2ForDocVQA, encode_prompts, encode_text
from docfloqa.page_images import as_page

PAGES_IN_MEMORY = 2**30  # bytes of pages kept by one process


class Pages:
    """Every distinct page of a split: its image, resized, (3, height, width) of bytes.

    An image is decoded and resized when it is first asked for, and kept while there is room. The model
    normalises bytes itself.
    """

    def __init__(self, rows: Dataset, processor: Florence2Processor):
        self.rows, self.processor = rows, processor
        self.of_question: list[str] = list(rows["page"])
        self.first_place: dict[str, int] = {}
        for place, page in enumerate(self.of_question):
            self.first_place.setdefault(page, place)
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __getitem__(self, page: str) -> Tensor:
        if page in self._kept:
            self._kept.move_to_end(page)
        else:
            tensor = self.load(page)
            self._kept[page] = tensor
            if len(self._kept) * tensor.nbytes > PAGES_IN_MEMORY:
                self._kept.popitem(last=False)
        return self._kept[page]

    def stack(self, pages: Sequence[str]) -> Tensor:
        """Some pages, (pages, channels, rows, columns)."""
        return torch.stack([self[page] for page in pages])

    def load(self, page: str) -> Tensor:
        """The resized image of a page, made anew."""
        image = as_page(self.rows[self.first_place[page]]["image"])
        resized = self.processor.image_processor(
            image, do_rescale=False, do_normalize=False, return_tensors="pt"
        )
        return resized.pixel_values[0]


class QuestionCollator:
    """Places of questions in a split to a batch of the model, each page of the batch once.

    The label is the first accepted answer, as in the published study. A batch has `pixel_values`
    (one entry of `pages` for each distinct page), `page_index`, `input_ids`, `attention_mask`, `labels`
    padded with -100, and `places`. Texts are tokenised once. `pages` are images, or what else of the vision
    encoder stands for them (see `docfloqa.vision_cache`).

    With `wrong_pages`, a control, every question comes with a page of the next document instead of its
    own: what is right then was not read. Raises `ValueError` if there is no other document. With
    `shuffled_questions`, another control, the texts of the questions change places, always in the same way.
    """

    def __init__(
        self,
        rows: Dataset,
        model: Florence2ForDocVQA,
        processor: Florence2Processor,
        prefix: str,
        pages: Pages | None = None,
        wrong_pages: bool = False,
        shuffled_questions: bool = False,
    ):
        self.rows, self.processor = rows, processor
        self.states = pages or Pages(rows, processor)
        self.pages = self.states.of_question
        if wrong_pages:
            self.pages = _pages_of_the_next_document(self.pages, rows["document_id"])
        text = model.config.text_config
        self.pad_token_id = text.pad_token_id
        longest = text.max_position_embeddings
        self.prompts = encode_prompts(processor, rows["question"], prefix, longest)
        if shuffled_questions:
            order = np.random.default_rng(0).permutation(len(self.prompts))
            self.prompts = [self.prompts[place] for place in order]
        end = [text.eos_token_id]
        first_answers = [answers[0] for answers in rows["answers"]]
        self.labels = [ids[: longest - 1] + end for ids in encode_text(processor, first_answers)]

    def __call__(self, places: Sequence[int]) -> dict[str, Tensor]:
        pages = list(dict.fromkeys(self.pages[place] for place in places))
        position = {page: index for index, page in enumerate(pages)}
        page_index = torch.tensor([position[self.pages[place]] for place in places])
        return {"pixel_values": self.states.stack(pages), "page_index": page_index, **self.texts(places)}

    def texts(self, places: Sequence[int]) -> dict[str, Tensor]:
        """A batch without its pages."""
        return {
            "input_ids": self._pad([self.prompts[place] for place in places], self.pad_token_id),
            "attention_mask": self._pad([[1] * len(self.prompts[place]) for place in places], 0),
            "labels": self._pad([self.labels[place] for place in places], -100),
            "places": torch.tensor(places),
        }

    @staticmethod
    def _pad(sequences: list[list[int]], value: int) -> Tensor:
        return pad_sequence(list(map(torch.tensor, sequences)), batch_first=True, padding_value=value)


def _pages_of_the_next_document(pages: Sequence[str], documents: Sequence[str]) -> list[str]:
    page_of = dict(zip(documents, pages, strict=True))
    names = list(page_of)
    if len(names) < 2:
        raise ValueError("wrong pages are those of other documents, and there is one document only")
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [page_of[following[document]] for document in documents]


class EpochSampler(Sampler[int]):
    """The order of the questions in an epoch, which depends on the seed and the epoch alone.

    "uniform" shuffles the questions, as published. "by_image" shuffles the pages and keeps the
    questions of a page together, so that they share a pass through the vision tower; a step has the
    same number of questions in both.
    """

    def __init__(self, pages: Sequence[str], batching: str, seed: int):
        self.pages, self.batching, self.seed, self.epoch = pages, batching, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order comes next; the trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pages)

    def __iter__(self) -> Iterator[int]:
        shuffled = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.pages)).tolist()
        if self.batching == "uniform":
            yield from shuffled
            return
        places_of_page: dict[str, list[int]] = {}
        for place in shuffled:
            places_of_page.setdefault(self.pages[place], []).append(place)
        for places in places_of_page.values():
            yield from places
