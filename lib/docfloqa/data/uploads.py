"""A page from a file that somebody hands in: opened in a process of its own, within limits, and never on disk."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO

import pypdfium2
from PIL import Image

from docfloqa.data.images import ImageError, decode_page

LARGEST_FILE = 8 * 2**20  # bytes
LARGEST_PAGE = 50_000_000  # pixels; a page of A3 at 400 dpi has 31 million
LONGEST_SIDE = 2000  # pixels of the page that is given back; no model here sees more than 768
SECONDS = 30.0
KINDS = ".png,.jpg,.jpeg,.pdf"
ALLOWED = f"allowed are PNG, JPEG and PDF files of at most {LARGEST_FILE // 2**20} MiB"


class UploadError(ValueError):
    """A file that cannot be taken: says what is wrong and what is allowed."""


def open_upload(content: bytes, number: int = 1) -> Image.Image:
    """The page that a PNG or JPEG file shows, upright, or the page `number` (from 1) of a PDF, in RGB.

    At most `LONGEST_SIDE` pixels high and wide. A child process decodes the file, since what a stranger made may
    crash a decoder or keep it busy for ever. Raises `UploadError` for a file that is too large, of another kind,
    damaged or protected, a page that it does not have, and one that takes longer than `SECONDS`.
    """
    if len(content) > LARGEST_FILE:
        raise UploadError(f"the file has {len(content) / 2**20:.1f} MiB; {ALLOWED}")
    command = [sys.executable, "-m", "docfloqa.data.uploads", str(number)]
    try:
        child = subprocess.run(command, input=content, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise UploadError(f"the file was not read within {SECONDS:.0f} s; try a smaller one") from None
    if child.returncode == 2:
        raise UploadError(child.stderr.decode().strip())
    if child.returncode:
        raise UploadError(f"the file stopped the program that reads it; {ALLOWED}")
    return Image.open(BytesIO(child.stdout))


def decode(content: bytes, number: int) -> Image.Image:
    """What `open_upload` gives, decoded in this process; raises `UploadError` likewise, but for size and time."""
    try:
        if content.lstrip()[:5] == b"%PDF-":
            page = _pdf_page(content, number)
        else:
            page = decode_page(content, ("PNG", "JPEG"), LARGEST_PAGE)
    except pypdfium2.PdfiumError as error:
        raise UploadError(f"the PDF is damaged or needs a password ({error})") from error
    except ImageError as error:
        raise UploadError(f"the file {error}; {ALLOWED}") from error
    page.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return page


def _pdf_page(content: bytes, number: int) -> Image.Image:
    with pypdfium2.PdfDocument(content) as pdf:
        if not 1 <= number <= len(pdf):
            raise UploadError(f"the PDF has {len(pdf)} pages; {number} is none of them")
        page = pdf[number - 1]
        scale = LONGEST_SIDE / max(page.get_width(), page.get_height())
        return page.render(scale=scale).to_pil().convert("RGB")


def main() -> int:
    """The child process: a file on standard input, the page's number as argument, a PPM image on standard output."""
    try:
        page = decode(sys.stdin.buffer.read(), int(sys.argv[1]))
    except UploadError as error:
        print(error, file=sys.stderr)
        return 2
    page.save(sys.stdout.buffer, "PPM")
    return 0


if __name__ == "__main__":
    sys.exit(main())
