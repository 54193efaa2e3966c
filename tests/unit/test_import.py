"""Data as people have them: every kind of source, columns by their usual names, pages by number, what is told."""

import json
import re
import shutil
import zlib
from pathlib import Path
from unicodedata import normalize

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_input.images import file_of, noise, png_of
from datasets import Dataset, DatasetDict
from PIL import Image

from docfloqa.data import hub
from docfloqa.data.images import PageError, count_pages, decode_page, read_page
from docfloqa.data.importing.data_set import ImportProblems, import_data
from docfloqa.data.importing.summary import summary
from docfloqa.data.importing.tables import texts
from docfloqa.data.load import load_checked
from docfloqa.data.schema import FEATURES
from docfloqa.exceptions import DataError, ModelError
from docfloqa.files import PROJECT, is_hub_id
from docfloqa.model.folder import model_folder
from docfloqa.settings import Settings

COLOURS = ["red", "lime", "blue"]


def page(number: int) -> Image.Image:
    return noise(20 + number, 15, number)


@pytest.fixture
def scans(output) -> Path:
    """Pages 0.png to 5.png, each another one."""
    folder = output / "scans"
    folder.mkdir(parents=True)
    for number in range(6):
        page(number).save(folder / f"{number}.png")
    return folder


def rows(kind: str = "image") -> list[dict]:
    return [{kind: f"{number}.png", "question": f"What is {number}?", "answers": [str(number)]} for number in range(6)]


def loaded(source: Path, split: str = "train"):
    """The split of what DATA= takes, which leaves nothing out."""
    dataset, checks = load_checked(Settings.profile("smoke", data=str(source)))
    assert not checks.left_out
    return dataset[split]


def written(folder: Path) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(file) for file in sorted(folder.glob("*.parquet"))], ignore_index=True)


def rrc(folder: Path, split: str, numbers: range) -> None:
    data = [
        {
            "questionId": 337 + number,
            "question": "What is the date?",
            "question_types": ["form"],
            "image": f"documents/{number}.png",
            "docId": number,
            "ucsf_document_id": f"xx{number}",
            "ucsf_document_page_no": "1",
            "answers": [f"1/{number}/93"],
            "data_split": split,
        }
        for number in numbers
    ]
    about = {"dataset_name": "SP-DocVQA", "dataset_version": "1.0", "dataset_split": split, "data": data}
    (folder / f"{split}_v1.0_withQT.json").write_text(json.dumps(about))


@pytest.mark.parametrize("place", ["documents", "spdocvqa_images"])
def test_rrcs_json_with_its_folder_of_images(place, scans, output):
    folder = output / "rrc"
    folder.mkdir()
    rrc(folder, "train", range(3))
    rrc(folder, "val", range(3, 6))
    (folder / "test_v1.0.json").write_text('{"dataset_split": "test", "data": []}')
    shutil.copytree(scans, folder / place)
    done = import_data(folder, output / "mine", None if place == "documents" else folder / place)
    assert done.questions == done.documents == {"train": 3, "validation": 3}
    assert done.left_aside == ("test_v1.0.json",)
    assert summary(done, folder)[0] == "rrc: RRC's JSON, 3 training and 3 validation questions"
    assert written(output / "mine")["questionId"].tolist() == [str(337 + number) for number in range(6)]
    if place == "documents":
        assert loaded(folder)["answers"][:] == [["1/0/93"], ["1/1/93"], ["1/2/93"]]
        assert loaded(folder, "validation")["document_id"][:] == ["xx3", "xx4", "xx5"]


def as_csv(folder: Path) -> Path:
    lines = [f"{number}.png;What is {number}?;{number}" for number in range(6)]
    (folder / "q.csv").write_bytes(
        b"\xff\xfe" + "\r\n".join(["sep=;", "File name;Query;Answer;;", *lines]).encode("utf-16-le")
    )
    return folder / "q.csv"


def as_tsv(folder: Path) -> Path:
    pd.DataFrame(rows("image_path")).assign(answers=lambda some: some["answers"].str[0]).to_csv(
        folder / "q.tsv", sep="\t"
    )
    return folder


