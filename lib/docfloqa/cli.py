"""The command line, `docfloqa VERB` or `python -m docfloqa VERB`: every setting is an option."""

import dataclasses
import inspect
import json
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from importlib.metadata import version
from multiprocessing import active_children
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from typer.core import TyperCommand

from docfloqa import verbs
from docfloqa.arms import ARMS, RATIOS
from docfloqa.exceptions import IncompleteRunError, SettingsError, printable
from docfloqa.model.processes import compute_alone
from docfloqa.parameters import read_config
from docfloqa.settings import EVALUATION_SETTINGS, GROUPS, OF_A_RUN, PROFILES, Settings

INTERRUPTED = 130
EXIT_CODES = (
    f"exit codes: 0 fine, {verbs.INCOMPLETE} a run is not complete, {verbs.BAD_INPUT} bad input (standard error says "
    f"what) or, of doctor, something to do, {INTERRUPTED} interrupted"
)
# What is not among the dependencies of a study, and the extra that has it.
EXTRAS = {"voila": "demo", "distributed": "cluster", "jupyterlab": "lab"}
FIELDS = {field.name: (field, group.__doc__.rstrip(".")) for group in GROUPS for field in dataclasses.fields(group)}
OF_STUDIES = [name for name in FIELDS if name not in OF_A_RUN]
NAMES = {"study": ["--name"], "vision_trainable": ["--ratio", "--vision-trainable"]}
DEFAULTS = {"ratios": [*RATIOS], "seeds": [0], "arms": []}
MAKING = [*DEFAULTS, "kernel", "scheduler", "jobs"]
RUN = "a run's folder, its id or the beginning of one; study/beginning looks in one study"
# What verbs take beside settings: the kind of value and what it means.
OPTIONS: dict[str, tuple[Any, str]] = {
    "json": (bool, "the result as JSON on standard output"),
    "profile": (str, f"one of {', '.join(PROFILES)}"),
    "config": (str, "a file as reports/NAME/study.yaml: profile, settings, ratios, seeds, arms; options win over it"),
    "ratios": (list[float], "shares of the vision encoder, a run each (default: 0 0.33 0.66 1)"),
    "seeds": (list[int], "a run of every ratio each (default: 0)"),
    "arms": (list[str], f"arms beside the ratios: {', '.join(ARMS)}, or all; docs/extending.md has their questions"),
    "kernel": (str, "the Jupyter kernel in which runs are made"),
    "scheduler": (str, "the address of a dask scheduler whose workers make the runs"),
    "jobs": (int, "runs at a time, at most (default: what processors and memory allow)"),
    "name": (str, "name of the study"),
    "beside": (list[str], "studies whose scores are set beside it"),
    "margin": (float, "what differs by fewer points of ANLS counts as the same, where that can be shown"),
    "cross": (list[str], "other data: shifts of the drawn documents, or folders of parquet files; else all shifts"),
    "image": (str, "a PNG, JPEG, TIFF, GIF, BMP, WebP or PDF file"),
    "question": (str, "any text; what a model cannot take is cut off"),
    "page": (int, "which page of a PDF or TIFF, from 1 on"),
    "study": (str, "the model before training and the best one of every ratio, first seed (default: embedded)"),
    "run": (str, RUN),
    "model": (str, "only a model folder, or a hub id"),
    "ratio": (float, "only this ratio of the study"),
    "data": (str, "other questions: synth, what import takes, or a hub id (default: the run's own)"),
    "first": (str, RUN),
    "second": (str, "another run, made with the same validation questions"),
    "questions": (int, "how many to show of each kind"),
    "license": (str, "the hub's name of the licence that the card states, as apache-2.0; else it names none"),
    "adapter": (bool, "the LoRA adapters alone, for peft, in place of a model with them merged into its weights"),
    "push": (str, "also upload it to this repository of the hub, owner/name; a new one is private"),
    "folder": (Path, "a new or empty folder"),
    "source": (
        str,
        "a CSV, TSV, JSON or parquet file of questions, a folder with one, or a hub id; columns image, question, "
        'answers (in a CSV several separated by "|") and, where wanted, split (train, validation or test), document, '
        "question_id, question_type, page (of a PDF or TIFF)",
    ),
    "images": (Path, "the folder of images (default: where the questions are)"),
    "validation_share": (float, "where no split is told: the share of documents to validate on"),
    "seed": (int, "of drawing these documents"),
    "skip_bad_rows": (bool, "leave rows out that cannot be used, and list them"),
    "port": (int, "of this machine"),
}
LISTS = [f"--{name.replace('_', '-')}" for name, (field, _) in FIELDS.items() if field.default == ()]
LISTS += [f"--{name}" for name, (kind, _) in OPTIONS.items() if get_origin(kind) is list]

