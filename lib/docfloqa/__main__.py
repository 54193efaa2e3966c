"""The command line: `python -m docfloqa study | sweep | estimate | report`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from docfloqa.paths import PROJECT, reports_folder
from docfloqa.settings import PROFILES, Settings, SettingsError

BAD_INPUT, INCOMPLETE, INTERRUPTED = 2, 1, 130


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(prog="docfloqa", description=sys.modules["docfloqa"].__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    for verb, help_text in (
        ("study", "explore, fine-tune every ratio, analyse and export the report"),
        ("sweep", "only fine-tune every ratio and seed"),
        ("estimate", "time, memory and disk of a study, from a minute of calibration here"),
    ):
        command = verbs.add_parser(
            verb, help=help_text, epilog=f"example: docfloqa {verb} --profile smoke --ratios 0 1 --seeds 0"
        )
        command.add_argument("--profile", default="embedded", help=f"one of {', '.join(PROFILES)}")
        command.add_argument("--name", help="name of the study; the profile's name if not given")
        command.add_argument("--data", help="synth, a folder of parquet files, or a hub id")
        command.add_argument("--model", help="a model folder or a hub id")
        command.add_argument("--ratios", nargs="+", type=float, default=[0, 0.33, 0.66, 1])
        command.add_argument("--seeds", nargs="+", type=int, default=[0])
        if verb != "estimate":
            command.add_argument(
                "--arms", nargs="*", default=[], help="arms beside the ratios (see docfloqa.arms), or all"
            )
            command.add_argument("--kernel", help="the Jupyter kernel in which runs are made")
            command.add_argument("--allow-cpu", action="store_true", help="go on where there is no GPU")
        command.add_argument("--settings", default="{}", metavar="JSON", help="any other setting, by name")
    command = verbs.add_parser(
        "report", help="analyse and export again", epilog="example: docfloqa report --name embedded"
    )
    command.add_argument("--name", default="embedded", help="name of the study")
    command.add_argument("--beside", nargs="*", default=[], help="studies whose scores are set beside it")
    return top


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings that the command line asks for; raises `SettingsError`."""
    try:
        further = json.loads(arguments.settings)
    except json.JSONDecodeError as error:
        raise SettingsError(f"--settings is {arguments.settings!r}, which is not JSON: {error}") from None
    return Settings.from_parameters(
        arguments.profile,
        further,
        study=arguments.name,
        data=_found_from_here(arguments.data),
        model=_found_from_here(arguments.model),
        allow_cpu=getattr(arguments, "allow_cpu", False) or None,
    )


def _found_from_here(name: str | None) -> str | None:
    # Kernels work in another folder; what they would not find gets its whole path.
    if name and Path(name).is_dir() and not (PROJECT / name).is_dir():
        return str(Path(name).resolve())
    return name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 1 if a run is not complete, 2 for bad input, 130 if interrupted."""
    arguments = parser().parse_args(argv)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        settings = None if arguments.verb == "report" else settings_of(arguments)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    # Only now: torch and transformers take seconds to import, which help and a wrong argument need not wait for.
    from docfloqa.data import DataError
    from docfloqa.estimate import CalibrationError, estimate
    from docfloqa.florence import ModelError
    from docfloqa.report import ReportError
    from docfloqa.results import ResultsError
    from docfloqa.study import StudyError, make_study, report_study
    from docfloqa.sweep import SweepError, sweep

    try:
        if settings is None:
            for path in report_study(arguments.name, arguments.beside):
                print(path)
            return 0
        if arguments.verb == "sweep":
            runs = sweep(settings, arguments.ratios, arguments.seeds, arguments.kernel, arguments.arms)
            print(runs.to_string(index=False))
            return 0 if (runs["status"] == "complete").all() else INCOMPLETE
        if arguments.verb == "estimate":
            print(estimate(settings, arguments.ratios, arguments.seeds))
            return 0
        outcome = make_study(settings, arguments.ratios, arguments.seeds, arguments.kernel, arguments.arms)
        print(outcome.runs.to_string(index=False))
        print(f"\nthe report is in {reports_folder(settings.study)}:")
        for path in outcome.files:
            print(f"  {path.name}")
        return 0 if outcome.complete else INCOMPLETE
    except (
        CalibrationError,
        DataError,
        ModelError,
        ReportError,
        ResultsError,
        SettingsError,
        StudyError,
        SweepError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
