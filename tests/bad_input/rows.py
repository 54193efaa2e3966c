"""Rows of parquet files that a data set must not take, or must take as they are."""

import tempfile
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image

from bad_input.case import BadInput, refused
from bad_input.images import PROGRAM, file_of, grey_tiff, noise
from bad_input.texts import ANY_TEXT, BLANK, TRICKY
from docfloqa.apps.browser import DocumentBrowser
from docfloqa.data.load import load_checked
from docfloqa.data.schema import FEATURES
from docfloqa.exceptions import DataError, SettingsError
from docfloqa.figures.data import questions
from docfloqa.settings import Settings

ROWS = 8  # in one case: reading a data set takes longer than checking a row
PAGE = file_of(noise(12, 9, 1), "PNG")
# Splits share no page.
PAGES = {"train": PAGE, "validation": file_of(noise(12, 9, 2), "PNG")}
TEXTS = ("questionId", "question", "ucsf_document_id", "ucsf_document_page_no", "data_split")


def row(split: str, number: int, **changes) -> dict:
    """A good row, but for the changes."""
    return {
        "questionId": f"{split}-{number}",
        "question": "What is the date?",
        "question_types": ["form"],
        "image": {"bytes": PAGES[split], "path": None},
        "docId": number,
        "ucsf_document_id": f"{split}-{number}",
        "ucsf_document_page_no": "1",
        "answers": ["1 May"],
        "data_split": split,
        **changes,
    }


def write(folder: Path, split: str, rows: list[dict]) -> Path:
    """Rows as a file of the data set in a folder; not by `datasets`, which would follow paths and addresses."""
    path = folder / f"{split}-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema), path)
    return path


