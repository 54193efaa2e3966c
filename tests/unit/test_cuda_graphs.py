"""What can be told of CUDA graphs without a GPU: when one is captured, and what follows when it cannot be."""

import pytest
import torch
from torch import nn

from docfloqa.training.steps import CapturedSteps


class Eager:
    """In place of a graph: the same step, computed when it is replayed."""

    captured: list[dict]

    def __init__(self, model, batch, gradients, pool):
        self.model, self.gradients = model, gradients
        self.captured.append(batch)

    def replay(self, batch):
        torch._foreach_zero_(self.gradients)
        loss = self.model(**batch)
        loss.backward()
        return loss.detach()


class Model(nn.Module):
    vision_start = 0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)
        self.frozen = nn.Linear(3, 1).requires_grad_(False)

    def forward(self, states):
        return (self.layer(states) + self.frozen(states)).square().mean()


@pytest.fixture
def captured(monkeypatch) -> list[dict]:
    captured: list[dict] = []
    monkeypatch.setattr("docfloqa.training.steps._Graph", type("Graph", (Eager,), {"captured": captured}))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    return captured


def test_every_shape_is_captured_once_and_gradients_are_those_of_its_batch(captured):
    torch.manual_seed(0)
    model, steps = Model(), CapturedSteps()
    for rows in (2, 4, 2, 2, 4):
        states = torch.rand(rows, 3)
        loss = steps(model, {"states": states})
        found = model.layer.weight.grad.clone()
        # The trainer lets go of gradients after every step.
        model.zero_grad()
        expected = model(states)
        expected.backward()
        assert torch.equal(loss, expected.detach()) and torch.equal(found, model.layer.weight.grad)
        assert model.frozen.weight.grad is None
        model.zero_grad()
    assert [len(batch["states"]) for batch in captured] == [2, 4]


def test_states_after_another_number_of_sub_blocks_are_another_shape(captured):
    model, steps = Model(), CapturedSteps()
    steps(model, {"states": torch.rand(2, 3)})
    model.vision_start = 2
    steps(model, {"states": torch.rand(2, 3)})
    assert len(captured) == 2


def test_shapes_beyond_the_most_are_left_to_eager_steps(captured, monkeypatch):
    monkeypatch.setattr("docfloqa.training.steps.MOST_GRAPHS", 1)
    model, steps = Model(), CapturedSteps()
    assert steps(model, {"states": torch.rand(2, 3)}) is not None
    assert steps(model, {"states": torch.rand(4, 3)}) is None
    assert steps(model, {"states": torch.rand(2, 3)}) is not None


def test_a_capture_that_fails_is_told_once_and_leaves_nothing(captured, monkeypatch):
    model, steps = Model(), CapturedSteps()
    steps(model, {"states": torch.rand(2, 3)})

    def fails(*arguments):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("docfloqa.training.steps._Graph", fails)
    with pytest.warns(UserWarning, match="goes on without CUDA graphs, more slowly: out of memory"):
        assert steps(model, {"states": torch.rand(4, 3)}) is None
    assert not steps.graphs and not steps.gradients and model.layer.weight.grad is None
    assert steps(model, {"states": torch.rand(2, 3)}) is None
