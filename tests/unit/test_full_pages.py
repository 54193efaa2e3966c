"""Full-size pages: reproducible, legible where their boxes say so, and right about what they state."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docfloqa.data.synth.canvas import Page
from docfloqa.data.synth.full import FULL_LAYOUTS, Sheet, draw, full_page, turn

SEEDS = range(24)
QUESTION_TYPES = {"form", "table/list", "layout", "free_text", "others"}


@pytest.fixture(scope="module")
def sheets() -> list[Sheet]:
    """Pages that are drawn, but not scanned."""
    return [draw(Random(seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    """The same pages, scanned."""
    return [full_page(Random(seed)) for seed in SEEDS]


def overlap(first: tuple, second: tuple) -> bool:
    return (
        min(first[2], second[2]) - max(first[0], second[0]) > 0.5
        and min(first[3], second[3]) - max(first[1], second[1]) > 0.5
    )


def overlaps(boxes: list[tuple]) -> list[tuple]:
    return [(one, other) for place, one in enumerate(boxes) for other in boxes[:place] if overlap(one, other)]


def amount(text: str) -> float:
    return float(text.strip("$%").replace(",", ""))


def values(page: Page) -> dict[str, str]:
    return {fact.key.subject: fact.value for fact in page.fields}


def check(page: Page) -> None:
    """What holds for every page."""
    width, height = page.image.size
    assert page.image.mode == "L" and page.kind in FULL_LAYOUTS
    assert 1000 <= width <= 1240 and 1.3 * width - 1 <= height <= 1.414 * width + 1
    assert len(page.fields) >= 6
    subjects = [fact.key.subject for fact in page.fields]
    assert len(set(subjects)) == len(subjects)
    grey = np.asarray(page.image, dtype=float)
    paper = np.median(grey)
    for fact in page.fields:
        assert fact.value
        for left, top, right, bottom in (fact.key_box, fact.value_box):
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            cut = grey[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
            # Shading alone makes a box darker than the paper, but never as dark as ink.
            assert cut.mean() < paper - 5 and cut.min() < paper - 70


def test_the_same_seed_draws_the_same_page(pages):
    for seed, page in zip(SEEDS[:6], pages, strict=False):
        again = full_page(Random(seed))
        assert again.image.tobytes() == page.image.tobytes() and again.fields == page.fields
    assert len({page.image.tobytes() for page in pages}) == len(pages)


def test_every_page_states_facts_where_its_boxes_are(pages):
    for page in pages:
        check(page)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_any_seed_draws_a_sound_page(seed):
    sheet = draw(Random(seed))
    check(sheet.scan())
    assert not overlaps(sheet.printed)


def test_boxes_hug_the_ink(pages):
    """Just above and below a line of running text there is paper."""
    page = next(page for page in pages if page.kind == "letter")
    grey = np.asarray(page.image, dtype=float)
    for fact in page.fields:
        if fact.key.question_type == "free_text":
            left, top, right, bottom = map(round, fact.value_box)
            columns = slice(left, right + 1)
            for row in (top - 4, bottom + 4):
                assert grey[row, columns].mean() > grey[top:bottom, columns].mean() + 20


def test_text_keeps_off_the_edges_and_off_other_text(sheets):
    for sheet in sheets:
        width, height = sheet.image.size
        for left, top, right, bottom in sheet.printed:
            assert left > 20 and top > 20 and right < width - 20 and bottom < height - 20
        assert not overlaps(sheet.printed)


def test_pages_are_dense(sheets):
    """A letter has at least 15 long lines of text, and every page at least 30 lines, labels or cells."""
    for sheet in sheets:
        assert len(sheet.printed) >= 30
        if sheet.kind == "letter":
            wide = [box for box in sheet.printed if box[2] - box[0] > 0.7 * (sheet.right - sheet.left)]
            assert len(wide) >= 15


def test_different_values_stand_in_different_places(pages):
    for page in pages:
        boxes = {fact.value_box: fact.value for fact in page.fields}
        assert len(boxes) == len(page.fields)
        assert not overlaps(list(boxes))


def test_totals_add_up(sheets):
    kinds = set()
    for sheet in sheets:
        stated = values(sheet)
        if sheet.kind == "table":
            columns = {subject.split(" for ")[0] for subject in stated if subject.endswith(" for Total")}
            assert 2 <= len(columns) <= 5
            for column in columns:
                cells = [amount(text) for subject, text in stated.items() if subject.startswith(f"{column} for ")]
                assert 7 <= len(cells) <= 26
                assert cells[-1] == pytest.approx(sum(cells[:-1]), abs=1e-6)
        elif sheet.kind == "invoice":
            goods = [subject.removeprefix("amount for ") for subject in stated if subject.startswith("amount for ")]
            assert len(goods) >= 4
            for article in goods:
                product = amount(stated[f"quantity of {article}"]) * amount(stated[f"unit price of {article}"])
                assert amount(stated[f"amount for {article}"]) == pytest.approx(product, abs=0.001)
            subtotal = sum(amount(stated[f"amount for {article}"]) for article in goods)
            assert amount(stated["subtotal"]) == pytest.approx(subtotal, abs=0.001)
            tax = subtotal * amount(stated["tax rate"]) / 100
            assert amount(stated["tax amount"]) == pytest.approx(tax, abs=0.006)
            total = amount(stated["subtotal"]) + amount(stated["tax amount"])
            assert amount(stated["total amount due"]) == pytest.approx(total, abs=0.001)
        kinds.add(sheet.kind)
    assert kinds == set(FULL_LAYOUTS)


def test_every_kind_of_question_is_there(pages):
    assert {fact.key.question_type for page in pages for fact in page.fields} == QUESTION_TYPES
    for page in pages:
        types = {fact.key.question_type for fact in page.fields}
        assert {"form", "layout"} <= types
        assert "free_text" in types or page.kind != "letter"
        assert ("table/list" in types) == (page.kind != "letter")


def test_some_pages_are_skewed_and_their_boxes_with_them(sheets, pages):
    moved = [
        max(
            abs(one - other)
            for before, after in zip(sheet.fields, page.fields, strict=True)
            for one, other in zip(before.value_box, after.value_box, strict=True)
        )
        for sheet, page in zip(sheets, pages, strict=True)
    ]
    # Half a diagonal of 1,075 pixels moves by at most 13 when it turns by 0.7 degrees.
    assert 0 in moved and 1 < max(moved) < 13.2


def test_turning_a_box():
    """A quarter turn counterclockwise carries the right edge of a square page to its top."""
    assert turn((80, 40, 90, 60), 90, (100, 100)) == pytest.approx((40, 10, 60, 20))
    left, top, right, bottom = turn((10, 10, 30, 20), 0.5, (1000, 1400))
    assert right - left > 20 and bottom - top > 10