app = typer.Typer(
    help="How much of Florence-2's vision encoder must be trainable to answer questions about documents?",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# What advice before training depends on.
ADVICE_SETTINGS = (
    "data validation_data train_questions validation_questions prefix shuffled_questions synth_scale synth_shift "
    "synth_documents synth_validation_documents synth_seed model seed batch_size batching learning_rate weight_decay "
    "max_grad_norm precision vision_cache allow_cpu study"
).split()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 1 if a run is not complete, 2 for bad input, 130 if interrupted.

    The result goes to standard output, as JSON with --json; everything else goes to standard error.
    """
    words: list[str] = []
    option, empty = "", set()
    # `--seeds 0 1` as typer takes it: `--seeds 0 --seeds 1`.
    for word in sys.argv[1:] if argv is None else argv:
        if named := word.startswith("-") and not word[1:2].isdigit():
            option = word if word in LISTS else ""
            empty |= {option} - {""}
        if not option:
            words.append(word)
        elif not named:
            words += [option, word]
            empty -= {option}
    if empty and "--help" not in words:
        print(f"error: {', '.join(sorted(empty))} has no value; give one, or leave it away", file=sys.stderr)
        return verbs.BAD_INPUT
    try:
        app(words, prog_name="docfloqa")
    except SystemExit as left:
        return left.code or 0
    return 0


@app.callback(invoke_without_command=True)
def _tell_version(wanted: Annotated[bool, typer.Option("--version", help="say which version this is")] = False) -> None:
    if wanted:
        print(f"docfloqa {version('docfloqa')}")
        raise typer.Exit


class _Command(TyperCommand):
    """Options under the names of their groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list] = {}
        for one in self.get_params(ctx):
            title = getattr(one, "rich_help_panel", None) or f"{one.param_type_name}s".capitalize()
            groups.setdefault(title, []).append(one.get_help_record(ctx))
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(list(filter(None, records)))


def _add(
    function: Callable, example: str, fields: Iterable[str] = (), options: Iterable[str] = (), **meant: tuple[Any, str]
) -> None:
    """Make a function a verb, whose help is its docstring.

    It gets its own arguments and `options` by name, and `fields` as `settings` or, if it takes those, `changes`.
    `meant` are arguments that mean something else here than in `OPTIONS`.
    """
    known = OPTIONS | meant
    own = inspect.signature(function).parameters
    names = {name: one.default for name, one in own.items() if name in known}
    names |= dict.fromkeys([*options, *(("profile", "config") if "settings" in own else ()), "json"])
    parameters = [_parameter(name, one, *known[name], f"--{name.replace('_', '-')}") for name, one in names.items()]
    parameters += map(_setting, fields)

    def command(**given: Any) -> None:
        as_json = given.pop("json")
        # One run alone is made by several processes, of torchrun.
        if function is not verbs.run:
            compute_alone()
        raise typer.Exit(_carry_out(lambda: function(**_arguments(given, own, fields)), as_json))

    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    verb = function.__name__.strip("_").replace("_", "-")
    epilog = f"example: docfloqa {verb} {example}\n\n{EXIT_CODES}"
    app.command(verb, cls=_Command, help=function.__doc__, epilog=epilog)(command)


def _parameter(name: str, default: Any, kind: Any, text: str, *names: str, **more: Any) -> inspect.Parameter:
    """An argument where there is no default, else an option."""
    if default is inspect.Parameter.empty:
        what = Annotated[kind, typer.Argument(metavar=name.upper(), help=text)]
    else:
        what = Annotated[kind | None, typer.Option(*names, help=text, **more)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=what)


def _setting(name: str) -> inspect.Parameter:
    field, group = FIELDS[name]
    allowed, kind = field.metadata["allowed"], (get_args(field.type) or [field.type])[0]
    default = "not given" if field.default in ((), None) else str(field.default).lower()
    text = f"{field.metadata['meaning']} (embedded: {default})"
    choices = isinstance(allowed, tuple) and isinstance(allowed[0], str)
    more = {"metavar": "|".join(allowed), "autocompletion": lambda: list(allowed)} if choices else {}
    kind = list[kind] if field.default == () else kind
    return _parameter(name, None, kind, text, *NAMES.get(name, ()), rich_help_panel=group, **more)


