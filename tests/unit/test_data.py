import hashlib
import re
import warnings
from io import BytesIO

import pytest
from datasets import Dataset
from PIL import Image

from docfloqa.data.images import LARGEST_IMAGE
from docfloqa.data.load import load_checked, load_docvqa
from docfloqa.data.schema import FEATURES
from docfloqa.data.synth.dataset import synth_folder, write_split
from docfloqa.data.synth.small import LAYOUTS
from docfloqa.data.synth.vocabulary import accepted_answers
from docfloqa.exceptions import DataError
from docfloqa.files import NOTEBOOKS, PROJECT
from docfloqa.settings import SHIFTS, Settings


def png(shade: int = 200, size: tuple[int, int] = (32, 32), mode: str = "L") -> bytes:
    content = BytesIO()
    Image.new(mode, size, shade if mode == "L" else None).save(content, "png")
    return content.getvalue()


# Splits share no page.
PAGE_SIZES = {"train": (32, 32), "validation": (40, 32), "other": (48, 32)}


def row(number: int, split: str = "train", **changes) -> dict:
    return {
        "questionId": f"{split}-{number}",
        "question": "What is the date?",
        "question_types": ["form"],
        "image": {"bytes": png(number % 256, PAGE_SIZES[split]), "path": None},
        "docId": number,
        "ucsf_document_id": f"{split}-{number}",
        "ucsf_document_page_no": "1",
        "answers": ["1 May"],
        "data_split": split,
        **changes,
    }


def write(folder, split: str, rows: list[dict], features=FEATURES) -> None:
    folder.mkdir(exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in features}
    Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def folder(output):
    """A folder with three good rows in each split."""
    for split in ("train", "validation"):
        write(output / "rows", split, [row(number, split) for number in range(3)])
    return output / "rows"


def settings(folder, **changes) -> Settings:
    return Settings.profile("smoke", data=str(folder), **changes)


def test_one_schema_whatever_the_source(folder):
    for source in (str(folder), "synth"):
        dataset = load_docvqa(Settings.profile("smoke", data=source))
        for split in ("train", "validation"):
            assert dataset[split].column_names == [*FEATURES, "page", "document_id"]
            assert isinstance(dataset[split][0]["image"], Image.Image)
            assert dataset[split][0]["data_split"] == split


def test_splits_are_disjoint_by_document():
    dataset = load_docvqa(Settings.profile("smoke"))
    train, validation = (set(dataset[split]["document_id"]) for split in ("train", "validation"))
    assert len(train) == 8 and len(validation) == 4 and not train & validation


def test_a_seed_draws_the_training_documents_and_no_others():
    settings = Settings.profile("smoke", synth_test_documents=3)
    first, second = (load_docvqa(settings.replace(seed=seed)) for seed in (0, 1))
    assert not set(first["train"]["page"]) & set(second["train"]["page"])
    assert all(first[split].to_dict() == second[split].to_dict() for split in ("validation", "test"))


def test_one_split_alone_reads_and_draws_nothing_of_the_other(folder, output):
    write(output / "questions", "validation", [row(number, "validation") for number in range(3)])
    for source in (str(output / "questions"), "synth"):
        alone = load_docvqa(Settings.profile("smoke", data=source), "validation")
        elsewhere = load_docvqa(Settings.profile("smoke", data=str(folder), validation_data=source), "validation")
        assert alone.to_dict() == elsewhere.to_dict() and len(alone)
    assert not [*(output / "data/synthdocvqa").rglob("train-*")]
    both = load_docvqa(Settings.profile("smoke"))
    assert both["validation"].to_dict() == alone.to_dict()
    limited = Settings.profile("smoke", synth_documents=9, validation_questions=9)
    assert load_docvqa(limited, "validation").to_dict() == load_docvqa(limited)["validation"].to_dict()


def test_nobody_loads_both_splits_to_use_one():
    for file in (*(PROJECT / "lib").rglob("*.py"), *NOTEBOOKS.glob("*.ipynb")):
        assert not re.search(r"load_(docvqa|checked)\(.*\)(\[0\])?\[.?\"(train|validation)", file.read_text()), file


