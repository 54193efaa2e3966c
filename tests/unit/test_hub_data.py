"""Published data sets load as they are published; leaks, differing and replaced files are noticed."""

import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_data import FEATURES, FOLDERS, LMMS, M4, PIXPARSE, STRUCTURE_FROM, write_data_set

from docfloqa.data.load import Checks, load_checked
from docfloqa.data.schema import FEATURES as SCHEMA
from docfloqa.exceptions import DataError
from docfloqa.settings import Settings

SMALL = {"drawing": "input", "test_documents": 1}


def load(folder: Path, **changes):
    return load_checked(Settings.profile("smoke", data=str(folder), **changes))


def changed(file: Path, **columns) -> None:
    """Write a file again with other columns, None for one that is to go."""
    table = pq.read_table(file).replace_schema_metadata(None)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns(name)
        if values is not None:
            table = table.append_column(name, values)
    # Not compressed, as many characters take as many bytes.
    pq.write_table(table, file, compression="none")


def rows_of(folder: Path, split: str) -> list[dict]:
    return [row for file in sorted(folder.glob(f"{split}-*")) for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("source", [M4, PIXPARSE])
def test_a_published_data_set_loads(source, output):
    rows = write_data_set(output / "there", source, **SMALL)
    dataset, checks = load(output / "there")
    assert checks == Checks(
        read={split: len(rows[split]) for split in dataset}, kept={split: len(rows[split]) for split in dataset}
    )
    for split, published in dataset.items():
        assert published.column_names == [*SCHEMA, "page", "document_id"]
        assert all(published.features[column] == SCHEMA[column] for column in SCHEMA)
        for row, written in zip(published.remove_columns("image"), rows[split], strict=True):
            about = written.get("other_metadata", written)
            assert row["questionId"] == str(written.get("questionId", written.get("question_id")))
            assert row["docId"] == about.get("docId", about.get("doc_id"))
            assert row["document_id"] == row["ucsf_document_id"] == about["ucsf_document_id"]
            assert row["ucsf_document_page_no"] == "1"
            assert (row["question"], row["answers"]) == (written["question"], written["answers"])
            assert row["question_types"] == written.get("question_types", [])
            assert row["data_split"] == written.get("data_split")


def test_one_published_data_set_may_be_trained_on_and_another_be_validated_with(output):
    write_data_set(output / "m4", M4, **SMALL)
    rows = write_data_set(output / "lmms", LMMS, **SMALL)
    dataset, _ = load(output / "m4", validation_data=str(output / "lmms" / FOLDERS[LMMS]))
    assert dataset["validation"]["questionId"][:] == [row["questionId"] for row in rows["validation"]]
    assert dataset["train"]["data_split"][:] == [None] * len(dataset["train"])


def test_the_structure_of_every_data_set_was_read_somewhere():
    assert {*STRUCTURE_FROM} == {*FEATURES} == {*FOLDERS}


def test_a_column_that_is_not_needed_is_not_read(output):
    write_data_set(output / "there", PIXPARSE, **SMALL)
    for file in (output / "there" / "data").glob("*.parquet"):
        content = bytearray(file.read_bytes())
        groups = pq.read_metadata(file)
        for column in [groups.row_group(0).column(place) for place in range(groups.num_columns)]:
            if column.path_in_schema.startswith("ocr_results"):
                start = column.dictionary_page_offset or column.data_page_offset
                content[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
        file.write_bytes(content)
        with pytest.raises(OSError):
            pq.read_table(file)
    assert len(load(output / "there")[0]["train"])


@pytest.fixture
def folder(output) -> Path:
    """A folder with every column of the schema, two files of small pages for each split."""
    write_data_set(output / "there", M4, **SMALL)
    for file in (output / "there" / "data").iterdir():
        changed(file, data_split=pa.array([file.name.split("-")[0]] * pq.read_metadata(file).num_rows))
    return output / "there" / "data"


NULLS = {"question_types": pa.null(), "docId": pa.float64(), "ucsf_document_page_no": None}


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("column", NULLS)
def test_types_are_those_of_the_schema_where_one_file_has_another_type_or_no_such_column(column, shard, folder):
    file = folder / f"train-0000{shard}-of-00002.parquet"
    count, kind = pq.read_metadata(file).num_rows, NULLS[column]
    changed(file, **{column: None if kind is None else pa.nulls(count, kind)})
    nothing = [] if column == "question_types" else None
    expected = [row.get(column) or nothing for row in rows_of(folder, "train")]
    assert count <= expected.count(nothing) < len(expected)
    dataset, checks = load(folder)
    assert not checks.left_out
    assert dataset["train"][column][:] == expected


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint16(), pa.int64(), pa.uint64(), pa.large_string(), pa.string_view(), "dictionary"],
    ids=str,
)
def test_question_ids_may_be_of_any_integer_or_string_type(folder, kind):
    file = folder / "validation-00000-of-00002.parquet"
    numbers = list(range(pq.read_metadata(file).num_rows))
    if kind == "dictionary":
        ids = pa.array(map(str, numbers)).dictionary_encode()
    else:
        ids = pa.array(numbers if pa.types.is_integer(kind) else map(str, numbers), kind)
    changed(file, questionId=ids)
    asked = load(folder)[0]["validation"]["questionId"]
    assert asked[: len(numbers)] == [str(number) for number in numbers]


