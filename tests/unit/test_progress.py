"""How far a sweep is, as it is told where nothing can be drawn over what was written."""

import os
import time

from fake_study import write_study

from docfloqa.files import reports_folder
from docfloqa.runs.results import PLAN
from docfloqa.study import monitor
from docfloqa.study.monitor import Watcher


def test_in_a_file_a_sweep_is_a_line_now_and_then(output, monkeypatch, capfd):
    """Redrawn every second, a study of hours left tens of thousands of lines in its log."""
    monkeypatch.setattr(monitor, "SECONDS", 0.01)
    monkeypatch.setattr(monitor, "SECONDS_OF_A_LINE", 0.5)
    write_study(ratios=(0.0, 1.0), seeds=(0,), epochs=2)
    with Watcher("fake", [2, 2]):
        # Of a plan that was there before nothing is said.
        os.utime(reports_folder("fake") / PLAN, (time.time() + 60,) * 2)
        time.sleep(1.2)
    lines = capfd.readouterr().err.split("\n")
    told = [line for line in lines if "2 runs: 100%" in line and "4.0/4 epochs" in line]
    assert 3 <= len(told) <= 6 and len(told) >= len(lines) - 3
    assert not any("\x1b" in line for line in lines), "no cursor is moved"
