"""Servers that tests start, and what a page of theirs asks for."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from playwright.sync_api import Request

from docfloqa.files import PROJECT

PATIENCE = 600.0  # seconds; a kernel imports PyTorch and loads models, perhaps on a machine that does more


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
