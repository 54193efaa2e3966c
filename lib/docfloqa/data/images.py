"""Pages as images: read from files of any kind, checked, brought to the size that a model takes."""

from __future__ import annotations

import errno
import subprocess
import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pypdfium2
from PIL import Image, ImageOps

from docfloqa.exceptions import DocFloQAError, shown
from docfloqa.files import expanded

LARGEST_IMAGE = 100_000_000  # pixels; a page of A3 at 600 dpi has 70 million
# Not all that Pillow opens: of PostScript it would run the program.
FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
# Of any other mode nobody can say which value is white.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *SIXTEEN_BIT)
TIFF_BITS, TIFF_WHITE_IS_ZERO, TIFF_POLARITY = 258, 0, 262


class ImageError(DocFloQAError, ValueError):
    """An image that is no page: says what is wrong with it, but not where it came from."""


class ImageTooLargeError(ImageError):
    """An image of more pixels than are allowed."""


def decode_page(content: bytes, formats: tuple[str, ...] = FORMATS, largest: int = LARGEST_IMAGE) -> Image.Image:
    """The page that an image file holds, as `as_page` gives it.

    Raises `ImageTooLargeError` for more than `largest` pixels, which are not decoded, and `ImageError` for what is
    none of `formats`, is damaged, or has values whose range is unknown.
    """
    try:
        with warnings.catch_warnings():
            # The limit is ours, Pillow's warning comes at another one; what it says of damage comes as errors, too.
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(content), formats=formats) as image:
                pixels = image.width * image.height
                if pixels > largest:
                    raise ImageTooLargeError(f"has {pixels:,} pixels; allowed are at most {largest:,}")
                image.load()
                return as_page(image)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageTooLargeError(f"has far more than the {largest:,} pixels that are allowed") from None
    except Exception as error:
        # Decoders fail in every way on what is damaged: struct.error, KeyError, zlib.error, MemoryError and so on.
        raise ImageError("is no image that can be decoded") from error


def as_page(image: Image.Image) -> Image.Image:
    """An image of any mode as a page: turned upright as its EXIF says, on white where it is transparent, in RGB.

    The 65,536 levels of a 16-bit image become 256 levels. Raises `ImageError` where the range of values is unknown.
    """
    if image.mode not in MODES:
        raise ImageError(f"has pixels of the kind {image.mode!r}; allowed are {', '.join(MODES)}")
    tags = getattr(image, "tag_v2", {})
    whole = tags.get(TIFF_BITS, (16,))[0] == 16 and tags.get(TIFF_POLARITY) != TIFF_WHITE_IS_ZERO
    if image.mode in SIXTEEN_BIT and not whole:
        raise ImageError("is a grey TIFF of 12 bits, or of 16 with white as 0; allowed are 8 bits, or black as 0")
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


PDF_DPI = 200
LARGEST_FILE = 2**29  # bytes; the largest image that is allowed has 300 million, not compressed


class PageError(DocFloQAError, ValueError):
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
                raise PageError(f"page is {number}; {str(path)!r} has {len(pdf)}, so allowed is 1 to {len(pdf)}")
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


LARGEST_UPLOAD = 8 * 2**20  # bytes
LARGEST_PAGE = 50_000_000  # pixels; a page of A3 at 400 dpi has 31 million
LONGEST_SIDE = 2000  # pixels of the page that is given back; no model here sees more than 768
SECONDS = 30.0
KINDS = ".png,.jpg,.jpeg,.pdf"
ALLOWED = f"allowed are PNG, JPEG and PDF files of at most {LARGEST_UPLOAD // 2**20} MiB"


class UploadError(DocFloQAError, ValueError):
    """A file that cannot be taken: says what is wrong and what is allowed."""


def open_upload(content: bytes, number: int = 1) -> Image.Image:
    """The page that a PNG or JPEG file shows, upright, or the page `number` (from 1) of a PDF, in RGB.

    At most `LONGEST_SIDE` pixels high and wide. A child process decodes the file, since what a stranger made may
    crash a decoder or keep it busy for ever. Raises `UploadError` for a file that is too large, of another kind,
    damaged or protected, a page that it does not have, and one that takes longer than `SECONDS`.
    """
    if len(content) > LARGEST_UPLOAD:
        raise UploadError(f"the file has {len(content) / 2**20:.1f} MiB; {ALLOWED}")
    command = [sys.executable, "-m", "docfloqa.data.images", str(number)]
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
            page = _uploaded_pdf_page(content, number)
        else:
            page = decode_page(content, ("PNG", "JPEG"), LARGEST_PAGE)
    except pypdfium2.PdfiumError as error:
        raise UploadError(f"the PDF is damaged or needs a password ({error})") from error
    except ImageError as error:
        raise UploadError(f"the file {error}; {ALLOWED}") from error
    page.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return page


def _uploaded_pdf_page(content: bytes, number: int) -> Image.Image:
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
