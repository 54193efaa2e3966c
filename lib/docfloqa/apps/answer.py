"""A table of questions about a folder of pages, answered in one go; what is answered once is not answered again."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from docfloqa.apps.ask import UNKNOWN, Asked, Loaded, answers, check_question, is_unlike, novelty
from docfloqa.data.images import PageError, count_pages, read_bytes, read_page
from docfloqa.data.importing.pages import file_below, page_number
from docfloqa.data.importing.tables import SEPARATOR, csv_table, texts
from docfloqa.exceptions import DataError, RunError, printable, shown
from docfloqa.files import expanded, held, is_folder, write_whole
from docfloqa.metrics import anls
from docfloqa.model.florence import weights_checksum
from docfloqa.settings import Settings
from docfloqa.training.batches import resized, split

SUFFIXES = {".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp"}
AT_ONCE = 64  # questions between two times that answers are kept
ASKED = ("question", "image", "page", "answers")
COLUMNS = ["row", "file", "page", "question", "answer", "confidence", "novelty", "error"]


@dataclass(frozen=True)
class Task:
    """A question about a page: `row` of the table (the header is 1), `file` as it is named, what is wrong if anything.

    `path` is where the file is, `state` its size and time, so that a page that has changed is asked again.
    """

    row: int
    file: str
    page: int
    question: str
    accepted: tuple[str, ...]
    path: Path | None = None
    state: tuple[int, int] | None = None
    error: str = ""

    @property
    def key(self) -> str:
        """What is the same only for the same question about the same page."""
        return json.dumps([self.row, self.file, self.page, self.question, self.state])


def answer_folder(asked: Asked, folder: Path, questions: Path, out: Path) -> pd.DataFrame:
    """Answer every question of a table with a model, a run's best one, and write the answers to `out` (.csv or .json).

    One row per question and page; confidence is in [0, 1], novelty above 1 where the page is unlike those in training.
    Until all is answered the answers are in `out` with ".part" after its name, from where the same call goes on. Raises
    `DataError`, or what loading the model raises, before anything is answered.
    """
    folder, questions, out = expanded(folder), expanded(questions), expanded(out)
    if out.suffix not in (".csv", ".json") or not is_folder(out.resolve().parent):
        raise DataError(f"out is {str(out)!r}; allowed is a file .csv or .json in a folder that is there")
    if not is_folder(folder):
        raise DataError(f"there is no folder {shown(str(folder))}")
    with held(f"answers-{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]}", f"{out}"):
        if out.exists():
            raise DataError(f"{str(out)!r} is there already; name another file, or delete it to answer again")
        tasks = tasks_of(questions, folder)
        part = out.with_name(f"{out.name}.part")
        # Before any file: of a model that is gone nothing is left.
        loaded = asked.load()
        who = asked.run.id if asked.run else f"model {asked.name} ({weights_checksum(loaded[0])[:16]})"
        done = _kept(part, who)
        if pending := [task for task in tasks if task.key not in done]:
            with part.open("a") as kept:
                for task, answer in _answers(loaded, asked.settings, pending, len(tasks)):
                    done[task.key] = answer
                    kept.write(json.dumps({"run": who, "key": task.key, "answer": answer}) + "\n")
                    kept.flush()
        frame = _frame(tasks, done)
        as_json = partial(frame.to_json, orient="records", indent=2, force_ascii=False)
        write_whole(out, frame.to_csv(index=False) if out.suffix == ".csv" else as_json())
        part.unlink(missing_ok=True)
    return frame


def tasks_of(table: Path, folder: Path) -> list[Task]:
    """What a table asks of a folder's pages, without a file named of all; raises `DataError` where there are none."""
    rows, asked = [*csv_table(table, ("question",), ASKED).read()], []
    if not rows:
        raise DataError(f"{str(table)!r} has no row with a question")
    pages = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.is_dir())
    files = sorted(path.relative_to(folder) for path in pages)
    # macOS puts ._scan.png beside scan.png.
    names = [path.as_posix() for path in files if not any(part.startswith(".") for part in path.parts)]
    if not names and not all(row.values.get("image") for row in rows):
        raise DataError(f"{str(folder)!r} has no page; allowed are files {', '.join(sorted(SUFFIXES))}")
    looked = cache(partial(_look, folder))
    for row in rows:
        cells, wrong = dict.fromkeys(ASKED, "") | row.values, row.wrong or _wrong(row.values)
        try:
            accepted = tuple(texts(cells["answers"], bars=True))
        except ValueError as error:
            accepted, wrong = (), wrong or f"answers {cells['answers']!r}: {error}"
        for name in [cells["image"]] if cells["image"] else names:
            path, pages, lost = looked(name)
            error = wrong or lost
            chosen = [page_number(cells["page"])] if cells["page"] and not error else range(1, pages + 1)
            state = None if error else (path.stat().st_size, path.stat().st_mtime_ns)
            asked += [Task(row.number, name, page, cells["question"], accepted, path, state, error) for page in chosen]
    return asked


