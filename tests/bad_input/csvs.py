"""CSV files of questions: cells, encodings, and images that must not be reached through them."""

import csv
import io
import os
import tempfile
from pathlib import Path

import pandas as pd
from hypothesis import strategies as st

from bad_input.case import BadInput, refused
from bad_input.images import PROGRAM, file_of, noise
from bad_input.texts import ANY_TEXT, TRICKY
from docfloqa.data.importing.data_set import import_data
from docfloqa.exceptions import DataError
from docfloqa.files import FolderError

HEADER = ["image", "question", "answers"]
GOOD = [[f"{place}.png", f"What is {place}?", str(place)] for place in range(4)]
PAGES = [file_of(noise(9, 7, seed), "PNG") for seed in range(4)]


def scans(root: Path) -> Path:
    """A folder of four images, with what lies beside them that is none."""
    folder = root / "scans"
    folder.mkdir()
    for place, page in enumerate(PAGES):
        (folder / f"{place}.png").write_bytes(page)
    (root / "outside.png").write_bytes(PAGES[0])
    (folder / "link.png").symlink_to(root / "outside.png")
    (folder / "passwd.png").symlink_to("/etc/passwd")
    (folder / "up").symlink_to(root)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "program.png").write_bytes(PROGRAM)
    (folder / "empty.png").write_bytes(b"")
    os.mkfifo(folder / "pipe.png")
    return folder


