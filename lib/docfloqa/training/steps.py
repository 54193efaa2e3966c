"""How a training step goes through a device: in parts that fit its memory, and as CUDA graphs."""

import warnings
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn

WARM_UP = 2  # steps before a capture, in which libraries choose their kernels
MOST_GRAPHS = 32  # each takes up to a second to capture


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

    Batches must come in few shapes (`static_shapes`). Shapes beyond `MOST_GRAPHS`, and all where a capture fails, are
    computed as ever. What is drawn by chance (dropout) is drawn anew in every step, as without graphs.
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
                self._capture(model, shape, batch)
            except RuntimeError as error:
                self.failed, why = True, str(error).splitlines()[0]
            if self.failed:
                # Here the error no longer holds on to what was computed.
                model.zero_grad()
                self.release()
                warnings.warn(f"training goes on without CUDA graphs, more slowly: {why}", stacklevel=2)
                return None
        for parameter, gradient in zip(_trained(model), self.gradients, strict=True):
            parameter.grad = gradient
        return self.graphs[shape].replay(batch)

    def _capture(self, model: nn.Module, shape: tuple[Any, ...], batch: dict[str, Tensor]) -> None:
        if not self.gradients:
            # One set for all graphs, which never run at the same time.
            self.gradients = [torch.zeros_like(parameter) for parameter in _trained(model)]
            self.pool = torch.cuda.graph_pool_handle()
        self.graphs[shape] = _Graph(model, batch, self.gradients, self.pool)

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
        for parameter, gradient in zip(_trained(model), gradients, strict=True):
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


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
