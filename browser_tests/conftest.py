"""A real browser and real servers; a smoke study is made once and everything is kept out of the user's folders."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from playwright.sync_api import Page, Request, sync_playwright

from docfloqa.paths import NOTEBOOKS, PROJECT

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 600.0  # seconds; a kernel imports PyTorch and loads models, perhaps on a machine that does more
SMOKE_STUDY = (
    "from docfloqa.settings import Settings\n"
    "from docfloqa.sweep import sweep\n"
    "if __name__ == '__main__':\n"
    "    print(sweep(Settings.profile('smoke', study='{study}'), [0, 1], [0]))\n"
)


@dataclass
class Site:
    """A server that is running: its address with the token, and its origin."""

    address: str
    log: Path
    origin: str = field(init=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        self.origin = f"{parts.scheme}://{parts.netloc}"


@dataclass
class Requests:
    """Every request of a page, so that a test can tell which left the origin."""

    origin: str
    seen: list[str] = field(default_factory=list)

    def note(self, request: Request) -> None:
        """Remember a request."""
        self.seen.append(request.url)

    def elsewhere(self) -> list[str]:
        """Those that went, or would have gone, to another origin; what needs no network does not count."""
        own = (f"{self.origin}/", f"{self.origin.replace('http', 'ws', 1)}/", "data:", "blob:", "about:")
        return [url for url in self.seen if not url.startswith(own)]


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
        [sys.executable, "-c", SMOKE_STUDY.format(study=name)],
        env=scratch,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return name


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextmanager
def served(command: list[str], address: str, environment: dict[str, str], log: Path) -> Iterator[Site]:
    """A server while it is needed; ended by its own process id, politely first."""
    with log.open("w") as told:
        process = subprocess.Popen(command, env=environment, stdout=told, stderr=told, cwd=PROJECT)
    try:
        end = time.monotonic() + PATIENCE
        while not answers(address):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(1)
        yield Site(address, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def answers(address: str) -> bool:
    """Whether somebody answers there, were it with an error."""
    try:
        with urlopen(address, timeout=10):
            return True
    except HTTPError:
        return True
    except (URLError, OSError):
        return False


@pytest.fixture(scope="session")
def lab(scratch, study, tmp_path_factory) -> Iterator[Site]:
    """JupyterLab on a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("notebooks")
    for path in NOTEBOOKS.glob("*.ipynb"):
        (folder / path.name).write_text(
            path.read_text().replace('study = \\"embedded\\"', f'study = \\"{study}\\"')
        )
    port, token = free_port(), secrets.token_hex(16)
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={folder}",
        f"--port={port}",
        "--no-browser",
    ]
    command += [f"--IdentityProvider.token={token}", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    address = f"http://127.0.0.1:{port}/lab?token={token}"
    with served(command, address, scratch, folder / "lab.log") as site:
        yield site


@pytest.fixture(scope="session")
def demo(scratch, study, tmp_path_factory) -> Iterator[Site]:
    """The demo as `make demo` starts it, but for the token, which a test must know."""
    port, token = free_port(), secrets.token_hex(16)
    log = tmp_path_factory.mktemp("demo") / "demo.log"
    command = [sys.executable, "-m", "docfloqa.demo", "--name", study, "--port", str(port)]
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
def visitor(chromium) -> Iterator[Page]:
    """A page in a profile of its own."""
    context = chromium.new_context(viewport={"width": 1200, "height": 1000}, locale="en-GB")
    context.set_default_timeout(1000 * PATIENCE)
    yield context.new_page()
    context.close()
