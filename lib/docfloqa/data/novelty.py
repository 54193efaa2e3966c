"""Whether a page looks like those that a model was trained on, from plain statistics of its picture."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from PIL import Image

from docfloqa.data.images import as_page

SIDE = 256  # pixels; a page is squeezed into a square, as models do
SCALES = 5  # the sharpest detail, then four times half as sharp
INK = 0.25  # darker than the paper by so much, of 1
QUANTILE = 0.99  # of the validation pages are within the threshold
PAGES = 150  # of a split are looked at, evenly spaced; it takes some seconds of every run
RIDGE = 0.05
# Below these a difference is none, however much alike the training pages are: 10 % of width to height, 2 % else.
SMALLEST = np.array([0.1] + [0.02] * (3 + 2 * SCALES))


def page_statistics(image: Image.Image) -> np.ndarray:
    """Of a page of any mode and size: shape, brightness of the paper, share of ink, colour, detail; 14 numbers.

    Shape is the logarithm of width by height. Detail is the logarithm of the mean difference between neighbours, down
    and across, at every scale. It covers size and density of text, noise and blur.
    """
    page = as_page(image)
    bands = [np.asarray(band) for band in page.resize((SIDE, SIDE), Image.Resampling.BICUBIC).split()]
    colour = (np.maximum.reduce(bands) - np.minimum.reduce(bands)).mean() / 255
    grey = np.sum(bands, axis=0, dtype=np.float32) / (255 * len(bands))
    paper = np.quantile(grey, 0.75)
    found = [np.log(page.width / page.height), paper, (grey < paper - INK).mean(), colour]
    for _ in range(SCALES):
        found += [np.log(np.abs(np.diff(grey, axis=axis)).mean() + 1e-3) for axis in (0, 1)]
        half = len(grey) // 2
        grey = grey.reshape(half, 2, half, 2).mean((1, 3))
    return np.array(found)


def evenly(pages: Sequence[Image.Image], most: int) -> Iterator[Image.Image]:
    """At most so many of some pages, evenly spaced; the others are not decoded."""
    step = -(-len(pages) // most)
    return (pages[place] for place in range(0, len(pages), step))


@dataclass(frozen=True)
class PagesRead:
    """What training pages look like: mean, scale and covariance of their statistics."""

    mean: list[float]
    scale: list[float]
    covariance: list[list[float]]
    threshold: float  # of the distance (after Mahalanobis), which 99 % of the validation pages stay below

    @classmethod
    def of(cls, training: Sequence[Image.Image], validation: Sequence[Image.Image]) -> Self:
        """From the pages of both splits, at least one of each; of many, only some are looked at."""
        training, validation = (evenly(pages, PAGES) for pages in (training, validation))
        seen = np.array([page_statistics(page) for page in training])
        mean, scale = seen.mean(0), np.maximum(seen.std(0), SMALLEST)
        scaled = (seen - mean) / scale
        covariance = scaled.T @ scaled / len(seen) + RIDGE * np.eye(len(mean))
        read = cls(*(np.round(one, 6).tolist() for one in (mean, scale, covariance)), 1.0)
        # Not below what a training page may be expected to have, however few or alike the validation pages are.
        farthest = max(np.sqrt(len(mean)), np.quantile([*map(read.novelty, validation)], QUANTILE))
        return replace(read, threshold=float(farthest))

    def novelty(self, image: Image.Image) -> float:
        """How far a page is from the training pages, as a multiple of the threshold: above 1 it is unlike them."""
        away = (page_statistics(image) - self.mean) / self.scale
        return float(np.sqrt(away @ np.linalg.solve(self.covariance, away)) / self.threshold)
