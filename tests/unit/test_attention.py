"""Where a model looks: weights of the decoder, on the right cells of the page."""

import numpy as np
import pytest
import torch
from PIL import Image

from docfloqa.apps.attention import AVERAGES, END, Attention, attention, attention_figure
from docfloqa.settings import Settings

QUESTION = "What is the total?"


@pytest.fixture
def looked(tiny, smoke, dataset):
    image = dataset["validation"][0]["image"]
    return attention(*tiny, image, QUESTION, "12.50 kg", smoke), image


def test_weights_are_shares_of_one_for_every_token(looked, tiny):
    result, _ = looked
    _, processor = tiny
    assert result.weights.shape[0] == len(result.tokens) and result.tokens[-1] == END
    assert "".join(result.tokens[:-1]) == "12.50kg"
    assert (result.weights >= 0).all() and np.allclose(result.weights.sum(axis=1), 1, atol=1e-5)
    assert AVERAGES + result.rows * result.columns == processor.num_image_tokens
    for token in range(len(result.tokens)):
        assert np.isclose(result.on_page(token).sum() + result.elsewhere(token), 1, atol=1e-5)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 9), (3, 7), (9, 0)])
def test_an_image_token_is_its_cell_of_the_page(tiny, row, column):
    model, _ = tiny
    states = torch.zeros(1, 128, 10, 10)
    touched = states.clone()
    touched[..., row, column] = 1
    with torch.no_grad():
        before, after = (model.model.multi_modal_projector(one)[0] for one in (states, touched))
    [changed] = (before != after).any(dim=1).nonzero().flatten()[AVERAGES:].tolist()
    weights = np.zeros((1, 109), dtype=np.float32)
    weights[0, changed] = 1
    cells = Attention([END], weights, 10, 10).on_page(0)
    assert np.argwhere(cells).tolist() == [[row, column]]


def test_a_pixel_of_the_page_reaches_the_cell_above_it(tiny):
    # Rows of an image are rows of the vision tower's states: not turned, not mirrored.
    model, _ = tiny
    page = torch.full((1, 3, 160, 160), 255, dtype=torch.uint8)
    marked = page.clone()
    marked[..., 34:46, 114:126] = 0
    with torch.no_grad():
        change = (model.vision_states(marked, 0) - model.vision_states(page, 0)).abs().sum(dim=1)[0]
    row, column = divmod(int(change.argmax()), 10)
    assert abs(row - 2) <= 1 and abs(column - 7) <= 1


def test_the_model_is_left_as_it_was(tiny, smoke):
    model, processor = tiny
    before = model.config._attn_implementation
    attention(model, processor, Image.new("L", (50, 90), 255), QUESTION, "", smoke)
    assert model.config._attn_implementation == before
    assert model.get_decoder().config._attn_implementation == before


def test_nothing_answered_is_an_end_alone_and_markup_is_text(tiny):
    page = Image.new("RGB", (300, 200), "white")
    result = attention(*tiny, page, "<s> </s> $x$ <DocVQA>", "", Settings.profile("smoke", prefix="none"))
    assert result.tokens == [END] and np.isclose(result.weights.sum(), 1, atol=1e-5)


def test_the_figure_lays_the_grid_over_the_whole_page():
    weights = np.zeros((1, 1 + 6 + 2), dtype=np.float32)
    weights[0, 1 + 1 * 3 + 2] = 1
    page = Image.new("RGB", (300, 200), "white")
    figure = attention_figure(page, Attention([END], weights, 2, 3), 0)
    shown, cells = figure.axes[0].images
    assert cells.get_extent() == list(shown.get_extent()) or tuple(cells.get_extent()) == tuple(shown.get_extent())
    assert cells.get_array()[1, 2] == 100 and cells.get_array().sum() == 100
