"""What a made study ends with: the report to open, and commands that use its models, whole and to be pasted."""

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from docfloqa.files import output_folder
from docfloqa.report.findings import to_do
from docfloqa.runs.results import Study


def next_steps(study: Study, files: Sequence[Path]) -> str:
    """Where the report's `files` are, how the study's models are asked, and what is to be done next."""
    # A drawn page that ships, and what is right about it; of others' pages nobody knows a name here.
    drawn = study.settings.data == "synth"
    page = ("docs/example.png", "What is the name of the writer?") if drawn else ("PAGE.png", "What is the total?")
    ask = shlex.join(["docfloqa", "ask", *page, "--study", study.name])
    told = f"Every ratio's answer to a question about a page: `{ask}`.\n{to_do(study)}"
    return "\n  ".join(["the report:", *map(str, files)]) + "\n\n" + told.replace("`docfloqa ", f"`{program()} ")


def program() -> str:
    """The program as it is typed in the present folder, with the folder of results that is in use."""
    script = Path(sys.executable).with_name("docfloqa")
    if not script.is_file():
        begin = [sys.executable, "-m", "docfloqa"]
    elif shutil.which("docfloqa") == str(script):
        begin = ["docfloqa"]
    else:
        begin = [os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)]
    output = f"DOCFLOQA_OUTPUT={shlex.quote(str(output_folder()))} " if os.environ.get("DOCFLOQA_OUTPUT") else ""
    return output + shlex.join(begin)
