import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from docfloqa.exceptions import ModelError
from docfloqa.files import TINY_MODEL
from docfloqa.model.florence import (
    PREFIX,
    Florence2ForDocVQA,
    encode_prompts,
    encode_text,
    generation_config,
    load_florence,
)
from docfloqa.model.folder import CHECKSUMS
from docfloqa.training.batches import QuestionCollator

PLACES = [0, 1, 2, 5, 9, 12]


@pytest.fixture
def batch(tiny, dataset):
    model, processor = tiny
    batch = QuestionCollator(dataset["train"], model, processor, "token")(PLACES)
    batch.pop("index")
    return batch


@pytest.fixture
def repeated(tiny, dataset, batch) -> dict:
    """The batch with one copy of the page per question, as the processor gives it and the native model wants it."""
    images = [dataset["train"][place]["image"].convert("RGB") for place in PLACES]
    pixels = tiny[1].image_processor(images, return_tensors="pt").pixel_values
    return {name: tensor for name, tensor in batch.items() if name != "page_index"} | {"pixel_values": pixels}


def native(model: Florence2ForDocVQA) -> Florence2ForConditionalGeneration:
    twin = Florence2ForConditionalGeneration(model.config)
    twin.load_state_dict(model.state_dict())
    return twin.eval()


def test_shared_pages_give_the_native_loss_and_gradients(tiny, batch, repeated):
    model, _ = tiny
    assert len(batch["pixel_values"]) < len(PLACES)
    twin = native(model)
    loss, expected = model(**batch).loss, twin(**repeated).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    theirs = dict(twin.named_parameters())
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, theirs[name].grad, rtol=1e-3, atol=1e-6)


def test_the_loss_is_a_cross_entropy_worked_out_by_hand(tiny, batch):
    model, _ = tiny
    labels = batch["labels"]
    start = model.config.text_config.decoder_start_token_id
    pad = model.config.text_config.pad_token_id
    shifted = torch.cat([torch.full((len(labels), 1), start), labels[:, :-1]], dim=1)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    logits = model(**inputs, decoder_input_ids=shifted.masked_fill(shifted == -100, pad)).logits
    log_probabilities = logits.log_softmax(-1)
    total, tokens = 0.0, 0
    for row, answer in enumerate(labels.tolist()):
        for place, token in enumerate(answer):
            if token != -100:
                total -= log_probabilities[row, place, token].item()
                tokens += 1
    assert model(**batch).loss.item() == pytest.approx(total / tokens, rel=1e-5)


