"""Degraded pages are the same for every model, scores resume and are never stale, areas and comparisons are right."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from fake_study import write_study
from notebook_cells import run_cells
from PIL import Image
from smoke_runs import trainer_of
from test_figures import overlapping

from docfloqa.analysis import robustness, scoring
from docfloqa.analysis.contrasts import compare_all, contrasts
from docfloqa.analysis.paired import paired_difference
from docfloqa.analysis.robustness import (
    ALL_KINDS,
    AREA,
    CLEAN_PAGES,
    KEPT,
    PAGE_SETS,
    ROBUSTNESS,
    area_under_curve,
    read_scores,
    severity_curves,
    unscored,
)
from docfloqa.analysis.scoring import cross_sets, score_cross_sets, score_robustness, score_runs
from docfloqa.analysis.tables import area_comparisons, comparisons_by, cross_answers, degradation_table
from docfloqa.data.degradations import DEGRADATIONS, SEVERITIES, degrade, degraded_pages
from docfloqa.data.load import load_checked
from docfloqa.exceptions import RunError, SettingsError
from docfloqa.figures import study as study_figures
from docfloqa.figures import style
from docfloqa.files import NOTEBOOKS, data_folder, figures_folder, reports_folder, runs_folder
from docfloqa.model.florence import load_florence
from docfloqa.runs.results import RUN_KEYS, Study
from docfloqa.runs.run import BEST_MODEL
from docfloqa.settings import Settings
from docfloqa.study.sweep import Plan, write_plan
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate

RATIOS = (0.0, 1.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A smoke study of two ratios, trained for an epoch, and what its notebook found."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("robustness")))
    settings = Settings.profile("smoke", study="robust", epochs=1, train_questions=12, validation_questions=8)
    dataset, _ = load_checked(settings)
    runs = [trainer_of(settings.replace(vision_trainable=ratio), dataset).fit() for ratio in RATIOS]
    write_plan(settings, Plan(runs, {}))
    patch.chdir(NOTEBOOKS)
    # Each process takes seconds to begin; `tests/faults` has the notebook in a kernel, with processes.
    patch.setattr(scoring, "_in_processes", lambda tasks, _: [scoring._score(*task) for task in tasks])
    # Figures are drawn, and saved empty; a whole study saves its own.
    patch.setattr(style, "render", lambda figure, kind: b"")
    results = run_cells("05_robustness.ipynb", study="robust", cross="input layout")
    yield Study.load("robust"), dataset, results["found"]
    patch.undo()


@pytest.fixture
def in_this_process(monkeypatch):
    """Scores are made without other processes; a list of what was asked for."""
    asked = []

    def one_after_another(tasks, name):
        for task in tasks:
            scoring._score(*task)
            asked.append(task[2:4])

    scoring._model.cache_clear()
    monkeypatch.setattr(scoring, "_in_processes", one_after_another)
    return asked


@pytest.fixture
def study_of_one(output, dataset, monkeypatch):
    """A study with one complete run whose best model is the shipped one, and two questions' rows."""
    folder = runs_folder("one") / "run"
    model, processor = load_florence("data/florence2-tiny")
    for part in (model, processor):
        part.save_pretrained(folder / BEST_MODEL)
    settings = Settings.profile("smoke", study="one")
    records = {"run": {"settings": settings.to_dict()}}
    return Study("one", settings, records, {}), dataset["validation"].select(range(2))


