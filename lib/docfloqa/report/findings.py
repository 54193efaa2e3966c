"""What a study found in three sentences, what was not run, what to do next, and what people tell of it."""

import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from docfloqa.analysis.contrasts import Comparison, made, ratio_contrasts
from docfloqa.analysis.intervals import RATIO, Interval, percent
from docfloqa.analysis.robustness import ROBUSTNESS, scored
from docfloqa.analysis.tables import page_use_scores
from docfloqa.arms import ARMS
from docfloqa.data.hub import HUB_FOLDERS
from docfloqa.data.sources import TRAINING_DATA
from docfloqa.files import output_folder, reports_folder
from docfloqa.metrics import FEWEST_DOCUMENTS
from docfloqa.report.verdicts import BETTER, MARGIN, WORSE, reads_pages, validated_on, verdicts
from docfloqa.runs.plans import study_command
from docfloqa.runs.results import Study

# Tags of the report's cells about the published study, of what people tell, and of those about an arm ("arms": any).
PUBLISHED, TOLD, ARM = "published", "told", "arm-"


def is_own(study: Study) -> bool:
    """Whether a study is of documents of one's own: neither drawn ones nor DocVQA as the published study had it."""
    data = {source.partition("@")[0] for source in (study.settings.data, study.settings.validation_data) if source}
    return not data <= {"synth", TRAINING_DATA, *HUB_FOLDERS}


def left_out(study: Study) -> list[str]:
    """Tags of cells that a report lacks: what nobody tells, arms that were not made, in one's own what is published."""
    lacking = [arm for arm in ARMS if not study.arm(arm)]
    left = [*([] if _told(study) else [TOLD]), *([PUBLISHED] if is_own(study) else [])]
    return [*left, *(ARM + arm for arm in lacking), *(["arms"] if len(lacking) == len(ARMS) else [])]


def findings(study: Study, margin: float = MARGIN) -> list[str]:
    """Three sentences: whether the pages are read, whether a share is better, how many documents would settle it."""
    pairs = made(ratio_contrasts(study))
    found = verdicts(study, margin)
    verdict_of = dict(found[found["part"] == "ratios"][["comparison", "verdict"]].itertuples(index=False))
    return [_reads(study), _better(pairs, verdict_of), _settled(pairs, verdict_of, margin, study.tested)]


def _reads(study: Study) -> str:
    best = study.last_answers.groupby(RATIO)["anls"].mean().idxmax()
    used = page_use_scores(study).set_index([RATIO, "metric"])
    own, wrong = (Interval(*used.loc[(best, name), ["estimate", "low", "high"]]) for name in ("own", "wrong"))
    whose = "your" if is_own(study) else "the"
    exact = 100 * study.last_answers.query(f"{RATIO} == @best")["exact_match"].mean()
    scores = (
        f"with {percent(best)} of the vision encoder trained, ANLS is {own.format(100)} with a question's own page "
        f"(exact match {exact:.1f} %) and {wrong.format(100)} with another document's"
    )
    return f"**{'It reads' if reads_pages(study) else 'Not shown to read'} {whose} pages**: {scores}."


def _better(pairs: list[Comparison], verdict_of: dict[str, str]) -> str:
    if not pairs:
        return "**No share is compared**: one share of the vision encoder has complete runs."
    shown = [pair for pair in pairs if verdict_of[pair.name] in (BETTER, WORSE)]
    most = max(shown or pairs, key=lambda pair: abs(pair.difference.estimate))
    difference = f"{most.groups} = {most.difference.interval().format(100)} points of ANLS"
    if not shown:
        return f"**No share is shown to be better**: the largest difference is {difference}."
    return f"**A share is better**: {difference} ({len(shown)} of {len(pairs)} differences are shown)."


