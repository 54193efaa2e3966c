"""The shipped studies are whole, small, of one code, and what the README shows of them is what their files say."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from docfloqa import tables
from docfloqa.markup import to_markdown
from docfloqa.paths import PROJECT
from docfloqa.results import Study
from docfloqa.settings import Settings

sys.path.insert(0, str(PROJECT / "benchmarks"))
import throughput

README = (PROJECT / "README.md").read_text()
BENCHMARKS = PROJECT / "reports" / "benchmarks"
SHIPPED = {
    "shipped": ("input", [0, 1, 2]),
    "shipped-layout": ("layout", [0]),
    "shipped-content": ("content", [0]),
}


@pytest.fixture(autouse=True)
def of_the_repository(monkeypatch):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(PROJECT))


@pytest.fixture(scope="module")
def studies():
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(PROJECT))
    yield {name: Study.load(name) for name in SHIPPED}
    patch.undo()


def tracked(pattern: str) -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(PROJECT), "ls-files", "--", pattern], capture_output=True, text=True, check=True
    ).stdout
    return listed.splitlines()


def test_every_planned_run_is_there_and_of_one_code(studies):
    codes = set()
    for name, (shift, seeds) in SHIPPED.items():
        study = studies[name]
        assert not study.missing and study.settings.synth_shift == shift
        assert sorted(study.runs["seed"].unique()) == seeds and len(study.runs) == 4 * len(seeds)
        codes |= {record["identity"]["code"] for record in study.records.values()}
    assert len(codes) == 1


def test_what_ships_is_small_and_holds_no_trained_weights():
    files = [path for folder in ("reports", "figures") for path in tracked(f"{folder}/shipped*")]
    if not files:
        pytest.skip("not a git checkout")
    assert not [path for path in files if re.search(r"safetensors|optimizer|checkpoint", path)]
    assert sum((PROJECT / path).stat().st_size for path in files) <= 40e6


def test_the_tables_follow_from_the_predictions(studies):
    folder = PROJECT / "reports" / "shipped" / "tables"
    made = {
        "summary": tables.summary(studies["shipped"]),
        "comparisons": tables.comparisons(studies["shipped"]),
        "across": tables.across(list(studies.values())),
    }
    for name, frame in made.items():
        assert (folder / f"{name}.md").read_text() == to_markdown(frame), name


def test_the_readme_shows_these_tables():
    for name in ("summary", "across"):
        assert (PROJECT / "reports" / "shipped" / "tables" / f"{name}.md").read_text().strip() in README, name


def test_the_readme_shows_the_benchmark():
    results = [BENCHMARKS / f"throughput-{name}.json" for name in ("tiny-cpu", "base-cuda")]
    tiny, base = (json.loads(path.read_text()) if path.is_file() else None for path in results)
    assert to_markdown(throughput.summary(tiny, base)).strip() in README
    assert (BENCHMARKS / "throughput-tiny-cpu.md").read_text() == throughput.markdown(tiny)


def test_the_default_batches_learn_no_less_than_the_published_ones():
    rows = [
        line.split("|") for line in (BENCHMARKS / "batching.md").read_text().splitlines() if " % |" in line
    ]
    assert {row[1].strip() for row in rows} >= {"0 %", "100 %"} and Settings().batching == "by_image"
    for row in rows:
        difference = float(re.findall(r"-?\d+\.\d", row[4].replace("−", "-"))[0])
        significant = "<" in row[5] or float(row[5]) < 0.05
        assert not (significant and difference < 0), f"by_image is worse at {row[1].strip()}"


def test_the_instrument_is_what_it_was_meant_to_be(studies):
    """Goals set before the shipped seeds and documents were used; the order of the ratios is none of them."""
    study = studies["shipped"]
    last = study.predictions.query("epoch == 8")
    assert last["question_id"].nunique() >= 500 and last["document_id"].nunique() >= 120
    anls = study.epochs.groupby(["epoch", "vision_trainable"])["anls"].mean().unstack()
    assert anls.loc[0].between(0.05, 0.5).all()
    assert anls.loc[8].max() - anls.loc[0].max() >= 0.25
    assert (anls.loc[8] >= anls.max() - 0.05).all(), "no ratio has collapsed by the last epoch"
    smallest = [difference.smallest_detectable() for *_, difference in tables.paired_differences(study)]
    # 0.04 was wanted; it is reached for 33 and 66 % against each other and 0 %, and nearly for 100 %.
    assert min(smallest) <= 0.04 and max(smallest) <= 0.05


def test_shipped_notebooks_were_executed_without_errors():
    for name in SHIPPED:
        notebooks = sorted((PROJECT / "reports" / name).rglob("*.ipynb"))
        assert len(notebooks) == 3 + len(SHIPPED[name][1]) * 4
        for path in notebooks:
            content = json.loads(path.read_text())
            outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
            assert outputs and not [one for one in outputs if one["output_type"] == "error"], path


def test_predictions_are_those_of_the_epochs(studies):
    for study in studies.values():
        means = study.predictions.groupby(["run", "epoch"])["anls"].mean()
        kept = study.epochs.set_index(["run", "epoch"])["anls"].sort_index()
        pd.testing.assert_series_equal(means, kept, check_names=False)
