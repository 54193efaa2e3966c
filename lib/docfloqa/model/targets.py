"""How an answer stands in a target, as the model was trained: what begins it and what ends it. Decided here alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import GenerationConfig

from docfloqa.exceptions import SettingsError

START = "forced_bos_token_id"
# Tokens are the model's own; these say how it computes, not what it answers.
NOT_DECODING = set(
    "bos_token_id pad_token_id eos_token_id decoder_start_token_id use_cache output_attentions output_hidden_states "
    "output_scores output_logits return_dict_in_generate transformers_version _from_model_config".split()
)
DECODING = (GenerationConfig().to_dict().keys() | {START, "forced_eos_token_id"}) - NOT_DECODING


@dataclass(frozen=True)
class TargetFormat:
    """The ids of the tokens around an answer: `decoder_start` is only fed, `start` and `end` are learnt.

    `start` is empty or one token: Florence-2 was trained on `<s> answer </s>`, the shipped tiny model on
    `answer </s>`.
    """

    decoder_start: int
    start: tuple[int, ...]
    end: int
    pad: int

    def label(self, answer: Sequence[int], longest: int) -> list[int]:
        """The label of an answer's token ids, of at most `longest` tokens; the answer is cut to fit."""
        return [*self.start, *answer[: longest - len(self.start) - 1], self.end]


def target_format(model: nn.Module) -> TargetFormat:
    """The target format of a model; what begins a target is kept, and saved, in its generation settings."""
    text, start = model.config.text_config, model.generation_config.forced_bos_token_id
    begins = () if start is None else (start,)
    return TargetFormat(text.decoder_start_token_id, begins, text.eos_token_id, text.pad_token_id)


def generation_config(model: nn.Module, max_new_tokens: int | None, num_beams: int = 1) -> GenerationConfig:
    """Every setting of decoding, stated: Florence-2-base-ft's own forbids repeated 3-grams, so digits too.

    The start of a target is forced, its end never: an answer that is cut has none. Raises `SettingsError` for
    `max_new_tokens` beyond the model's positions, or so few that there is room for the start alone.
    """
    target = target_format(model)
    positions, least = model.config.text_config.max_position_embeddings, len(target.start) + 1
    if max_new_tokens is not None and not least <= max_new_tokens <= positions:
        allowed = f"this model has {positions} positions, so allowed is {least} to {positions}"
        raise SettingsError(f"max_new_tokens is {max_new_tokens}; {allowed}")
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        num_beams=num_beams,
        do_sample=False,
        early_stopping=num_beams > 1,
        length_penalty=1.0,
        no_repeat_ngram_size=0,
        repetition_penalty=1.0,
        use_cache=True,
        bos_token_id=model.config.text_config.bos_token_id,
        pad_token_id=target.pad,
        eos_token_id=target.end,
        decoder_start_token_id=target.decoder_start,
        forced_bos_token_id=target.start[0] if target.start else None,
        forced_eos_token_id=None,
    )


def stated_decoding(folder: Path) -> dict[str, Any]:
    """What a checkpoint's own files state of decoding, by name: generation_config.json before config.json."""
    config, own = json.loads((folder / "config.json").read_text()), folder / "generation_config.json"
    stated = (config.get("text_config") or {}) | config | (json.loads(own.read_text()) if own.is_file() else {})
    return {name: value for name, value in stated.items() if name in DECODING and value is not None}


def take_target_format(model: nn.Module, folder: Path) -> None:
    """Keep of a checkpoint's own decoding what begins its targets, and nothing else.

    `generate` fills whatever it is not told from the model's own settings. Raises `ValueError` for what is no token
    of the model.
    """
    start = stated_decoding(folder).get(START)
    rows, text = model.get_input_embeddings().num_embeddings, model.config.text_config
    tokens = {name: getattr(text, name) for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}
    for name, token in (tokens | ({START: start} if start is not None else {})).items():
        if type(token) is not int or not 0 <= token < rows:
            raise ValueError(f"{name} of {folder} is {token!r}; allowed is the id of a token, 0 to {rows - 1}")
    # A default of transformers' that the native class would fall back to.
    text.forced_eos_token_id = None
    model.generation_config = GenerationConfig(forced_bos_token_id=start)
    model.generation_config = generation_config(model, max_new_tokens=None)
