"""What the verbs of the command line do: each gives a result for people and for machines."""

from __future__ import annotations

import json
import math
import time
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from docfloqa.exceptions import SettingsError
from docfloqa.files import PROJECT, is_folder, reports_folder
from docfloqa.parameters import by_name
from docfloqa.settings import Settings

# The library is imported where it is used: torch and transformers take seconds, which help need not wait for.

INCOMPLETE, BAD_INPUT = 1, 2


@dataclass(frozen=True)
class Result:
    """What a verb found: `data` for JSON, `text` for people, and the exit code."""

    data: dict[str, Any]
    text: str
    code: int = 0


def study(arguments: Namespace) -> Result:
    """Make a study and its report; see `docfloqa.study.study.make_study`."""
    settings = settings_of(arguments)
    from docfloqa.study.study import make_study

    outcome = make_study(
        settings, arguments.ratios, arguments.seeds, arguments.kernel, arguments.arms, arguments.scheduler
    )
    folder = reports_folder(settings.study)
    files = [str(path) for path in outcome.files]
    report = "\n".join([f"the report is in {folder}:", *(f"  {Path(name).name}" for name in files)])
    return Result(
        {"study": settings.study, "runs": _records(outcome.runs), "files": files},
        f"{outcome.runs.to_string(index=False)}\n\n{report}",
        0 if outcome.complete else INCOMPLETE,
    )


def sweep(arguments: Namespace) -> Result:
    """Make a study's runs; see `docfloqa.study.sweep.sweep`."""
    settings = settings_of(arguments)
    from docfloqa.runs.run import COMPLETE
    from docfloqa.study.sweep import sweep as make_runs

    runs = make_runs(settings, arguments.ratios, arguments.seeds, arguments.kernel, arguments.arms, arguments.scheduler)
    complete = (runs["status"] == COMPLETE).all()
    data = {"study": settings.study, "runs": _records(runs)}
    return Result(data, runs.to_string(index=False), 0 if complete else INCOMPLETE)


def run(arguments: Namespace) -> Result | None:
    """Make one run; see `docfloqa.training.make_run`. None in a process that leaves it to the first one to tell."""
    settings = settings_of(arguments)
    from docfloqa.study.sweep import status
    from docfloqa.training.evaluation import rank_and_size
    from docfloqa.training.make_run import make_run

    made = make_run(settings)
    if rank_and_size()[0]:
        return None
    row = status([made])
    return Result(_records(row)[0], row.to_string(index=False), 0 if made.is_complete() else INCOMPLETE)


def estimate(arguments: Namespace) -> Result:
    """Time, memory and disk of a study; see `docfloqa.study.estimate.estimate`."""
    settings = settings_of(arguments)
    from docfloqa.study.estimate import estimate as calibrated

    found = calibrated(settings, arguments.ratios, arguments.seeds, arguments.arms)
    return Result(vars(found) | {"kinds": _records(found.kinds)}, str(found))


def doctor(arguments: Namespace) -> Result:
    """What a study would meet here, before anything is downloaded; see `docfloqa.study.doctor.examine`."""
    settings = settings_of(arguments)
    from docfloqa.study.doctor import examine, verdict

    findings = examine(settings, arguments.kernel)
    ok = all(finding.to_do is None for finding in findings)
    data = {"ok": ok, "findings": [asdict(finding) for finding in findings]}
    return Result(data, verdict(findings), 0 if ok else BAD_INPUT)


def report(arguments: Namespace) -> Result:
    """Analyse and export again; see `docfloqa.study.study.report_study`."""
    from docfloqa.study.study import report_study

    files = [str(path) for path in report_study(arguments.name, arguments.beside)]
    return Result({"study": arguments.name, "files": files}, "\n".join(files))


def robustness(arguments: Namespace) -> Result:
    """Score a study's best models on bad scans and other data; see `docfloqa.study.study.score_study`."""
    from docfloqa.study.study import score_study

    files = [str(path) for path in score_study(arguments.name, arguments.cross)]
    return Result({"study": arguments.name, "files": files}, "\n".join(files))


def ask(arguments: Namespace) -> Result:
    """What one or several models answer to a question about a page; see `docfloqa.apps.ask`."""
    from docfloqa.apps import ask as asking
    from docfloqa.data.images import read_page
    from docfloqa.runs.saved_runs import find_run
    from docfloqa.text import flat

    asking.check_question(arguments.question)
    if arguments.ratio is not None and (arguments.run or arguments.model):
        raise SettingsError("--ratio chooses among a study's runs; it goes with --study, or alone")
    page = read_page(arguments.image, arguments.page)
    if arguments.run:
        models = [asking.model_of_run(find_run(arguments.run))]
    elif arguments.model:
        models = [asking.model_of_folder(arguments.model)]
    else:
        models = asking.models_of_study(arguments.study, arguments.ratio)
    answers, lines = [], []
    width = max(len(one.name) for one in models)
    for one in models:
        model, processor = one.load()
        answer = asking.answer(model, processor, page, arguments.question, one.settings)
        answers.append({"model": one.name, "run": one.run.name if one.run else None, **asdict(answer)})
        sure = f"({100 * answer.confidence:.0f} % sure, {answer.seconds:.2f} s)"
        lines.append(f"{one.name:<{width}}  {flat(answer.text) or 'nothing'}  {sure}")
    asked = {"image": arguments.image, "page": arguments.page, "question": arguments.question}
    return Result({**asked, "answers": answers}, "\n".join(lines))


