"""A hub on this machine, for the hub's own client: repositories that are folders, with commits that are told."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class Hub(BaseHTTPRequestHandler):
    """Serves `folders`, by commit; `repositories` has what every name of a revision stands for, by "models/a/b"."""

    repositories: dict[str, str]
    folders: dict[str, Path]

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        if asked := re.fullmatch(r"api/(\w+/[^/]+/[^/]+)/(revision|tree)/(\w+)", path):
            repository, what, revision = asked.groups()
            commit = revision if revision in self.folders else self.repositories[repository]
            folder = self.folders[commit]
            files = [file for file in folder.rglob("*") if file.is_file()]
            tree = [{"type": "file", "path": str(file.relative_to(folder)), **about(file)} for file in files]
            self.answer(json.dumps(tree if what == "tree" else {"id": repository, "sha": commit}))
        elif asked := re.fullmatch(r"(?:datasets/)?[^/]+/[^/]+/resolve/(\w+)/(.+)", path):
            commit, name = asked.groups()
            file = self.folders[commit] / name
            headers = {"ETag": f'"{about(file)["oid"]}"', "X-Repo-Commit": commit}
            self.answer(file.read_bytes(), headers)
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def answer(self, content: str | bytes, headers: dict[str, str] | None = None) -> None:
        content = content.encode() if isinstance(content, str) else content
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


def about(file: Path) -> dict:
    return {"size": file.stat().st_size, "oid": hashlib.sha1(file.read_bytes()).hexdigest()}


@contextmanager
def served(repositories: dict[str, str], folders: dict[str, Path]) -> Iterator[str]:
    """The address of a hub with these repositories, until the block ends; both may change while it runs."""
    handler = type("Served", (Hub,), {"repositories": repositories, "folders": folders})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
