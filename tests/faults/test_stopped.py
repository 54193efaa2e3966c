"""Studies and estimates that are stopped, and runs that fail or die, through the command line and real kernels."""

import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from docfloqa.files import NOTEBOOKS, reports_folder, runs_folder
from docfloqa.runs.run import read_record
from docfloqa.settings import Settings
from docfloqa.study.sweep import sweep


def test_runs_that_fail_or_die_are_told_and_the_others_go_on(output, monkeypatch, capfd):
    """One diverges, one dies at its beginning and then before it trains, one dies at its beginning only."""
    doctored = nbformat.read(NOTEBOOKS / "02_finetune.ipynb", as_version=4)
    [imports] = [cell for cell in doctored.cells if "from docfloqa.settings import" in cell.source]
    imports.source = (
        "import json, os, pathlib\nratio = json.loads(settings_json)['vision_trainable']\n"
        "mark = pathlib.Path(os.environ['DOCFLOQA_OUTPUT'], f'died-{ratio}')\n"
        "if ratio and not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), 9)\n" + imports.source
    )
    [training] = [cell for cell in doctored.cells if "trainer.fit()" in cell.source]
    training.source = training.source.replace(
        "run = trainer.fit()",
        "trainer.args.learning_rate = 1e-3 if ratio else 1e30\n"
        "if ratio == 0.33:\n    os.kill(os.getpid(), 9)\nrun = trainer.fit()",
    )
    nbformat.write(doctored, output / "02_finetune.ipynb")
    monkeypatch.setattr("docfloqa.study.kernels.NOTEBOOKS", output)
    runs = sweep(Settings.profile("smoke", study="failing", epochs=1), [0, 0.33, 0.66], [0])
    assert runs["status"].tolist() == ["failed", "failed", "complete"]
    assert "DivergedError: the training loss is" in runs["error"].iloc[0]
    assert "kernel died" in runs["error"].iloc[1]
    again = [line.split("-seed0")[0] for line in capfd.readouterr().out.splitlines() if "once more" in line]
    assert sorted(again) == ["vision033", "vision066"], "an error in a notebook would come again"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_is_stopped_ends_its_kernels_and_theirs(signum, output):
    command = ["study", "--profile", "smoke", "--name", "stopped", "--epochs", "1000", "--ratios", "0"]
    with (output / "log").open("w") as log:
        study = subprocess.Popen([sys.executable, "-m", "docfloqa", *command], stdout=log, stderr=log)
    while not [*runs_folder("stopped").glob("*/progress.json")]:
        assert study.poll() is None, (output / "log").read_text()
        time.sleep(0.2)
    kernels = psutil.Process(study.pid).children(recursive=True)
    study.send_signal(signum)
    code = study.wait(120)
    _, alive = psutil.wait_procs(kernels, timeout=20)
    assert len(kernels) >= 2 and not alive
    [folder] = runs_folder("stopped").iterdir()
    assert (code, read_record(folder)["status"]) == {
        signal.SIGINT: (130, "interrupted"),
        signal.SIGTERM: (130, "interrupted"),
        signal.SIGKILL: (-signal.SIGKILL, "running"),
    }[signum]
    log = (output / "log").read_text()
    assert "03_ablate ..." in log and "1 runs: " not in log, "bars are drawn in a terminal only"
    assert "Traceback" not in log
    assert not [*reports_folder("stopped").glob("*failed*")]


def test_a_calibration_ends_when_the_estimate_is_killed():
    """Otherwise it would go on for minutes, with nobody left to read it."""
    script = (
        "import time\n"
        "import os\n"
        "from docfloqa.study.kernels import in_own_process\n"
        "if __name__ == '__main__':\n"
        "    in_own_process(os.system, 'echo $PPID && sleep 600')\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as estimate:
        child = psutil.Process(int(estimate.stdout.readline()))
        estimate.kill()
    child.wait(timeout=30)
