"""Images that no page can be made of, or that a careless conversion makes a wrong page of."""

import os
import struct
import tempfile
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from datasets import Image as ImageFeature
from hypothesis import strategies as st
from PIL import Image

from bad_input.case import BadInput, refused
from docfloqa.apps.browser import page_html
from docfloqa.data.degradations import SEVERITIES, degrade
from docfloqa.data.images import UPLOAD, PageError, as_page, decode_page, read_page
from docfloqa.model.florence import load_florence

ORIENTATION = 0x0112
FILES = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP")
LOSSLESS = ("PNG", "TIFF", "BMP")
sides = st.integers(1, 24)
seeds = st.integers(0, 2**32 - 1)


def file_of(image: Image.Image, kind: str, **further) -> bytes:
    """An image as a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **further)
    return buffer.getvalue()


def noise(width: int, height: int, seed: int, mode: str = "RGB") -> Image.Image:
    """An image of noise, in which no two places are alike."""
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(pixels, mode if mode in ("LA", "CMYK") else None)


def same(one: Image.Image, other: Image.Image, within: int = 0) -> None:
    """Assert that two pages are equal, within so many grey levels."""
    assert one.size == other.size and one.mode == other.mode == "RGB"
    assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= within


def everywhere(content: bytes) -> Image.Image:
    """The page of a file, which is the same where a data set decodes it."""
    page = decode_page(content)
    same(page, as_page(ImageFeature().decode_example({"bytes": content, "path": None})))
    return page


def refused_or(page: Image.Image, content: bytes) -> None:
    """Assert that a file is refused, or gives this very page."""
    try:
        found = decode_page(content)
    except PageError:
        return
    same(found, page)


def truncated(case) -> None:
    image, kind, share = case
    content = file_of(image, kind)
    refused_or(decode_page(content), content[: int(share * len(content))])


def damaged(case) -> None:
    image, kind, places, seed = case
    content = bytearray(file_of(image, kind))
    for place in places:
        content[int(place * len(content))] = seed = (seed * 167 + 13) % 256
    try:
        page = decode_page(bytes(content))
    except PageError:
        return
    assert page.mode == "RGB"


def sixteen_bits(case) -> None:
    levels, kind = case
    page = everywhere(file_of(Image.fromarray(np.array(levels, dtype=np.uint16)[None]), kind))
    assert [red for red, _, _ in page.get_flattened_data()] == [int(level / 257 + 0.5) for level in levels]


def unknown_range(case) -> None:
    image, mode = case
    refused(PageError, "pixels of the kind", decode_page, file_of(image.convert("L").convert(mode), "TIFF"))


def grey_tiff(bits: int, white_is_zero: bool, levels: list[int]) -> bytes:
    """A TIFF of one row, as scanners write it and Pillow does not."""
    packed = 0
    for level in levels:
        packed = packed << bits | level % 2**bits
    size = -(-bits * len(levels) // 8)
    data = (packed << size * 8 - bits * len(levels)).to_bytes(size, "big")
    if bits == 16:
        data = b"".join(struct.pack("<H", level) for level in levels)
    tags = {256: len(levels), 257: 1, 258: bits, 259: 1, 262: 0 if white_is_zero else 1}
    tags |= {273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: 1, 279: len(data)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + data


def uncommon_tiff(case) -> None:
    (bits, white_is_zero), levels = case
    content = grey_tiff(bits, white_is_zero, levels)
    refused(PageError, "TIFF of 12 bits|cannot be decoded|no image", decode_page, content)


def cmyk(case) -> None:
    ink, kind = case
    image = Image.new("CMYK", (16, 16), ink)
    *colours, black = ink
    expected = Image.new("RGB", (16, 16), tuple((255 - one) * (255 - black) // 255 for one in colours))
    further = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    same(everywhere(file_of(image, kind, **further)), expected, 8 if kind == "JPEG" else 2)


def palette(case) -> None:
    colours, transparent, kind = case
    image = Image.new("P", (len(colours), 1))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata(range(len(colours)))
    further = {"transparency": transparent % len(colours)} if transparent is not None else {}
    shown = [
        (255, 255, 255) if place == further.get("transparency") else colour for place, colour in enumerate(colours)
    ]
    assert list(everywhere(file_of(image, kind, **further)).get_flattened_data()) == shown


def alpha(case) -> None:
    image, kind = case
    page = everywhere(file_of(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    pixels = np.asarray(image.convert("RGBA"), dtype=float)
    share = pixels[..., 3:] / 255
    expected = Image.fromarray(np.uint8(pixels[..., :3] * share + 255 * (1 - share) + 0.5))
    same(page, expected, 1)


TURNS = {
    1: (),
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_90,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_270,),
}


def turned(case) -> None:
    image, orientation, kind = case
    lying = image
    for turn in TURNS[orientation]:
        lying = lying.transpose(turn)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    further = {"lossless": True} if kind == "WEBP" else {}
    same(everywhere(file_of(lying, kind, exif=exif, **further)), image)


def broken_exif(case) -> None:
    image, exif, kind = case
    content = file_of(image, kind, exif=b"Exif\0\0" + exif)
    refused_or(decode_page(file_of(image, kind)), content)


def extreme_size(case) -> None:
    (width, height), seed = case
    image = noise(width, height, seed)
    page = everywhere(file_of(image, "PNG"))
    same(page, image)
    _, processor = load_florence("data/florence2-tiny")
    side = processor.image_processor.size["height"]
    seen = processor.image_processor(page, do_rescale=False, do_normalize=False, return_tensors="np")
    resized = np.asarray(page.resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.array_equal(seen.pixel_values[0], resized)
    assert "<img" in page_html(page, "a line")
    if width * height <= 10_000:
        for kind in SEVERITIES:
            assert degrade(page, kind, 3, "page").size == page.size


def animated(case) -> None:
    frames, kind = case
    further = {"lossless": True} if kind == "WEBP" else {}
    content = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **further)
    same(everywhere(content), frames[0].convert("RGB"))


def png_of(width: int, height: int, *further: tuple[bytes, bytes]) -> bytes:
    """A PNG that says it is so large, with further chunks, and no more data than a small one has."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), *further, (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def bomb(case) -> None:
    width, height, kind = case
    content = {
        "PNG": lambda: png_of(width, height),
        "GIF": lambda: b"GIF89a" + struct.pack("<HH", width % 65536, height % 65536) + b"\0\0\0,\0\0\0\0",
        "TIFF": lambda: grey_tiff(8, False, [0]).replace(
            struct.pack("<HHIIHHII", 256, 4, 1, 1, 257, 4, 1, 1),
            struct.pack("<HHIIHHII", 256, 4, 1, width, 257, 4, 1, height),
        ),
    }[kind]()
    if kind == "GIF":
        refused(PageError, "pixels|decoded", decode_page, content)
    else:
        refused(PageError, "pixels", decode_page, content)


