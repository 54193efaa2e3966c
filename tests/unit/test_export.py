"""An exported model is one that plain transformers loads, and its card says what it is."""

import re
import subprocess
import sys

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from small_study import BEST_EPOCH, small_study
from smoke_runs import trainer_of
from transformers import pipeline

from docfloqa.analysis.intervals import Interval, score_intervals
from docfloqa.apps import export
from docfloqa.apps.ask import answer
from docfloqa.apps.export import EXPORTED, card_metadata, export_run, source_name
from docfloqa.data.hub import HubError
from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import DataError, RunError, SettingsError
from docfloqa.files import FolderError
from docfloqa.metrics import METRICS
from docfloqa.model.florence import Florence2ForDocVQA
from docfloqa.runs.results import find_run
from docfloqa.settings import Settings
from docfloqa.training.evaluation import evaluate_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run and the folder that it was exported to."""
    patch = pytest.MonkeyPatch()
    output = tmp_path_factory.mktemp("export")
    patch.setenv("DOCFLOQA_OUTPUT", str(output))
    small_study(ratios=(0.33,))
    run = find_run("embedded/vision033")
    export_run(run, output / "mine", license="mit")
    yield run, output / "mine"
    patch.undo()


def test_it_is_in_fp16_and_nothing_is_missing(exported):
    _, folder = exported
    assert {path.name for path in folder.iterdir()} == EXPORTED
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.half}
    assert not [path for path in folder.parent.iterdir() if "part" in path.name]


@pytest.mark.long
def test_the_code_of_the_card_gives_the_same_answers_without_the_library(exported):
    run, folder = exported
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    model, processor = run.load()
    scripts, expected = ["import sys", "sys.modules['docfloqa'] = None"], []
    for place, row in enumerate(load_docvqa(run.settings, "validation").select(range(3))):
        page = folder.parent / f"page{place}.png"
        row["image"].save(page)
        chosen = {".": str(folder), "page.png": str(page), "What is the total?": row["question"]}
        script = code
        for written, meant in chosen.items():
            assert f'"{written}"' in code
            script = script.replace(f'"{written}"', repr(meant))
        scripts.append(script)
        expected.append(answer((model, processor), row["image"], row["question"], run.settings)["text"])
    shown = subprocess.run([sys.executable, "-c", "\n".join(scripts)], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == expected and any(expected)


def test_the_card_is_valid_and_says_what_was_measured(exported):
    run, folder = exported
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert yaml.safe_load((folder / "README.md").read_text().split("---")[1])["license"] == "mit"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "image-text-to-text")
    assert data.base_model == "florence2-tiny" and data.datasets == ["SynthDocVQA"]
    assert data.metrics == ["anls", "exact_match", "f1", "accuracy"] and data.model_name == run.id
    answers = run.answers(BEST_EPOCH)
    intervals = score_intervals(answers)
    assert [result.metric_type for result in data.eval_results] == data.metrics
    for result in data.eval_results:
        assert result.metric_value == pytest.approx(answers[result.metric_type].mean(), abs=1e-4)
        assert result.metric_args is None, "of six documents there is no interval"
        assert (result.dataset_name, result.dataset_split) == ("SynthDocVQA (input shift, seed 1)", "validation")
    assert f"| ANLS | {intervals['anls'].format(100)} |" in card.text
    assert "after epoch 1 of 2" in card.text and "51 %" in card.text
    assert "| vision_trainable | 0.33 |" in card.text and "fp16" in card.text
    assert str(folder.parent) not in card.content and set(data.metrics) <= set(METRICS)
    # No line of a table is torn from the others, no blank ones follow each other.
    assert "\n\n\n" not in card.content and "|\n\n|" not in card.content


def test_the_cards_metadata_have_the_intervals_that_there_are(exported):
    intervals = dict.fromkeys(METRICS, Interval(0.5, 0.25, 0.75))
    for result in card_metadata(exported[0], intervals, None).eval_results:
        assert result.metric_args == {"confidence": 0.95, "low": 0.25, "high": 0.75, "resampled": "documents"}


def test_an_earlier_export_is_replaced_and_nothing_else_is(exported):
    run, folder = exported
    (folder / "README.md").write_text((folder / "README.md").read_text() + "old")
    export_run(run, folder)
    assert not (folder / "README.md").read_text().endswith("old")
    (folder / "notes.txt").touch()
    with pytest.raises(FolderError, match="mine' is not empty"):
        export_run(run, folder)
    (folder / "notes.txt").unlink()
    with pytest.raises(FolderError, match="best_model' is not empty"):
        export_run(run, run.model_folder)


def test_it_appears_whole_or_not_at_all(exported, monkeypatch):
    run, folder = exported
    before = (folder / "model.safetensors").stat().st_mtime_ns

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelCard, "save", interrupted)
    for target in (folder, folder.parent / "new"):
        with pytest.raises(KeyboardInterrupt):
            export_run(run, target)
    assert not [path for path in folder.parent.iterdir() if "part" in path.name or path.name == "new"]
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_weights_that_fp16_cannot_hold_are_refused(exported, monkeypatch):
    run, folder = exported
    half = Florence2ForDocVQA.half

    def too_large(self):
        next(self.parameters()).data[:] = 1e6
        return half(self)

    monkeypatch.setattr(Florence2ForDocVQA, "half", too_large)
    with pytest.raises(RunError, match=r"of run embedded/vision033-seed0-fake has values above 65504"):
        export_run(run, folder.parent / "new")


def test_of_a_folder_only_its_name_is_told(tmp_path):
    assert source_name("synth") == "SynthDocVQA"
    assert source_name(str(tmp_path)) == tmp_path.name
    assert source_name("/not/here/any-more") == "any-more"
    assert source_name("owner/name") == "owner/name"


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """A run that was really made, and its export."""
    output = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(output))
        run = trainer_of(Settings.profile("smoke", vision_trainable=0.0, epochs=1, learning_rate=3e-3), dataset).fit()
        yield run, export_run(run, output / "mine")


def test_the_scores_of_the_card_are_those_that_evaluate_gives(trained):
    run, folder = trained
    data = ModelCard.load(folder / "README.md")
    found = {result.metric_type: result.metric_value for result in data.data.eval_results}
    answers = evaluate_run(run, run.settings)
    assert found == {metric: pytest.approx(answers[metric].mean(), abs=1e-4) for metric in found}
    assert "as `docfloqa evaluate` gives them" in data.text
    assert data.data.license is None and "No licence was named" in data.text


def test_without_its_data_a_card_has_the_scores_of_training(trained, monkeypatch):
    run, _ = trained

    def gone(*_):
        raise DataError("it is gone")

    monkeypatch.setattr(export, "evaluate_run", gone)
    with pytest.warns(UserWarning, match="the card has the scores of training, before rounding to fp16: it is gone"):
        card = export.model_card(run, *run.load())
    assert "before they were rounded to fp16" in card.text


def test_a_run_without_validation_answers_has_a_card_of_what_is_measured_now(trained, monkeypatch):
    """One that was packed as an arm's keeps test answers alone."""
    run, folder = trained

    def gone(*_):
        raise RunError("its validation answers are gone")

    monkeypatch.setattr(type(run), "answers", gone)
    card = export.model_card(run, *run.load())
    assert card.data.eval_results == ModelCard.load(folder / "README.md").data.eval_results
    monkeypatch.setattr(export, "evaluate_run", gone)
    with pytest.raises(RunError, match="are gone"):
        export.model_card(run, *run.load())


