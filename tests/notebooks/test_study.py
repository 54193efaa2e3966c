"""The whole way, for real: notebooks executed by papermill in kernels, tables, figures, report."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import product
from pathlib import Path

import nbformat
import pandas as pd
import pypdfium2
import pytest
import torch
from notebook_cells import run_cells

from docfloqa.cli import main
from docfloqa.exceptions import RunError, StudyError
from docfloqa.figures import style
from docfloqa.files import NOTEBOOKS, PROJECT, figures_folder, output_folder, reports_folder, runs_folder
from docfloqa.model.device import NoGPUError, require_device, visible_gpus
from docfloqa.report.export import ReportError, export_study
from docfloqa.runs.results import Study
from docfloqa.runs.run import COMPLETE, Run, read_record
from docfloqa.settings import Settings
from docfloqa.study import kernels as execution
from docfloqa.study import study as study_module
from docfloqa.study.kernels import Slot
from docfloqa.study.study import make_study
from docfloqa.study.sweep import Plan, plan, sweep, write_plan

FIGURES = (
    "ablation_metrics accuracy_by_coverage across_studies anls_by_group compare_finetune confident_errors "
    "data_distributions data_samples gains model_view qualitative_examples "
    "reliability_diagram training_validation_metrics"
).split()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A smoke study of two ratios, made through the command line's own call."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("study")))
    settings = Settings.profile("smoke", study="whole")
    # Data and weights are known from here on, so that the sweep's kernel need not wait for torch.
    plan(settings, [0, 1], [0])
    with written_to(tmp_path_factory.mktemp("log") / "log") as log:
        runs, files = make_study(settings, ratios=[0, 1], seeds=[0])
    yield settings, runs, files, log.read_text()
    patch.undo()


@contextmanager
def written_to(path: Path) -> Iterator[Path]:
    """A file in place of standard output and error, of kernels as well."""
    before = os.dup(2)
    with path.open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        os.dup2(file.fileno(), 2)
        try:
            yield path
        finally:
            os.dup2(before, 2)
            os.close(before)


def test_a_study_in_a_file_is_a_line_for_every_epoch_and_notebook(made):
    """Kernels warned of eavesdropping, told of their end as an error, and bars were redrawn into the file."""
    *_, log = made
    epochs = [line for line in log.splitlines() if " epoch " in line]
    told = [
        rf"{run} epoch {epoch}/2 ANLS \d+\.\d loss \d\.\d\d(, \d+ (s|min) left)?"
        for run, epoch in product(("vision000", "vision100"), (1, 2))
    ]
    assert len(epochs) == len(told) and all(any(re.fullmatch(one, line) for line in epochs) for one in told), log
    rest = [line for line in log.splitlines() if line not in epochs]
    names = ("03_ablate", "01_explore_data", "04_analyze")
    assert sorted(re.sub(r"\d+ s$", "", line) for line in rest) == sorted(
        f"{name} {said}" for name in names for said in ("...", "done in ")
    ), log


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are drawn, and saved empty: to save them for real takes most of a notebook's time."""
    monkeypatch.setattr(style, "render", lambda figure, kind: b"")


def test_every_run_is_complete_and_keeps_its_notebook(made):
    settings, runs, *_ = made
    assert runs["status"].tolist() == ["complete"] * 2
    for run in runs["run"]:
        folder = runs_folder(settings.study) / run
        notebook = nbformat.read(folder / "finetune.ipynb", as_version=4)
        assert notebook.metadata.papermill.exception is None
        assert read_record(folder)["status"] == "complete"
        assert read_record(folder)["device"]["threads"] == 1


def test_the_report_is_html_and_pdf(made):
    _, _, files, _ = made
    names = [path.name for path in files]
    for stem in ("01_explore_data", "03_ablate", "04_analyze"):
        assert {f"{stem}.html", f"{stem}.pdf"} <= set(names)
    for path in files:
        content = path.read_bytes()
        assert content.startswith(b"%PDF") if path.suffix == ".pdf" else b"<html" in content


def test_the_report_begins_with_what_was_found_and_its_main_text_is_short(made):
    settings, *_ = made
    pdf = pypdfium2.PdfDocument(reports_folder(settings.study) / "04_analyze.pdf")
    texts = [page.get_textpage().get_text_bounded() for page in pdf]
    assert "In short" in texts[0] and "Figure 1." in texts[0] and "Look at" not in " ".join(texts)
    [references] = [number for number, text in enumerate(texts, 1) if re.search(r"^\d+ References", text, re.MULTILINE)]
    assert references <= 8


