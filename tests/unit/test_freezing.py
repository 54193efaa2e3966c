import hashlib

import pytest
import torch
from torch import nn

from docfloqa.exceptions import SettingsError
from docfloqa.model.florence import Florence2ForDocVQA, base_config, vision_sub_blocks
from docfloqa.model.freezing import freeze, vision_parts, vision_units
from docfloqa.settings import PARTS, SIDES, UNITS, Freezing
from docfloqa.training.batches import QuestionCollator


@pytest.fixture(scope="module")
def base():
    with torch.device("meta"):
        return Florence2ForDocVQA(base_config())


def checksums(model: nn.Module) -> dict[str, str]:
    return {
        name: hashlib.sha256(weight.detach().numpy().tobytes()).hexdigest() for name, weight in model.named_parameters()
    }


# 66 % gives 71,616,000 in the published training log, too.
@pytest.mark.parametrize(
    ("ratio", "tensors", "parameters"),
    [(0, 0, 0), (0.33, 132, 46_308_864), (0.66, 264, 71_616_000), (1.0, 400, 90_368_000)],
)
def test_golden_counts_of_florence_2_base(base, ratio, tensors, parameters):
    freezing = freeze(base, Freezing(ratio))
    assert (freezing.trainable_vision_tensors, freezing.trainable_vision_parameters) == (tensors, parameters)
    assert (freezing.vision_tensors, freezing.vision_parameters) == (400, 90_368_000)
    assert freezing.parameters == 231_414_784
    outside = freezing.parameters - freezing.vision_parameters
    assert freezing.trainable_parameters == outside + parameters


def test_published_shares_are_shares_of_tensors(base):
    for ratio, share in ((0.33, 0.512), (0.66, 0.792)):
        table = freeze(base, Freezing(ratio)).table()
        assert table.loc["vision encoder, parameters", "share"] == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize("unit", UNITS)
def test_units_hold_every_vision_tensor_once(base, unit):
    names = [name for group in vision_units(base, unit) for name in group]
    tower = [name for name, _ in base.model.vision_tower.named_parameters()]
    assert sorted(names) == sorted(tower)
    assert len(vision_units(base, unit)) == {"tensor": 400, "block": 12, "stage": 4}[unit]
    if unit == "tensor":
        assert names == tower


def test_a_patch_embedding_belongs_to_what_it_opens(base):
    for unit in ("block", "stage"):
        opening = [group for group in vision_units(base, unit) if any(name.startswith("convs") for name in group)]
        assert [group[0].split(".")[:2] for group in opening] == [["convs", str(stage)] for stage in range(4)]


def test_parts_hold_every_vision_tensor_once_and_are_trained_by_name(base):
    parts = vision_parts(base)
    tower = dict(base.model.vision_tower.named_parameters())
    assert list(parts) == list(PARTS[1:-1])
    assert sorted(name for names in parts.values() for name in names) == sorted(tower)
    assert all(name.startswith("convs.0.") for name in parts["stem"])
    for number in range(2, 5):
        assert parts[f"stage{number}"][0].startswith(f"convs.{number - 1}.")
    for chosen in (("stem",), ("stage1", "stage2"), ("stage4",), ("none",), ("all",)):
        found = freeze(base, Freezing(parts=chosen))
        wanted = set(tower) if chosen == ("all",) else {name for part in chosen for name in parts.get(part, [])}
        assert {name for name, weight in tower.items() if weight.requires_grad} == wanted
        assert found.trainable_vision_parameters == sum(tower[name].numel() for name in wanted)
    last, first = (freeze(base, Freezing(parts=(part,))) for part in ("stage4", "stem"))
    assert last.frozen_prefix > first.frozen_prefix == 0


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"parts": ("stem", "stage5")}, "parts is 'stage5'"),
        ({"parts": "stem"}, "a list of texts"),
        ({"parts": ("none", "stem")}, "none and all stand alone"),
        ({"parts": ("stem",), "vision_trainable": 0.33}, "one of the two"),
        ({"parts": ("stem",), "trained_before": (0.0,)}, "one of the two"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(chosen, said):
    with pytest.raises(SettingsError, match=said):
        Freezing(**chosen)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ratio", [0.0, 0.33, 0.66, 1.0])
def test_input_and_output_side_are_complements(base, unit, ratio):
    tower = dict(base.model.vision_tower.named_parameters())
    freeze(base, Freezing(ratio, unit, "input"))
    first = {name for name, weight in tower.items() if weight.requires_grad}
    units = vision_units(base, unit)
    freeze(base, Freezing(1 - round(len(units) * ratio) / len(units), unit, "output"))
    last = {name for name, weight in tower.items() if weight.requires_grad}
    assert first | last == set(tower) and not first & last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.5,), "vision_trainable is 1.5"),
        ((-0.1,), "vision_trainable"),
        ((0.5, "layer"), "unit is 'layer'"),
        ((0.5, "tensor", "top"), "side"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Freezing(*arguments)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("ratio", [0.0, 0.33, 0.66, 1.0])
def test_steps_change_every_trainable_tensor_and_no_frozen_one(tiny, dataset, unit, side, ratio):
    model, processor = tiny
    freezing = freeze(model, Freezing(ratio, unit, side))
    collator = QuestionCollator(dataset["train"], model, processor, "token")
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    before = checksums(model)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    model.train()
    for start in (0, 4):
        batch = collator(range(start, start + 4))
        batch.pop("index")
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = checksums(model)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == trainable
    assert len([name for name in trainable if "vision_tower" in name]) == freezing.trainable_vision_tensors


@pytest.mark.parametrize("ratio", [0.0, 0.33, 0.66, 1.0])
def test_frozen_sub_blocks_stay_in_eval_mode_whatever_is_called(tiny, ratio):
    model, _ = tiny
    freezing = freeze(model, Freezing(ratio))
    for call in (model.train, lambda: model.train(True), lambda: model.eval().train()):
        call()
        for _, sub_block in vision_sub_blocks(model):
            trained = any(weight.requires_grad for weight in sub_block.parameters())
            assert all(module.training == trained for module in sub_block.modules())
        assert model.model.language_model.training and model.model.multi_modal_projector.training
    assert not model.eval().training
    assert (freezing.frozen_prefix == 16) == (ratio == 0)


def test_the_frozen_prefix_is_deterministic_in_train_mode():
    config = base_config()
    config.vision_config.embed_dim = (8, 16, 16, 16)
    config.vision_config.num_heads = config.vision_config.num_groups = (1, 2, 2, 2)
    config.vision_config.drop_path_rate = 0.5
    config.text_config.encoder_layers = config.text_config.decoder_layers = 1
    config.text_config.vocab_size = 100
    torch.manual_seed(0)
    tower = Florence2ForDocVQA(config)
    pages = torch.rand(2, 3, 64, 64)

    def twice() -> bool:
        tower.train()
        return torch.equal(*(tower.model.vision_tower(pages).last_hidden_state for _ in range(2)))

    freeze(tower, Freezing(1.0))
    assert not twice(), "stochastic depth acts on trained sub-blocks"
    freeze(tower, Freezing(0.0))
    assert twice(), "and not on frozen ones"