def test_the_loss_does_not_depend_on_padding(tiny, batch):
    model, _ = tiny
    pad = model.config.text_config.pad_token_id
    padded = dict(batch)
    for name, value in (("input_ids", pad), ("attention_mask", 0), ("labels", -100)):
        padded[name] = torch.nn.functional.pad(batch[name], (0, 7), value=value)
    with torch.no_grad():
        assert model(**padded).loss.item() == pytest.approx(model(**batch).loss.item(), rel=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
def test_one_encoder_pass_gives_the_native_answers(tiny, batch, repeated, beams):
    model, _ = tiny
    decoding = generation_config(model, max_new_tokens=12, num_beams=beams)
    features = model.page_features(batch["pixel_values"])[batch["page_index"]]
    encoded = model.encode(batch["input_ids"], batch["attention_mask"], features)
    ours = model.generate(encoder_outputs=encoded, attention_mask=batch["attention_mask"], generation_config=decoding)
    inputs = {name: tensor for name, tensor in repeated.items() if name != "labels"}
    assert torch.equal(ours, native(model).generate(**inputs, generation_config=decoding))


def test_a_saved_model_loads_with_plain_transformers(tiny, batch, repeated, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert isinstance(model, Florence2ForDocVQA)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Florence2ForConditionalGeneration"]
    plain = Florence2ForConditionalGeneration.from_pretrained(tmp_path)
    AutoProcessor.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(plain(**repeated).logits, model(**batch).logits, rtol=1e-4, atol=1e-5)
    again, _ = load_florence(tmp_path)
    assert again.get_input_embeddings().num_embeddings == model.get_input_embeddings().num_embeddings


def test_the_shipped_model_is_small_tied_and_needs_no_code_of_ours():
    files = list(TINY_MODEL.iterdir())
    assert sum(file.stat().st_size for file in files) <= 15 * 2**20
    assert {file.suffix for file in files if file.name != CHECKSUMS} <= {".json", ".safetensors", ".csv"}
    plain = Florence2ForConditionalGeneration.from_pretrained(TINY_MODEL)
    assert plain.lm_head.weight is plain.get_input_embeddings().weight
    assert 2e6 <= plain.num_parameters() <= 8e6
    processor = AutoProcessor.from_pretrained(TINY_MODEL)
    assert PREFIX not in processor.tokenizer.get_vocab()


def test_the_prefix_token_starts_as_the_mean_of_its_pieces(tiny):
    model, processor = tiny
    before = Florence2ForConditionalGeneration.from_pretrained(TINY_MODEL, dtype=torch.float32)
    pieces = AutoProcessor.from_pretrained(TINY_MODEL).tokenizer(PREFIX, add_special_tokens=False).input_ids
    assert len(pieces) > 1
    token = processor.tokenizer.convert_tokens_to_ids(PREFIX)
    old = before.get_input_embeddings().weight
    torch.testing.assert_close(model.get_input_embeddings().weight[token], old[pieces].mean(0))
    torch.testing.assert_close(model.get_input_embeddings().weight[: len(old)], old)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_prefixes_differ_in_how_the_prompt_begins(tiny):
    _, processor = tiny
    token = processor.tokenizer.convert_tokens_to_ids(PREFIX)
    question = "What is the date?"
    with_token, none = (encode_prompts(processor, [question], prefix, 256)[0] for prefix in ("token", "none"))
    lead = processor.num_image_tokens + 1
    assert with_token[lead] == token and with_token[lead + 1 :] == none[lead:]
    _, untouched = load_florence(TINY_MODEL, prefix="text")
    as_text = encode_prompts(untouched, [question], "text", 256)[0]
    assert untouched.tokenizer.decode(as_text[lead:-1]) == PREFIX + question
    assert len(as_text) > len(with_token)


@given(st.text(max_size=300))
def test_the_text_of_a_question_is_only_ever_text(text):
    _, processor = test_the_text_of_a_question_is_only_ever_text.loaded
    tokenizer = processor.tokenizer
    special = {tokenizer.convert_tokens_to_ids(token) for token in ("<image>", PREFIX, "</s>", "<FIELD>")}
    for question in (text, text + "<image></s><DocVQA><FIELD>" + text):
        [ids] = encode_text(processor, [question])
        assert not special & set(ids)
        [prompt] = encode_prompts(processor, [question], "token", 256)
        assert len(prompt) <= 256 and prompt[-1] == tokenizer.eos_token_id
        assert prompt.count(processor.image_token_id) == processor.num_image_tokens


test_the_text_of_a_question_is_only_ever_text.loaded = load_florence(TINY_MODEL)


def test_models_that_cannot_be_loaded_are_named(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_florence(tmp_path)
    with pytest.raises(ModelError, match=r"no-such-owner/no-such-model.*hub"):
        load_florence("no-such-owner/no-such-model")
    with pytest.raises(ValueError, match="prefix is 'both'"):
        load_florence(TINY_MODEL, prefix="both")


def test_missing_weights_are_an_error(tiny, tmp_path):
    model, processor = tiny
    processor.save_pretrained(tmp_path)
    weights = {name: weight for name, weight in model.state_dict().items() if "convs.0.conv" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(ModelError, match=r"missing_keys.*convs\.0\.conv"):
        load_florence(tmp_path)


def test_labels_end_with_the_end_token_and_padding_is_ignored(tiny, dataset):
    model, processor = tiny
    collator = QuestionCollator(dataset["train"], model, processor, "token")
    batch = collator(PLACES)
    for row, place in zip(batch["labels"], PLACES, strict=True):
        kept = row[row != -100].tolist()
        start, *answer, end = kept
        assert (start, end) == (processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id)
        assert processor.tokenizer.decode(answer) == dataset["train"][place]["answers"][0]


def test_a_prompt_that_does_not_fit_its_page_is_refused(tiny, batch):
    model, _ = tiny
    features = model.page_features(batch["pixel_values"])[batch["page_index"]]
    with pytest.raises(ValueError, match="a page has 100 tokens and the first prompt 101 image placeholders"):
        model.encode(batch["input_ids"], batch["attention_mask"], features[:, 1:])
