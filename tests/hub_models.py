"""Florence-2 as the hub holds it, in both layouts: every file, key, special token and id, with small random weights.

`SOURCES` says where each structure was read. Sizes are small, but for the vocabulary, whose ids are the real ones.
"""

import json
from pathlib import Path

import torch
from original_checkpoint import (
    BART_WORDS,
    TASK_TOKENS,
    image_settings,
    native_model,
    native_processor,
    tensors,
    vocabulary,
    write,
)
from safetensors.torch import save_file
from transformers import Florence2Config

from docfloqa.model.florence import Florence2ForDocVQA

NATIVE = "florence-community/Florence-2-base-ft"
ORIGINAL = "microsoft/Florence-2-base-ft"
SOURCES = {
    NATIVE: "the ten files of florence-community/Florence-2-base at 00921df (SHA-256 as public projects pin them)",
    ORIGINAL: "config.json, tokenizer and processor of microsoft/Florence-2-base-ft at f6c1a25",
    "fine-tuned": "community fine-tunes of the original layout, 271 M parameters: an output embedding of its own",
}
ROWS, PADDED_ROWS, IMAGE_TOKEN_ID = 51_289, 51_328, 51_289
TOKEN = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
VISION = {
    "drop_path_rate": 0.1,
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "enable_checkpoint": False,
    "dim_embed": [8, 16, 24, 32],
    "num_heads": [1, 2, 3, 4],
    "num_groups": [1, 2, 3, 4],
    "depths": [1, 1, 2, 1],
    "window_size": 12,
    "projection_dim": 16,
    "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 100},
    "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 50},
    "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
}
TEXT = {
    "activation_dropout": 0.1,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "attention_dropout": 0.1,
    "classif_dropout": 0.1,
    "classifier_dropout": 0.0,
    "d_model": 16,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 2,
    "forced_bos_token_id": 0,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "max_position_embeddings": 1024,
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "num_beams": 3,
    "num_hidden_layers": 2,
    "scale_embedding": False,
}

POST_PROCESSING = (
    "bboxes description_with_bboxes description_with_bboxes_or_polygons description_with_polygons polygons pure_text"
).split()


def native_config() -> dict:
    """config.json of the native layout, which keeps Microsoft's vision keys beside its own."""
    own = {
        "activation_function": "gelu",
        "embed_dim": VISION["dim_embed"],
        "in_channels": 3,
        "initializer_range": 0.02,
        "max_pos_embeddings": 50,
        "max_position_embeddings": 50,
        "max_temporal_embeddings": 100,
        "mlp_ratio": 4.0,
        "model_type": "florence_vision",
        "qkv_bias": True,
    }
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        "dtype": "float16",
        "image_token_id": IMAGE_TOKEN_ID,
        "is_encoder_decoder": True,
        "model_type": "florence2",
        "text_config": {**TEXT, "model_type": "bart", "use_cache": True, "vocab_size": PADDED_ROWS},
        "transformers_version": "4.56.1",
        "vision_config": VISION | own,
    }


def original_config() -> dict:
    """config.json of the original layout."""
    text = {
        **TEXT,
        "vocab_size": ROWS,
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "forced_eos_token_id": 2,
        "is_encoder_decoder": True,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    }
    return {
        "_name_or_path": "florence2",
        "architectures": ["Florence2ForConditionalGeneration"],
        "auto_map": {
            "AutoConfig": "configuration_florence2.Florence2Config",
            "AutoModelForCausalLM": "modeling_florence2.Florence2ForConditionalGeneration",
        },
        "bos_token_id": 0,
        "eos_token_id": 2,
        "ignore_index": -100,
        "model_type": "florence2",
        "pad_token_id": 1,
        "projection_dim": VISION["projection_dim"],
        "text_config": text,
        "vision_config": {"model_type": "davit", **VISION},
        "vocab_size": ROWS,
        "torch_dtype": "float16",
        "transformers_version": "4.41.0.dev0",
        "is_encoder_decoder": True,
    }


GENERATION = {
    "native": {
        "_from_model_config": True,
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "eos_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "no_repeat_ngram_size": 3,
        "num_beams": 3,
        "pad_token_id": 1,
        "transformers_version": "4.56.1",
    },
    "original": {"num_beams": 3, "early_stopping": False},
}


