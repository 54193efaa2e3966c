"""Bad input, hundreds of cases: no hang, no error from deep inside, no wrong number; a table of them at the end."""

import pytest
from bad_input import CLASSES
from bad_input.case import Tried, try_cases

EXAMPLES = 40  # of a class; some have several cases in one
FEWEST_CLASSES, FEWEST_CASES = 25, 1000
tried: dict[str, Tried] = {}


@pytest.mark.parametrize("bad", CLASSES, ids=[bad.name for bad in CLASSES])
def test_every_case_gives_what_it_must(bad):
    tried[bad.name] = Tried(wrong=1)
    tried[bad.name] = try_cases(bad, EXAMPLES)


def test_enough_classes_and_cases_were_tried(tell):
    rows = [(bad.name, bad.must, tried[bad.name]) for bad in CLASSES if bad.name in tried]
    if len(rows) < len(CLASSES):
        pytest.skip("only some classes were tried")
    cases, wrong = (sum(getattr(one, what) for *_, one in rows) for what in ("cases", "wrong"))
    head = "| bad input | must give | cases | wrong |\n| --- | --- | --- | --- |"
    lines = [f"| {name} | {must} | {one.cases} | {one.wrong} |" for name, must, one in rows]
    tell("\n".join([head, *lines, f"| all {len(rows)} classes | | {cases:,} | {wrong} |"]))
    assert len(rows) >= FEWEST_CLASSES and cases >= FEWEST_CASES and wrong == 0
