"""A few cases of every class of bad input; `make test-faults` tries hundreds more."""

import pytest
from bad_input import CLASSES
from bad_input.case import try_cases

FEW = 3


@pytest.mark.parametrize("bad", CLASSES, ids=[bad.name for bad in CLASSES])
def test_a_few_cases_give_what_they_must(bad):
    assert try_cases(bad, FEW).cases >= 1
