"""A sweep on this machine's workers, with runs that are made up; those of a cluster are in `tests/faults`."""

import subprocess
import time
from types import SimpleNamespace

import pytest
from distributed.scheduler import KilledWorker
from scattered import SETTINGS, interrupt_when, made_up_runs, names, plan, pretend, told

from docfloqa.exceptions import StudyError
from docfloqa.runs.run import Run, read_record
from docfloqa.study.cluster import Cluster
from docfloqa.study.kernels import Slot
from docfloqa.study.workers import LocalWorkers, make


@pytest.fixture
def local(monkeypatch):
    """Gives workers with two GPUs."""
    two = {"gpus": 2, "visible": ["0", "1"]}
    monkeypatch.setattr("docfloqa.study.workers.kernel_device", lambda *_: two)

    def workers(execute) -> LocalWorkers:
        opened = LocalWorkers(execute, None)
        opened.open(SETTINGS)
        return opened

    return workers


def test_a_run_that_loses_its_workers_is_failed_and_the_others_go_on_in_their_order(local, output, monkeypatch):
    plan(0)
    bad, follower, leader, other = runs = made_up_runs(4)
    monkeypatch.setattr(Run, "predecessor", property(lambda run: leader if run is follower else None))

    def refuse(run: Run, slot: Slot, kernel: str | None) -> None:
        if run is bad:
            raise KilledWorker(run.id, SimpleNamespace(address="tcp://nowhere"), 3)
        pretend(run, slot, kernel)

    with local(refuse) as workers:
        monkeypatch.setattr(workers, "lost", Cluster.lost)
        make(runs, workers, jobs=1)
    assert read_record(bad.folder)["error"].startswith("KilledWorker: ")
    assert names(told("ended")) == [leader.id, follower.id, other.id]


def test_an_interrupted_sweep_ends_its_kernels_only_and_begins_no_other_run(local, output, monkeypatch):
    plan(60)
    first, second, _ = runs = made_up_runs(3)
    interrupt_when(lambda: len(told("begun")) == 2, monkeypatch)
    started = time.monotonic()
    with subprocess.Popen(["sleep", "60"]) as no_kernel:
        with local(pretend) as workers, pytest.raises(KeyboardInterrupt):
            make(runs, workers)
        assert no_kernel.poll() is None
        no_kernel.kill()
    assert time.monotonic() - started < 50
    assert set(names(told("begun"))) == set(names(told("ended"))) == {first.id, second.id}


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr("docfloqa.study.cluster.PATIENCE", 1)
    with pytest.raises(StudyError, match=r"no dask scheduler answers at 'tcp://127.0.0.1:9'.*dask scheduler"):
        Cluster("tcp://127.0.0.1:9", pretend, None)
