"""What the arms change in a run, and that an arm's runs are those that answer its question."""

import copy

import pandas as pd
import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from smoke_runs import interrupted, trainer_of
from torch.nn.functional import cross_entropy
from transformers import Florence2ForConditionalGeneration

from docfloqa.apps.export import export_adapter
from docfloqa.arms import ARMS, RATIOS, SIDE_SHARE, choose_arms, legs
from docfloqa.exceptions import RunError, SettingsError
from docfloqa.files import FolderError
from docfloqa.model.florence import load_florence, target_format
from docfloqa.model.freezing import freeze, in_fp16, without_adapters
from docfloqa.settings import SHIFTS, Freezing, Settings
from docfloqa.study.sweep import plan
from docfloqa.text import plain
from docfloqa.training.batches import Pages, QuestionCollator
from docfloqa.training.evaluation import evaluate


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_lora_trains_about_as_much_wherever_it_stands(ratio, tiny):
    model, _ = tiny
    before = sum(parameter.numel() for parameter in model.parameters())
    freezing = freeze(model, Freezing(ratio, lora=0.1))
    projector = sum(parameter.numel() for parameter in model.model.multi_modal_projector.parameters())
    assert freezing.parameters == before
    assert (freezing.trainable_parameters - projector) / before == pytest.approx(0.1, abs=0.01)
    assert (freezing.trainable_vision_parameters > 0) == (ratio > 0)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "multi_modal_projector" in name for name in trained)


def adapters(model) -> list[LoraLayer]:
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def test_adapters_change_nothing_before_training_and_merge_into_the_native_model(tiny, dataset, output):
    model, processor = tiny
    collator = QuestionCollator(dataset["validation"], model, processor, "token")
    batch = collator([0, 1, 2])
    batch.pop("index")
    with torch.no_grad():
        plain = model(**batch).logits
        freeze(model, Freezing(lora=0.1))
        assert torch.equal(model(**batch).logits, plain)
        for layer in adapters(model):
            torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
        adapted = model(**batch).logits
        assert not torch.allclose(adapted, plain, atol=1e-2)
        merged = without_adapters(model)
        assert not adapters(merged) and adapters(model)
        assert torch.allclose(merged(**batch).logits, adapted, atol=1e-4)
    merged.save_pretrained(output / "merged")
    native, report = Florence2ForConditionalGeneration.from_pretrained(output / "merged", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert sum(p.numel() for p in native.parameters()) == sum(p.numel() for p in merged.parameters())


def test_without_adapters_a_model_is_itself(tiny):
    assert without_adapters(tiny[0]) is tiny[0]


def test_too_small_a_share_for_lora_is_refused(tiny):
    with pytest.raises(SettingsError, match="adapters of rank 1 have"):
        freeze(tiny[0], Freezing(0.0, lora=1e-5))


def test_adapters_have_the_rank_alpha_and_targets_that_were_asked_for(tiny):
    model = tiny[0]
    found = freeze(model, Freezing(lora_rank=3, lora_alpha=12, lora_targets=("q_proj", "encoder.layers.0.fc1")))
    adapters = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    assert found.lora_rank == 3 and {layer.scaling["default"] for layer in adapters.values()} == {4.0}
    ends = {name.rpartition(".")[2] for name in adapters}
    assert ends == {"q_proj", "fc1"} and sum("fc1" in name for name in adapters) == 1
    with pytest.raises(SettingsError, match=r"lora_targets has 'queries'; no linear layer that trains ends so, but in"):
        freeze(tiny[0], Freezing(lora_rank=3, lora_targets=("queries",)))


@pytest.mark.long
def test_a_lora_run_keeps_its_answers_when_it_is_interrupted_or_loaded_without_adapters(few, output, monkeypatch):
    settings = Settings.profile("smoke", vision_trainable=1.0, lora=0.1)
    run = trainer_of(settings, few).fit()
    with monkeypatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(output / "again"))
        interrupted(settings, few, monkeypatch, after=3)
        resumed = trainer_of(settings, few).fit().predictions()
    pd.testing.assert_frame_equal(resumed, run.predictions(), check_exact=True)
    assert run.record["freezing"]["lora_rank"] == 10
    model, processor = load_florence(run.folder / "model")
    collator = QuestionCollator(few["validation"], model, processor, "token")
    kept, again = run.predictions().query("epoch == 2"), evaluate(model, collator, settings)
    assert kept["prediction"].tolist() == again["prediction"].tolist()
    assert kept["loss_sum"].tolist() == pytest.approx(again["loss_sum"].tolist(), rel=1e-4)
    # So it does with its adapters beside the model that it started from.
    folder = export_adapter(run, output / "mine")
    assert not (folder / "model.safetensors").exists()
    model, processor = load_florence(settings.model, settings.prefix)
    beside = PeftModel.from_pretrained(model, folder).base_model.model.eval()
    again = evaluate(beside, QuestionCollator(few["validation"], model, processor, "token"), settings)
    best = run.answers(run.record["best_epoch"])
    assert best["loss_sum"].tolist() == pytest.approx(again["loss_sum"].tolist(), rel=1e-3)
    assert export_adapter(run, folder) == folder, "an earlier one is replaced"
    (folder / "notes.txt").touch()
    with pytest.raises(FolderError, match="mine' is not empty"):
        export_adapter(run, folder)


