"""Folds over documents: each document is validated once, and what is said of a study is of all of them."""

import json
from itertools import product

import pandas as pd
import pytest
from datasets import Dataset
from fake_study import write_run, write_study

from docfloqa import verbs
from docfloqa.analysis import tables
from docfloqa.analysis.contrasts import ratio_contrasts
from docfloqa.analysis.scoring import score_robustness
from docfloqa.apps.ask import models_of_study
from docfloqa.apps.browser import BEFORE, answers_by_run
from docfloqa.data.folds import of_fold
from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import DataError, RunError, SettingsError
from docfloqa.files import reports_folder, runs_folder
from docfloqa.report import findings
from docfloqa.report.tables import run_table, setup_table, write_tables
from docfloqa.report.verdicts import validated_on, verdicts
from docfloqa.runs.packing import pack
from docfloqa.runs.plans import check_name
from docfloqa.runs.results import PLAN, Study
from docfloqa.runs.run import Run, identity, run_id
from docfloqa.settings import Settings
from docfloqa.study.study import score_study
from docfloqa.study.sweep import settings_of_runs

FOLDS = 3


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("folds")))
        yield


def rows(names: str, pages: str | None = None, first: int = 0) -> Dataset:
    """A question for each letter, of the document of this name on the page of the other's."""
    ids = [str(first + place) for place in range(len(names))]
    return Dataset.from_dict({"questionId": ids, "document_id": [*names], "page": [*(pages or names)]})


def test_every_document_is_validated_once_and_never_by_what_was_trained_on_it():
    splits = {"train": rows("aabcdefgh"), "validation": rows("ijjk", first=9)}
    validated = []
    for fold in (1, 2, 3):
        found = of_fold(splits, FOLDS, fold, {})
        sides = [set(found[split]["document_id"]) for split in ("train", "validation")]
        assert not sides[0] & sides[1] and sides[0] | sides[1] == {*"abcdefghijk"}
        assert 3 <= len(sides[1]) <= 4
        validated += found["validation"]["questionId"]
    assert sorted(map(int, validated)) == [*range(13)]
    assert (
        of_fold(splits, FOLDS, 2, {})["validation"].to_dict() == of_fold(splits, FOLDS, 2, {})["validation"].to_dict()
    )


def test_a_page_under_two_names_is_in_one_fold():
    splits = {"train": rows("abcdef", "uvwxyz"), "validation": rows("ghij", "uuvs", first=6)}
    for fold in (1, 2):
        inside = set(of_fold(splits, 2, fold, {"w": "the same", "x": "the same"})["validation"]["document_id"])
        assert {*"agh"} <= inside or not {*"agh"} & inside
        assert {*"cd"} <= inside or not {*"cd"} & inside
        assert {*"bi"} <= inside or not {*"bi"} & inside


def test_ids_that_both_splits_have_stay_apart_and_too_many_folds_are_refused():
    splits = {"train": rows("abcd"), "validation": rows("efgh")}
    assert len(set(of_fold(splits, 2, None, {})["validation"]["questionId"])) == 8
    with pytest.raises(DataError, match="folds is 5 and the data have 8 documents; allowed are at most 4"):
        of_fold(splits, 5, 1, {})


def test_the_data_of_a_study_are_those_of_its_folds():
    settings = Settings.profile("smoke", folds=FOLDS)
    whole = load_docvqa(settings, "validation")
    folds = [load_docvqa(settings.replace(fold=fold)) for fold in range(1, FOLDS + 1)]
    validated = [name for fold in folds for name in fold["validation"]["questionId"]]
    assert sorted(validated) == sorted(whole["questionId"]) and len(set(whole["document_id"])) == 12
    assert all(not {*fold["train"]["page"]} & {*fold["validation"]["page"]} for fold in folds)


def test_a_fold_makes_another_run_and_no_folds_the_one_of_before():
    usual, first, second = (Settings(), *(Settings(folds=FOLDS, fold=fold) for fold in (1, 2)))
    assert not {"fold", "folds"} & identity(usual, "w", "d")["settings"].keys()
    assert "-fold1-" in run_id(first, "w", "d") != run_id(second, "w", "d")
    planned = settings_of_runs(Settings(folds=FOLDS), [0, 1], [0, 1])
    assert len({(one.vision_trainable, one.seed, one.fold) for one in planned.ratios}) == 12


@pytest.mark.parametrize(
    "given", [{"fold": 1}, {"folds": 3, "fold": 4}, {"folds": 3, "validation_data": "x"}, {"folds": 1}]
)
def test_settings_of_folds_that_mean_nothing_are_refused(given):
    with pytest.raises(SettingsError, match="fold"):
        Settings(**given)


def test_arms_keep_the_splits():
    with pytest.raises(SettingsError, match="folds is 3 and arms are lora; allowed is one of the two"):
        settings_of_runs(Settings(folds=3), [0], [0], ["lora"])