def _settled(pairs: list[Comparison], verdict_of: dict[str, str], margin: float, tested: bool) -> str:
    unsettled = [pair.difference for pair in pairs if verdict_of[pair.name] == "not settled"]
    if not unsettled:
        return "**No further documents are needed** for these comparisons."
    documents = unsettled[0].documents
    if documents < FEWEST_DOCUMENTS:
        more = FEWEST_DOCUMENTS - documents
        split = "be in the test split" if tested else "validate"
        return f"**{more} more documents** must {split} before anything can be settled: {documents} do."
    needed = max(one.documents_needed(margin / 100) for one in unsettled)
    about = f"a true difference of {margin:g} points would be shown in 4 of 5 studies"
    if any(math.isnan(one.documents_needed(margin / 100)) for one in unsettled):
        return "**How many documents would settle it is unknown**: some shares gave the very same answers."
    if needed == math.inf:
        return f"**More documents alone would not settle it**: seeds vary too much for that {about}."
    if needed <= documents:
        return f"**No further documents are needed**: with {documents}, {about}; what is not settled is smaller."
    seeds = unsettled[0].seeds
    of = "this one seed" if seeds == 1 else f"{seeds} seeds"
    return f"**About {needed - documents:,} more documents** would settle it: with {needed:,}, {about} ({of})."


def not_run(study: Study) -> str:
    """What the study was not made with, in a line; empty where it has everything."""
    lacking = [f"the arm `{arm}`" for arm in ARMS if not study.arm(arm)]
    lacking += [] if ROBUSTNESS in scored(study) else ["bad scans"]
    return f"Not run: {', '.join(lacking)}." if lacking else ""


def to_do(study: Study) -> str:
    """What to do next, with the command."""
    documents = study.compared["document_id"].nunique()
    settings, more = study.settings, "Next: label more documents."
    if documents < FEWEST_DOCUMENTS and not settings.folds:
        if study.arms or study.tested or settings.validation_data or settings.validation_questions:
            # None of them goes with folds.
            return more
        again = study_command(study.name, (), "--folds", "5", "--name", f"{study.name}-folds")
        return f"Next: validate on every document, `{again}`; then label more."
    if not reads_pages(study):
        return "Next: train for longer (`--epochs`) or at a higher rate (`--learning-rate`), under another `--name`."
    if study.settings.folds:
        # The best of several folds would be that of the easiest documents.
        how = "with the same command without `--folds`, under another `--name`"
        return f"Next: train one model on all documents, {how}."
    best = study.epochs.loc[study.epochs.query("epoch > 0")["anls"].idxmax(), "run"]
    export = shlex.join(["docfloqa", "export", f"{study.name}/{best}", "my_model"])
    return f"Next: take the best model with you, `{export}`."


def next_steps(study: Study, files: Sequence[Path]) -> str:
    """Where the report's `files` are, how the study's models are asked, and what is to be done next."""
    # A drawn page that ships, and what is right about it; of others' pages nobody knows a name here.
    drawn = study.settings.data == "synth"
    page = (
        ("docs/example.png", "Which name of the addressee is shown?") if drawn else ("PAGE.png", "What is the total?")
    )
    ask = shlex.join(["docfloqa", "ask", *page, "--study", study.name])
    told = f"Every ratio's answer to a question about a page: `{ask}`.\n{to_do(study)}"
    return "\n  ".join(["the report:", *map(str, files)]) + "\n\n" + told.replace("`docfloqa ", f"`{program()} ")


def program() -> str:
    """The program as it is typed in the present folder, with the folder of results that is in use."""
    script = Path(sys.executable).with_name("docfloqa")
    if not script.is_file():
        begin = [sys.executable, "-m", "docfloqa"]
    elif shutil.which("docfloqa") == str(script):
        begin = ["docfloqa"]
    else:
        begin = [os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)]
    output = f"DOCFLOQA_OUTPUT={shlex.quote(str(output_folder()))} " if os.environ.get("DOCFLOQA_OUTPUT") else ""
    return output + shlex.join(begin)


def told(study: Study, part: str) -> str:
    """What people tell of a study under a heading (`## Discussion`) of `reports/<study>/told.md`, as Markdown."""
    return _told(study).get(part, f"*`told.md` has no part `{part}`.*")


def _told(study: Study) -> dict[str, str]:
    path = reports_folder(study.name) / "told.md"
    _, *parts = re.split(r"^## +(.+?)\s*$", path.read_text("utf-8") if path.is_file() else "", flags=re.MULTILINE)
    return dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))


def abstract(study: Study, margin: float = MARGIN) -> str:
    """What stands in the report's box, as Markdown: what people tell in short, else what follows from the verdicts."""
    if written := _told(study).get("In short"):
        return written
    sentences = "\n".join(f"{place}. {one}" for place, one in enumerate(findings(study, margin), 1))
    return "\n\n".join(filter(None, (validated_on(study), sentences, not_run(study), to_do(study))))