def text_of(rows: list[list[str]]) -> str:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def imported(content: bytes, **further):
    """What comes of a CSV beside the images, and the frames that were written."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        path = scans(root) / "questions.csv"
        path.write_bytes(content)
        try:
            done = import_data(path, root / "data", **further)
        finally:
            assert not [one for one in root.iterdir() if ".part" in one.name]
        return done, pd.concat([pd.read_parquet(one) for one in sorted(done.folder.iterdir())])


def encoding(case) -> None:
    text, name = case
    content = text_of([HEADER, *GOOD, ["0.png", text, "x"]]).encode(name, errors="ignore")
    refused(DataError, "not in UTF-8", imported, content)


def header(columns: list[str]) -> None:
    content = text_of([columns, *GOOD]).encode()
    refused(DataError, "lacks the columns|twice", imported, content)


def image_path(name: str) -> None:
    content = text_of([HEADER, *GOOD, [name, "Where?", "x"]]).encode()
    refused(DataError, "row 6, image|not in UTF-8", imported, content)
    if "\0" not in name:
        done, frame = imported(content, skip_bad_rows=True)
        assert len(frame) == 4 and [problem.row for problem in done.left_out] == [6]


def cell(texts: list[str]) -> int:
    texts = [text for text in texts if text.strip() and "\0" not in text]
    rows = [["0.png", f"{place} {text}", text] for place, text in enumerate(texts)]
    done, frame = imported(text_of([HEADER, *GOOD, *rows]).encode())
    assert not done.left_out
    asked = dict(zip(frame["question"], frame["answers"].map(list), strict=True))
    for _, question, answers in rows:
        parts = [part.strip() for part in answers.split("|")]
        # What is only separators is no answer, and told elsewhere.
        assert asked[question.strip()] == list(dict.fromkeys(filter(None, parts)))
    return len(texts)


def only_separators(case) -> None:
    bars, blank = case
    content = text_of([HEADER, *GOOD, ["0.png", "Where?", blank.join("|" * bars)]]).encode()
    refused(DataError, "row 6, answers.*no answer", imported, content)


def structure(text: str) -> None:
    refused(DataError, "cannot be read after row|rows? cannot be used|lacks|questions on", imported, text.encode())


def any_bytes(content: bytes) -> None:
    refused(DataError, "questions.csv", imported, content)


def share(value) -> None:
    content = text_of([HEADER, *GOOD]).encode()
    refused(DataError, "validation_share is", imported, content, validation_share=value)


def place(name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        path = scans(Path(root)) / "questions.csv"
        path.write_text(text_of([HEADER, *GOOD]))
        (path.parent / "file").write_text("x")
        refused(FolderError, "cannot be made|is a file|not empty", import_data, path, path.parent / name)
        refused(DataError, "no folder of images", import_data, path, Path(root) / "new", Path(root) / "\0" / name)


IMAGE_PATHS = "../outside.png|/etc/passwd|/dev/zero|link.png|passwd.png|up/outside.png|loop.png|pipe.png|.|..|/|".split(
    "|"
)
IMAGE_PATHS += [
    "x" * 300,
    "x/" * 3000,
    "none.png",
    "0.png/x",
    "program.png",
    "empty.png",
    "~root/x.png",
    "a\0.png",
    "file:///etc/passwd",
]
IMAGE_PATHS += [
    "http://localhost:9/x.png",
    "C:\\x.png",
    "..\\outside.png",
    "questions.csv",
    "%2e%2e/outside.png",
    "\u202e",
]
TEXT = "image,question,answers\n"
STRUCTURES = [
    TEXT + '0.png,"a?,1\n1.png,b?,2\n',
    TEXT + '0.png,"a"b,1\n',
    TEXT + "0.png,a?,1,2\n",
    TEXT + "0.png,a?\n",
    TEXT + "0.png," + "x" * 10**6 + ",1\n",
    TEXT,
    TEXT + "\n\n\n",
    TEXT + ",,\n" * 1000,
    TEXT + "0.png,a?,1\r1.png,b?,2\r",
    "\n" + TEXT,
    "sep=;\n" + TEXT,
    "x" * 10**6,
    '"' * 999,
    "image|question|answers\n0.png|a?|1\n",
]
names = st.sampled_from([*HEADER, "split", "document", "question_id", "x", "", "Image ", "replies", "IMAGE"])
CSV_CLASSES = [
    BadInput(
        "CSV, another encoding",
        "an error that names the first wrong byte and its line",
        st.tuples(
            st.sampled_from(["é", "Zoë", "ñ", "ÿ"]), st.sampled_from(["latin-1", "cp1252", "utf-16-le", "utf-16-be"])
        ),
        encoding,
        0.4,
    ),
    BadInput(
        "CSV, column missing or twice",
        "an error that names the column",
        st.lists(names, max_size=6).filter(
            lambda found: any([one.strip().lower() for one in found].count(name) != 1 for name in HEADER)
        ),
        header,
    ),
    BadInput(
        "CSV, image outside, none, or endless",
        "the row told; nothing outside is read",
        st.sampled_from(IMAGE_PATHS),
        image_path,
    ),
    BadInput(
        "CSV, formulas and markup in cells",
        "kept, character for character",
        st.lists((TRICKY | ANY_TEXT).filter(lambda text: text.strip(" |\0\t\r\n")), min_size=8, max_size=8),
        cell,
        0.4,
    ),
    BadInput(
        "CSV, answers that are separators",
        "the row told",
        st.tuples(st.integers(0, 9), st.sampled_from(["", " ", "\t"])),
        only_separators,
        0.5,
    ),
    BadInput(
        "CSV, quotes, rows and cells out of shape",
        "an error that names the row",
        st.sampled_from(STRUCTURES),
        structure,
    ),
    BadInput(
        "CSV, any bytes",
        "an error that names the file",
        st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
        any_bytes,
    ),
    BadInput(
        "CSV, share for validation",
        "an error that shows it",
        st.sampled_from([0, 1, -1, 2.0, float("nan"), float("inf"), 10**400]),
        share,
        0.3,
    ),
    BadInput(
        "CSV, folder that cannot be written",
        "an error; nothing is made",
        st.sampled_from(["file", "file/x", "x" * 300, "a\0b", "loop.png/x", "."]),
        place,
        0.3,
    ),
]
