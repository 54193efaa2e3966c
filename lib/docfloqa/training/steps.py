"""How a training step goes through a device: in parts that fit its memory, and as CUDA graphs."""

import warnings
from typing import Any

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor, nn
from transformers import Seq2SeqTrainer

from docfloqa.exceptions import DocFloQAError, StudyError
from docfloqa.model.freezing import trained
from docfloqa.training.batches import NOTHING

WARM_UP = 2  # steps before a capture, in which libraries choose their kernels
MOST_GRAPHS = 32  # each takes up to a second to capture
BEYOND_MEMORY = "gradient_checkpointing, or bf16 precision"


class DivergedError(DocFloQAError, RuntimeError):
    """The training loss is not finite: names the step, the learning rate and the questions of the batch."""


def split_batch(batch: dict[str, Tensor], questions: int) -> list[dict[str, Tensor]]:
    """A batch of `docfloqa.training.batches.QuestionCollator` in parts of so many questions, each with its pages."""
    if questions >= len(batch["index"]):
        # As it was made: to index a batch again would cost a copy.
        return [dict(batch)]
    parts = []
    for start in range(0, len(batch["index"]), questions):
        part = {name: tensor[start : start + questions] for name, tensor in batch.items() if name != "pixel_values"}
        pages, part["page_index"] = torch.unique(part["page_index"], return_inverse=True)
        parts.append(part | {"pixel_values": batch["pixel_values"][pages]})
    return parts


