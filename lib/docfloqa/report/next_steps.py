"""What a made study ends with: the report to open, and commands that use its models, whole and to be pasted."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from docfloqa.files import output_folder
from docfloqa.runs.results import Study


def next_steps(study: Study, files: Sequence[Path]) -> str:
    """Where the report's `files` are, and how the study's models are asked, shown, exported and scored.

    Exported, unless there are folds, is the run with the highest ANLS after any epoch of training.
    """
    best = study.epochs.loc[study.epochs.query("epoch > 0")["anls"].idxmax(), "run"]
    # A drawn page that ships, and what is right about it; of others' pages nobody knows a name here.
    page = ("docs/example.png", "What is the name of the writer?")
    asked = page if study.settings.data == "synth" else ("PAGE.png", "What is the total?")
    commands = {
        "every ratio's answer to a question about a page": ("ask", *asked, "--study", study.name),
        "the same in a browser": ("demo", "--name", study.name),
    }
    # The best of several folds would be that of the easiest documents, and each knows the others' pages.
    if not study.settings.folds:
        commands["the best model, for plain transformers"] = ("export", f"{study.name}/{best}", "my_model")
        commands["its models on bad scans and other documents"] = ("robustness", "--name", study.name)
    lines = [f"{command(*words)}  # {what}" for what, words in commands.items()]
    return "\n  ".join(["the report:", *map(str, files)]) + "\n\n" + "\n  ".join(["next:", *lines])


def command(*words: str) -> str:
    """A command of this project as it is typed in the present folder, with the folder of results that is in use."""
    script = Path(sys.executable).with_name("docfloqa")
    if not script.is_file():
        begin = [sys.executable, "-m", "docfloqa"]
    elif shutil.which("docfloqa") == str(script):
        begin = ["docfloqa"]
    else:
        begin = [os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)]
    output = f"DOCFLOQA_OUTPUT={shlex.quote(str(output_folder()))} " if os.environ.get("DOCFLOQA_OUTPUT") else ""
    return output + shlex.join([*begin, *words])
