"""Resized pages, and outputs of the frozen beginning of the vision tower: once per page, on disk."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from docfloqa.files import check_digest, data_folder, is_sound, with_digest, write_whole
from docfloqa.model.device import autocast, describe_device, uses_bf16
from docfloqa.model.florence import Florence2ForDocVQA, vision_sub_blocks
from docfloqa.settings import Settings
from docfloqa.training.batches import Pages
from docfloqa.versions import PAGES

# Always the same pages go through together, whoever asks first: rounding may depend on a batch's size.
PAGES_PER_FILE = 16
SPARE_BYTES = 2**30  # left free on the disk
SHARE_OF_DEVICE_MEMORY = 1 / 3  # of what is free before training, for states; the rest is for training


class CachedPages(Pages):
    """States of pages after the frozen beginning of the vision tower, memory-mapped from the disk.

    With `boundary` 0 they are the resized images themselves. A file holds a few pages; its name covers the
    frozen weights, the processor, the boundary, the precision, the device and the images, its folder's the number of
    this code and the packages, so a stale one is never read. `fill` computes what is not on the disk yet.
    """

    def __init__(self, pages: Pages, model: Florence2ForDocVQA, boundary: int, settings: Settings):
        super().__init__(pages.rows, pages.processor)
        self.images, self.model, self.boundary, self.settings = pages, model, boundary, settings
        key = prefix_checksum(model, boundary, pages, settings)
        self.chunks: dict[Path, list[str]] = {}
        names = list(self.first_place)
        for start in range(0, len(names), PAGES_PER_FILE):
            chunk = names[start : start + PAGES_PER_FILE]
            name = hashlib.sha256("".join((key, *chunk)).encode()).hexdigest()[:32]
            self.chunks[cache_folder() / f"{name}.npy"] = chunk
        self.files = {page: (path, place) for path, chunk in self.chunks.items() for place, page in enumerate(chunk)}

    def missing(self) -> dict[Path, list[str]]:
        """The files that are not there, or are damaged and set aside, and the pages that they are of."""
        return {path: chunk for path, chunk in self.chunks.items() if not is_sound(path, check_digest)}

    def fill(self, missing: dict[Path, list[str]], on_file: Callable[[], None] = lambda: None) -> None:
        """Compute missing states in batches and write them, each file whole or not at all.

        Runs that begin together share the work: what another one is computing is waited for last. Calls
        `on_file` after every file.
        """
        missing = dict(missing)
        with tqdm(total=len(missing), desc="caching", unit="batch", leave=False) as progress:
            for wait in (False, True):
                for path, chunk in list(missing.items()):
                    try:
                        with FileLock(cache_folder() / "locks" / path.stem, blocking=wait):
                            if not is_sound(path, check_digest):
                                for left in path.parent.glob(f".{path.name}.*.part"):
                                    # Of a run that was killed: nobody else writes it now.
                                    left.unlink(missing_ok=True)
                                write_whole(path, with_digest(self.content(chunk)))
                    except Timeout:
                        continue
                    progress.update()
                    on_file()
                    del missing[path]

    def content(self, chunk: Sequence[str]) -> bytes:
        """The states of some pages, computed anew, as the bytes of a .npy file."""
        return states_of(chunk, self.images, self.model, self.boundary, self.settings)

    def load(self, page: str) -> Tensor:
        """The states of a page, (channels, rows, columns)."""
        path, place = self.files[page]
        states = torch.from_numpy(np.load(path, mmap_mode="r")[place].copy())
        return states.view(torch.bfloat16) if states.dtype == torch.int16 else states


class ResidentPages(Pages):
    """The states of all pages in the memory of the device where the model is; a step copies nothing."""

    def __init__(self, pages: Pages, device: torch.device):
        super().__init__(pages.rows, pages.processor)
        self.place = {page: place for place, page in enumerate(self.first_place)}
        first = pages.load(next(iter(self.place)))
        self.states = torch.empty((len(self.place), *first.shape), dtype=first.dtype, device=device)
        for page, place in tqdm(self.place.items(), desc="to the device", unit="page", leave=False):
            self.states[place] = pages.load(page)

    def stack(self, pages: Sequence[str]) -> Tensor:
        """Some pages, (pages, channels, rows, columns)."""
        return self.states[[self.place[page] for page in pages]]

    def load(self, page: str) -> Tensor:
        """The states of a page, (channels, rows, columns)."""
        return self.states[self.place[page]]


def cache_folder() -> Path:
    """Where states are kept that this code and these packages compute; it may be deleted at any time between runs."""
    return data_folder() / "cache" / "vision" / f"pages{PAGES}-{_packages()}"


@functools.cache
def _packages() -> str:
    # Looked up for every chunk, which takes longer than to read it.
    return "-".join(f"{package}-{version(package)}" for package in ("torch", "transformers", "pillow"))


@torch.no_grad()
def prefix_checksum(model: Florence2ForDocVQA, boundary: int, pages: Pages, settings: Settings) -> str:
    """A checksum of everything that the states depend on, but for the images and what `cache_folder` is named after."""
    digest = hashlib.sha256()
    for name, sub_block in vision_sub_blocks(model)[:boundary]:
        for tensor_name, tensor in sub_block.state_dict().items():
            digest.update(f"{name}.{tensor_name}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    about = {
        "boundary": boundary,
        "processor": pages.processor.image_processor.to_dict(),
    }
    if boundary:
        about |= {
            "vision": model.config.vision_config.to_dict(),
            "bf16": uses_bf16(settings),
            "device": describe_device()["name"],
            # Processors of one name differ in what they compute with.
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@torch.no_grad()
def states_of(
    chunk: Sequence[str], pages: Pages, model: Florence2ForDocVQA, boundary: int, settings: Settings
) -> bytes:
    """The states of some pages after `boundary` sub-blocks, as the bytes of a .npy file.

    They keep the type in which the vision tower would pass them on; bf16, which numpy lacks, as int16.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as decoders:
        states = torch.stack(list(decoders.map(pages.load, chunk)))
    if boundary:
        was_training = model.training
        model.eval()
        with autocast(settings):
            states = model.vision_states(states.to(model.device), 0, boundary).cpu()
        model.train(was_training)
    content = BytesIO()
    np.save(content, (states.view(torch.int16) if states.dtype == torch.bfloat16 else states).numpy())
    return content.getvalue()