def _wrong(cells: dict[str, str]) -> str:
    try:
        check_question(cells["question"])
        page = cells.get("page") and page_number(cells["page"])
    except (RunError, PageError) as error:
        return str(error)
    if page and not cells.get("image"):
        return f"page is {page} and no file is named; allowed is a page of a file that is named"
    return ""


def _look(folder: Path, name: str) -> tuple[Path | None, int, str]:
    """Where a file of the folder is, its pages (one where they cannot be told), and what is wrong with it."""
    path = None
    try:
        path = file_below(folder, name)
        content = read_bytes(path)
    except ValueError as error:
        return path, 1, str(error)
    try:
        return path, max(1, count_pages(content)), ""
    except PageError:
        # Why not is said where it is opened.
        return path, 1, ""


def _answers(
    loaded: Loaded, settings: Settings, tasks: list[Task], whole: int
) -> Iterator[tuple[Task, dict[str, Any]]]:
    model, processor = loaded
    with tqdm(total=whole, initial=whole - len(tasks), desc="answering", unit="question") as bar:
        for few in split(sorted(tasks, key=lambda task: (task.file, task.page, task.row)), AT_ONCE):
            pages, novel, wrong, asked = {}, {}, {}, []
            for task in few:
                name = f"{task.file}:{task.page}"
                if not task.error and name not in pages | wrong:
                    try:
                        image = read_page(task.path, task.page)
                        pages[name], novel[name] = resized(image, processor), novelty(model, image)
                    except PageError as error:
                        wrong[name] = str(error)
                if error := task.error or wrong.get(name):
                    yield task, {"error": error}
                else:
                    asked.append((task, name))
            if asked:
                made = answers(loaded, pages, [(name, task.question) for task, name in asked], settings)
                for (task, name), one in zip(asked, made.itertuples(), strict=True):
                    told = {"answer": one.prediction, "confidence": float(one.confidence), "novelty": novel[name]}
                    yield task, told
            bar.update(len(few))


def _kept(part: Path, run: str) -> dict[str, dict[str, Any]]:
    """The answers that an earlier call has kept, by the key of their task; a line that was cut off is none."""
    if not part.exists():
        return {}
    try:
        *lines, _cut = part.read_text().split("\n")
        kept = [(line["run"], line["key"], dict(line["answer"])) for line in map(json.loads, lines)]
        others = {str(other) for other, _, _ in kept} - {run}
    except (OSError, LookupError, TypeError, ValueError):
        raise DataError(f"{str(part)!r} holds no answers of an earlier call; move it, or name another --out") from None
    if others:
        raise DataError(f"{str(part)!r} holds answers of {', '.join(sorted(others))}; delete it to ask {run}")
    # The next line would go on where one was cut off.
    write_whole(part, "".join(f"{line}\n" for line in lines))
    return {key: answer for _, key, answer in kept}


def _frame(tasks: list[Task], done: dict[str, dict[str, Any]]) -> pd.DataFrame:
    rows = [{**vars(task), "error": "", **done[task.key], "file": printable(task.file)} for task in tasks]
    frame = pd.DataFrame(rows).reindex(columns=[*COLUMNS, "accepted"])
    if frame["accepted"].map(len).any():
        frame["answers"] = frame["accepted"].map(SEPARATOR.join)
        scored = frame[frame["accepted"].map(bool) & frame["answer"].notna()]
        frame["anls"] = pd.Series(map(anls, scored["answer"], scored["accepted"]), scored.index, dtype=float)
    return frame.drop(columns="accepted")


def as_text(answers: pd.DataFrame, out: Path) -> str:
    """What came of it, in a few lines."""
    failed, unlike = answers[answers["error"] != ""], answers["novelty"].map(is_unlike, na_action="ignore").eq(True)
    lines = [f"{len(answers) - len(failed):,} answers are in {out}"]
    if answers["novelty"].isna().all() and len(failed) < len(answers):
        lines.append(UNKNOWN.replace("this page is", "these pages are"))
    if unlike.any():
        lines.append(f"{unlike.sum():,} of them on pages unlike those in training (novelty above 1)")
    if len(failed):
        lines.append(f"{len(failed):,} questions without an answer, as the column error says; the first:")
        lines.append("  row {row}, {file}: {error}".format(**failed.iloc[0]))
    if "anls" in answers:
        lines.append(f"ANLS {100 * answers['anls'].mean():.1f} % on {answers['anls'].count():,} answers")
    return "\n".join(lines)
