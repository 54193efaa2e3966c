"""The cells of a notebook, executed in this process: no kernel is started, and nothing is exported."""

import json
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from docfloqa.files import NOTEBOOKS


def run_cells(notebook: str, **parameters: Any) -> dict[str, Any]:
    """What the names of a notebook stand for after its last cell; raises what a cell raises."""
    cells = json.loads((NOTEBOOKS / notebook).read_text())["cells"]
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell(config=config)
    for cell in cells:
        if cell["cell_type"] == "code":
            shell.run_cell("".join(cell["source"]), silent=True).raise_error()
            if "parameters" in cell["metadata"].get("tags", []):
                shell.user_ns |= parameters
    return shell.user_ns
