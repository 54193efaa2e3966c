"""How far a run and a sweep are, as it is told where nothing can be drawn over what was written."""

import io
import json
import os
import time
from types import SimpleNamespace

import pytest
from datasets import Dataset, Value
from fake_study import write_study
from scattered import until

from docfloqa.files import reports_folder, runs_folder, write_sealed, write_whole
from docfloqa.model.florence import load_florence
from docfloqa.runs.progress import epoch_line
from docfloqa.runs.results import PLAN
from docfloqa.runs.run import PROGRESS
from docfloqa.study import monitor
from docfloqa.study.monitor import Watcher, short
from docfloqa.training.arguments import RunProgress

ROW = {"epoch": 3.0, "anls": 0.4592, "val_loss": 0.941}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def begun(output, monkeypatch):
    """A study of two runs: one is complete from before, one goes on with one epoch of two done from before."""
    monkeypatch.setattr(monitor, "SECONDS", 0.01)
    write_study(ratios=(0.0, 1.0), seeds=(0,), epochs=2)
    whole, goes_on = sorted(path.name for path in runs_folder("fake").iterdir())
    plan = reports_folder("fake") / PLAN
    plan.write_text(json.dumps({**json.loads(plan.read_text()), "epochs": {whole: 2, goes_on: 2}}))
    folder = runs_folder("fake") / goes_on
    record = json.loads((folder / "run.json").read_text())
    write_sealed(folder / "run.json", {**record, "status": "running"})
    after(folder, 1)
    # Of a plan that was there before nothing is said.
    os.utime(plan, (time.time() + 60,) * 2)
    return folder


def after(folder, epoch: int, **scores: float) -> None:
    """Let the run have done an epoch."""
    write_sealed(folder / "epochs" / f"epoch-{epoch:04d}.json", {"row": {**ROW, "epoch": epoch, **scores}})
    progress = {"epochs_done": epoch, "doing": "evaluating", "time": time.time() + 60}
    write_whole(folder / PROGRESS, json.dumps(progress))


def test_in_a_file_a_sweep_is_a_line_for_every_epoch(begun, capsys):
    """Redrawn every second, a study of hours left tens of thousands of lines; once a minute, without its scores."""
    with Watcher("fake") as watcher:
        until(lambda: watcher.every)
        assert watcher.every.n == 3
        after(begun, 2, anls=0.5)
        until(lambda: watcher.told.get(begun.name) == 2)
    said = capsys.readouterr()
    assert said.out == "vision100 epoch 2/2 ANLS 50.0 loss 0.94\n" and not said.err


def test_an_epoch_that_is_kept_and_not_told_by_its_run_yet_has_a_time_left(begun, capsys):
    with Watcher("fake") as watcher:
        until(lambda: watcher.every)
        write_sealed(begun / "epochs" / "epoch-0002.json", {"row": {**ROW, "epoch": 2}})
        until(lambda: watcher.told.get(begun.name) == 2)
    assert " h left" not in capsys.readouterr().out


def test_in_a_terminal_the_bars_show_the_scores_and_end_where_the_runs_are(begun, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Watcher("fake"):
        time.sleep(0.3)
        after(begun, 2)
    drawn = terminal.getvalue()
    assert "epoch 1.0 of 2, evaluating, ANLS 45.9 loss 0.94" in drawn
    assert "2 runs: 100%" in "2 runs" + drawn.rpartition("2 runs")[2] and "4.0/4 epochs" in drawn


def test_the_end_of_a_bar_is_that_of_the_present_plan(begun, monkeypatch):
    """Another plan made meanwhile left "18.0/None epochs"."""
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    with Watcher("fake"):
        time.sleep(0.3)
        plan = reports_folder("fake") / PLAN
        more = {**json.loads(plan.read_text())["epochs"], "vision033-seed0-later": 14}
        write_whole(plan, json.dumps({**json.loads(plan.read_text()), "epochs": more}))
        os.utime(plan, (time.time() + 60,) * 2)
    assert "3.0/4 epochs" in terminal.getvalue() and "3.0/18 epochs" in terminal.getvalue()


def test_in_a_file_a_run_is_a_line_for_every_epoch(capsys):
    state = SimpleNamespace(is_world_process_zero=True, max_steps=40, global_step=10, epoch=2.0)
    run = SimpleNamespace(id="vision100-seed0-0123456789", report_progress=lambda *_: None)
    settings = SimpleNamespace(epochs=8)
    trainer = SimpleNamespace(run=run, state=state, settings=settings, keep_best=lambda _: None, epoch=2)
    progress = RunProgress(trainer)
    progress.show({**ROW, "epoch": 0.0})
    progress.on_train_begin(SimpleNamespace(num_train_epochs=8), state, None)
    progress.begun -= 100.0
    state.global_step = 20
    progress.show(ROW)
    said = capsys.readouterr()
    # Ten steps took 100 s, and twenty are left.
    assert said.out == "vision100-seed0-0123456789 epoch 3/8 ANLS 45.9 loss 0.94, 3 min left\n" and not said.err


def test_a_line_says_the_time_that_is_left_in_fitting_units():
    line = "vision100 epoch 3/8 ANLS 45.9 loss 0.94"
    for seconds, left in ((0, ""), (7, ", 7 s left"), (130, ", 2 min left"), (9000, ", 2.5 h left")):
        assert epoch_line("vision100", 8, ROW, seconds) == line + left


def test_a_run_is_named_as_short_as_no_other_run_is():
    runs = [
        "vision000-seed0-a",
        "vision100-seed0-b",
        "vision100-seed1-c",
        "vision100-seed1-d",
        "after000-vision100-seed0-e",
    ]
    assert [short(run, runs) for run in runs] == ["vision000", "vision100-seed0", *runs[2:4], "after000"]


def test_libraries_draw_no_bars_and_print_no_notes_of_their_own(tmp_path, capfd):
    """Loading weights, Writing model shards, Map, Casting, Creating parquet; `loss_type=None`."""
    model, processor = load_florence("data/florence2-tiny")
    ids = processor.tokenizer(["a"], return_tensors="pt").input_ids
    assert model(input_ids=ids, labels=ids).loss > 0
    model.save_pretrained(tmp_path)
    rows = Dataset.from_dict({"x": [1, 2]}).map(lambda row: {"y": row["x"]}).cast_column("x", Value("string"))
    rows.to_parquet(tmp_path / "rows.parquet")
    assert "".join(capfd.readouterr()) == ""