@pytest.mark.parametrize(("unit", "tolerance"), [("tensor", 0.05), ("block", 0.1), ("stage", 0.16)])
def test_both_sides_come_as_near_to_a_share_of_parameters_as_whole_units_can(unit, tolerance):
    for side in ("output", "input"):
        model, _ = load_florence("data/florence2-tiny")
        freezing = freeze(model, Freezing(SIDE_SHARE, unit, side, "parameters"))
        share = freezing.trainable_vision_parameters / freezing.vision_parameters
        assert share == pytest.approx(SIDE_SHARE, abs=tolerance)
        first = next(model.model.vision_tower.convs[0].parameters())
        assert first.requires_grad == (side == "input")


@pytest.mark.long
def test_a_run_goes_on_from_the_last_weights_of_another(few, output):
    first = Settings.profile("smoke", vision_trainable=0.0)
    second = first.replace(vision_trainable=0.33, trained_before=(0.0,))
    with pytest.raises(RunError, match="make that run first"):
        trainer_of(second, few).fit()
    before = trainer_of(first, few).fit()
    run = trainer_of(second, few).fit()
    assert run.predecessor.id == before.id and run.id.startswith("after000-vision033")
    ended, begun = before.predictions().query("epoch == 2"), run.predictions().query("epoch == 0")
    assert ended["prediction"].tolist() == begun["prediction"].tolist()
    assert ended["loss_sum"].tolist() == pytest.approx(begun["loss_sum"].tolist(), rel=1e-5)


def test_the_best_model_is_that_of_the_best_epoch(few, output, monkeypatch):
    trainer = trainer_of(Settings.profile("smoke", epochs=3), few)
    answers, weights = iter([0.9, 0.2, 0.6, 0.4]), []

    def scored(model, collator, *arguments):
        if collator is not trainer.validation_collator:
            return evaluate(model, collator, *arguments)
        weights.append(model.state_dict()["model.vision_tower.convs.0.conv.weight"].clone())
        return evaluate(model, collator, *arguments).assign(anls=next(answers))

    monkeypatch.setattr("docfloqa.training.trainer.evaluate", scored)
    run = trainer.fit()
    assert run.record["best_epoch"] == 2, "the epoch before training does not count"
    files = {name: run.folder / name / "model.safetensors" for name in ("best_model", "model")}
    best, last = (load_file(file)["model.vision_tower.convs.0.conv.weight"] for file in files.values())
    assert torch.equal(best, weights[2].half()) and torch.equal(last, weights[3])
    assert files["best_model"].stat().st_size < 0.52 * files["model"].stat().st_size, "fp16, tied weights once"


def test_weights_that_fp16_cannot_hold_are_kept_as_they_are(tiny):
    model = copy.deepcopy(tiny[0])
    assert {weight.dtype for weight in in_fp16(model).values()} == {torch.half}
    with torch.no_grad():
        next(model.parameters())[0] = 1e5
    assert in_fp16(model) is None


