"""Any image as a page: its first frame, upright, on white, in RGB, whatever file it comes from."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

LARGEST_IMAGE = 100_000_000  # pixels; a page of A3 at 600 dpi has 70 million
# Not all that Pillow opens: of PostScript it would run the program.
FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B")
# Of any other mode nobody can say which value is white.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", *SIXTEEN_BIT)
TIFF_BITS, TIFF_WHITE_IS_ZERO, TIFF_POLARITY = 258, 0, 262


class ImageError(ValueError):
    """An image that is no page: says what is wrong with it, but not where it came from."""


class ImageTooLargeError(ImageError):
    """An image of more pixels than are allowed."""


def decode_page(
    content: bytes, formats: tuple[str, ...] = FORMATS, largest: int = LARGEST_IMAGE
) -> Image.Image:
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
        raise ImageError(
            "is a grey TIFF of 12 bits, or of 16 with white as 0; allowed are 8 bits, or black as 0"
        )
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
        grey.putalpha(
            Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8))
        )
    return grey
