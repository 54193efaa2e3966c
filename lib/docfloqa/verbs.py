"""What the verbs of the command line do: each gives data for JSON, text for people and, where not 0, an exit code."""

import time
from collections.abc import Sequence
from typing import Any

from docfloqa.exceptions import SettingsError
from docfloqa.settings import SHIFTS, Settings

INCOMPLETE, BAD_INPUT = 1, 2  # exit codes
# The library is imported where it is used: torch and transformers take seconds, for which neither help need wait nor
# whoever has named a run or study that is not there.


def study(settings: Settings, **planned: Any) -> tuple:
    """Explore, fine-tune every ratio, analyse and export the report."""
    from docfloqa.report.findings import next_steps
    from docfloqa.report.verdicts import as_text, compared_on, verdicts
    from docfloqa.runs import results
    from docfloqa.study.study import make_study

    runs, files = make_study(settings, **planned)
    study = results.Study.load(settings.study)
    found = verdicts(study)
    data = {"study": settings.study, "compared": compared_on(study), "runs": runs, "verdicts": found, "files": files}
    text = f"{results.as_text(runs)}\n\n{as_text(found)}\n\n{next_steps(study, files)}"
    return data, text, _code(runs)


def sweep(settings: Settings, **planned: Any) -> tuple:
    """Only fine-tune every ratio and seed."""
    from docfloqa.runs.results import as_text
    from docfloqa.study import sweep as making

    runs = making.sweep(settings, **planned)
    return {"study": settings.study, "runs": runs}, as_text(runs), _code(runs)


def _code(runs: Any) -> int:
    return 0 if (runs["status"] == "complete").all() else INCOMPLETE


def run(settings: Settings) -> tuple | None:
    """Make one run; under torchrun, one run on several GPUs."""
    from docfloqa.runs.plans import check_name

    check_name(settings, single=True)
    if (folds := settings.folds) and not settings.fold:
        raise SettingsError(f"folds is {folds} and fold is none; a run needs --fold, from 1 to {folds}")
    import pandas as pd

    from docfloqa.runs.results import as_text, status
    from docfloqa.training.trainer import make_run

    made = make_run(settings)
    if not made.writes:
        # The first process tells.
        return None
    [row] = status([made.folder])
    return row, as_text(pd.DataFrame([row])), 0 if made.is_complete() else INCOMPLETE


def doctor(settings: Settings, kernel: str | None, **planned: Any) -> tuple:
    """Say what a study would meet here (device, disk, model, data, one question), before anything is downloaded."""
    from docfloqa.study.doctor import examine, verdict
    from docfloqa.study.sweep import settings_of_runs

    findings = examine(settings, kernel, runs=settings_of_runs(settings, **planned).count)
    ok = all(finding.to_do is None for finding in findings)
    return {"ok": ok, "findings": findings}, verdict(findings), 0 if ok else BAD_INPUT


def estimate(settings: Settings, **planned: Any) -> tuple:
    """Time, memory and disk of a study, from a minute of calibration here."""
    from docfloqa.study.estimate import estimate as calibrated

    found = calibrated(settings, **planned)
    return found, str(found)


def advise(settings: Settings) -> tuple:
    """Which parts of the vision encoder to thaw for these documents, from gradients before training."""
    from docfloqa.analysis import advice
    from docfloqa.figures.advice import gradients
    from docfloqa.figures.style import save
    from docfloqa.files import figures_folder
    from docfloqa.training.gradients import LATER, measure

    statistics, costs = measure(settings)
    later = statistics[statistics["when"] == LATER]
    said = advice.sentence(later, costs)
    data = {
        "parts": advice.recommend(later).split(),
        "sentence": said,
        "known": advice.KNOWN,
        "encoder_over_language": advice.encoder_over_language(later),
        "stem_over_last": advice.stem_over_last(later),
        "predicted_gains": advice.predicted_gains(later),
        "statistics": statistics,
        "costs": costs,
        "files": save(gradients(statistics), figures_folder(settings.study) / "advice"),
    }
    tables = (one.to_string(index=False, float_format="{:.3g}".format) for one in (statistics, costs))
    return data, "\n\n".join([*tables, "\n".join(map(str, data["files"])), f"{said}\n{advice.KNOWN}"])


