"""The findings in a sentence each say what the tables say, and nothing of what is not made."""

import pytest
from fake_study import write_study

from docfloqa.analysis import arm_tables, tables
from docfloqa.arms import ARMS
from docfloqa.report.headlines import headlines


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("headlines")))
    yield write_study(arms=tuple(ARMS), epochs=2, documents=20, ability=(0.1, 0.7))
    patch.undo()


def test_every_figure_is_one_of_the_tables(study):
    how_much, protocol, part, question = headlines(study)
    for pair, difference in tables.comparisons(study)["difference [95 %, one pair]"].items():
        told = pair.endswith("less 0 %") or pair == "100 % less 66 %"
        assert (f"{difference} points" in how_much) == told, pair
    interactions = arm_tables.arm_interactions(study, "side")["difference [95 %]"]
    ends = interactions.index.str.contains("output side: input less")
    wanted = {
        protocol: contrasts(
            study,
            "cumulative",
            "^66 %, after.* less 0 %, fresh|^100 %, after|after 0 % and 33 % and 66 %$|epochs less",
        ),
        part: [
            *contrasts(study, "side", "input side, tensors less .*output|: all less .*none"),
            *interactions[ends],
        ],
        question: contrasts(study, "prefix", ""),
    }
    for (sentence, differences), count in zip(wanted.items(), (4, 8, 3), strict=True):
        assert len(differences) == count
        for difference in differences:
            assert difference in sentence


def contrasts(study, arm: str, named: str) -> list[str]:
    table = arm_tables.arm_comparisons(study, arm)["difference [95 %]"]
    return list(table[table.index.str.contains(named)])


def test_what_is_not_significant_is_called_so(study):
    sentence = headlines(study)[1]
    table = arm_tables.arm_comparisons(study, "cumulative")
    said = table[[f"{difference} points" in sentence for difference in table["difference [95 %]"]]]
    assert len(said) >= 4
    for _, row in said.iterrows():
        clear = row["p (Holm)"].startswith("<") or float(row["p (Holm)"]) < 0.05
        assert (f"{row['difference [95 %]']} points (not significant)" in sentence) != clear


def test_nothing_is_said_of_what_is_not_made(output):
    [only] = headlines(write_study("plain", epochs=1, ratios=(0.0, 1.0), documents=6))
    assert only.startswith("**How much**")
    assert headlines(write_study("one", epochs=1, ratios=(1.0,), documents=6)) == []