BAD_ROWS = {
    "empty question": {"question": "  "},
    "empty question (missing)": {"question": None},
    "no answer": {"answers": []},
    "no answer (blank)": {"answers": ["", " "]},
    "no answer (missing)": {"answers": None},
    "no image": {"image": None},
    "image cannot be decoded": {"image": {"bytes": b"this is no image", "path": None}},
    "image cannot be decoded (truncated)": {"image": {"bytes": png(size=(256, 256), mode="RGB")[:200], "path": None}},
    "image cannot be decoded: it has more than 100,000,000 pixels": {
        "image": {"bytes": png(size=(20_000, LARGEST_IMAGE // 20_000 + 1)), "path": None}
    },
    "duplicate question id": {"questionId": "train-0"},
    "document is also in validation": {"ucsf_document_id": "validation-1"},
    "page is also in validation": {"image": {"bytes": png(1, PAGE_SIZES["validation"]), "path": None}},
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_bad_row_is_left_out_counted_and_named(folder, reason):
    bad = row(3, **BAD_ROWS[reason])
    write(folder, "train", [row(0), row(1), row(2), bad])
    with pytest.warns(UserWarning, match="1 row is left out"):
        dataset, checks = load_checked(settings(folder))
    [told] = checks.left_out
    assert (told["split"], told["questionId"]) == ("train", bad["questionId"])
    assert told["reason"].startswith(reason.split(" (")[0])
    assert (checks.read["train"], checks.kept["train"], len(dataset["train"])) == (4, 3, 3)
    assert checks.summary().loc[0, "rows"] == 1
    with pytest.warns(UserWarning):
        assert load_checked(settings(folder))[1] == checks, "the same when the checks are remembered"


def test_good_rows_raise_no_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _, checks = load_checked(settings(folder))
    assert not checks.left_out and checks.summary().empty


def test_images_of_every_mode_can_be_used(folder):
    rows = []
    for number, mode in enumerate(("1", "L", "LA", "P", "RGB", "RGBA", "I;16")):
        content = BytesIO()
        Image.new(mode, (20 + number, 20)).save(content, "png")
        rows.append(row(number, image={"bytes": content.getvalue(), "path": None}))
    write(folder, "train", rows)
    dataset, checks = load_checked(settings(folder))
    assert not checks.left_out
    assert all(dataset["train"][place]["image"].convert("RGB").size == (20 + place, 20) for place in range(7))


def test_a_split_without_a_usable_row_is_an_error(folder):
    write(folder, "validation", [row(0, "validation", question="")])
    with pytest.raises(DataError, match=r"'validation'.*no usable row"):
        load_docvqa(settings(folder))


def test_an_empty_split_is_an_error(folder):
    write(folder, "validation", [])
    with pytest.raises(DataError, match=r"validation.*(empty|cannot be read)"):
        load_docvqa(settings(folder))


def test_missing_columns_are_named(folder):
    features = FEATURES.copy()
    for name in ("question", "answers"):
        del features[name]
    write(folder, "train", [row(0)], features)
    message = r"'train'.*lacks the columns question \(or query\), answers \(or answer\); it has questionId"
    with pytest.raises(DataError, match=message):
        load_docvqa(settings(folder))


def test_a_column_of_another_type_is_named(folder):
    Dataset.from_list([row(0) | {"image": "a path", "answers": "1 May"}]).to_parquet(
        folder / "train-00000-of-00001.parquet"
    )
    with pytest.raises(DataError, match=r"column 'answers' of split 'train' .* another type than list"):
        load_docvqa(settings(folder))


def test_a_file_that_is_no_parquet_is_an_error(folder):
    (folder / "train-00000-of-00001.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match=r"cannot be read"):
        load_docvqa(settings(folder))


def test_data_without_a_training_split_says_what_to_use(folder):
    (folder / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"no train-\*\.parquet.*HuggingFaceM4/DocumentVQA"):
        load_docvqa(settings(folder))


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_a_source_that_is_no_folder_and_no_hub_id_is_an_error(source):
    with pytest.raises(DataError, match="is not a folder"):
        load_docvqa(Settings.profile("smoke", data=source))


def test_a_hub_data_set_that_cannot_be_had_says_what_to_do():
    with pytest.raises(DataError, match=r"HuggingFaceM4/DocumentVQA.*(hub|cache).*data/README.md"):
        load_docvqa(Settings.profile("paper"))


def test_validation_may_come_from_elsewhere(folder, output):
    write(output / "other", "validation", [row(number, "other") for number in range(2)])
    dataset = load_docvqa(settings(folder, validation_data=str(output / "other")))
    assert set(dataset["validation"]["questionId"]) == {"other-0", "other-1"}
    assert len(dataset["train"]) == 3


def test_a_limit_takes_whole_documents_in_an_order_of_its_own(folder):
    rows = [
        row(number, question=f"Question {part}?", questionId=f"{number}-{part}", ucsf_document_id=str(number))
        for number in range(20)
        for part in range(3)
    ]
    write(folder, "train", rows)
    drawn = load_docvqa(settings(folder, train_questions=12))["train"]
    documents = drawn["document_id"]
    assert len(drawn) == 12 and all(documents.count(document) == 3 for document in set(documents))
    assert sorted(set(documents)) != ["0", "1", "2", "3"]
    assert load_docvqa(settings(folder, train_questions=12, seed=5))["train"]["questionId"] == drawn["questionId"]


@pytest.mark.long
def test_the_same_seed_gives_the_same_bytes(tmp_path):
    def checksum(name: str, seed: int, drawing: str) -> str:
        target = tmp_path / name
        target.mkdir()
        write_split(target, "train", drawing, seed, documents=3)
        [file] = target.iterdir()
        return hashlib.sha256(file.read_bytes()).hexdigest()

    for drawing in (*SHIFTS, "full"):
        first, again, other = (checksum(f"{drawing}{n}", seed, drawing) for n, seed in enumerate((7, 7, 8)))
        assert first == again != other


def test_drawn_documents_have_three_to_six_questions_with_their_answers(output):
    wanted = Settings.profile("smoke", synth_documents=60)
    assert synth_folder(wanted, "train") == synth_folder(wanted, "train")
    rows = load_docvqa(wanted)["train"].remove_columns("image").to_pandas()
    per_document = rows.groupby("document_id").size()
    assert per_document.between(3, 6).all() and per_document.nunique() == 4
    assert set(rows.question_types.str[0]) == {"form", "table/list", "layout", "free_text"}
    assert {name.split("-")[0] for name in rows.document_id} == set(LAYOUTS)
    assert rows.question.str.split().str[0].nunique() >= 3, "several phrasings"
    assert rows.questionId.is_unique


ASKED = (
    r"(?:What is the|Which|What|Please give the) "
    r"(.*?)(?: mentioned in the document| given| is shown| does the document state)?[?.]$"
)


@pytest.mark.long
def test_no_question_of_a_page_has_two_answers(output):
    for shift in SHIFTS:
        rows = load_docvqa(Settings.profile("smoke", synth_documents=150, synth_shift=shift))["train"]
        asked = rows.remove_columns("image").to_pandas()
        subject = asked.question.str.extract(ASKED)[0]
        assert subject.notna().all()
        assert not asked.assign(subject=subject).duplicated(["page", "subject"]).any(), shift


@pytest.mark.parametrize(
    ("printed", "accepted"),
    [
        ("$12.50", ["$12.50", "12.50"]),
        ("$1,234.50", ["$1,234.50", "1,234.50", "$1234.50", "1234.50"]),
        ("8,412", ["8,412", "8412"]),
        ("Reno, NV", ["Reno, NV"]),
        ("3 Mar 2020", ["3 Mar 2020", "Mar 3, 2020"]),
        ("3 Mar", ["3 Mar"]),
        ("15 kg", ["15 kg", "15"]),
        ("4,564 EUR", ["4,564 EUR", "4,564", "4564 EUR", "4564"]),
        ("2024-03-05", ["2024-03-05"]),
        ("Paris", ["Paris"]),
    ],
)
def test_several_answers_count_where_they_are_right(printed, accepted):
    assert accepted_answers(printed) == accepted
