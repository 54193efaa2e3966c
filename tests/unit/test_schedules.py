"""What trains when and at which rate: gradual unfreezing, layer-wise decay, Auto-RGN."""

from types import SimpleNamespace

import pytest
import torch
from datasets import DatasetDict
from safetensors.torch import load_file
from smoke_runs import trainer_of
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from docfloqa.exceptions import SettingsError
from docfloqa.model.freezing import freeze, vision_parts
from docfloqa.runs.run import Run
from docfloqa.settings import PARTS, Freezing, Settings
from docfloqa.training.arguments import training_arguments
from docfloqa.training.schedules import (
    AutoRGN,
    GradualUnfreezing,
    group_parameters,
    layer_rates,
    relative_weights,
    thawing_steps,
)

NAMES = [*PARTS[1:-1]]  # from the input side


@pytest.mark.parametrize(
    ("unfreezing", "steps", "starts"),
    [
        ("lp_ft", 8, [4, 4, 4, 4, 4]),
        ("lp_ft", 9, [4, 4, 4, 4, 4]),
        ("from_input", 10, [0, 2, 4, 6, 8]),
        ("from_output", 10, [8, 6, 4, 2, 0]),
        ("from_output", 4, [3, 2, 1, 0, 0]),
        ("from_input", 1, [0, 0, 0, 0, 0]),
    ],
)
def test_parts_are_thawed_one_after_another_and_all_before_the_end(unfreezing, steps, starts):
    assert thawing_steps(unfreezing, NAMES, steps) == dict(zip(NAMES, starts, strict=True))


@pytest.mark.parametrize(
    ("unfreezing", "trained"),
    [
        ("lp_ft", [[], [], [], NAMES, NAMES]),
        ("from_input", [NAMES[:1], NAMES[:1], NAMES[:2], NAMES[:3], NAMES]),
        ("from_output", [NAMES[-1:], NAMES[-1:], NAMES[-2:], NAMES[-3:], NAMES]),
    ],
)
def test_what_trains_follows_from_the_step(tiny, unfreezing, trained):
    model, _ = tiny
    freeze(model, Freezing(unfreezing=unfreezing))
    callback, parts = GradualUnfreezing(model, Freezing(unfreezing=unfreezing)), vision_parts(model)
    beside = [weight for name, weight in model.named_parameters() if "vision_tower" not in name]
    # Whatever came before: an interrupted run begins in the midst.
    for step, names in sorted(zip([0, 1, 2, 5, 9], trained, strict=True), key=lambda pair: -pair[0]):
        callback.on_step_begin(None, SimpleNamespace(global_step=step, max_steps=10), None, model=model)
        wanted = {name for part in names for name in parts[part]}
        tower = model.model.vision_tower.named_parameters()
        assert {name for name, weight in tower if weight.requires_grad} == wanted, step
        assert all(weight.requires_grad for weight in beside)


def test_rates_fall_by_part_towards_the_input(dataset, output):
    trainer = trainer_of(Settings.profile("smoke", layer_decay=0.5), dataset)
    optimizer = trainer.create_optimizer()
    scheduler = trainer.create_scheduler(10, optimizer)
    model, rate = trainer.model, trainer.settings.learning_rate
    rates = layer_rates(model, 0.5)
    for part, distance in zip(NAMES, (5, 4, 3, 2, 1), strict=True):
        names = vision_parts(model)[part]
        assert {rates[model.model.vision_tower.get_parameter(name)] for name in names} == {0.5**distance}
    assert rates[model.model.multi_modal_projector.image_projection.weight] == 1 == rates[model.lm_head.weight]
    grouped = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert len(grouped) == len({*grouped}) == len([*model.parameters()])
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, trainer.settings.weight_decay}
    for expected in (0.0, 0.5, 1.0, 0.875):  # a warm-up of two steps, then eight to zero
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(rate * expected * rates[group["params"][0]])
        optimizer.step()
        scheduler.step()


def test_one_rate_is_one_pair_of_groups(dataset, output):
    assert len(trainer_of(Settings.profile("smoke"), dataset).create_optimizer().param_groups) == 2


