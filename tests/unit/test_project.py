"""What the repository promises about itself: its layers, its notebooks, its lists of dependencies."""

import ast
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import docfloqa
from docfloqa.cli import EXTRAS
from docfloqa.files import NOTEBOOKS, PROJECT
from docfloqa.settings import OWN, PROFILES, Settings
from docfloqa.study.sweep import plan

LIBRARY = PROJECT / "lib" / "docfloqa"
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
README = (PROJECT / "README.md").read_text()
LIBRARY_README = (PROJECT / "lib" / "README.md").read_text()
READMES = [PROJECT / folder / "README.md" for folder in ("", "lib", "data")]
PAGES = [*READMES, *sorted((PROJECT / "docs").glob("*.md"))]
MANUAL = "\n".join(path.read_text() for path in PAGES)


def requirements(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return {re.sub(r"[-_.]+", "-", requirement.name).lower(): requirement for requirement in found}


def test_every_public_name_has_a_docstring():
    for path in LIBRARY.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def notebook_cells(path: Path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_prose_with_calls(path):
    cells = notebook_cells(path)
    assert cells[0]["cell_type"] == "markdown" and "What this notebook answers" in "".join(cells[0]["source"])
    assert "reads" in "".join(cells[0]["source"]) and "writes" in "".join(cells[0]["source"])
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for node in ast.parse("".join(tagged[0]["source"])).body:
        assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant), "parameters are scalars"
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert not cell["outputs"] and cell["execution_count"] is None
            assert not any(
                isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef)
                for node in ast.walk(ast.parse(source))
            )
            if cell is not tagged[0]:
                assert len([line for line in source.splitlines() if line.strip()]) <= 10


@pytest.mark.parametrize("name", ["01_explore_data", "03_ablate", "04_analyze", "05_robustness"])
def test_hints_where_to_look_stay_in_the_notebook(name):
    """Notebooks teach; their reports tell."""
    for cell in notebook_cells(NOTEBOOKS / f"{name}.ipynb"):
        if cell["cell_type"] == "markdown" and "remove_cell" not in cell["metadata"].get("tags", []):
            assert not re.search(r"\blook (at|for|along|down)\b", "".join(cell["source"]), re.IGNORECASE), cell["id"]


def test_the_lock_satisfies_the_one_list_of_dependencies():
    project = PYPROJECT["project"]
    lock = requirements((PROJECT / "requirements.lock").read_text().splitlines())
    extras = project["optional-dependencies"]
    wanted = requirements(project["dependencies"])
    for extra in ("test", *EXTRAS.values()):
        wanted |= requirements(extras[extra])
    assert extras["all"] == [f"docfloqa[{','.join(EXTRAS.values())}]"]
    for name, requirement in wanted.items():
        [pin] = lock[name].specifier
        assert pin.operator == "==", f"{name} is not pinned"
        assert requirement.specifier.contains(pin.version, prereleases=True), f"{name}: {pin} against {requirement}"
    assert str(lock["torch"]) == "torch==2.13.0"
    assert not [name for name, pin in lock.items() if "+" in str(pin.specifier)]
    assert "torchvision" not in lock and "torchvision" not in wanted


def test_a_study_imports_only_what_it_depends_on():
    """Extras are imported where only their verbs need them."""
    distributions = importlib.metadata.packages_distributions()
    core, further = set(), set(requirements(PYPROJECT["project"]["dependencies"]))
    while further:
        core |= further
        needed = [
            line for name in further for line in importlib.metadata.requires(name) or () if "extra ==" not in line
        ]
        further = (
            requirements(needed).keys() - core - {name for name, one in requirements(needed).items() if one.marker}
        )
    imported: dict[str, set[str]] = {}
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                imported.setdefault(name.split(".")[0], set()).add(path.stem)
    for package in imported.keys() - sys.stdlib_module_names - {"docfloqa"} - EXTRAS.keys():
        owners = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions[package]}
        assert owners & core, package
    assert {name: imported[name] for name in EXTRAS} == {
        "voila": {"demo"},
        "distributed": {"cluster"},
        "jupyterlab": {"lab"},
    }


