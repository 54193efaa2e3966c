"""Operations of the paper's study, counted on a model without weights: the least time that a GPU can need.

    python benchmarks/paper_operations.py

Four ratios, 8 epochs of DocVQA's 39,463 training questions, each with a page of its own. At 0 % the vision encoder
costs nothing in training, its outputs being cached; at the other ratios all of it is counted, trained or not, so
that the sum is an upper bound. A backward pass counts as two forward passes. Evaluation is left out.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from docfloqa.arms import RATIOS
from docfloqa.data.schema import DOCVQA
from docfloqa.model.florence import Florence2ForDocVQA, base_config
from docfloqa.settings import Settings

H100_BF16 = 989e12  # operations a second, dense, from NVIDIA's data sheet of the H100 SXM
PAGE_TOKENS, TEXT_TOKENS, ANSWER_TOKENS = 577, 20, 8


@torch.no_grad()
def forward_operations() -> tuple[int, int]:
    """Of the vision encoder for a page of 768 x 768 pixels, and of the language model for a question."""
    with torch.device("meta"):
        model = Florence2ForDocVQA(base_config()).eval()
        # The counter does not know the fused attention of every device.
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as vision:
            model.model.vision_tower(torch.empty(1, 3, 768, 768))
        inputs = torch.empty(1, PAGE_TOKENS + TEXT_TOKENS, model.config.text_config.d_model)
        with FlopCounterMode(display=False) as language:
            encoded = model.get_encoder()(inputs_embeds=inputs).last_hidden_state
            answer = torch.zeros(1, ANSWER_TOKENS, dtype=torch.long)
            decoded = model.model.language_model.decoder(input_ids=answer, encoder_hidden_states=encoded)
            model.lm_head(decoded.last_hidden_state)
    return vision.get_total_flops(), language.get_total_flops()


def main() -> None:
    """Print the operations, and the hours on an H100 at two shares of its rate."""
    vision, language = forward_operations()
    print(
        f"forward pass: vision encoder {vision / 1e9:.0f} GFLOP a page, language model {language / 1e9:.0f} a question"
    )
    questions, _ = DOCVQA["train"]
    samples = Settings.profile("paper").epochs * questions
    total = sum(3 * samples * (language + (vision if ratio else 0)) for ratio in RATIOS)
    print(f"four ratios, one seed: at most {total / 1e18:.2f} exaFLOP")
    for share in (0.4, 0.2):
        hours = total / share / H100_BF16 / 3600
        print(f"at {100 * share:.0f} % of an H100's {H100_BF16 / 1e12:.0f} TFLOP/s: {hours:.1f} hours")


if __name__ == "__main__":
    main()
