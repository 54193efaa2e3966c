"""Florence-2 for document questions: the model with pages shared by questions, prompts and targets."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from safetensors import SafetensorError
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Florence2Config, Florence2ForConditionalGeneration, Florence2Processor, GenerationConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from docfloqa.exceptions import ModelError, SettingsError
from docfloqa.model.folder import model_folder
from docfloqa.model.microsoft_layout import convert, is_original_layout
from docfloqa.settings import PREFIXES

# Of reading and writing weights, for milliseconds. Those of downloads go with them; they are wanted.
wanted = not are_progress_bars_disabled()
logging.disable_progress_bar()
if wanted:
    enable_progress_bars()

PREFIX = "<DocVQA>"


def vision_sub_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Patch embeddings (`convs.0`), spatial (`blocks.0.0.spatial_block`) and channel blocks of the tower, as run."""
    tower = model.model.vision_tower
    sub_blocks = []
    for stage, patch_embedding in enumerate(tower.convs):
        sub_blocks.append((f"convs.{stage}", patch_embedding))
        for index, block in enumerate(tower.blocks[stage]):
            sub_blocks += [(f"blocks.{stage}.{index}.{part}", module) for part, module in block.named_children()]
    return sub_blocks


class Florence2ForDocVQA(Florence2ForConditionalGeneration):
    """The native Florence-2, saved and loaded as such; questions can share pages, and pixels may be bytes.

    Sub-blocks of the vision tower without a trainable tensor stay in eval mode: stochastic depth never perturbs them.
    """

    # Above 0, `pixel_values` are states after so many sub-blocks, computed before.
    vision_start = 0
    # Whether training computes activations within a sub-block again in the backward pass.
    vision_checkpointing = False

    def train(self, mode: bool = True) -> "Florence2ForDocVQA":
        super().train(mode)
        for _, sub_block in vision_sub_blocks(self):
            if not any(parameter.requires_grad for parameter in sub_block.parameters()):
                sub_block.eval()
        return self

    def vision_states(self, states: Tensor, start: int, stop: int | None = None) -> Tensor:
        """States (pages, channels, rows, columns) after `stop` sub-blocks (None: all), from those after `start`."""
        # With `start` 0 they are the pixels, of bytes or normalised.
        if states.dtype == torch.uint8:
            states = states * self.pixel_scale - self.pixel_offset
        recompute = self.training and self.vision_checkpointing
        for _, sub_block in vision_sub_blocks(self)[start:stop]:
            # The native class checkpoints the language model only; most activations are the vision tower's.
            states = checkpoint(sub_block, states, use_reentrant=False) if recompute else sub_block(states)
        return states

    def page_features(self, pixel_values: Tensor) -> Tensor:
        """What the encoder sees of each page, (pages, image tokens, width), from its pixels or states."""
        return self.model.multi_modal_projector(self.vision_states(pixel_values, self.vision_start))

    def encode(self, input_ids: Tensor, attention_mask: Tensor, features: Tensor, **options) -> BaseModelOutput:
        """Encoder output for prompts (questions, length) and features of each one's page (questions, tokens, width).

        A prompt begins with as many image placeholders as its page has tokens; on a CPU `ValueError` is raised if not.
        `options` are those of the native encoder.
        """
        length = features.shape[1]
        # A GPU would have to be waited for.
        if input_ids.device.type == "cpu":
            placeholders = input_ids == self.config.image_token_id
            if (placeholders != (torch.arange(input_ids.shape[1]) < length)).any():
                found = int(placeholders[0].sum())
                raise ValueError(f"a page has {length} tokens and the first prompt {found} image placeholders")
        # To scatter the features over the placeholders, as the native class does, costs 6 % of a step.
        text = self.get_input_embeddings()(input_ids[:, length:])
        inputs = torch.cat([features.to(text.dtype), text], dim=1)
        return self.get_encoder()(inputs_embeds=inputs, attention_mask=attention_mask, **options)

    def forward(
        self, input_ids=None, pixel_values=None, attention_mask=None, page_index=None, encoder_outputs=None, **kwargs
    ):
        """The native forward pass; with `page_index` (questions,), places in `pixel_values`, a page is there once."""
        if page_index is not None:
            features = self.page_features(pixel_values)[page_index]
            encoder_outputs = self.encode(input_ids, attention_mask, features)
            input_ids = pixel_values = None
        given = {"input_ids": input_ids, "pixel_values": pixel_values, "attention_mask": attention_mask}
        return super().forward(**given, encoder_outputs=encoder_outputs, **kwargs)


# As transformers writes it into config.json, so that what is saved loads without this library.
Florence2ForDocVQA.__name__ = Florence2ForConditionalGeneration.__name__


def base_config() -> Florence2Config:
    """The configuration of Florence-2-base as converted: 231,414,784 parameters, pages of 768 x 768 pixels."""
    width = 768
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    sizes = {"layers": 6, "attention_heads": 12, "ffn_dim": 4 * width}
    sides = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sizes.items()}
    text = {"vocab_size": 51290, "d_model": width, **sides}
    return Florence2Config(text_config=text, vision_config={"projection_dim": width}, **ids)