def text_bomb(size: int) -> None:
    content = png_of(1, 1, (b"zTXt", b"about\0\0" + zlib.compress(b"x" * size)))
    refused_or(Image.new("RGB", (1, 1)), content)


PROGRAM = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/tmp/ran) (w) file closefile\nshowpage\n"
OTHERS = [
    PROGRAM,
    b"%PDF-1.7\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"<!DOCTYPE html><script>alert(1)</script>",
    b"P6 1 1 255 abc",
    b"\xd7\xcd\xc6\x9a" + b"\0" * 40,
    file_of(Image.new("RGB", (16, 16)), "ICO"),
    file_of(Image.new("RGB", (16, 16)), "PPM"),
    file_of(Image.new("RGB", (16, 16)), "PDF"),
    file_of(Image.new("RGB", (16, 16)), "EPS"),
]


def no_image(content: bytes) -> None:
    refused(PageError, "no image that can be decoded", decode_page, content)
    if not content.lstrip().startswith(b"%PDF-"):
        refused(PageError, "no image that can be decoded; allowed are PNG.*PDF", decode_page, content, (*FILES, "PDF"))


def uploaded(case) -> None:
    content, number, place, cut = case
    content = bytearray(content)
    content[place % len(content)] ^= 0x55
    try:
        page = decode_page(bytes(content[: len(content) - cut]), number=number, **UPLOAD)
    except PageError:
        return
    assert page.mode == "RGB" and max(page.size) <= UPLOAD["longest"]


