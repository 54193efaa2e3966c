"""What the tiny model is pretrained to read: drawn images with prompts, texts, and every character's place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from docfloqa.data.synth.canvas import Page
from docfloqa.data.synth.small import CLEAN, small_page
from docfloqa.pretraining.pages import COLUMN, ROW, grid_page, strip
from docfloqa.pretraining.tiny import (
    FIELD_TASK,
    LOCATION_TOKENS,
    MEAN,
    OCR_PROMPT,
    PIXELS_PER_CELL,
    REGION_PROMPT,
    SPREAD,
)

# One character class for every slot of 4 x 8 pixels: half a column wide and half a row high.
SLOT_WIDTH, SLOT_HEIGHT = COLUMN // 2, ROW // 2
CHARACTERS = " $.:,&ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SKIPPED = -100
BLANK_WEIGHT = 0.03


@dataclass(frozen=True)
class Phase:
    """One phase of pretraining: what is drawn, for how many steps, how fast.

    `draws` is "strips" (one line of text on the grid), "grid" (pages on the grid) or "pages" (small pages,
    as the study asks about, but printed cleanly). A phase begins with drawings of few fields and fonts.
    Without prompts only the vision tower is trained, on the characters alone; with
    `character_weight` 0 the characters teach nothing.
    """

    name: str
    draws: str
    steps: int
    images_per_step: int
    prompts_per_image: int
    learning_rate: float
    seed: int
    character_weight: float = 1.0


@dataclass
class Sample:
    """A drawn page with prompts, the texts that answer them, and the character in every slot."""

    page: Page
    prompts: list[str]
    texts: list[str]
    characters: Tensor


def region(box: Sequence[float], page_size: int) -> str:
    """A box in pixels of a square page as four location tokens, each a twentieth of the page."""
    places = len(LOCATION_TOKENS)
    return "".join(LOCATION_TOKENS[min(places - 1, max(0, int(edge * places / page_size)))] for edge in box)


def slots(page: Page) -> Tensor:
    """The class of the character in the middle of every slot, (rows, columns) of int64.

    0 where there is none, and `SKIPPED` where narrow letters share a slot.
    """
    classes = np.zeros((page.image.height // SLOT_HEIGHT, page.image.width // SLOT_WIDTH), dtype=np.int64)
    for x, y, character in page.characters:
        row, column = int(y // SLOT_HEIGHT), int(x // SLOT_WIDTH)
        if row < classes.shape[0] and column < classes.shape[1]:
            known = CHARACTERS.index(character) if classes[row, column] == 0 else SKIPPED
            classes[row, column] = known
    return torch.from_numpy(classes)


def draw_sample(rng: Random, phase: Phase, progress: float) -> Sample:
    """An image of a phase with its prompts; `progress` in [0, 1] sets how hard it is."""
    if phase.draws == "strips":
        page, text = strip(rng, spread=min(1.0, 1.5 * progress))
        return Sample(page, [OCR_PROMPT], [text], slots(page))
    if phase.draws == "grid":
        page = grid_page(rng, most_fields=4 if progress < 0.3 else 8)
    else:
        # One font more with every tenth of the phase.
        look = replace(CLEAN, fonts=CLEAN.fonts[: 1 + int(10 * progress)])
        page = small_page(rng, look, most_fields=5 if progress < 0.1 else 12)
    prompts, texts = [], []
    for field in (rng.choice(page.fields) for _ in range(phase.prompts_per_image)):
        choice = rng.random()
        text = field.value
        if choice < 0.5:
            prompt = FIELD_TASK + rng.choice((field.key.label, field.key.subject))
        elif choice < 0.85:
            prompt = REGION_PROMPT.format(region(field.value_box, page.image.width))
        else:
            prompt = REGION_PROMPT.format(region(field.key_box, page.image.width))
            text = field.value if field.key_box == field.value_box else field.key_text or field.key.label
        prompts.append(prompt)
        texts.append(text)
    return Sample(page, prompts, texts, slots(page))


class DrawnReading(Dataset):
    """The images of a phase; the image at a place is drawn anew from the phase's seed and that place."""

    def __init__(self, phase: Phase):
        self.phase = phase

    def __len__(self) -> int:
        return self.phase.steps * self.phase.images_per_step

    def __getitem__(self, place: int) -> Sample:
        rng = Random(f"{self.phase.draws}-{self.phase.seed}-{place}")
        return draw_sample(rng, self.phase, progress=place / len(self))


class ReadingCollator:
    """Samples to a batch: distinct images, prompts that point to them, labels, and slot classes.

    Without prompts, only images and classes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        tokenizer = self.tokenizer
        images = torch.stack([torch.from_numpy(np.array(sample.page.image)) for sample in samples])
        pixels = images.float().div(255).sub(MEAN).div(SPREAD)[:, None].expand(-1, 3, -1, -1)
        characters = torch.stack([sample.characters for sample in samples])
        if not any(sample.prompts for sample in samples):
            return {"pixel_values": pixels.contiguous(), "characters": characters}
        cells = images.shape[1] // PIXELS_PER_CELL * (images.shape[2] // PIXELS_PER_CELL)
        lead = [tokenizer.image_token_id] * (cells + 1) + [tokenizer.bos_token_id]
        prompts = tokenizer([text for sample in samples for text in sample.prompts], add_special_tokens=False)
        texts = tokenizer([text for sample in samples for text in sample.texts], add_special_tokens=False)
        end = [tokenizer.eos_token_id]
        input_ids = pad_sequence(
            [torch.tensor(lead + ids + end) for ids in prompts.input_ids],
            batch_first=True,
            padding_value=tokenizer.pad_token_id,
        )
        return {
            "pixel_values": pixels.contiguous(),
            "page_index": torch.repeat_interleave(torch.tensor([len(sample.prompts) for sample in samples])),
            "input_ids": input_ids,
            "attention_mask": (input_ids != tokenizer.pad_token_id).long(),
            "labels": pad_sequence(
                [torch.tensor(ids + end) for ids in texts.input_ids], batch_first=True, padding_value=-100
            ),
            "characters": characters,
        }
