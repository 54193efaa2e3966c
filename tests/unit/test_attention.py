"""Where a model looks: weights of the decoder, on the right cells of the page."""

import numpy as np
import pytest
import torch
from PIL import Image

from docfloqa.apps.ask import AVERAGES, END, Attention, attention, attention_figure, cells_of
from docfloqa.settings import Settings

QUESTION = "What is the total?"


@pytest.fixture
def looked(tiny, smoke, dataset):
    image = dataset["validation"][0]["image"]
    return attention(tiny, image, QUESTION, "12.50 kg", smoke), image


def test_weights_are_shares_of_one_for_every_token(looked, tiny):
    result, _ = looked
    _, processor = tiny
    assert len(result.on_page) == len(result.tokens) and result.tokens[-1] == END
    assert "".join(result.tokens[:-1]) == "12.50kg"
    assert (result.on_page >= 0).all() and AVERAGES + result.on_page[0].size == processor.num_image_tokens
    for token in range(len(result.tokens)):
        assert 0 < result.elsewhere(token) == 1 - result.on_page[token].sum() < 1


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
    [cells] = cells_of(weights, 10, 10)
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
    attention((model, processor), Image.new("L", (50, 90), 255), QUESTION, "", smoke)
    assert model.config._attn_implementation == before
    assert model.get_decoder().config._attn_implementation == before


def test_nothing_answered_is_an_end_alone_and_markup_is_text(tiny):
    page = Image.new("RGB", (300, 200), "white")
    result = attention(tiny, page, "<s> </s> $x$ <DocVQA>", "", Settings.profile("smoke", prefix="none"))
    assert result.tokens == [END] and 0 < result.on_page.sum() < 1


def test_the_figure_lays_the_grid_over_the_whole_page():
    on_page = np.zeros((1, 2, 3), dtype=np.float32)
    on_page[0, 1, 2] = 1
    page = Image.new("RGB", (300, 200), "white")
    figure = attention_figure(page, Attention([END], on_page), 0)
    shown, cells = figure.axes[0].images
    assert cells.get_extent() == list(shown.get_extent()) or tuple(cells.get_extent()) == tuple(shown.get_extent())
    assert cells.get_array()[1, 2] == 100 and cells.get_array().sum() == 100
