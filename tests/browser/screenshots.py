"""Make `figures/screenshots` anew, of a study that has its models: `python tests/browser/screenshots.py embedded`."""

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import sync_playwright
from servers import PATIENCE, free_port, served

from docfloqa.apps.demo import demo_notebook
from docfloqa.files import PROJECT

FOLDER = PROJECT / "figures" / "screenshots"
COMPARER = """from docfloqa.apps.browser import PredictionComparer
from docfloqa.data.load import load_docvqa
from docfloqa.runs.results import Study
study = Study.load({!r})
PredictionComparer(study, load_docvqa(study.settings, "validation"))"""
SERVE = "from docfloqa.apps.demo import Demo, demo_config\nDemo.launch_instance([{!r}], config=demo_config({}))"

BOTTOMS = "all => all.map(one => one.getBoundingClientRect().bottom)"
WIDTH = 820


def main(study: str) -> None:
    """The first view of the playground and of the comparer, as the demo serves them."""
    shown = {
        "playground": demo_notebook(study),
        "comparer": new_notebook(cells=[new_code_cell(COMPARER.format(study))]),
    }
    shown["comparer"].metadata["kernelspec"] = shown["playground"].metadata["kernelspec"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, notebook in shown.items():
            path, port, token = Path(folder, f"{name}.ipynb"), free_port(), secrets.token_hex(16)
            nbformat.write(notebook, path)
            command = [sys.executable, "-c", SERVE.format(str(path), port)]
            environment = {**os.environ, "JUPYTER_TOKEN": token, "HF_HUB_OFFLINE": "1"}
            with served(command, f"http://127.0.0.1:{port}/login", environment, Path(folder, "log")):
                page = chromium.new_page(viewport={"width": WIDTH, "height": 1000})
                page.set_default_timeout(1000 * PATIENCE)
                page.goto(f"http://127.0.0.1:{port}/?token={token}")
                page.locator("img").last.wait_for()
                # A list that is drawn before its options arrive is empty for a moment.
                page.wait_for_function("[...document.querySelectorAll('select')].every(one => one.selectedIndex >= 0)")
                ends = page.locator("img, summary").evaluate_all(BOTTOMS)
                clip = {"x": 0, "y": 0, "width": WIDTH, "height": max(ends) + 16}
                page.screenshot(path=FOLDER / f"{name}.png", clip=clip)
                page.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