def distortion(page: Image.Image, kind: str, severity: int) -> float:
    degraded = np.asarray(degrade(page, kind, severity, "page"), dtype=float)
    return float(((degraded - np.asarray(page.convert("RGB"), dtype=float)) ** 2).mean())


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_distortion_grows_with_severity_and_not_with_the_size_of_the_page(kind, dataset):
    page = dataset["validation"][0]["image"]
    large = page.resize([10 * side for side in page.size], Image.Resampling.NEAREST)
    small, enlarged = ([distortion(each, kind, severity) for severity in (1, 2, 3)] for each in (page, large))
    assert 0 < small[0] < small[1] < small[2] and 0 < enlarged[0] < enlarged[1] < enlarged[2]
    # JPEG's blocks have 8 pixels on every page, and a blur below half a pixel is none on a small one.
    for one, other in zip(small[1:], enlarged[1:], strict=True):
        assert kind == "JPEG" or one / 2 < other < 2 * one


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_a_degraded_page_is_the_same_every_time(kind, dataset):
    page = dataset["validation"][0]["image"]
    once, again = (degrade(page, kind, 2, "a page") for _ in range(2))
    assert once.tobytes() == again.tobytes() and once.size == page.size


def test_noise_and_the_side_of_a_skew_are_the_page_s_own(dataset):
    page = dataset["validation"][0]["image"]
    for kind in ("noise", "skew"):
        assert len({degrade(page, kind, 2, f"page {number}").tobytes() for number in range(8)}) > 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (2, 90), (90, 3), (40, 30)])
def test_pages_of_any_mode_and_size(mode, size):
    values = np.arange(size[0] * size[1], dtype=np.uint16).reshape(size[::-1]) * 37
    page = Image.fromarray(values)
    page = page if mode == "I;16" else page.convert("L").convert(mode)
    for kind, severity in product(DEGRADATIONS, (1, 2, 3)):
        degraded = degrade(page, kind, severity, "page")
        assert degraded.size == size and degraded.mode == "RGB"


def test_severities_are_stated_for_every_degradation():
    assert list(SEVERITIES) == list(DEGRADATIONS)
    assert all(unit and len(values) == 3 for unit, values in SEVERITIES.values())


def test_degraded_pages_are_kept_once_for_every_model(output, dataset):
    rows = dataset["validation"]
    degraded = degraded_pages(rows, "noise", 2)
    kept = {path: path.stat().st_mtime_ns for path in (data_folder() / "cache" / "degraded").iterdir()}
    assert len(kept) == len(set(rows["page"])) and {path.suffix for path in kept} == {".png"}
    again = degraded_pages(rows, "noise", 2)
    assert kept == {path: path.stat().st_mtime_ns for path in (data_folder() / "cache" / "degraded").iterdir()}
    for column in ("questionId", "question", "answers", "document_id"):
        assert degraded[column] == rows[column]
    assert degraded["page"] == again["page"] and not set(degraded["page"]) & set(rows["page"])
    for before, after in zip(rows, degraded, strict=True):
        expected = degrade(before["image"], "noise", 2, before["page"])
        assert after["image"].tobytes() == expected.tobytes()
    assert degraded_pages(rows, *CLEAN_PAGES) is rows


@pytest.mark.long
def test_the_notebook_writes_scores_tables_and_figures(made):
    study, _, found = made
    for run in study.records:
        names = {path.name for path in (runs_folder(study.name) / run).iterdir()}
        assert {"robustness.parquet", "cross-layout.parquet"} <= names
        assert not [name for name in names if "part" in name] and "cross-input.parquet" not in names
    figures = {path.stem for path in figures_folder(study.name).iterdir()}
    assert figures == {"degradation_gallery", "degradation_curves", "cross_sets"}
    tables = {path.stem for path in (reports_folder(study.name) / "tables").iterdir()}
    assert {"degradations", "degradation_areas", "degradation_comparisons", "cross_sets"} <= tables
    assert {"bad scans", "share of the clean score kept on bad scans", "other data"} < set(found["part"])


@pytest.mark.long
def test_validation_pages_are_degraded_and_no_others(made):
    _, dataset, _ = made
    kept = list((data_folder() / "cache" / "degraded").iterdir())
    degraded = len(PAGE_SETS) - 1
    assert len(kept) == degraded * len(set(dataset["validation"]["page"]))


