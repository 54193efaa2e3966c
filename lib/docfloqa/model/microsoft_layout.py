"""Florence-2 as Microsoft published it (config, tensors, tokenizer), read as transformers' native classes want it."""

import json
import re
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import Florence2Config, Florence2Processor, Florence2VisionConfig

from docfloqa.exceptions import ModelError

# From original names to native ones, in this order.
RENAMES = (
    (r"^(vision_tower\.convs\.\d+)\.proj\.", r"\1.conv."),
    (r"\.fn\.(dw|net)\.", "."),
    (r"\.(window|channel)_attn\.norm\.", ".norm1."),
    (r"_attn\.fn\.", "_attn."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"^image_projection$", "image_projection.weight"),
    (r"^image_pos_embed\.", "image_position_embed."),
    (r"^(image_|visual_)", r"model.multi_modal_projector.\1"),
    (r"^vision_tower\.", "model.vision_tower."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
)
# Safetensors may hold any of them, pickles hold all: they are one tensor.
PARTS = ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
EMBEDDINGS = [f"model.language_model.{part}.weight" for part in PARTS]
# Native names begin with "model." or "lm_head.".
ORIGINAL_NAMES = ("image_projection", "vision_tower.", "language_model.")
# What the native classes can compute in one way only.
FIXED = {
    "text_config.add_bias_logits": False,
    "text_config.add_final_layer_norm": False,
    "text_config.normalize_before": False,
    "vision_config.image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    "vision_config.image_pos_embed.type": "learned_abs_2d",
    "vision_config.visual_temporal_embedding.type": "COSINE",
}
RENAMED_SETTINGS = {
    "embed_dim": "dim_embed",
    "max_position_embeddings": "image_pos_embed.max_pos_embeddings",
    "max_temporal_embeddings": "visual_temporal_embedding.max_temporal_embeddings",
}
IMAGE_SETTINGS = ("do_", "size", "resample", "crop_size", "rescale_factor", "image_mean", "image_std")
# Microsoft's processor adds them to BART's vocabulary when it is loaded, in this order and with this spelling.
TASK_TOKENS = [
    *"<od> </od> <ocr> </ocr>".split(),
    *(f"<loc_{index}>" for index in range(1000)),
    *"<cap> </cap> <ncap> </ncap> <dcap> </dcap> <grounding> </grounding> <seg> </seg> <sep> <region_cap>".split(),
    *"</region_cap> <region_to_desciption> </region_to_desciption> <proposal> </proposal> <poly> </poly> <and>".split(),
]


def is_original_layout(folder: Path) -> bool:
    """Whether the weights are named as Microsoft's code names them."""
    # config.json does not tell: native ones keep Microsoft's keys beside their own, resaved ones lose `model_type`.
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            if any(name.startswith(ORIGINAL_NAMES) for name in tensors.keys()):  # noqa: SIM118
                return True
    return False


def convert(folder: Path) -> tuple[Florence2Config, dict[str, Tensor], Florence2Processor]:
    """Native configuration, unchecked fp32 tensors and processor of a folder; `ModelError` where it has none such."""
    config = _native_config(json.loads((folder / "config.json").read_text()))
    processor = _native_processor(folder)
    words, rows = len(processor.tokenizer) - 1, config.text_config.vocab_size
    if words != rows:
        raise ModelError(f"the tokenizer has {words:,} tokens, Florence-2's own included, and vocab_size {rows:,}")
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        for name, tensor in load_file(file).items():
            weights[_native_name(name)] = (tensor.T.contiguous() if name == "image_projection" else tensor).float()
    if weights.pop("language_model.final_logits_bias", torch.zeros(1)).any():
        raise ModelError("final_logits_bias is not zero, and has no place in the native model")
    inputs = [weights.pop(name) for name in EMBEDDINGS if name in weights]
    output = weights.pop("lm_head.weight", None)
    # Where all are one, what a file keeps of them may be the output embedding alone.
    shared = next(iter(inputs), output)
    if not all(torch.equal(one, shared) for one in inputs):
        raise ModelError(f"{', '.join(EMBEDDINGS)} differ though they are one tensor")
    # Whoever fine-tuned Florence-2 with Microsoft's code may have untied it.
    config.tie_word_embeddings = output is None or torch.equal(output, shared)
    kept = {EMBEDDINGS[0]: shared, "lm_head.weight": None if config.tie_word_embeddings else output}
    for name, tensor in kept.items():
        if tensor is not None:
            weights[name] = torch.cat([tensor, tensor.mean(dim=0, keepdim=True)])
    config.text_config.vocab_size = rows + 1
    return config, weights, processor


def _native_name(original: str) -> str:
    for pattern, replacement in RENAMES:
        original = re.sub(pattern, replacement, original)
    return original


def _native_config(original: dict[str, Any]) -> Florence2Config:
    for path, value in FIXED.items():
        found = _setting(original, path, value)
        if found != value:
            raise ModelError(f"{path} of config.json is {found!r}; the native model has {value!r} only")
    text, vision = _setting(original, "text_config"), _setting(original, "vision_config")
    vision |= {name: _setting(vision, path) for name, path in RENAMED_SETTINGS.items()}
    return Florence2Config(
        text_config={name: text[name] for name in transformers.BartConfig.__annotations__ if name in text},
        vision_config={name: vision[name] for name in Florence2VisionConfig.__annotations__ if name in vision},
        image_token_id=_setting(text, "vocab_size"),
        **{name: text[name] for name in ("bos_token_id", "pad_token_id", "eos_token_id") if name in text},
    )


def _setting(settings: dict[str, Any], path: str, default: Any = None) -> Any:
    value: Any = settings
    for name in path.split("."):
        value = value.get(name, default) if isinstance(value, dict) else default
    if value is None:
        raise ModelError(f"its config.json or preprocessor_config.json has no {path}")
    return value


def _native_processor(folder: Path) -> Florence2Processor:
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    # Not what else is there: an `auto_map` would make every folder saved from here ask for Microsoft's code.
    kept = {name: value for name, value in settings.items() if name.startswith(IMAGE_SETTINGS)}
    images = transformers.CLIPImageProcessorPil(**kept)
    images.image_seq_length = _setting(settings, "image_seq_length")
    bart = transformers.BartTokenizer.from_pretrained(folder)
    bart.add_tokens([transformers.AddedToken(token, special=True, normalized=False) for token in TASK_TOKENS])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bart.backend_tokenizer,
        **bart.special_tokens_map,
        extra_special_tokens={"image_token": transformers.AddedToken("<image>", special=True, normalized=False)},
    )
    return Florence2Processor(image_processor=images, tokenizer=tokenizer)