@pytest.fixture(scope="module")
def study() -> Study:
    chosen, names = Settings.profile("embedded", study="folded", epochs=1, folds=FOLDS), []
    for ratio, seed, fold in product((0.0, 1.0), (0, 1), range(1, FOLDS + 1)):
        settings = chosen.replace(vision_trainable=ratio, seed=seed, fold=fold)
        names.append(write_run(settings, (15, 3), (0.5, 0.3), 0.0, f"fold{fold}-"))
        for table in runs_folder("folded").glob(f"{names[-1]}/*.parquet"):
            frame = pd.read_parquet(table)
            frame[frame["document_id"].str[3:].astype(int) % FOLDS == fold - 1].to_parquet(table, index=False)
    plan = {"settings": chosen.to_dict(), "planned": "2000-01-01T00:00:00+00:00", "runs": names, "arms": {}}
    (reports_folder("folded") / PLAN).write_text(json.dumps(plan))
    return Study.load("folded")


def test_what_is_said_is_of_all_documents(study):
    [pair] = ratio_contrasts(study)
    assert pair.difference.documents == 15 and pair.difference.seeds == 2
    by_ratio = study.last_answers.groupby("vision_trainable")["anls"].mean()
    assert pair.difference.estimate == pytest.approx(by_ratio[1.0] - by_ratio[0.0])
    assert verdicts(study)["low"].notna().all()
    assert tables.summary(study).loc["0 %", "ANLS (%)"].startswith(f"{100 * by_ratio[0.0]:.1f} [")
    said = validated_on(study)
    assert said.startswith("45 questions on 15 documents validate, each document once, in 3 folds")
    assert setup_table(study).loc["folds over documents"].item() == "3"
    assert all(path.stat().st_size for path in write_tables(study))


def test_a_ratio_and_seed_that_lack_a_fold_are_left_out(study):
    record = runs_folder("folded") / next(iter(study.records)) / "run.json"
    whole = record.read_text()
    record.write_text(json.dumps(json.loads(whole) | {"status": "running"}))
    try:
        partly = Study.load("folded")
        assert len(partly.records) == 9 and len(partly.missing) == 3
        assert "another fold" in tables.reservations([partly]).to_string() and len(verdicts(partly)) == 1
    finally:
        record.write_text(whole)


def test_runs_that_ended_early_count_with_what_they_had_last():
    study = write_study("early", (0.0, 1.0), (0, 1), epochs=3, documents=12)
    early = next(iter(study.records))
    folder = runs_folder("early") / early
    for name, read, write in (
        ("epochs.csv", pd.read_csv, "to_csv"),
        ("predictions.parquet", pd.read_parquet, "to_parquet"),
    ):
        frame = read(folder / name)
        getattr(frame[frame["epoch"] <= 2], write)(folder / name, index=False)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"last_epoch": 2}))
    study = Study.load("early")
    last = tables.scores(study).query("epoch == 3 and metric == 'anls' and vision_trainable == 0")["estimate"].item()
    answers = study.last_answers
    assert last == pytest.approx(answers[answers["vision_trainable"] == 0.0].groupby("run")["anls"].mean().mean())
    assert len(run_table(study)) == 4 and all(path.stat().st_size for path in write_tables(study))


@pytest.mark.long
def test_bad_scans_are_not_scored_with_models_that_know_the_pages(study):
    with pytest.raises(RunError, match="study 'folded' has 3 folds"):
        score_robustness(study)


def test_a_study_of_folds_keeps_its_name(study):
    check_name(study.settings)
    with pytest.raises(SettingsError, match=r"folds 3.* and folds None"):
        check_name(study.settings.replace(folds=None))


def test_of_folds_the_first_is_asked_and_named(study, monkeypatch):
    monkeypatch.setattr(Run, "model_folder", "there")
    before, *models = models_of_study("folded")
    assert before.run is None and [one.name for one in models] == [f"{r} % trained, fold 1 of 3" for r in (0, 100)]
    assert [(one.settings.fold, one.settings.seed) for one in models] == [(1, 0), (1, 0)]


def test_a_run_of_a_fold_is_not_scored_on_what_it_was_trained_on(study):
    name = next(iter(study.records))
    with pytest.raises(
        SettingsError, match=f"--data is 'synth', most of which run folded/{name} of a fold was trained"
    ):
        verbs.evaluate(name, {}, "synth")


def test_bad_scans_are_refused_before_a_notebook_begins(study):
    with pytest.raises(RunError, match="study 'folded' has 3 folds"):
        score_study("folded")


def test_answers_of_all_folds_are_compared_together(study):
    answers = answers_by_run(study)
    assert list(answers) == [BEFORE, *(f"{ratio} % trained, seed {seed}" for ratio in (0, 100) for seed in (0, 1))]
    assert (
        {rows["question_id"].nunique() for rows in answers.values()} == {len(rows) for rows in answers.values()} == {45}
    )


def test_the_model_of_the_easiest_fold_is_not_the_one_to_take_away(study, monkeypatch):
    monkeypatch.setattr(findings, "reads_pages", lambda _: True)
    assert findings.to_do(study).startswith("Next: train one model on all documents")


# The last one, since it moves the runs.
def test_a_packed_study_of_folds_says_the_same(study):
    before = verdicts(study)
    pack("folded")
    packed = Study.load("folded")
    assert verdicts(packed).equals(before) and packed.last_answers.equals(study.last_answers)
