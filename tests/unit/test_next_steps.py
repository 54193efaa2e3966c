"""The commands with which a study ends do what they say when they are pasted."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

from fake_study import write_study
from typer.main import get_command

from docfloqa.cli import app
from docfloqa.files import reports_folder
from docfloqa.report.next_steps import command, next_steps
from docfloqa.runs.results import find_run


def test_a_study_ends_with_files_to_open_and_whole_commands(output):
    study = write_study("my_invoices", ability=(0.1, 0.8))
    files = [reports_folder("my_invoices") / "04_analyze.html"]
    text = next_steps(study, files)
    assert str(files[0]) in text.splitlines()[1]
    pasted = [shlex.split(line, comments=True) for line in text.partition("next:\n")[2].splitlines()]
    assert [words[2] for words in pasted] == ["ask", "demo", "export", "robustness"]
    for folder, program, verb, *arguments in pasted:
        assert folder == f"DOCFLOQA_OUTPUT={output}" and Path(program).is_file()
        # Raises for arguments that the verb does not take.
        taken = get_command(app).commands[verb].make_context(verb, arguments).params
        assert "my_invoices" in {taken.get("name"), taken.get("study"), str(taken.get("run")).split("/")[0]}
        if verb == "export":
            assert find_run(taken["run"]).settings.vision_trainable == 1


def test_models_of_folds_are_not_scored_on_bad_scans(output):
    study = write_study("my_folds", ability=(0.1, 0.8))
    study = replace(study, settings=study.settings.replace(folds=5, fold=1, data=str(output)))
    told = next_steps(study, [])
    assert "robustness" not in told and "export" not in told and "PAGE.png" in told and "example.png" not in told


def test_a_command_is_quoted_and_begins_as_it_is_typed_here(output, monkeypatch, tmp_path):
    script = tmp_path / "my env" / "bin" / "docfloqa"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(script.with_name("python")))
    monkeypatch.delenv("DOCFLOQA_OUTPUT")
    assert command("ask", "my page.png") == f"'{script}' ask 'my page.png'"
    monkeypatch.chdir(tmp_path)
    assert command("lab") == "'my env/bin/docfloqa' lab"
    monkeypatch.setenv("PATH", str(script.parent))
    assert command("lab") == "docfloqa lab"
    script.unlink()
    assert command("lab") == f"'{script.with_name('python')}' -m docfloqa lab"
