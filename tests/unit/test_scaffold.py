"""What pretraining teaches the cells of a page: which of them a prompt names, and where those beside it look."""

from random import Random

import pytest
import torch

from docfloqa.pretraining.drawings import Phase, cells, collated, draw_sample
from docfloqa.pretraining.scaffold import ROW_HEAD, Scaffold, row_loss
from docfloqa.pretraining.tiny import PIXELS_PER_CELL, build_model, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return build_model(tokenizer).eval()


def samples(draws: str, count: int = 6):
    rng, phase = Random(draws), Phase("test", draws, 1, 1, 4, 1e-3, seed=0)
    return [draw_sample(rng, phase, progress=1.0) for _ in range(count)]


@pytest.fixture(scope="module")
def batch(tokenizer):
    return collated(tokenizer, samples("pages"))


@pytest.fixture(scope="module")
def encoded(model, batch):
    model.set_attn_implementation("eager")
    with torch.no_grad():
        features = model.page_features(batch["pixel_values"])[batch["page_index"]]
        wanted = {"output_hidden_states": True, "output_attentions": True}
        return model.encode(batch["input_ids"], batch["attention_mask"], features, **wanted)


@pytest.mark.parametrize("draws", ["strips", "grid", "pages"])
def test_the_cells_of_a_box_hold_the_characters_that_are_printed_in_it(draws):
    for page, prompts in samples(draws, 20):
        columns = page.image.width // PIXELS_PER_CELL
        for prompt in prompts:
            shares = cells(page, prompt.answer)
            assert shares.sum().item() == pytest.approx(1)
            left, top, right, bottom = prompt.answer
            middles = ((x, y) for x, y, _ in page.characters if left <= x <= right and top <= y <= bottom)
            reached = {int(y // PIXELS_PER_CELL) * columns + int(x // PIXELS_PER_CELL) for x, y in middles}
            assert reached <= set(shares.nonzero()[:, 0].tolist())
            assert prompt.named == prompt.answer or prompt.prompt.startswith("<FIELD>")


def test_where_cells_look_is_what_the_attention_head_does(model, batch, encoded):
    named = batch["named"]
    looks = encoded.attentions[-1][:, ROW_HEAD, 1 : 1 + named.shape[1], : 1 + named.shape[1]]
    looks = (looks / looks.sum(-1, keepdim=True)).log()
    in_row = named.view(-1, 10, 10).sum(-1).bool().repeat_interleave(10, 1)
    at_named = (looks[..., 1:] * named[:, None]).sum(-1)
    wanted = -at_named[in_row].mean() - looks[..., 0][~in_row].mean()
    torch.testing.assert_close(row_loss(model, encoded.hidden_states[-2][:, :101], named, 10), wanted)


def test_the_heads_teach_the_tower_the_encoder_and_themselves(model, batch):
    scaffold = Scaffold(model)
    for head in scaffold.children():
        torch.nn.init.normal_(head.weight, std=0.1)
    states = model.vision_states(batch["pixel_values"], 0)
    features = model.model.multi_modal_projector(states)[batch["page_index"]]
    encoded = model.encode(batch["input_ids"], batch["attention_mask"], features, output_hidden_states=True)
    scaffold.losses(model, states, encoded, batch).backward()
    taught = [*scaffold.parameters(), *model.model.vision_tower.parameters(), *model.get_encoder().parameters()]
    assert all(parameter.grad is not None for parameter in taught)
    assert all(parameter.grad is None for parameter in model.model.language_model.decoder.layers.parameters())
