"""Batches in few shapes: the same losses, gradients and answers."""

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from docfloqa.settings import Settings
from docfloqa.training.batches import QuestionCollator, few
from docfloqa.training.evaluation import evaluate
from docfloqa.training.steps import split_batch

PLACES = [0, 1, 2, 5, 9, 12, 14]


def collators(tiny, dataset, split="train"):
    model, processor = tiny
    return [
        QuestionCollator(dataset[split], model, processor, "token", static_shapes=static) for static in (False, True)
    ]


def test_losses_and_gradients_are_the_same(tiny, dataset):
    model, _ = tiny
    losses, gradients = [], []
    for collator in collators(tiny, dataset):
        batch = collator(PLACES)
        batch.pop("index")
        model.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("beams", [1, 3])
def test_answers_are_the_same(tiny, dataset, beams):
    settings = Settings.profile("smoke", num_beams=beams, max_new_tokens=8)
    plain, static = (evaluate(tiny[0], collator, settings) for collator in collators(tiny, dataset, "validation"))
    exact = ["prediction", "tokens", "anls"]
    pd.testing.assert_frame_equal(plain[exact], static[exact])
    close = ["loss_sum", "confidence"]
    pd.testing.assert_frame_equal(plain[close], static[close], rtol=1e-4)


def test_an_epoch_has_few_shapes(tiny, dataset):
    plain, static = collators(tiny, dataset)
    places = range(len(dataset["train"]))
    batches = [list(places[start : start + 6]) for start in range(0, len(places) - 6, 3)]

    def shapes(collator):
        return {tuple(tuple(tensor.shape) for tensor in collator(batch).values()) for batch in batches}

    assert len(shapes(static)) <= 4 < len(shapes(plain))
    for batch in batches:
        pages = static(batch)["pixel_values"]
        assert len(pages) in (1, 2, 3, 4, 6)
        assert torch.equal(pages[: len(plain(batch)["pixel_values"])], plain(batch)["pixel_values"])


def test_a_batch_in_parts_drops_the_pages_that_fill_it(tiny, dataset):
    plain, static = collators(tiny, dataset)
    for own, other in zip(split_batch(plain(PLACES), 2), split_batch(static(PLACES), 2), strict=True):
        assert torch.equal(own["pixel_values"], other["pixel_values"])
        assert torch.equal(own["page_index"], other["page_index"])


@given(st.integers(1, 500), st.sampled_from([1, 16, 32]), st.integers(500, 600))
def test_few_numbers_stand_for_all(count, least, most):
    chosen = few(count, least, most)
    assert count <= chosen <= most and chosen >= least
    assert chosen in (least, most) or chosen.bit_count() <= 2
    assert chosen < 2 * max(count, least)
