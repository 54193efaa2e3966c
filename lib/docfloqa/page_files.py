"""Images of pages from files: PNG, JPEG and whatever else Pillow reads, and pages of a PDF."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import pypdfium2
from PIL import Image, ImageOps, UnidentifiedImageError

from docfloqa.data import LARGEST_IMAGE

PDF_DPI = 200


class PageError(ValueError):
    """A page that cannot be had from a file: names the file, what is wrong and what is allowed."""


def read_page(path: str | Path, number: int = 1) -> Image.Image:
    """The page that a file shows, RGB and upright; of a PDF the page `number`, from 1 on, at 200 dpi.

    An image is one page. Raises `PageError` for a file that is not there or cannot be decoded, a page that
    the file does not have, and more than `docfloqa.data.LARGEST_IMAGE` pixels.
    """
    path = Path(path).expanduser()
    content = read_bytes(path)
    # Readers of PDFs find the mark anywhere in the first kilobyte.
    if b"%PDF-" in content[:1024]:
        return _pdf_page(content, path, number)
    if number != 1:
        raise PageError(f"{str(path)!r} is an image, and page is {number}; allowed is 1, or a PDF")
    try:
        return decode_image(content)
    except PageError as error:
        raise PageError(f"{str(path)!r} {error}; allowed are PNG, JPEG and PDF files") from error


def read_bytes(path: Path) -> bytes:
    """What a file holds; raises `PageError` where there is none, or it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PageError(f"there is no file {str(path)!r}") from None
    except (OSError, ValueError) as error:
        # ValueError: a name that no file can have.
        raise PageError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', error)}") from error


def decode_image(content: bytes) -> Image.Image:
    """The image that a PNG, JPEG or other image file holds, RGB and upright.

    Raises `PageError`, which says what is wrong but not where, when it cannot be decoded or has more than
    `docfloqa.data.LARGEST_IMAGE` pixels.
    """
    try:
        with warnings.catch_warnings():
            # The limit below is ours; Pillow's warning comes at another one.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content)) as image:
                _check_size(image.width * image.height)
                return ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError:
        raise PageError(f"has more than {LARGEST_IMAGE:,} pixels") from None
    except PageError:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError) as error:
        raise PageError("is no image that can be decoded") from error


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
