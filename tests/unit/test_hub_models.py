"""What the hub really holds loads, answers alike in both layouts, and keeps its target format through everything."""

import copy
import json
import shutil

import pytest
import torch
from hub_models import ROWS, SOURCES, random_florence, write_native, write_original
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Florence2ForConditionalGeneration, GenerationConfig

from docfloqa.exceptions import ModelError, SettingsError
from docfloqa.files import TINY_MODEL
from docfloqa.model import florence
from docfloqa.model.florence import (
    encode_prompts,
    generation_config,
    load_florence,
    stated_decoding,
    target_format,
    weights_checksum,
)
from docfloqa.model.folder import CHECKSUMS, known_weights
from docfloqa.model.freezing import freeze
from docfloqa.settings import Freezing, Settings
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate

SIDE = 96
LAYOUTS = {"native": write_native, "original": write_original}
OUTPUT = "language_model.lm_head.weight"


@pytest.fixture(scope="module")
def model():
    return random_florence()


@pytest.fixture(scope="module", params=list(LAYOUTS))
def checkpoint(request, model, tmp_path_factory):
    """A folder as the hub has it, in each layout."""
    return LAYOUTS[request.param](tmp_path_factory.mktemp("hub") / request.param, model, SIDE)


@pytest.fixture(scope="module")
def opened(checkpoint):
    return load_florence(checkpoint)


@pytest.fixture
def hub(opened):
    """The checkpoint's model, the test's own, and processor."""
    return copy.deepcopy(opened[0]), opened[1]


@pytest.fixture(scope="module")
def untied(model, tmp_path_factory):
    """A community fine-tune: the output embedding is no longer the input's."""
    folder = write_original(tmp_path_factory.mktemp("hub") / "untied", model, SIDE)
    state = load_file(folder / "model.safetensors")
    state[OUTPUT] = state["language_model.model.shared.weight"].roll(1, 0)
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.fixture
def answered():
    return Settings.profile("smoke", num_beams=3, max_new_tokens=12, precision="fp32")


def some(dataset):
    """Four questions."""
    return dataset["validation"].select([0, 5, 9, 14])


def test_every_source_of_a_structure_is_named():
    assert all(SOURCES.values())


def test_the_real_files_load_and_what_is_saved_loads_again(hub, model, tmp_path):
    """Native config.json keeps Microsoft's keys: taken for the original layout, it could not be loaded."""
    network, processor = hub
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load_florence(tmp_path)
    assert weights_checksum(again) == weights_checksum(network)
    assert target_format(again) == target_format(network)
    for name, weight in model.state_dict().items():
        rows = ROWS if name.endswith(("shared.weight", "embed_tokens.weight", "lm_head.weight")) else None
        assert torch.equal(network.state_dict()[name][:rows], weight[:rows].half().float()), name
    assert processor.image_token_id == 51289
    assert processor.tokenizer.convert_tokens_to_ids("<DocVQA>") == 51290


@pytest.mark.parametrize("model_type", ["", None])
def test_a_resaved_original_loads_without_its_model_type(model, tmp_path, model_type):
    folder = write_original(tmp_path / "resaved", model, SIDE)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["model_type"] = model_type
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(load_florence(folder)[0].lm_head.weight[:ROWS], model.lm_head.weight[:ROWS].half().float())


def test_targets_begin_as_the_checkpoint_forces_them(checkpoint, hub, dataset):
    network, processor = hub
    assert stated_decoding(checkpoint)["forced_bos_token_id"] == 0
    target = target_format(network)
    assert (target.decoder_start, target.start, target.end, target.pad) == (2, (0,), 2, 1)
    rows = some(dataset)
    labels = QuestionCollator(rows, network, processor, "token").texts(range(len(rows)))["labels"]
    for label, answers in zip(labels, rows["answers"], strict=True):
        kept = label[label != -100].tolist()
        # As the published script makes them: by the tokenizer, which puts both around the answer.
        assert kept == processor.tokenizer(answers[0]).input_ids
        assert (kept[0], kept[-1]) == (0, 2)


def test_a_label_that_is_too_long_keeps_its_ends(hub):
    target = target_format(hub[0])
    assert target.label(range(100, 200), 6) == [0, 100, 101, 102, 103, 2]
    assert target.label([7], 6) == [0, 7, 2]