def report(name: str = "embedded", beside: Sequence[str] | None = None, margin: float = 2.0) -> tuple:
    """Analyse and export again."""
    from docfloqa.report.verdicts import as_text, compared_on, verdicts
    from docfloqa.runs.results import Study
    from docfloqa.study.study import report_study

    if not 0 < margin <= 100:
        raise SettingsError(f"--margin is {margin:g}; allowed are points of ANLS above 0, 100 at most")
    files = report_study(name, beside or [], margin)
    study = Study.load(name)
    found = verdicts(study, margin)
    data = {"study": name, "compared": compared_on(study), "verdicts": found, "files": files}
    return data, "\n".join([as_text(found), "", *map(str, files)])


def robustness(name: str = "embedded", cross: Sequence[str] | None = None) -> tuple:
    """Score a study's best models on bad scans and on other data."""
    from docfloqa.study.study import score_study

    files = score_study(name, cross or SHIFTS)
    return {"study": name, "files": files}, "\n".join(map(str, files))


def ask(image, question, page=1, study=None, run=None, model=None, ratio=None) -> tuple:
    """Ask a question about a page: every ratio of a study, a run, or a model."""
    from docfloqa.data.images import count_pages, read_bytes, read_page
    from docfloqa.files import expanded
    from docfloqa.runs.results import Study, find_run
    from docfloqa.text import flat

    if sum(map(bool, (study, run, model))) > 1:
        raise SettingsError("--study, --run and --model each choose what is asked; allowed is one of them")
    if ratio is not None and (run or model):
        raise SettingsError("--ratio chooses among a study's runs; it goes with --study, or alone")
    shown = read_page(image, page)
    pages = count_pages(read_bytes(expanded(image)))
    found = find_run(run) if run else model or Study.load(study or "embedded")

    from docfloqa.apps import ask as asking

    asking.check_question(question)
    if run:
        models = [asking.Asked(found.name, found, found.settings)]
    elif model:
        models = [asking.asked_model(model)]
    else:
        models = asking.models_of_study(study or "embedded", ratio)
    answers, novel = [], None
    for one in models:
        loaded = one.load()
        answer = asking.answer(loaded, shown, question, one.settings)
        answers.append({"model": one.name, "run": one.run and one.run.name, **answer})
        # All models of a study were trained on the same pages, which the one before training does not know.
        novel = asking.novelty(loaded[0], shown) if novel is None else novel
    width = max(len(one["model"]) for one in answers)
    lines = [f"page {page} of {pages}; --page asks about another"] if pages > 1 else []
    for one in answers:
        sure = asking.UNLIKE if asking.is_unlike(novel) else f"{100 * one['confidence']:.0f} % sure"
        lines.append(f"{one['model']:<{width}}  {flat(one['text']) or 'nothing'}  ({sure}, {one['seconds']:.2f} s)")
    lines += [asking.UNKNOWN] if novel is None else []
    return {"image": image, "page": page, "question": question, "novelty": novel, "answers": answers}, "\n".join(lines)


def answer(run, folder, questions="questions.csv", out="answers.csv") -> tuple:
    """Answer a table of questions about a folder of pages; when killed, the same command goes on."""
    from docfloqa.files import expanded, is_there
    from docfloqa.runs.results import find_run

    found = None if is_there(expanded(run) / "config.json") else find_run(run)

    from docfloqa.apps.answer import answer_folder, as_text
    from docfloqa.apps.ask import Asked, asked_model

    asked = Asked(found.name, found, found.settings) if found else asked_model(run)
    answers = answer_folder(asked, folder, questions, out)
    return {"run": asked.name, "out": out, "answers": answers}, as_text(answers, out)


def evaluate(run, changes, data=None) -> tuple:
    """Score a run's best model on validation questions, its own or others."""
    from docfloqa.analysis.intervals import LOSS, score_intervals
    from docfloqa.files import resolve
    from docfloqa.runs.results import find_run

    found = find_run(run)
    if data and found.settings.fold and resolve(data) == resolve(found.settings.data):
        allowed = "allowed are other data, or none: then its own fold is scored"
        raise SettingsError(f"--data is {data!r}, most of which run {found.name} of a fold was trained on; {allowed}")

    from docfloqa.training.evaluation import evaluate_run

    other = {"validation_data": data, "folds": None, "fold": None} if data else {}
    settings = found.settings.replace(**changes, **other)
    started = time.perf_counter()
    answers = evaluate_run(found, settings)
    about = {
        "run": found.name,
        "data": settings.validation_data or settings.data,
        "questions": len(answers),
        "documents": answers["document_id"].nunique(),
        "seconds": time.perf_counter() - started,
    }
    metrics = score_intervals(answers)
    width = max(map(len, metrics))
    lines = [
        "{run} on {data}: {questions} questions, {documents} documents, {seconds:.1f} s\n".format(**about),
        f"{'':<{width}}  % [95 % interval over documents]; {LOSS}: nats per token",
    ]
    for name, interval in metrics.items():
        lines.append(f"{name:<{width}}  {interval.format(digits=3) if name == LOSS else interval.format(100)}")
    return {**about, "metrics": metrics}, "\n".join(lines)