def cache_states(
    splits: dict[str, Pages],
    model: Florence2ForDocVQA,
    boundary: int,
    settings: Settings,
    on_file: Callable[[], None] = lambda: None,
) -> tuple[dict[str, Pages], int]:
    """The splits' pages as states after `boundary` sub-blocks, and that boundary, for `model.vision_start`.

    The resized images are kept first, so that each is decoded once, whatever boundaries the runs of a
    study have. States are in the memory of a GPU where they fit. Gives the images back, with 0, where
    the settings want no cache, nothing is frozen, or the states fit neither within the limit for the
    whole cache nor on the disk, which is warned of. Calls `on_file` after every file that is computed.
    """
    if not settings.vision_cache:
        return splits, 0
    images = _on_disk(splits, model, 0, settings, on_file) or splits
    states = _on_disk(images, model, boundary, settings, on_file) if boundary else None
    pages, start = (states, boundary) if states else (images, 0)
    return _on_device(pages, model.device), start


def _on_disk(
    splits: dict[str, Pages],
    model: Florence2ForDocVQA,
    boundary: int,
    settings: Settings,
    on_file: Callable[[], None],
) -> dict[str, CachedPages] | None:
    cache_folder().mkdir(parents=True, exist_ok=True)
    states = {split: CachedPages(pages, model, boundary, settings) for split, pages in splits.items()}
    missing = {split: pages.missing() for split, pages in states.items()}
    lacking = [chunk for files in missing.values() for chunk in files.values()]
    if lacking:
        what = "vision states" if boundary else "resized pages"
        one = len(states_of(lacking[0][:1], _source_of(lacking[0], splits), model, boundary, settings))
        wanted = one * sum(map(len, lacking))
        limit = settings.cache_gib * 2**30
        if cached_bytes() + wanted > limit or wanted > free_bytes():
            evict_others()
        kept, free = cached_bytes(), free_bytes()
        if kept + wanted > limit or wanted > free:
            return _warn(
                f"{what} would take {wanted / 2**30:.2f} GiB more; {kept / 2**30:.2f} GiB of at most "
                f"{settings.cache_gib:g} (cache_gib) are in use, and {max(0, free) / 2**30:.2f} GiB are free"
            )
        try:
            for split, pages in states.items():
                pages.fill(missing[split], on_file)
        except OSError as error:
            return _warn(f"{what} cannot be written: {error}")
    return states


def cached_bytes() -> int:
    """What all cached states take on the disk, those of other code and packages too."""
    # Not the parts of files, which other runs rename while they are counted.
    return sum(file.stat().st_size for file in cache_folder().parent.rglob("[!.]*.npy"))


def free_bytes() -> int:
    """What the disk has left for states."""
    return shutil.disk_usage(cache_folder()).free - SPARE_BYTES


def evict_others() -> None:
    """Delete the cached states that this code and these packages would never read."""
    for other in cache_folder().parent.iterdir():
        if other.is_dir() and other != cache_folder():
            shutil.rmtree(other, ignore_errors=True)
        # As they lay there before they had folders.
        elif other.suffix == ".npy":
            other.unlink(missing_ok=True)


def _source_of(chunk: Sequence[str], splits: dict[str, Pages]) -> Pages:
    return next(pages for pages in splits.values() if chunk[0] in pages.first_place)


def _on_device(splits: dict[str, Pages], device: torch.device) -> dict[str, Pages]:
    firsts = {split: pages.load(next(iter(pages.first_place))) for split, pages in splits.items()}
    wanted = sum(first.nbytes * len(splits[split].first_place) for split, first in firsts.items())
    if wanted > SHARE_OF_DEVICE_MEMORY * free_device_memory(device):
        return splits
    return {split: ResidentPages(pages, device) for split, pages in splits.items()}


def free_device_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 on a CPU, whose memory holds the pages in use anyway."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def _warn(reason: str) -> None:
    warnings.warn(
        f"{reason} in {cache_folder()}, which may be emptied between runs: going on without them, more slowly",
        stacklevel=4,
    )