def test_confidence_is_the_probability_of_the_answer(tiny, dataset):
    model, processor = tiny
    settings = Settings.profile("smoke", max_new_tokens=6)
    collator = QuestionCollator(dataset["validation"], model, processor, "token")
    answers = evaluate(model, collator, settings)
    assert answers["confidence"].between(0, 1).all()
    batch = collator([0])
    features = model.page_features(batch["pixel_values"])
    encoded = model.encode(batch["input_ids"], batch["attention_mask"], features)
    given = [model.config.text_config.decoder_start_token_id, *target_format(model).start]
    surprise = 0.0
    with torch.no_grad():
        while len(given) < 7 and given[1:][-1:] != [model.config.text_config.eos_token_id]:
            logits = model(
                encoder_outputs=encoded, attention_mask=batch["attention_mask"], decoder_input_ids=torch.tensor([given])
            ).logits[0, -1]
            given.append(int(logits.argmax()))
            surprise += cross_entropy(logits, torch.tensor(given[-1])).item()
    text = processor.tokenizer.decode(given, skip_special_tokens=True).strip()
    assert text == answers["prediction"][0]
    assert answers["confidence"][0] == pytest.approx(torch.tensor(-surprise).exp().item(), rel=1e-4)


def test_shuffled_questions_change_places_and_answers_do_not(tiny, dataset):
    model, processor = tiny
    rows, pages = dataset["train"], Pages(dataset["train"], processor)
    own, shuffled = (
        QuestionCollator(rows, model, processor, "token", pages, shuffled_questions=each) for each in (False, True)
    )
    assert own.prompts != shuffled.prompts and sorted(own.prompts) == sorted(shuffled.prompts)
    assert own.labels == shuffled.labels and own.pages == shuffled.pages


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_compares_its_own_variants_and_asks_a_question(name):
    [arm] = choose_arms([name], Settings())
    names = [variant.name for variant in arm.variants]
    assert len(set(names)) == len(names) and arm.question.endswith("?")
    compared = {name for contrast in arm.contrasts for name in (contrast.first, contrast.second)}
    assert compared <= {variant.name for variant in arm.variants if variant.most_seeds != 1}
    for variant in arm.variants:
        for settings in variant.runs(Settings(), [0, 1]):
            in_turn = name == "schedules" and settings.trained_before
            assert settings.epochs * (1 + len(settings.trained_before) * bool(in_turn)) == 4
            assert settings.study == "embedded"


def test_the_side_arm_asks_under_every_shift_where_documents_are_drawn():
    [drawn], [scanned] = (choose_arms(["side"], Settings(data=data)) for data in ("synth", "scans"))
    shifts = {settings.synth_shift for variant in drawn.variants for settings in variant.runs(Settings(), [0])}
    assert shifts == set(SHIFTS)
    units = pd.Series([variant.changes.get("unit", "none or all") for variant in drawn.variants]).value_counts()
    assert units.to_dict() == {
        "none or all": 2 * len(SHIFTS),
        "tensor": 2 * len(SHIFTS),
        "block": 2 * len(SHIFTS),
        "stage": 2 * len(SHIFTS),
    }
    assert len(scanned.variants) == 2 + 2 * 3


def test_the_grid_has_every_mixture_with_two_seeds_and_each_way_one_rate_for_all():
    [drawn], [scanned] = (choose_arms(["grid"], Settings(data=data)) for data in ("synth", "scans"))
    runs = [settings for variant in drawn.variants for settings in variant.runs(Settings(), [5, 6, 7])]
    assert len(runs) == 9 * 5 * 2 and {run.seed for run in runs} == {5, 6}
    assert {run.synth_shift for run in runs} == {
        *("input:0", "content:0.5", "content", "input:0.5", "input:0.5+content:0.5", "input:0.5+content:1"),
        *("input", "input:1+content:0.5", "input:1+content:1"),
    }
    tried = {tuple(variant.tried(Settings(), [5, 6])) for variant in drawn.variants}
    assert len(tried) == 5 and all([run.synth_shift for run in some] == ["input", "content"] for some in tried)
    of_parts = {run for variant in ARMS["parts"](Settings()).variants for run in variant.tried(Settings(), [5])}
    assert sum({*some} <= of_parts for some in tried) == 3, "none, the output side and all are tried there, too"
    assert len(scanned.variants) == 5 and len(scanned.contrasts) == 2


