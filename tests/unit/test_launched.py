"""What torchrun or a cluster's launcher has told a shell keeps nobody waiting but `docfloqa run`, which says so."""

import os

import accelerate
import pytest

from docfloqa.cli import main
from docfloqa.exceptions import StudyError
from docfloqa.model.device import use_device
from docfloqa.runs.run import Run
from docfloqa.study import kernels
from docfloqa.training import trainer

TORCHRUN = {
    **{"RANK": "1", "WORLD_SIZE": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "3"},
    **{"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
}
MPI = {"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1", "PMI_SIZE": "3", "MV2_COMM_WORLD_LOCAL_RANK": "0"}


@pytest.fixture(params=[TORCHRUN, MPI], ids=["torchrun", "mpi"])
def told(request, monkeypatch):
    """The variables of a launcher in this process's environment, and how many of them are left."""
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)
    return lambda: len(os.environ.keys() & request.param.keys())


def test_run_alone_of_all_verbs_hears_of_other_processes(told, output, monkeypatch):
    heard = []
    monkeypatch.setattr(
        trainer, "make_run", lambda settings: heard.append(told()) or Run("none", settings, writes=False)
    )
    assert main(["run", "--profile", "smoke"]) == 0 and heard == [told()] and told() >= 4
    assert main(["runs"]) == 0 and told() == 0


def test_no_kernel_of_a_study_hears_of_other_processes(told, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(kernels.papermill, "execute_notebook", lambda *_, **__: seen.append(told()))
    kernels.execute("02_finetune.ipynb", tmp_path / "part.ipynb", {})
    assert seen == [0]


def test_a_kernel_that_something_else_began_makes_its_run_alone(told):
    use_device(threads=1)
    assert told() == 0


def test_a_run_says_for_how_many_processes_it_waits_and_what_came_of_it(told, smoke, output, monkeypatch, capsys):
    def waits(cpu):
        raise RuntimeError("Timed out after 1801 seconds waiting for clients. 1/3 clients joined.")

    monkeypatch.setattr(accelerate, "PartialState", waits)
    with pytest.raises(StudyError, match=r"share this run, as .*=3.* did not come together .*1/3 clients.* torchrun"):
        trainer.make_run(smoke)
    said = capsys.readouterr().out
    assert said.startswith("waiting for the 3 processes that share this run, as ") and "=1" in said