def as_jsonl(folder: Path) -> Path:
    (folder / "q.jsonl").write_text("\n".join(json.dumps({**row, "answer": row.pop("answers")[0]}) for row in rows()))
    return folder


def as_list(folder: Path) -> Path:
    (folder / "q.json").write_text(json.dumps(rows("filename")))
    return folder / "q.json"


def as_image_folder(folder: Path) -> Path:
    for split, some in {"train": rows("file_name")[:4], "val": rows("file_name")[4:], "test": []}.items():
        (folder / split).mkdir()
        (folder / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, some)) or "{}")
        for row in some:
            (folder / row["file_name"]).rename(folder / split / row["file_name"])
    shutil.rmtree(folder / "test")
    return folder


def as_image_folder_of_one_table(folder: Path) -> Path:
    names = ["train/0.png", "train/1.png", "train/2.png", "train/3.png", "val/4.png", "val/5.png", "test/0.png"]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / Path(name).name, folder / name)
    # As in published data sets, questions to test with have no answers.
    lines = [f"{name},What is {Path(name).stem}?,{'' if 'test' in name else Path(name).stem}" for name in names]
    (folder / "metadata.csv").write_text("\n".join(["file_name,question,answer", *lines]))
    return folder


def as_saved(folder: Path) -> Path:
    data = Dataset.from_list([{**row, "image": {"bytes": (folder / row["image"]).read_bytes()}} for row in rows()])
    DatasetDict({"train": data.select(range(4)), "dev": data.select(range(4, 6))}).save_to_disk(folder / "saved")
    return folder / "saved"


def as_one_saved(folder: Path) -> Path:
    Dataset.from_list(rows()).save_to_disk(folder)
    return folder


def as_parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows()), folder / "questions.parquet")
    return folder / "questions.parquet"


def as_download(folder: Path) -> Path:
    """As `hf download --local-dir` leaves them, without ids, types and documents."""
    below = folder / "there" / "DocVQA"
    below.mkdir(parents=True)
    some = [{**row, "image": {"bytes": (folder / row["image"]).read_bytes(), "path": None}} for row in rows()]
    for name, part in {"train-00000-of-00002": some[:2], "train-00001-of-00002": some[2:4], "val-0": some[4:]}.items():
        pq.write_table(
            pa.Table.from_pylist([{"question_types": None, **row} for row in part]), below / f"{name}.parquet"
        )
    return folder / "there"