class CapturedSteps:
    """Forward and backward pass of a model on a GPU, captured once for every shape that batches come in.

    Shapes beyond `MOST_GRAPHS`, and all where a capture fails, are computed as ever; dropout is drawn anew every step.
    """

    def __init__(self) -> None:
        self.graphs: dict[tuple[Any, ...], _Graph] = {}
        self.gradients: list[Tensor] = []
        self.pool = None
        self.failed = False

    def __call__(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor | None:
        """The loss of a batch, its gradients in the parameters; None where this shape has no graph."""
        # States after another number of sub-blocks may have the same shape.
        shape = (model.vision_start, *((name, tensor.shape, tensor.dtype) for name, tensor in batch.items()))
        if shape not in self.graphs:
            if self.failed or len(self.graphs) == MOST_GRAPHS:
                return None
            try:
                if not self.gradients:
                    # One set for all graphs, which never run at the same time.
                    self.gradients = [torch.zeros_like(parameter) for parameter in trained(model)]
                    self.pool = torch.cuda.graph_pool_handle()
                self.graphs[shape] = _Graph(model, batch, self.gradients, self.pool)
            except RuntimeError as error:
                self.failed, why = True, str(error).splitlines()[0]
            if self.failed:
                # Here the error no longer holds on to what was computed.
                model.zero_grad()
                self.release()
                warnings.warn(f"training goes on without CUDA graphs, more slowly: {why}", stacklevel=2)
                return None
        for parameter, gradient in zip(trained(model), self.gradients, strict=True):
            parameter.grad = gradient
        return self.graphs[shape].replay(batch)

    def release(self) -> None:
        """Give the memory of all graphs and their gradients back, for good."""
        self.failed = True
        self.graphs.clear()
        self.gradients.clear()
        self.pool = None
        clear_device_cache(garbage_collection=True)


class _Graph:
    def __init__(self, model: nn.Module, batch: dict[str, Tensor], gradients: list[Tensor], pool):
        self.inputs = {name: tensor.clone() for name, tensor in batch.items()}
        self.graph = torch.cuda.CUDAGraph()
        # Steps that are not steps must leave no trace in what is drawn later.
        state = torch.cuda.get_rng_state()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self._step(model, gradients)
            torch.cuda.current_stream().wait_stream(side)
            # Other threads fetch batches meanwhile.
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.loss = self._step(model, gradients)
        finally:
            torch.cuda.set_rng_state(state)

    def _step(self, model: nn.Module, gradients: list[Tensor]) -> Tensor:
        torch._foreach_zero_(gradients)
        for parameter, gradient in zip(trained(model), gradients, strict=True):
            # Where there is a gradient, the backward pass adds to it in place.
            parameter.grad = gradient
        loss = model(**self.inputs).loss
        loss.backward()
        return loss.detach()

    def replay(self, batch: dict[str, Tensor]) -> Tensor:
        for name, tensor in batch.items():
            self.inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        # Another graph may use the same memory.
        return self.loss.clone()


class StepTrainer(Seq2SeqTrainer):
    """transformers' trainer with steps that are looked at, and made in as many parts as memory asks for.

    `DocVQATrainer` sets what it goes by: captured, micro_batch, unchecked, loss_sum, loss_tokens, training_collator.
    """

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """A part's share of the batch's mean cross-entropy; `num_items_in_batch` are the whole batch's label tokens."""
        inputs.pop("index")
        tokens = (inputs["labels"] != -100).sum()
        outputs = model(**inputs)
        # Where a process has no question of the last batch, the others still wait for its gradients. A process alone
        # does not ask, for a GPU would have to answer first.
        loss = outputs.loss if self.args.world_size == 1 or tokens else 0 * outputs.logits.sum()
        # Gradients are averaged over processes.
        return loss * (self.args.world_size * tokens / num_items_in_batch)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """The loss of a step, its gradients added up over as many parts as memory asks for: the whole, halves, ..."""
        self._check_loss()
        # The trainer's own `auto_find_batch_size` takes smaller batches instead, and so makes another run.
        step = super().training_step
        loss = None
        if self.captured:
            if not model.training:
                model.train()
            batch = self._prepare_inputs({name: tensor for name, tensor in inputs.items() if name != "index"})
            loss = self.captured(model, batch)
        while loss is None:
            questions = self.micro_batch or len(inputs["index"])
            try:
                loss = sum(step(model, part, num_items_in_batch) for part in split_batch(inputs, questions))
            except RuntimeError as error:
                # Several processes would no longer take the same number of parts, and wait for each other for ever.
                if not should_reduce_batch_size(error) or self.args.world_size > 1:
                    raise
                # To begin again would lose what other batches have added to the gradients.
                together = self.args.gradient_accumulation_steps > 1
                if questions == 1 or together:
                    advice = "a smaller batch_size with more gradient_accumulation_steps" if together else BEYOND_MEMORY
                    what = f"{questions} questions at a time do" if questions > 1 else "one question at a time does"
                    raise StudyError(f"{what} not fit in memory: {error}. Try {advice}") from error
            if loss is None:
                # Here the error no longer holds on to what was computed.
                self._halve(questions)
        # Looked at a step later, since a GPU would have to be waited for.
        when = f"at step {self.state.global_step + 1} with learning rate {self._get_learning_rate():.3g}"
        self.unchecked = loss, inputs["index"], when
        self.loss_sum += loss * (num_items_in_batch / self.args.world_size)
        self.loss_tokens += (inputs["labels"] != -100).sum()
        return loss

    def _halve(self, questions: int) -> None:
        self.model.zero_grad()
        clear_device_cache(garbage_collection=True)
        if self.captured:
            self.captured.release()
        self.micro_batch = (questions + 1) // 2
        now = {"step": self.state.global_step + 1, "micro_batch": self.micro_batch}
        self.run.update(micro_batch=self.micro_batch, out_of_memory=[*self.run.record.get("out_of_memory", []), now])

    def _check_loss(self) -> None:
        if self.unchecked is None:
            return
        (loss, index, when), self.unchecked = self.unchecked, None
        losses = self.accelerator.gather(loss)
        if not torch.isfinite(losses).all():
            ids = self.training_collator.rows["questionId"]
            asked = ", ".join(str(ids[one]) for one in gather_object(index.tolist()) if one != NOTHING)
            raise DivergedError(f"the training loss is {losses.mean().item()} {when}; questions of the batch: {asked}")

    def floating_point_ops(self, inputs) -> int:
        """None counted: the trainer would walk through every module of the model at every step to guess them."""
        return 0
