"""What is given by name or in text: settings, names of studies, parameters of notebooks, kernels."""

import ast
import math
from pathlib import Path

from hypothesis import strategies as st
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from bad_input.case import BadInput, refused
from bad_input.texts import ANY_TEXT, TRICKY
from docfloqa.apps.ask import models_of_study
from docfloqa.apps.demo import demo_notebook
from docfloqa.exceptions import IncompleteRunError, RunError, SettingsError, StudyError
from docfloqa.files import NOTEBOOKS, FolderError, figures_folder, output_folder, reports_folder, resolve, whole_folder
from docfloqa.parameters import RESERVED, literal, numbers
from docfloqa.runs.results import Study, find_run
from docfloqa.settings import Settings
from docfloqa.study.kernels import PROBE, check_kernel
from docfloqa.study.sweep import plan as planned

DEFAULTS = Settings()
FIELDS = st.sampled_from(sorted(DEFAULTS.to_dict()))
odd_numbers = st.sampled_from([float("nan"), math.inf, -math.inf, 1e308, 5e-324, -0.0, -1, 0, 2**63, True])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | odd_numbers | st.text(max_size=30) | TRICKY
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def any_value(case) -> None:
    field, value = case
    try:
        settings = Settings.profile("smoke", **{field: value})
    except SettingsError as error:
        assert field in str(error) and len(str(error)) < 1500
        return
    assert Settings.from_json(settings.to_json()) == settings
    found = getattr(settings, field)
    assert found == value or value is None or [*found] == value, "taken for something else"
    assert reports_folder(settings.study).parent == output_folder() / "reports"


def unknown_setting(name: str) -> None:
    refused(SettingsError, "unknown setting", Settings.from_parameters, "smoke", {name: 1})


def no_settings(text) -> None:
    refused(SettingsError, "further settings", Settings.from_parameters, "smoke", text)
    if isinstance(text, str):
        refused(SettingsError, "further settings", Settings.from_json, text)


def study_name(name: str) -> None:
    before = {path.name for path in output_folder().iterdir()} if output_folder().is_dir() else set()
    say = "study is"
    refused(SettingsError, say, Settings.profile, "smoke", study=name)
    for folder in (reports_folder, figures_folder, Study.load, models_of_study, demo_notebook):
        refused(SettingsError, say, folder, name)
    assert before == ({path.name for path in output_folder().iterdir()} if output_folder().is_dir() else set())


def run_name(name: str) -> None:
    try:
        run = find_run(name)
    except (RunError, IncompleteRunError) as error:
        assert len(str(error)) < 5000
        return
    raise AssertionError(f"{name!r} is {run}")


def any_name_resolves(name: str) -> None:
    found = resolve(name)
    assert found == name or Path(found).is_dir()


def output_name(name: str) -> None:
    def write() -> None:
        with whole_folder(Path(name)):
            raise AssertionError("begun")

    refused(FolderError, "cannot be made|is a file|is not empty", write)


def probe(case) -> None:
    settings = Settings.profile("smoke")
    fields = {name: value for name, value in case.items() if value.strip()}
    try:
        settings = settings.replace(**fields)
    except SettingsError:
        # What the checks refuse reaches no kernel; the code must hold without them.
        for name, value in fields.items():
            object.__setattr__(settings, name, value)
    code = ast.parse(PROBE.format(settings.to_json()))
    assert [type(statement) for statement in code.body] == [ast.Import, ast.ImportFrom, ast.ImportFrom, ast.Expr]
    literals = [node.value for node in ast.walk(code) if isinstance(node, ast.Constant)]
    assert literals == [settings.to_json()]
    assert not code.body[-1].value.keywords