KINDS = {
    as_csv: "a CSV",
    as_tsv: "a TSV",
    as_jsonl: "JSON lines",
    as_list: "a JSON list",
    as_image_folder: "datasets' ImageFolder with metadata.jsonl",
    as_image_folder_of_one_table: "datasets' ImageFolder with metadata.csv",
    as_saved: "a data set saved by datasets",
    as_one_saved: "a data set saved by datasets",
    as_parquet: "parquet",
    as_download: "parquet files by split",
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_recognised_imported_and_taken_as_data(kind, scans, output):
    source = kind(scans)
    done = import_data(source, output / "mine")
    assert done.kind == KINDS[kind] and not done.left_out
    assert done.questions == done.documents == {"train": 4, "validation": 2}
    frame = written(output / "mine").sort_values("question")
    assert frame["answers"].map(list).tolist() == [[str(number)] for number in range(6)]
    for number, image in enumerate(frame["image"]):
        assert decode_page(image["bytes"]).tobytes() == page(number).tobytes()
    assert frame["questionId"].is_unique and (frame["ucsf_document_id"] != "").all()
    # The same as it is, without a word of an import.
    assert len(loaded(source)) == 4 and len(loaded(source, "validation")) == 2
    assert len({*loaded(source)["document_id"]}) == 4


def test_paths_in_rows_of_parquet_are_imported_and_told_with_how_a_row_holds_an_image(scans, output):
    for split, some in {"train": rows()[:4], "validation": rows()[4:]}.items():
        pq.write_table(pa.Table.from_pylist(some), scans / f"{split}-0.parquet")
    with pytest.raises(DataError, match=r"A row holds its image as \{\"bytes\": ..., \"path\": ...\}; docfloqa import"):
        loaded(scans)
    assert import_data(scans, output / "mine").questions == {"train": 4, "validation": 2}
    some = [{**row, "image": {"bytes": None, "path": row["image"]}} for row in rows()[:4]]
    pq.write_table(pa.Table.from_pylist(some), scans / "train-0.parquet")
    assert import_data(scans, output / "other").questions == {"train": 4, "validation": 2}
    some = [{"question": "q", "answers": "a", "image": {"bytes": b"x", "path": None}}]
    pq.write_table(pa.Table.from_pylist(some), scans / "train-0.parquet")
    with pytest.raises(DataError, match=r"column 'answers' .* docfloqa import SOURCE FOLDER takes a text"):
        loaded(scans)


def test_data_that_changed_are_imported_again(scans):
    source = as_jsonl(scans)
    first = loaded(source)["page"][:]
    assert loaded(source)["page"][:] == first
    for number in range(6):
        noise(21, 15, number + 50).save(scans / f"{number}.png")
    assert not {*loaded(source)["page"]} & {*first}


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("a|b| |a", ["a", "b"]),
        ("['0', '0 USD']", ["0", "0 USD"]),
        ('["7", "7 USD"]', ["7", "7 USD"]),
        ("['it\\'s', \"a 'b'\"]", ["it's", "a 'b'"]),
        ("['a' 'b c'\n 'd']", ["a", "b c", "d"]),
        ("('x', 'y')", ["x", "y"]),
        ("{'x'}", ["x"]),
        ("[]", []),
        ("[illegible]", ["[illegible]"]),
        ("(12)", ["(12)"]),
        ("(1,000)", ["(1,000)"]),
        ("[1", ["[1"]),
        ("a [b]", ["a [b]"]),
    ],
)
def test_answers_that_are_written_as_a_list_are_its_texts(cell, answers):
    assert texts(cell, True) == answers


@pytest.mark.parametrize("cell", ["[1, 2]", "['a', None]", "['a', ['b']]", "['a', 'b", "['a' ... 'b']", "[1,000]"])
def test_other_lists_are_refused_with_the_remedy(cell):
    with pytest.raises(ValueError, match=r"looks like a list .* a list of texts in quotes"):
        texts(cell, True)


def test_json_has_lists_of_its_own():
    assert texts(["a", None, 7, 7.0, 1.5, "a|b"], False) == ["a", "7", "1.5", "a|b"]
    with pytest.raises(ValueError, match="is no text"):
        texts([{"answer": "a"}], False)


def several(kind: str) -> bytes:
    pages = [Image.new("RGB", (40, 30), colour) for colour in COLOURS]
    return file_of(
        pages[0], kind, save_all=True, append_images=pages[1:], **({"lossless": True} if kind == "WEBP" else {})
    )


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP", "PDF"])
def test_a_file_of_several_pages_needs_a_page_and_gives_that_one(kind, scans, output):
    (scans / "contract").write_bytes(several(kind))
    assert count_pages(several(kind)) == 3
    rest = "".join(f"{number}.png,q?,a,\n" for number in range(5))
    (scans / "q.csv").write_text(f"image,question,answers,page\ncontract,q?,333,\n{rest}")
    with pytest.raises(ImportProblems, match=r"row 2, image 'contract': has 3 pages, .* a column page with 1 to 3"):
        import_data(scans / "q.csv", output / "mine")
    for number, colour in enumerate(COLOURS, 1):
        (scans / "q.csv").write_text(f"image,question,answers,page\ncontract,q?,333,{number}\n{rest}")
        import_data(scans / "q.csv", output / f"mine{number}")
        frame = written(output / f"mine{number}").set_index("ucsf_document_id").loc["contract"]
        pixel = decode_page(frame["image"]["bytes"]).getpixel((9, 9))
        expected = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
        assert all(abs(one - other) < 20 for one, other in zip(pixel, expected, strict=True))
        assert frame["ucsf_document_page_no"] == str(number) and count_pages(frame["image"]["bytes"]) == 1
        assert read_page(scans / "contract", number).getpixel((9, 9)) == pixel
    for wrong, told in {
        "4": "has 3 pages, and page is 4; allowed is 1 to 3",
        "x": "page is 'x'; allowed is a whole",
    }.items():
        (scans / "q.csv").write_text(f"image,question,answers,page\ncontract,q?,333,{wrong}\n{rest}")
        with pytest.raises(ImportProblems, match=told):
            import_data(scans / "q.csv", output / "no")