def evaluate(arguments: Namespace) -> Result:
    """A run's best model on validation questions; see `docfloqa.training.evaluation.evaluate_run`."""
    further = by_name(arguments.settings)
    from docfloqa.analysis.intervals import LOSS, score_intervals
    from docfloqa.runs.saved_runs import find_run
    from docfloqa.training.evaluation import evaluate_run, evaluation_settings

    run = find_run(arguments.run)
    settings = evaluation_settings(run, _found_from_here(arguments.data), further)
    started = time.perf_counter()
    answers = evaluate_run(run, settings)
    seconds = time.perf_counter() - started
    intervals = score_intervals(answers)
    source = settings.validation_data or settings.data
    documents = answers["document_id"].nunique()
    about = f"{run.name} on {source}: {len(answers)} questions, {documents} documents, {seconds:.1f} s"
    width = max(map(len, intervals))
    lines = [
        f"{name:<{width}}  {interval.format(digits=3) if name == LOSS else interval.format(100)}"
        for name, interval in intervals.items()
    ]
    heading = f"{'':<{width}}  % [95 % interval over documents]; {LOSS}: nats per token"
    return Result(
        {
            "run": run.name,
            "data": source,
            "questions": len(answers),
            "documents": documents,
            "seconds": seconds,
            "metrics": {name: _numbers(asdict(interval)) for name, interval in intervals.items()},
        },
        "\n".join([about, "", heading, *lines]),
    )


def compare(arguments: Namespace) -> Result:
    """Two runs on the same questions; see `docfloqa.analysis.changes`."""
    from docfloqa.analysis.changes import NOTE, as_text, changed_questions, compare_metrics, paired_answers
    from docfloqa.runs.saved_runs import find_run
    from docfloqa.text import flat

    if arguments.questions < 0:
        raise SettingsError(f"--questions is {arguments.questions}; allowed is 0 or more")
    first, second = find_run(arguments.first), find_run(arguments.second)
    sides = paired_answers(first, second)
    metrics, changed = compare_metrics(*sides), changed_questions(*sides)
    gains, losses = changed[changed["difference"] > 0], changed[changed["difference"] < 0][::-1]
    lines = [f"first: {first.name}", f"second: {second.name}", "", as_text(metrics).to_string(), "", NOTE, ""]
    for name, questions in (("better", gains), ("worse", losses)):
        shown = questions.head(arguments.questions)
        lines.append(f"{name} in the second: {len(questions)} of {len(sides[0])} questions, by ANLS")
        lines += [
            f"  {row.difference:+.2f}  {flat(row.question)}  {row.first!r} -> {row.second!r}, "
            f"accepted {', '.join(map(repr, row.answers))}  ({flat(row.question_id)})"
            for row in shown.itertuples()
        ]
    return Result(
        {
            "first": first.name,
            "second": second.name,
            "questions": len(sides[0]),
            "documents": sides[0]["document_id"].nunique(),
            "metrics": {name: _numbers(row) for name, row in metrics.to_dict("index").items()},
            "better": _records(gains.head(arguments.questions)),
            "worse": _records(losses.head(arguments.questions)),
        },
        "\n".join(lines),
    )


def export(arguments: Namespace) -> Result:
    """A run's best model for plain transformers; see `docfloqa.apps.export.export_run`."""
    from docfloqa.apps.export import export_run
    from docfloqa.runs.saved_runs import find_run

    run = find_run(arguments.run)
    folder = export_run(run, Path(arguments.folder))
    return Result({"run": run.name, "folder": str(folder)}, f"{run.name} is in {folder}, with a model card")


def import_csv(arguments: Namespace) -> Result:
    """A CSV and images as a data set; see `docfloqa.data.importing.import_csv`."""
    from docfloqa.data.importing import import_csv as write_data

    done = write_data(
        Path(arguments.csv),
        Path(arguments.folder),
        Path(arguments.images) if arguments.images else None,
        arguments.validation_share,
        arguments.seed,
        arguments.skip_bad_rows,
    )
    lines = [f"row left out: {problem}" for problem in done.left_out]
    lines += [
        f"{split}: {count} questions on {done.documents[split]} documents" for split, count in done.questions.items()
    ]
    lines.append(
        f"a study on it: make study DATA={done.folder} NAME=mine"
        if "train" in done.questions
        else f"a run on it: docfloqa evaluate RUN --data {done.folder}"
    )
    data = {"folder": str(done.folder), "questions": done.questions, "documents": done.documents}
    return Result({**data, "left_out": [asdict(problem) for problem in done.left_out]}, "\n".join(lines))


def settings_of(arguments: Namespace) -> Settings:
    """The settings that the command line asks for; raises `SettingsError`."""
    return Settings.from_parameters(
        arguments.profile,
        arguments.settings,
        study=arguments.name,
        data=_found_from_here(arguments.data),
        model=_found_from_here(arguments.model),
        vision_trainable=getattr(arguments, "ratio", None),
        seed=getattr(arguments, "seed", None),
        allow_cpu=getattr(arguments, "allow_cpu", False) or None,
    )


def _found_from_here(name: str | None) -> str | None:
    # Kernels work in another folder; what they would not find gets its whole path.
    if name and is_folder(name) and not is_folder(PROJECT / name):
        return str(Path(name).resolve())
    return name


def _numbers(row: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in row.items()}


def _records(frame: Any) -> list[dict[str, Any]]:
    """A frame's rows for JSON, in which what is missing is null."""
    return json.loads(frame.to_json(orient="records"))
