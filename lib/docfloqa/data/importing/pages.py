"""The page of a row of questions: an image in the row, or a file below the folder of images, and which page of it."""

import hashlib
import io
import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from unicodedata import normalize

from docfloqa.data.images import FORMATS, PDF, PDF_MARK, PageError, count_pages, decode_page, read_bytes
from docfloqa.data.importing.tables import Table, text_of
from docfloqa.exceptions import printable, shown

WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class Pages:
    """Images of rows, looked at once: below `root`, or, without one, below the folder that their table is in."""

    def __init__(self, root: Path | None):
        self.root = root
        self.known: dict[tuple, tuple[str, str, str]] = {}

    def look(self, table: Table, value: Any, page: str) -> tuple[str, str, str]:
        """Name and checksum of the pixels of a row's page, and what is wrong with it."""
        try:
            key = (table.path.parent, value if isinstance(value, str) else _sum(value), page)
        except (TypeError, AttributeError):
            return "", "", f"is {shown(value)}; allowed is a file, or an image in the row"
        if key not in self.known:
            try:
                content, name = self._content(table, value)
                content_sum = _sum(decode_page(content, (*FORMATS, PDF), self._number(content, page)))
                # The path within a row is a name that other pages may have, too.
                within = isinstance(value, dict) and value.get("bytes")
                self.known[key] = "" if within else name, content_sum, ""
            except (OSError, RuntimeError, ValueError) as error:
                # RuntimeError: links in a circle. An OSError's own text has the whole path, however long it is.
                self.known[key] = "", "", getattr(error, "strerror", None) or str(error)
        return self.known[key]

    def load(self, table: Table, value: Any, page: str) -> dict[str, Any]:
        content, name = self._content(table, value)
        if PDF_MARK in content[:1024] or count_pages(content) > 1:
            buffer = io.BytesIO()
            decode_page(content, (*FORMATS, PDF), self._number(content, page)).save(buffer, "PNG")
            content = buffer.getvalue()
        return {"bytes": content, "path": name or None}

    @staticmethod
    def _number(content: bytes, page: str) -> int:
        pages = count_pages(content)
        if not page and pages > 1:
            raise PageError(f"has {pages} pages, and no page is told; allowed is a column page with 1 to {pages}")
        return page_number(page or "1")

    def _content(self, table: Table, value: Any) -> tuple[bytes, str]:
        if isinstance(value, dict) and value.get("bytes"):
            return value["bytes"], printable(PurePosixPath(value.get("path") or "").name)
        path = self.file_of(table, value)
        return read_bytes(path), printable(path.relative_to(self._root(table)).as_posix())

    def file_of(self, table: Table, value: Any) -> Path:
        """The file that a row names, below the folder of images; raises `ValueError` where it names none."""
        name = text_of(value.get("path") if isinstance(value, dict) else value)
        if not name:
            raise ValueError("no image; allowed is a file in the folder of images")
        # RRC's questions name documents/x.png, whatever the folder of images is called.
        return file_below(self._root(table), name, bool(self.root), " (see --images)")

    def _root(self, table: Table) -> Path:
        return (self.root or table.images).resolve()


def file_below(root: Path, name: str, by_name: bool = False, remedy: str = "") -> Path:
    """The file that a row names below a folder, also by a path of Windows; links are followed first.

    `by_name` it is also found without the folders that it is said to be in, where the first of them is not there.
    Raises `ValueError` where there is none, or outside of the folder.
    """
    root, tried = root.resolve(), [name]
    tried += [name.replace("\\", "/")] if "\\" in name else []
    # macOS writes an ü of a file's name as two signs, which look the same.
    tried += [normalize(form, one) for form in ("NFC", "NFD") for one in tried if not one.isascii()]
    first, *below = PureWindowsPath(name).parts or [""]
    try:
        tried += [below[-1]] if by_name and below and not (root / first).is_dir() else []
        paths = [(root / one).resolve() for one in tried]
        path = next((path for path in paths if path.is_relative_to(root) and path.is_file()), paths[0])
        there = path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        # RuntimeError: links in a circle. ValueError: a name that no file can have.
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"names no file ({reason}); allowed are files in {str(root)!r}{remedy}") from None
    if WINDOWS.match(name) and not path.is_file():
        raise ValueError(f"is a whole path of Windows; allowed are files in {str(root)!r}{remedy}")
    if not path.is_relative_to(root):
        raise ValueError(f"outside of the folder of images; allowed are files in {str(root)!r}{remedy}")
    if not there:
        raise ValueError(f"there is no file of this name in {str(root)!r}{remedy}")
    return path


def page_number(text: str) -> int:
    """The number of a page as a cell has it; raises `PageError` for anything but a whole number from 1."""
    if not re.fullmatch(r"0*[1-9]\d{0,8}", text):
        raise PageError(f"page is {shown(text)}; allowed is a whole number from 1")
    return int(text)


def _sum(image: Any) -> str:
    """A checksum of an image's pixels, or of the bytes or path that a row holds."""
    if isinstance(image, dict):
        content = image.get("bytes") or str(image.get("path") or "").encode(errors="surrogateescape")
    else:
        content = b"" if image is None else f"{image.size}".encode() + image.tobytes()
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
