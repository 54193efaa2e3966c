"""Questions to batches: prompts, labels, each page once, and the order of an epoch."""

import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Florence2Processor

from docfloqa.data.images import as_page
from docfloqa.exceptions import SettingsError
from docfloqa.model.florence import Florence2ForDocVQA, encode_prompts, encode_text, target_format

AT_ONCE = 1000  # questions or answers tokenised
SHORTEST_TEXT, SHORTEST_LABEL = 32, 16  # tokens, where batches come in few shapes
Alive = Callable[[], None]  # called from time to time in what takes long
NOTHING = -1  # in place of a question where a process has fewer of them than the others


def split(items: Sequence, size: int) -> Iterator[Sequence]:
    """Parts of so many items, the last one of what is left."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def resized(image: Image.Image, processor: Florence2Processor) -> Tensor:
    """A page of any mode and size as the model takes it: (3, height, width) of bytes, which the model normalises."""
    made = processor.image_processor(as_page(image), do_rescale=False, do_normalize=False, return_tensors="pt")
    return made.pixel_values[0]


class Pages:
    """Every distinct page of a split, its image `resized`."""

    def __init__(self, rows: Dataset, processor: Florence2Processor):
        self.rows, self.processor = rows, processor
        # Of each page the first question.
        self.first = {page: index for index, page in pd.Series(rows["page"]).drop_duplicates().items()}
        self.names = list(self.first)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> Image.Image:
        return self.rows[self.first[self.names[place]]]["image"]

    def load(self, page: str) -> Tensor:
        return resized(self.rows[self.first[page]]["image"], self.processor)

    def stack(self, pages: Sequence[str]) -> Tensor:
        """Some pages, (pages, channels, rows, columns)."""
        return torch.stack([self.load(page) for page in pages])


class QuestionCollator:
    """Indices of questions in a split to a batch of the model, each page of the batch once.

    A batch has `pixel_values` (of each distinct page its entry in `pages`), `page_index`, `input_ids`,
    `attention_mask`, `labels` (the first accepted answer, padded with -100), and `index`. With `wrong_pages` questions
    come with a page of the next document (`SettingsError` without one), with `shuffled_questions` their texts change
    places, always the same way. `static_shapes` pad everything to `few` lengths; losses and answers stay the same.
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
        static_shapes: bool = False,
    ):
        self.rows, self.processor, self.static_shapes = rows, processor, static_shapes
        self.states = pages or Pages(rows, processor)
        self.pages: list[str] = list(rows["page"])
        if wrong_pages:
            page_of = dict(zip(rows["document_id"], self.pages, strict=True))
            if len(page_of) < 2:
                raise SettingsError("wrong pages are those of other documents, and there is one document only")
            following = dict(zip(page_of, [*page_of.values()][1:] + [*page_of.values()][:1], strict=True))
            self.pages = [following[document] for document in rows["document_id"]]
        target = target_format(model)
        self.pad_token_id = target.pad
        self.longest = longest = model.config.text_config.max_position_embeddings
        # The hundreds of placeholders that every prompt begins with would be most of what a large data set takes.
        self.placeholders = [processor.image_token_id] * processor.num_image_tokens
        encoded = (encode_prompts(processor, some, prefix, longest) for some in split(rows["question"], AT_ONCE))
        self.prompts = [array("i", ids[len(self.placeholders) :]) for ids in chain.from_iterable(encoded)]
        if shuffled_questions:
            order = np.random.default_rng(0).permutation(len(self.prompts))
            self.prompts = [self.prompts[index] for index in order]
        answers = (encode_text(processor, [first for first, *_ in some]) for some in split(rows["answers"], AT_ONCE))
        self.labels = [array("i", target.label(ids, longest)) for ids in chain.from_iterable(answers)]

    def warn_of_long_answers(self, split: str, tokens: int) -> None:
        """Warn where an answer of so many tokens cannot be the whole of some label of this split."""
        # The end may be missing.
        if longer := [len(label) - 1 for label in self.labels if len(label) - 1 > tokens]:
            warnings.warn(
                f"{len(longer):,} of {len(self.labels):,} first answers of {split} are longer than an answer may be, "
                f"{tokens} tokens: max_new_tokens of {max(longer)} or more lets the model give them whole",
                stacklevel=2,
            )

    def __call__(self, questions: Sequence[int]) -> dict[str, Tensor]:
        # A share without a question keeps one, whose answer does not count.
        questions = [index for index in questions if index != NOTHING] or [NOTHING]
        index_of_page, pages = pd.factorize(np.array([self.pages[index] for index in questions], dtype=object))
        pages = list(pages)
        if self.static_shapes:
            pages += pages[-1:] * (few(len(pages), 1, len(questions)) - len(pages))
        page_index = torch.from_numpy(index_of_page)
        return {"pixel_values": self.states.stack(pages), "page_index": page_index, **self.texts(questions)}

    def texts(self, questions: Sequence[int]) -> dict[str, Tensor]:
        texts = [self.prompts[index] for index in questions]
        labels = [self.labels[index] if index != NOTHING else [-100] for index in questions]
        lengths = [max(map(len, sequences)) for sequences in (texts, labels)]
        if self.static_shapes:
            lengths[0] = few(lengths[0], SHORTEST_TEXT, self.longest - len(self.placeholders))
            lengths[1] = few(lengths[1], SHORTEST_LABEL, self.longest)
        images = torch.tensor(self.placeholders).expand(len(questions), -1)
        mask = padded([[1] * len(text) for text in texts], lengths[0], 0)
        return {
            "input_ids": torch.cat([images, padded(texts, lengths[0], self.pad_token_id)], dim=1),
            "attention_mask": torch.cat([torch.ones_like(images), mask], dim=1),
            "labels": padded(labels, lengths[1], -100),
            "index": torch.tensor(questions),
        }


def padded(sequences: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    """Sequences as one tensor (sequences, length), filled with `value`."""
    return torch.tensor([[*one, *[value] * (length - len(one))] for one in sequences])


def few(count: int, least: int, most: int) -> int:
    """The next power of two, or three quarters of one, from `least` on, at most `most`: few numbers stand for all."""
    power = 1 << (count - 1).bit_length()
    chosen = power * 3 // 4 if 4 * count <= 3 * power and power > 2 else power
    return min(max(least, chosen), most)


class EpochSampler(Sampler[int]):
    """The order of the questions in an epoch, which depends on the seed and the epoch alone.

    "uniform" is as published; "by_image" keeps the questions of a page together. Of several processes each takes the
    next `batch_size / processes` questions, and of the last batch as many as there are, `NOTHING` for the rest.
    """

    def __init__(self, pages: Sequence[str], batching: str, seed: int, batch_size: int = 1, processes: int = 1):
        self.pages, self.batching, self.seed, self.epoch = pages, batching, seed, 0
        self.batch_size, self.processes = batch_size, processes

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.pages) + (-len(self.pages) % self.batch_size if self.processes > 1 else 0)

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.pages))
        if self.batching == "by_image":
            codes, _ = pd.factorize(np.array(self.pages, dtype=object)[order])
            order = order[np.argsort(codes, kind="stable")]
        whole = len(order) - len(order) % self.batch_size if self.processes > 1 else len(order)
        yield from order[:whole].tolist()
        if whole < len(order):
            for part in np.array_split(order[whole:], self.processes):
                yield from [*part.tolist(), *[NOTHING] * (self.batch_size // self.processes - len(part))]
