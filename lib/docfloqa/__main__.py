"""The command line: `python -m docfloqa VERB`, or `docfloqa VERB`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout

from docfloqa import commands
from docfloqa.commands import BAD_INPUT, INCOMPLETE, settings_of
from docfloqa.exceptions import IncompleteRunError
from docfloqa.files import caused_by_user
from docfloqa.settings import PROFILES

__all__ = ["main", "parser", "settings_of"]

INTERRUPTED = 130
EXIT_CODES = (
    f"exit codes: 0 fine, {INCOMPLETE} a run is not complete, {BAD_INPUT} bad input (standard error says what) or, of "
    f"doctor, something to do, {INTERRUPTED} interrupted"
)
RUN = "a run's folder, its id or the beginning of one; study/beginning looks in one study"


def parser() -> argparse.ArgumentParser:
    """The parser of the command line; every verb sets `command`, what it does."""
    top = argparse.ArgumentParser(prog="docfloqa", description=sys.modules["docfloqa"].__doc__, epilog=EXIT_CODES)
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    making = "--profile smoke --ratios 0 1 --seeds 0"
    for command in (
        _verb(verbs, "study", making, "explore, fine-tune every ratio, analyse and export the report"),
        _verb(verbs, "sweep", making, "only fine-tune every ratio and seed"),
        _verb(verbs, "estimate", making, "time, memory and disk of a study, from a minute of calibration here"),
    ):
        _add_settings(command)
        command.add_argument("--ratios", nargs="+", type=float, default=[0, 0.33, 0.66, 1])
        command.add_argument("--seeds", nargs="+", type=int, default=[0])
        command.add_argument("--arms", nargs="*", default=[], help="arms beside the ratios (see docfloqa.arms), or all")
        if not command.prog.endswith("estimate"):
            _add_kernel(command)
            command.add_argument("--scheduler", metavar="ADDRESS", help="a dask scheduler whose workers make the runs")
            _add_allow_cpu(command)
    doctor = _verb(
        verbs,
        "doctor",
        "--profile paper",
        "say what a study would meet here (device, disk, model, data, one question), before anything is downloaded",
    )
    _add_settings(doctor)
    _add_kernel(doctor)
    _add_allow_cpu(doctor)
    one = _verb(
        verbs,
        "run",
        "--profile smoke --ratio 0.66 --seed 1",
        "make one run; under torchrun, one run on several GPUs",
    )
    _add_settings(one)
    one.add_argument("--ratio", type=float, help="share of the vision encoder that is trained (default: 1)")
    one.add_argument("--seed", type=int, help="of the order of the questions (default: 0)")
    _add_allow_cpu(one)
    _add_report(verbs)
    _add_robustness(verbs)
    _add_ask(verbs)
    _add_evaluate(verbs)
    _add_compare(verbs)
    _add_export(verbs)
    _add_import_csv(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 1 if a run is not complete, 2 for bad input, 130 if interrupted.

    The result goes to standard output, as JSON with --json; everything else goes to standard error.
    """
    arguments = parser().parse_args(argv)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        with redirect_stdout(sys.stderr):
            result = arguments.command(arguments)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here, or begins again", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        told = caused_by_user(error)
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return INCOMPLETE if isinstance(told, IncompleteRunError) else BAD_INPUT
    if result is None:
        return 0
    if arguments.json:
        print(json.dumps(result.data, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print(result.text)
    return result.code


def _verb(verbs, name: str, example: str, help_text: str) -> argparse.ArgumentParser:
    command = verbs.add_parser(
        name,
        help=help_text,
        description=help_text[0].upper() + help_text[1:] + ".",
        epilog=f"example: docfloqa {name} {example}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    command.set_defaults(command=getattr(commands, name.replace("-", "_")))
    return command


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", default="embedded", help=f"one of {', '.join(PROFILES)}")
    command.add_argument("--name", help="name of the study; the profile's name if not given")
    command.add_argument("--data", help="synth, a folder of parquet files, or a hub id")
    command.add_argument("--model", help="a model folder or a hub id")
    command.add_argument("--settings", default="{}", metavar="JSON", help="any other setting, by name")


def _add_kernel(command: argparse.ArgumentParser) -> None:
    command.add_argument("--kernel", help="the Jupyter kernel in which runs are made")


def _add_allow_cpu(command: argparse.ArgumentParser) -> None:
    command.add_argument("--allow-cpu", action="store_true", help="go on where there is no GPU")


def _add_report(verbs) -> None:
    command = _verb(verbs, "report", "--name embedded", "analyse and export again")
    command.add_argument("--name", default="embedded", help="name of the study")
    command.add_argument("--beside", nargs="*", default=[], help="studies whose scores are set beside it")


def _add_robustness(verbs) -> None:
    command = _verb(
        verbs,
        "robustness",
        "--name embedded --cross layout my_scans",
        "score a study's best models on bad scans and on other data",
    )
    command.add_argument("--name", default="embedded", help="name of the study")
    command.add_argument(
        "--cross",
        nargs="*",
        default=["input", "layout", "content"],
        help="other data: shifts of the drawn documents, or folders of parquet files (default: every shift)",
    )


def _add_ask(verbs) -> None:
    command = _verb(
        verbs,
        "ask",
        'page.png "What is the total?" --study embedded --ratio 1',
        "ask a question about a page: every ratio of a study, a run, or a model",
    )
    command.add_argument("image", metavar="IMAGE", help="a PNG or JPEG file, or a PDF")
    command.add_argument("question", metavar="QUESTION", help="any text; what a model cannot take is cut off")
    command.add_argument("--page", type=int, default=1, help="which page of a PDF, from 1 on")
    which = command.add_mutually_exclusive_group()
    which.add_argument(
        "--study",
        default="embedded",
        help="the model before training and the best one of every ratio, first seed (default: embedded)",
    )
    which.add_argument("--run", help=f"only the best model of a run: {RUN}")
    which.add_argument("--model", help="only a model folder, or a hub id")
    command.add_argument("--ratio", type=float, help="only this ratio of the study")


def _add_evaluate(verbs) -> None:
    command = _verb(
        verbs,
        "evaluate",
        "embedded/vision100 --data my_folder",
        "score a run's best model on validation questions, its own or others",
    )
    command.add_argument("run", metavar="RUN", help=RUN)
    command.add_argument(
        "--data",
        help="other questions: synth, a folder with validation-*.parquet, or a hub id (default: the run's own)",
    )
    command.add_argument(
        "--settings",
        default="{}",
        metavar="JSON",
        help="other settings of drawn data and of decoding, by name",
    )


def _add_compare(verbs) -> None:
    command = _verb(
        verbs,
        "compare",
        "shipped/vision000-seed0 shipped/vision100-seed0",
        "what one run does better than another",
    )
    command.add_argument("first", metavar="RUN", help=RUN)
    command.add_argument("second", metavar="RUN", help="another run, made with the same validation questions")
    command.add_argument(
        "--questions", type=int, default=10, metavar="N", help="how many to show of each kind (default: 10)"
    )


def _add_export(verbs) -> None:
    command = _verb(
        verbs,
        "export",
        "embedded/vision100 my_model",
        "write a run's best model in fp16 for plain transformers, with a model card",
    )
    command.add_argument("run", metavar="RUN", help=RUN)
    command.add_argument("folder", metavar="FOLDER", help="a new or empty folder, or an earlier export")


def _add_import_csv(verbs) -> None:
    command = _verb(
        verbs,
        "import-csv",
        "questions.csv my_data --images scans",
        "make a data set from a folder of images and a CSV of questions and answers",
    )
    command.add_argument(
        "csv",
        metavar="CSV",
        help="in UTF-8, separated by commas, semicolons or tabs; columns image, question, answers (several "
        'separated by "|") and, where wanted, split (train or validation), document, question_id, question_type',
    )
    command.add_argument("folder", metavar="FOLDER_OUT", help="a new or empty folder, for make study DATA=...")
    command.add_argument("--images", help="the folder of images (default: where the CSV is)")
    command.add_argument(
        "--validation-share",
        type=float,
        default=0.2,
        help="without a column split: the share of documents to validate on (default: 0.2)",
    )
    command.add_argument("--seed", type=int, default=0, help="of drawing these documents (default: 0)")
    command.add_argument(
        "--skip-bad-rows", action="store_true", help="leave rows out that cannot be used, and list them"
    )


if __name__ == "__main__":
    sys.exit(main())