def test_figures_and_tables_are_written(made):
    settings, *_ = made
    written = {path.name for path in figures_folder(settings.study).iterdir()}
    assert written == {f"{name}.{ending}" for name in FIGURES for ending in ("pdf", "png")}
    tables = {path.suffix for path in (reports_folder(settings.study) / "tables").iterdir()}
    assert tables == {".csv", ".md", ".tex"}


def test_nothing_half_written_is_left(made):
    settings, *_ = made
    left = [path.name for path in reports_folder(settings.study).rglob("*") if "part" in path.name]
    assert not left


def test_no_path_of_the_machine_is_written(made):
    settings, *_ = made
    texts = [
        path
        for path in reports_folder(settings.study).rglob("*")
        if path.suffix in {".ipynb", ".json", ".csv", ".md", ".tex", ".html"}
    ]
    assert len(texts) > 20
    for path in texts:
        content = path.read_text()
        assert str(PROJECT) not in content and str(output_folder()) not in content, path


def test_results_are_tidy_and_of_the_present_code(made):
    settings, *_ = made
    study = Study.load(settings.study)
    assert not study.missing and not study.outdated
    assert study.runs["vision_trainable"].tolist() == [0.0, 1.0]
    assert len(study.epochs) == 2 * 3
    assert study.predictions.groupby(["run", "epoch"]).size().nunique() == 1
    before = study.predictions.query("epoch == 0").pivot(
        index="question_id", columns="vision_trainable", values="loss_sum"
    )
    pd.testing.assert_series_equal(before[0.0], before[1.0], check_names=False)


def test_a_finished_study_is_not_made_again(made, capsys):
    settings, runs, *_ = made
    times = {path: path.stat().st_mtime for path in runs_folder(settings.study).rglob("*") if path.is_file()}
    again = sweep(settings, [0, 1], [0])
    assert again["run"].tolist() == runs["run"].tolist()
    assert times == {path: path.stat().st_mtime for path in times}


def test_a_changed_setting_makes_new_runs_beside_the_old_ones(made):
    settings, runs, *_ = made
    changed = plan(settings.replace(epochs=3), [0, 1], [0])
    assert not {run.id for run in changed.runs} & set(runs["run"])


def test_a_study_all_of_whose_runs_failed_says_why(output):
    settings = Settings.profile("smoke", study="failing")
    run = Run("vision000-seed0-failed", settings)
    run.fail("DivergedError: the training loss is nan")
    write_plan(settings, Plan([run], {}))
    with pytest.raises(RunError, match=r"none of the 1 runs of study 'failing'.*DivergedError"):
        Study.load("failing")


def test_a_study_of_one_ratio_is_analysed(made, output, monkeypatch, unsaved):
    settings, _, files, _ = made
    folder = shutil.copytree(files[0].parent, reports_folder(settings.study))
    plan = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**plan, "runs": plan["runs"][:1]}))
    monkeypatch.chdir(NOTEBOOKS)
    assert list(run_cells("04_analyze.ipynb", study=settings.study)["results"].records) == plan["runs"][:1]


@pytest.mark.long
def test_the_pretraining_notebook_writes_a_model_that_loads(output, monkeypatch, unsaved):
    from docfloqa.model.florence import load_florence

    # After every step as much is read as after thousands.
    steps = {f"{phase}_steps": 1 for phase in ("blind", "strip", "grid", "page")}
    monkeypatch.setattr("docfloqa.pretraining.pretrain.HELD_OUT_IMAGES", 8)
    monkeypatch.chdir(NOTEBOOKS)
    run_cells("00_pretrain_tiny.ipynb", folder="tiny", held_out_pages=12, threads=1, **steps)
    model, _ = load_florence(output / "tiny")
    assert 2e6 < model.num_parameters() < 3e6
    curve = pd.read_csv(output / "tiny" / "pretraining.csv")
    assert curve["phase"].nunique() == len(steps) and curve["loss"].notna().all()
    assert set(pd.read_csv(output / "tiny" / "reading.csv")["by"]) == {"kind", "font", "all"}


def test_a_checkpoint_that_goes_on_has_the_weights_of_the_one_before_embeddings_by_token():
    from docfloqa.model.florence import load_florence
    from docfloqa.pretraining.tiny import begin_with, build_model, train_tokenizer

    tokenizer = train_tokenizer()
    model, (before, processor) = build_model(tokenizer, 3), load_florence("data/florence2-tiny-closed")
    fresh = model.get_input_embeddings().weight.clone()
    begin_with(model, tokenizer, "data/florence2-tiny-closed")
    assert all(map(torch.equal, model.model.vision_tower.parameters(), before.model.vision_tower.parameters()))
    known, rows, old = (
        processor.tokenizer.get_vocab(),
        model.get_input_embeddings().weight,
        before.get_input_embeddings(),
    )
    for token, row in tokenizer.get_vocab().items():
        assert torch.equal(rows[row], old.weight[known[token]] if token in known else fresh[row]), token


