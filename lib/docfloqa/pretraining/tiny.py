"""The tiny Florence-2 before it has learnt anything: its tokenizer, processor and architecture."""

import math
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    BartConfig,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2Processor,
    Florence2VisionConfig,
    PreTrainedTokenizerFast,
)

from docfloqa.data.synth.small import SMALL_PAGE_SIZE
from docfloqa.data.synth.vocabulary import KNOWN, TITLES, item_key, question
from docfloqa.model.florence import Florence2ForDocVQA, generation_config, load_florence

IMAGE, FIELD_TASK = "<image>", "<FIELD>"
OCR_PROMPT = "What is the text in the image?"
REGION_PROMPT = "What text is in the region {}?"
# Where something stands on a page is told in twentieths of its width and height.
LOCATION_TOKENS = [f"<loc_{part}>" for part in range(20)]
NAMED = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
MEAN, SPREAD = 0.9, 0.3
PIXELS_PER_CELL = 16


def train_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 484 tokens with single digits, trained on labels and questions.

    It never saw a made-up word, which it reads nearly letter by letter.
    """
    rng, words = Random(seed), KNOWN["pretraining"]
    keys = [*words.keys, *words.columns, item_key("", words.total.value)]
    corpus = [text for key in keys * 20 for text in (key.label, question(rng, key.subject))]
    corpus += [*TITLES * 20, *[OCR_PROMPT, REGION_PROMPT.format("")] * 100]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[*NAMED.values(), IMAGE, FIELD_TASK, *LOCATION_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMED, extra_special_tokens={"image_token": IMAGE})


def build_processor(tokenizer: PreTrainedTokenizerFast) -> Florence2Processor:
    """Florence-2's own processor at 160 x 160 pixels, 100 image tokens and one for the whole page."""
    size = {"height": SMALL_PAGE_SIZE, "width": SMALL_PAGE_SIZE}
    images = CLIPImageProcessorPil(size=size, do_center_crop=False, image_mean=[MEAN] * 3, image_std=[SPREAD] * 3)
    images.image_seq_length = (SMALL_PAGE_SIZE // PIXELS_PER_CELL) ** 2 + 1
    return Florence2Processor(image_processor=images, tokenizer=tokenizer)


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Florence2ForDocVQA:
    """A Florence-2 of 2.5 M parameters with fan-in initialisation: four DaViT stages, BART with 2 + 2 layers."""
    torch.manual_seed(seed)
    width = 128
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "pad", "eos")}
    heads = (2, 3, 4, 4)
    stages = {"depths": (1, 1, 3, 1), "embed_dim": (64, 96, 128, 128), "num_heads": heads, "num_groups": heads}
    patches = {"patch_size": (12, 3, 3, 3), "patch_stride": (8, 2, 1, 1), "patch_padding": (2, 1, 1, 1)}
    positions = {"max_temporal_embeddings": 4, "max_position_embeddings": 20}
    others = {"window_size": 5, "mlp_ratio": 2.0, "drop_path_rate": 0.0, "projection_dim": width}
    vision = Florence2VisionConfig(**stages, **patches, **positions, **others)
    sides = {"layers": 2, "attention_heads": 4, "ffn_dim": 256}
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        **{f"{side}_{name}": count for side in ("encoder", "decoder") for name, count in sides.items()},
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
        max_position_embeddings=256,
        decoder_start_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        **ids,
    )
    parts = {"text_config": text.to_dict(), "vision_config": vision.to_dict()}
    model = Florence2ForDocVQA(Florence2Config(**parts, image_token_id=tokenizer.image_token_id, **ids))
    _initialise(model)
    # As Florence-2's targets do: `<s> ... </s>`.
    model.generation_config.forced_bos_token_id = tokenizer.bos_token_id
    model.generation_config = generation_config(model, max_new_tokens=32)
    return model


@torch.no_grad()
def begin_with(model: Florence2ForDocVQA, tokenizer: PreTrainedTokenizerFast, folder: str) -> None:
    """Give `model` the weights of a checkpoint of the same shape; a token that this one lacks keeps its embedding."""
    before, processor = load_florence(folder)
    weights, known = before.state_dict(), processor.tokenizer.get_vocab()
    shared = {row: known[token] for token, row in tokenizer.get_vocab().items() if token in known}
    for name, tensor in model.state_dict().items():
        if tensor.shape == weights[name].shape:
            tensor.copy_(weights[name])
        else:
            tensor[[*shared]] = weights[name][[*shared.values()]].to(tensor.device)


@torch.no_grad()
def _initialise(model: Florence2ForDocVQA) -> None:
    # transformers' N(0, 0.02) lets almost no signal through so narrow a network.
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            module.weight.normal_(0, 0.8 / math.sqrt(module.in_features))
        elif isinstance(module, nn.Conv2d):
            fan_in = module.in_channels // module.groups * math.prod(module.kernel_size)
            module.weight.normal_(0, (0.3 if module.groups > 1 else 1.0) / math.sqrt(fan_in))
    language, image = model.model.language_model, model.model.multi_modal_projector.image_position_embed
    for embedding in (language.shared, language.encoder.embed_positions, language.decoder.embed_positions):
        embedding.weight.normal_(0, 0.08)
    for embedding in (image.row_embeddings, image.column_embeddings):
        embedding.weight.normal_(0, 1)