def loaded(folder: Path):
    """The data set of a folder, checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_checked(Settings.profile("smoke", data=str(folder)))


def left_out(reason: str):
    """A check that rows with such changes are left out for this reason, and no others."""

    def check(changes: list[dict]) -> int:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            secret = folder / "secret.png"
            secret.write_bytes(PAGE)
            bad = [row("train", number + 2, **change) for number, change in enumerate(changes)]
            for one in bad:
                if one["image"] and one["image"]["path"] == "secret":
                    one["image"] = {"bytes": None, "path": str(secret)}
            write(folder, "train", [row("train", 0), row("train", 1), *bad])
            write(folder, "validation", [row("validation", 0), row("validation", 1)])
            dataset, checks = loaded(folder)
            told = [one["reason"] for one in checks.left_out]
            assert len(told) == len(changes) and all(one.startswith(reason) for one in told), checks.left_out
            assert dataset["train"]["questionId"][:] == ["train-0", "train-1"]
            assert (checks.read["train"], checks.kept["train"]) == (2 + len(changes), 2)
        return len(changes)

    return check


def kept(changes: list[dict]) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [row("train", number, **change) for number, change in enumerate(changes)]
        write(folder, "train", rows)
        write(folder, "validation", [row("validation", 0), row("validation", 1)])
        dataset, checks = loaded(folder)
        assert not checks.left_out
        for column in ("question", "answers"):
            assert dataset["train"][column][:] == [one[column] for one in rows]
        types = [[kind for kind in one["question_types"] or () if kind] for one in rows]
        assert dataset["train"]["question_types"][:] == types
        assert len(questions(dataset)) and DocumentBrowser(dataset).pages.options
    return len(changes)


def two_rows() -> pa.Table:
    return pa.Table.from_pylist([row("train", number) for number in range(2)], schema=FEATURES.arrow_schema)


def wrong_column(case) -> None:
    column, values = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = two_rows()
        place = table.column_names.index(column)
        table = table.remove_column(place)
        if values is not None:
            table = table.append_column(column, values)
        pq.write_table(table, folder / "train-00000-of-00001.parquet")
        write(folder, "validation", [row("validation", 0), row("validation", 1)])
        say = "has another type|cannot be read|no usable row" if values is not None else f"lacks the columns {column}"
        refused(DataError, say, loaded, folder)


def not_utf8(case) -> None:
    column, content = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = two_rows()
        values = pa.array([b"good", content], pa.binary())
        text = pa.Array.from_buffers(pa.string(), 2, values.buffers())
        table = table.set_column(table.column_names.index(column), column, text)
        pq.write_table(table.replace_schema_metadata(None), folder / "train-00000-of-00001.parquet")
        write(folder, "validation", [row("validation", 0), row("validation", 1)])
        refused(DataError, "(?i)another type|cannot be read", loaded, folder)


def no_parquet(case) -> None:
    share, content, split = case
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {split: write(folder, split, [row(split, number) for number in range(2)]) for split in SPLITS}
        whole = paths[split].read_bytes()
        paths[split].write_bytes(content if share is None else whole[: int(share * len(whole))])
        refused(DataError, "cannot be read|is empty", loaded, folder)


def source(name: str) -> None:
    try:
        settings = Settings.profile("smoke", data=name)
    except SettingsError as error:
        assert "data is" in str(error) and len(str(error)) < 1000
        return
    refused(DataError, "is not a folder|could not be had", load_checked, settings)


def odd_folder(name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / name
        folder.mkdir()
        for split in SPLITS:
            write(folder, split, [row(split, number) for number in range(2)])
        assert len(loaded(folder)[0]["train"]) == 2


SPLITS = ("train", "validation")
IMAGE_PATHS = ["/etc/passwd", "secret", "../secret.png", "file:///etc/passwd", "http://localhost:9/x.png", "/dev/zero"]
IMAGE_PATHS += ["zip://x.png::secret", "hf://datasets/a/b/x.png", "x" * 5000, "\0"]
NO_PAGES = [b"x", PAGE[:60], PROGRAM, grey_tiff(16, True, [0, 1]), file_of(Image.new("F", (3, 3)), "TIFF")]
WRONG_TYPES = {
    "questionId": [pa.array([{"a": 1}, {"a": 2}]), pa.array([["a"], ["b"]]), pa.array([b"\xff\xfe", b"b"])],
    "question": [pa.array([{"a": 1}, {"a": 2}]), pa.array([["a"], ["b"]])],
    "question_types": [pa.array([{"a": 1}, {"a": 2}]), pa.array(["a", "b"]), pa.array([[["a"]], [["b"]]])],
    "image": [pa.array([1, 2]), pa.array(["secret.png", "/etc/passwd"]), pa.array([b"x", b"y"])],
    "docId": [pa.array([[1], [2]]), pa.array([{"a": 1}, {"a": 2}])],
    "answers": [pa.array([[["a"]], [["b"]]]), pa.array(["a", "b"]), pa.array([{"a": "b"}, {"a": "c"}])],
}
images = st.fixed_dictionaries(
    {"image": st.sampled_from(NO_PAGES).map(lambda content: {"bytes": content, "path": None})}
)
several = {"min_size": ROWS, "max_size": ROWS}


def of(**changes):
    return st.lists(st.fixed_dictionaries(changes), **several)


READING = 0.25  # of as many as elsewhere: a case has several rows, or reads a whole data set

ROW_CLASSES = [
    BadInput(
        "row, question empty", "left out, recorded", of(question=BLANK | st.none()), left_out("empty question"), READING
    ),
    BadInput(
        "row, no answer",
        "left out, recorded",
        of(answers=st.none() | st.lists(BLANK | st.none(), max_size=3)),
        left_out("no answer"),
        READING,
    ),
    BadInput(
        "row, one answer empty",
        "left out, recorded: it would make silence right",
        of(answers=(BLANK | st.none()).map(lambda blank: ["1 May", blank])),
        left_out("an answer is empty"),
        READING,
    ),
    BadInput(
        "row, question id a second time",
        "left out, recorded",
        of(questionId=st.sampled_from(["train-0", "train-1"])),
        left_out("duplicate question id"),
        READING,
    ),
    BadInput(
        "row, document of validation",
        "left out of training, recorded",
        of(ucsf_document_id=st.sampled_from(["validation-0", "validation-1"])),
        left_out("document is also in validation"),
        READING,
    ),
    BadInput(
        "row, page of validation",
        "left out of training, recorded",
        of(image=st.just({"bytes": PAGES["validation"], "path": None})),
        left_out("page is also in validation"),
        READING,
    ),
    BadInput(
        "row, path in place of an image",
        "left out, recorded; no file is read, nothing is fetched",
        of(image=st.sampled_from(IMAGE_PATHS).map(lambda path: {"bytes": None, "path": path})),
        left_out("image is a path, not in the row"),
        READING,
    ),
    BadInput(
        "row, no image",
        "left out, recorded",
        of(image=st.sampled_from([None, {"bytes": None, "path": None}, {"bytes": b"", "path": None}])),
        left_out("no image"),
        READING,
    ),
    BadInput(
        "row, image that is no page",
        "left out, recorded",
        st.lists(images, **several),
        left_out("image cannot be decoded"),
        READING,
    ),
    BadInput(
        "row, ids missing",
        "filled",
        of(questionId=BLANK | st.none(), docId=st.none(), ucsf_document_id=st.sampled_from([None, ""])),
        kept,
        READING,
    ),
    BadInput(
        "row, any text",
        "kept, character for character",
        of(
            question=ANY_TEXT | TRICKY,
            answers=st.lists(ANY_TEXT | TRICKY, min_size=1, max_size=4),
            question_types=st.none() | st.lists(ANY_TEXT | st.none(), max_size=2),
        ),
        kept,
        READING,
    ),
    BadInput(
        "row, 10,000 answers or a million characters",
        "kept",
        st.sampled_from(
            [[{"answers": ["a"] * 10_000}], [{"answers": ["ab " * 333_333]}], [{"question": "what? " * 170_000}]]
        ),
        kept,
        READING,
    ),
    BadInput(
        "parquet, column missing or of another type",
        "an error that names it",
        st.sampled_from(
            [(name, values) for name, kinds in WRONG_TYPES.items() for values in kinds]
            + [(name, None) for name in ("question", "image", "answers")]
        ),
        wrong_column,
    ),
    BadInput(
        "parquet, text not in UTF-8",
        "an error that says so",
        st.tuples(st.sampled_from(TEXTS), st.sampled_from([b"\xff", b"\xc3", b"caf\xe9", b"\xed\xa0\x80"])),
        not_utf8,
        READING,
    ),
    BadInput(
        "parquet, truncated or none",
        "an error that names the data",
        st.tuples(st.none() | st.floats(0, 0.99), st.binary(max_size=99), st.sampled_from(SPLITS)),
        no_parquet,
        READING * 2,
    ),
    BadInput(
        "data, name of nothing",
        "an error that names it",
        st.sampled_from(
            ["~nobody-here/x", "x" * 300, "a/" * 600, "a\0b", "\ud800", "../..//x", "a\nb", "'; rm -rf /", "C:\\"]
        )
        | st.text(min_size=1).filter(lambda text: text.count("/") != 1 and text not in ("synth", ".", "~", "..")),
        source,
    ),
    BadInput(
        "data, folder with signs of patterns and addresses in its name",
        "read as any other folder",
        st.sampled_from(
            ["[a]", "a*b", "a?b", "{a,b}", "a b", "a::b", "a#b", "ä", "'a'", '"a"', "a%20b", "zip:", "**", "@1"]
        ),
        odd_folder,
        READING * 2,
    ),
]
