"""What happens to pages that are not scanned well: six degradations, each in three severities.

Lengths are shares of the page's width, so that a severity does the same to the page whether it has 160 pixels
across or 1,700. Letters need not be the same share of pages: a dense scan loses more than a page of few words.
"""

import hashlib
import json
from io import BytesIO

import datasets
import numpy as np
from PIL import Image, ImageFilter, ImageOps

from docfloqa import versions
from docfloqa.data.images import as_page
from docfloqa.files import data_folder, write_whole

# What is varied, its unit, and its values at severity 1, 2 and 3.
SEVERITIES = {
    "blur": ("standard deviation, % of page width", (0.25, 0.5, 1.0)),
    "JPEG": ("quality, of 100", (30, 15, 5)),
    "low resolution": ("pixels across the page", (120, 90, 60)),
    "noise": ("standard deviation, of 255 grey levels", (20, 40, 80)),
    "faded print": ("contrast left, %", (50, 25, 12)),
    "skew": ("rotation, degrees", (1, 2, 4)),
}
CLEAN = "clean"  # the kind of a page as it is, at severity 0
GRAINS = 160  # of noise across a page: a pixel of a small drawn page, several of a scan
PAPER_PERCENTILE = 90  # of a page's values in each channel: most of a page is paper


def blur(page: Image.Image, percent: float, rng: np.random.Generator) -> Image.Image:
    """A page out of focus: Gaussian blur of `percent` of the page's width."""
    return page.filter(ImageFilter.GaussianBlur(percent / 100 * page.width))


def jpeg(page: Image.Image, quality: float, rng: np.random.Generator) -> Image.Image:
    """A page after JPEG compression; its blocks are of 8 pixels whatever the page's size."""
    content = BytesIO()
    page.save(content, "jpeg", quality=int(quality))
    return Image.open(content).convert("RGB")


def low_resolution(page: Image.Image, columns: float, rng: np.random.Generator) -> Image.Image:
    """A page scanned with so many pixels across and enlarged again; one that has fewer stays as it is."""
    scale = min(1.0, columns / page.width)
    small = [max(1, round(scale * side)) for side in page.size]
    return page.resize(small, Image.Resampling.BOX).resize(page.size, Image.Resampling.BICUBIC)


def noise(page: Image.Image, deviation: float, rng: np.random.Generator) -> Image.Image:
    """A page with Gaussian noise, grey, in grains of at least 1 / `GRAINS` of the page's width."""
    grain = max(1.0, page.width / GRAINS)
    shape = [max(1, round(side / grain)) for side in (page.height, page.width)]
    grains = Image.fromarray(rng.normal(0, deviation, shape).astype(np.float32))
    pixels = np.asarray(grains.resize(page.size, Image.Resampling.NEAREST))
    return _from_values(np.asarray(page, dtype=float) + pixels[..., None])


def faded_print(page: Image.Image, percent: float, rng: np.random.Generator) -> Image.Image:
    """A page whose ink keeps `percent` of its contrast with the paper."""
    paper = _paper(page)
    return _from_values(paper + percent / 100 * (np.asarray(page, dtype=float) - paper))


def skew(page: Image.Image, degrees: float, rng: np.random.Generator) -> Image.Image:
    """A page laid askew, to either side, and shrunk so that none of it is cut off."""
    paper = tuple(map(int, _paper(page)))
    turned = page.rotate(degrees * rng.choice((-1, 1)), Image.Resampling.BICUBIC, expand=True, fillcolor=paper)
    return ImageOps.pad(turned, page.size, Image.Resampling.BICUBIC, color=paper)


DEGRADATIONS = dict(zip(SEVERITIES, (blur, jpeg, low_resolution, noise, faded_print, skew), strict=True))


def degrade(image: Image.Image, kind: str, severity: int, page: str) -> Image.Image:
    """A page of any mode degraded, as RGB of the same size.

    Chance depends on `page`, the checksum of its image, and the kind alone: severities differ in strength only.
    """
    seed = hashlib.sha256(f"{kind} {page}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:8], "big"))
    # As an undegraded page reaches the model (`docfloqa.training.batches.Pages`), 16-bit and transparent ones included.
    return DEGRADATIONS[kind](as_page(image), amount(kind, severity), rng)


def amount(kind: str, severity: int) -> float:
    """The value of `SEVERITIES`, in its unit, at severity 1, 2 or 3."""
    return SEVERITIES[kind][1][severity - 1]


def degraded_pages(rows: datasets.Dataset, kind: str, severity: int) -> datasets.Dataset:
    """The same questions on degraded pages; "clean" at severity 0 gives `rows` themselves.

    Each is kept on the disk as PNG; `page` becomes that file's name, which covers what it was made from and by.
    """
    if (kind, severity) == (CLEAN, 0):
        return rows
    numbers = versions.version("numpy"), versions.version("pillow"), versions.DEGRADATIONS, versions.PAGES
    about = json.dumps([kind, severity, amount(kind, severity), *numbers])
    images = []
    for index, page in enumerate(rows["page"]):
        name = hashlib.sha256((about + page).encode()).hexdigest()[:40]
        file = data_folder() / "cache" / "degraded" / f"{name}.png"
        if not file.is_file():
            content = BytesIO()
            degrade(rows[index]["image"], kind, severity, page).save(content, "png")
            write_whole(file, content.getvalue())
        images.append({"image": str(file), "page": name})
    of_question = datasets.Dataset.from_list(images).cast_column("image", datasets.Image())
    return datasets.concatenate_datasets([rows.remove_columns(["image", "page"]), of_question], axis=1)


def _paper(page: Image.Image) -> np.ndarray:
    """The colour of the paper, (3,), from 0 to 255."""
    return np.percentile(np.asarray(page), PAPER_PERCENTILE, axis=(0, 1))


def _from_values(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
