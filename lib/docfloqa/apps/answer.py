"""A table of questions about a folder of pages, answered in one go; what is answered once is not answered again."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor
from tqdm.auto import tqdm

from docfloqa.apps.ask import check_question, is_unlike, novelty
from docfloqa.data.images import PageError, count_pages, read_bytes, read_page
from docfloqa.data.importing.tables import SEPARATOR, TableError, cells_of
from docfloqa.exceptions import RunError, shown
from docfloqa.files import expanded, held, is_folder, write_whole
from docfloqa.metrics import anls
from docfloqa.runs.run import Run
from docfloqa.training.batches import QuestionCollator, resized, split
from docfloqa.training.evaluation import evaluate

SUFFIXES = {".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp"}
AT_ONCE = 64  # questions between two times that answers are kept
COLUMNS = ["row", "file", "page", "question", "answer", "confidence", "novelty", "error"]


@dataclass(frozen=True)
class Task:
    """A question about a page: `row` of the table (the header is 1), `file` in the folder, what is wrong if anything.

    `state` is the file's size and time, so that a page that has changed is asked again.
    """

    row: int
    file: str
    page: int
    question: str
    accepted: tuple[str, ...]
    state: tuple[int, int] | None = None
    error: str = ""

    @property
    def path(self) -> str:
        """The file as it is found here, also where it is named as on Windows."""
        return self.file.replace("\\", "/")

    @property
    def key(self) -> str:
        """What is the same only for the same question about the same page."""
        return json.dumps([self.row, self.file, self.page, self.question, self.state])


class Ready:
    """Resized pages by name, as a collator takes them."""

    def __init__(self, pages: dict[str, Tensor]):
        self.pages = pages

    def stack(self, names: list[str]) -> Tensor:
        """Some pages, (pages, channels, rows, columns)."""
        return torch.stack([self.pages[name] for name in names])


def answer_folder(run: Run, folder: Path, questions: Path, out: Path) -> pd.DataFrame:
    """Answer every question of a table with a run's best model, and write the answers to `out` (.csv or .json).

    One row per question and page: row, file, page, question, answer, confidence (in [0, 1]), novelty (above 1 the page
    is unlike those in training), error, and where the table has them answers and anls. A page that cannot be read is
    told in its rows. Until all is answered the answers are in `out` with ".part" after its name, from where the same
    call goes on. Raises `TableError`, or what the run's model raises, before anything is answered.
    """
    folder, questions, out = expanded(folder), expanded(questions), expanded(out)
    if out.suffix not in (".csv", ".json") or not is_folder(out.resolve().parent):
        raise TableError(f"out is {str(out)!r}; allowed is a file .csv or .json in a folder that is there")
    if not is_folder(folder):
        raise TableError(f"there is no folder {shown(str(folder))}")
    with held(f"answers-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]}", f"{out}"):
        if out.exists():
            raise TableError(f"{str(out)!r} is there already; name another file, or delete it to answer again")
        tasks = tasks_of(questions, folder)
        part = out.with_name(f"{out.name}.part")
        done = _kept(part, run.id)
        if pending := [task for task in tasks if task.key not in done]:
            with part.open("a") as kept:
                for task, answer in _answers(run, folder, pending, len(tasks)):
                    done[task.key] = answer
                    kept.write(json.dumps({"run": run.id, "key": task.key, "answer": answer}) + "\n")
                    kept.flush()
        frame = _frame(tasks, done)
        write_whole(out, frame.to_csv(index=False) if out.suffix == ".csv" else _as_json(frame))
        part.unlink(missing_ok=True)
    return frame


def tasks_of(table: Path, folder: Path) -> list[Task]:
    """What a table asks of the pages in a folder; a question without a file is asked of every page there is.

    Raises `TableError` for a file that is no such table and for a folder without a page.
    """
    rows, asked = read_rows(table), []
    names = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not names and not all(row["file"] for _, row in rows):
        raise TableError(f"{str(folder)!r} has no page; allowed are files {', '.join(sorted(SUFFIXES))}")
    known: dict[Path, tuple[int, str]] = {}
    for number, row in rows:
        accepted = tuple(filter(None, map(str.strip, row["answers"].split(SEPARATOR))))
        for path in [folder / row["file"].replace("\\", "/")] if row["file"] else names:
            if path not in known:
                known[path] = _count(path)
            pages, wrong = known[path]
            wrong = wrong or _wrong(row)
            chosen = [int(row["page"])] if row["page"] and not wrong else range(1, pages + 1)
            state = None if wrong else (path.stat().st_size, path.stat().st_mtime_ns)
            name = row["file"] or path.relative_to(folder).as_posix()
            asked += [Task(number, name, page, row["question"], accepted, state, wrong) for page in chosen]
    return asked


def read_rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV with a number each: question, and file, page and answers, "" where there is none."""
    rows = cells_of(table)
    header = [name.lower() for name in rows.pop(min(rows))] if rows else []
    if "question" not in header:
        raise TableError(
            f"{str(table)!r} has the columns {shown(', '.join(header))}; allowed are question and, where wanted, file, "
            "page and answers"
        )
    header = ["file" if name == "image" and "file" not in header else name for name in header]
    found = []
    for number, cells in rows.items():
        row = dict.fromkeys(("question", "file", "page", "answers"), "")
        row |= dict(zip(header, cells, strict=False))
        if any(cells):
            found.append((number, row))
    if not found:
        raise TableError(f"{str(table)!r} has no row with a question")
    return found


