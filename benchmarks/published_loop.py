"""The published way of fine-tuning and evaluating, on transformers' native class, to measure against.

Every question brings its own copy of the page: it is decoded, processed and sent through the whole vision
tower in fp32, frozen or not, at every epoch, and in evaluation once for the loss and again for the answers.
Source: finetune.py of github.com/KeibingYang/MLDL_Project (b968a8c); its order of work, not its text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Dataset
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from docfloqa.florence import PREFIX


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
        self.num_beams, self.max_new_tokens = num_beams, max_new_tokens
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=learning_rate)

    def batch(self, rows: Dataset, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """Prompts, pages and labels of some questions, a page for every question."""
        chosen = [rows[place] for place in places]
        inputs = self.processor(
            text=[PREFIX + row["question"] for row in chosen],
            images=[row["image"].convert("RGB") for row in chosen],
            return_tensors="pt",
            padding=True,
        )
        labels = self.processor.tokenizer(
            [row["answers"][0] for row in chosen],
            return_tensors="pt",
            padding=True,
            return_token_type_ids=False,
        ).input_ids
        device = self.model.device
        return {name: tensor.to(device) for name, tensor in {**inputs, "labels": labels}.items()}

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
            tokens = self.model.generate(
                **inputs, max_new_tokens=self.max_new_tokens, num_beams=self.num_beams
            )
            answers += self.processor.batch_decode(tokens, skip_special_tokens=True)
        return sum(losses) / len(losses), answers
