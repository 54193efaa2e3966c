"""A real browser and real servers; a smoke study is made once and everything is kept out of the user's folders."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright
from servers import PATIENCE, Site, free_port, served

from docfloqa.apps.lab import ENCRYPTED
from docfloqa.files import NOTEBOOKS

CHROMIUM = shutil.which(os.environ.get("CHROMIUM", "chromium"))
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
SMOKE_STUDY = (
    "from docfloqa.settings import Settings\n"
    "from docfloqa.study.sweep import sweep\n"
    "if __name__ == '__main__':\n"
    "    print(sweep(Settings.profile('smoke', study='{study}'), [0, 1], [0]))\n"
)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory) -> dict[str, str]:
    """An environment whose folders, Jupyter's included, are the tests' own."""
    root = tmp_path_factory.mktemp("browser")
    (root / "tmp").mkdir()
    return {
        **os.environ,
        "DOCFLOQA_OUTPUT": str(root / "output"),
        "HF_HUB_OFFLINE": "1",
        "HOME": str(root),
        "IPYTHONDIR": str(root / "ipython"),
        "JUPYTER_CONFIG_DIR": str(root / "jupyter" / "config"),
        "JUPYTER_DATA_DIR": str(root / "jupyter" / "data"),
        "JUPYTER_RUNTIME_DIR": str(root / "jupyter" / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(root / "lab" / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(root / "lab" / "workspaces"),
        "MPLBACKEND": "agg",
        "TMPDIR": str(root / "tmp"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


@pytest.fixture(scope="session")
def study(scratch) -> str:
    """The name of a smoke study of two ratios; complete runs are not made again."""
    name = "smoke"
    made = subprocess.run(
        [sys.executable, "-c", SMOKE_STUDY.format(study=name)], env=scratch, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    return name


@pytest.fixture(scope="session")
def lab(scratch, study, tmp_path_factory) -> Iterator[Site]:
    """JupyterLab on a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("notebooks")
    for path in NOTEBOOKS.glob("*.ipynb"):
        (folder / path.name).write_text(path.read_text().replace('study = \\"embedded\\"', f'study = \\"{study}\\"'))
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}", f"--port={port}", "--no-browser"]
    command += [f"--IdentityProvider.token={token}", "--allow-root", "--ServerApp.ip=127.0.0.1", ENCRYPTED]
    address = f"http://127.0.0.1:{port}/lab?token={token}"
    with served(command, address, scratch, folder / "lab.log") as site:
        yield site


@pytest.fixture(scope="session")
def demo(scratch, study, tmp_path_factory) -> Iterator[Site]:
    """The demo as `make demo` starts it, but for the token, which a test must know."""
    port, token = free_port(), secrets.token_hex(16)
    log = tmp_path_factory.mktemp("demo") / "demo.log"
    command = [sys.executable, "-m", "docfloqa", "demo", "--name", study, "--port", str(port)]
    environment = {**scratch, "JUPYTER_TOKEN": token}
    with served(command, f"http://127.0.0.1:{port}/login", environment, log) as site:
        yield Site(f"http://127.0.0.1:{port}/?token={token}", site.log)


@pytest.fixture(scope="session")
def chromium():
    """The system's chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visitor(chromium, tmp_path: Path) -> Iterator[Page]:
    """A page in a profile of its own; how it looked in the end is kept in the test's folder."""
    context = chromium.new_context(viewport={"width": 1200, "height": 1000}, locale="en-GB")
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    yield page
    page.screenshot(path=tmp_path / "end.png")
    context.close()