def compare(first, second, questions=10) -> tuple:
    """Show what one run does better than another."""
    from docfloqa.analysis.changes import NOTE, as_text, compare_metrics, compared, paired_answers
    from docfloqa.runs.results import find_run
    from docfloqa.text import flat

    if questions < 0:
        raise SettingsError(f"--questions is {questions}; allowed is 0 or more")
    runs = find_run(first), find_run(second)
    sides = paired_answers(*runs)
    metrics, changed = compare_metrics(*sides), compared(*sides).drop(columns=["anls_first", "anls_second"])
    kinds = {"better": changed[changed["difference"] > 0], "worse": changed[changed["difference"] < 0][::-1]}
    names = {"first": runs[0].name, "second": runs[1].name}
    lines = [*(f"{which}: {name}" for which, name in names.items()), "", as_text(metrics).to_string(), "", NOTE, ""]
    for name, found in kinds.items():
        lines.append(f"{name} in the second: {len(found)} of {len(sides[0])} questions, by ANLS")
        lines += [
            f"  {row.difference:+.2f}  {flat(row.question)}  {row.first!r} -> {row.second!r}, "
            f"accepted {', '.join(map(repr, row.answers))}  ({flat(row.question_id)})"
            for row in found.head(questions).itertuples()
        ]
    data = {"questions": len(sides[0]), "documents": sides[0]["document_id"].nunique()}
    few = {name: found.head(questions) for name, found in kinds.items()}
    return {**names, **data, "metrics": metrics.to_dict("index"), **few}, "\n".join(lines)


def export(run, folder, license=None, adapter=False, push=None) -> tuple:
    """Write a run's best model in fp16 for plain transformers, with a model card."""
    from docfloqa.runs.results import find_run

    found = find_run(run)

    from docfloqa.apps import export as exporting

    if push:
        exporting.check_push(push)
    if adapter:
        folder = exporting.export_adapter(found, folder)
        text = f"the adapters of {found.name} are in {folder}"
    else:
        folder = exporting.export_run(found, folder, license)
        text = f"{found.name} is in {folder}, with a model card"
        text += "" if license else " that names no licence (--license)"
    pushed = exporting.push(folder, push) if push else None
    text += f", and at {pushed}" if pushed else ""
    return {"run": found.name, "folder": folder, "pushed": pushed}, text


def import_(source, folder, images=None, validation_share=0.2, seed=0, skip_bad_rows=False) -> tuple:
    """Make a data set from tables of questions with images or PDFs beside them, or from other data sets."""
    from docfloqa.data.importing.data_set import import_data
    from docfloqa.data.importing.summary import grouped, summary

    done = import_data(source, folder, images, validation_share, seed, skip_bad_rows)
    lines = [*(f"left out: {line}" for line in grouped(done.left_out)), *summary(done, source)]
    return {name: value for name, value in vars(done).items() if name != "answers"}, "\n".join(lines)


def runs(name=None) -> tuple:
    """List the runs of a study, or of all: arm, ratio, seed, how they stand, epochs, ANLS after the last one."""
    from docfloqa.runs.results import as_text, list_runs

    found = list_runs(name)
    return {"runs": found}, as_text(found) if len(found) else "no run is here yet: make study"


def pack(name) -> tuple:
    """Put a study's complete runs into a few files in place of a folder each.

    Weights stay in theirs. Some answers, and the runs' notebooks, are removed for good: lib/README.md says which.
    """
    from docfloqa.runs.packing import pack as pack_study

    folder = pack_study(name)
    return {"study": name, "folder": folder}, f"the runs of {name} are in {folder}"


def demo(name="embedded", port=8866) -> None:
    """Serve the playground as a web page for this machine only; the address that it prints holds a token."""
    from docfloqa.apps.demo import serve
    from docfloqa.runs.results import Study

    if not 1 <= port <= 65535:
        raise SettingsError(f"--port is {port}; allowed is a number from 1 to 65535")
    # Voilà would show visitors a page without models.
    Study.load(name)
    serve(name, port)


def lab() -> None:
    """Open the notebooks in JupyterLab; those of the project are saved without outputs."""
    from docfloqa.apps.lab import open_lab

    open_lab()
