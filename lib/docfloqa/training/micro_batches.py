"""A batch that does not fit in memory goes through in parts; the step stays that of the whole batch."""

from __future__ import annotations

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import Seq2SeqTrainer


class TooLargeError(RuntimeError):
    """Memory that does not even take one question at a time: says what would need less."""


def split_batch(batch: dict[str, Tensor], questions: int) -> list[dict[str, Tensor]]:
    """A batch of `docfloqa.training.batches.QuestionCollator` of so many questions, each with its pages."""
    parts = []
    for start in range(0, len(batch["places"]), questions):
        part = {name: tensor[start : start + questions] for name, tensor in batch.items() if name != "pixel_values"}
        pages, part["page_index"] = torch.unique(part["page_index"], return_inverse=True)
        part["pixel_values"] = batch["pixel_values"][pages]
        parts.append(part)
    return parts


class MicroBatchTrainer(Seq2SeqTrainer):
    """transformers' trainer, whose batches go through in halves, quarters, ... once memory runs out.

    `compute_loss` must divide a part's summed loss by `num_items_in_batch`, the label tokens of the whole batch: then
    the gradients of the parts add up to those of the batch, but for rounding and the draws of dropout. (The
    trainer's own `auto_find_batch_size` takes smaller batches instead, and so makes another run.)
    """

    micro_batch: int | None = None  # questions; None is the whole batch

    def training_step(self, model, inputs, num_items_in_batch=None):
        """The loss of a step, its gradients added up over as many parts as memory asks for."""
        while True:
            questions = self.micro_batch or len(inputs["places"])
            losses = []
            try:
                # As it was made where it fits: to index a batch again would cost a copy.
                whole = questions >= len(inputs["places"])
                for part in [dict(inputs)] if whole else split_batch(inputs, questions):
                    losses.append(super().training_step(model, part, num_items_in_batch))
                return sum(losses[1:], losses[0])
            except RuntimeError as error:
                # Several processes would no longer take the same number of parts, and wait for each other for ever.
                if not should_reduce_batch_size(error) or self.args.world_size > 1:
                    raise
                if questions == 1:
                    raise TooLargeError(
                        f"one question at a time does not fit in memory: {error}. Try gradient_checkpointing, or bf16 "
                        "precision"
                    ) from error
            # Here the error no longer holds on to what was computed.
            model.zero_grad()
            clear_device_cache(garbage_collection=True)
            self.micro_batch = (questions + 1) // 2
            self.on_smaller_micro_batch()

    def on_smaller_micro_batch(self) -> None:
        """Called when memory ran out and `micro_batch` is smaller than before."""
