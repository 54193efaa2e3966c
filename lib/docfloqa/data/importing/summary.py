"""What an import tells: problems of rows, a line for each kind, and what came of it."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from docfloqa.data.folds import DOCUMENTS_IN_A_FOLD
from docfloqa.data.schema import SPLITS
from docfloqa.exceptions import shown
from docfloqa.files import TINY_MODEL
from docfloqa.metrics import FEWEST_DOCUMENTS
from docfloqa.parameters import RESERVED
from docfloqa.settings import EMBEDDED, OWN, PROFILES

FOLDS = 5
FEWEST_FOR_STUDY = 2  # documents to validate on: answers on other documents' pages are asked for, too


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, numbered as its file is read: the header of a CSV is row 1."""

    row: int
    column: str
    value: str
    reason: str
    file: str = ""  # where there are several

    def where(self) -> str:
        return f"{self.file and f'{self.file} '}row {self.row}, {self.column} {shown(self.value)}"


def grouped(problems: Sequence[Problem]) -> list[str]:
    """A line for each reason, with the first row that has it and how many more there are."""
    alike: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        # Numbers and names in a reason tell of the row, not of the kind of problem.
        alike.setdefault((problem.column, re.sub(r"\d+|'[^']*'", "#", problem.reason)), []).append(problem)
    lines = []
    for first, *more in alike.values():
        several = f"{1 + len(more)} rows: {first.reason}; the first is {first.where()}"
        lines.append(several if more else f"{first.where()}: {first.reason}")
    return lines


@dataclass(frozen=True)
class Imported:
    """What came of an import: its kind, questions and documents by split, rows and files that were left out."""

    folder: Path
    kind: str
    questions: dict[str, int]
    documents: dict[str, int]
    left_out: list[Problem]
    left_aside: tuple[str, ...]
    answers: list[str]  # the first ones, which are trained on
    validation_share: float | None = None  # where what validates was drawn


def summary(done: Imported, source: str | Path) -> list[str]:
    """What came of an import, for people, the next command at the end."""
    counts = {split: done.questions.get(split, 0) for split in SPLITS}
    name = Path(source).name or source
    lines = [f"{name}: {done.kind}, {counts['train']} training and {counts['validation']} validation questions"]
    lines += [f"left aside: {name}" for name in done.left_aside]
    for split, count in done.questions.items():
        lines.append(f"{split}: {counted(count, 'question')} on {counted(done.documents[split], 'document')}")
    few, total = done.documents["validation"], sum(done.documents.values())
    if done.validation_share and round(done.validation_share * total) < FEWEST_FOR_STUDY:
        lines.append(
            f"too few documents for {100 * done.validation_share:g} % of them to validate on: {few} of {total} are, "
            "the fewest that a study needs"
        )
    if few < FEWEST_DOCUMENTS:
        lines.append(
            f"{counted(few, 'document')} to validate on: below {FEWEST_DOCUMENTS} no interval is given, and what "
            "differs may be chance"
        )
    lines.append("the first answer of a question is the one trained on; when answers are scored, any of them counts")
    lines += _long_answers(done.answers)
    whole = shlex.quote(str(done.folder.resolve()))
    if "train" not in done.questions:
        return [*lines, f"next: docfloqa evaluate RUN --data {whole}"]
    if few < FEWEST_FOR_STUDY:
        return [*lines, f"a study needs {FEWEST_FOR_STUDY} documents to validate on: add one before the next command"]
    folds = ""
    if few < FEWEST_DOCUMENTS and total >= FOLDS * DOCUMENTS_IN_A_FOLD:
        lines.append(f"--folds {FOLDS} validates every document once, by models that were not trained on it")
        folds = f" ARGS='--folds {FOLDS}'"
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", done.folder.resolve().name).strip("_-") or "mine"
    name = f"{name}_study" if name.lower() in RESERVED else name
    # make takes a "$" for the beginning of a variable.
    return [*lines, f"next: make study PROFILE={OWN} DATA={whole.replace('$', '$$')} NAME={name[:60]}{folds}"]


def _long_answers(answers: Sequence[str]) -> list[str]:
    # Not above: DATA is imported without it.
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(TINY_MODEL / "tokenizer.json"))
    # The token that begins an answer counts, too.
    lengths = [1 + len(encoding.ids) for encoding in tokenizer.encode_batch(list(answers), add_special_tokens=False)]
    tiny, own = EMBEDDED.max_new_tokens, PROFILES[OWN]["max_new_tokens"]
    if max(lengths) <= tiny:
        return []
    long, longest = (sum(length > allowed for length in lengths) for allowed in (tiny, own))
    return [
        f"{long} of {counted(len(lengths), 'first answer')} {'is' if long == 1 else 'are'} longer than {tiny} tokens, "
        f"which the tiny model may answer with, {longest} longer than the {own} of profile {OWN} (in tokens of the "
        f"tiny model, the shortest ones): --max-new-tokens {max(lengths)} allows for all"
    ]


def counted(count: int, what: str) -> str:
    """A number of things, "1 row" or "2 rows"."""
    return f"{count:,} {what}{'s' * (count != 1)}"
