"""The findings in a sentence each say what the tables say, and nothing of what is not made."""

import pytest
from fake_study import write_study

from docfloqa import arm_tables, tables
from docfloqa.arms import ARMS
from docfloqa.headlines import headlines


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("headlines")))
    yield write_study(arms=tuple(ARMS), epochs=2, documents=20, ability=(0.1, 0.7))
    patch.undo()


def test_every_figure_is_one_of_the_tables(study):
    how_much, protocol, part, question = headlines(study)
    for difference in tables.comparisons(study)["difference [95 %, one pair]"]:
        assert difference in how_much
    for name, sentence in (("cumulative", protocol), ("side", part), ("prefix", question)):
        table = arm_tables.arm_comparisons(study, name)["difference [95 %]"]
        wanted = (
            table[table.index.str.contains("input side, tensors less .*output|all less .*none")]
            if name == "side"
            else table
        )
        found = [difference for difference in wanted if difference in sentence]
        assert len(found) == len(wanted), sentence


def test_what_is_not_significant_is_said_not_to_be_told_from_none(study):
    sentence = headlines(study)[1]
    table = arm_tables.arm_comparisons(study, "cumulative")
    assert len(table) == 7
    for _, row in table.iterrows():
        clear = row["p (Holm)"].startswith("<") or float(row["p (Holm)"]) < 0.05
        assert (f"{row['difference [95 %]']} points (not told from none)" in sentence) != clear


def test_nothing_is_said_of_what_is_not_made(output):
    [only] = headlines(write_study("plain", epochs=1, ratios=(0.0, 1.0), documents=6))
    assert only.startswith("**How much**")
    assert headlines(write_study("one", epochs=1, ratios=(1.0,), documents=6)) == []