def test_an_image_of_one_page_may_have_any_number_and_a_photo_has_one_page(scans, output):
    photo = Image.new("RGB", (40, 30), "red")
    (scans / "photo.jpg").write_bytes(file_of(photo, "MPO", save_all=True, append_images=[photo.resize((20, 15))]))
    lines = "".join(f"{number}.png,q?,a,{number + 3}\n" for number in range(5))
    (scans / "q.csv").write_text(f"image,question,answers,page\nphoto.jpg,q?,a,\n{lines}")
    import_data(scans / "q.csv", output / "mine")
    assert {*written(output / "mine")["ucsf_document_page_no"]} == {"1", "3", "4", "5", "6", "7"}


def test_a_page_of_a_row_of_several_pages_is_left_out(scans, output):
    source = as_download(scans)
    file = source / "DocVQA" / "train-00000-of-00002.parquet"
    some = pq.read_table(file).to_pylist()
    some[0]["image"]["bytes"] = several("TIFF")
    pq.write_table(pa.Table.from_pylist(some), file)
    with pytest.warns(UserWarning, match=r"(?s)1 row is left out.*image has 3 pages, and a row has one"):
        load_checked(Settings.profile("smoke", data=str(source)))


def test_text_in_an_image_does_not_keep_it_from_being_read_up_to_pillows_limit():
    def with_text(size: int) -> bytes:
        return png_of(1, 1, (b"zTXt", b"about\0\0" + zlib.compress(b"x" * size)))

    assert decode_page(with_text(3 * 2**20)).size == (1, 1)
    with pytest.raises(PageError, match=r"no image that can be decoded \(Decompressed data too large .*mogrify -strip"):
        decode_page(with_text(65 * 2**20))


def test_the_decoders_reason_is_told_wherever_a_page_cannot_be_decoded(scans, output):
    content = (scans / "0.png").read_bytes()
    (scans / "0.png").write_bytes(content[:300])
    reason = "image file is truncated"
    with pytest.raises(PageError, match=reason):
        read_page(scans / "0.png")
    with pytest.raises(ImportProblems, match=reason):
        import_data(as_jsonl(scans), output / "mine")
    (scans / "q.jsonl").unlink()
    with pytest.warns(UserWarning, match=f"image cannot be decoded: {reason}"):
        load_checked(Settings.profile("smoke", data=str(as_download(scans))))


def test_cells_may_lack_at_the_end_or_be_empty_beyond_it(scans, output):
    header = "image,question,answers,split,document,question_id,question_type"
    lines = [f"{number}.png,q?,a,{split}" for number, split in enumerate(["train", "train,,,", "Val", "dev,,,,,,,"])]
    (scans / "q.csv").write_text("\n".join([header, *lines]))
    assert import_data(scans / "q.csv", output / "mine").questions == {"train": 2, "validation": 2}