def parameter_value(case) -> None:
    text, number = case
    parameters = {"settings_json": text, "seed": number, "vision_trainable": None}
    notebook = NOTEBOOKS / "02_finetune.ipynb"
    made = parameterize_notebook(load_notebook_node(str(notebook)), parameters)
    [cell] = [cell for cell in made.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    code = ast.parse(cell.source)
    found = {statement.targets[0].id: ast.literal_eval(statement.value) for statement in code.body}
    assert found == parameters and all(isinstance(statement, ast.Assign) for statement in code.body)


def list_of_numbers(case) -> None:
    text, kind = case
    try:
        found = numbers("ratios", text, kind)
    except SettingsError as error:
        assert "ratios are" in str(error) and "allowed are" in str(error)
        return
    assert found == [kind(word) for word in str(text).split()]


def ratios_and_seeds(case) -> None:
    ratios, seeds = case
    refused(SettingsError, "ratios are|seeds are|vision_trainable is|seed is", planned, DEFAULTS, ratios, seeds)


def kernel(name) -> None:
    refused(StudyError, "does not exist; kernels here are", check_kernel, name)


def path_in_braces(name: str) -> None:
    assert literal(Path("/a") / name).format(a="b", run="c") == str(Path("/a") / name)


STUDIES = "..|.|../x|/etc|/|a/b|a\\b|a\0|a\n|\na| a|a |~|~root|$HOME|a b|-x|_x|.x|x.|a..|CON|nul".split("|")
STUDIES += ["nul.txt", "com1", "Aux", ""]
STUDIES += [
    *RESERVED,
    "Benchmarks",
    "LOG.MD",
    "x" * 65,
    "x" * 5000,
    "é",
    "а",
    "\ud800",
    "a;b",
    "a'b",
    "`a`",
    "{a}",
    "%00",
]
UNFIT_JSON = ["", "{", "[]", "1", "null", '"a"', "{'a': 1}", "[" * 100_000, '{"a":' * 100_000, '{"seed": 1, "seed": 2}']
UNFIT_JSON += [
    '{"seed": ' + "9" * 5000 + "}",
    "{}{}",
    '{"a": undefined}',
    "\ufeff{}",
    '{"\\ud800": 1, "\\ud800": 2}',
    "\0",
]
CODE = [
    "import os; os.system('x')  #",
    "x = 1; y",
    "__import__('os').system('x'); a",
    "seed\nimport os",
    "seed = 1\nstudy",
    "seed;",
    "seed, study",
    "(seed)",
    "seed: int",
    "globals()['seed']",
    "seed ",
    "Seed",
    "vision_trainabel",
    "",
    "#",
    "print",
    "settings",
    "%load_ext x",
    "!ls",
]
UNFIT_RUNS = [([], [0]), ([0.5], []), ([0.5, 0.5], [0]), ([0.5], [1, 1]), ([2.0], [0]), ([-0.1], [0])]
UNFIT_RUNS += [([math.nan], [0]), ([math.inf], [0]), ([0.5], [-1]), ([0.5], [2**31])]
UNFIT_RUNS += [([0.5], [10**4000]), ([10**400], [0])]
NAMES_OF_NOTHING = [
    "",
    "..",
    "/",
    "a\0",
    "x" * 300,
    "~nobody-here",
    "../*",
    "[",
    "**",
    "shipped/..",
    "\ud800",
    "study/run/x",
]
UNWRITABLE = ["a\0b", "x" * 300, "/proc/nothing/here", "/dev/null", "/dev/null/x", "/etc", "/"]

GIVEN = [
    BadInput(
        "setting, any value", "taken as it is, or an error that names it", st.tuples(FIELDS, values), any_value, 6
    ),
    BadInput(
        "setting, unknown name",
        "an error that names it and all that there are",
        (ANY_TEXT | TRICKY).filter(lambda name: name not in DEFAULTS.to_dict()),
        unknown_setting,
    ),
    BadInput(
        "settings, no JSON object",
        "an error that shows them",
        st.sampled_from(UNFIT_JSON) | st.text(max_size=30).filter(lambda text: text.strip() != "{}") | st.integers(),
        no_settings,
    ),
    BadInput(
        "study, name that leads elsewhere",
        "an error, from settings, reports, questions and the demo; nothing is made",
        st.sampled_from(STUDIES),
        study_name,
    ),
    BadInput(
        "run, name of nothing",
        "an error with the runs that there are",
        st.sampled_from(NAMES_OF_NOTHING),
        run_name,
        0.3,
    ),
    BadInput("folder to write, impossible", "an error; nothing is made", st.sampled_from(UNWRITABLE), output_name, 0.3),
    BadInput(
        "model or data, any name",
        "a folder, or the name as it is",
        st.sampled_from([*NAMES_OF_NOTHING[1:], *UNWRITABLE]) | ANY_TEXT,
        any_name_resolves,
        0.5,
    ),
    BadInput(
        "setting, code in its text",
        "one literal in the code that a kernel runs",
        st.fixed_dictionaries(
            {"data": ANY_TEXT | TRICKY | st.sampled_from(CODE), "model": ANY_TEXT | TRICKY | st.just("''')\nx('''")}
        ),
        probe,
    ),
    BadInput(
        "papermill, any text as value",
        "one literal in the notebook",
        st.tuples(ANY_TEXT | TRICKY | st.sampled_from(CODE + UNFIT_JSON[:7]), st.integers()),
        parameter_value,
    ),
    BadInput(
        "notebook, list of numbers",
        "the numbers, or an error that shows the text",
        st.tuples(st.text(max_size=20) | scalars | TRICKY, st.sampled_from([int, float])),
        list_of_numbers,
    ),
    BadInput(
        "sweep, ratios and seeds",
        "an error before anything is loaded",
        st.sampled_from(UNFIT_RUNS),
        ratios_and_seeds,
        0.5,
    ),
    BadInput(
        "kernel, unknown or no name",
        "an error that names the kernels",
        TRICKY | st.sampled_from(["../x", "python3; ls", "a\0b", ["python3"], {"a": 1}, 7]),
        kernel,
    ),
    BadInput(
        "path, braces in it",
        "the same path for papermill",
        TRICKY.filter(lambda name: "\0" not in name),
        path_in_braces,
        0.5,
    ),
]
