"""Outputs of the frozen beginning of the vision tower, once per page, on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from docfloqa.batches import Pages
from docfloqa.device import autocast
from docfloqa.florence import Florence2ForDocVQA, vision_sub_blocks
from docfloqa.paths import data_folder, write_whole
from docfloqa.settings import Settings

# Always the same pages go through together, whoever asks first: rounding may depend on a batch's size.
PAGES_PER_FILE = 16
SPARE_BYTES = 2**30  # left free on the disk
BYTES_PER_NUMBER = 4


class CachedPages(Pages):
    """States after the frozen beginning of the vision tower instead of images, memory-mapped from the disk.

    `pages` are the images. Whatever is not on the disk yet is computed with `model`, in batches, and
    written, each file whole or not at all. A file's name covers the frozen weights, the processor, the
    boundary, the precision, the versions and the images themselves, so a stale one is never read.
    """

    def __init__(self, pages: Pages, model: Florence2ForDocVQA, boundary: int, settings: Settings):
        super().__init__(pages.rows, pages.processor)
        self.files: dict[str, tuple[Path, int]] = {}
        key = prefix_checksum(model, boundary, pages, settings)
        names = list(self.first_place)
        chunks = [names[start : start + PAGES_PER_FILE] for start in range(0, len(names), PAGES_PER_FILE)]
        for chunk in tqdm(chunks, desc="caching vision states", unit="batch", leave=False):
            name = hashlib.sha256("".join((key, *chunk)).encode()).hexdigest()[:32]
            path = cache_folder() / f"{name}.npy"
            if not is_whole(path, len(chunk)):
                write_whole(path, states_of(chunk, pages, model, boundary, settings))
            self.files.update({page: (path, place) for place, page in enumerate(chunk)})

    def load(self, page: str) -> Tensor:
        """The states of a page, (channels, rows, columns)."""
        path, place = self.files[page]
        return torch.from_numpy(np.load(path, mmap_mode="r")[place].copy())


def cache_folder() -> Path:
    """Where states are kept; it may be deleted at any time between runs."""
    return data_folder() / "cache" / "vision"


@torch.no_grad()
def prefix_checksum(model: Florence2ForDocVQA, boundary: int, pages: Pages, settings: Settings) -> str:
    """A checksum of everything that the states depend on, but for the images."""
    digest = hashlib.sha256()
    for name, sub_block in vision_sub_blocks(model)[:boundary]:
        for tensor_name, tensor in sub_block.state_dict().items():
            digest.update(f"{name}.{tensor_name}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    about = {
        "processor": pages.processor.image_processor.to_dict(),
        "vision": model.config.vision_config.to_dict(),
        "precision": settings.precision,
        "device": model.device.type,
        "torch": torch.__version__,
    }
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@torch.no_grad()
def states_of(
    chunk: Sequence[str], pages: Pages, model: Florence2ForDocVQA, boundary: int, settings: Settings
) -> bytes:
    """The states of some pages after `boundary` sub-blocks, fp32, as the bytes of a .npy file."""
    pixels = torch.stack([pages.load(page) for page in chunk]).to(model.device)
    was_training = model.training
    model.eval()
    with autocast(settings):
        states = model.vision_states(pixels, 0, boundary).float()
    model.train(was_training)
    content = BytesIO()
    np.save(content, states.cpu().numpy())
    return content.getvalue()


def is_whole(path: Path, pages: int) -> bool:
    """Whether a file holds the states of so many pages."""
    if not path.is_file():
        return False
    try:
        return len(np.load(path, mmap_mode="r")) == pages
    except (ValueError, OSError, EOFError) as error:
        warnings.warn(f"{path} cannot be read ({error}); it is made again", stacklevel=2)
        return False


def cache_states(
    splits: dict[str, Pages], model: Florence2ForDocVQA, boundary: int, settings: Settings
) -> dict[str, Pages]:
    """The splits' pages as states after `boundary` sub-blocks, and `model` set to go on from there.

    Where the settings want no cache, nothing is frozen, or the states fit neither within the limit nor on
    the disk, which is warned of, pages stay images and the model goes through its whole vision tower.
    """
    if boundary == 0 or not settings.vision_cache:
        return splits
    some = next(iter(splits.values()))
    image = some.load(next(iter(some.first_place)))[None].to(model.device)
    with torch.no_grad():
        state = model.vision_states(image, 0, boundary)
    count = sum(len(pages.first_place) for pages in splits.values())
    wanted = count * state.numel() * BYTES_PER_NUMBER
    cache_folder().mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache_folder()).free - SPARE_BYTES
    if wanted > min(settings.cache_gib * 2**30, free):
        warnings.warn(
            f"vision states of {count:,} pages would take {wanted / 2**30:.2f} GiB; the limit (cache_gib) is "
            f"{settings.cache_gib:g} GiB and {max(0, free) / 2**30:.2f} GiB are free in {cache_folder()}: going "
            "on without a cache",
            stacklevel=2,
        )
        return splits
    states = {split: CachedPages(pages, model, boundary, settings) for split, pages in splits.items()}
    model.vision_start = boundary
    return states