def test_paths_of_windows(scans, output):
    lines = [f"..\\scans\\{number}.png,q?,a" for number in range(5)]
    (scans / "q.csv").write_text("\n".join(["image,question,answers", *lines]))
    assert import_data(scans / "q.csv", output / "mine").questions == {"train": 3, "validation": 2}
    lines = [f"C:\\Users\\Zoe\\{number}.png,q?,a" for number in range(5)]
    (scans / "q.csv").write_text("\n".join(["image,question,answers", *lines, "5.png,q?,"]))
    with pytest.raises(ImportProblems) as told:
        import_data(scans / "q.csv", output / "no")
    first, whole, empty = str(told.value).splitlines()
    assert "6 rows cannot be used" in first
    assert whole.startswith("  5 rows: is a whole path of Windows; allowed are files in '")
    assert whole.endswith(r"the first is row 2, image 'C:\\Users\\Zoe\\0.png'")
    assert empty.startswith("  row 7, answers '': no answer")
    # The folder of images is what they lie in.
    (scans / "q.csv").write_text("\n".join(["image,question,answers", *lines]))
    assert import_data(scans / "q.csv", output / "named", scans).questions == {"train": 3, "validation": 2}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mp.json", {"data": [{"questionId": 1, "question": "q", "page_ids": ["a_p0", "a_p1"], "answers": ["x"]}]}),
        ("dude.json", [{"question": "q", "answers": ["x"], "docId": "d", "answers_page_bounding_boxes": []}]),
        ("some.json", [{"question": "q", "answers": ["x"], "image": ["0.png", "1.png"]}]),
    ],
)
def test_several_pages_to_a_question_are_refused_with_what_would_work(name, content, scans, output):
    (scans / name).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"several pages to a question.* write a row for each question with the page"):
        import_data(scans / name, output / "mine")
    for split in ("train", "validation"):
        row = {"question": "q", "answers": ["x"], "images": [b"x"]}
        pq.write_table(pa.Table.from_pylist([row]), scans / f"{split}.parquet")
    with pytest.raises(DataError, match=r"several pages to a question, in images"):
        loaded(scans)


def test_what_is_meant_locally_is_never_looked_up_on_the_hub(scans, output, monkeypatch):
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    monkeypatch.chdir(output)
    for name in ("scans/my_dat", "./scan", "../x", "scan", str(output / "scan"), "~/nowhere/x", "where/questions.csv"):
        with pytest.raises(DataError, match="is not a folder or file"):
            load_checked(Settings.profile("smoke", data=name))
        with pytest.raises(DataError, match="there is no file or folder"):
            import_data(name, output / "mine")
        with pytest.raises(ModelError, match="is not a folder"):
            model_folder(name)
    (scans / "my_data").mkdir()
    for name, meant in {"scans/my_dat": "scans/my_data", "./scan/x": "scans", str(output / "scn"): scans}.items():
        with pytest.raises(DataError, match=re.escape(f"did you mean '{meant}'?")):
            load_checked(Settings.profile("smoke", data=name))
    assert is_hub_id("scans/my_dat@main") and is_hub_id("owner/name")


def test_a_folder_without_questions_or_with_several_files_of_them_is_told(scans, output):
    with pytest.raises(DataError, match=r"has no questions: it has 0.png, 1.png, .*; allowed is a folder with train-"):
        import_data(scans, output / "mine")
    for name in ("a.csv", "b.csv"):
        (scans / name).write_text("image,question,answers\n")
    with pytest.raises(DataError, match=r"several files of questions, a.csv, b.csv; give one of them"):
        import_data(scans, output / "mine")
    with pytest.raises(DataError, match=r"is no file of questions; allowed are .csv"):
        import_data(scans / "0.png", output / "mine")


def test_a_page_with_the_same_pixels_in_another_file_is_no_training_page(scans, output):
    source = as_download(scans)
    file = source / "DocVQA" / "train-00000-of-00002.parquet"
    some = pq.read_table(file).to_pylist()
    some[0]["image"]["bytes"] = file_of(page(5), "PNG", compress_level=0)
    pq.write_table(pa.Table.from_pylist(some), file)
    with pytest.warns(UserWarning, match=r"(?s)1 row is left out.*page is also in validation"):
        assert load_checked(Settings.profile("smoke", data=str(source)))[1].kept == {"train": 3, "validation": 2}
    done = import_data(source, output / "mine")
    assert done.questions == {"train": 3, "validation": 2}
    assert [problem.reason for problem in done.left_out] == [
        "also in validation, in validation row 2; left out of training"
    ]


