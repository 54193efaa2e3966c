"""The shipped study is whole, small, of one code, and what the README shows of it is what its files say."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest

from docfloqa.analysis import tables
from docfloqa.analysis.contrasts import arm_contrasts, contrasts, gains, ratio_contrasts
from docfloqa.analysis.intervals import NONE
from docfloqa.analysis.robustness import read_scores
from docfloqa.arms import ARMS
from docfloqa.files import PROJECT
from docfloqa.report.verdicts import BETTER, WORSE, by_data, readable, verdicts
from docfloqa.runs.results import Study, find_run
from docfloqa.runs.run import ADDED_SETTINGS
from docfloqa.settings import Settings
from docfloqa.text import plain, to_markdown

sys.path.insert(0, str(PROJECT / "benchmarks"))
import throughput

README = (PROJECT / "README.md").read_text()
BENCHMARKS = PROJECT / "reports" / "benchmarks"
SEEDS = [0, 1, 2]


@pytest.fixture(autouse=True)
def of_the_repository(monkeypatch):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(PROJECT))


@pytest.fixture(scope="module")
def study():
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(PROJECT))
    yield Study.load("shipped")
    patch.undo()


def tracked(pattern: str) -> list[str]:
    listed = subprocess.run(
        ["git", "-C", str(PROJECT), "ls-files", "--", pattern], capture_output=True, text=True, check=True
    ).stdout
    return listed.splitlines()


def test_every_planned_run_is_there_and_of_one_code(study):
    assert not study.missing and study.settings.synth_shift == "input"
    assert sorted(study.runs["seed"].unique()) == SEEDS and len(study.runs) == 4 * len(SEEDS)
    ship = (PROJECT / "Makefile").read_text().partition("\nship:")[2].partition("--arms ")[2].splitlines()[0]
    assert [*study.arms] == ship.split() and study.arms.keys() <= ARMS.keys()
    records = [*study.records.values()]
    for name in study.arms:
        arm = study.arm(name)
        assert not arm.missing, name
        records += arm.records.values()
    assert len({record["identity"]["code"] for record in records}) == 1 and not study.outdated


def test_a_run_of_before_later_settings_is_found(study):
    assert not any({*ADDED_SETTINGS} & record["settings"].keys() for record in study.records.values())
    found = find_run(f"shipped/{next(iter(study.records))}")
    assert found.is_complete() and found.settings == Settings.from_dict(found.record["settings"])


def test_no_best_epoch_of_a_run_was_one_of_several(study):
    """How such epochs are told apart (`Run.best_epoch`) has changed since, and outdates none of these runs."""
    for part in (study, *map(study.arm, study.arms)):
        trained = part.epochs.query("epoch > 0")
        best = trained[trained["anls"] == trained.groupby("run")["anls"].transform("max")].set_index("run")["epoch"]
        assert best.to_dict() == {run: record["best_epoch"] for run, record in part.records.items()}
        assert best.index.is_unique


def test_what_a_sentence_compares_has_three_seeds(study):
    for one in contrasts(study):
        assert one.difference or (one.where, one.reason) == ("on content", "every ratio is near 0 there"), one.name
        assert not one.sides or not one.difference or one.difference.seeds == len(SEEDS), one.name


def test_what_ships_is_small_and_holds_no_trained_weights():
    files = [path for folder in ("reports", "figures") for path in tracked(f"{folder}/shipped*")]
    if not files:
        pytest.skip("not a git checkout")
    assert not [path for path in files if re.search(r"safetensors|optimizer|checkpoint", path)]
    assert sum((PROJECT / path).stat().st_size for path in files) <= 10 * 2**20


def test_the_tables_follow_from_the_predictions(study):
    folder = PROJECT / "reports" / "shipped" / "tables"
    made = {
        "summary": tables.summary(study),
        "comparisons": tables.comparisons(study),
        **{name: tables.published(name) for name in ("published_differences", "published_systems")},
    }
    for name in study.arms:
        made[f"arm_{name}"] = tables.arm_summary(study, name)
        made[f"arm_{name}_comparisons"] = tables.contrast_table(arm_contrasts(study, name))
    for name, frame in made.items():
        assert (folder / f"{name}.md").read_text() == to_markdown(frame), name


INTERVAL = r"[-−]?\d+\.\d \[[-−]?\d+\.\d, [-−]?\d+\.\d\]"


def test_what_the_readme_finds_are_verdicts_of_the_shipped_study(study):
    """Every "A − B = x [l, h]" is a row; other intervals of the findings are of rows that are settled."""
    found = verdicts(study)
    shown = readable(found).assign(difference=lambda rows: rows["difference [95 %]"].str.replace("\xa0", " "))
    rows = set(zip(shown["comparison"], shown["difference"], strict=True))
    text = README.replace("\xa0", " ")
    quoted = re.findall(rf"((?:\d+ %|[^.:;(*\n]+?) − [^=\n]+?) = ({INTERVAL})", text)
    assert quoted
    for comparison, interval in quoted:
        assert (comparison.strip(), interval.replace("−", "-")) in rows, comparison
    settled = set(shown.loc[found["verdict"].isin([BETTER, WORSE]), "difference"])
    items = re.findall(r"^\d\. .*", text.partition("## What was found")[2].partition("\n## ")[0], re.MULTILINE)
    assert items
    for item in items:
        assert set(re.findall(INTERVAL, item)) <= settled, item


def test_what_people_tell_are_verdicts_of_the_shipped_study(study):
    told = (PROJECT / "reports" / "shipped" / "told.md").read_text().replace("−", "-")
    intervals = re.findall(INTERVAL, told)
    assert len(intervals) > 10 and {*intervals} <= {*readable(verdicts(study))["difference [95 %]"]}


def test_labels_are_plain_and_packed_tables_have_every_verdict(study):
    found = verdicts(study)
    labels = " ".join(map(plain, [*found["comparison"], *(name for arm in study.arms.values() for name in arm)]))
    assert not re.search(r"tensors|against| side, | after |\binput: |(?<!new )content: ", labels)
    assert "new look: input third − output third" in labels and "0 → 33 → 66 → 100 % − 0 → 33 → 66 %" in labels
    for part in ("arm side", "arm side, between shifts", "other data"):
        rows = found[found["part"] == part]
        cells = by_data(rows)
        assert cells.size == rows["difference"].notna().sum() and NONE not in cells.to_numpy()
        assert cells.attrs.get("note", "") == (
            "on new content: every ratio is near 0 there." if part == "other data" else ""
        )


def test_the_gains_are_those_of_the_arm(study):
    found = {(one.where, one.says): one.difference.interval() for one in gains(study)}
    assert {where for where, _ in found} == {"new look", "new layout", "new content"} and len(found) == 9
    [row] = verdicts(study).query("comparison == 'input: all − input: none'").itertuples()
    assert 100 * found["new look", "all"].estimate == pytest.approx(row.difference)


def test_every_best_model_was_scored_on_bad_scans_and_elsewhere(study):
    for name in ("robustness", "cross-layout", "cross-content"):
        answers = read_scores(study, name)
        assert set(answers["run"]) == set(study.records), name
    clean = read_scores(study, "robustness").query("kind == 'clean'").groupby("run")["anls"].mean()
    for run, record in study.records.items():
        kept = study.epochs.query("run == @run").set_index("epoch")["anls"]
        # The weights were kept as they were; batches of an evaluation may round differently.
        assert clean[run] == pytest.approx(kept[record["best_epoch"]], abs=2e-3), run


def test_the_page_about_speed_shows_the_benchmark():
    results = [BENCHMARKS / name for name in ("throughput-tiny-cpu.json", "gpu/throughput-base-cuda.json")]
    tiny, base = (json.loads(path.read_text()) if path.is_file() else None for path in results)
    assert to_markdown(throughput.summary(tiny, base)).strip() in (PROJECT / "docs" / "speed.md").read_text()
    assert (BENCHMARKS / "throughput-tiny-cpu.md").read_text() == throughput.markdown(tiny)


def test_the_default_batches_learn_no_less_than_the_published_ones():
    rows = [line.split("|") for line in (BENCHMARKS / "batching.md").read_text().splitlines() if " % |" in line]
    assert {row[1].strip() for row in rows} >= {"0 %", "100 %"} and Settings().batching == "by_image"
    for row in rows:
        difference = float(re.findall(r"-?\d+\.\d", row[4].replace("−", "-"))[0])
        significant = "<" in row[5] or float(row[5]) < 0.05
        assert not (significant and difference < 0), f"by_image is worse at {row[1].strip()}"


def test_the_instrument_is_what_it_was_meant_to_be(study):
    """Goals set before the shipped seeds and documents were used; the order of the ratios is none of them."""
    last = study.predictions.query("epoch == 8")
    assert last["question_id"].nunique() >= 500 and last["document_id"].nunique() >= 120
    anls = study.epochs.groupby(["epoch", "vision_trainable"])["anls"].mean().unstack()
    assert anls.loc[0].between(0.05, 0.5).all()
    assert anls.loc[8].max() - anls.loc[0].max() >= 0.25
    assert (anls.loc[8] >= anls.max() - 0.05).all(), "no ratio has collapsed by the last epoch"
    smallest = [pair.difference.smallest_detectable() for pair in ratio_contrasts(study)]
    # 0.04 was wanted; it is reached for the pairs below 66 % and not for those with 100 %.
    assert min(smallest) <= 0.04 and max(smallest) <= 0.06


def test_shipped_notebooks_were_executed_without_errors():
    folder = PROJECT / "reports" / "shipped"
    notebooks = sorted(folder.glob("*.ipynb"))
    assert [path.stem for path in notebooks] == ["01_explore_data", "04_analyze", "05_robustness"]
    for path in notebooks:
        content = json.loads(path.read_text())
        outputs = [output for cell in content["cells"] for output in cell.get("outputs", [])]
        assert outputs and not [one for one in outputs if one["output_type"] == "error"], path


def test_in_the_dark_all_shipped_figures_are_turned_but_the_five_of_pages():
    pages = [path.read_text() for path in (PROJECT / "reports" / "shipped").glob("*.html")]
    images = [tag for page in pages for tag in re.findall(r"<img [^>]*>", page)]
    kept = [re.search(r'alt="([^"]*)', tag)[1] for tag in images if 'class="drawing"' not in tag]
    assert len(images) == 25 and len(kept) == 5 and all("page" in alt for alt in kept)


def test_predictions_are_those_of_the_epochs(study):
    for part in (study, *map(study.arm, study.arms)):
        means = part.predictions.groupby(["run", "epoch"])["anls"].mean()
        kept = part.epochs.set_index(["run", "epoch"])["anls"].sort_index()
        pd.testing.assert_series_equal(means, kept, check_names=False)
