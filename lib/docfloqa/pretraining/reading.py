"""What the tiny model is pretrained to read: drawn images with prompts, texts, and every character's place."""

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
    """One phase of pretraining; it begins with drawings of few fields and fonts.

    Without prompts only the vision tower is trained, on the characters alone.
    """

    name: str
    draws: str  # "strips" (one line on the grid), "grid" (pages on it) or "pages" (small pages, printed cleanly)
    steps: int
    images_per_step: int
    prompts_per_image: int
    learning_rate: float
    seed: int
    character_weight: float = 1.0  # of the characters' loss beside that of the texts


@dataclass
class Sample:
    """A drawn page with prompts, the texts that answer them, and the character in every slot."""

    page: Page
    prompts: list[str]
    texts: list[str]
    characters: Tensor


def region(box: Sequence[float], page_size: int) -> str:
    """A box in pixels of a square page as four location tokens, each a twentieth of the page."""
    parts = len(LOCATION_TOKENS)
    return "".join(LOCATION_TOKENS[min(parts - 1, max(0, int(edge * parts / page_size)))] for edge in box)


def slots(page: Page) -> Tensor:
    """The class of the character in the middle of every slot, (rows, columns) of int64.

    0 where there is none, and `SKIPPED` where narrow letters share a slot.
    """
    classes = torch.zeros(page.image.height // SLOT_HEIGHT, page.image.width // SLOT_WIDTH, dtype=torch.long)
    for x, y, character in page.characters:
        row, column = int(y // SLOT_HEIGHT), int(x // SLOT_WIDTH)
        if row < classes.shape[0] and column < classes.shape[1]:
            classes[row, column] = CHARACTERS.index(character) if classes[row, column] == 0 else SKIPPED
    return classes


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
    asked = []
    for field in (rng.choice(page.fields) for _ in range(phase.prompts_per_image)):
        choice, text, box = rng.random(), field.value, field.value_box
        if choice >= 0.85:
            box = field.key_box
            text = field.value if box == field.value_box else field.key_text or field.key.label
        if choice < 0.5:
            asked.append((FIELD_TASK + rng.choice((field.key.label, field.key.subject)), text))
        else:
            asked.append((REGION_PROMPT.format(region(box, page.image.width)), text))
    return Sample(page, [prompt for prompt, _ in asked], [text for _, text in asked], slots(page))


class DrawnReading(Dataset):
    """The images of a phase; each is drawn anew from the phase's seed and its index."""

    def __init__(self, phase: Phase):
        self.phase = phase

    def __len__(self) -> int:
        return self.phase.steps * self.phase.images_per_step

    def __getitem__(self, index: int) -> Sample:
        rng = Random(f"{self.phase.draws}-{self.phase.seed}-{index}")
        return draw_sample(rng, self.phase, progress=index / len(self))


def collated(tokenizer: PreTrainedTokenizerFast, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """A batch: distinct images and slot classes; where there are prompts, these, the pages they are of, and labels."""
    images = torch.stack([torch.from_numpy(np.array(sample.page.image)) for sample in samples])
    pixels = images.float().div(255).sub(MEAN).div(SPREAD)[:, None].expand(-1, 3, -1, -1).contiguous()
    batch = {"pixel_values": pixels, "characters": torch.stack([sample.characters for sample in samples])}
    if not any(sample.prompts for sample in samples):
        return batch
    cells = images.shape[1] // PIXELS_PER_CELL * (images.shape[2] // PIXELS_PER_CELL)
    lead = [tokenizer.image_token_id] * (cells + 1) + [tokenizer.bos_token_id]

    def padded(texts: list[str], start: list[int], padding: int) -> Tensor:
        ids = tokenizer(texts, add_special_tokens=False).input_ids
        rows = [torch.tensor([*start, *row, tokenizer.eos_token_id]) for row in ids]
        return pad_sequence(rows, batch_first=True, padding_value=padding)

    input_ids = padded([text for sample in samples for text in sample.prompts], lead, tokenizer.pad_token_id)
    return batch | {
        "page_index": torch.repeat_interleave(torch.tensor([len(sample.prompts) for sample in samples])),
        "input_ids": input_ids,
        "attention_mask": (input_ids != tokenizer.pad_token_id).long(),
        "labels": padded([text for sample in samples for text in sample.texts], [], -100),
    }
