"""Advice before training: gradients as computed by hand, and the rule."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from notebook_cells import run_cells
from torch import nn
from tqdm.auto import tqdm

from docfloqa.analysis import advice
from docfloqa.cli import main
from docfloqa.figures import style
from docfloqa.files import NOTEBOOKS
from docfloqa.training import gradients

QUIET = tqdm(disable=True)
PARTS = [*advice.ENCODER, gradients.LANGUAGE, gradients.PROJECTOR]


def statistics_of(stem, stage1, stage2, stage3, stage4, language, projector=1.0):
    """Statistics with these squared norms."""
    return pd.DataFrame({"part": PARTS, "squared_norm": [stem, stage1, stage2, stage3, stage4, language, projector]})


# What was measured on development documents (seed 101), where the rule was set.
DEVELOPMENT = {
    "input": statistics_of(0.78, 1.63, 0.30, 0.31, 0.34, 6.41),
    "layout": statistics_of(0.46, 1.81, 0.53, 0.56, 0.61, 5.75),
    "content": statistics_of(0.11, 0.44, 0.16, 0.21, 0.27, 5.42),
}


class Toy(nn.Module):
    """A loss whose gradient is the batch itself for `slow`, and 1 for `steady`."""

    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.slow, self.steady = nn.Parameter(torch.tensor([3.0, 4.0])), nn.Parameter(torch.tensor([2.0]))

    def forward(self, x):
        return SimpleNamespace(loss=(self.slow * x).sum() + self.steady.sum())


def test_statistics_are_those_computed_by_hand(smoke, monkeypatch):
    toy = Toy()
    monkeypatch.setattr(gradients, "model_parts", lambda model: {"slow": [model.slow], "steady": [model.steady]})
    batches = [{"x": torch.tensor([1.0, 0.0])}, {"x": torch.tensor([3.0, 0.0])}]
    slow, steady = gradients.gradient_statistics(toy, batches, smoke, QUIET).to_dict("records")
    # The mean gradient is (2, 0), its variance over the two batches 2.
    assert slow == pytest.approx(
        {"part": "slow", "parameters": 2, "relative_norm": (1 / 5 + 3 / 5) / 2, "snr": 4 / 2, "squared_norm": 5.0}
        | {"share": 5 / 6, "loss": (3 + 2 + 9 + 2) / 2}
    )
    assert (steady["relative_norm"], steady["snr"], steady["share"]) == pytest.approx((0.5, np.inf, 1 / 6))
    assert toy.slow.tolist() == [3, 4] and toy.slow.grad is None
    assert np.isnan(gradients.gradient_statistics(toy, batches[:1], smoke, QUIET)["snr"]).all()


def test_costs_leave_the_weights_and_the_short_training_leaves_the_encoder(tiny, dataset, smoke, monkeypatch):
    model, processor = tiny
    collator = gradients.QuestionCollator(dataset["train"], model, processor, smoke.prefix)
    batch = collator([0, 1, 2])
    parts = gradients.model_parts(model)
    assert list(parts) == PARTS
    assert sum(one.numel() for some in parts.values() for one in some) == sum(one.numel() for one in model.parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setattr(gradients, "TIMED", 2)
    monkeypatch.setattr(gradients, "SETS", ("none", "stem", "stage1", "stage2", "stem stage1 stage2", "all"))
    costs = gradients.thawing_costs(model, batch, smoke, QUIET).set_index("parts")
    # By value: a step at rate 0 may turn a -0 into a 0.
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.vision_start == 0
    assert costs["cached"].agg(["idxmax", "max"]).tolist() == ["none", 1] and costs.loc["stem", "cached"] == 0
    assert costs["memory_mib"].idxmin() == "none" and costs["memory_mib"].idxmax() == "all"
    assert costs.loc["stem stage1 stage2", "encoder_share"] == pytest.approx(
        costs.loc[["stem", "stage1", "stage2"], "encoder_share"].sum()
    )
    assert costs.loc["all", "encoder_share"] == 1 and (costs["seconds"] > 0).all()
    tower = [weight.clone() for weight in model.model.vision_tower.parameters()]
    language = model.get_input_embeddings().weight.clone()
    gradients.train_language_model(model, [batch], smoke, QUIET)
    assert all(map(torch.equal, model.model.vision_tower.parameters(), tower)) and not model.training
    assert not torch.equal(model.get_input_embeddings().weight, language)


@pytest.mark.long
def test_the_verb_and_its_notebook_say_the_same(output, loaded, monkeypatch, capsys):
    monkeypatch.setattr(gradients, "load_florence", lambda *_: copy.deepcopy(loaded))
    for name, fewer in (("BATCHES", 2), ("STEPS", 1), ("TIMED", 2), ("SETS", ("none", "stem stage1 stage2", "all"))):
        monkeypatch.setattr(gradients, name, fewer)
    monkeypatch.setattr(style, "render", lambda figure, kind: b"")
    assert main("advise --profile smoke --batch-size 3 --name advised --json".split()) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == (
        "parts sentence known encoder_over_language stem_over_last predicted_gains statistics costs files".split()
    )
    assert told["known"] == advice.KNOWN and told["predicted_gains"]["none"] == 0
    times = [gradients.START, gradients.LATER]
    assert [(row["when"], row["part"]) for row in told["statistics"]] == [
        (time, part) for time in times for part in PARTS
    ]
    assert {path.name for path in (output / "figures" / "advised").iterdir()} == {"advice.pdf", "advice.png"}
    assert [row["parts"] for row in told["costs"]] == ["none", "stem stage1 stage2", "all"]

    monkeypatch.chdir(NOTEBOOKS)
    shown = run_cells("07_advise.ipynb", profile="smoke", study="advised", settings_json='{"batch_size": 3}')
    again = shown["statistics"]
    pd.testing.assert_frame_equal(again, pd.DataFrame(told["statistics"]), check_exact=False, rtol=1e-5, atol=1e-9)


def test_bad_data_and_models_are_named_before_work(output, tmp_path, capsys):
    assert main("advise --profile smoke --batch-size 1000".split()) == 2
    assert "questions and batch_size is 1000" in capsys.readouterr().err
    assert main(["advise", "--profile", "smoke", "--data", str(tmp_path / "no")]) == 2
    assert str(tmp_path / "no") in capsys.readouterr().err
    assert main(["advise", "--profile", "smoke", "--model", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err


def test_the_rule_says_what_it_was_set_to_say():
    said = {shift: advice.recommend(statistics) for shift, statistics in DEVELOPMENT.items()}
    assert said == {"input": "stem stage1 stage2", "layout": "all", "content": "none"}
    gains = [advice.predicted_gain(statistics, "all") for statistics in DEVELOPMENT.values()]
    assert gains[0] > 0 and gains[1] > 0 > gains[2]


@pytest.mark.parametrize(
    ("stem", "language", "parts"), [(2.0, 24.0, "stem stage1 stage2"), (1.9, 23.0, "all"), (2.0, 24.1, "none")]
)
def test_thresholds_are_reached_from_above(stem, language, parts):
    assert advice.recommend(statistics_of(stem, 1, 1, 1, 1, language)) == parts


def test_a_predicted_gain_is_the_excess_times_the_share_of_the_parts():
    statistics = statistics_of(4, 3, 2, 0, 1, 20)
    assert advice.predicted_gains(statistics) == pytest.approx(
        {"none": 0, "stem": 0.1, "stage1": 0.075, "stage2": 0.05, "stage3": 0, "stage4": 0.025}
        | {"stem stage1 stage2": 0.225, "all": 0.25}
    )


def test_the_sentence_has_its_evidence():
    costs = pd.DataFrame(
        {"parts": ["none", "stem stage1 stage2", "all"], "encoder_share": [0, 0.19, 1], "seconds": [0.5, 1.1, 1.2]}
    )
    assert advice.sentence(DEVELOPMENT["input"], costs) == (
        "thaw the stem and stages 1 and 2 (19 % of the encoder's parameters): the encoder's squared gradient norm is "
        "0.52 of the language model's (at least 0.25), the stem's is 2.3 of stage 4's (at least 2), and a step takes "
        "1.1 s in place of 0.5 s with none of it."
    )
    assert advice.sentence(DEVELOPMENT["content"], costs) == (
        "leave the vision encoder frozen: the encoder's squared gradient norm is 0.22 of the language model's (below "
        "0.25), and a step takes 0.5 s in place of 1.2 s with all of it."
    )
