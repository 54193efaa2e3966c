"""What every drawn page is made of: a grey image, the facts that it states, fonts, stamps and noise."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from docfloqa.data.synth.vocabulary import Key

FONT_FOLDER = Path(matplotlib.get_data_path(), "fonts", "ttf")
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Field:
    """A key and its value as printed; boxes are (left, top, right, bottom) in pixels.

    `key_text` is what stands in `key_box`, but for a colon; where it is None, the key's label.
    """

    key: Key
    value: str
    key_box: Box
    value_box: Box
    key_text: str | None = None


class Page:
    """A page in the making: paper of one grey level, and a pen with ink of another (0 black, 255 white).

    It knows its kind and font, its fields, every character with its centre, and how many words it has.
    """

    def __init__(self, rng: Random, kind: str, size: tuple[int, int], paper: int, ink: int, font: str = ""):
        self.rng, self.kind, self.paper, self.ink, self.font = rng, kind, paper, ink, font
        self.image = Image.new("L", size, paper)
        self.pen = ImageDraw.Draw(self.image)
        self.fields: list[Field] = []
        self.characters: list[tuple[float, float, str]] = []
        self.words = 0

    def note(self, key: Key, value: str, key_box: Box, value_box: Box, key_text: str | None = None) -> None:
        """Note a fact that the page states."""
        self.fields.append(Field(key, value, key_box, value_box, key_text))


@lru_cache(maxsize=512)
def font(name: str, size: float) -> ImageFont.FreeTypeFont:
    """A font that matplotlib ships, by file name without its ending, at a size in pixels."""
    return ImageFont.truetype(FONT_FOLDER / f"{name}.ttf", size)


def stamp(
    word: str, face: ImageFont.FreeTypeFont, size: tuple[int, int], ink: int, paper: int, frame: int, angle: float
) -> Image.Image:
    """A word in a frame of so many pixels, turned by `angle` degrees."""
    image = Image.new("L", size, paper)
    pen, edge = ImageDraw.Draw(image), 3 - frame
    pen.rectangle([edge, edge, size[0] - 1 - edge, size[1] - 1 - edge], outline=ink, width=frame)
    pen.text((size[0] / 2, size[1] / 2), word, fill=ink, font=face, anchor="mm")
    return image.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=paper)


def add_noise(image: Image.Image, rng: Random, largest: float) -> Image.Image:
    """`image` with Gaussian noise whose standard deviation is drawn from [0, `largest`] grey levels."""
    grey = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, largest), grey.shape)
    return Image.fromarray((grey + noise).clip(0, 255).astype(np.uint8))
