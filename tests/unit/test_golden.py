"""Results change only together with the number that stands for them."""

import json
from pathlib import Path

import pytest
from golden import COMPUTE, FILE, trouble

from docfloqa import versions
from docfloqa.data import degradations

GOLDEN = json.loads(FILE.read_text())


def test_every_number_has_golden_values():
    numbers = {name for name in vars(versions) if name.isupper()}
    assert numbers == COMPUTE.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", COMPUTE)
def test_results_are_those_of_their_number(name, output):
    said = trouble(name, GOLDEN[name], COMPUTE[name]())
    assert said is None, said


def test_changed_results_name_the_number_to_raise(monkeypatch):
    unit, (_, *others) = degradations.SEVERITIES["blur"]
    monkeypatch.setitem(degradations.SEVERITIES, "blur", (unit, (0.9, *others)))
    said = trouble("DEGRADATIONS", GOLDEN["DEGRADATIONS"], COMPUTE["DEGRADATIONS"]())
    assert said == (
        "results have changed (blur 1) and DEGRADATIONS is still 1: raise DEGRADATIONS in lib/docfloqa/versions.py, "
        "then run .venv/bin/python tests/golden.py"
    )


def test_a_raised_number_asks_for_new_values(monkeypatch):
    monkeypatch.setattr(versions, "DRAWING", 3)
    said = trouble("DRAWING", GOLDEN["DRAWING"], GOLDEN["DRAWING"]["values"])
    assert said == "DRAWING is 3, golden.json is of 2: run .venv/bin/python tests/golden.py"


def test_moving_a_module_outdates_nothing():
    """No key of the library is made from its own text."""
    for path in Path(versions.__file__).parent.rglob("*.py"):
        assert "__file__).read_text" not in path.read_text(), path.name
