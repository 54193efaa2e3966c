"""What the tiny model is pretrained to read: strips, pages on a grid and small pages, with prompts and answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

from docfloqa.data.synth.canvas import Box, Page, add_noise, font
from docfloqa.data.synth.small import CLEAN, ROW, SMALL_PAGE_SIZE, small_page
from docfloqa.data.synth.vocabulary import KNOWN, TITLE_KEY, item_key
from docfloqa.pretraining.tiny import (
    FIELD_TASK,
    LOCATION_TOKENS,
    MEAN,
    OCR_PROMPT,
    PIXELS_PER_CELL,
    REGION_PROMPT,
    SPREAD,
)

FONT, COLUMN = "DejaVuSansMono", 8
FONT_SIZE = COLUMN / 0.60205  # the font advances 0.602 em a character, so that each is exactly one column wide
# One character class for every slot of 4 x 8 pixels: half a column wide and half a row high.
SLOT_WIDTH, SLOT_HEIGHT = COLUMN // 2, ROW // 2
CHARACTERS = " $.:,&ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SKIPPED = -100
FIRST_ROWS = 4  # of the first pages on the grid
WORDS = KNOWN["pretraining"]


class Prompt(NamedTuple):
    """A prompt about a page, the text that answers it, and the boxes of what it names and of its answer."""

    prompt: str
    text: str
    named: Box
    answer: Box


Sample = tuple[Page, list[Prompt]]


@dataclass(frozen=True)
class Phase:
    """One phase of pretraining; it begins with drawings of few fields and fonts."""

    name: str
    draws: str  # "strips" (one line on the grid), "grid" (pages on it) or "pages" (small pages, printed cleanly)
    steps: int
    images_per_step: int
    prompts_per_image: int
    learning_rate: float
    seed: int
    first_progress: float = 0.0  # how hard the first drawings are, from 0 to 1
    named: float = 0.5  # share of the prompts that ask for a named field
    dense_weight: float = 1.0  # of the losses of every slot and cell beside that of the texts


class Grid(Page):
    """A page of character cells in one font, at most a pixel off, on which text is put by column and row."""

    def __init__(self, rng: Random, kind: str, height: int = SMALL_PAGE_SIZE):
        super().__init__(rng, kind, (SMALL_PAGE_SIZE, height), rng.randint(*CLEAN.paper), rng.randint(*CLEAN.ink), FONT)
        self.left, self.top = (rng.randint(0, CLEAN.offset) for _ in range(2))
        self.columns, self.rows = (SMALL_PAGE_SIZE - CLEAN.offset) // COLUMN, height // ROW

    def put(self, column: int, row: int, text: str) -> Box:
        """Print `text` from a cell on and return the box that it fills."""
        left, top = self.left + COLUMN * column, self.top + ROW * row
        self.pen.text((left, top), text, font=font(FONT, FONT_SIZE), fill=self.ink)
        for index, letter in enumerate(text):
            if letter != " ":
                self.characters.append((left + COLUMN * (index + 0.5), top + ROW / 2, letter))
        return left, top, left + COLUMN * len(text) - 1, top + ROW - 1

    def scan(self) -> "Grid":
        """The page as the scanner sees it."""
        self.image = add_noise(self.image, self.rng, CLEAN.noise)
        return self


def strip(rng: Random, spread: float) -> tuple[Page, str, Box]:
    """A strip of two rows with one line of text, that text and its box.

    `spread` in [0, 1] is how far from the top left corner the line may begin: 0 is easiest.
    """
    grid = Grid(rng, "strip", 2 * ROW)
    key, choice = rng.choice(WORDS.keys), rng.random()
    # The longer a text, the more letters a prompt teaches.
    text = f"{key.label} {key.value(rng)}" if choice < 0.5 else key.value(rng) if choice < 0.85 else key.label
    text = text[: grid.columns]
    box = grid.put(rng.randint(0, int((grid.columns - len(text)) * spread)), rng.randint(0, 1), text)
    return grid.scan(), text, box


def grid_page(rng: Random, most_fields: int = 6, height: int = SMALL_PAGE_SIZE) -> Page:
    """A form, a receipt or a stack of fields, 160 pixels wide, with 3 to `most_fields` fields, fewer on a low page.

    In a form the value follows its key or stands in a second column, in a receipt it ends at the
    right margin, in a stack it stands below. A third of the forms and stacks begin with a title.
    """
    kind = rng.choice(("form", "receipt", "stack"))
    grid, first_row = Grid(rng, kind, height), 0
    if kind != "receipt" and rng.random() < 1 / 3:
        title, first_row = rng.choice(WORDS.titles), 1
        box = grid.put((grid.columns - len(title)) // 2, 0, title)
        grid.note(TITLE_KEY, title, box, box)
    # The last row is left free: an offset may push it over the edge.
    rows = range(first_row, grid.rows - 1)
    most = min(most_fields, len(rows) // (2 if kind == "stack" else 1))
    count = rng.randint(min(3, most), most)
    key_rows = rows[: 2 * count : 2] if kind == "stack" else sorted(rng.sample(rows, count))
    if kind == "receipt":
        keys = [*(item_key(item) for item in rng.sample(WORDS.items, count - 1)), WORDS.total]
    else:
        keys = rng.sample(WORDS.keys, count)
    colon, value_column = rng.choice(("", ":")), rng.choice((None, 9))
    for key, row in zip(keys, key_rows, strict=True):
        value, value_row, label = key.value(rng), row, key.label + colon
        beside = len(label) + 1
        if kind == "stack":
            column, value_row = rng.randint(0, 3), row + 1
        elif kind == "receipt":
            column = grid.columns - len(value)
        else:
            column = max(beside, min(value_column or beside, grid.columns - len(value)))
        while value_row == row and column + len(value) > grid.columns:
            value = key.value(rng)
            column = max(beside, grid.columns - len(value))
        key_box = grid.put(0, row, label)
        grid.note(key, value, key_box, grid.put(column, value_row, value))
    return grid.scan()


def draw_sample(rng: Random, phase: Phase, progress: float) -> Sample:
    """An image of a phase with its prompts; `progress` in [0, 1] sets how hard it is."""
    if phase.draws == "strips":
        page, text, box = strip(rng, spread=min(1.0, 1.5 * progress))
        return page, [Prompt(OCR_PROMPT, text, box, box)]
    if phase.draws == "grid":
        # At full height nothing is read for a thousand steps: *where* to read is what is missing.
        rows = min(SMALL_PAGE_SIZE // ROW, FIRST_ROWS + int(9 * progress))
        page = grid_page(rng, most_fields=8, height=rows * ROW)
    else:
        # One font more with every tenth of the phase.
        look = replace(CLEAN, fonts=CLEAN.fonts[: 1 + int(10 * progress)])
        page = small_page(rng, look, WORDS, most_fields=5 if progress < 0.1 else 12)
    asked = []
    for field in (rng.choice(page.fields) for _ in range(phase.prompts_per_image)):
        is_named, text, box = rng.random() < phase.named, field.value, field.value_box
        if not is_named and rng.random() < 0.3:
            box = field.key_box
            text = field.value if box == field.value_box else field.key_text or field.key.label
        if is_named:
            name = FIELD_TASK + rng.choice((field.key.label, field.key.subject))
            asked.append(Prompt(name, text, field.key_box, box))
        else:
            # Each edge is told in as many parts of the page as there are tokens.
            parts = (int(edge * len(LOCATION_TOKENS) / page.image.width) for edge in box)
            tokens = (LOCATION_TOKENS[min(max(0, part), len(LOCATION_TOKENS) - 1)] for part in parts)
            asked.append(Prompt(REGION_PROMPT.format("".join(tokens)), text, box, box))
    return page, asked


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


def cells(page: Page, box: Box) -> Tensor:
    """The share of a box that each cell of the page has, (rows x columns) of float32 that add up to 1.

    A box is as high as its line, which stands in the row of its middle.
    """
    rows, columns = page.image.height // PIXELS_PER_CELL, page.image.width // PIXELS_PER_CELL
    left, top, right, bottom = (edge / PIXELS_PER_CELL for edge in box)
    row = min(max(0, int((top + bottom) / 2)), rows - 1)
    first, last = (min(max(0, int(edge)), columns - 1) for edge in (left, right))
    shares = torch.zeros(rows, columns)
    shares[row, first : last + 1] = 1 / (last + 1 - first)
    return shares.flatten()


def collated(tokenizer: PreTrainedTokenizerFast, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """A batch: distinct images and slot classes, all prompts, the index of the image that each is about, and labels.

    "named" and "answer" are the shares of `cells` of every prompt, (prompts, rows x columns).
    """
    pages, asked = zip(*samples, strict=True)
    images = torch.stack([torch.from_numpy(np.array(page.image)) for page in pages])
    pixels = images.float().div(255).sub(MEAN).div(SPREAD)[:, None].expand(-1, 3, -1, -1).contiguous()
    count = images.shape[1] // PIXELS_PER_CELL * (images.shape[2] // PIXELS_PER_CELL)
    lead = [tokenizer.image_token_id] * (count + 1) + [tokenizer.bos_token_id]
    prompts, texts = (
        tokenizer([pair[n] for some in asked for pair in some], add_special_tokens=False).input_ids for n in range(2)
    )
    start, end = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    rows = [
        {"input_ids": lead + prompt + end, "labels": start + text + end}
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return {
        "pixel_values": pixels,
        "characters": torch.stack([slots(page) for page in pages]),
        "named": torch.stack([cells(page, each.named) for page, some in samples for each in some]),
        "answer": torch.stack([cells(page, each.answer) for page, some in samples for each in some]),
        "page_index": torch.repeat_interleave(torch.tensor([len(some) for some in asked])),
        **DataCollatorForSeq2Seq(tokenizer)(rows),
    }
