"""A folder of pages and a table of questions: all answered once, and what is wrong told in its row."""

import json
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from small_study import small_study

from docfloqa import verbs
from docfloqa.apps import answer as answering
from docfloqa.apps.answer import answer_folder, as_text, tasks_of
from docfloqa.apps.ask import UNKNOWN, Asked, answer
from docfloqa.data.images import read_page
from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import DataError, RunError
from docfloqa.files import TINY_MODEL
from docfloqa.metrics import anls
from docfloqa.runs.results import find_run
from docfloqa.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("answering")))
        small_study(ratios=(0.33,))
        yield find_run("embedded/vision033")


def asked_of(run: Run) -> Asked:
    return Asked(run.name, run, run.settings)


@pytest.fixture
def scans(tmp_path, run) -> Path:
    """Two pages in a PDF, one as an image in a folder below, one file that is no page."""
    folder = tmp_path / "scans"
    (folder / "below").mkdir(parents=True)
    rows = load_docvqa(run.settings, "validation")
    pages = [rows[place]["image"].convert("RGB") for place in (0, len(rows) // 2, len(rows) - 1)]
    pages[0].save(folder / "two.pdf", save_all=True, append_images=pages[1:2], resolution=72)
    pages[2].save(folder / "below" / "one.png")
    (folder / "broken.png").write_text("no image")
    return folder


def table(folder: Path, *lines: str) -> Path:
    path = folder.parent / "questions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_question_is_answered_as_ask_answers_it(run, scans):
    path = table(scans, "question", "What is the total, please?", "What is the date?")
    frame = answer_folder(asked_of(run), scans, path, scans.parent / "answers.csv")
    assert frame["file"].tolist() == 2 * ["below/one.png", "broken.png", "two.pdf", "two.pdf"]
    assert frame["page"].tolist() == 2 * [1, 1, 1, 2] and frame["row"].tolist() == [2] * 4 + [3] * 4
    assert frame["question"].iloc[0] == "What is the total, please?"
    model, processor = run.load()
    for row in frame[frame["error"] == ""].itertuples():
        expected = answer((model, processor), read_page(scans / row.file, row.page), row.question, run.settings)
        assert row.answer == expected["text"] and row.confidence == pytest.approx(expected["confidence"], abs=1e-3)
    assert frame[frame["error"] != ""]["error"].str.contains("no image that can be decoded").tolist() == [True] * 2
    kept = pd.read_csv(scans.parent / "answers.csv", keep_default_na=False)
    assert kept["answer"].tolist() == frame["answer"].fillna("").tolist()
    assert "6 answers are in" in as_text(frame, "x") and "2 questions without an answer" in as_text(frame, "x")
    assert not list(scans.parent.glob("*.part"))
    with pytest.raises(DataError, match="is there already"):
        answer_folder(asked_of(run), scans, path, scans.parent / "answers.csv")


def test_rows_name_files_and_pages_and_what_is_wrong_is_told_in_them(run, scans):
    lines = ["below\\one.png;;a?;x|y", "two.pdf;2;b?;", "two.pdf;3;c?;", "none.png;;d?;", "two.pdf;;;", ";2;e?;", ""]
    path = table(scans, "image;page;question;answers", *lines)
    frame = answer_folder(asked_of(run), scans, path, scans.parent / "answers.json").groupby("row").first()
    assert list(frame["error"].eq("")) == [True, True, False, False, False, False] and frame["page"][3] == 2
    for row, told in {
        4: "has 2 pages, and page is 3",
        5: "there is no file",
        6: "question is ''",
        7: "page is 2 and no file is named",
    }.items():
        assert told in frame["error"][row]
    [first, *_] = json.loads((scans.parent / "answers.json").read_text())
    assert first["answers"] == "x|y" and first["anls"] == anls(first["answer"], ["x", "y"])
    assert "ANLS" in as_text(frame.reset_index(), "x") and "on 1 answers" in as_text(frame.reset_index(), "x")


def test_every_page_of_a_file_of_several_is_asked(tmp_path):
    pages = [Image.new("L", (60, 80), 80 * place) for place in range(3)]
    (tmp_path / "scans").mkdir()
    pages[0].save(tmp_path / "scans" / "three.tiff", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "scans" / "three.pdf", save_all=True, append_images=pages[1:])
    asked = answering.tasks_of(table(tmp_path / "scans", "question", "a?"), tmp_path / "scans")
    assert [(task.file, task.page) for task in asked] == [
        (f"three.{kind}", page) for kind in ("pdf", "tiff") for page in (1, 2, 3)
    ]


def test_a_killed_one_goes_on_and_nothing_is_answered_twice(run, scans, monkeypatch):
    path, out = table(scans, "question", "a?", "b?"), scans.parent / "answers.csv"
    whole = answer_folder(asked_of(run), scans, path, scans.parent / "whole.csv")
    monkeypatch.setattr(answering, "AT_ONCE", 2)
    answers, asked, most = answering.answers, [], 2

    def counted(loaded, pages, questions, settings):
        if len(asked) == most:
            raise KeyboardInterrupt
        asked.append(len(questions))
        return answers(loaded, pages, questions, settings)

    monkeypatch.setattr(answering, "answers", counted)
    with pytest.raises(KeyboardInterrupt):
        answer_folder(asked_of(run), scans, path, out)
    part = out.with_name("answers.csv.part")
    assert len(part.read_text().splitlines()) == 6 and not out.exists()
    # Killed while it wrote the last line.
    part.write_text(part.read_text()[:-10])
    asked[:], most = [], None
    again = answer_folder(asked_of(run), scans, path, out)
    assert sum(asked) == 3 and not part.exists()
    columns = ["row", "file", "page", "answer", "error"]
    assert again[columns].equals(whole[columns])


def test_a_page_that_has_changed_is_asked_again(run, scans):
    path, out = table(scans, "question,file", "a?,below/one.png"), scans.parent / "answers.csv"
    part = out.with_name("answers.csv.part")
    [task] = answering.tasks_of(path, scans)
    part.write_text(json.dumps({"run": run.id, "key": task.key, "answer": {"answer": "of before"}}) + "\n")
    Image.new("L", (200, 300), 255).save(scans / "below" / "one.png")
    assert answer_folder(asked_of(run), scans, path, out)["answer"].tolist() != ["of before"]
    out.unlink()
    part.write_text(json.dumps({"run": "another", "key": "", "answer": {}}) + "\n")
    with pytest.raises(DataError, match="holds answers of another"):
        answer_folder(asked_of(run), scans, path, out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "lacks the columns question; it has nothing"),
        (b"frage,file\na,b\n", "lacks the columns question; it has frage, file"),
        (b"question\n\n", "no row with a question"),
        ("question\nWas heißt es?".encode("latin-1"), "iconv -f CP1252"),
        (b'question,file\n"What?,a.png\n', "cannot be read after row"),
    ],
)
def test_what_is_no_table_of_questions_is_refused(run, scans, content, message):
    path = scans.parent / "questions.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        answer_folder(asked_of(run), scans, path, scans.parent / "answers.csv")


