"""A test split chooses nothing: loaded apart, answered once by the best model, kept, and what is compared."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from fake_study import write_study
from smoke_runs import trainer_of

import docfloqa.training.trainer
from docfloqa import verbs
from docfloqa.analysis import scoring
from docfloqa.analysis.contrasts import ratio_contrasts
from docfloqa.analysis.tables import summary
from docfloqa.data.importing.data_set import import_data
from docfloqa.data.load import data_checksum, load_checked, load_docvqa
from docfloqa.data.schema import FEATURES
from docfloqa.exceptions import DataError, SettingsError
from docfloqa.files import runs_folder
from docfloqa.report.findings import findings
from docfloqa.report.tables import setup_table
from docfloqa.report.verdicts import as_text, compared_on, validated_on, verdicts
from docfloqa.runs.packing import pack
from docfloqa.runs.recovery import refresh
from docfloqa.runs.results import Study
from docfloqa.runs.run import identity, is_complete
from docfloqa.runs.tables import TEST_ANSWERS
from docfloqa.settings import Settings
from docfloqa.study.estimate import _sizes
from docfloqa.training.evaluation import evaluate

DRAWN = {"synth_documents": 8, "synth_validation_documents": 4, "epochs": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def tested():
    """Settings with four test documents, and their data."""
    settings = Settings.profile("smoke", synth_test_documents=4, study="tested")
    return settings, load_docvqa(settings)


def test_drawn_test_documents_are_others_and_change_nothing_of_the_two_splits(tested):
    settings, dataset = tested
    plain = load_docvqa(settings.replace(synth_test_documents=0))
    assert [*plain] == ["train", "validation"] and [*dataset] == ["train", "validation", "test"]
    assert all(plain[split]["page"] == dataset[split]["page"] for split in plain)
    assert data_checksum(plain) != data_checksum(dataset)
    documents = [set(rows["document_id"]) | set(rows["docId"]) for rows in dataset.values()]
    assert len(set(dataset["test"]["document_id"])) == 4 and sum(map(len, documents)) == len(set.union(*documents))
    # Folds validate on every document.
    assert [*load_docvqa(settings.replace(folds=2, fold=1))] == [*plain]
    assert "synth_test_documents" not in identity(settings.replace(synth_test_documents=0), "w", "d")["settings"]
    assert identity(settings, "w", "d")["settings"]["synth_test_documents"] == 4


def write_parquet(folder, **splits):
    for split, rows in splits.items():
        Dataset.from_list(rows, features=FEATURES).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return str(folder)


def test_a_folders_test_split_is_read_where_it_is_asked_for_and_shares_no_document(tested, tmp_path):
    _, dataset = tested
    train, validation, test = (rows.remove_columns(["page", "document_id"]).to_list() for rows in dataset.values())
    mixed = [*test, {**validation[0], "questionId": "known"}]
    mine = write_parquet(tmp_path, train=[*train, {**test[0], "questionId": "also"}], validation=validation, test=mixed)
    settings = Settings.profile("smoke", data=mine)
    assert [*load_docvqa(settings)] == ["train", "validation"]
    with pytest.warns(UserWarning, match="rows are left out"):
        found, checks = load_checked(settings.replace(test_questions=1000))
    assert found["test"]["questionId"] == dataset["test"]["questionId"]
    assert [(row["split"], row["questionId"]) for row in checks.left_out] == [("test", "known"), ("train", "also")]
    assert checks.left_out[0]["reason"].endswith("is also in validation")
    assert checks.left_out[1]["reason"].endswith("is also in test")
    with pytest.warns(UserWarning, match="left out"):
        assert len(load_docvqa(settings.replace(test_questions=7))["test"]) == 7


def test_what_cannot_be_tested_on_is_told(tested, tmp_path):
    _, dataset = tested
    train, validation, test = (rows.remove_columns(["page", "document_id"]).to_list() for rows in dataset.values())
    settings = Settings.profile("smoke", data=write_parquet(tmp_path, train=train, validation=validation))
    with pytest.raises(DataError, match=r"has no test-\*.parquet"):
        load_docvqa(settings.replace(test_questions=10))
    write_parquet(tmp_path, test=[{**row, "answers": []} for row in test])
    with pytest.raises(DataError, match=r"split 'test' of .* has no usable row"):
        load_docvqa(settings.replace(test_questions=10))
    with pytest.raises(SettingsError, match="folds is 2 and test_questions is 10; allowed is one of the two"):
        settings.replace(test_questions=10, folds=2)
    with pytest.raises(SettingsError, match="test_questions is 10 and the documents are drawn"):
        load_docvqa(Settings.profile("smoke", test_questions=10))


def test_an_estimate_counts_the_questions_and_not_the_pages_of_a_test_split(tested):
    settings, dataset = tested
    plain, sizes = _sizes(load_docvqa(settings.replace(synth_test_documents=0))), _sizes(dataset)
    assert sizes == {**plain, "test": len(dataset["test"])} and plain["test"] == 0


def test_an_import_keeps_a_test_split_with_answers_and_leaves_another_aside(tmp_path, tested):
    _, dataset = tested
    lines = []
    for split, rows in dataset.items():
        for number, index in enumerate({name: place for place, name in enumerate(rows["document_id"])}.values()):
            rows[index]["image"].save(tmp_path / f"{split}{number}.png")
            lines.append(
                {"image": f"{split}{number}.png", "question": f"Which {number}?", "answer": "1", "split": split}
            )
    table, texts = tmp_path / "questions.csv", pd.DataFrame(lines)
    texts.to_csv(table, index=False)
    done = import_data(table, tmp_path / "mine")
    assert {"train", "validation", "test"} == {*done.questions} and done.left_aside == ()
    found = load_docvqa(Settings.profile("smoke", data=str(tmp_path / "mine"), test_questions=100))
    assert len(found["test"]) == done.questions["test"]
    # A table of a kind that is read as it is.
    assert len(load_docvqa(Settings.profile("smoke", data=str(table), test_questions=100), "test")) == len(
        found["test"]
    )
    texts.loc[texts["split"] == "test", "answer"] = ""
    texts.to_csv(table, index=False)
    done = import_data(table, tmp_path / "without")
    assert {*done.questions} == {"train", "validation"}
    assert done.left_aside == (f"{(texts['split'] == 'test').sum()} questions of test, without answers",)


@pytest.fixture
def counted(monkeypatch):
    """How often questions of each split were answered by the trainer; an error can be put in place of one."""
    told = SimpleNamespace(splits=[], stop=None)

    def count(model, collator, *rest):
        told.splits.append(collator.rows["data_split"][0])
        if told.splits[-1] == told.stop:
            raise KeyboardInterrupt
        return evaluate(model, collator, *rest)

    monkeypatch.setattr(docfloqa.training.trainer, "evaluate", count)
    return told


@pytest.mark.long
def test_the_best_model_answers_the_test_split_once_however_often_it_is_interrupted(
    tested, few, counted, output, monkeypatch
):
    settings, dataset = tested
    dataset = DatasetDict(few, test=dataset["test"].select(range(0, len(dataset["test"]), 3)))
    counted.stop = "test"
    with pytest.raises(KeyboardInterrupt):
        trainer_of(settings, dataset).fit()
    assert counted.splits.count("test") == 1 and counted.splits[-1] == "test"
    counted.stop = None
    trainer = trainer_of(settings, dataset)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(type(trainer.run), "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        trainer.fit()
    assert counted.splits.count("test") == 2 and not trainer.run.is_complete()
    run = trainer_of(settings, dataset).fit()
    assert counted.splits.count("test") == 2, "kept from before"
    answers, validated = pd.read_parquet(run.folder / TEST_ANSWERS), run.predictions()
    assert [*answers] == [*validated] and answers["confidence"].between(0, 1).all()
    assert answers["question_id"].tolist() == dataset["test"]["questionId"][:]
    best, told = run.record["best_epoch"], run.record["test"]
    assert set(answers["epoch"]) == {best} == {told["epoch"]}
    assert (told["questions"], told["documents"]) == (len(answers), 4)
    assert told["anls"] == answers["anls"].mean() and told["exact_match"] == answers["exact_match"].mean()
    again = evaluate(run.load()[0], trainer.test_collator, settings)
    pd.testing.assert_frame_equal(again, answers.drop(columns="epoch"))
    # What belongs to a complete run.
    assert is_complete(run.folder)
    (run.folder / TEST_ANSWERS).write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="test_predictions.parquet is damaged"):
        assert not is_complete(run.folder)
    with pytest.warns(UserWarning, match="kept as"):
        refresh(run)
    trainer_of(settings, dataset).fit()
    assert counted.splits.count("test") == 3
    pd.testing.assert_frame_equal(pd.read_parquet(run.folder / TEST_ANSWERS), answers)


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A study with a test split, on which lower ratios are better, with an arm, and one without."""
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path))
    made = {"documents": 30, "ability": (0.3, 0.5), "arms": ("cumulative",)}
    return write_study("with", test=(40, 3), **made), write_study("without", **made)


