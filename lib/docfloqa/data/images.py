"""Pages as images: read from files of any kind, checked, brought to the size that a model takes."""

import math
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import pypdfium2
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from docfloqa.exceptions import LONGEST_SHOWN, DocFloQAError, shown
from docfloqa.files import expanded

LARGEST_IMAGE = 100_000_000  # pixels; a page of A3 at 600 dpi has 70 million
TOO_LARGE = "it has more than {:,} pixels"
# Not all that Pillow opens: of PostScript it would run the program.
FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")
PDF, PDF_MARK, PDF_DPI = "PDF", b"%PDF-", 200
# The further frames of a JPEG are previews and gain maps, not pages.
OF_SEVERAL_PAGES = ("TIFF", "GIF", "PNG", "WEBP")
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
# Of any other mode nobody can say which value is white.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *SIXTEEN_BIT)
TIFF_BITS, TIFF_WHITE_IS_ZERO, TIFF_POLARITY = 258, 0, 262
LARGEST_FILE = 2**29  # bytes; the largest image that is allowed has 300 million, not compressed
LARGEST_UPLOAD = 8 * 2**20  # bytes
# A page of A3 at 400 dpi has 31 million pixels, and no model here sees more than 768 across.
UPLOAD = {"formats": ("PNG", "JPEG", PDF), "largest": 50_000_000, "longest": 2000}
SECONDS = 30.0
# Text in a PNG is of no matter for a page: one piece of it may have what Pillow allows all of it together, 64 MiB.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
File = pypdfium2.PdfDocument | Image.Image
KINDS = ".png,.jpg,.jpeg,.pdf"
ALLOWED = f"allowed are PNG, JPEG and PDF files of at most {LARGEST_UPLOAD // 2**20} MiB"


class PageError(DocFloQAError, ValueError):
    """What is no page: says what is wrong and what is allowed, and of a file that was given by its name that name.

    `reason` is the same for every file with the same fault: what the decoder says, where a decoder does.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason or message


def decode_page(content: bytes, formats=FORMATS, number=1, largest=LARGEST_IMAGE, longest=math.inf) -> Image.Image:
    """The page `number` (from 1) of a file, as `as_page` gives it: a frame of an image, a page of a PDF at 200 dpi.

    No side has more than `longest` pixels. Raises `PageError` for more than `largest` pixels, which are not decoded,
    for none of `formats`, a damaged file, one without such a page, and values whose range is unknown.
    """
    with _opened(content, formats, largest) as file:
        if isinstance(file, pypdfium2.PdfDocument):
            page = _pdf_page(file, number, largest, longest)
        else:
            page = _image_page(file, number, largest)
    if max(page.size) > longest:
        page.thumbnail((longest, longest))
    return page


def count_pages(content: bytes, formats: tuple[str, ...] = (*FORMATS, PDF)) -> int:
    """How many pages a file has: a PDF's, a TIFF's, the frames of a GIF, PNG or WEBP. Raises as `decode_page` does."""
    with _opened(content, formats) as file:
        return _pages(file)


@contextmanager
def _opened(content: bytes, formats: tuple[str, ...], largest: int = LARGEST_IMAGE) -> Iterator[File]:
    """A file, not decoded yet; whatever a decoder says of it becomes a `PageError` with its reason."""
    try:
        with warnings.catch_warnings():
            # The limit is ours, Pillow's warning comes at another one; what it says of damage comes as errors, too.
            warnings.simplefilter("ignore")
            # Readers of PDFs find the mark anywhere in the first kilobyte.
            if PDF in formats and PDF_MARK in content[:1024]:
                file = pypdfium2.PdfDocument(content)
            else:
                file = Image.open(BytesIO(content), formats=[kind for kind in formats if kind != PDF])
            with file:
                yield file
    except PageError:
        raise
    except pypdfium2.PdfiumError as error:
        raise PageError(f"is no PDF that can be decoded (damaged, or with a password): {error}") from error
    except Image.DecompressionBombError:
        told = f"has far more than the {largest:,} pixels that are allowed"
        raise PageError(told, TOO_LARGE.format(largest)) from None
    except Exception as error:
        # Decoders fail in every way on what is damaged: struct.error, KeyError, zlib.error, MemoryError and so on.
        reason = _reason(error)
        told = f"is no image that can be decoded{reason and f' ({reason})'}; allowed are {', '.join(formats)}"
        raise PageError(told, reason or "it is in no format that is allowed") from error


def _reason(error: Exception) -> str:
    """What a decoder says, the same for every file with the same damage, and how to lift a limit of Pillow's."""
    if isinstance(error, UnidentifiedImageError):
        # Pillow's sentence names an address in memory.
        return ""
    told = re.sub(r" \(\d+ bytes not processed\)", "", " ".join(str(error).split())[:LONGEST_SHOWN])
    if "MAX_TEXT" in told or "too much memory used for text" in told.lower():
        told += ": Pillow's limit for the text in a PNG; remove that text with: mogrify -strip FILE"
    return told or type(error).__name__


def _pages(file: File) -> int:
    if isinstance(file, pypdfium2.PdfDocument):
        return len(file)
    return getattr(file, "n_frames", 1) if file.format in OF_SEVERAL_PAGES else 1


