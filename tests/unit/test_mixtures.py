"""Mixtures of the designed shifts: written in one way, refused in one sentence, drawn between the ends."""

from collections import Counter

import pytest
from fake_study import write_study

from docfloqa.arms import choose_arms, shift_of
from docfloqa.data.load import load_docvqa
from docfloqa.data.synth.dataset import SMALL, draw_page, drawing_of, mixed, page_seed, synth_folder
from docfloqa.data.synth.small import CLEAN, LAYOUTS, NEW_LAYOUTS, WORN
from docfloqa.data.synth.vocabulary import KNOWN, NEW
from docfloqa.exceptions import SettingsError
from docfloqa.figures.study import equally_long
from docfloqa.report.tables import setup_table
from docfloqa.runs.run import identity
from docfloqa.settings import SHIFTS, Settings

HALF = Settings(synth_shift="content:1+input:.5")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        *((shift, shift) for shift in SHIFTS),
        *((f"{shift}:1", shift) for shift in SHIFTS),
        ("input:1.0+content:0", "input"),
        ("content:1+input:.5", "input:0.5+content:1"),
        ("input + layout", "input:1+layout:1"),
        ("content:1e-3", "content:0.001"),
        ("input:0", "input:0"),
        ("layout:0+content:0.0", "input:0"),
    ],
)
def test_a_mixture_is_written_in_one_way_and_makes_one_run(given, written):
    settings = Settings(synth_shift=given)
    assert settings.synth_shift == written == settings.replace(seed=1).synth_shift
    assert identity(settings, "w", "d") == identity(Settings(synth_shift=written), "w", "d")
    assert Settings.from_json(settings.to_json()) == settings


@pytest.mark.parametrize(
    "given",
    "pixels,input:2,input:-1,input:nan,input:inf,input:,:1,input:1_0,input+input,input+,+,input:0.5:1,input;1".split(
        ","
    ),
)
def test_any_other_text_is_refused_with_what_is_allowed(given):
    told = r"^synth_shift is '.*'; allowed are input, layout, content, or several of them, each once, with a strength "
    with pytest.raises(SettingsError, match=told + "from 0 to 1, as input:0.5"):
        Settings(synth_shift=given)
    with pytest.raises(SettingsError, match="did you mean layout"):
        Settings(synth_shift="layuot:0.5")


def parts_of(shift: str, documents: int = 300) -> list[tuple]:
    return [mixed(page_seed(shift, 1, "train", number), shift) for number in range(documents)]


def test_the_ends_are_what_the_three_shifts_are_drawn_with():
    assert all(parts == (CLEAN, KNOWN, LAYOUTS) for parts in parts_of("input:0"))
    for shift in SHIFTS:
        assert all(parts == SMALL[shift] for parts in parts_of(f"{shift}:1")), shift
    assert all(parts == (WORN, NEW, NEW_LAYOUTS) for parts in parts_of("input:1+layout:1+content:1"))


def test_shares_of_documents_rise_with_the_strength_and_none_goes_back():
    strengths = (0, 0.25, 0.5, 0.75, 1)
    for shift in SHIFTS:
        place, old = SHIFTS.index(shift), None
        for strength in strengths:
            parts = parts_of(f"{shift}:{strength}")
            clean = SMALL["content"][0].fonts, LAYOUTS, KNOWN
            seen = [(look.fonts, layouts, words)[place] is not clean[place] for look, words, layouts in parts]
            assert abs(sum(seen) / len(seen) - strength) < 0.08, (shift, strength)
            assert old is None or all(new >= before for new, before in zip(seen, old, strict=True))
            old = seen
            # The others stay as pretraining knows them.
            others = [name for name in SHIFTS if name != shift]
            known = {"input": 0, "content": 1, "layout": 2}
            assert all(one[known[other]] == SMALL[shift][known[other]] for one in parts for other in others)


def test_print_lies_between_clean_and_worn():
    half = CLEAN.towards(WORN, 0.5, fonts=False)
    assert half.fonts == CLEAN.fonts and CLEAN.towards(WORN, 0.5, fonts=True).fonts == WORN.fonts
    assert (half.paper, half.ink, half.noise, half.blur, half.stamp) == ((202, 252), (0, 70), 10.5, 0.3, 0.125)
    assert half.digit_width == CLEAN.digit_width and isinstance(half.offset, int)
    assert CLEAN.towards(WORN, 0.0, fonts=False) == CLEAN and CLEAN.towards(WORN, 1.0, fonts=True) == WORN


def test_mixtures_share_their_random_numbers_and_the_three_shifts_keep_theirs():
    assert page_seed("input:0", 1, "train", 0).random() == page_seed("input:0.5+content:1", 1, "train", 0).random()
    firsts = {page_seed(drawing, 1, "train", 0).random() for drawing in (*SHIFTS, "full", "input:0")}
    assert len(firsts) == 5
    kinds = Counter(draw_page(page_seed("layout:0.5", 1, "train", n), "layout:0.5", "train").kind for n in range(40))
    assert {*kinds} & {*LAYOUTS} and {*kinds} & {*NEW_LAYOUTS}


def test_a_mixture_is_a_data_set_of_its_own(output):
    settings = Settings.profile("smoke", synth_shift=HALF.synth_shift)
    assert drawing_of(settings) == "input:0.5+content:1"
    assert ":" not in synth_folder(settings, "train").name
    rows = load_docvqa(settings)
    again = load_docvqa(settings.replace(synth_shift="content+input:0.50"))
    assert rows["train"]["page"] == again["train"]["page"]
    assert set(rows["train"]["page"]).isdisjoint(load_docvqa(Settings.profile("smoke"))["train"]["page"])


def test_what_knows_the_three_names_takes_a_mixture(output):
    [side] = choose_arms(["side"], HALF)
    assert list(dict.fromkeys(shift_of(contrast.first) for contrast in side.contrasts)) == [HALF.synth_shift, *SHIFTS]
    [usual] = choose_arms(["side"], Settings(synth_shift="layout"))
    assert list(dict.fromkeys(shift_of(one.first) for one in usual.contrasts)) == ["layout", "input", "content"]
    for shift, told in {
        "layout": "drawn; their layout is new",
        "input:0": "drawn; as those of pretraining",
        "input:0.5+content:1": "drawn; new: input to 50 %, content to 100 %",
    }.items():
        study = write_study(f"s{len(told)}", synth_shift=shift, ratios=(0.0, 1.0), seeds=(0,), epochs=1)
        assert told in setup_table(study).loc["validation documents", "of every run"]
    mixed_study = write_study("arms", synth_shift=HALF.synth_shift, ratios=(0.0, 1.0), seeds=(0,), arms=("side",))
    assert "none" in set(equally_long(mixed_study)["variant"])
