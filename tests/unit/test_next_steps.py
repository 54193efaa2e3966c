"""The commands with which a study ends do what they say when they are pasted."""

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from fake_study import write_study
from typer.main import get_command

from docfloqa.cli import app
from docfloqa.files import reports_folder
from docfloqa.report.findings import next_steps, program, to_do
from docfloqa.runs.results import find_run


def test_a_study_ends_with_files_to_open_and_whole_commands(output):
    study = write_study("my_invoices", ability=(0.1, 0.8))
    files = [reports_folder("my_invoices") / "04_analyze.html"]
    text = next_steps(study, files)
    assert str(files[0]) in text.splitlines()[1]
    pasted = [shlex.split(command) for command in re.findall(r"`(.*?)`", text)]
    assert [words[2] for words in pasted] == ["ask", "export"]
    for folder, begin, verb, *arguments in pasted:
        assert folder == f"DOCFLOQA_OUTPUT={output}" and Path(begin).is_file()
        # Raises for arguments that the verb does not take.
        taken = get_command(app).commands[verb].make_context(verb, arguments).params
        assert "my_invoices" in {taken.get("study"), str(taken.get("run")).split("/")[0]}
    assert find_run(taken["run"]).settings.vision_trainable == 1


def test_of_pages_of_ones_own_no_name_is_known(output):
    study = write_study("my_pages", ability=(0.1, 0.8))
    study = replace(study, settings=study.settings.replace(data=str(output)))
    told = next_steps(study, [])
    assert "PAGE.png" in told and "example.png" not in told


def test_folds_are_proposed_only_where_they_are_taken(output):
    few = write_study("few", documents=4)
    assert "--folds 5 --name few-folds" in to_do(few)
    for further in ({"arms": ("prefix",)}, {"test": (4, 2)}, {"validation_questions": 5}):
        assert to_do(write_study(f"few-{min(further)}", documents=4, **further)) == "Next: label more documents."


def test_the_program_is_quoted_and_begins_as_it_is_typed_here(output, monkeypatch, tmp_path):
    script = tmp_path / "my env" / "bin" / "docfloqa"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    monkeypatch.delenv("DOCFLOQA_OUTPUT")
    assert program() == f"'{script}'"
    monkeypatch.chdir(tmp_path)
    assert program() == "'my env/bin/docfloqa'"
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "docfloqa"
    script.unlink()
    assert program() == f"'{script.with_name('python')}' -m docfloqa"