@pytest.mark.parametrize("ids", [["a", "b"], [1.5, 2.0], [float("inf"), 1.0]])
@pytest.mark.parametrize("usable", [True, False])
def test_a_document_may_be_named_by_any_id(ids, usable, scans):
    source = as_download(scans)
    for file in (source / "DocVQA").iterdir():
        table = pq.read_table(file).append_column("docId", pa.array(ids))
        if usable:
            table = table.append_column("ucsf_document_id", pa.array([f"{file.stem}{row}" for row in range(2)]))
        else:
            table = table.drop_columns("docId").append_column("docId", pa.array([f"{file.stem}-{one}" for one in ids]))
        pq.write_table(table, file)
    assert {*loaded(source)["document_id"]} == {
        f"train-0000{shard}-of-00002{row if usable else f'-{ids[row]}'}" for shard in range(2) for row in range(2)
    }


def test_what_came_of_an_import_is_told(scans, output):
    (scans / "q.csv").write_text(
        "image,question,answers\n" + "".join(f"{number}.png,q?,{'x ' * 20 * (number == 3)}a\n" for number in range(6))
    )
    text = "\n".join(summary(import_data(scans / "q.csv", output / "my data"), scans / "q.csv"))
    assert text.startswith("q.csv: a CSV, 4 training and 2 validation questions\ntrain: 4 questions on 4 documents\n")
    assert "too few documents for 20 % of them to validate on: 2 of 6 are, the fewest that a study needs" in text
    assert "2 documents to validate on: below 10 no interval is given" in text
    assert "the first answer of a question is the one trained on" in text
    assert re.search(
        r"1 of 6 first answers is longer than 24 tokens.* 0 longer than the 64 .* --max-new-tokens \d\d", text
    )
    assert text.endswith(f"next: make study PROFILE=own DATA='{output / 'my data'}' NAME=my_data")


def test_few_documents_are_best_validated_in_folds(scans, output):
    for number in range(6, 15):
        page(number).save(scans / f"{number}.png")
    (scans / "q.csv").write_text("image,question,answers\n" + "".join(f"{number}.png,q?,a\n" for number in range(15)))
    lines = summary(import_data(scans / "q.csv", output / "mine"), scans / "q.csv")
    assert "--folds 5 validates every document once" in lines[-2] and not "\n".join(lines).count("too few")
    assert lines[-1] == f"next: make study PROFILE=own DATA={output / 'mine'} NAME=mine ARGS='--folds 5'"


def test_one_document_to_validate_on_imports_and_is_told(scans, output):
    (scans / "q.csv").write_text("image,question,answers,split\n0.png,q?,a,train\n1.png,q?,a,validation\n")
    lines = summary(import_data(scans / "q.csv", output / "mine"), scans / "q.csv")
    assert "1 document to validate on" in "\n".join(lines)
    assert lines[-1].startswith("a study needs 2 documents to validate on")


