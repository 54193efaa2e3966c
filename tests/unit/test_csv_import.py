"""A CSV and a folder of images become a data set, or every row that is wrong is told."""

import pandas as pd
import pytest
from PIL import Image

from docfloqa.data.importing import data_set
from docfloqa.data.importing.data_set import ImportProblems, import_data
from docfloqa.data.load import load_checked
from docfloqa.exceptions import DataError, SettingsError
from docfloqa.files import FolderError, write_whole
from docfloqa.settings import Settings


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "scans"
    (folder / "more").mkdir(parents=True)
    for place in range(6):
        Image.new("RGB", (40, 30), (place * 40, 0, 0)).save(folder / f"{place}.png")
    Image.new("L", (40, 30), 9).save(folder / "more" / "7.jpg")
    (folder / "text.png").write_text("no image")
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "outside.png")
    return folder


def write(folder, text, encoding="utf-8"):
    path = folder / "questions.csv"
    path.write_bytes(text.encode(encoding))
    return path


GOOD = "image,question,answers\n" + "".join(f"{place}.png,What is {place}?,{place}|no {place}\n" for place in range(6))


def test_a_csv_becomes_a_data_set_that_a_study_takes(images, output):
    done = import_data(write(images, GOOD), output / "mine")
    assert done.questions == {"train": 4, "validation": 2} == done.documents and not done.left_out
    dataset, checks = load_checked(Settings.profile("smoke", data=str(output / "mine")))
    assert checks.kept == {"train": 4, "validation": 2} and not checks.left_out
    row = dataset["train"][0]
    assert row["answers"] == [row["question"][8:-1], f"no {row['question'][8:-1]}"]
    assert row["image"].size == (40, 30) and row["document_id"] == f"{row['answers'][0]}.png"