@pytest.mark.long
def test_scores_on_clean_pages_are_those_of_an_ordinary_evaluation(made):
    study, dataset, _ = made
    answers = score_robustness(study)
    assert len(answers) == len(RATIOS) * len(PAGE_SETS) * len(dataset["validation"])
    for run in study.records:
        model, processor = load_florence(runs_folder(study.name) / run / BEST_MODEL)
        for kind, severity in (CLEAN_PAGES, ("skew", 2)):
            rows = degraded_pages(dataset["validation"], kind, severity)
            collator = QuestionCollator(rows, model, processor, study.settings.prefix)
            expected = evaluate(model, collator, study.settings)
            scored = answers.query("run == @run and kind == @kind and severity == @severity")
            assert scored["prediction"].tolist() == expected["prediction"].tolist()
            assert scored["anls"].tolist() == expected["anls"].tolist()
            np.testing.assert_allclose(scored["loss_sum"], expected["loss_sum"], rtol=1e-4)


@pytest.mark.long
def test_clean_scores_are_those_of_the_best_epoch(made):
    study, _, _ = made
    clean = score_robustness(study).query("kind == 'clean'").groupby("run")["anls"].mean()
    for run, record in study.records.items():
        epochs = study.epochs[study.epochs["run"] == run].set_index("epoch")
        assert clean[run] == pytest.approx(epochs.loc[record["best_epoch"], "anls"], abs=0.02)


@pytest.mark.long
def test_finished_scores_are_kept(made, in_this_process):
    study, _, _ = made
    files = [*runs_folder(study.name).glob("*/robustness.parquet"), *runs_folder(study.name).glob("*/cross-*")]
    times = [path.stat().st_mtime_ns for path in files]
    score_robustness(study)
    others = score_cross_sets(study, "input layout")
    assert list(others) == ["layout"] and set(others["layout"]["kind"]) == {"clean"}
    assert len(files) == 4 and times == [path.stat().st_mtime_ns for path in files]
    assert in_this_process == [] and unscored(study, [ROBUSTNESS, "cross-layout"]).empty


