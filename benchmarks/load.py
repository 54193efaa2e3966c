"""Memory against size: questions, distinct pages, questions of a validation, results of a study, runs of a sweep.

    .venv/bin/python benchmarks/load.py                     # everything: an hour on two cores
    .venv/bin/python benchmarks/load.py questions pages     # some of it, beside what was measured before

Pages are drawn (noise, which no format makes small), the model is the shipped tiny one, and what is measured is the
study's own code. Every size has a process and an output folder of its own; the runs of a sweep are one sweep, looked
at while it goes on. Writes `reports/benchmarks/load.json` and `load.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from datasets import Dataset
from PIL import Image

from docfloqa.analysis.tables import scores
from docfloqa.data.load import data_checksum, load_checked
from docfloqa.data.schema import FEATURES
from docfloqa.figures.data import counts, questions
from docfloqa.files import PROJECT, reports_folder, runs_folder, write_whole
from docfloqa.model.device import describe_device
from docfloqa.model.florence import load_florence
from docfloqa.runs.results import PLAN, Study
from docfloqa.runs.run import RECORD, git_commit, now, read_record
from docfloqa.settings import Settings
from docfloqa.study.sweep import plan, sweep
from docfloqa.text import to_markdown
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate
from docfloqa.training.vision_cache import cache_states

sys.path.append(str(PROJECT / "tests"))
from fake_study import write_study

PLACE = PROJECT / "reports" / "benchmarks" / "load.json"
SIZES = {
    "questions": (1_000, 10_000, 50_000),
    "pages": (500, 1_000, 3_000),
    "validation": (500, 2_000, 5_349),
    "results": (10, 30, 100),
    "runs": (100,),
}
WHAT = {
    "questions": "questions on 200 pages that are loaded, checked, summed, explored and tokenised",
    "pages": "pages of 600 x 800 px with a question each, with which the same is done and which are cached",
    "validation": "questions of one validation, on 200 pages, that are answered and scored",
    "results": "runs of one study, with 500 questions and 9 epochs each, whose answers are loaded and scored",
    "runs": "runs of one sweep: its process, and the largest of its kernels at the moment",
}
FEW_PAGES, SMALL, LARGE = 200, (160, 160), (600, 800)


class Memory:
    """The largest memory of this process in MiB while a block goes on, looked at often.

    Private memory is what the process has for itself: pages of files, which the system can drop at any time, are
    resident too.
    """

    def __init__(self, seconds: float = 0.02):
        self.seconds, self.process = seconds, psutil.Process()
        self.private = self.resident = 0.0
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.follow, daemon=True)

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.thread.join()

    def follow(self) -> None:
        """Look until the block ends."""
        while not self.ended.wait(self.seconds):
            self.look()

    def look(self) -> float:
        """Look once; the private memory of now in MiB."""
        info = self.process.memory_info()
        private = (info.rss - info.shared) / 2**20
        self.private, self.resident = max(self.private, private), max(self.resident, info.rss / 2**20)
        return private


def write_data(folder: Path, split: str, count: int, pages: int, size: tuple[int, int]) -> None:
    """Write so many questions on so many distinct pages as parquet files, a few thousand rows each."""
    rng = np.random.default_rng(0)
    images = {}
    for part, start in enumerate(range(0, count, 2000)):
        rows = []
        for place in range(start, min(start + 2000, count)):
            page = place * pages // count
            if page not in images:
                # A page's questions follow each other: the earlier ones are no longer needed.
                images = {page: noise(rng, size)}
            rows.append(
                {
                    "questionId": f"{split}-{place}",
                    "question": f"What is the total of invoice {place}, and on which date is it due?",
                    "question_types": ["table/list"],
                    "image": {"bytes": images[page], "path": f"{split}-{page}.jpg"},
                    "docId": page,
                    "ucsf_document_id": f"{split}-{page}",
                    "ucsf_document_page_no": "1",
                    "answers": [f"{place}.50", f"{place}.5"],
                    "data_split": split,
                }
            )
        Dataset.from_list(rows, features=FEATURES).to_parquet(folder / f"{split}-{part:05d}.parquet")


def noise(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A JPEG of coarse noise, unlike any other."""
    width, height = size
    content = BytesIO()
    coarse = rng.integers(0, 256, (height // 8, width // 8), dtype=np.uint8)
    Image.fromarray(coarse).resize(size).convert("RGB").save(content, "jpeg", quality=80)
    return content.getvalue()


def measure(what: str, size: int, folder: Path) -> dict[str, Any]:
    """Peak memory of this process for one size, in MiB, above what it had with library and model loaded."""
    small = what != "pages"
    pages = (FEW_PAGES, SMALL) if small else (size, LARGE)
    count = {"train": 20, "validation": 20}
    count["validation" if what == "validation" else "train"] = size
    for split, questions_of_split in count.items():
        write_data(folder, split, questions_of_split, min(questions_of_split, pages[0]), pages[1])
    settings = Settings.profile("smoke", data=str(folder), eval_batch_size=64)
    # A process of its own again, which has not drawn the data.
    command = [sys.executable, __file__, "--inside", what, "--settings", settings.to_json()]
    return run_inside(command)


def measure_results(runs: int) -> dict[str, Any]:
    """Peak memory of a process that loads every answer of a study of so many runs."""
    study = write_study("load", (1.0,), (0,), epochs=8, documents=125, questions=4)
    folder, [first] = reports_folder("load"), study.records
    record = read_record(folder / "runs" / first)
    for seed in range(1, runs):
        copied = folder / "runs" / f"{first}-{seed}"
        shutil.copytree(folder / "runs" / first, copied)
        settings = {**record["settings"], "seed": seed}
        (copied / RECORD).write_text(json.dumps({**record, "id": copied.name, "settings": settings}))
    plan = json.loads((folder / PLAN).read_text())
    plan["runs"] = [path.name for path in (folder / "runs").iterdir()]
    (folder / PLAN).write_text(json.dumps(plan))
    return run_inside([sys.executable, __file__, "--inside", "results"])


def load_results() -> dict[str, Any]:
    """Load and score every answer in this process and tell its memory and time."""
    started = time.perf_counter()
    with Memory() as memory:
        before = memory.look()
        study = Study.load("load")
        assert study.predictions["run"].nunique() == len(study.records)
        scores(study)
    return told(memory, before, started)


def told(memory: Memory, before: float, started: float) -> dict[str, Any]:
    """What a process tells of its memory (MiB) and time (s)."""
    return {
        "before_mib": before,
        "private_mib": memory.private,
        "resident_mib": memory.resident,
        "seconds": time.perf_counter() - started,
    }


def run_inside(command: list[str]) -> dict[str, Any]:
    """What a command prints as JSON in its last line."""
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def inside(what: str, settings: Settings) -> dict[str, Any]:
    """Do the work of a size in this process and tell its memory and time."""
    model, processor = load_florence(settings.model, settings.prefix)
    started = time.perf_counter()
    with Memory() as memory:
        before = memory.look()
        dataset, _ = load_checked(settings)
        data_checksum(dataset)
        if what == "validation":
            collator = QuestionCollator(dataset["validation"], model, processor, settings.prefix)
            scores = evaluate(model, collator, settings)
            assert len(scores) == len(dataset["validation"])
        else:
            counts(questions(dataset))
            collator = QuestionCollator(dataset["train"], model, processor, settings.prefix)
        if what == "pages":
            states, _ = cache_states({"train": collator.states}, model, 0, settings)
            for page in states["train"].names:
                states["train"].stack([page])
    return told(memory, before, started)


def measure_sweep(runs: int) -> list[dict[str, Any]]:
    """Memory of a sweep's process when 1, 2, 5, 10, ... of its runs are complete."""
    settings = Settings.profile("smoke", study="load", epochs=1, synth_documents=4)
    seeds = range(runs // 4)
    rows: list[dict[str, Any]] = []
    with Memory(1.0) as memory:
        before = memory.look()
        started = time.perf_counter()
        plan(settings, [0, 0.33, 0.66, 1], seeds)
        planned, look = memory.private, memory.look

        def look_too() -> float:
            private = look()
            made = len(list(runs_folder(settings.study).glob("*/finetune.ipynb")))
            if made > (rows[-1]["size"] if rows else 0):
                kernels = [run_memory(child) for child in memory.process.children()]
                rows.append(
                    {
                        "size": made,
                        "before_mib": before,
                        "planned_mib": planned,
                        "private_mib": private,
                        "kernels_mib": max(kernels, default=0.0),
                        "seconds": time.perf_counter() - started,
                    }
                )
            return private

        memory.look = look_too
        made = sweep(settings, [0, 0.33, 0.66, 1], list(seeds))
    assert (made["status"] == "complete").all(), made
    wanted = {1, 10, 25, 50, 75, runs}
    return [row for row in rows if row["size"] in wanted or row is rows[-1]]


def run_memory(process: psutil.Process) -> float:
    """Resident memory of a kernel in MiB; 0 where it has just ended."""
    try:
        return process.memory_info().rss / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def report(measured: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    parts = [
        "# Does memory grow with the data?\n",
        "`benchmarks/load.py`. Private memory is what a process has for itself, at its largest; *before* is "
        "what it had with library and model loaded. Pages of files, which the system drops when it needs the "
        "room, are not in it. Seconds are no benchmark: the machine did other work.\n",
    ]
    for what, part in measured["parts"].items():
        frame = pd.DataFrame(part["rows"])
        frame.insert(2, "grown_mib", frame["private_mib"] - frame["before_mib"])
        frame = frame.rename(columns={"size": what}).round(1)
        frame[what] = [f"{size:,}" for size in frame[what]]
        frame.columns = [name.replace("_mib", " (MiB)").replace("_", " ") for name in frame.columns]
        about = f"{part['device']}, {part['date']}, commit {part['commit']}"
        parts.append(f"## {what.capitalize()}\n\nOf {WHAT[what]} ({about}).\n\n{to_markdown(frame)}")
    return "\n".join(parts)


def main() -> None:
    """Measure what is asked for and write it beside what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(SIZES), help=f"among {', '.join(SIZES)}")
    parser.add_argument("--output", type=Path, default=PLACE, help="the JSON file")
    parser.add_argument("--sizes", nargs="*", type=int, help="in place of those of every part")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        results = arguments.inside == "results"
        found = load_results() if results else inside(arguments.inside, Settings.from_json(arguments.settings))
        print(json.dumps(found))
        return
    measured = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {"parts": {}}
    for what in arguments.parts:
        rows = []
        for size in arguments.sizes or SIZES[what]:
            with tempfile.TemporaryDirectory(prefix="docfloqa-load-") as folder:
                os.environ["DOCFLOQA_OUTPUT"] = folder
                if what == "runs":
                    rows += measure_sweep(size)
                    continue
                if what == "results":
                    rows.append({"size": size, **measure_results(size)})
                    continue
                data = Path(folder) / "given"
                data.mkdir()
                rows.append({"size": size, **measure(what, size, data)})
            print(what, rows[-1], file=sys.stderr)
        about = {"device": describe_device()["name"], "date": now()[:10], "commit": git_commit()}
        measured["parts"][what] = {**about, "rows": rows}
        write_whole(arguments.output, json.dumps(measured, indent=2))
        write_whole(arguments.output.with_suffix(".md"), report(measured))
    print(arguments.output.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