@pytest.fixture
def pages(tmp_path) -> Path:
    """A folder of pages that nobody answers about."""
    folder = tmp_path / "pages"
    folder.mkdir()
    Image.new("L", (60, 80), 99).save(folder / "a.png")
    return folder


def asked(pages: Path, content: str | bytes) -> list[answering.Task]:
    path = pages.parent / "questions.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tasks_of(path, pages)


@pytest.mark.parametrize("blank", ["", ";;\r\n\r\n"])
def test_a_table_as_spreadsheets_save_it_is_read(blank, pages):
    tasks = asked(pages, f'\ufeff{blank}Query;File name;Page\r\n"What;\r\nnow?";a.png;3.0\r\nshort\r\n')
    assert [(task.question, task.file, task.page) for task in tasks] == [
        ("What;\r\nnow?", "a.png", 3),
        ("short", "a.png", 1),
    ]
    [task] = asked(pages, "question,file\nWas heißt es?,a.png\n".encode("utf-16"))
    assert task.question == "Was heißt es?"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("What is a, b?,a.png", "has 3 cells; allowed are 2"),
        ("a?,/etc/passwd", "outside of the folder of images"),
        ("a?,../outside.png", "outside of the folder of images"),
        ("a?,link.png", "outside of the folder of images"),
        ("a?,C:\\scans\\a.png", "is a whole path of Windows"),
        (f"a?,{'x' * 300}", "names no file .File name too long"),
        ("a?,.", "it is no file"),
    ],
)
def test_what_import_refuses_is_refused_here_and_told_in_its_row(row, told, pages):
    Image.new("L", (60, 80)).save(pages.parent / "outside.png")
    (pages / "link.png").symlink_to(pages.parent / "outside.png")
    [task] = asked(pages, f"question,file\n{row}\n")
    assert re.search(told, task.error)