def test_the_recipe_for_parquet_files_works_with_paths_opened_images_and_bytes(scans, monkeypatch):
    monkeypatch.chdir(scans)
    recipe = next(
        part for part in re.findall(r"```python\n(.*?)```", (PROJECT / "data/README.md").read_text(), re.DOTALL)
    )
    for split, some in {"train": range(3), "validation": range(3, 6)}.items():
        images = ["{}.png", Image.open(f"{some[1]}.png"), {"bytes": Path(f"{some[2]}.png").read_bytes(), "path": None}]
        images[0] = images[0].format(some[0])
        known = {
            "rows": [
                {"image": image, "question": f"What is {number}?", "answers": [str(number)]}
                for number, image in zip(some, images, strict=True)
            ]
        }
        exec(recipe.replace("train-", f"{split}-"), known)
    assert [page_of["image"].size[0] for page_of in loaded(scans / "my_data")] == [20, 21, 22]
    assert loaded(scans / "my_data", "validation").features["image"] == FEATURES["image"]


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("question", {"en": "a?"}, "is {'en': 'a?'}; allowed is a text or a number"),
        ("question", ["a?"], "is ['a?']; allowed"),
        ("answers", {"text": ["a"]}, "is {'text': ['a']}; allowed"),
        ("document", {"id": 1}, "is {'id': 1}; allowed"),
        ("page", [1], "is [1]; allowed"),
        ("question", "a \ud800", "holds a half of a sign"),
        ("answers", ["a \ud800"], "holds a half of a sign"),
        ("question_id", "\udfff", "holds a half of a sign"),
        ("image", "\ud800.png", "names no file"),
        ("image", "a\0.png", "names no file"),
    ],
)
def test_a_value_that_is_no_text_is_told(column, value, told, scans):
    lines = [row | {column: value} if number == 2 else row for number, row in enumerate(rows())]
    (scans / "q.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ImportProblems) as caught:
        import_data(scans / "q.jsonl", scans.parent / "mine")
    assert told in str(caught.value) and [problem.row for problem in caught.value.problems] == [3]


def test_a_line_of_json_ends_where_it_ends_and_null_is_no_row(scans):
    lines = [json.dumps(row | {"question": f"{row['question']}\u2028\x85"}, ensure_ascii=False) for row in rows()]
    (scans / "q.jsonl").write_text("\r\n".join(lines), newline="")
    assert import_data(scans / "q.jsonl", scans.parent / "mine").questions["train"] == 4
    (scans / "q.jsonl").write_text("null")
    with pytest.raises(DataError, match="holds None; allowed are objects with"):
        import_data(scans / "q.jsonl", scans.parent / "other")


def test_parquet_with_the_bytes_of_its_images(scans):
    images = [(scans / f"{number}.png").read_bytes() for number in range(6)]
    pd.DataFrame(rows()).assign(image=images).to_parquet(scans.parent / "q.parquet")
    import_data(scans.parent / "q.parquet", scans.parent / "mine")
    assert sorted(row["bytes"] for row in written(scans.parent / "mine")["image"]) == sorted(images)


def test_files_that_are_not_read_are_told(scans):
    (scans / "train.csv").write_text("image,question,answers\n" + "".join(f"{n}.png,{n}?,{n}\n" for n in range(6)))
    (scans / "more.csv").write_text("x")
    done = import_data(scans, scans.parent / "mine")
    assert "left aside: more.csv" in summary(done, scans)


@pytest.mark.parametrize("place", ["below", "train/", "./train/", "train\\"])
def test_images_of_the_same_name_in_the_folders_of_two_splits_are_two_documents(place, scans):
    folder, header = scans.parent / "pages", "file_name,question,answers\n"
    tables = {}
    for split, numbers in (("train", range(3)), ("val", range(3, 6))):
        (folder / split).mkdir(parents=True)
        for number in numbers:
            shutil.copy(scans / f"{number}.png", folder / split / f"{number % 3}.png")
        before = "" if place == "below" else place.replace("train", split)
        tables[split] = "".join(f"{before}{number % 3}.png,What is {number}?,{number}\n" for number in numbers)
        if place == "below":
            (folder / split / "metadata.csv").write_text(header + tables[split])
    if place != "below":
        (folder / "metadata.csv").write_text(header + "".join(tables.values()))
    done = import_data(folder, scans.parent / "mine")
    assert done.questions == done.documents == {"train": 3, "validation": 3} and not done.left_out


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_a_saved_data_set_that_datasets_cannot_load_is_told(name, scans):
    Dataset.from_list(rows()).save_to_disk(str(scans / "saved"))
    (scans / "saved" / name).write_text("[]")
    with pytest.raises(DataError, match=r"has state.json, and datasets cannot load it"):
        import_data(scans / "saved", scans.parent / "mine")


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_a_name_that_another_system_writes_with_other_signs_is_found(on_disk, scans):
    (scans / "0.png").rename(scans / f"{normalize(on_disk, 'Zoë')}.png")
    for form in ("NFC", "NFD"):
        lines = ["image,question,answers", *(f"{n or normalize(form, 'Zoë')}.png,{n}?,{n}" for n in range(6))]
        (scans / "q.csv").write_text("\n".join(lines))
        assert import_data(scans / "q.csv", scans.parent / form).questions["train"] == 4


def test_the_next_command_has_a_name_that_a_study_may_have(scans):
    as_jsonl(scans)
    done = import_data(scans / "q.jsonl", scans.parent / "benchmarks")
    assert "NAME=benchmarks_study" in summary(done, scans)[-1]
