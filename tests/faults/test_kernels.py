"""Kernels for real: those that papermill alone starts or that lack a GPU, and those that die, stand still or fail."""

import time
from pathlib import Path

import nbformat
import papermill
import pytest
import torch
from papermill.exceptions import PapermillExecutionError

from docfloqa.exceptions import StudyError
from docfloqa.files import NOTEBOOKS, runs_folder
from docfloqa.runs.run import read_record
from docfloqa.settings import Settings
from docfloqa.study import kernels as execution
from docfloqa.study.kernels import execute
from docfloqa.study.sweep import sweep

NOTICED_WITHIN = 15.0  # seconds, on a machine that does more


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Writes a notebook of one cell, which counts its executions in a file."""
    monkeypatch.setattr(execution, "NOTEBOOKS", tmp_path)

    def write(source: str) -> str:
        count = f"from pathlib import Path\nimport os, signal, time\nhere = Path({str(tmp_path)!r})\n"
        count += "with (here / 'times').open('a') as file:\n    print(time.time(), file=file)\n"
        count += "times = (here / 'times').read_text().split()\n"
        cell = nbformat.v4.new_code_cell(count + source)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "one.ipynb")
        return "one.ipynb"

    return write


def executions(folder: Path) -> list[float]:
    return [*map(float, (folder / "times").read_text().split())]


def test_a_kernel_that_stands_still_is_stopped_and_gets_a_second_chance(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(execution, "STALLED_AFTER", 30.0)
    # A stopped process neither answers nor handles any signal but SIGKILL.
    still = notebook("if len(times) == 1:\n    os.kill(os.getpid(), signal.SIGSTOP)")
    execute(still, tmp_path / "part.ipynb", {}, progress=tmp_path / "progress.json")
    assert len(executions(tmp_path)) == 2
    assert "the kernel was stopped, for it had not moved for 30 s; once more" in capsys.readouterr().out


def test_a_kernel_that_works_for_long_is_left_alone(notebook, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "STALLED_AFTER", 30.0)
    slow = notebook("for _ in range(40):\n    time.sleep(1)\n    (here / 'progress.json').write_text('')")
    execute(slow, tmp_path / "part.ipynb", {}, progress=tmp_path / "progress.json")
    assert len(executions(tmp_path)) == 1


def test_a_dead_kernel_is_noticed_within_seconds_and_tried_once_more(notebook, tmp_path, tell):
    with pytest.raises(StudyError, match="the kernel died"):
        execute(notebook("os.kill(os.getpid(), signal.SIGKILL)"), tmp_path / "part.ipynb", {})
    died = executions(tmp_path)
    noticed = time.time() - died[-1]
    tell(f"a dead kernel was noticed after {noticed:.1f} s")
    assert len(died) == 2 and noticed < NOTICED_WITHIN


def test_an_error_is_not_tried_again(notebook, tmp_path):
    with pytest.raises(PapermillExecutionError, match="of our own"):
        execute(notebook("raise ValueError('of our own')"), tmp_path / "part.ipynb", {})
    assert len(executions(tmp_path)) == 1


def test_papermill_alone_makes_a_run(output):
    written = output / "run.ipynb"
    papermill.execute_notebook(
        NOTEBOOKS / "02_finetune.ipynb",
        written,
        {
            "profile": "smoke",
            "vision_trainable": 0.66,
            "study": "by-hand",
            "settings_json": '{"epochs": 1, "train_questions": 8}',
            "threads": 1,
        },
        kernel_name="python3",
        progress_bar=False,
        cwd=NOTEBOOKS,
    )
    [folder] = runs_folder("by-hand").iterdir()
    assert folder.name.startswith("vision066-seed0-") and read_record(folder)["status"] == "complete"


def test_the_paper_profile_stops_on_a_cpu_when_its_kernel_is_asked(output):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(StudyError, match=r"NoGPUError: this run wants a GPU.*ALLOW_CPU=1.*make estimate"):
        sweep(Settings.profile("paper", data="synth", model="data/florence2-tiny"), [0], [0])