def test_nothing_of_a_checkpoints_own_decoding_is_left(hub):
    """`generate` fills every setting that is None from the model's own file."""
    network, _ = hub
    for beams in (1, 3):
        decoding = generation_config(network, 20, beams)
        used, _ = network._prepare_generation_config(decoding)
        assert (used.num_beams, used.no_repeat_ngram_size, used.early_stopping) == (beams, 0, beams > 1)
        assert (used.forced_bos_token_id, used.forced_eos_token_id, used.max_new_tokens) == (0, None, 20)
    left = network.generation_config.to_diff_dict()
    stated = generation_config(network, None).to_diff_dict()
    assert left == stated


def test_both_layouts_give_the_same_answers(model, dataset, answered, tmp_path):
    frames = []
    for name, write in LAYOUTS.items():
        network, processor = load_florence(write(tmp_path / name, model, SIDE))
        collator = QuestionCollator(some(dataset), network, processor, "token")
        frames.append(evaluate(network, collator, answered))
    first, second = frames
    assert first["prediction"].tolist() == second["prediction"].tolist()
    assert all(first["prediction"])
    assert first["loss_sum"].tolist() == pytest.approx(second["loss_sum"].tolist(), rel=1e-3)
    assert first["tokens"].tolist() == second["tokens"].tolist()


def test_plain_transformers_gives_the_answers_of_a_saved_model(hub, dataset, answered, tmp_path):
    network, processor = hub
    rows = some(dataset)
    ours = evaluate(network, QuestionCollator(rows, network, processor, "token"), answered)["prediction"]
    network.generation_config = generation_config(network, answered.max_new_tokens, answered.num_beams)
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    plain = Florence2ForConditionalGeneration.from_pretrained(tmp_path)
    theirs = AutoProcessor.from_pretrained(tmp_path, backend="pil")
    texts = [f"<DocVQA>{question}" for question in rows["question"]]
    images = [image.convert("RGB") for image in rows["image"]]
    answers = []
    for text, image in zip(texts, images, strict=True):
        tokens = plain.generate(**theirs(text=text, images=image, return_tensors="pt"))
        answers.append(theirs.tokenizer.decode(tokens[0], skip_special_tokens=True).strip())
    assert answers == ours.tolist()


def test_confidence_is_of_what_the_model_chose(hub, dataset, answered):
    """Neither the forced `<s>` nor an end that the model did not give: the product of the chosen tokens' shares."""
    network, processor = hub
    rows = some(dataset)
    short = answered.replace(num_beams=1, max_new_tokens=4)
    row = evaluate(network, QuestionCollator(rows, network, processor, "token"), short).iloc[0]
    inputs = processor(
        text="<DocVQA>" + rows[0]["question"], images=rows[0]["image"].convert("RGB"), return_tensors="pt"
    )
    tokens = network.generate(
        **inputs, generation_config=generation_config(network, 4), return_dict_in_generate=True, output_scores=True
    )
    sequence, probability = tokens.sequences[0].tolist(), 1.0
    assert sequence[:2] == [2, 0] and len(sequence) == 5 and 2 not in sequence[2:]
    for token, scores in list(zip(sequence[1:], tokens.scores, strict=True))[1:]:
        probability *= scores[0].softmax(-1)[token].item()
    assert row["confidence"] == pytest.approx(probability, rel=1e-3)


def test_a_start_that_is_no_token_is_an_error(model, tmp_path):
    folder = write_native(tmp_path / "wrong", model, SIDE)
    stated = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(stated | {"forced_bos_token_id": 60000}))
    with pytest.raises(ModelError, match=r"forced_bos_token_id of .* is 60000; allowed .* 0 to 51327"):
        load_florence(folder)


@pytest.mark.parametrize(
    ("file", "changes", "said"),
    [
        ("generation_config.json", [], "odd.* cannot be loaded"),
        ("config.json", {"eos_token_id": [2]}, r"eos_token_id of .* is \[2\]; allowed is the id of a token"),
        ("config.json", {"decoder_start_token_id": None}, "decoder_start_token_id of .* is None"),
    ],
)
def test_targets_that_no_model_can_have_are_an_error(model, tmp_path, file, changes, said):
    path = write_native(tmp_path / "odd", model, SIDE) / file
    content = json.loads(path.read_text())
    if file == "config.json":
        content["text_config"] |= changes
    path.write_text(json.dumps(content if file == "config.json" else changes))
    with pytest.raises(ModelError, match=said):
        load_florence(path.parent)