def load_florence(model: str | Path, prefix: str = "token") -> tuple[Florence2ForDocVQA, Florence2Processor]:
    """Model (fp32, eval mode) and processor from a local folder or a hub id, in either layout.

    `prefix` before a question: "token" adds one, whose embedding starts as the mean of the text pieces that it
    replaces; "text" is as published; "none" leaves it out. Raises `ModelError` for what cannot be loaded, is damaged,
    or has a tensor that is missing, unknown or of another shape, and `SettingsError` for another prefix.
    """
    if prefix not in PREFIXES:
        raise SettingsError(f"prefix is {prefix!r}; allowed are {', '.join(map(repr, PREFIXES))}")
    try:
        folder = model_folder(model)
        original = is_original_layout(folder)
        config, weights, processor = convert(folder) if original else (None, None, load_processor(folder))
        network, report = Florence2ForDocVQA.from_pretrained(
            None if original else folder,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            # Not ignored: the report names them, the exception does not.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        take_target_format(network, folder)
    # A damaged safetensors file has an exception of its own.
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"model {str(model)!r} cannot be loaded: {str(error).rstrip('.')}") from error
    if wrong := {kind: sorted(map(str, names)) for kind, names in report.items() if names}:
        raise ModelError(f"the weights of model {str(model)!r} do not fit Florence-2: {wrong}")
    if prefix == "token":
        _add_prefix_token(network, processor)
    images = processor.image_processor
    spread = torch.tensor(images.image_std)[:, None, None]
    # Not persistent: they are the processor's, and the native class has no place for them.
    network.register_buffer("pixel_scale", images.rescale_factor / spread, persistent=False)
    network.register_buffer("pixel_offset", torch.tensor(images.image_mean)[:, None, None] / spread, persistent=False)
    return network.eval(), processor


def load_processor(folder: Path) -> Florence2Processor:
    """The processor of a folder in the native layout."""
    # Where torchvision is installed, it would resize pages otherwise, to other pixels.
    return Florence2Processor.from_pretrained(folder, trust_remote_code=False, backend="pil")


def _add_prefix_token(model: Florence2ForDocVQA, processor: Florence2Processor) -> None:
    tokenizer = processor.tokenizer
    if PREFIX in tokenizer.get_vocab():
        return
    pieces = tokenizer(PREFIX, add_special_tokens=False).input_ids
    tokenizer.add_tokens([AddedToken(PREFIX, special=True)])
    index = tokenizer.convert_tokens_to_ids(PREFIX)
    if index >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(index + 1, mean_resizing=False)
    with torch.no_grad():
        # One and the same, unless the model was saved with an output embedding of its own.
        for embeddings in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            embeddings[index] = embeddings[pieces].mean(dim=0)


def encode_prompts(processor: Florence2Processor, questions: Sequence[str], prefix: str, limit: int) -> list[list[int]]:
    """Token ids of each prompt: image placeholders, `<s>`, the prefix, the question, `</s>`.

    A special token written in a question is text. Questions are cut so that a prompt has at most `limit` tokens.
    """
    tokenizer = processor.tokenizer
    lead = [processor.image_token_id] * processor.num_image_tokens + [tokenizer.bos_token_id]
    if prefix == "token":
        lead.append(tokenizer.convert_tokens_to_ids(PREFIX))
    texts = [PREFIX + question if prefix == "text" else question for question in questions]
    room = limit - len(lead) - 1
    return [[*lead, *ids[:room], tokenizer.eos_token_id] for ids in encode_text(processor, texts)]


def encode_text(processor: Florence2Processor, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts, without `<s>` and `</s>`; special tokens in them are taken as text."""
    return processor.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True).input_ids


@dataclass(frozen=True)
class TargetFormat:
    """The ids of the tokens around an answer: `decoder_start` is only fed, `start` and `end` are learnt.

    `start` is empty or one token: Florence-2 was trained on `<s> answer </s>`, the tiny model on `answer </s>`.
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
    """Every setting of decoding, stated; the start of a target is forced, its end never: one that is cut has none.

    Raises `SettingsError` for `max_new_tokens` beyond the model's positions, or with room for the start alone.
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
    """What a checkpoint's own files state, by name, of decoding too: generation_config.json before config.json."""
    config, own = json.loads((folder / "config.json").read_text()), folder / "generation_config.json"
    return (config.get("text_config") or {}) | config | (json.loads(own.read_text()) if own.is_file() else {})


def take_target_format(model: nn.Module, folder: Path) -> None:
    """Keep of a checkpoint's own decoding, which `generate` falls back to, what begins its targets, and nothing else.

    Raises `ValueError` for what is no token of the model.
    """
    start = stated_decoding(folder).get("forced_bos_token_id")
    rows, text = model.get_input_embeddings().num_embeddings, model.config.text_config
    tokens = {name: getattr(text, name) for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}
    for name, token in (tokens | ({"forced_bos_token_id": start} if start is not None else {})).items():
        if type(token) is not int or not 0 <= token < rows:
            raise ValueError(f"{name} of {folder} is {token!r}; allowed is the id of a token, 0 to {rows - 1}")
    # A default of transformers' that the native class would fall back to.
    text.forced_eos_token_id = None
    model.generation_config = GenerationConfig(forced_bos_token_id=start)
    model.generation_config = generation_config(model, max_new_tokens=None)


def weights_checksum(model: nn.Module) -> str:
    """A checksum of every tensor of the model, by name, and of what begins its targets where something does."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    # Without a model's own start, what it is called is what it was called before there were any.
    if start := target_format(model).start:
        digest.update(json.dumps(start).encode())
    return digest.hexdigest()