class Toy(nn.Module):
    """Two tensors, whose gradients are known."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([2.0]))


def test_auto_rgn_weights_are_those_computed_by_hand():
    model = Toy()
    drawn = []

    def step(model, batch, tokens):
        # What is drawn here leaves no trace.
        drawn.append(torch.rand(()).item())
        x = batch["x"]
        assert tokens == 2
        # Gradients are (x, 0) and (x squared).
        loss = x * model.first[0] + x**2 * model.second.sum()
        loss.backward()

    trainer = SimpleNamespace(settings=Settings(batch_size=1), epoch=1, training_step=step, loss_sum=7.0, loss_tokens=7)
    trainer.training_collator = lambda questions: {
        "x": torch.tensor(float(questions[0])),
        "labels": torch.tensor([[5, 2, -100]]),
    }

    class Order(list):
        def set_epoch(self, epoch):
            assert epoch == 1

    trainer._get_train_sampler = lambda: Order([1, 2, 3, 4, 5, 100, 100])
    optimizer = torch.optim.AdamW([{"params": [*model.parameters()]}], lr=0.1)
    group_parameters(optimizer, key=id)
    scheduler = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    model.first.sum().backward()
    optimizer.step()
    scheduler.step()
    model.zero_grad()
    with torch.no_grad():
        model.first.copy_(torch.tensor([3.0, 4.0]))
        model.second.copy_(torch.tensor([2.0]))
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    callback = AutoRGN(trainer)
    callback.on_epoch_begin(
        SimpleNamespace(learning_rate=0.1), None, None, model=model, optimizer=optimizer, lr_scheduler=scheduler
    )
    # Means over x = 1 to 5: of x / |(3, 4)|, 3 / 5, and of x squared / 2, 11 / 2.
    weights = (0.6 / 5.5, 1.0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * weight / 2 for weight in weights])
    assert scheduler.base_lrs == pytest.approx([0.1 * weight for weight in weights])
    assert not optimizer.state and all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), before) and len({*drawn}) == len(drawn) == 5
    assert (trainer.loss_sum, trainer.loss_tokens) == (0.0, 0)
    # The schedule goes on from there.
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * weight / 3 for weight in weights])


def test_a_tensor_of_zeros_has_the_largest_weight():
    ratios = torch.tensor([[1.0, torch.inf, 4.0], [3.0, torch.inf, 4.0]])
    assert relative_weights(ratios).tolist() == [0.5, 1.0, 1.0]


@pytest.mark.long
@pytest.mark.parametrize("schedule", [{"unfreezing": "lp_ft"}, {"auto_rgn": True}])
def test_a_run_that_goes_on_from_an_epoch_ends_as_one_that_was_not_interrupted(schedule, dataset, output):
    few = DatasetDict({split: rows.select(range(8)) for split, rows in dataset.items()})
    settings = Settings.profile("smoke", batch_size=4, **schedule)
    ended = []
    for resumed in (False, True):
        trainer = trainer_of(settings, few)
        start = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        trainer.args.eval_strategy = "no"
        checkpoint = trainer.run.checkpoints / "checkpoint-2"
        trainer.train(resume_from_checkpoint=str(checkpoint) if resumed else None)
        ended.append(trainer.model.state_dict())
    torch.testing.assert_close(ended[1], ended[0], rtol=0, atol=0)
    half = load_file(checkpoint / "model.safetensors")
    tower = [name for name in half if "vision_tower" in name]
    trained = {name for name in tower if not torch.equal(half[name], start[name])}
    assert bool(trained) == ("auto_rgn" in schedule)
    assert any(not torch.equal(ended[0][name], half[name]) for name in tower)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"unfreezing": "top"}, "unfreezing is 'top'; allowed are at_once, lp_ft, from_input, from_output"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0; allowed is a number from 0.01 to 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
        ({"auto_rgn": 1}, "auto_rgn is 1 of type int"),
        ({"unfreezing": "lp_ft", "vision_trainable": 0.33}, "unfreezing is 'lp_ft' and vision_trainable is 0.33"),
        ({"unfreezing": "lp_ft", "parts": ("stem",)}, "unfreezing is 'lp_ft' and parts is"),
        ({"layer_decay": 0.7, "lora": 0.1}, "layer_decay is 0.7 and lora is 0.1; allowed is one of the two"),
        ({"layer_decay": 0.7, "trained_before": (1.0,)}, "layer_decay is 0.7 and trained_before is"),
        ({"auto_rgn": True, "lora_rank": 4}, "auto_rgn is True and lora_rank is 4"),
        ({"auto_rgn": True, "layer_decay": 0.7}, "layer_decay is 0.7 and auto_rgn is True"),
        ({"auto_rgn": True, "unfreezing": "lp_ft"}, "unfreezing is 'lp_ft' and auto_rgn is True"),
    ],
)
def test_what_does_not_go_together_is_refused(given, said):
    with pytest.raises(SettingsError, match=said):
        Freezing(**given)
    assert Freezing(unfreezing="from_output", layer_decay=0.4), "as ULMFiT has it"


@pytest.mark.parametrize("given", [{"unfreezing": "from_input"}, {"auto_rgn": True}])
def test_several_processes_do_not_change_what_trains(given, smoke, output, monkeypatch):
    monkeypatch.setattr("transformers.Seq2SeqTrainingArguments.world_size", 2)
    with pytest.raises(SettingsError, match="2 processes share the run; allowed is one process"):
        training_arguments(smoke.replace(**given), Run.open(smoke, "w", "d"))


def test_auto_rgn_is_not_computed_in_fp16(smoke, output, monkeypatch):
    monkeypatch.setattr("docfloqa.training.arguments.precision", lambda settings: "fp16")
    with pytest.raises(SettingsError, match="auto_rgn is True and the run computes in fp16; allowed are bf16 and fp32"):
        training_arguments(smoke.replace(auto_rgn=True), Run.open(smoke, "w", "d"))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_same_share_four_times_is_a_chain_of_four_runs(ratio, smoke):
    run = Run.open(smoke.replace(vision_trainable=ratio, trained_before=(ratio,) * 3), "w", "d")
    chain = [run]
    while chain[-1].predecessor:
        chain.append(chain[-1].predecessor)
    assert [len(one.settings.trained_before) for one in chain] == [3, 2, 1, 0]
    assert chain[-1].id == Run.open(smoke.replace(vision_trainable=ratio), "w", "d").id
    # Each leg has epochs, a warm-up and a decay of its own.
    assert {one.settings.replace(trained_before=()) for one in chain} == {chain[-1].settings}
