"""Small pages say what their fields claim, where they claim it, and differ under a shift in that alone."""

from random import Random

import numpy as np
import pytest

from docfloqa.data.synth.dataset import SMALL, draw_page
from docfloqa.data.synth.small import CLEAN, LAYOUTS, NEW_LAYOUTS, SMALL_PAGE_SIZE, WORN, SmallSheet, small_page
from docfloqa.data.synth.vocabulary import KNOWN, NEW, SIDES, TRAINED_WORDS, has_new_word
from docfloqa.pretraining.drawings import grid_page, strip

PAGES = [(shift, draw_page(Random(f"{shift}-{number}"), shift, "train")) for shift in SMALL for number in range(60)]
WORDS = KNOWN["training"]


def test_every_kind_is_drawn_under_every_shift():
    for shift, (_, _, layouts) in SMALL.items():
        assert {page.kind for name, page in PAGES if name == shift} == set(layouts)


def test_a_page_has_at_least_two_facts_and_its_words_are_counted():
    for _, page in PAGES:
        assert len(page.fields) >= 2, page.kind
        assert page.words >= sum(len(field.value.split()) for field in page.fields[:1])
        assert page.image.size == (SMALL_PAGE_SIZE, SMALL_PAGE_SIZE)


def test_a_value_stands_in_its_box():
    for _, page in PAGES:
        for field in page.fields:
            left, top, right, bottom = field.value_box
            inside = [letter for x, y, letter in page.characters if left <= x <= right and top <= y <= bottom]
            assert "".join(inside).startswith(field.value.replace(" ", "")), (page.kind, field)


def test_a_key_stands_in_its_box():
    for _, page in PAGES:
        for field in page.fields:
            if field.key_box != field.value_box:
                left, top, right, bottom = field.key_box
                inside = [letter for x, y, letter in page.characters if left <= x <= right and top <= y <= bottom]
                printed = field.key_text or field.key.label
                assert "".join(inside).removesuffix(":") == printed.replace(" ", ""), (page.kind, field)


def test_print_stays_on_the_page():
    texts = {kind: LAYOUTS[kind] for kind in ("letter", "memo")}
    wordy = [("input", small_page(Random(number), WORN, WORDS, texts)) for number in range(200)]
    for shift, page in PAGES + wordy:
        outside = [
            letter for x, y, letter in page.characters if not (0 <= x < SMALL_PAGE_SIZE and 0 <= y < SMALL_PAGE_SIZE)
        ]
        assert not outside, (shift, page.kind)


def test_ink_is_where_the_characters_are():
    sheet = SmallSheet(Random(3), CLEAN, WORDS, "form")
    box = sheet.put(20, "Total $12.50")
    grey = np.asarray(sheet.image)
    left, top, right, bottom = map(round, box)
    assert (grey[top:bottom, left:right] < sheet.paper - 60).mean() > 0.05
    assert (np.delete(grey, np.s_[top - 2 : bottom + 2], axis=0) == sheet.paper).all()


def test_a_shift_changes_what_it_says_and_nothing_else():
    assert {page.font for name, page in PAGES if name == "input"} == set(WORN.fonts)
    for shift in ("layout", "content"):
        assert {page.font for name, page in PAGES if name == shift} == set(CLEAN.fonts)
    assert not set(WORN.fonts) & set(CLEAN.fonts) and not set(LAYOUTS) & set(NEW_LAYOUTS)
    subjects = [{key.subject for side in SIDES for key in words[side].keys} for words in (KNOWN, NEW)]
    assert not subjects[0] & subjects[1]
    for part in (*MADE_UP, "titles"):
        known, new = ({word for side in SIDES for word in getattr(words[side], part)} for words in (KNOWN, NEW))
        assert not known & new, part


MADE_UP = ("people", "cities", "items", "companies")


@pytest.mark.parametrize("part", MADE_UP)
@pytest.mark.parametrize("words", [KNOWN, NEW])
def test_half_of_the_words_of_validation_and_test_are_in_no_document_of_pretraining_or_training(words, part):
    pretraining, training, held_out = (set(getattr(words[side], part)) for side in SIDES)
    assert training < pretraining and training < held_out and len(training) == TRAINED_WORDS
    assert len(held_out - training) == TRAINED_WORDS and not (held_out - training) & pretraining
    assert [has_new_word(word) for word in (*training, *(held_out - training))] == [False] * 300 + [True] * 300


def test_answers_of_a_split_have_the_words_of_its_side():
    told = {"train": [], "validation": []}
    for split, number in ((split, number) for split in told for number in range(60)):
        page = draw_page(Random(f"{split}-{number}"), "input", split)
        told[split] += [has_new_word(field.value) for field in page.fields]
    assert True not in told["train"] and {*told["train"]} == {False, None}
    words = [is_new for is_new in told["validation"] if is_new is not None]
    assert 0.4 < sum(words) / len(words) < 0.6
    assert [has_new_word(value) for value in ("12 May", "$3.50", "27C", "ORDER 10", "4711")] == [None] * 5


@pytest.mark.parametrize("look", [CLEAN, WORN])
def test_worn_pages_are_darker_and_noisier(look):
    pages = [np.asarray(small_page(Random(n), look, WORDS, LAYOUTS).image) for n in range(60)]
    # Half of a page or more is bare paper.
    paper = np.mean([np.median(page) for page in pages])
    noise = np.mean([np.median(np.abs(np.diff(page.astype(int)))) for page in pages])
    assert (noise < 5 and paper > 230) if look is CLEAN else (noise > 5 and paper < 225)


def test_grid_pages_are_on_the_grid():
    kinds = set()
    for number in range(40):
        page = grid_page(Random(number))
        kinds.add(page.kind)
        assert page.image.size == (SMALL_PAGE_SIZE, SMALL_PAGE_SIZE)
        assert len({round(x % 8, 3) for x, _, _ in page.characters}) == 1
    assert kinds == {"form", "receipt", "stack"}
    page, text, _ = strip(Random(0), spread=1.0)
    assert "".join(letter for *_, letter in page.characters) == text.replace(" ", "")