def test_the_names_of_every_day_come_from_the_package_itself_without_waiting_for_torch():
    code = "import sys, docfloqa\nassert docfloqa.Settings and docfloqa.Freezing\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    # The rest waits for torch, which is here already.
    names: dict = {}
    exec("from docfloqa import *", names)
    for name in "anls exact_match f1 freeze load_docvqa".split():
        assert names[name].__name__ == name
    assert set(docfloqa.__all__) <= set(dir(docfloqa)) and not hasattr(docfloqa, "nothing")


@pytest.mark.long
def test_who_makes_a_study_waits_for_no_torch_where_nothing_is_computed(smoke, output):
    """A study's own process, the kernel of its sweep where the model is known, and a kernel asked for its device."""
    runs = [run.id for run in plan(smoke, [0, 1], [0]).runs]
    code = (
        "import sys, docfloqa.study.study\n"
        "from docfloqa.settings import Settings\n"
        "from docfloqa.study.kernels import PROBE\n"
        "smoke = Settings.profile('smoke')\n"
        "print(*(run.id for run in docfloqa.study.sweep.plan(smoke, [0, 1], [0]).runs))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "exec(PROBE.format(smoke.to_json()))\n"
        "assert 'transformers' not in sys.modules\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[0].split() == runs


def test_make_gives_its_variables_to_the_verb():
    def made(*words: str) -> str:
        shown = subprocess.run(
            ["make", "-n", "--no-print-directory", *words], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        return " ".join(shown.stdout.splitlines()[-1].split()).removeprefix(".venv/bin/python -m docfloqa ")

    assert made("doctor", "SEEDS=0 1 2", "ALLOW_CPU=1") == "doctor --seeds 0 1 2 --allow-cpu"
    installing = made("-W", "pyproject.toml", "install", "VENV=nowhere")
    assert installing == "touch nowhere/installed"
    assert made("study") == "study" and made("report", "NAME=a") == "report --name 'a'"
    given = made("study", "PROFILE=smoke", "RATIOS=0 1", "SEEDS=0 2", "ARMS=all", "ALLOW_CPU=1", "ARGS=--epochs 4")
    assert given == "study --profile 'smoke' --ratios 0 1 --seeds 0 2 --arms all --allow-cpu --epochs 4"
    assert made("robustness", "PROFILE=smoke", "CROSS=layout x") == "robustness --name 'smoke' --cross layout x"


def test_make_help_has_a_line_for_every_target():
    shown = subprocess.run(["make", "-s", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    [targets] = re.findall(r"^\.PHONY: (.*)$", (PROJECT / "Makefile").read_text(), re.M)
    lines = [line.split(maxsplit=2) for line in shown.splitlines()]
    assert sorted(target for _, target, _ in lines) == sorted(targets.split()), "and each says what it is for"


def test_what_is_tested_is_what_is_pinned():
    from importlib.metadata import version

    lock = requirements((PROJECT / "requirements.lock").read_text().splitlines())
    for name in requirements(PYPROJECT["project"]["dependencies"]):
        assert lock[name].specifier.contains(Version(version(name)).public), name


def test_environment_yml_says_nothing_that_pyproject_does_not():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    python, pip, through_pip = environment["dependencies"]
    assert python == "python " + PYPROJECT["project"]["requires-python"]
    assert pip == "pip" and through_pip == {"pip": ['-e ".[all]"']}


def test_python_versions_agree():
    makefile = (PROJECT / "Makefile").read_text()
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.14"
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in makefile
    workflow = yaml.safe_load((PROJECT / ".github/workflows/test.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert workflow["jobs"]["test"]["steps"][-1]["run"] == "bash .ci/run"


def test_continuous_integration_runs_the_tests():
    called = (PROJECT / ".ci/run").read_text().splitlines()
    assert {"make lint", "make test", "make test-browser", "make test-long"} <= set(called)


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def test_the_commands_in_the_readme_exist():
    makefile = (PROJECT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \?=", makefile, re.MULTILINE))
    made = []
    for command in commands(MANUAL):
        words = command.split("#")[0].split()
        if words[0] == "make":
            arguments = re.findall(r"\b([A-Z_]+)=", command)
            assert set(arguments) <= variables, command
            named = [word for word in words[1:] if re.fullmatch("[a-z]+", word)]
            assert named[0] in targets, command
            made.append(named[0])
        for notebook in re.findall(r"[\w/.]*\d\d_\w+\.ipynb", command):
            assert (PROJECT / "notebooks" / Path(notebook).name).is_file() or "reports/" in notebook, command
    assert {"study", "estimate", "lab", "demo", "report"} <= set(made)


def test_the_commands_that_the_readme_gives_papermill_are_its_own():
    given = [command for command in commands(MANUAL) if "papermill" in command]
    assert given
    for command in given:
        notebook = re.search(r"(\d\d_\w+\.ipynb)", command)[1]
        tagged = next(
            cell for cell in notebook_cells(NOTEBOOKS / notebook) if "parameters" in cell["metadata"].get("tags", [])
        )
        known = {node.targets[0].id for node in ast.parse("".join(tagged["source"])).body}
        assert set(re.findall(r"-[pr] (\w+)", command)) <= known, command


def test_the_python_in_the_readme_runs():
    [block] = re.findall(r"```python\n(.*?)```", LIBRARY_README, re.DOTALL)
    *statements, last = block.strip().splitlines()
    names: dict = {}
    exec("\n".join(statements), names)
    expression, shown = last.split("# ")
    assert eval(expression, names) == float(shown)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKED = [*PAGES, *sorted((PROJECT / "benchmarks").glob("*.md")), *sorted((PROJECT / "reports").rglob("*.md"))]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(PROJECT)))
def test_what_a_page_links_exists(page):
    for label, target in re.findall(r"\[([^][]*)\]\((?!https?://)([^) ]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target
        # A label that is a path is that of the file.
        assert not re.fullmatch(r"[\w.-]+/[\w./-]+\.\w+", label) or (PROJECT / label).exists(), label


def test_the_manual_has_the_profiles():
    profiles = [Settings.profile(name, data="yours" if name == OWN else None) for name in PROFILES]
    table = [f"| | {' | '.join(f'`{name}`' for name in PROFILES)} |", "|---|" + "---|" * len(PROFILES)]
    for name in dict.fromkeys(["data", "model", *chain(*PROFILES.values())]):
        values = [getattr(profile, name) for profile in profiles]
        table.append(f"| `{name}` | {' | '.join('' if value is None else f'{value}' for value in values)} |")
    assert "\n".join(table) in (PROJECT / "docs" / "usage.md").read_text(), "\n".join(table)


def test_the_readme_is_read_to_its_end():
    assert len(README.split()) <= 1200
    beginning = "\n".join(README.splitlines()[:25])
    assert "make test " in beginning and "make study " in beginning
    for page in PAGES:
        assert not re.search(r"\b(MINUTES|TODO|TBD|XXX)\b", page.read_text()), f"{page} has a gap"


def test_the_library_is_as_long_as_its_readme_says():
    lines = sum(len(path.read_text().splitlines()) for path in LIBRARY.rglob("*.py"))
    [said] = re.findall(r"\*\*([\d,]+) lines\*\*", LIBRARY_README)
    assert lines == int(said.replace(",", ""))
    for path in LIBRARY.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path
    for folder in (LIBRARY, *LIBRARY.rglob("*/")):
        assert len(list(folder.glob("*.py"))) <= 12, folder


@pytest.mark.parametrize("name", ["a b", "ä'ö", 'quo"te', "$HOME", "a`id`b", "back\\slash", "a#b"])
def test_make_gives_a_folder_on_whatever_signs_its_name_has(name, tmp_path):
    (tmp_path / "installed").touch()
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[-1])\n")
    python.chmod(0o755)
    # As docfloqa import prints it.
    data = shlex.quote(f"/scans/{name}").replace("$", "$$")
    make = f"make -s -o {tmp_path}/installed estimate VENV={tmp_path} BIN={tmp_path} DATA={data}"
    shown = subprocess.run(["bash", "-c", make], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert shown == f"/scans/{name}\n"