def _wrong(row: dict[str, str]) -> str:
    try:
        check_question(row["question"])
    except RunError as error:
        return str(error)
    if row["page"] and not (row["page"].isdecimal() and row["file"]):
        return f"page is {row['page']!r}; allowed is a number from 1 on, of a file that is named"
    return ""


def _count(path: Path) -> tuple[int, str]:
    """How many pages a file has, and what is wrong with it; one page that cannot be read where there is none."""
    try:
        content = read_bytes(path)
    except PageError as error:
        return 1, str(error)
    try:
        return count_pages(content), ""
    except PageError:
        # Why not is said where it is opened.
        return 1, ""


def _answers(run: Run, folder: Path, tasks: list[Task], whole: int) -> Iterator[tuple[Task, dict[str, Any]]]:
    model, processor = run.load()
    with tqdm(total=whole, initial=whole - len(tasks), desc="answering", unit="question") as bar:
        for few in split(sorted(tasks, key=lambda task: (task.file, task.page, task.row)), AT_ONCE):
            pages, novel, wrong, asked = {}, {}, {}, []
            for task in few:
                name = f"{task.file}:{task.page}"
                if not task.error and name not in pages | wrong:
                    try:
                        image = read_page(folder / task.path, task.page)
                        pages[name], novel[name] = resized(image, processor), novelty(model, image)
                    except PageError as error:
                        wrong[name] = str(error)
                if error := task.error or wrong.get(name):
                    yield task, {"error": error}
                else:
                    asked.append((task, name))
            if asked:
                rows = [
                    {"questionId": str(place), "page": name, "document_id": name, "question": task.question}
                    for place, (task, name) in enumerate(asked)
                ]
                # The accepted answer is for the loss, which nobody sees here.
                rows = Dataset.from_list([{**row, "question_types": [], "answers": [""]} for row in rows])
                collator = QuestionCollator(rows, model, processor, run.settings.prefix, Ready(pages))
                made = evaluate(model, collator, run.settings)
                for (task, name), one in zip(asked, made.itertuples(), strict=True):
                    told = {"answer": one.prediction, "confidence": float(one.confidence), "novelty": novel[name]}
                    yield task, told
            bar.update(len(few))


def _kept(part: Path, run: str) -> dict[str, dict[str, Any]]:
    """The answers that an earlier call has kept, by the key of their task; a line that was cut off is none."""
    if not part.is_file():
        return {}
    text, lines = part.read_text(), []
    for line in text.splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    if others := {line["run"] for line in lines} - {run}:
        raise TableError(f"{str(part)!r} holds answers of {', '.join(sorted(others))}; delete it to ask another run")
    if not text.endswith("\n"):
        # The next line would go on where this one was cut off.
        write_whole(part, "".join(f"{json.dumps(line)}\n" for line in lines))
    return {line["key"]: line["answer"] for line in lines}


def _frame(tasks: list[Task], done: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = [{**vars(task), "error": "", **done[task.key]} for task in tasks]
    frame = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "accepted"])
    if frame["accepted"].map(len).any():
        frame["answers"] = frame["accepted"].map(SEPARATOR.join)
        scored = frame[frame["accepted"].map(bool) & frame["answer"].notna()]
        frame["anls"] = pd.Series(map(anls, scored["answer"], scored["accepted"]), scored.index, dtype=float)
    return frame.drop(columns="accepted")


def _as_json(frame: pd.DataFrame) -> str:
    return frame.to_json(orient="records", indent=2, force_ascii=False)


def as_text(answers: pd.DataFrame, out: Path) -> str:
    """What came of it, in a few lines."""
    failed, unlike = answers[answers["error"] != ""], answers["novelty"].map(is_unlike, na_action="ignore").eq(True)
    lines = [f"{len(answers) - len(failed):,} answers are in {out}"]
    if unlike.any():
        lines.append(f"{unlike.sum():,} of them on pages unlike those in training (novelty above 1)")
    if len(failed):
        lines.append(f"{len(failed):,} questions without an answer, as the column error says; the first:")
        lines.append(f"  {failed['file'].iloc[0]}: {failed['error'].iloc[0]}")
    if "anls" in answers:
        lines.append(f"ANLS {100 * answers['anls'].mean():.1f} % on {answers['anls'].count():,} answers")
    return "\n".join(lines)
