"""A sweep on several workers: a real scheduler and workers in their own processes, and runs that are made up."""

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from distributed import Client
from ipykernel.kernelspec import install
from loopback import scheduler
from scattered import SETTINGS, interrupt_when, made_up_runs, names, plan, pretend, told, until

from docfloqa.analysis.robustness import scored
from docfloqa.cli import main
from docfloqa.exceptions import StudyError
from docfloqa.files import NOTEBOOKS, reports_folder
from docfloqa.runs.results import Study
from docfloqa.study import study as study_module
from docfloqa.study.cluster import Cluster
from docfloqa.study.workers import make


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """The address of a scheduler, and a function that starts a worker; they see the same files as the tests."""
    folder = tmp_path_factory.mktemp("cluster")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(folder))
        # Where this module is, which holds the made-up run; the library is imported from where it is here.
        folders = [Path(__file__).parents[1], *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
        with scheduler(folder) as started:
            yield started


@pytest.fixture
def cluster(started):
    """As `started`, without workers and words of another test."""
    address, start = started
    processes = []

    def worker(*arguments: str, **environment: str) -> subprocess.Popen:
        processes.append(start(*arguments, **environment))
        return processes[-1]

    yield address, worker
    for process in processes:
        process.kill()
        process.wait()
    for what in ("begun", "ended"):
        (reports_folder(SETTINGS.study) / what).unlink(missing_ok=True)
    with Client(address, set_as_default=False) as client:
        until(lambda: not client.scheduler_info()["workers"])


def test_a_killed_workers_run_is_made_elsewhere_and_every_run_once(cluster, capsys):
    plan(1.0)
    address, worker = cluster
    runs = made_up_runs(7)
    with Cluster(address, pretend, None) as workers:
        workers.open(SETTINGS)
        threads = {"0": 1, "1": 1, "2": 4}
        processes = {gpu: worker("--nthreads", str(count), CUDA_VISIBLE_DEVICES=gpu) for gpu, count in threads.items()}
        until(lambda: workers.capacity() == 3)

        def kill() -> None:
            until(lambda: told("begun"))
            os.kill(told("begun")[0]["worker"], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        make(runs, workers)
        killer.join()
    begun, ended = told("begun"), told("ended")
    assert sorted(names(ended)) == sorted(run.id for run in runs), "every run has ended, and once"
    assert sorted(names(begun)) == sorted([begun[0]["run"], *names(ended)]), "only the lost one was begun again"
    [again] = [line for line in begun[1:] if line["run"] == begun[0]["run"]]
    assert again["worker"] != begun[0]["worker"]
    for line in begun:
        assert line["worker"] == processes[line["gpu"]].pid and line["threads"] == threads[line["gpu"]]
    for process in processes.values():
        spans = sorted((line["time"], line["run"]) for line in (*begun, *ended) if line["worker"] == process.pid)
        together = [first[1] == second[1] for first, second in zip(spans[::2], spans[1::2], strict=False)]
        assert all(together), "one run at a time, though a worker has several threads"
    said = capsys.readouterr().out
    assert "waiting for workers" in said and "is gone; its run goes on elsewhere, 2 are left" in said


def test_workers_are_counted_though_the_clients_cache_has_none(cluster, monkeypatch):
    """The client's own update empties it every two seconds: on a busy machine every worker was gone for a moment."""
    plan(0)
    address, worker = cluster
    worker()
    with Cluster(address, pretend, None) as workers:
        workers.open(SETTINGS)
        until(lambda: workers.capacity() == 1)
        update = workers.client._update_scheduler_info

        async def emptied(**_) -> None:
            await update(n_workers=0)

        monkeypatch.setattr(workers.client, "_update_scheduler_info", emptied)
        assert not workers.client.scheduler_info()["workers"] and workers.capacity() == 1


def test_workers_with_other_code_or_other_files_are_named_before_any_work(cluster, tmp_path, monkeypatch):
    plan(0)
    address, worker = cluster
    worker()
    elsewhere = worker(DOCFLOQA_OUTPUT=str(tmp_path))
    with Cluster(address, pretend, None) as workers:
        workers.client.wait_for_workers(2, timeout=120)
        with pytest.raises(StudyError, match=r"worker tcp://.* does not see the plan .*share one file system"):
            workers.open(SETTINGS)
        elsewhere.kill()
        until(lambda: len(workers.client.scheduler_info()["workers"]) == 1)
        monkeypatch.setattr("docfloqa.study.cluster.git_commit", lambda: "0123456789")
        with pytest.raises(StudyError, match=r"the project's commit is \S+ there and 0123456789 here"):
            workers.open(SETTINGS)


def test_an_interrupted_sweep_ends_its_kernels_on_the_workers(cluster, monkeypatch):
    runs = made_up_runs(2)
    plan(60)
    address, worker = cluster
    worker()
    worker()
    with Cluster(address, pretend, None) as workers:
        workers.open(SETTINGS)
        until(lambda: workers.capacity() >= 2)
        started = time.monotonic()
        interrupt_when(lambda: {run.id for run in runs} <= set(names(told("begun"))), monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            make(runs, workers)
    assert time.monotonic() - started < 50
    assert {run.id for run in runs} <= set(names(told("ended")))


def test_a_study_whose_runs_only_workers_can_make_is_swept_once(output, monkeypatch, tmp_path_factory):
    """Swept again on the head node, which lacks what the runs need, it ended with 2 after every run was made."""
    there = tmp_path_factory.mktemp("workers")
    install(user=False, prefix=str(there), kernel_name="only-there")
    executed, execute = [], study_module.execute

    def only_the_sweep(notebook, part, parameters, **options):
        executed.append(notebook)
        if notebook == "03_ablate.ipynb":
            execute(notebook, part, parameters, **options)
        else:
            shutil.copy(NOTEBOOKS / notebook, part)

    monkeypatch.setattr(study_module, "execute", only_the_sweep)
    monkeypatch.setattr(study_module, "export", lambda notebook: [])
    with scheduler(there) as (address, worker):
        worker(JUPYTER_PATH=str(there / "share" / "jupyter"))
        settings = ["--profile", "smoke", "--name", "scattered", "--epochs", "1", "--ratios", "0"]
        assert main(["study", *settings, "--kernel", "only-there", "--scheduler", address, "--jobs", "1"]) == 0
    assert sorted(executed) == ["01_explore_data.ipynb", "03_ablate.ipynb", "04_analyze.ipynb"]
    assert len(Study.load("scattered").runs) == 1
    # Its one model is scored for real, too, by processes of a kernel.
    monkeypatch.setattr(study_module, "execute", execute)
    assert main(["robustness", "--name", "scattered", "--cross", "layout"]) == 0
    assert set(scored(Study.load("scattered"))) == {"robustness", "cross-layout"}
