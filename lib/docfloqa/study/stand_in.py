"""What takes the place of the real model and data where only sizes matter: random weights, drawn pages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from shutil import rmtree

import torch
from datasets import Dataset
from transformers import CLIPImageProcessorPil, Florence2Processor

from docfloqa.files import TINY_MODEL, data_folder
from docfloqa.model.florence import Florence2ForDocVQA, base_config
from docfloqa.model.targets import generation_config

PAGE_SIZE = 768
QUESTIONS_PER_PAGE = 3.9  # of DocVQA's training split: 39,463 questions on 10,194 pages
IMAGE_TOKENS = (PAGE_SIZE // 32) ** 2 + 1


def random_base_model() -> Path:
    """The folder of a model of Florence-2-base's size with random weights, written if it is not there.

    It has the tiny model's vocabulary, so prompts are longer than the real ones; pages are 768 x 768 pixels.
    Takes 0.5 GB, in fp16.
    """
    folder = data_folder() / "cache" / "florence2-base-random"
    if not folder.is_dir():
        tokenizer = Florence2Processor.from_pretrained(TINY_MODEL).tokenizer
        images = CLIPImageProcessorPil(size={"height": PAGE_SIZE, "width": PAGE_SIZE}, do_center_crop=False)
        images.image_seq_length = IMAGE_TOKENS
        config = base_config()
        config.image_token_id = tokenizer.image_token_id
        torch.manual_seed(0)
        model = Florence2ForDocVQA(config).half()
        # As the real one's targets begin.
        model.generation_config.forced_bos_token_id = config.text_config.bos_token_id
        model.generation_config = generation_config(model, max_new_tokens=20)
        part = folder.with_name(f".{folder.name}.part")
        rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        Florence2Processor(image_processor=images, tokenizer=tokenizer).save_pretrained(part)
        part.replace(folder)
    return folder


def like_docvqa(rows: Dataset) -> Dataset:
    """The first questions of every page, so many that their mean over pages is DocVQA's."""
    kept, taken, room = [], Counter(), {}
    for place, page in enumerate(rows["page"]):
        if page not in room:
            room[page] = int(QUESTIONS_PER_PAGE * (len(room) + 1)) - int(QUESTIONS_PER_PAGE * len(room))
        taken[page] += 1
        if taken[page] <= room[page]:
            kept.append(place)
    return rows.select(kept)