def test_missing_document_numbers_may_be_floats_as_pandas_writes_them(folder):
    file = folder / "train-00000-of-00002.parquet"
    count = pq.read_metadata(file).num_rows
    changed(file, docId=pa.array([float("nan"), *map(float, range(1, count))]))
    assert load(folder)[0]["train"]["docId"][:count] == [None, *range(1, count)]


def test_a_part_of_a_column_may_stand_as_a_column_of_its_own(folder):
    for file in folder.iterdir():
        table = pq.read_table(file)
        names = ["other_metadata.doc_id" if name == "docId" else name for name in table.column_names]
        pq.write_table(table.rename_columns(names), file)
    assert None not in load(folder)[0]["validation"]["docId"][:]


@pytest.mark.parametrize(("gone", "named"), [("docId", "fax-7"), ("ucsf_document_id", "docId 7")])
def test_one_id_of_a_document_is_enough(folder, gone, named):
    for file in folder.glob("train-*"):
        count = pq.read_metadata(file).num_rows
        kept = {"docId": pa.array([7] * count), "ucsf_document_id": pa.array(["fax-7"] * count)}
        changed(file, **{**kept, gone: None})
    dataset, checks = load(folder)
    assert not checks.left_out and set(dataset["train"]["document_id"]) == {named}


@pytest.mark.parametrize("source", [M4, PIXPARSE])
def test_columns_that_are_lacking_are_listed_with_the_names_that_are_accepted(source, output):
    write_data_set(output / "there", source, **SMALL)
    gone = {
        M4: ("questionId", "answers", "question", "docId", "ucsf_document_id"),
        PIXPARSE: ("question_id", "answers", "question", "other_metadata"),
    }[source]
    changed(output / "there/data/train-00001-of-00002.parquet", **dict.fromkeys(gone))
    with pytest.raises(DataError) as error:
        load(output / "there")
    assert (
        f"split 'train' of '{output / 'there'}' lacks the columns question (or query), answers (or answer); it has "
    ) in str(error.value)


def test_a_page_of_validation_under_another_document_id_is_no_training_page(folder):
    file = folder / "train-00000-of-00002.parquet"
    rows = pq.read_table(file).to_pylist()
    page = rows_of(folder, "validation")[0]["image"]
    changed(file, image=pa.array([page] * 3 + [row["image"] for row in rows[3:]]))
    with pytest.warns(UserWarning, match="(?s)3 rows are left out.*page is also in validation"):
        dataset, checks = load(folder)
    assert checks.left_out == [
        {"split": "train", "questionId": str(row["questionId"]), "reason": "page is also in validation"}
        for row in rows[:3]
    ]
    assert checks.kept["train"] == len(dataset["train"]) == checks.read["train"] - 3
    assert not set(dataset["train"]["page"]) & set(dataset["validation"]["page"])


def test_a_page_of_another_sources_validation_is_no_training_page(folder, output):
    write_data_set(output / "lmms", LMMS, **SMALL)
    page = rows_of(folder, "train")[0]["image"]
    for file in (output / "lmms/DocVQA").glob("validation-*"):
        rows = pq.read_table(file).to_pylist()
        changed(
            file,
            image=pa.array([page] * len(rows)),
            ucsf_document_id=pa.array([f"elsewhere-{row['questionId']}" for row in rows]),
        )
    asked = sum(row["image"] == page for row in rows_of(folder, "train"))
    with pytest.warns(UserWarning, match=rf"{asked} rows are left out"):
        _, checks = load(folder, validation_data=str(output / "lmms/DocVQA"))
    assert {row["reason"] for row in checks.left_out} == {"page is also in validation"}


@pytest.mark.parametrize("way", ["replaced", "written over"])
def test_a_file_that_changed_under_the_same_time_and_size_is_noticed(way, folder):
    file = folder / "validation-00000-of-00002.parquet"
    count = pq.read_metadata(file).num_rows

    def change(answer: str) -> int:
        target = Path(shutil.copy(file, file.with_suffix(".new"))) if way == "replaced" else file
        changed(target, answers=pa.array([[answer]] * count))
        target.replace(file)
        os.utime(file, (10**9, 10**9))
        return file.stat().st_size

    size = change("12 May")
    assert load(folder)[0]["validation"]["answers"][:count] == [["12 May"]] * count
    assert change("13 May") == size
    assert load(folder)[0]["validation"]["answers"][:count] == [["13 May"]] * count
    assert change(" " * 6) == size
    with pytest.warns(UserWarning, match=rf"{count} rows are left out"):
        load(folder)


def test_files_that_did_not_change_are_read_once(folder, output, monkeypatch):
    first = load(folder)
    monkeypatch.setattr(pq, "ParquetFile", lambda file: pytest.fail(f"{file} was read again"))
    monkeypatch.setattr("docfloqa.files.checksum", lambda file: pytest.fail(f"{file} was read again"))
    assert load(folder)[1] == first[1]


def test_a_file_that_others_tell_of_and_that_is_missing_is_told(folder):
    (folder / "validation-00000-of-00002.parquet").unlink()
    told = f"data '{folder}' has 1 of the 2 files that validation-00001-of-00002.parquet is one of; number 0 is missing"
    with pytest.raises(DataError, match=re.escape(told)):
        load(folder)


def test_nothing_is_left_of_a_reading_that_failed(folder, output):
    changed(folder / "train-00001-of-00002.parquet", answers=None)
    with pytest.raises(DataError, match=r"lacks the columns answers \(or answer\)"):
        load(folder)
    assert not list((output / "data/cache/questions").iterdir())
