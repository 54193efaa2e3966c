"""Whatever a user can cause is one kind of error, and one sentence on the command line."""

import ast
import builtins
import errno
import inspect
import os
from pathlib import Path

import pytest

from docfloqa.cli import main
from docfloqa.files import PROJECT

SOURCES = {path: ast.parse(path.read_text()) for path in sorted((PROJECT / "lib").rglob("*.py"))}


def test_every_exception_of_the_library_is_one_that_a_user_can_cause():
    bases = {}
    for tree in SOURCES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {getattr(base, "id", getattr(base, "attr", "")) for base in node.bases}
    plain = {name for name, value in vars(builtins).items() if inspect.isclass(value) and issubclass(value, Exception)}

    def reaches(name: str, wanted: set[str]) -> bool:
        return name in wanted or any(reaches(base, wanted) for base in bases.get(name, ()))

    found = {name for name in bases if reaches(name, plain)} - {"DocFloQAError"}
    assert len(found) > 10 and {"SettingsError", "DivergedError", "ImportProblems", "PageError"} <= found
    assert {name for name in found if not reaches(name, {"DocFloQAError"})} == set()


def test_the_library_raises_its_own_errors_for_what_is_given_on_the_command_line():
    """Errors without a base of the library are left to functions that are called with Python values only."""
    plain = {}
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = getattr(node.exc.func, "id", "")
                if name in {"RuntimeError", "NotImplementedError", "SystemExit"}:
                    plain.setdefault(path.name, []).append(name)
    assert plain.keys() <= {"device.py"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora", "1e-7"], "lora is 1e-07"),
        (["--lora", "0.1", "--trained-before", "0"], "allowed is one of the two"),
        (["--learning-rate", "0"], "learning_rate is 0.0; allowed is a positive finite number"),
        (["--precision", "fp8"], "precision is 'fp8'; allowed are auto, fp32, bf16"),
        (["--synth-validation-documents", "1"], "has one document only"),
        (["--profile", "embeded"], "profile is 'embeded'; allowed are smoke, embedded, own, paper"),
        (["--model", "nowhere"], "model 'nowhere'"),
        (["--data", "nowhere"], "nowhere"),
        (["--ratio", "2"], "vision_trainable is 2.0; allowed is a number from 0 to 1"),
        (["--seed", "-1"], "seed is -1"),
        (["--name", "a/b"], "study is 'a/b'"),
    ],
)
def test_a_mistake_of_a_run_is_one_sentence(arguments, message, output, capsys):
    assert main(["run", "--profile", "smoke", *arguments]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert message in shown[-1] and "Traceback" not in shown


def test_a_folder_out_of_reach_is_one_sentence(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path / "file"))
    assert main(["run", "--profile", "smoke"]) == 2
    assert "is out of reach: Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize("why", [errno.EACCES, errno.EPERM, errno.EROFS])
@pytest.mark.parametrize("verb", ["run", "sweep", "estimate"])
def test_an_output_folder_that_cannot_be_written_to_is_told_with_the_way_out(why, verb, output, monkeypatch, capsys):
    make = Path.mkdir

    def refused(path, *args, **options):
        if path.is_relative_to(output):
            raise OSError(why, os.strerror(why), str(path))
        make(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", refused)
    assert main([verb, "--profile", "smoke"]) == 2
    [told] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    way_out = f"{os.strerror(why)}; set DOCFLOQA_OUTPUT to a folder that can be written to"
    assert str(output) in told and told.endswith(way_out)
