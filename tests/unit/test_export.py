"""An exported model is one that plain transformers loads, and its card says what it is."""

import re
import subprocess
import sys

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from small_study import BEST_EPOCH, small_study

from docfloqa.analysis.intervals import score_intervals
from docfloqa.apps.ask import answer
from docfloqa.apps.export import EXPORTED, export_run, source_name
from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import RunError
from docfloqa.files import FolderError
from docfloqa.metrics import METRICS
from docfloqa.model.florence import Florence2ForDocVQA
from docfloqa.runs.results import find_run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run and the folder that it was exported to."""
    patch = pytest.MonkeyPatch()
    output = tmp_path_factory.mktemp("export")
    patch.setenv("DOCFLOQA_OUTPUT", str(output))
    small_study(ratios=(0.33,))
    run = find_run("embedded/vision033")
    export_run(run, output / "mine")
    yield run, output / "mine"
    patch.undo()


def test_it_is_in_fp16_and_nothing_is_missing(exported):
    _, folder = exported
    assert {path.name for path in folder.iterdir()} == EXPORTED
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.half}
    assert not [path for path in folder.parent.iterdir() if "part" in path.name]


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
        expected.append(answer(model, processor, row["image"], row["question"], run.settings)["text"])
    shown = subprocess.run([sys.executable, "-c", "\n".join(scripts)], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.splitlines() == expected and any(expected)


def test_the_card_is_valid_and_says_what_was_measured(exported):
    run, folder = exported
    card = ModelCard.load(folder / "README.md")
    data = card.data
    assert yaml.safe_load((folder / "README.md").read_text().split("---")[1])["license"] == "apache-2.0"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "document-question-answering")
    assert data.base_model == "florence2-tiny" and data.datasets == ["SynthDocVQA"]
    assert data.metrics == ["anls", "exact_match", "f1", "accuracy"] and data.model_name == run.id
    answers = run.answers(BEST_EPOCH)
    intervals = score_intervals(answers)
    assert [result.metric_type for result in data.eval_results] == data.metrics
    for result in data.eval_results:
        interval = intervals[result.metric_type]
        assert result.metric_value == pytest.approx(answers[result.metric_type].mean(), abs=1e-4)
        assert result.metric_args["low"] == pytest.approx(interval.low, abs=1e-4)
        assert result.metric_args["high"] == pytest.approx(interval.high, abs=1e-4)
        assert (result.dataset_name, result.dataset_split) == ("SynthDocVQA (input shift, seed 1)", "validation")
    assert f"| ANLS | {intervals['anls'].format(100)} |" in card.text
    assert "after epoch 1 of 2" in card.text and "51 %" in card.text
    assert "| vision_trainable | 0.33 |" in card.text and "fp16" in card.text
    assert str(folder.parent) not in card.content and set(data.metrics) <= set(METRICS)
    # No line of a table is torn from the others, no blank ones follow each other.
    assert "\n\n\n" not in card.content and "|\n\n|" not in card.content


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
