"""The published way of fine-tuning and evaluating, on transformers' native class, to measure against.

Source: finetune.py of github.com/KeibingYang/MLDL_Project (b968a8c); its order of work, not its text.

Kept: every question brings its own copy of the page, decoded, processed and sent through the whole vision tower
in fp32, frozen or not, at every step, and in evaluation once for the loss and again for the answers; frozen parts
stay in train mode. The prefix is text. Padding is attended to, since the checkpoint's own code puts a mask of ones
in place of any other, and counts in the loss, since padded labels stay as they are. The output embedding is a
tensor of its own, which is trained beside the input's (270.8 M parameters at Florence-2-base's size). AdamW with
the script's decay and epsilon, no gradient clipping. Answers are decoded as Florence-2's own settings say.

Not kept: its AdamW took a tensor at a time, torch's takes many, which is faster; the schedule of its learning
rate, which takes no time; the native class for the checkpoint's own code, which computes the same. A model that
does not force `<s>` before an answer, as the tiny one, is trained and decoded in its own format: its labels are
`answer </s>`, and Florence-2's settings of decoding are not its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import Florence2ForConditionalGeneration, Florence2Processor, GenerationConfig

from docfloqa.model.florence import PREFIX, generation_config, take_target_format, target_format

# Defaults of transformers' own AdamW, which torch's are not.
WEIGHT_DECAY, EPSILON = 0.0, 1e-6
# Of Florence-2's generation_config.json, beside what begins an answer.
NO_REPEAT_NGRAM_SIZE = 3


def load_published(folder: Path) -> Florence2ForConditionalGeneration:
    """The native model of a folder, in fp32 and with an output embedding of its own."""
    model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    take_target_format(model, folder)
    return untied(model)


def untied(model: Florence2ForConditionalGeneration) -> Florence2ForConditionalGeneration:
    """The same model with an output embedding of its own, equal to the input's until one of them is trained."""
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    return model


def published_decoding(model: nn.Module, num_beams: int, max_new_tokens: int) -> GenerationConfig:
    """Florence-2's own settings of decoding, or those of a model that is trained in another format."""
    decoding = generation_config(model, max_new_tokens, num_beams)
    target = target_format(model)
    if target.start:
        decoding.update(forced_eos_token_id=target.end, no_repeat_ngram_size=NO_REPEAT_NGRAM_SIZE)
    return decoding


class PublishedLoop:
    """Training steps and evaluations as published, at the settings given."""

    def __init__(
        self,
        model: Florence2ForConditionalGeneration,
        processor: Florence2Processor,
        learning_rate: float,
        num_beams: int,
        max_new_tokens: int,
    ):
        self.model, self.processor = model, processor
        self.target = target_format(model)
        self.longest = model.config.text_config.max_position_embeddings
        self.decoding = published_decoding(model, num_beams, max_new_tokens)
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=learning_rate, weight_decay=WEIGHT_DECAY, eps=EPSILON)

    def batch(self, rows: Dataset, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """Prompts, pages and labels of some questions, a page for every question; padding is a token as any other."""
        chosen = [rows[place] for place in places]
        inputs = self.processor(
            text=[PREFIX + row["question"] for row in chosen],
            images=[row["image"].convert("RGB") for row in chosen],
            return_tensors="pt",
            padding=True,
        )
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        answers = self.processor.tokenizer([row["answers"][0] for row in chosen], add_special_tokens=False)
        labels = [torch.tensor(self.target.label(ids, self.longest)) for ids in answers.input_ids]
        inputs["labels"] = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=self.target.pad)
        return {name: tensor.to(self.model.device) for name, tensor in inputs.items()}

    def training_step(self, rows: Dataset, places: Sequence[int]) -> float:
        """One step of AdamW; returns the loss."""
        self.model.train()
        loss = self.model(**self.batch(rows, places)).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    @torch.no_grad()
    def evaluate(self, rows: Dataset, batch_size: int) -> tuple[float, list[str]]:
        """Mean loss of the batches, and in a pass of its own through the whole model the answer of every question."""
        self.model.eval()
        starts = range(0, len(rows), batch_size)
        batches = [list(range(start, min(start + batch_size, len(rows)))) for start in starts]
        losses: list[float] = []
        answers: list[str] = []
        for places in batches:
            inputs = self.batch(rows, places)
            losses.append(self.model(**inputs).loss.item())
            inputs.pop("labels")
            tokens = self.model.generate(**inputs, generation_config=self.decoding)
            answers += self.processor.batch_decode(tokens, skip_special_tokens=True)
        return sum(losses) / len(losses), answers
