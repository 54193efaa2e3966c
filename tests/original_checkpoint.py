"""Random Florence-2 checkpoints in Microsoft's original layout, with the native model that each was written from."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AddedToken, BartTokenizer, CLIPImageProcessorPil, Florence2Config, Florence2Processor

from docfloqa.model.florence import Florence2ForDocVQA

# As transformers' own conversion script and Microsoft's processing_florence2.py have them.
TASK_TOKENS = (
    ["<od>", "</od>", "<ocr>", "</ocr>"]
    + [f"<loc_{place}>" for place in range(1000)]
    + "<cap> </cap> <ncap> </ncap> <dcap> </dcap> <grounding> </grounding> <seg> </seg> <sep> <region_cap>".split()
    + "</region_cap> <region_to_desciption> </region_to_desciption> <proposal> </proposal> <poly>".split()
    + ["</poly>", "<and>"]
)
TIED = [
    "language_model.model.shared.weight",
    "language_model.model.encoder.embed_tokens.weight",
    "language_model.model.decoder.embed_tokens.weight",
    "language_model.lm_head.weight",
]
BART_WORDS = 50265


def names(depths: tuple[int, ...], native: list[str]) -> Iterator[tuple[str, str]]:
    """Original and native name of every tensor, written out block by block."""
    for stage, depth in enumerate(depths):
        tower = f"vision_tower.convs.{stage}"
        yield from with_bias(f"{tower}.proj", f"model.{tower}.conv")
        yield from with_bias(f"{tower}.norm", f"model.{tower}.norm")
        for place in range(depth):
            for kind, attention in (("spatial", "window_attn"), ("channel", "channel_attn")):
                block = f"vision_tower.blocks.{stage}.{place}.{kind}_block"
                for original, ours in (
                    ("conv1.fn.dw", "conv1"),
                    (f"{attention}.norm", "norm1"),
                    (f"{attention}.fn.qkv", f"{attention}.qkv"),
                    (f"{attention}.fn.proj", f"{attention}.proj"),
                    ("conv2.fn.dw", "conv2"),
                    ("ffn.norm", "norm2"),
                    ("ffn.fn.net.fc1", "ffn.fc1"),
                    ("ffn.fn.net.fc2", "ffn.fc2"),
                ):
                    yield from with_bias(f"{block}.{original}", f"model.{block}.{ours}")
    projector = "model.multi_modal_projector"
    yield "image_projection", f"{projector}.image_projection.weight"
    yield from with_bias("image_proj_norm", f"{projector}.image_proj_norm")
    for part in ("row", "column"):
        yield (
            f"image_pos_embed.{part}_embeddings.weight",
            f"{projector}.image_position_embed.{part}_embeddings.weight",
        )
    position = "visual_temporal_embed.pos_idx_to_embed"
    yield position, f"{projector}.{position}"
    for name in native:
        if name.startswith("model.language_model."):
            yield name.replace("model.language_model.", "language_model.model.", 1), name
    yield "language_model.lm_head.weight", "lm_head.weight"


def with_bias(original: str, native: str) -> list[tuple[str, str]]:
    return [(f"{original}.{part}", f"{native}.{part}") for part in ("weight", "bias")]


def small_config(rows: int) -> Florence2Config:
    """Four stages and two layers of everything, narrow, for a vocabulary of `rows` and `<image>`."""
    vision = {
        "depths": (1, 1, 2, 1),
        "embed_dim": (8, 16, 24, 32),
        "num_heads": (1, 2, 3, 4),
        "num_groups": (1, 2, 3, 4),
        "window_size": 4,
        "projection_dim": 16,
        "max_position_embeddings": 10,
        "max_temporal_embeddings": 6,
    }
    text = {
        "model_type": "bart",
        "vocab_size": rows + 1,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 128,
    }
    return Florence2Config(text_config=text, vision_config=vision, image_token_id=rows)


def vocabulary(words: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-level vocabulary and merges of BART's form: four special tokens, bytes, pairs of them, `<mask>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(itertools.islice(itertools.product(alphabet, alphabet), words - len(alphabet) - 5))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *alphabet, *map("".join, merges), "<mask>"]
    return {token: place for place, token in enumerate(tokens)}, merges


def native_model(config: Florence2Config) -> Florence2ForDocVQA:
    """Random in every tensor, norms and biases too; `<image>` has the mean of all embeddings."""
    torch.manual_seed(0)
    model = Florence2ForDocVQA(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
        embeddings = model.get_input_embeddings().weight
        embeddings[-1] = embeddings[:-1].mean(dim=0)
    return model


def native_processor(words: int, side: int) -> Florence2Processor:
    """What transformers' own conversion makes of BART's tokenizer and Florence-2's image settings."""
    vocab, merges = vocabulary(words)
    tokenizer = BartTokenizer(vocab=vocab, merges=merges)
    added = [AddedToken(token, special=True, normalized=False) for token in (*TASK_TOKENS, "<image>")]
    tokenizer.add_tokens(added)
    tokenizer.image_token = "<image>"
    tokenizer.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    images = CLIPImageProcessorPil(**image_settings(side))
    images.image_seq_length = (side // 32) ** 2 + 1
    return Florence2Processor(image_processor=images, tokenizer=tokenizer)


def image_settings(side: int) -> dict:
    size = {"height": side, "width": side}
    return {
        "do_resize": True,
        "size": size,
        "resample": 3,
        "do_center_crop": False,
        "crop_size": size,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "do_convert_rgb": None,
    }


def tensors(model: Florence2ForDocVQA, dtype: torch.dtype = torch.float32, rows: int = -1) -> dict[str, torch.Tensor]:
    """The original layout's tensors of a native model, without the embeddings of `<image>` and what follows."""
    native = model.state_dict()
    pairs = dict(names(model.config.vision_config.depths, list(native)))
    assert sorted(pairs.values()) == sorted(native)
    state = {original: native[name].to(dtype).clone() for original, name in pairs.items()}
    state["image_projection"] = state["image_projection"].T.contiguous()
    for name in TIED:
        state[name] = state[name][:rows].clone()
    state["language_model.final_logits_bias"] = torch.zeros(1, len(state[TIED[0]]), dtype=dtype)
    return state


def write(folder: Path, model: Florence2ForDocVQA, state: dict[str, torch.Tensor], words: int, side: int) -> None:
    """A folder as microsoft/Florence-2-base-ft is laid out, its remote code included."""
    vision, text = model.config.vision_config, model.config.text_config
    folder.mkdir(parents=True, exist_ok=True)
    code = {"AutoConfig": "configuration_florence2.Florence2Config"}
    kept = (
        "vocab_size d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads "
        "encoder_ffn_dim decoder_ffn_dim max_position_embeddings activation_function dropout decoder_start_token_id"
    )
    config = {
        "architectures": ["Florence2ForConditionalGeneration"],
        "auto_map": code,
        "model_type": "florence2",
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "projection_dim": vision.projection_dim,
        "text_config": {
            **{name: getattr(text, name) for name in kept.split()},
            "vocab_size": text.vocab_size - 1,
            "model_type": "florence2_language",
            "add_bias_logits": False,
            "add_final_layer_norm": False,
            "normalize_before": False,
            "scale_embedding": False,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
            "no_repeat_ngram_size": 3,
            "num_beams": 3,
            "output_attentions": True,
        },
        "vision_config": {
            "model_type": "davit",
            "dim_embed": vision.embed_dim,
            "enable_checkpoint": False,
            "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
            "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": vision.max_position_embeddings},
            "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": vision.max_temporal_embeddings},
            **{
                name: getattr(vision, name)
                for name in "drop_path_rate patch_size patch_stride patch_padding patch_prenorm".split()
            },
            **{name: getattr(vision, name) for name in "num_heads num_groups depths window_size".split()},
            "projection_dim": vision.projection_dim,
        },
        "torch_dtype": "float16",
    }
    images = {
        "auto_map": {"AutoProcessor": "processing_florence2.Florence2Processor"},
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Florence2Processor",
        "image_seq_length": (side // 32) ** 2 + 1,
        **image_settings(side),
    }
    vocab, merges = vocabulary(words)
    content = {
        "config.json": config,
        "preprocessor_config.json": images,
        "tokenizer_config.json": {"model_max_length": 1024},
        "vocab.json": vocab,
    }
    for name, values in content.items():
        (folder / name).write_text(json.dumps(values))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    BartTokenizer(vocab=vocab, merges=merges).backend_tokenizer.save(str(folder / "tokenizer.json"))
    for module in ("configuration", "modeling", "processing"):
        (folder / f"{module}_florence2.py").write_text("raise SystemExit('remote code was run')\n")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
