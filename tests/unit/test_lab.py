"""What JupyterLab saves of the project's notebooks is what is committed, unless somebody has changed it."""

import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from jupyter_server.services.contents.filemanager import FileContentsManager

from docfloqa.apps.lab import HOOK, committed
from docfloqa.files import NOTEBOOKS

NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture
def manager(tmp_path):
    """What saves for JupyterLab, on copies of the notebooks, with one more that is somebody's own."""
    folder = shutil.copytree(NOTEBOOKS, tmp_path / "notebooks", ignore=lambda _, names: {*names} - {*NAMES})
    for command in ("init", "add ."):
        subprocess.run(["git", *command.split()], cwd=folder, capture_output=True, check=True)
    shutil.copy(folder / NAMES[0], folder / "own.ipynb")
    name, hook = HOOK.split("=")
    return FileContentsManager(root_dir=str(folder), **{name.rpartition(".")[2]: hook})


def executed(manager, name: str) -> dict:
    """A notebook as Lab sends it after all of its cells were executed, and one folded."""
    model = manager.get(name)
    model["content"]["metadata"] |= {"widgets": {"state": {}}, "language_info": {"name": "python", "version": "9"}}
    for cell in model["content"]["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [nbformat.v4.new_output("stream", text="said")], 7
            cell["metadata"] |= {"execution": {"iopub.execute_input": "2000-01-01"}, "scrolled": True}
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_that_was_executed_is_saved_as_it_is_committed(manager, name):
    manager.save(executed(manager, name), f"/{name}")
    assert (NOTEBOOKS / name).read_bytes() == Path(manager.root_dir, name).read_bytes()


def test_what_somebody_writes_is_kept_and_so_are_the_outputs_of_their_own_notebooks(manager):
    model = executed(manager, NAMES[0])
    model["content"]["cells"][-1]["source"] = "changed"
    manager.save(model, NAMES[0])
    assert manager.get(NAMES[0])["content"]["cells"][-1]["source"] == "changed"
    manager.save(executed(manager, "own.ipynb"), "own.ipynb")
    assert "said" in str(manager.get("own.ipynb")["content"])


def test_where_there_is_no_checkout_nothing_is_taken_away(tmp_path):
    assert committed(tmp_path) == frozenset()
