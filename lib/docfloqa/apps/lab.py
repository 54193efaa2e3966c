"""JupyterLab on the project's notebooks, which stay as they are committed: without outputs."""

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from jupyterlab.labapp import LabApp

from docfloqa.files import NOTEBOOKS
from docfloqa.study.kernels import ENCRYPTION

HOOK = "--FileContentsManager.pre_save_hook=docfloqa.apps.lab.without_outputs"
ENCRYPTED = f"--MappingKernelManager.transport_encryption={ENCRYPTION}"


def open_lab() -> None:
    """Open the notebooks; what is saved of a committed one has its new sources and no outputs."""
    LabApp.launch_instance([str(NOTEBOOKS), HOOK, ENCRYPTED])


@cache
def committed(folder: Path) -> frozenset[Path]:
    """The notebooks of a folder that git tracks; none where it is no checkout."""
    command = ["git", "ls-files", "-z", "*.ipynb"]
    try:
        tracked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return frozenset()
    return frozenset(folder / name for name in tracked.split("\0") if name)


def without_outputs(model: dict[str, Any], path: str, contents_manager: Any) -> None:
    """Jupyter's hook before saving: take outputs, counts and what Lab notes beside them from a committed notebook."""
    folder = Path(contents_manager.root_dir)
    file = folder / path.lstrip("/")
    if model["type"] != "notebook" or file not in committed(folder):
        return
    content = model["content"]
    content["metadata"] = nbformat.read(file, as_version=4).metadata
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
            # Lab notes here what is folded, and when a cell was executed.
            cell["metadata"] = {name: one for name, one in cell["metadata"].items() if name == "tags"}