def no_file(kind: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.mkfifo(folder / "pipe")
        (folder / "link").symlink_to("/dev/zero")
        (folder / "loop").symlink_to(folder / "loop")
        with (folder / "sparse").open("wb") as file:
            file.truncate(2**40)
        paths = {
            "pipe": folder / "pipe",
            "device": "/dev/zero",
            "link to a device": folder / "link",
            "loop": folder / "loop",
            "folder": folder,
            "no such file": folder / "none.png",
            "a file as a folder": folder / "sparse" / "page.png",
            "zero byte": "page\0.png",
            "long name": "x" * 300,
            "nobody's home": "~nobody-has-this-name/page.png",
            "lone surrogate": "page\ud800.png",
            "terabyte": folder / "sparse",
        }
        refused(PageError, "cannot be read|there is no file", read_page, paths[kind])


NO_FILES = (
    "pipe,device,link to a device,loop,folder,no such file,a file as a folder,zero byte,long name,nobody's home,"
    "lone surrogate,terabyte"
).split(",")
pictures = st.builds(noise, sides, sides, seeds)
colours = st.tuples(*[st.integers(0, 255)] * 3)
lines = st.sampled_from([(1, 1), (1, 2), (3, 1), (2, 3), (1, 300), (3, 50), (50, 3), (20_000, 1), (1, 20_000), (4, 4)])
pdf = file_of(Image.new("RGB", (30, 40), "red"), "PDF", resolution=72)
png = file_of(noise(30, 40, 0), "PNG")
jpeg = file_of(noise(30, 40, 0), "JPEG")

IMAGES = [
    BadInput(
        "image, truncated",
        "refused, or whole where only the file's end was lost",
        st.tuples(pictures, st.sampled_from(FILES), st.floats(0, 0.999)),
        truncated,
        2,
    ),
    BadInput(
        "image, damaged bytes",
        "refused, or a page; no other error",
        st.tuples(pictures, st.sampled_from(FILES), st.lists(st.floats(0, 0.999), min_size=1), st.integers(0, 255)),
        damaged,
        4,
    ),
    BadInput(
        "image, 16 bits",
        "levels scaled, not cut off",
        st.tuples(st.lists(st.integers(0, 65535), min_size=1, max_size=40), st.sampled_from(["PNG", "TIFF"])),
        sixteen_bits,
    ),
    BadInput(
        "image, range of values unknown",
        "refused",
        st.tuples(pictures, st.sampled_from(["I", "F"])),
        unknown_range,
        0.5,
    ),
    BadInput(
        "image, 12 bits or white as 0",
        "refused",
        st.tuples(
            st.sampled_from([(12, False), (12, True), (16, True)]),
            st.lists(st.integers(0, 4095), min_size=2, max_size=8),
        ),
        uncommon_tiff,
        0.5,
    ),
    BadInput(
        "image, CMYK",
        "the colours that it has in print",
        st.tuples(st.tuples(*[st.integers(0, 255)] * 4), st.sampled_from(["JPEG", "TIFF"])),
        cmyk,
    ),
    BadInput(
        "image, palette",
        "its colours, white where transparent",
        st.tuples(
            st.lists(colours, min_size=2, max_size=16, unique=True),
            st.none() | st.integers(0, 15),
            st.sampled_from(["PNG", "GIF"]),
        ),
        palette,
    ),
    BadInput(
        "image, alpha",
        "composed on white",
        st.tuples(
            st.builds(noise, sides, sides, seeds, st.sampled_from(["LA", "RGBA"])),
            st.sampled_from(["PNG", "TIFF", "WEBP"]),
        ),
        alpha,
    ),
    BadInput(
        "image, turned by EXIF",
        "upright",
        st.tuples(pictures, st.sampled_from(list(TURNS)), st.sampled_from(["PNG", "TIFF", "WEBP"])),
        turned,
        1.5,
    ),
    BadInput(
        "image, broken EXIF",
        "refused, or the page as it lies",
        st.tuples(pictures, st.binary(max_size=60), st.sampled_from(["PNG", "JPEG", "WEBP"])),
        broken_exif,
    ),
    BadInput("image, 1 x 1 to 20,000 x 1", "the page, as large as it is", st.tuples(lines, seeds), extreme_size, 0.5),
    BadInput(
        "image, animated",
        "its first frame",
        st.tuples(
            st.lists(seeds, min_size=2, max_size=4, unique=True).map(
                lambda found: [noise(9, 7, seed, "L").quantize(16).convert("L") for seed in found]
            ),
            st.sampled_from(["GIF", "WEBP", "TIFF", "PNG"]),
        ),
        animated,
        0.5,
    ),
    BadInput(
        "image, larger than it may be",
        "refused without being decoded",
        st.tuples(
            st.integers(10_001, 2**31 - 1), st.integers(10_001, 2**31 - 1), st.sampled_from(["PNG", "GIF", "TIFF"])
        ),
        bomb,
    ),
    BadInput(
        "image, text that unpacks to megabytes", "refused, or the page", st.integers(2**20, 2**25), text_bomb, 0.2
    ),
    BadInput(
        "image, none at all",
        "refused; PostScript is not run",
        st.sampled_from(OTHERS) | st.binary(max_size=200) | st.text(max_size=50).map(str.encode),
        no_image,
        1.5,
    ),
    BadInput(
        "upload, damaged PDF, PNG or JPEG",
        "refused, or a page of at most 2,000 pixels a side",
        st.tuples(st.sampled_from([pdf, png, jpeg]), st.integers(-1, 3), st.integers(0, 10**6), st.integers(0, 200)),
        uploaded,
        2,
    ),
    BadInput("path, no file", "refused; pipes and devices are not waited for", st.sampled_from(NO_FILES), no_file),
]