def _arguments(given: dict[str, Any], own: Iterable[str], fields: Iterable[str]) -> dict[str, Any]:
    """The arguments of a verb from its options; settings are those of profile, file and options, the last first."""
    from docfloqa.files import PROJECT, is_there, output_folder

    for name, value in given.items():
        # A variable of the shell that is not set is not what leaves an option away.
        if value == "" or (isinstance(value, list) and "" in value):
            raise SettingsError(f"{name} is empty; give a value, or leave it away")
    chosen = {name: value for name in fields if (value := given.pop(name)) not in (None, [])}
    for values in (given, chosen):
        for name in ("data", "model", "validation_data"):
            # Kernels work in another folder; what they would not find gets its whole path.
            if (path := values.get(name)) and is_there(path) and not is_there(PROJECT / path):
                values[name] = str(Path(path).resolve())
    if "changes" in own:
        return given | {"changes": chosen}
    if "settings" in own:
        profile, config = given.pop("profile"), given.pop("config")
        # Of a report's command it is in the folder of results, wherever one is.
        there = config and not is_there(config) and output_folder() / config
        wanted = read_config(there if there and is_there(there) else config) if config else {}
        alone = [name for name in OF_A_RUN if name in wanted.get("settings", {})]
        if alone and "ratios" in given and alone[0] not in fields:
            allowed = "allowed are ratios, seeds and the setting folds"
            raise SettingsError(f"{config!r} sets {', '.join(alone)}, in which a study's runs differ; {allowed}")
        profile = profile or wanted.get("profile", "embedded")
        try:
            given["settings"] = Settings.from_parameters(profile, wanted.get("settings", {}), **chosen)
        except SettingsError as error:
            source = f"{config} and options: " if chosen else f"{config}: "
            raise SettingsError(f"{source if config else ''}{error}") from None
        given |= {name: given[name] or wanted.get(name, DEFAULTS[name]) for name in DEFAULTS.keys() & given.keys()}
    return given


def _interrupt(*_: Any) -> None:
    # Ctrl-C reaches the processes that this one has begun as well.
    for child in active_children():
        child.terminate()
    raise KeyboardInterrupt


def _carry_out(work: Callable[[], tuple | None], as_json: bool) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        with redirect_stdout(sys.stderr):
            result = work()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here, or begins again", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        from docfloqa.files import caused_by_user

        told = caused_by_user(error)
        package = str(error.name).split(".")[0] if isinstance(error, ModuleNotFoundError) else None
        if package in EXTRAS:
            told = f"this needs {package}, which is not installed: pip install 'docfloqa[{EXTRAS[package]}]'"
        if told is None:
            raise
        print(f"error: {told}", file=sys.stderr)
        return verbs.INCOMPLETE if isinstance(told, IncompleteRunError) else verbs.BAD_INPUT
    if result is None:
        return 0
    data, text, code = (*result, 0)[:3]
    if as_json:
        # JSON has no NaN.
        data = json.loads(json.dumps(data, default=_plain), parse_constant=lambda _: None)
        text = json.dumps(data, indent=2, ensure_ascii=False)
    # A file's name need not be text.
    print(printable(text))
    return code


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return vars(value)
    return str(value) if isinstance(value, Path) else json.loads(value.to_json(orient="records"))


EXAMPLE = "--profile smoke --ratios 0 1 --seeds 0"
_add(verbs.study, EXAMPLE, OF_STUDIES, MAKING)
_add(verbs.sweep, EXAMPLE, OF_STUDIES, MAKING)
_add(verbs.run, "--profile smoke --ratio 0.66 --seed 1", FIELDS)
_add(verbs.doctor, "--profile paper --seeds 0 1 2", FIELDS, [*DEFAULTS, "kernel"])
_add(verbs.estimate, EXAMPLE, OF_STUDIES, [*DEFAULTS, "jobs"])
_add(verbs.advise, "--synth-shift layout", ADVICE_SETTINGS)
_add(verbs.report, "--name embedded")
_add(verbs.robustness, "--name embedded --cross layout my_scans")
_add(verbs.ask, 'page.png "What is the total?" --study embedded --ratio 1')
_add(
    verbs.answer,
    "embedded/vision100 scans --questions questions.csv --out answers.csv",
    run=(str, f"{RUN}; or the folder of a model, as export writes it"),
    folder=(Path, "with PDFs and images, in folders below it, too"),
    questions=(
        Path,
        "a CSV with a column question and, where wanted, file (in the folder; without it every page is asked), page "
        '(of that file) and answers (accepted ones, separated by "|")',
    ),
    out=(Path, "a new .csv or .json file"),
)
_add(verbs.evaluate, "embedded/vision100 --data my_folder", EVALUATION_SETTINGS)
_add(verbs.compare, "shipped/vision000-seed0 shipped/vision100-seed0")
_add(
    verbs.export,
    "embedded/vision100 my_model",
    folder=(Path, "a new or empty folder, or one with an earlier export, which is replaced"),
)
_add(verbs.import_, "questions.csv my_data --images scans")
_add(verbs.runs, "--name embedded")
_add(verbs.pack, "shipped")
_add(verbs.demo, "--name embedded")
_add(verbs.lab, "")
