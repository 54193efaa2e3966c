"""As many runs at a time as GPUs, or as cores, quota and memory allow."""

from types import SimpleNamespace

import pytest

from docfloqa.exceptions import SettingsError
from docfloqa.files import TINY_MODEL
from docfloqa.settings import Settings
from docfloqa.study import workers
from docfloqa.study.estimate import estimate
from docfloqa.study.kernels import Slot
from docfloqa.study.study import make_study
from docfloqa.study.sweep import sweep
from docfloqa.study.workers import available_memory, available_slots, cpu_quota, parameters

SETTINGS = Settings.profile("smoke")
EIGHT = {"gpus": 0, "cores": 8}
GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Eight cores and 64 GiB; control groups are what is written with the function that this gives."""
    monkeypatch.setattr(workers, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(workers, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(workers.psutil, "virtual_memory", lambda: SimpleNamespace(available=64 * GIB))

    def write(own: str, **files: str) -> None:
        (tmp_path / "own").write_text(own)
        for name, content in files.items():
            file = tmp_path / name.replace("__", "/").replace("_DOT_", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)

    return write


def count() -> int:
    found = available_slots(EIGHT, SETTINGS)
    assert set(found) == {Slot(None, 1)}
    return len(found)


def test_a_gpu_has_a_run_and_a_machine_without_limits_one_a_core(machine):
    two = {"gpus": 2, "visible": ["2", "GPU-5c27"], "cores": 64}
    assert available_slots(two, SETTINGS) == [Slot("2", None), Slot("GPU-5c27", None)]
    assert count() == 8
    assert len(available_slots({"gpus": 0, "cores": 3}, SETTINGS)) == 3


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/", {"cpu_DOT_max": "250000 100000"}, 2),
        ("0::/", {"cpu_DOT_max": "max 100000"}, 8),
        ("0::/", {"cpu_DOT_max": "50000 100000"}, 1),
        ("0::/a/b", {"a__b__cpu_DOT_max": "max 100000", "a__cpu_DOT_max": "300000 100000"}, 3),
        # Version 1, seen from inside a container that does not see its group's name.
        ("4:cpuacct,cpu:/gone", {"cpu__cpu_DOT_cfs_quota_us": "400000", "cpu__cpu_DOT_cfs_period_us": "100000"}, 4),
        ("4:cpu:/a", {"cpu__a__cpu_DOT_cfs_quota_us": "-1", "cpu__a__cpu_DOT_cfs_period_us": "100000"}, 8),
    ],
)
def test_the_quota_of_a_container_is_kept(own, files, cores, machine):
    machine(own, **files)
    assert count() == cores
    assert cpu_quota() >= 0.5


@pytest.mark.parametrize(
    ("own", "files", "gib"),
    [
        ("0::/", {"memory_DOT_max": str(5 * GIB), "memory_DOT_current": str(GIB)}, 4),
        ("0::/a/b", {"a__memory_DOT_max": str(3 * GIB), "a__b__memory_DOT_max": "max"}, 3),
        (
            "3:memory:/gone",
            {
                "memory__memory_DOT_limit_in_bytes": str(6 * GIB),
                "memory__memory_DOT_usage_in_bytes": str(5 * GIB),
                "memory__memory_DOT_stat": f"cache 7\ninactive_file 9\ntotal_inactive_file {2 * GIB}",
            },
            3,
        ),
        ("3:memory:/", {"memory__memory_DOT_limit_in_bytes": "9223372036854771712"}, 64),
    ],
)
def test_runs_fit_into_the_memory_of_a_container(own, files, gib, machine):
    machine(own, **files)
    assert available_memory() == gib * GIB
    # The tiny model's take a little more than one GiB each.
    assert count() == min(8, gib - 1)


def test_there_is_always_room_for_one_run(machine):
    machine("0::/", memory_DOT_max=str(GIB // 2), cpu_DOT_max="1000 100000")
    assert count() == 1


def test_a_larger_model_needs_more(machine, monkeypatch):
    assert parameters(str(TINY_MODEL)) == pytest.approx(2_455_712, rel=1e-3) and parameters("nobody/has-it") == 0
    monkeypatch.setattr(workers, "parameters", lambda _: 231_414_784)
    machine("0::/", memory_DOT_max=str(16 * GIB))
    assert count() == 3


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "2", True])
def test_jobs_that_are_no_number_of_runs_are_refused_before_any_work(jobs, output):
    for call in (make_study, sweep, estimate):
        with pytest.raises(SettingsError, match=r"jobs is .*; allowed is a whole number from 1 on"):
            call(SETTINGS, [0], [0], jobs=jobs)