def test_what_is_published_trains_as_long_as_all_the_other_schedules_on_the_same_weights():
    runs = {one.name: one.runs(Settings(epochs=32), [0])[0] for one in ARMS["schedules"](Settings(epochs=32)).variants}
    assert {run.epochs * (1 + len(run.trained_before)) for run in runs.values()} == {16}
    stacked = {name: (*run.trained_before, run.vision_trainable) for name, run in runs.items() if run.trained_before}
    assert [*stacked.values()] == [RATIOS, (1.0,) * 4, (0.0,) * 4]
    before = legs(runs["0, 33, 66, 100 % in turn"])
    assert [(run.trained_before, run.vision_trainable) for run in before] == [
        *(((), 0.0), ((0.0,), 0.33), ((0.0, 0.33), 0.66))
    ]
    assert all(
        run.replace(trained_before=(), vision_trainable=1.0) == before[0].replace(vision_trainable=1.0)
        for run in before
    )


def test_another_arm_is_refused():
    with pytest.raises(SettingsError, match="arm is 'sides'; allowed are cumulative, prefix"):
        choose_arms(["sides"], Settings())
    assert len(choose_arms(["all"], Settings())) == len(ARMS)


@pytest.mark.long
def test_every_run_is_planned_once_after_the_one_that_it_goes_on_from(output):
    planned = plan(Settings.profile("smoke"), [0, 1], [0], ["all"])
    ids = [run.id for run in planned.runs]
    assert len(set(ids)) == len(ids)
    assert set(ids[:2]) == {run.id for run in planned.ratios}
    shared = planned.arms["prefix"]["0 %, fresh weights"][0].id
    assert shared in {run.id for run in planned.arms["cumulative"]["0 %, fresh weights"]}
    for runs in planned.arms["cumulative"].values():
        for run in runs:
            assert run.predecessor is None or run.predecessor.id in ids
    lone = pd.Series({name: len(runs) for name, runs in planned.arms["side"].items()})
    assert set(lone[lone.index.str.contains("blocks|stages")]) == {1}
    assert ids[-1] in {runs[-1].id for runs in planned.arms["side"].values() if len(runs) == 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained_before": [0, 2]}, "trained_before is .*allowed are .*numbers from 0 to 1"),
        ({"trained_before": 0.5}, "trained_before is 0.5; allowed is a list of numbers"),
        ({"trained_before": ["a"]}, "trained_before is 'a' of type str"),
        ({"trained_before": [0.0], "lora": 0.1}, "allowed is one of the two"),
        ({"lora": 16}, "lora is 16; allowed is a number from 0 to 1, a share; a rank is lora_rank"),
        ({"lora_rank": 0}, "lora_rank is 0; allowed is a number from 1"),
        ({"lora": 0.1, "lora_rank": 8}, "lora is 0.1 and lora_rank is 8; allowed is one of the two"),
        ({"lora_targets": ["q_proj"]}, "without adapters; it goes with lora_rank or lora"),
        ({"lora_alpha": 8.0}, "lora_alpha is 8.0 without adapters"),
        ({"trained_before": [0.0], "lora_rank": 8}, "lora_rank is 8 and trained_before"),
        ({"counted": "layers"}, "counted is 'layers'; allowed are units, parameters"),
    ],
)
def test_what_an_arm_cannot_be_is_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        Settings.profile("smoke", **changes)


@pytest.mark.parametrize("name", ARMS)
def test_plain_names_stay_as_they_are(name):
    """A name may be made plain on its way to a table and once more there: new content is not "new new content"."""
    [arm] = choose_arms([name], Settings())
    names = [variant.name for variant in arm.variants]
    names += [f"{one.second} − {one.first}" for one in arm.contrasts] + [one.says for one in arm.contrasts]
    assert [plain(plain(one)) for one in names] == [plain(one) for one in names]