def test_everybody_may_read_what_a_new_file_lets_them_read(trained):
    _, folder = trained
    (folder.parent / "usual").touch()
    usual = (folder.parent / "usual").stat().st_mode
    assert {path.stat().st_mode for path in folder.iterdir()} == {usual}


def test_the_pipeline_of_the_cards_tag_gives_the_runs_answer(trained):
    run, folder = trained
    row, (model, processor) = load_docvqa(run.settings, "validation")[0], run.load()
    asked = pipeline(ModelCard.load(folder / "README.md").data.pipeline_tag, model=str(folder), dtype=torch.float32)
    prompt = f"<DocVQA>{row['question']}"
    [told] = asked(images=row["image"].convert("RGB"), text=prompt)
    assert (
        told["generated_text"]
        == prompt + answer((model, processor), row["image"], row["question"], run.settings)["text"]
    )


def test_training_goes_on_from_an_export(trained, dataset):
    run, folder = trained
    settings = run.settings.replace(model=str(folder), seed=1, learning_rate=3e-4)
    again = trainer_of(settings, dataset).fit()
    assert again.is_complete() and again.id != run.id
    before, after = run.epochs(), again.epochs()
    assert after["val_loss"][0] == pytest.approx(before["val_loss"][1], rel=1e-3), "it begins where the other ended"
    assert after["train_loss"][1] < before["train_loss"][1]


@pytest.fixture
def hub(monkeypatch) -> dict:
    """What the hub was given."""
    given: dict = {}
    monkeypatch.setattr(export, "get_token", lambda: "hf_token")
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **how: given.update({name: how}) or f"https://hub/{name}")
    monkeypatch.setattr(HfApi, "upload_folder", lambda _, **what: given.update(what))
    return given


def test_an_export_is_pushed_whole(trained, hub):
    _, folder = trained
    assert export.push(folder, "me/mine") == "https://hub/me/mine"
    assert hub["me/mine"] == {"private": True, "exist_ok": True}
    assert (hub["repo_id"], hub["folder_path"]) == ("me/mine", folder)


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [("mine", "t", "--push is 'mine'; allowed is a repository"), ("me/mine", None, "wants a token: hf auth login, or")],
)
def test_what_cannot_be_pushed_is_told_before_any_work(monkeypatch, name, token, said):
    monkeypatch.setattr(export, "get_token", lambda: token)
    with pytest.raises(HubError, match=said):
        export.check_push(name)


def test_a_hub_that_refuses_is_told_in_a_sentence(trained, hub, monkeypatch):
    def refused(*_, **__):
        raise OSError("403 Forbidden")

    monkeypatch.setattr(HfApi, "create_repo", refused)
    with pytest.raises(HubError, match="mine cannot be pushed to me/mine: 403 Forbidden"):
        export.push(trained[1], "me/mine")


def test_a_licence_is_a_name_of_the_hub(exported):
    with pytest.raises(SettingsError, match="license is 'Apache 2'; allowed are names of the hub"):
        export_run(*exported, license="Apache 2")


def test_a_run_without_adapters_has_none_to_export(exported, tmp_path):
    with pytest.raises(RunError, match=r"has no adapters: it was made without lora_rank"):
        export.export_adapter(exported[0], tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
