"""What it costs to train without the `<s>` that decoding forces, on the tiny model, which has Florence-2's format.

    .venv/bin/python benchmarks/target_start.py

Florence-2 was trained on `<s> answer </s>` and forces `<s>` when it answers; so was the tiny model. It is fine-tuned
for one epoch, once with `<s>` in the labels and once without, as up to commit 65d95fb. Takes three minutes on one core.
Writes `reports/benchmarks/target_start.json` and `.md`.
"""

from __future__ import annotations

import json
import os
import tempfile

import pandas as pd
from datasets import DatasetDict

from docfloqa.data.load import load_docvqa
from docfloqa.files import PROJECT, write_whole
from docfloqa.model.device import use_device
from docfloqa.runs.run import git_commit, now
from docfloqa.settings import Settings
from docfloqa.text import to_markdown
from docfloqa.training.trainer import DocVQATrainer

FOLDER = PROJECT / "reports" / "benchmarks"
DOCUMENTS = 902  # neither the study's nor those of its development


def trainer(settings: Settings, dataset: DatasetDict, with_start: bool) -> DocVQATrainer:
    """The study's own trainer, whose labels may lack the `<s>` that the model's targets begin with."""
    made = DocVQATrainer(settings, dataset)
    if not with_start:
        for collator in (made.training_collator, made.validation_collator, made.control_collator):
            collator.labels = [label[1:] for label in collator.labels]
    return made


def main() -> None:
    """Fine-tune both ways, and write what came out."""
    use_device(threads=1)
    rows = []
    for with_start in (True, False):
        study = f"labels-{'with' if with_start else 'without'}-start"
        tuned = Settings.profile("embedded", study=study, synth_seed=DOCUMENTS, epochs=1, warmup_steps=0)
        run = trainer(tuned, load_docvqa(tuned), with_start).fit()
        for epoch in run.epochs().itertuples():
            rows.append(
                {
                    "labels": "<s> answer </s>" if with_start else "answer </s>",
                    "when": "before training" if not epoch.epoch else "after one epoch",
                    "ANLS (%)": round(100 * epoch.anls, 1),
                    "validation loss": round(epoch.val_loss, 2),
                }
            )
    about = {"command": "python benchmarks/target_start.py", "date": now()[:10], "commit": git_commit()}
    write_whole(FOLDER / "target_start.json", json.dumps(about | {"rows": rows}, indent=2) + "\n")
    table = to_markdown(pd.DataFrame(rows)).strip()
    page = [
        "# Labels with and without the `<s>` that decoding forces",
        f"`{about['command']}`, {about['date']}, commit {about['commit']}",
        "**Labels should begin with `<s>` where decoding forces it.** After one epoch ANLS is "
        f"{rows[1]['ANLS (%)']} % with it and {rows[3]['ANLS (%)']} % without; it was {rows[0]['ANLS (%)']} % before.",
        "The tiny model, one epoch, all of the vision encoder trained, learning rate 1e-3, one seed. Decoding forces "
        "`<s>` in both.",
        table,
    ]
    write_whole(FOLDER / "target_start.md", "\n\n".join(page) + "\n")
    print(table)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DOCFLOQA_OUTPUT"] = scratch
        main()
