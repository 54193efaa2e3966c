"""Tests are offline, keep out of the user's folders, and share one tiny data set and model."""

import copy
import gc
import os
import tempfile

# Imports make much that stays and nothing to collect.
gc.disable()

_SCRATCH = tempfile.mkdtemp(prefix="docfloqa-tests-")
# Set before any library reads them.
os.environ.update(
    DOCFLOQA_OUTPUT=f"{_SCRATCH}/output",
    HF_HOME=f"{_SCRATCH}/huggingface",
    HF_HUB_OFFLINE="1",
    HOME=_SCRATCH,
    IPYTHONDIR=f"{_SCRATCH}/ipython",
    JUPYTER_CONFIG_DIR=f"{_SCRATCH}/jupyter/config",
    JUPYTER_DATA_DIR=f"{_SCRATCH}/jupyter/data",
    JUPYTER_RUNTIME_DIR=f"{_SCRATCH}/jupyter/runtime",
    MPLBACKEND="agg",
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
)

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings as hypothesis_settings

# The process that hands out the tests has no need of torch, whose import would keep the others waiting: fixtures
# import what they use.
if TYPE_CHECKING:
    from datasets import DatasetDict

    from docfloqa.settings import Settings

hypothesis_settings.register_profile("docfloqa", deadline=None, derandomize=True, max_examples=50)
hypothesis_settings.load_profile("docfloqa")


# Files that take more than a minute begin first, so that processes end together.
LONGEST = (
    "test_study test_faults test_vision_cache test_robustness test_training test_trainer_settings test_arms "
    "test_paper_profile test_damage test_kills test_defaults test_stopped test_workers test_killed_worker "
    "test_benchmarks test_killed_processes"
).split()


# Folders of which all is `long`: `make test-long` runs it, and what is marked so elsewhere.
LONG = ("paper", "faults", "benchmarks")


# Before pytest chooses by marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in LONG:
            item.add_marker(pytest.mark.long)
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_collection_finish() -> None:
    # What the libraries have made stays: to look through it again takes half a second of every run.
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    shutil.rmtree(_SCRATCH, ignore_errors=True)


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder of the test's own."""
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path))
    return tmp_path


@pytest.fixture
def smoke() -> "Settings":
    from docfloqa.settings import Settings

    return Settings.profile("smoke")


@pytest.fixture(scope="session")
def dataset() -> "DatasetDict":
    from docfloqa.data.load import load_docvqa
    from docfloqa.settings import Settings

    return load_docvqa(Settings.profile("smoke"))


@pytest.fixture(scope="session")
def few(dataset) -> "DatasetDict":
    """Questions of every training page, two steps an epoch, and of most of the others: for whole runs."""
    from datasets import DatasetDict

    return DatasetDict(
        {
            split: dataset[split].select(range(0, len(dataset[split]), step))
            for split, step in (("train", 3), ("validation", 4))
        }
    )


@pytest.fixture(scope="session")
def third() -> "Settings":
    from docfloqa.settings import Settings

    return Settings.profile("smoke", vision_trainable=0.33, epochs=3)


@pytest.fixture(scope="session")
def undisturbed_third(third, few, tmp_path_factory) -> dict:
    """What a run of three epochs, on `few`, leaves that nothing disturbs."""
    from smoke_runs import of_interest, trainer_of

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("undisturbed")))
        return of_interest(trainer_of(third, few).fit())


@pytest.fixture(scope="session")
def loaded():
    from docfloqa.model.florence import load_florence

    return load_florence("data/florence2-tiny")


@pytest.fixture
def tiny(loaded):
    """The shipped model and its processor, the test's own."""
    return copy.deepcopy(loaded)