def test_the_paper_profile_stops_on_a_cpu():
    """`tests/faults` asks a kernel."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(NoGPUError, match=r"wants a GPU.*ALLOW_CPU=1.*make estimate"):
        require_device(Settings.profile("paper", data="synth", model="data/florence2-tiny"))


def test_a_kernel_that_does_not_exist_is_named(output):
    with pytest.raises(StudyError, match=r"kernel 'gpu-of-my-dreams' does not exist; kernels here are .*python3"):
        sweep(Settings.profile("smoke"), [0], [0], kernel="gpu-of-my-dreams")


@pytest.mark.parametrize(
    ("named", "count", "visible"),
    [
        (None, 2, ["0", "1"]),
        ("2,3", 2, ["2", "3"]),
        (" 3 , 1,7", 2, ["3", "1"]),
        ("GPU-5c27,GPU-11aa", 2, ["GPU-5c27", "GPU-11aa"]),
        ("MIG-a,MIG-b", 1, ["MIG-a", "MIG-b"]),
        ("", 0, []),
        ("2", 0, []),
    ],
)
def test_gpus_keep_the_names_that_this_process_was_given(named, count, visible, monkeypatch):
    """Numbered anew, `CUDA_VISIBLE_DEVICES=2,3` would compute on GPUs 0 and 1."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus(count) == visible


def test_ratios_reach_the_notebooks_with_all_their_digits(monkeypatch, output):
    """`RATIOS=0.3333333` lost digits on the way and was trained twice."""
    asked: dict[str, dict] = {}
    monkeypatch.setattr(study_module, "study_status", lambda _: pd.DataFrame({"status": [COMPLETE]}))
    monkeypatch.setattr(study_module, "check_study", lambda *_: None)
    monkeypatch.setattr(study_module, "run_notebook", lambda name, _, given, **__: asked.update({name: given}))
    monkeypatch.setattr(study_module, "export", lambda notebook: [])
    study_module.make_study(Settings.profile("smoke"), [0.3333333, 2 / 3], [0])
    assert [float(ratio) for ratio in asked["03_ablate"]["ratios"].split()] == [0.3333333, 2 / 3]


@pytest.mark.parametrize(("on_purpose", "status"), [(True, "interrupted"), (False, "failed")])
def test_a_run_that_was_stopped_on_purpose_has_not_failed(on_purpose, status, output, monkeypatch):
    run = Run("vision100-seed0-stopped", Settings.profile("smoke"))

    def dies(*arguments):
        if on_purpose:
            raise KeyboardInterrupt
        raise StudyError("the kernel died (out of memory, or killed from outside)")

    monkeypatch.setattr(execution, "execute", dies)
    execution.execute_run(run, Slot(None, 1), None)
    record = read_record(run.folder)
    assert record["status"] == status and bool(record["error"]) == (not on_purpose)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "--profile", "papr"], "profile is 'papr'"),
        (["sweep", "--profile", "smoke", "--ratios", "2"], "vision_trainable is 2.0"),
        (["sweep", "--profile", "smoke", "--seeds", "0", "0"], "seeds are [0, 0]"),
        (["sweep", "--profile", "smoke", "--data", "./nowhere"], "'./nowhere' is not a folder"),
        (
            ["sweep", "--profile", "smoke", "--max-new-tokens", "300"],
            "max_new_tokens is 300; this model has 256 positions",
        ),
        (["sweep", "--profile", "smoke", "--model", "./nowhere"], "'./nowhere' cannot be loaded: it is not a folder"),
        (["report", "--name", "nobody-made-it"], "docfloqa study --name nobody-made-it --data FOLDER"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments, message, capsys, output):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_exporting_a_folder_without_notebooks_is_an_error(output):
    with pytest.raises(ReportError, match=re.escape(str(output))):
        export_study(output)


def test_the_console_script_is_the_module(output):
    shown = subprocess.run([sys.executable, "-m", "docfloqa", "pack", "none"], capture_output=True, text=True)
    assert shown.returncode == 2 and "Traceback" not in shown.stderr


def test_the_plan_lists_the_runs_of_the_last_sweep(made):
    settings, runs, *_ = made
    plan = json.loads((reports_folder(settings.study) / "study.json").read_text())
    assert plan["runs"] == runs["run"].tolist() and Settings.from_dict(plan["settings"]) == settings