def test_what_begins_targets_makes_another_run(model, tmp_path):
    folder = write_native(tmp_path / "plain", model, SIDE)
    before = weights_checksum(load_florence(folder)[0])
    for name in ("config.json", "generation_config.json"):
        content = json.loads((folder / name).read_text())
        content.pop("forced_bos_token_id", None)
        content.get("text_config", {}).pop("forced_bos_token_id", None)
        (folder / name).write_text(json.dumps(content))
    network, _ = load_florence(folder)
    assert target_format(network).start == ()
    assert weights_checksum(network) != before


@pytest.mark.long
def test_an_output_embedding_of_its_own_stays_one(untied, model, tmp_path):
    network, processor = load_florence(untied)
    tied, _ = load_florence(write_original(tmp_path / "tied", model, SIDE))
    rows, width = network.lm_head.weight.shape
    assert network.num_parameters() == tied.num_parameters() + rows * width
    assert torch.equal(network.lm_head.weight[1:ROWS], model.lm_head.weight[: ROWS - 1])
    language = network.model.language_model
    assert language.encoder.embed_tokens.weight is language.decoder.embed_tokens.weight is language.shared.weight
    assert freeze(network, Freezing()).trainable_parameters == network.num_parameters()
    network.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, _ = load_florence(tmp_path / "saved")
    assert weights_checksum(again) == weights_checksum(network)
    prompt = torch.tensor(encode_prompts(processor, ["What?"], "token", 64))
    pixels = torch.rand(1, 3, SIDE, SIDE)
    plain = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "saved")
    logits = [one(input_ids=prompt, pixel_values=pixels, labels=prompt[:, -3:]).logits for one in (network, plain)]
    assert torch.equal(*logits)


def test_answers_beyond_the_models_positions_are_refused(tiny):
    network, _ = tiny
    assert generation_config(network, 256).max_new_tokens == 256
    with pytest.raises(SettingsError, match="max_new_tokens is 257; this model has 256 positions"):
        generation_config(network, 257)


def test_there_is_room_for_more_than_what_is_forced(hub):
    network, _ = hub
    assert generation_config(network, 2).max_new_tokens == 2
    with pytest.raises(SettingsError, match=r"max_new_tokens is 1; .* so allowed is 2 to 1024"):
        generation_config(network, 1)


def test_the_published_decoding_would_leak_if_it_were_not_cleared(tiny):
    """What the tests above rely on: transformers takes over a setting that is None."""
    network, _ = tiny
    network.generation_config = GenerationConfig(forced_bos_token_id=0, forced_eos_token_id=2)
    used, _ = network._prepare_generation_config(GenerationConfig(max_new_tokens=5))
    assert (used.forced_bos_token_id, used.forced_eos_token_id) == (0, 2)


def test_a_model_that_was_loaded_once_is_known_by_its_files(tmp_path, output, monkeypatch):
    folder = shutil.copytree(TINY_MODEL, tmp_path / "model")
    (folder / CHECKSUMS).unlink()
    asked = (str(folder), "token", 24, 1)
    weights = weights_checksum(load_florence(folder)[0])
    assert known_weights(*asked) == weights
    with monkeypatch.context() as patch:
        patch.setattr(florence, "load_florence", None)
        assert known_weights(*asked) == weights
        for changed in ({1: "text"}, {2: 25}, {3: 2}):
            with pytest.raises(TypeError):
                known_weights(*(changed.get(place, one) for place, one in enumerate(asked)))
    # Other files of the same names are another model.
    state = load_file(folder / "model.safetensors")
    name = next(iter(state))
    save_file({**state, name: state[name] + 1}, folder / "model.safetensors", {"format": "pt"})
    assert known_weights(*asked) == weights_checksum(load_florence(folder)[0]) != weights
    with pytest.raises(SettingsError, match="max_new_tokens is 300; this model has 256 positions"):
        known_weights(str(folder), "token", 300, 1)