def test_a_tested_study_is_compared_on_test_and_says_so(two):
    study, other = two
    assert study.tested and study.arm("cumulative").tested and not other.tested
    assert len(study.compared) == 8 * 120 and other.compared is other.last_answers
    for one, lower, words in (
        (study, True, "on 40 test documents, which chose nothing"),
        (other, False, "on the 30 validation documents, which chose the epoch"),
    ):
        widest = ratio_contrasts(one)[2]
        assert widest.groups == "100 % − 0 %" and (widest.difference.estimate < 0) == lower
        found = verdicts(one)
        assert set(found.query("part == 'ratios' and verdict != 'not settled'")["verdict"]) == {
            "worse" if lower else "better"
        }
        arm = found.query("part == 'arm cumulative' and comparison.str.startswith('66 %, fresh')").iloc[0]
        assert (arm["difference"] < 0) == lower
        assert words in compared_on(one) and words in as_text(found) and words in validated_on(one)
        assert one.tested == ("test questions" in setup_table(one).index)
        assert one.tested == any("test" in column for column in summary(one))
        assert findings(one)
    assert widest.difference.documents == 30 and ratio_contrasts(study)[2].difference.documents == 40


def test_what_report_gives_as_data_says_what_is_compared(two, monkeypatch):
    monkeypatch.setattr("docfloqa.study.study.report_study", lambda *_: [])
    data, text = verbs.report("with")
    assert data["compared"].startswith("on 40 test documents") and data["compared"] in text