def random_florence() -> Florence2ForDocVQA:
    """A native model, random in every tensor and as fp16 keeps it; rows that no word uses have the mean of all."""
    config = native_config()
    model = native_model(Florence2Config(**{name: config[name] for name in ("text_config", "vision_config")}))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.half())
        embeddings = model.get_input_embeddings().weight
        embeddings[ROWS:] = embeddings[:ROWS].mean(dim=0).half()
    return model


def write_native(folder: Path, model: Florence2ForDocVQA, side: int = 768) -> Path:
    """The files of the native repository; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    processor = native_processor(BART_WORDS, side)
    tokenizer = processor.tokenizer
    added = {token: tokenizer.convert_tokens_to_ids(token) for token in (*TASK_TOKENS, "<image>")}
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    special |= {"sep_token": "</s>", "unk_token": "<unk>"}
    mask = {**TOKEN, "content": "<mask>", "lstrip": True}
    decoder = {
        number: {**TOKEN, "content": token, "special": True}
        for number, token in enumerate(("<s>", "<pad>", "</s>", "<unk>"))
    }
    decoder[BART_WORDS - 1] = {**mask, "special": True}
    decoder |= {
        number: {**TOKEN, "normalized": False, "content": token, "special": True} for token, number in added.items()
    }
    vocab, merges = vocabulary(BART_WORDS)
    content = {
        "config.json": native_config(),
        "generation_config.json": GENERATION["native"],
        "preprocessor_config.json": {"rescale_factor": 1 / 255, **_images(side)},
        "processor_config.json": {
            "num_additional_image_tokens": 0,
            "post_processor_config": {
                "ocr": {"area_threshold": 0.0, "pattern": r"(.+?)<loc_(\d+)>"},
                "phrase_grounding": {"banned_grounding_tokens": ["it", "the image"]},
                **{name: {} for name in POST_PROCESSING},
            },
            "processor_class": "Florence2Processor",
        },
        "added_tokens.json": added,
        "special_tokens_map.json": special
        | {
            "additional_special_tokens": [{**TOKEN, "normalized": False, "content": token} for token in TASK_TOKENS],
            "mask_token": mask,
        },
        "tokenizer_config.json": special
        | {
            "add_prefix_space": False,
            "added_tokens_decoder": decoder,
            "additional_special_tokens": TASK_TOKENS,
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "extra_special_tokens": {"image_token": "<image>"},
            "image_token": "<image>",
            "mask_token": "<mask>",
            "model_max_length": 1024,
            "processor_class": "Florence2Processor",
            "tokenizer_class": "BartTokenizer",
            "trim_offsets": True,
        },
        "vocab.json": vocab,
    }
    for name, values in content.items():
        (folder / name).write_text(json.dumps(values, indent=2))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]) + "\n")
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    # The published file keeps of the tied embeddings the input's alone.
    state = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_original(folder: Path, model: Florence2ForDocVQA, side: int = 768) -> Path:
    """The files of Microsoft's repository, its remote code included; returns the folder."""
    state = tensors(model, torch.float16, ROWS)
    # As published: of four tied embeddings this one, and no row for `<image>`.
    kept = "language_model.model.shared.weight"
    state = {name: tensor for name, tensor in state.items() if name == kept or not name.endswith(EMBEDDINGS)}
    write(folder, model, state, BART_WORDS, side)
    (folder / "merges.txt").unlink()
    content = {
        "config.json": original_config(),
        "generation_config.json": GENERATION["original"],
        "preprocessor_config.json": _images(side)
        | {"_valid_processor_keys": ["images", *image_settings(side), "return_tensors", "data_format"]},
    }
    for name, values in content.items():
        (folder / name).write_text(json.dumps(values, indent=2))
    return folder


EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight", "shared.weight")


def _images(side: int) -> dict:
    return {
        "auto_map": {"AutoProcessor": "processing_florence2.Florence2Processor"},
        "image_processor_type": "CLIPImageProcessor",
        "image_seq_length": (side // 32) ** 2 + 1,
        "processor_class": "Florence2Processor",
        **image_settings(side),
    }
