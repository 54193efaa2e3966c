"""One run in several processes: the same questions in every step, and the loss curve of one process."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from transformers import Seq2SeqTrainingArguments

from docfloqa.exceptions import SettingsError
from docfloqa.files import runs_folder
from docfloqa.runs.run import Run, read_record
from docfloqa.settings import Settings
from docfloqa.training.arguments import training_arguments
from docfloqa.training.batches import NOTHING, EpochSampler
from docfloqa.training.trainer import make_run

PAGES = [f"page{place // 3}" for place in range(17)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
# 17 questions in batches of 8: in the last one of each epoch a process has no question.


def options(settings: dict) -> list[str]:
    """Settings as the command line takes them."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


FEW = {"train_questions": 17, "validation_questions": 8, "epochs": 1, "vision_trainable": 0.33}


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


def test_two_processes_have_the_loss_curve_of_one(output):
    command = [*TORCHRUN, "2", "-m", "docfloqa", "run", "--profile", "smoke", "--name", "two", "--ratio", "0.33"]
    command += ["--json", *options({name: FEW[name] for name in list(FEW)[:3]})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["status"] == "complete", "one process tells"
    one = make_run(Settings.profile("smoke", study="one", **FEW))
    assert told["run"] == one.id, "how many processes make it does not make it another run"
    two = runs_folder("two") / one.id
    assert [read_record(folder)["processes"] for folder in (one.folder, two)] == [1, 2]
    curves = [pd.read_csv(folder / "epochs.csv") for folder in (one.folder, two)]
    for column in ("train_loss", "val_loss"):
        assert curves[0][column].tolist() == pytest.approx(curves[1][column].tolist(), abs=1e-5, nan_ok=True)
    answers = [pd.read_parquet(folder / "predictions.parquet") for folder in (one.folder, two)]
    assert answers[0]["question_id"].equals(answers[1]["question_id"])
    before = [frame.query("epoch == 0") for frame in answers]
    pd.testing.assert_frame_equal(*before, check_exact=True)
    assert {path.name for path in one.folder.iterdir()} == {path.name for path in two.iterdir()}