def _image_page(image: Image.Image, number: int, largest: int) -> Image.Image:
    # An image of one page is that page, whatever number it has in its document.
    if number != 1 and (pages := _pages(image)) > 1:
        _check_number(number, pages)
        image.seek(number - 1)
    _check_pixels(image.width * image.height, largest)
    image.load()
    return as_page(image)


def _pdf_page(pdf: pypdfium2.PdfDocument, number: int, largest: int, longest: float) -> Image.Image:
    _check_number(number, len(pdf))
    page = pdf[number - 1]
    width, height = page.get_size()
    scale = min(PDF_DPI / 72, longest / max(width, height))  # a PDF measures in points
    _check_pixels(width * height * scale**2, largest)
    return page.render(scale=scale).to_pil().convert("RGB")


def _check_number(number: int, pages: int) -> None:
    if not 1 <= number <= pages:
        allowed = f"1 to {pages}" if pages > 1 else "1"
        raise PageError(f"has {pages} page{'s' * (pages > 1)}, and page is {number}; allowed is {allowed}")


def _check_pixels(pixels: float, largest: int) -> None:
    if pixels > largest:
        raise PageError(f"has {pixels:,.0f} pixels; allowed are at most {largest:,}", TOO_LARGE.format(largest))


def as_page(image: Image.Image) -> Image.Image:
    """An image of any mode as a page: turned upright as its EXIF says, on white where it is transparent, in RGB.

    The 65,536 levels of a 16-bit image become 256 levels. Raises `PageError` where the range of values is unknown.
    """
    if image.mode not in MODES:
        raise PageError(f"has pixels of the kind {image.mode!r}; allowed are {', '.join(MODES)}")
    tags = getattr(image, "tag_v2", {})
    whole = tags.get(TIFF_BITS, (16,))[0] == 16 and tags.get(TIFF_POLARITY) != TIFF_WHITE_IS_ZERO
    if image.mode in SIXTEEN_BIT and not whole:
        raise PageError("is a grey TIFF of 12 bits, or of 16 with white as 0; allowed are 8 bits, or black as 0")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in SIXTEEN_BIT:
        upright = _eight_bit(upright)
    if upright.has_transparency_data:
        white = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(white, upright.convert("RGBA"))
    return upright.convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow's own conversion makes everything above 255 white.
    levels = np.asarray(image, dtype=np.uint16)
    grey = Image.fromarray(((levels.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def read_page(path: str | Path, number: int = 1) -> Image.Image:
    """The page that a file shows (see `decode_page`); raises `PageError` where it shows none, naming the file."""
    path = expanded(path)
    content = read_bytes(path)
    try:
        page = decode_page(content, (*FORMATS, PDF), number)
        if number != 1 and count_pages(content) == 1:
            raise PageError(f"is an image, and page is {number}; allowed is 1, or a file of several pages")
    except PageError as error:
        raise PageError(f"{str(path)!r} {error}", error.reason) from error
    return page


def read_bytes(path: Path) -> bytes:
    """What a file holds; raises `PageError` where there is none, it cannot be read, or is above `LARGEST_FILE`."""
    try:
        # What is no file (a pipe, a device) may never end.
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"it has more than the {LARGEST_FILE // 2**20} MiB that are allowed")
        return path.read_bytes()
    except FileNotFoundError:
        raise PageError(f"there is no file {shown(str(path))}") from None
    except (OSError, ValueError) as error:
        # ValueError also for a name that no file can have.
        raise PageError(f"{shown(str(path))} cannot be read: {getattr(error, 'strerror', error)}") from error


def check_size(size: int) -> None:
    """Raise `PageError` for an upload of more bytes than `LARGEST_UPLOAD`."""
    if size > LARGEST_UPLOAD:
        raise PageError(f"the file has {size / 2**20:.1f} MiB; {ALLOWED}")


def open_upload(content: bytes, number: int = 1) -> Image.Image:
    """The page of a file as `UPLOAD` allows it (see `decode_page`).

    A child process decodes the file, since what a stranger made may crash a decoder or keep it busy for ever. Raises
    `PageError` for a file of more than `LARGEST_UPLOAD`, without such a page, and one that takes longer than `SECONDS`.
    """
    check_size(len(content))
    command = [sys.executable, "-m", "docfloqa.data.images", str(number)]
    try:
        child = subprocess.run(command, input=content, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise PageError(f"the file was not read within {SECONDS:.0f} s; try a smaller one") from None
    if child.returncode == 2:
        raise PageError(f"the file {child.stderr.decode().strip()}")
    if child.returncode:
        raise PageError(f"the file stopped the program that reads it; {ALLOWED}")
    return Image.open(BytesIO(child.stdout))


def main() -> int:
    """The child process: a file on standard input, the page's number as argument, a PPM image on standard output."""
    try:
        page = decode_page(sys.stdin.buffer.read(), number=int(sys.argv[1]), **UPLOAD)
    except PageError as error:
        print(error, file=sys.stderr)
        return 2
    page.save(sys.stdout.buffer, "PPM")
    return 0


if __name__ == "__main__":
    sys.exit(main())