@pytest.mark.parametrize("page", ["0", "-1", "1-2", "1.5", "²", "٣", "9" * 5000])
def test_a_page_that_is_no_number_is_told_in_its_row(page, pages):
    [task] = asked(pages, f"question,file,page\na?,a.png,{page}\n")
    assert task.error.startswith("page is ") and "allowed is a whole number from 1" in task.error


def test_a_column_that_is_there_twice_is_refused_and_a_written_list_is_several_answers(pages):
    with pytest.raises(DataError, match="has question twice"):
        asked(pages, "question,question\na?,b?\n")
    good, cut = asked(pages, "question,answers\na?,\"['0', '0 USD']\"\nb?,\"['0', 0]\"\n")
    assert good.accepted == ("0", "0 USD") and "looks like a list that is cut" in cut.error


def test_what_other_systems_leave_in_a_folder_is_no_page_and_any_name_of_a_file_is_written(pages):
    (pages / "__MACOSX").mkdir()
    (pages / "folder.pdf").mkdir()
    for name in (b"__MACOSX/._a.png", b".hidden.png", b"caf\xe9.png"):
        Path(os.fsdecode(bytes(pages) + b"/" + name)).write_bytes((pages / "a.png").read_bytes())
    tasks = asked(pages, "question\na?\n")
    frame = answering._frame(tasks, {task.key: {"answer": "x", "confidence": 1.0, "novelty": None} for task in tasks})
    assert frame["file"].tolist() == ["a.png", r"caf\udce9.png"]
    frame.to_csv(pages / "answers.csv")


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"5\n", b"[1]\n", b"{}\n", b"\xff\n", b'{"run": "r", "key": "k"}\n', None]
)
def test_a_file_that_is_in_the_way_is_left_as_it_is(content, tmp_path):
    part = tmp_path / "answers.csv.part"
    part.mkdir() if content is None else part.write_bytes(content)
    with pytest.raises(DataError, match="holds no answers of an earlier call"):
        answering._kept(part, "r")
    assert content is None or part.read_bytes() == content


def test_where_nothing_can_be_answered_or_written_it_is_said_first(run, scans, tmp_path):
    path = table(scans, "question", "a?")
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, out, message in (
        (scans, "answers.txt", r"allowed is a file \.csv or \.json"),
        (scans, "nowhere/answers.csv", "in a folder that is there"),
        (empty, "answers.csv", "has no page"),
        (tmp_path / "none", "answers.csv", "there is no folder"),
    ):
        with pytest.raises(DataError, match=message):
            answer_folder(asked_of(run), folder, path, tmp_path / out)


def test_the_verb_gives_data_and_a_text(run, scans):
    path, out = table(scans, "question,file", "a?,below/one.png"), scans.parent / "answers.csv"
    data, text = verbs.answer("embedded/vision033", scans, path, out)
    assert data["run"] == run.name and len(data["answers"]) == 1 and text.startswith("1 answers are in")


def test_the_folder_of_a_model_answers_as_a_run_does_and_is_known_by_its_weights(run, scans, monkeypatch):
    path, out = table(scans, "question,file", "a?,below/one.png"), scans.parent / "answers.csv"
    data, text = verbs.answer(str(TINY_MODEL), scans, path, out)
    assert len(data["answers"]) == 1 and "".join(data["answers"]["error"]) == "" and data["run"] == str(TINY_MODEL)
    # Of pages that it was not trained on here nothing is known.
    assert UNKNOWN.replace("this page is", "these pages are") in text
    out.unlink()
    part = out.with_name("answers.csv.part")
    part.write_text(json.dumps({"run": run.id, "key": "", "answer": {}}) + "\n")
    with pytest.raises(DataError, match=rf"holds answers of {run.id}; delete it to ask model .*\([0-9a-f]{{16}}\)"):
        verbs.answer(str(TINY_MODEL), scans, path, out)


def test_of_a_model_that_is_gone_nothing_is_left(run, scans, monkeypatch):
    def gone(_):
        raise RunError("no weights")

    monkeypatch.setattr(Run, "load", gone)
    with pytest.raises(RunError, match="no weights"):
        answer_folder(asked_of(run), scans, table(scans, "question", "a?"), scans.parent / "answers.csv")
    assert not [*scans.parent.glob("answers.csv*")]
