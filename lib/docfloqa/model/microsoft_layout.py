"""Florence-2 as Microsoft published it (config, tensors, tokenizer), read as transformers' native classes want it."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AddedToken,
    BartConfig,
    BartTokenizer,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    PreTrainedTokenizerFast,
)

from docfloqa.exceptions import ModelError

# From native names to the original ones, in this order.
RENAMES = (
    (r"^model\.vision_tower\.", "vision_tower."),
    (r"^(vision_tower\.convs\.\d+)\.conv\.", r"\1.proj."),
    (r"_block\.(conv[12])\.", r"_block.\1.fn.dw."),
    (r"spatial_block\.norm1\.", "spatial_block.window_attn.norm."),
    (r"channel_block\.norm1\.", "channel_block.channel_attn.norm."),
    (r"_attn\.(qkv|proj)\.", r"_attn.fn.\1."),
    (r"_block\.norm2\.", "_block.ffn.norm."),
    (r"_block\.ffn\.(fc[12])\.", r"_block.ffn.fn.net.\1."),
    (r"^model\.multi_modal_projector\.image_projection\.weight$", "image_projection"),
    (r"^model\.multi_modal_projector\.image_position_embed\.", "image_pos_embed."),
    (r"^model\.multi_modal_projector\.", ""),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
EMBEDDINGS = "model.language_model.shared.weight"
# Safetensors may hold any of them, pickles hold all: they are one tensor.
TIED = (EMBEDDINGS, *(f"model.language_model.{part}.embed_tokens.weight" for part in ("encoder", "decoder")))
# One with them in Florence-2; whoever fine-tuned it with Microsoft's code may have untied it.
OUTPUT_EMBEDDINGS = "lm_head.weight"
LOGITS_BIAS = "language_model.final_logits_bias"
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
VISION_SETTINGS = (
    "patch_size patch_stride patch_padding patch_prenorm num_heads num_groups depths window_size drop_path_rate "
    "projection_dim"
).split()
IMAGE_SETTINGS = (
    "do_resize size resample do_center_crop crop_size do_rescale rescale_factor do_normalize image_mean image_std "
    "do_convert_rgb"
).split()
# Microsoft's processor adds them to BART's vocabulary when it is loaded, in this order and with this spelling.
TASK_TOKENS = [
    *"<od> </od> <ocr> </ocr>".split(),
    *(f"<loc_{place}>" for place in range(1000)),
    *"<cap> </cap> <ncap> </ncap> <dcap> </dcap> <grounding> </grounding> <seg> </seg> <sep> <region_cap>".split(),
    *"</region_cap> <region_to_desciption> </region_to_desciption> <proposal> </proposal> <poly> </poly> <and>".split(),
]
IMAGE_TOKEN = "<image>"
NAMES_SHOWN = 5


def is_original_layout(folder: Path) -> bool:
    """Whether the weights are named as Microsoft's code names them.

    config.json does not tell: native ones keep Microsoft's keys beside their own, resaved ones lose `model_type`.
    """
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            if any(name.startswith(ORIGINAL_NAMES) for name in tensors.keys()):  # noqa: SIM118
                return True
    return False


def convert(folder: Path) -> tuple[Florence2Config, dict[str, Tensor], Florence2Processor]:
    """Native configuration, tensors (fp32, tied ones once) and processor of a folder in the original layout.

    An output embedding of its own, as of Florence-2 fine-tuned with Microsoft's code (271 M parameters), stays one.
    The native vocabulary has one token more, `<image>`, which only stands where a page's features go; its
    embedding is the mean of the others. Raises `ModelError` for every tensor that is missing, is not Florence-2's
    or has another shape, and for settings that the native classes cannot follow.
    """
    config = _native_config(json.loads((folder / "config.json").read_text()))
    processor = _native_processor(folder)
    words, rows = len(processor.tokenizer) - 1, config.text_config.vocab_size
    if words != rows:
        raise ModelError(
            f"the tokenizer of {folder} has {words:,} tokens, Florence-2's own included, config.json has vocab_size "
            f"{rows:,}"
        )
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        tensors |= load_file(file)
    weights = _native_tensors(tensors, config)
    config.tie_word_embeddings = OUTPUT_EMBEDDINGS not in weights
    for name in weights.keys() & {EMBEDDINGS, OUTPUT_EMBEDDINGS}:
        weights[name] = torch.cat([weights[name], weights[name].mean(dim=0, keepdim=True)])
    config.text_config.vocab_size = rows + 1
    return config, weights, processor


def original_name(native: str) -> str:
    """What a native tensor is called in the original layout."""
    for pattern, replacement in RENAMES:
        native = re.sub(pattern, replacement, native)
    return native


def _native_tensors(tensors: dict[str, Tensor], config: Florence2Config) -> dict[str, Tensor]:
    with torch.device("meta"):
        wanted = Florence2ForConditionalGeneration(config).state_dict()
    shapes = {original_name(name): tuple(tensor.shape) for name, tensor in wanted.items()}
    shapes["image_projection"] = shapes["image_projection"][::-1]
    bias = tensors.pop(LOGITS_BIAS, torch.zeros(1))
    output = original_name(OUTPUT_EMBEDDINGS)
    tied = [name for name in map(original_name, TIED) if name in tensors]
    # Where all are one, what a file keeps of them may be the output embedding alone.
    tied = tied or [name for name in (output,) if name in tensors]
    optional = {original_name(name) for name in (*TIED, OUTPUT_EMBEDDINGS)} if tied else set()
    misshapen = [
        f"{name} {tuple(tensor.shape)} instead of {shapes[name]}"
        for name, tensor in tensors.items()
        if name in shapes and tuple(tensor.shape) != shapes[name]
    ]
    problems = {
        "are missing": sorted(shapes.keys() - tensors.keys() - optional),
        "are not Florence-2's": sorted(tensors.keys() - shapes.keys()),
        "have another shape": sorted(misshapen),
        "differ though they are one tensor": [
            f"{tied[0]} and {name}" for name in tied[1:] if not torch.equal(tensors[name], tensors[tied[0]])
        ],
        "are not zero, and have no place in the native model": [LOGITS_BIAS] if bias.any() else [],
    }
    found = []
    for what, names in problems.items():
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            found.append(f"{', '.join(names[:NAMES_SHOWN])}{more} {what}")
    if found:
        raise ModelError(f"tensors of the original layout do not fit: {'; '.join(found)}")
    weights = {name: tensors[original_name(name)].float() for name in wanted if name not in (*TIED, OUTPUT_EMBEDDINGS)}
    projection = "model.multi_modal_projector.image_projection.weight"
    weights[projection] = weights[projection].T.contiguous()
    weights[EMBEDDINGS] = tensors[tied[0]].float()
    if output in tensors and not torch.equal(tensors[output], tensors[tied[0]]):
        weights[OUTPUT_EMBEDDINGS] = tensors[output].float()
    return weights


def _native_config(original: dict[str, Any]) -> Florence2Config:
    for path, value in FIXED.items():
        found = _setting(original, path, value)
        if found != value:
            raise ModelError(f"{path} of config.json is {found!r}; the native model has {value!r} only")
    vision = {name: _setting(original, f"vision_config.{name}") for name in VISION_SETTINGS}
    for name, path in (
        ("embed_dim", "dim_embed"),
        ("max_position_embeddings", "image_pos_embed.max_pos_embeddings"),
        ("max_temporal_embeddings", "visual_temporal_embedding.max_temporal_embeddings"),
    ):
        vision[name] = _setting(original, f"vision_config.{path}")
    given = _setting(original, "text_config")
    text = {name: given[name] for name in BartConfig.__annotations__ if name in given}
    rows = _setting(original, "text_config.vocab_size")
    ids = {name: given[name] for name in ("bos_token_id", "pad_token_id", "eos_token_id") if name in given}
    return Florence2Config(
        text_config=BartConfig(**text).to_dict(),
        vision_config=Florence2VisionConfig(**vision).to_dict(),
        image_token_id=rows,
        **ids,
    )


def _setting(config: dict[str, Any], path: str, default: Any = None) -> Any:
    value: Any = config
    for name in path.split("."):
        value = value.get(name, default) if isinstance(value, dict) else default
    if value is None:
        raise ModelError(f"config.json has no {path}")
    return value


def _native_processor(folder: Path) -> Florence2Processor:
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise ModelError(f"folder {folder} has no preprocessor_config.json, which says how pages are resized")
    settings = json.loads(file.read_text())
    if "image_seq_length" not in settings:
        raise ModelError(f"{file} has no image_seq_length, the number of image tokens")
    # Not what else is there: an `auto_map` would make every folder saved from here ask for Microsoft's code.
    images = CLIPImageProcessorPil(**{name: settings[name] for name in IMAGE_SETTINGS if name in settings})
    images.image_seq_length = settings["image_seq_length"]
    bart = BartTokenizer.from_pretrained(folder)
    bart.add_tokens([AddedToken(token, special=True, normalized=False) for token in TASK_TOKENS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bart.backend_tokenizer,
        **bart.special_tokens_map,
        extra_special_tokens={"image_token": AddedToken(IMAGE_TOKEN, special=True, normalized=False)},
    )
    return Florence2Processor(image_processor=images, tokenizer=tokenizer)
