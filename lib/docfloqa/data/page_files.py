"""Pages from files: images of the common kinds, and pages of a PDF."""

from __future__ import annotations

import errno
from pathlib import Path

import pypdfium2
from PIL import Image

from docfloqa.data.images import LARGEST_IMAGE, ImageError, decode_page
from docfloqa.parameters import shown
from docfloqa.paths import expanded

PDF_DPI = 200
LARGEST_FILE = 2**29  # bytes; the largest image that is allowed has 300 million, not compressed


class PageError(ValueError):
    """A page that cannot be had from a file: names the file, what is wrong and what is allowed."""


def read_page(path: str | Path, number: int = 1) -> Image.Image:
    """The page that a file shows, RGB and upright; of a PDF the page `number`, from 1 on, at 200 dpi.

    An image is one page. Raises `PageError` for a file that is not there or cannot be decoded, a page that
    the file does not have, and more than `docfloqa.data.images.LARGEST_IMAGE` pixels.
    """
    path = expanded(path)
    content = read_bytes(path)
    # Readers of PDFs find the mark anywhere in the first kilobyte.
    if b"%PDF-" in content[:1024]:
        return _pdf_page(content, path, number)
    if number != 1:
        raise PageError(f"{str(path)!r} is an image, and page is {number}; allowed is 1, or a PDF")
    try:
        return decode_page(content, largest=LARGEST_IMAGE)
    except ImageError as error:
        raise PageError(f"{str(path)!r} {error}; allowed are PNG, JPEG and PDF files") from error


def read_bytes(path: Path) -> bytes:
    """What a file holds; raises `PageError` where there is none, it cannot be read, or is above `LARGEST_FILE`."""
    try:
        # What is no file (a pipe, a device) may never end.
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no file")
        if path.stat().st_size > LARGEST_FILE:
            raise OSError(errno.EFBIG, f"it has more than the {LARGEST_FILE // 2**20} MiB that are allowed")
        return path.read_bytes()
    except FileNotFoundError:
        raise PageError(f"there is no file {shown(str(path))}") from None
    except (OSError, ValueError) as error:
        # ValueError: a name that no file can have.
        raise PageError(f"{shown(str(path))} cannot be read: {getattr(error, 'strerror', error)}") from error


def _pdf_page(content: bytes, path: Path, number: int) -> Image.Image:
    try:
        with pypdfium2.PdfDocument(content) as pdf:
            if not 1 <= number <= len(pdf):
                raise PageError(
                    f"page is {number}; {str(path)!r} has {len(pdf)}, so allowed is 1 to {len(pdf)}"
                )
            page = pdf[number - 1]
            scale = PDF_DPI / 72  # a PDF measures in points
            _check_size(page.get_width() * page.get_height() * scale**2)
            return page.render(scale=scale).to_pil().convert("RGB")
    except pypdfium2.PdfiumError as error:
        raise PageError(
            f"{str(path)!r} is no PDF that can be decoded (damaged, or with a password): {error}"
        ) from error


def _check_size(pixels: float) -> None:
    if pixels > LARGEST_IMAGE:
        raise PageError(f"has {pixels:,.0f} pixels; allowed are at most {LARGEST_IMAGE:,}")
