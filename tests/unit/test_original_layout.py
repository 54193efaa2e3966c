"""Folders in Microsoft's original layout load as the native model that they were written from, or not at all."""

import json
import shlex
import subprocess
import sys

import pytest
import torch
from original_checkpoint import TASK_TOKENS, TIED, native_model, native_processor, small_config, tensors, write
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from docfloqa.exceptions import ModelError
from docfloqa.model.florence import PREFIX, encode_prompts, load_florence
from docfloqa.model.microsoft_layout import _native_config

WORDS, SIDE = 300, 96
ROWS = WORDS + len(TASK_TOKENS)


@pytest.fixture(scope="module")
def native():
    return native_model(small_config(ROWS))


@pytest.fixture
def original(native, tmp_path):
    write(tmp_path / "original", native, tensors(native), WORDS, SIDE)
    return tmp_path / "original"


def rewrite(folder, **changes) -> None:
    """Change tensors of a folder; None takes one away."""
    state = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        state.pop(name, None)
        if tensor is not None:
            state[name] = tensor
    save_file(state, folder / "model.safetensors")


def reconfigure(folder, path: str, value) -> None:
    config = json.loads((folder / "config.json").read_text())
    *outer, name = path.split(".")
    inner = config
    for key in outer:
        inner = inner[key]
    inner[name] = value
    (folder / "config.json").write_text(json.dumps(config))


@torch.no_grad()
def logits(model, processor):
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    prompts = torch.tensor(encode_prompts(processor, ["ab cd 12", "xy zz 34"], "none", 64))
    answer = torch.tensor([[2, 0, 70, 80, 300], [2, 0, 90, 75, 400]])
    return model(input_ids=prompts, pixel_values=pixels, decoder_input_ids=answer).logits


def test_the_converted_model_is_the_native_one_that_it_came_from(native, original):
    model, processor = load_florence(original, "none")
    theirs = native_processor(WORDS, SIDE)
    assert torch.equal(logits(model, processor), logits(native, theirs))
    for name, weight in native.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name
    assert model.config.to_dict().keys() == native.config.to_dict().keys()
    assert model.config.image_token_id == processor.image_token_id == ROWS


@pytest.mark.parametrize(
    ("layers", "width", "heads", "positions", "channels", "parameters"),
    [(6, 768, 12, 1024, 128, 231_414_016), (12, 1024, 16, 4096, 256, 776_465_408)],
    ids=["microsoft/Florence-2-base-ft", "microsoft/Florence-2-large"],
)
def test_a_converted_configuration_has_the_parameters_that_others_count(
    original, layers, width, heads, positions, channels, parameters
):
    text = {"d_model": width, "max_position_embeddings": positions, "vocab_size": 51289}
    for side in ("encoder", "decoder"):
        text |= {f"{side}_layers": layers, f"{side}_attention_heads": heads, f"{side}_ffn_dim": 4 * width}
    vision = {
        "dim_embed": [channels, 2 * channels, 4 * channels, 8 * channels],
        "num_heads": [channels // 32 * 2**stage for stage in range(4)],
        "num_groups": [channels // 32 * 2**stage for stage in range(4)],
        "depths": [1, 1, 9, 1],
        "projection_dim": width,
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 50},
    }
    config = json.loads((original / "config.json").read_text())
    config["text_config"] |= text
    config["vision_config"] |= vision
    with torch.device("meta"):
        model = Florence2ForConditionalGeneration(_native_config(config))
    assert model.num_parameters() == parameters


def test_the_converted_processor_gives_the_native_prompts_and_pixels(original):
    _, ours = load_florence(original, "none")
    theirs = native_processor(WORDS, SIDE)
    questions = ["What is the date?", "é 12/3/1998 <loc_7><image></s> $ 5.00", "", "<OCR>"]
    assert encode_prompts(ours, questions, "none", 64) == encode_prompts(theirs, questions, "none", 64)
    assert ours.num_image_tokens == theirs.num_image_tokens == (SIDE // 32) ** 2 + 1
    vocabulary = ours.tokenizer.get_vocab()
    assert vocabulary == theirs.tokenizer.get_vocab()
    assert [vocabulary[token] for token in TASK_TOKENS] == list(range(WORDS, ROWS))
    page = Image.effect_noise((120, 80), 90).convert("RGB")
    inputs = [one(images=page, text="What is the <loc_7> date?", return_tensors="pt") for one in (ours, theirs)]
    for name in ("input_ids", "pixel_values", "attention_mask"):
        assert torch.equal(inputs[0][name], inputs[1][name]), name


@pytest.mark.parametrize("kept", [TIED, TIED[:1], TIED[3:], TIED[1:3]], ids=["all", "shared", "head", "both"])
def test_tied_weights_stay_tied(native, original, tmp_path, kept):
    rewrite(original, **{name: None for name in TIED if name not in kept})
    parameters = native.num_parameters()
    for prefix, rows in (("none", ROWS + 1), ("token", ROWS + 2)):
        model, processor = load_florence(original, prefix)
        model.save_pretrained(tmp_path / "saved")
        processor.save_pretrained(tmp_path / "saved")
        again, _ = load_florence(tmp_path / "saved", prefix)
        for one in (model, again):
            embeddings = one.get_input_embeddings().weight
            language = one.model.language_model
            for tied in (one.lm_head, language.encoder.embed_tokens, language.decoder.embed_tokens):
                assert tied.weight is embeddings
            assert len(embeddings) == rows
            width = embeddings.shape[1]
            assert one.num_parameters() == parameters + (rows - ROWS - 1) * width


def test_half_precision_becomes_full_precision_masters(native, original):
    save_file(tensors(native, torch.float16), original / "model.safetensors")
    model, _ = load_florence(original)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    name = "model.vision_tower.convs.0.conv.weight"
    assert torch.equal(model.state_dict()[name], native.state_dict()[name].half().float())


def test_what_is_saved_needs_neither_this_library_nor_remote_code(original, tmp_path):
    model, processor = load_florence(original)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    assert "auto_map" not in "".join(file.read_text() for file in (tmp_path / "saved").glob("*.json"))
    plain = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "saved")
    theirs = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(plain, theirs), logits(model, processor))
    assert PREFIX in theirs.tokenizer.get_vocab()


