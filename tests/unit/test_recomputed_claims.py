"""The claims of a study, recomputed as in `test_recomputed`: one family on two endpoints, with pooled seeds.

The study is made up, so that the recomputation is tried before a real one has claims.
"""

import json
from itertools import combinations

import pandas as pd
import pytest
from fake_study import write_study
from test_recomputed import Student, difference, holm, p_text

from docfloqa.analysis.contrasts import HEADLINE, contrasts, of_arm
from docfloqa.analysis.tables import contrast_table
from docfloqa.files import reports_folder, runs_folder
from docfloqa.settings import SHIFTS

ENDPOINTS = {"exact match": "exact_match", "ANLS": "anls"}
# What is compared under every shift, second − first; those with a name also between shifts.
COMPARED = {
    ("none", "all"): "all against nothing",
    ("stage 4", "stem"): "the stem against stage 4",
    ("none", "stem"): "",
    ("none", "stages 1 and 2"): "",
    ("none", "stage 4"): "",
}


def recomputed(answers: pd.DataFrame) -> dict[str, Student]:
    """Every claim by its name, from the test answers of all variants (columns variant, seed, ids and scores)."""
    found = {}
    for said, metric in ENDPOINTS.items():
        means = answers.pivot_table(metric, "variant", "seed")
        by_shift = {}
        for shift in SHIFTS:
            alike = means[means.index.str.startswith(f"{shift}: ")]
            for first, second in COMPARED:
                pair = f"{shift}: {first}", f"{shift}: {second}"
                sides = (answers[answers["variant"] == name] for name in pair)
                by_shift[shift, first, second] = difference(*sides, metric, alike)
                found[f"{said}: {pair[1]} − {pair[0]}"] = by_shift[shift, first, second]
        for (first, second), says in COMPARED.items():
            for here, there in combinations(SHIFTS, 2) if says else ():
                one, other = (by_shift[shift, first, second] for shift in (here, there))
                found[f"{said}, {says}: {here} − {there}"] = Student(
                    one.estimate - other.estimate, one.variances + other.variances, one.freedoms + other.freedoms
                )
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("claims")))
    yield write_study(
        arms=(HEADLINE,), seeds=(0, 1, 2), epochs=1, documents=12, questions=2, ability=(0.4, 0.3), test=(15, 3)
    )
    patch.undo()


def test_claims_are_those_of_the_test_answers(study):
    plan = json.loads((reports_folder(study.name) / "study.json").read_text())
    answers = pd.concat(
        pd.read_parquet(runs_folder(study.name) / run / "test_predictions.parquet").assign(
            variant=variant,
            seed=json.loads((runs_folder(study.name) / run / "run.json").read_text())["settings"]["seed"],
        )
        for variant, runs in plan["arms"][HEADLINE].items()
        for run in runs
    )
    shown, found = contrast_table(of_arm(study, HEADLINE)), recomputed(answers)
    assert {*shown.index} == {*found} and len(found) == 42
    found = {name: found[name] for name in shown.index}
    assert shown["difference [95 %]"].tolist() == [one.interval() for one in found.values()]
    assert shown["p (Holm)"].tolist() == [*map(p_text, holm([one.p for one in found.values()]))]
    assert shown["smallest shown"].tolist() == [one.smallest_shown() for one in found.values()]
    assert [one.name for one in contrasts(study)][:42] == [*found]
