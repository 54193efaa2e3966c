"""Hours of the paper's study on one device, from what was measured there.

    python benchmarks/paper_hours.py reports/benchmarks/gpu

reads `throughput-base-<device>.json` of that folder, and where it is there `paper_step-<device>.json`, whose fastest
way of making a step then stands for the trainer's. Writes `paper_hours.md` and `.json` beside them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from docfloqa.arms import RATIOS
from docfloqa.data.schema import DOCVQA
from docfloqa.files import PROJECT, write_whole
from docfloqa.settings import Settings
from docfloqa.text import to_markdown

NOTE = (
    "Four ratios, one seed, one run after another: 8 epochs of 39,463 questions, 500 questions answered before and "
    "after each epoch and once on wrong pages, every page decoded once and its states computed once for each ratio. A "
    "ratio that was not measured counts as the next one above, so 33 % and 66 % as 100 %, which says too much. Left "
    "out are checkpoints, starting a process, shapes that come for the first time, answers longer than 16 tokens, and "
    "what surrounds the runs of a study, which says too little. No study was timed whole."
)


def paper_study_hours(
    parts: Sequence[Mapping], batching: str, question_seconds: Mapping[float, float] | None = None
) -> float:
    """Hours of the paper's study, from the parts that `throughput.py` measures.

    A ratio that is not among them counts as the next one above. `question_seconds` of some ratios stand for the
    trainer's time of a question where they are given. Raises `ValueError` where 100 % was not measured.
    """
    measured = sorted({part["vision_trainable"] for part in parts})
    if not measured or measured[-1] < 1:
        raise ValueError(f"ratios measured are {measured}; 1.0 must be among them, which bounds the others")
    return sum(
        _ratio_hours(
            [part for part in parts if part["vision_trainable"] == found],
            batching,
            (question_seconds or {}).get(found),
            decoded=place == 0,
        )
        for place, found in enumerate(next(one for one in measured if one >= ratio) for ratio in RATIOS)
    )


def _ratio_hours(parts: Sequence[Mapping], batching: str, question_seconds: float | None, decoded: bool) -> float:
    settings = Settings.profile("paper")
    questions, pages = DOCVQA["train"]
    steps = [part for part in parts if part["part"] == "training step"]
    [step] = [part for part in steps if part["batching"] == batching]
    [evaluation] = [part for part in parts if part["part"] == "evaluation"]
    seconds = settings.epochs * questions * (question_seconds or 1 / step["samples_per_second"])
    seconds += (settings.epochs + 2) * settings.validation_questions / evaluation["samples_per_second"]
    seconds += pages * step["states_seconds_per_page"]
    # Resized pages are shared by the ratios.
    seconds += pages * step["decoding_seconds_per_page"] if decoded else 0
    return seconds / 3600


def fastest(steps: Mapping) -> dict[float, tuple[str, float]]:
    """Of every ratio in a result of `paper_step.py`: the fastest way that gives eager's losses, and its seconds."""
    found = {}
    for ratio, measured in steps["ratios"].items():
        ways = {
            way["name"]: way["seconds_per_step"]
            for way in measured["tries"]
            if way.get("seconds_per_step") and way.get("same_loss")
        }
        if ways:
            found[float(ratio)] = min(ways.items(), key=lambda way: way[1])
    return found


def table(throughput: Mapping, steps: Mapping | None) -> pd.DataFrame:
    """A row for every batching and way of making a step, in hours."""
    parts = throughput["parts"]
    batchings = dict.fromkeys(part["batching"] for part in parts if part["part"] == "training step")
    rows = [
        {"batching": batching, "steps": "the trainer's", "hours": paper_study_hours(parts, batching)}
        for batching in batchings
    ]
    best = fastest(steps) if steps else {}
    if best and "uniform" in batchings:
        ways = "; ".join(f"{100 * ratio:.0f} %: {name}" for ratio, (name, _) in best.items())
        seconds = {ratio: one / steps["batch_size"] for ratio, (_, one) in best.items()}
        rows.append(
            {"batching": "uniform", "steps": f"by hand, {ways}", "hours": paper_study_hours(parts, "uniform", seconds)}
        )
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=PROJECT / "reports" / "benchmarks" / "gpu")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--model", choices=("tiny", "base"), default="base")
    arguments = parser.parse_args(argv)
    folder, device = arguments.folder, arguments.device
    throughput = json.loads((folder / f"throughput-{arguments.model}-{device}.json").read_text())
    steps = folder / f"paper_step-{device}.json"
    hours = table(throughput, json.loads(steps.read_text()) if steps.is_file() else None)
    machine = throughput["machine"]["name"]
    text = to_markdown(hours.assign(hours=hours["hours"].map("{:.2f}".format)))
    page = f"# Hours of the paper's study: {arguments.model} model, {machine}\n\n{text.strip()}\n\n{NOTE}\n"
    write_whole(folder / "paper_hours.md", page)
    write_whole(folder / "paper_hours.json", hours.to_json(orient="records", indent=2) + "\n")
    print(page)


if __name__ == "__main__":
    main()