def test_weights_in_several_files_are_put_together(native, original):
    state = sorted(load_file(original / "model.safetensors").items())
    (original / "model.safetensors").unlink()
    for number, part in enumerate((state[:100], state[100:]), 1):
        save_file(dict(part), original / f"model-0000{number}-of-00002.safetensors")
    model, _ = load_florence(original, "none")
    assert torch.equal(model.lm_head.weight, native.lm_head.weight)
    (original / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"missing_keys.*image_position_embed"):
        load_florence(original)


QKV = "vision_tower.blocks.2.1.channel_block.channel_attn.fn.qkv.weight"
SAME = QKV.replace(".fn.", ".")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({QKV: None}, f"missing_keys.*model.{SAME}"),
        (dict.fromkeys(TIED), "missing_keys.*model.language_model.shared.weight"),
        ({"vision_tower.head.weight": torch.zeros(2)}, "unexpected_keys.*model.vision_tower.head.weight"),
        ({QKV: torch.zeros(72, 25)}, rf"mismatched_keys.*{SAME}.*\[72, 25\].*\[72, 24\]"),
        ({"image_projection": torch.zeros(16, 32)}, r"mismatched_keys.*image_projection.*\[32, 16\].*\[16, 32\]"),
        ({TIED[2]: torch.zeros(ROWS, 16)}, "shared.weight, .*decoder.embed_tokens.weight differ though they are one"),
        ({"language_model.final_logits_bias": torch.ones(1, ROWS)}, "final_logits_bias is not zero"),
    ],
    ids=["missing", "no embeddings", "extra", "shape", "transposed", "untied", "bias"],
)
def test_a_tensor_that_does_not_fit_is_an_error_that_names_it(original, changes, said):
    rewrite(original, **changes)
    with pytest.raises(ModelError, match=said):
        load_florence(original)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("vision_config.dim_embed", None, r"config\.json has no dim_embed"),
        ("vision_config.image_feature_source", ["last_frame"], r"image_feature_source .*\['last_frame'\]"),
        ("vision_config.image_pos_embed", {"type": "sine"}, r"image_pos_embed\.type .*'sine'"),
        ("text_config.normalize_before", True, r"normalize_before .*True"),
        ("text_config.vocab_size", ROWS + 3, rf"{ROWS:,} tokens.* vocab_size {ROWS + 3:,}"),
    ],
)
def test_a_setting_that_the_native_model_cannot_follow_is_an_error(original, path, value, said):
    reconfigure(original, path, value)
    with pytest.raises(ModelError, match=said):
        load_florence(original)


def test_image_settings_must_be_there(original):
    file = original / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    del settings["image_seq_length"]
    file.write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="no image_seq_length"):
        load_florence(original)
    file.unlink()
    with pytest.raises(ModelError, match=r"No such file.*preprocessor_config\.json"):
        load_florence(original)


@pytest.mark.long
def test_a_pickle_is_refused_with_a_way_to_convert_it_that_works(native, original):
    state = load_file(original / "model.safetensors")
    (original / "model.safetensors").unlink()
    # Tied tensors share their memory in a pickle.
    torch.save(state | dict.fromkeys(TIED, state[TIED[0]]), original / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin only: a pickle can run code") as error:
        load_florence(original)
    _, program = str(error.value).split("python -c ")
    subprocess.run([sys.executable, "-c", *shlex.split(program)], cwd=original, check=True)
    model, _ = load_florence(original, "none")
    assert torch.equal(model.lm_head.weight, native.lm_head.weight)