def test_every_column_is_kept(images, output):
    text = (
        "Image,Question,Answers,Split,Document,question_id,question_type,remark\n"
        "0.png,a?,A|A| |B,train,first,one,table|form,x\n"
        "1.png,b?,B,Train,first,two,,\n"
        '2.png,"c, ""d""?",C,validation,second,,,\n'
        "\n"
        "more/7.jpg,d?,D,validation,third,,,\n"
    )
    done = import_data(write(output, text), output / "mine", images)
    assert done.documents == {"train": 1, "validation": 2}
    train, validation = (
        pd.read_parquet(output / "mine" / f"{split}-00000-of-00001.parquet") for split in done.questions
    )
    assert train["questionId"].tolist() == ["one", "two"]
    assert train["answers"].map(list).tolist() == [["A", "B"], ["B"]]
    assert train["question_types"].map(list).tolist() == [["table", "form"], []]
    assert train["ucsf_document_page_no"].tolist() == ["1", "2"]
    assert validation["question"].tolist() == ['c, "d"?', "d?"]
    # Numbered as a spreadsheet does, the blank row included.
    assert validation["questionId"].tolist() == ["questions-4", "questions-6"]
    assert set(train["docId"]).isdisjoint(validation["docId"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_delimiters(encoding, delimiter, newline, images, output):
    lines = GOOD.replace("0|no 0", "Zoë|naïve").replace(",", delimiter).splitlines()
    lines[0] = lines[0].replace("image", '"image"')
    path = write(images, newline.join(lines), encoding)
    done = import_data(path, output / "mine")
    frames = [pd.read_parquet(path) for path in sorted(done.folder.iterdir())]
    answers = {row for answers in pd.concat(frames)["answers"] for row in answers}
    assert {"Zoë", "naïve", "5", "no 5"} <= answers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,question,answers\n0.png,é?,1\n".encode("latin-1"), "not in UTF-8: byte 0xe9 in line 2"),
        (b"image,question,answers\n0.png,\x80?,1\n", "byte 0x80 in line 2, '€' in Windows' cp1252; .* iconv -f CP1252"),
        (b"\xef\xbb\xbfimage,question,answers\n0.png,\xe9?,1\n", "byte 0xe9 in line 2, 'é'"),
        ("image,question\n".encode("utf-16-le"), "not in UTF-8: it has zero bytes"),
        (b"", "lacks the columns image, question, answers; it has nothing"),
        (b"image;question;response\n", "lacks the columns answers; it has image, question, response"),
        (b"image,question,answers,image\n", "has image twice"),
        (b'image,question,answers\n0.png,a?,1\n1.png,"b?,2\n', "cannot be read after row 2: unexpected end"),
        (b"image,question,answers\n", "questions on 0 documents"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(content, message, images, output):
    path = images / "questions.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        import_data(path, output / "mine", skip_bad_rows=True)
    assert not (output / "mine").exists()


BAD = """image,question,answers,split,document,question_id
0.png,a?,A,train,one,1
,b?,B,train,two,2
9.png, , | ,train,two,3
text.png,d?,D,train,two,4
../outside.png,e?,E,train,two,5
link.png,f?,F,exam,two,6
1.png,g?,G,train,two,1
0.png,a?,Z,train,one,8
0.png,h?,H,validation,one,9
1.png,i?,I,validation,three,10
1.png,j?,J,train,four,11
2.png,k?,K,validation,five,12
3.png,l?,L,validation
3.png,m?,M,validation,five,13
4.png,n?,N,train,six,14
5.png,o?,O,train,six,15,,,and more
"""
PROBLEMS = [
    (3, "image", "no image"),
    (4, "image", "there is no file"),
    (4, "question", "no question"),
    (4, "answers", "no answer; allowed is at least one, separated by '|'"),
    (5, "image", "no image that can be decoded"),
    (6, "image", "outside of the folder of images"),
    (7, "image", "outside of the folder of images"),
    (7, "split", "no split; allowed are train, validation and test"),
    (8, "question_id", "also the id of row 2"),
    (9, "question", "asked of the same image in row 2"),
    (17, "cells", "has 9 cells; allowed are 6"),
]
LEAKS = [
    (2, "document", "also in validation, in row 10; left out of training"),
    (12, "image", "also in validation, in row 11; left out of training"),
]


def test_all_bad_rows_are_told_at_once_and_nothing_is_written(images, output):
    (images / "link.png").symlink_to(images.parent / "outside.png")
    with pytest.raises(ImportProblems, match="8 rows cannot be used, and nothing is written") as told:
        import_data(write(images, BAD), output / "mine")
    assert [(one.row, one.column) for one in told.value.problems] == [row[:2] for row in PROBLEMS]
    for problem, (_, _, reason) in zip(told.value.problems, PROBLEMS, strict=True):
        assert reason in problem.reason
    assert "row 7, split 'exam': no split" in str(told.value)
    assert not [path for path in output.iterdir() if "mine" in path.name]


def test_bad_rows_can_be_left_out(images, output):
    (images / "link.png").symlink_to(images.parent / "outside.png")
    done = import_data(write(images, BAD), output / "mine", skip_bad_rows=True)
    assert [problem.row for problem in done.left_out] == [row for row, _, _ in (*PROBLEMS, *LEAKS)]
    assert [problem.reason for problem in done.left_out[-2:]] == [reason for _, _, reason in LEAKS]
    assert done.questions == {"train": 1, "validation": 5}
    assert load_checked(Settings.profile("smoke", data=str(output / "mine")))[1].left_out == []


def test_an_absolute_path_must_lie_in_the_folder_of_images(images, output):
    text = GOOD.replace("0.png", str(images / "0.png"))
    assert import_data(write(images, text), output / "mine").documents["train"] == 4
    with pytest.raises(DataError, match="outside of the folder of images"):
        import_data(write(images, text.replace("1.png", str(images.parent / "outside.png"))), output / "other")


def test_the_split_is_drawn_by_document_with_a_seed(images, output):
    lines = [f"{place % 6}.png,q {place}?,A,d{place % 6}" for place in range(24)]
    path = write(images, "\n".join(["image,question,answers,document", *lines]))
    drawn = {}
    for seed, share in ((0, 0.5), (0, 0.5), (1, 0.5), (0, 0.01)):
        folder = output / f"{len(drawn)}-{seed}-{share}"
        done = import_data(path, folder, validation_share=share, seed=seed)
        assert done.documents["validation"] == max(2, round(6 * share))
        frame = pd.read_parquet(folder / "validation-00000-of-00001.parquet")
        drawn[folder.name] = set(frame["ucsf_document_id"])
    first, again, other, _ = drawn.values()
    assert first == again != other
    with pytest.raises(DataError, match=r"validation_share is 1.5; allowed"):
        import_data(path, output / "no", validation_share=1.5)


def test_files_with_the_same_content_are_one_document(images, output):
    (images / "copy.png").write_bytes((images / "0.png").read_bytes())
    done = import_data(write(images, GOOD + "copy.png,What else?,A\n"), output / "mine")
    assert sum(done.documents.values()) == 6 and sum(done.questions.values()) == 7


@pytest.mark.parametrize(("documents", "split"), [(1, None), (2, None), (3, "train")])
def test_too_few_documents_are_told(documents, split, images, output):
    header, *rows = GOOD.splitlines()[: documents + 1]
    if split:
        header, rows = f"{header},split", [f"{row},{split}" for row in rows]
    fewest = 1 if split else 2
    with pytest.raises(DataError, match=rf"questions on {documents} documents?,.*at least {fewest} for validation"):
        import_data(write(images, "\n".join([header, *rows])), output / "mine")


def test_validation_alone_is_a_data_set_to_evaluate_on(images, output):
    header, *rows = GOOD.splitlines()[:3]
    text = "\n".join([f"{header},split", *(f"{row},validation" for row in rows)])
    assert import_data(write(images, text), output / "mine").questions == {"validation": 2}


def test_a_folder_with_something_in_it_is_left_alone(images, output):
    (output / "mine").mkdir()
    assert import_data(write(images, GOOD), output / "mine").questions["train"] == 4
    with pytest.raises(FolderError, match="mine' is not empty"):
        import_data(write(images, GOOD), output / "mine")
    with pytest.raises(FolderError, match="is a file"):
        import_data(write(images, GOOD), images / "0.png")
    with pytest.raises(FolderError, match="cannot be made: Not a directory"):
        import_data(write(images, GOOD), images / "0.png" / "mine")
    with pytest.raises(DataError, match="no folder of images"):
        import_data(write(images, GOOD), output / "new", output / "nowhere")


def test_a_number_of_a_page_as_pandas_writes_it_and_blank_rows_before_the_header(images, output):
    pages = [Image.new("L", (40, 30), 60 * place) for place in range(3)]
    pages[0].save(images / "three.tiff", save_all=True, append_images=pages[1:])
    rows = GOOD.replace("\n", ",\n").replace("answers,", "answers,page") + "three.tiff,And there?,A,3.0\n"
    done = import_data(write(images, f",,\n\n{rows}"), output / "mine")
    frame = pd.concat([pd.read_parquet(path) for path in done.folder.iterdir()])
    assert frame.set_index("question")["ucsf_document_page_no"]["And there?"] == "3"
    assert frame.set_index("question")["questionId"]["What is 0?"] == "questions-4"


@pytest.mark.parametrize("page", ["0", "-1", "1-2", "1.5", "²", "9" * 5000])
def test_a_page_that_is_no_number_is_told(page, images, output):
    text = GOOD.replace("\n", ",\n").replace("answers,", "answers,page") + f"5.png,And?,A,{page}\n"
    with pytest.raises(DataError, match=r"row 8, image '5.png': page is '.*; allowed is a whole number from 1"):
        import_data(write(images, text), output / "mine")


def test_a_column_of_splits_that_is_empty_tells_none(images, output):
    text = GOOD.replace("\n", ",\n").replace("answers,", "answers,split")
    assert import_data(write(images, text), output / "mine").questions == {"train": 4, "validation": 2}


def test_a_file_is_found_by_its_name_alone_only_where_its_folder_is_not_there(images, output):
    Image.new("L", (40, 30), 77).save(images / "more" / "0.png")
    text = GOOD.replace("0.png", "elsewhere/0.png")
    assert import_data(write(output, text), output / "mine", images).questions["train"] == 4
    with pytest.raises(DataError, match=r"row 3, image 'more/1.png': there is no file"):
        import_data(write(output, text.replace("1.png", "more/1.png")), output / "other", images)


def test_what_an_earlier_import_left_below_a_folder_does_not_stand_for_its_questions(images, output):
    write(images, GOOD)
    (images / "._questions.csv").write_bytes(b"\0\5\x16\7")
    import_data(images, images / "data")
    with pytest.raises(DataError, match=r"has several data sets; give one of .*/data, .*/questions.csv"):
        import_data(images, output / "mine")
    assert import_data(images / "questions.csv", output / "mine").kind == "a CSV"


def test_a_source_without_a_name_is_no_folder(output):
    with pytest.raises(SettingsError, match="source is empty"):
        import_data("", output / "mine")


def test_of_two_imports_into_one_folder_the_second_leaves_the_first_alone(images, output, monkeypatch):
    rows = data_set._in_schema

    def slow(*given):
        yield from rows(*given)
        write_whole(output / "mine" / "of_the_first", "kept")

    path = write(images, GOOD)
    monkeypatch.setattr(data_set, "_in_schema", slow)
    with pytest.raises(FolderError, match="mine' is not empty"):
        import_data(path, output / "mine")
    assert [path.name for path in (output / "mine").iterdir()] == ["of_the_first"] and not [*output.glob(".mine*")]
