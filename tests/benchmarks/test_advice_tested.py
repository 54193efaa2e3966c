"""How the advice before training is judged: on made-up gains whose answers are known."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study

from docfloqa.analysis.advice import ALL, INPUT_SIDE, NONE
from docfloqa.arms import STRENGTHS, cell
from docfloqa.files import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import advice_tested


def test_rank_correlation_is_over_all_rows_and_its_interval_over_settings():
    few = pd.DataFrame({"setting": list("abc"), "predicted": [1, 2, 3], "measured": [10.0, 30, 20]})
    found = advice_tested.rank_correlation(few)
    assert found.estimate == pytest.approx(0.5) and np.isnan([found.low, found.high]).all()
    # In every setting both rows are in order, so whichever are drawn.
    rows = [(name, sign * place, place + 10.0 * sign) for place, name in enumerate("abcdefg", 1) for sign in (1, -1)]
    ordered = pd.DataFrame(rows, columns=["setting", "predicted", "measured"])
    assert advice_tested.rank_correlation(ordered).estimate == pytest.approx(1 - 6 * 112 / (14 * 195))
    same = ordered.assign(measured=ordered["predicted"] ** 3)
    assert vars(advice_tested.rank_correlation(same)) == pytest.approx({"estimate": 1, "low": 1, "high": 1})
    # Shares out of the same draws whenever it is asked.
    assert advice_tested.rank_correlation(ordered) == advice_tested.rank_correlation(ordered)


MEASURED = pd.DataFrame(
    [
        (s, p, g)
        for s, gains in {"a": (0, 5, 12), "b": (0, 2, -3)}.items()
        for p, g in zip(("none", "stem", "all"), gains, strict=True)
    ],
    columns=["setting", "parts", "gain"],
)


def test_regret_is_measured_against_the_best_of_a_setting():
    chosen = pd.DataFrame({"setting": ["a", "b"], "policy": "rule", "parts": ["stem", "stem"]})
    regrets = advice_tested.regret(MEASURED, chosen)
    by_policy = regrets.pivot(index="setting", columns="policy", values="regret").to_dict("index")
    assert by_policy == {
        "a": {"rule": 7, "always all": 0, "always none": 12},
        "b": {"rule": 0, "always all": 5, "always none": 2},
    }
    means = advice_tested.mean_regrets(regrets, "rule").set_index("policy")
    assert {name: one.estimate for name, one in means["regret"].items()} == {
        "always all": 2.5,
        "always none": 7,
        "rule": 3.5,
    }
    assert means.loc["always none", "difference"].estimate == -3.5 and means.loc["rule", "difference"].estimate == 0
    with pytest.raises(ValueError, match="the gain of 'stage4' was not measured in setting 'a'"):
        advice_tested.regret(MEASURED, chosen.assign(parts="stage4"))


CELLS = [(pixels, content) for pixels in STRENGTHS for content in STRENGTHS]
SHARE = {NONE: 0.0, INPUT_SIDE: 0.75, "stage4": 0.25, ALL: 1.0}


def predicted() -> pd.DataFrame:
    """What is new of the pixels lets all gain, what is new of the content lets it lose; advised is what half knows."""
    return pd.DataFrame(
        [
            {"setting": cell(*pair), "shift": advice_tested.shift_in(*pair), "parts": parts}
            | {"predicted": (pair[0] - pair[1]) * share, "advised": ALL if pair[0] else NONE}
            for pair in CELLS
            for parts, share in SHARE.items()
        ]
    )


def test_a_study_is_judged_by_cells_and_sets_of_parts():
    """Where the pixels are new all of it gains, where the content is new it loses; the advice knows half of it."""
    gain = {cell(*pair): pair[0] - pair[1] for pair in CELLS}
    answers = pd.DataFrame(
        [
            {"variant": f"{setting}: {name}", "seed": seed, "anls": 0.4 + 0.1 * gain[setting] * SHARE.get(parts, 0.5)}
            for setting in gain
            for name, parts in advice_tested.SETS.items()
            for seed in (0, 1)
        ]
    )
    gains = advice_tested.measured_gains(answers, "anls")
    assert len(gains) == 9 * 5
    told = gains.set_index(["setting", "parts"])["gain"]
    assert told[cell(1, 0), INPUT_SIDE] == pytest.approx(7.5) and told[cell(0, 1), ALL] == pytest.approx(-10)
    tables = advice_tested.judged(predicted(), gains)
    correlations = tables["rank correlations"].set_index("without")
    assert correlations.index.tolist() == ["", "both alike", "content", "pixels"]
    assert all(one.estimate == pytest.approx(1) for one in correlations.to_numpy().flat)
    regrets = tables["regrets"].set_index(["without", "policy"])["regret"]
    # Advised: right but for (0.5, 1), which loses 5 points; never: (0.5, 0), (1, 0) and (1, 0.5) gain 5, 10 and 5.
    assert regrets["", "advised"].estimate == pytest.approx(5 / 9)
    assert regrets["", "always none"].estimate == pytest.approx(20 / 9) == regrets["", "always all"].estimate
    assert regrets["", "Auto-RGN"].estimate == pytest.approx((2.5 + 5 + 2.5) * 2 / 9)
    assert {out for out, _ in regrets.index} == {"", "both alike", "pixels", "content"}
    assert len(tables["gains"]) == 9 and "Auto-RGN" in tables["gains"]


def test_the_command_judges_a_study_and_writes_what_came_out(output, tmp_path, monkeypatch):
    write_study("made", (1.0,), (0, 1), epochs=1, documents=12, questions=2, arms=("grid",), test=(12, 2))
    monkeypatch.setattr(advice_tested, "predictions", lambda settings: predicted())
    monkeypatch.setattr(advice_tested, "use_device", lambda threads: None)
    monkeypatch.setattr(advice_tested, "FOLDER", tmp_path)
    advice_tested.main("made")
    data, page = json.loads((tmp_path / "advice_tested.json").read_text()), (tmp_path / "advice_tested.md").read_text()
    assert {*data["anls"]} == {*data["exact_match"]} == {"rank correlations", "regrets", "gains"}
    [whole] = [row for row in data["anls"]["regrets"] if (row["without"], row["policy"]) == ("", "advised")]
    regret = whole["regret"]
    assert regret["low"] <= regret["estimate"] <= regret["high"]
    assert f"{regret['estimate']:.2f} [{regret['low']:.2f}, {regret['high']:.2f}]" in page
    assert page.count("| ") > 60 and "Interval(" not in page and len(data["predicted"]) == 36
