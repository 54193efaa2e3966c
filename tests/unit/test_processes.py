"""One run in several processes: the same questions in every step; `tests/faults` makes one."""

import pytest
from transformers import Seq2SeqTrainingArguments

from docfloqa.exceptions import SettingsError
from docfloqa.runs.run import Run
from docfloqa.training.arguments import training_arguments
from docfloqa.training.batches import NOTHING, EpochSampler

PAGES = [f"page{place // 3}" for place in range(17)]


def shares(sampler: EpochSampler, process: int) -> list[list[int]]:
    """What accelerate gives one of the processes: every so many-th batch of its size."""
    order, share = list(sampler), sampler.batch_size // sampler.processes
    batches = [order[start : start + share] for start in range(0, len(order), share)]
    return batches[process :: sampler.processes]


@pytest.mark.parametrize("batching", ["uniform", "by_image"])
def test_processes_share_the_batches_of_one(batching):
    alone = list(EpochSampler(PAGES, batching, seed=3))
    together = EpochSampler(PAGES, batching, 3, batch_size=8, processes=4)
    assert len(together) == len(list(together)) == 24
    parts = [shares(together, process) for process in range(4)]
    for step in range(3):
        batch = [place for part in parts for place in part[step] if place != NOTHING]
        assert batch == alone[8 * step : 8 * step + 8]
    assert [len(part) for part in parts] == [3, 3, 3, 3], "no process waits for a step that another one lacks"


def test_a_batch_that_processes_cannot_share_is_named(smoke, output, monkeypatch):
    monkeypatch.setattr(Seq2SeqTrainingArguments, "world_size", 4)
    with pytest.raises(SettingsError, match="batch_size is 6 and 4 processes share it; allowed is a multiple of 4"):
        training_arguments(smoke.replace(batch_size=6), Run("run", smoke))