def test_a_study_of_which_one_run_has_no_test_answers_is_compared_on_validation(two):
    study, _ = two
    for run in (next(iter(study.arms["cumulative"].values()))[0], next(iter(study.records))):
        path = runs_folder("with") / run / "run.json"
        record = json.loads(path.read_text())
        kept = record.pop("test")
        path.write_text(json.dumps(record))
        assert not Study.load("with").tested
        path.write_text(json.dumps(record | {"test": kept}))
    assert Study.load("with").tested


def test_a_packed_study_keeps_its_test_answers_whole(two):
    study, _ = two
    before, found = study.compared, verdicts(study)
    pack("with")
    packed = Study.load("with")
    pd.testing.assert_frame_equal(packed.compared, before)
    assert packed.tested and verdicts(packed).equals(found) and packed.compared["prediction"].notna().all()


def test_bad_scans_are_scored_on_the_test_split(two, tested, monkeypatch):
    settings, dataset = tested
    seen = []
    monkeypatch.setattr(scoring, "score_runs", lambda study, name, rows, sets: seen.append(rows))
    for study in two:
        scoring.score_robustness(replace(study, settings=settings))
    assert [set(rows["data_split"]) for rows in seen] == [{"test"}, {"validation"}]
    assert seen[0]["page"] == dataset["test"]["page"]
