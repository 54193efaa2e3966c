"""Throw-away heads that teach every slot and every cell of a page, where a text teaches a few characters."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import BaseModelOutput

from docfloqa.model.florence import Florence2ForDocVQA
from docfloqa.pretraining.drawings import CHARACTERS, SLOT_HEIGHT, SLOT_WIDTH
from docfloqa.pretraining.tiny import PIXELS_PER_CELL

BLANK_WEIGHT = 0.03
DOWN, ACROSS = PIXELS_PER_CELL // SLOT_HEIGHT, PIXELS_PER_CELL // SLOT_WIDTH  # slots of a cell
NAMED_WEIGHT, ROW_WEIGHT = 0.5, 2.0
ROW_HEAD = 2  # the attention head of the text encoder's last layer that is to look along rows


class Scaffold(nn.Module):
    """The heads: the character in every slot, the cells that a prompt names, and the cells that answer it."""

    def __init__(self, model: Florence2ForDocVQA):
        super().__init__()
        self.character = nn.Conv2d(model.config.vision_config.embed_dim[-1], DOWN * ACROSS * len(CHARACTERS), 1)
        self.named, self.answer = (nn.Linear(model.config.text_config.d_model, 1) for _ in range(2))
        for head in self.children():
            # A random head would push what the model knows already out of it.
            nn.init.zeros_(head.weight)

    def losses(
        self, model: Florence2ForDocVQA, states: Tensor, encoded: BaseModelOutput, batch: dict[str, Tensor]
    ) -> Tensor:
        """The sum of the dense losses of a batch of `collated`, encoded with the states after every layer."""
        *_, matched, last = encoded.hidden_states
        named, answer = batch["named"], batch["answer"]
        places = slice(1, 1 + named.shape[1])  # the first token stands for the whole page
        return (
            character_loss(self.character, states, batch["characters"])[0]
            + NAMED_WEIGHT * cross_entropy(self.named(matched[:, places])[..., 0], named)
            + ROW_WEIGHT * row_loss(model, matched[:, : places.stop], named, states.shape[-1])
            + cross_entropy(self.answer(last[:, places])[..., 0], answer)
        )


def character_loss(head: nn.Conv2d, states: Tensor, characters: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the character in every slot, read from the tower's states, and the share read right.

    `states` is (images, channels, rows, columns) of cells of 16 x 16 pixels; every cell holds 2 x 4 slots. Blanks
    weigh `BLANK_WEIGHT`, or the head would learn nothing else; the share is over printed characters only.
    """
    images, _, rows, columns = states.shape
    logits = head(states).view(images, len(CHARACTERS), DOWN, ACROSS, rows, columns)
    logits = logits.permute(0, 4, 2, 5, 3, 1).reshape(-1, len(CHARACTERS))
    target = characters.flatten()
    weight = torch.ones(len(CHARACTERS), device=logits.device)
    weight[0] = BLANK_WEIGHT
    printed = target > 0
    read = (logits[printed].argmax(-1) == target[printed]).float().mean()
    return cross_entropy(logits, target, weight=weight), read


def row_loss(model: Florence2ForDocVQA, tokens: Tensor, named: Tensor, columns: int) -> Tensor:
    """Cross-entropy of where the cells of a page look with `ROW_HEAD`.

    Cells in a row with something that the prompt names are to look there, all others at the token of the whole page.
    `tokens` is (prompts, 1 + cells, width), that token first, as the last layer gets them; `named` is (prompts, cells).
    """
    attention = model.get_encoder().layers[-1].self_attn
    head = slice(ROW_HEAD * attention.head_dim, (ROW_HEAD + 1) * attention.head_dim)
    queries = attention.q_proj(tokens[:, 1:])[..., head] * attention.scaling
    looks = (queries @ attention.k_proj(tokens)[..., head].transpose(1, 2)).log_softmax(-1)
    in_row = (named.view(len(named), -1, columns).sum(-1) > 0).repeat_interleave(columns, 1)
    at_named = (looks[..., 1:] * named[:, None]).sum(-1)
    return -at_named[in_row].mean() - looks[..., 0][~in_row].mean()