def test_what_was_interrupted_goes_on(study_of_one, in_this_process, monkeypatch):
    study, rows = study_of_one
    sets = [CLEAN_PAGES, ("blur", 1), ("blur", 2)]
    work = scoring._score

    def interrupted(*task):
        if task[2:4] == ("blur", 2):
            raise KeyboardInterrupt
        work(*task)

    monkeypatch.setattr(scoring, "_score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_runs(study, "some", rows, sets)
    assert in_this_process == sets[:2] and not (runs_folder("one") / "run" / "some.parquet").exists()
    monkeypatch.setattr(scoring, "_score", work)
    answers = score_runs(study, "some", rows, sets)
    assert in_this_process == sets
    assert answers.groupby(["kind", "severity"]).size().to_dict() == dict.fromkeys(sets, 2)
    assert {path.name for path in (runs_folder("one") / "run").iterdir()} == {BEST_MODEL, "some.parquet"}


def test_stale_scores_are_made_again(study_of_one, in_this_process, monkeypatch):
    study, rows = study_of_one
    score_runs(study, "some", rows, [CLEAN_PAGES])
    score_runs(study, "some", rows, [CLEAN_PAGES])
    assert len(in_this_process) == 1
    model, _ = load_florence(runs_folder("one") / "run" / BEST_MODEL)
    with torch.no_grad():
        model.get_input_embeddings().weight[7] += 1
    model.save_pretrained(runs_folder("one") / "run" / BEST_MODEL)
    score_runs(study, "some", rows, [CLEAN_PAGES])
    assert len(in_this_process) == 2
    score_runs(study, "some", rows.select([0]), [CLEAN_PAGES])
    assert len(in_this_process) == 3
    for module in (robustness, scoring):
        monkeypatch.setattr(module, "NUMBERS", [99, 1, 1])
    assert "made by code with other results" in unscored(study, ["some"])["reservation"].iloc[0]
    score_runs(study, "some", rows.select([0]), [CLEAN_PAGES])
    assert len(in_this_process) == 4 and unscored(study, ["some"]).empty


def test_runs_without_weights_are_read_from_what_is_there(study_of_one, in_this_process):
    study, rows = study_of_one
    kept = score_runs(study, "some", rows, [CLEAN_PAGES])
    folder = runs_folder("one") / "run"
    (folder / BEST_MODEL).rename(folder / "elsewhere")
    pd.testing.assert_frame_equal(score_runs(study, "some", rows, [CLEAN_PAGES]), kept)
    (folder / "some.parquet").unlink()
    with pytest.raises(RunError, match=r"no run of study 'one' has some.parquet.*docfloqa study --name one"):
        score_runs(study, "some", rows, [CLEAN_PAGES])
    missing = unscored(study, ["some"])
    assert missing["run"].tolist() == ["run"] and "docfloqa study --name one" in missing["reservation"].iloc[0]
    assert score_cross_sets(study, "layout") == {} and len(in_this_process) == 1


def test_other_data_are_shifts_or_folders_and_never_the_study_s_own(study_of_one, output):
    study, _ = study_of_one
    (output / "mine").mkdir()
    (output / "my scans").mkdir()
    found = cross_sets(study, f"input layout {output / 'mine'} '{output / 'my scans'}'")
    assert list(found) == ["layout", "mine", "my scans"]
    assert found["layout"].synth_shift == "layout" and found["mine"].data == "synth"
    assert found["mine"].validation_data == str(output / "mine")
    with pytest.raises(SettingsError, match="cross is 'outside'; allowed are input, layout, content and folders"):
        cross_sets(study, "outside")
    with pytest.raises(SettingsError, match=r"No closing quotation.; allowed are names, in quotes"):
        cross_sets(study, "layout it's")
    with pytest.raises(SettingsError, match="cross names 'layout' twice"):
        cross_sets(study, "layout layout")


def answered(score, ratios=RATIOS, seeds=(0, 1), documents=12) -> pd.DataFrame:
    """Made-up answers to two questions a document; `score` gives ANLS from ratio, severity, document and rng."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "run": f"{ratio}-{seed}",
            "vision_trainable": ratio,
            "seed": seed,
            "kind": kind,
            "severity": severity,
            "document_id": f"d{document}",
            "question_id": f"d{document}-{question}",
            "anls": score(ratio, severity, document, rng),
            "exact_match": 0.0,
        }
        for ratio, seed, (kind, severity) in product(ratios, seeds, PAGE_SETS)
        for document, question in product(range(documents), range(2))
    ]
    return pd.DataFrame(rows)


def same(ratio, severity, document, rng):
    return float(rng.random() < 0.8 - 0.2 * severity)


def better(ratio, severity, document, rng):
    return 0.6 - 0.1 * severity + 0.3 * ratio + 0.001 * rng.random()


def steadier(ratio, severity, document, rng):
    return 0.8 - (0.2 - 0.1 * ratio) * severity + 0.001 * rng.random()


def test_clean_answers_begin_every_curve():
    curves = severity_curves(answered(same))
    assert set(curves["kind"]) == set(SEVERITIES)
    assert (
        (curves.groupby(["run", "kind", "question_id"])["severity"].apply(sorted).map(list))
        .map(lambda severities: severities == [0, 1, 2, 3])
        .all()
    )


def test_the_area_under_a_curve_is_its_mean_by_the_trapezoidal_rule():
    values = [1.0, 0.8, 0.6, 0.1]
    areas = area_under_curve(answered(lambda ratio, severity, *_: values[severity]))
    # (1.0 / 2 + 0.8 + 0.6 + 0.1 / 2) / 3
    assert areas[AREA].tolist() == pytest.approx([0.65] * len(areas))
    assert areas[KEPT].tolist() == pytest.approx([0.65] * len(areas))
    assert areas["kind"].unique().tolist() == [*SEVERITIES, ALL_KINDS]
    flat = area_under_curve(answered(lambda *_: 1.0))
    assert (flat[AREA] == 1).all() and (flat[KEPT] == 1).all()


def test_the_share_kept_is_a_ratio_of_means_and_varies_as_one():
    areas = area_under_curve(answered(same, documents=60, seeds=(0,))).query("kind == @ALL_KINDS")
    sides = [areas[areas["vision_trainable"] == ratio] for ratio in (0.0, 1.0)]
    found = paired_difference(*sides, KEPT)
    documents = areas["document_id"].unique()
    sums = [side.groupby("document_id")[[AREA, "clean"]].sum().loc[documents].to_numpy() for side in sides]

    def difference(drawn):
        first, second = (np.divide(*one[drawn].sum(axis=0)) for one in sums)
        return second - first

    assert found.estimate == pytest.approx(difference(np.arange(60)))
    # The jackknife, which knows nothing of a derivative.
    left = np.array([difference(np.delete(np.arange(60), place)) for place in range(60)])
    assert found.over_documents == pytest.approx(np.sqrt(59 / 60 * np.square(left - left.mean()).sum()), rel=0.05)
    nothing = area_under_curve(answered(lambda ratio, *_: ratio))
    assert nothing.groupby("vision_trainable")[KEPT].unique().map(list).to_dict() == {0.0: [0.0], 1.0: [1.0]}


def test_all_degradations_together_are_their_mean():
    areas = area_under_curve(answered(same))
    keys = ["run", "question_id"]
    single = areas[areas["kind"] != ALL_KINDS].groupby(keys)[AREA].mean()
    together = areas[areas["kind"] == ALL_KINDS].set_index(keys)[AREA].sort_index()
    pd.testing.assert_series_equal(single, together)


def test_an_answer_that_is_lacking_is_an_error():
    answers = answered(same)
    lacking = answers.drop(answers.query("kind == 'blur' and severity == 2").index[0])
    with pytest.raises(ValueError, match="every question must be answered"):
        area_under_curve(lacking)


def test_ratios_are_compared_in_pairs_on_the_same_questions():
    areas = area_under_curve(answered(same, ratios=(0.0, 0.33, 1.0)))
    together = areas[areas["kind"] == ALL_KINDS]
    found = compare_all(together, "vision_trainable", AREA, family="ratios")
    assert [(one.first, one.second) for one in found] == [(0.0, 0.33), (0.0, 1.0), (0.33, 1.0)]
    sides = [together[together["vision_trainable"] == ratio] for ratio in (0.33, 1.0)]
    assert found[-1].difference == paired_difference(*sides, AREA)
    assert found[-1].difference.estimate == pytest.approx(sides[1][AREA].mean() - sides[0][AREA].mean())


def test_only_seeds_that_both_ratios_have_are_compared():
    areas = area_under_curve(answered(same)).query("kind == @ALL_KINDS and (vision_trainable == 0 or seed == 1)")
    [one] = compare_all(areas, "vision_trainable", AREA, family="ratios")
    assert one.difference.seeds == 1
    disjoint = areas.query("vision_trainable == 1 or seed == 0")
    [none] = compare_all(disjoint, "vision_trainable", AREA, family="ratios")
    assert none.difference is None and none.reason == "no seed in common"


def test_level_and_share_kept_are_told_apart():
    def higher(ratio, severity, document, rng):
        return (0.6 - 0.1 * severity) * (1 + 0.3 * ratio) + 0.001 * rng.random()

    level, share = (answered(score) for score in (higher, steadier))
    right, kept = area_comparisons(area_under_curve(level)).iloc[0].unstack()["p (Holm)"]
    assert right == "< 0.001" and float(kept) > 0.05
    table = area_comparisons(area_under_curve(share))
    assert table.index.tolist() == ["100 % − 0 %"]
    # From 0.5 of 0.8 to 0.65 of 0.8.
    assert table.loc["100 % − 0 %", ("share kept", "difference [95 %, one pair]")].startswith("18.7 [")


def test_nothing_is_distinguished_unless_it_is_shown():
    table = area_comparisons(area_under_curve(answered(same)))
    assert (table.xs("p (Holm)", axis=1, level=1).astype(float) > 0.05).all(axis=None)
    assert area_comparisons(area_under_curve(answered(same, documents=1))).empty


def test_other_data_are_compared_with_one_correction_for_all():
    own = answered(same)
    clean = own[own["kind"] == "clean"]
    others = {"layout": answered(better).query("kind == 'clean'"), "a_folder": clean}
    answers = cross_answers(own, others)
    table = comparisons_by(answers, "anls", by="data")
    assert table.columns.tolist() == ["own data", "layout", "a_folder"]
    assert table.loc["100 % − 0 %", "layout"].endswith("*") and table.loc["100 % − 0 %", "own data"][-1] == "]"


def test_scores_on_bad_scans_and_elsewhere_are_among_the_contrasts(output):
    study = write_study("scored", ratios=RATIOS, epochs=1)
    for score, name in ((steadier, ROBUSTNESS), (better, "cross-layout"), (lambda *_: 0.01, "cross-floor")):
        scored = answered(score)
        for (ratio, seed), rows in scored[(scored["kind"] == "clean") | (name == ROBUSTNESS)].groupby(RUN_KEYS):
            folder = runs_folder("scored") / f"vision{100 * ratio:03.0f}-seed{seed}-fake"
            rows.drop(columns=["run", *RUN_KEYS]).to_parquet(folder / f"{name}.parquet", index=False)
    found = {(one.family, one.name): one for one in contrasts(study)}
    assert set(found) == {
        ("ratios", "100 % − 0 %"),
        ("bad scans", "100 % − 0 %"),
        ("share of the clean score kept on bad scans", "100 % − 0 %"),
        ("other data", "on layout: 100 % − 0 %"),
        ("other data", "on floor: 100 % − 0 %"),
    }
    kept = found["share of the clean score kept on bad scans", "100 % − 0 %"]
    assert kept.difference.estimate == pytest.approx(0.15 / 0.8, abs=0.001)
    assert found["other data", "on layout: 100 % − 0 %"].difference.estimate == pytest.approx(0.3, abs=0.001)
    assert found["other data", "on floor: 100 % − 0 %"].reason == "every ratio is near 0 there"


def test_one_ratio_alone_has_a_table_and_no_comparisons():
    answers = answered(same, ratios=(0.0,))
    table = degradation_table(answers)
    assert len(table) == len(PAGE_SETS) and table.columns.tolist() == ["0 %"]
    assert area_comparisons(area_under_curve(answers)).empty


@pytest.mark.parametrize("ratios", [(0.0, 0.33, 0.66, 1.0), (0.5,)])
def test_figures_show_the_means_and_no_text_overlaps(ratios, dataset):
    answers = answered(same, ratios=ratios)
    curves = study_figures.degradation_curves(answers)
    assert len(curves.axes) == len(SEVERITIES) and overlapping(curves) == []
    means = 100 * severity_curves(answers).groupby(["kind", "vision_trainable", "severity"])["anls"].mean()
    for ax, kind in zip(curves.axes, SEVERITIES, strict=True):
        for line, ratio in zip(ax.lines, ratios, strict=True):
            assert list(line.get_ydata()) == pytest.approx(means[kind, ratio].tolist())
    gallery = study_figures.degradation_gallery(dataset["validation"])
    assert sum(len(ax.images) for ax in gallery.axes) == len(PAGE_SETS) and overlapping(gallery) == []
    data = study_figures.across_data(cross_answers(answers, {"layout": answers.query("kind == 'clean'")}))
    assert [ax.get_title(loc="left") for ax in data.axes] == ["own data", "layout"]
    assert overlapping(data) == []


@pytest.mark.long
def test_scores_are_read_with_ratio_and_seed(made):
    study, _, _ = made
    answers = read_scores(study, ROBUSTNESS)
    assert answers.columns[:5].tolist() == ["run", "vision_trainable", "seed", "kind", "severity"]
    assert {"question_id", "document_id", "prediction", "anls", "exact_match"} <= set(answers)
    assert set(zip(answers["kind"], answers["severity"], strict=True)) == set(PAGE_SETS)
