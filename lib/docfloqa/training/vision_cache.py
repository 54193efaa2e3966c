"""Resized pages, and outputs of the frozen beginning of the vision tower: once per page, on disk."""

import functools
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from docfloqa.files import check_digest, data_folder, held, is_sound, with_digest, write_whole
from docfloqa.model.device import autocast, describe_device, uses_bf16
from docfloqa.model.florence import Florence2ForDocVQA, vision_sub_blocks
from docfloqa.settings import Settings
from docfloqa.training.batches import Pages, split
from docfloqa.versions import PAGES

# Always the same pages go through together, whoever asks first: rounding may depend on a batch's size.
PAGES_PER_FILE = 16
SPARE_BYTES = 2**30  # left free on the disk
SHARE_OF_DEVICE_MEMORY = 1 / 3  # of what is free before training, for states; the rest is for training


class CachedPages:
    """States of pages after the frozen beginning of the vision tower, memory-mapped from the disk.

    With `boundary` 0 they are the resized images themselves. A file holds a few pages; its name covers the
    frozen weights, the processor, the boundary, the precision, the device and the images, its folder's the number of
    this code and the packages, so a stale one is never read. `fill` computes what is not on the disk yet.
    """

    def __init__(self, images: "Pages | CachedPages", model: Florence2ForDocVQA, boundary: int, settings: Settings):
        self.images, self.model, self.boundary, self.settings = images, model, boundary, settings
        self.processor, self.names = images.processor, images.names
        key = prefix_checksum(model, boundary, images, settings)
        chunks = list(split(self.names, PAGES_PER_FILE))
        files = [hashlib.sha256("".join((key, *chunk)).encode()).hexdigest()[:32] for chunk in chunks]
        self.chunks = {cache_folder() / f"{name}.npy": chunk for name, chunk in zip(files, chunks, strict=True)}
        self.files = {page: (path, index) for path, chunk in self.chunks.items() for index, page in enumerate(chunk)}

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
                    with suppress(Timeout), FileLock(cache_folder() / "locks" / path.stem, blocking=wait):
                        if not is_sound(path, check_digest):
                            for left in path.parent.glob(f".{path.name}.*.part"):
                                # Of a run that was killed: nobody else writes it now.
                                left.unlink(missing_ok=True)
                            write_whole(path, with_digest(self.content(chunk)))
                        progress.update()
                        on_file()
                        del missing[path]

    def content(self, chunk: Sequence[str]) -> bytes:
        """The states of some pages, computed anew, as the bytes of a .npy file."""
        return states_of(chunk, self.images, self.model, self.boundary, self.settings)

    def load(self, page: str) -> Tensor:
        """The states of a page, (channels, rows, columns)."""
        path, index = self.files[page]
        states = torch.from_numpy(np.load(path, mmap_mode="r")[index].copy())
        return states.view(torch.bfloat16) if states.dtype == torch.int16 else states

    def stack(self, pages: Sequence[str]) -> Tensor:
        """Some pages, (pages, channels, rows, columns)."""
        return torch.stack([self.load(page) for page in pages])


class ResidentPages:
    """The states of all pages in the memory of the device where the model is; a step copies nothing."""

    def __init__(self, pages: Pages | CachedPages, device: torch.device):
        self.names = pages.names
        self.index = {page: index for index, page in enumerate(self.names)}
        first = pages.load(self.names[0])
        self.states = torch.empty((len(self.names), *first.shape), dtype=first.dtype, device=device)
        for page, index in tqdm(self.index.items(), desc="to the device", unit="page", leave=False):
            self.states[index] = pages.load(page)

    def load(self, page: str) -> Tensor:
        """The states of a page, (channels, rows, columns)."""
        return self.states[self.index[page]]

    def stack(self, pages: Sequence[str]) -> Tensor:
        """Some pages, (pages, channels, rows, columns)."""
        return self.states[[self.index[page] for page in pages]]


def cache_folder() -> Path:
    """Where states are kept that this code and these packages compute; it may be deleted at any time between runs."""
    return data_folder() / "cache" / "vision" / f"pages{PAGES}-{_packages()}"


@functools.cache
def _packages() -> str:
    # Looked up for every chunk, which takes longer than to read it.
    return "-".join(f"{package}-{version(package)}" for package in ("torch", "transformers", "pillow"))


def prefix_checksum(model: Florence2ForDocVQA, boundary: int, pages: Pages | CachedPages, settings: Settings) -> str:
    """A checksum of everything that the states depend on, but for the images and what `cache_folder` is named after."""
    digest = hashlib.sha256()
    for name, sub_block in vision_sub_blocks(model)[:boundary]:
        for tensor_name, tensor in sub_block.state_dict().items():
            digest.update(f"{name}.{tensor_name}".encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
    about = {"boundary": boundary, "processor": pages.processor.image_processor.to_dict()}
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
    chunk: Sequence[str], pages: Pages | CachedPages, model: Florence2ForDocVQA, boundary: int, settings: Settings
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
) -> tuple[dict[str, Pages | CachedPages | ResidentPages], int]:
    """The splits' pages as states after `boundary` sub-blocks, and that boundary, for `model.vision_start`.

    The resized images are kept first, so that each is decoded once, whatever boundaries the runs of a
    study have. States are in the memory of a GPU where they fit. Gives the images back, with 0, where
    the settings want no cache, nothing is frozen, or the states fit neither within the limit for the
    whole cache nor on the disk, which is warned of. Calls `on_file` after every file that is computed.
    """
    if not settings.vision_cache:
        return splits, 0
    pages, start = splits, 0
    for wanted in dict.fromkeys((0, boundary)):
        found = _on_disk(pages, model, wanted, settings, on_file)
        pages, start = (found, wanted) if found else (pages, start)
    sizes = [states.load(states.names[0]).nbytes * len(states.names) for states in pages.values()]
    if sum(sizes) <= SHARE_OF_DEVICE_MEMORY * free_device_memory(model.device):
        pages = {name: ResidentPages(states, model.device) for name, states in pages.items()}
    return pages, start


def _on_disk(
    splits: dict[str, Pages | CachedPages],
    model: Florence2ForDocVQA,
    boundary: int,
    settings: Settings,
    on_file: Callable[[], None],
) -> dict[str, CachedPages] | None:
    cache_folder().mkdir(parents=True, exist_ok=True)
    states = {name: CachedPages(pages, model, boundary, settings) for name, pages in splits.items()}
    lacking = [(pages, missing) for pages in states.values() if (missing := pages.missing())]
    if not lacking:
        return states
    pages, missing = lacking[0]
    one = len(pages.content(next(iter(missing.values()))[:1]))
    wanted = {path.name: one * len(chunk) for _, missing in lacking for path, chunk in missing.items()}
    try:
        with room_in_cache(wanted, settings) as refusal:
            if not refusal:
                for pages, missing in lacking:
                    pages.fill(missing, on_file)
                return states
        reason = f"would take {refusal}"
    except OSError as error:
        reason = f"cannot be written: {error}"
    what, where = (
        "vision states" if boundary else "resized pages",
        f"{cache_folder()}, which may be emptied between runs",
    )
    warnings.warn(f"{what} {reason} in {where}: going on without them, more slowly", stacklevel=3)
    return None


@contextmanager
def room_in_cache(files: dict[str, int], settings: Settings) -> Iterator[str | None]:
    """Keep room for files, bytes by name, while they are written; gives the reason where there is too little.

    What other runs have room for and not written yet counts, a file that several want once. A lock says that who
    keeps room is still at work: the system gives it back however that ends.
    """
    mine = cache_folder() / "room" / f"{uuid4().hex}.json"
    lock = FileLock(mine.with_suffix(".lock"))
    with held("vision-cache", "the vision cache"):
        kept = files | _kept_by_others(mine.parent)
        limit = settings.cache_gib * 2**30
        used, wanted = _used_and_wanted(kept)
        if used + wanted > limit or wanted > free_bytes():
            evict_others()
            used, wanted = _used_and_wanted(kept)
        free = free_bytes()
        fits = used + wanted <= limit and wanted <= free
        if fits:
            write_whole(mine, json.dumps(files))
            lock.acquire()
    try:
        yield (
            None
            if fits
            else (
                f"{wanted / 2**30:.2f} GiB more; {used / 2**30:.2f} GiB of at most {settings.cache_gib:g} (cache_gib) "
                f"are in use, and {max(0, free) / 2**30:.2f} GiB are free"
            )
        )
    finally:
        lock.release()
        _give_back(mine)


def _kept_by_others(folder: Path) -> dict[str, int]:
    kept: dict[str, int] = {}
    for path in folder.glob("*.json"):
        try:
            with FileLock(path.with_suffix(".lock"), blocking=False):
                # Of a run that has ended, however it did.
                _give_back(path)
        except Timeout:
            with suppress(FileNotFoundError):
                kept |= json.loads(path.read_text())
    return kept


def _give_back(room: Path) -> None:
    for path in (room, room.with_suffix(".lock")):
        path.unlink(missing_ok=True)


def _used_and_wanted(kept: dict[str, int]) -> tuple[int, int]:
    # Looked at once: a file that is finished meanwhile would count on both sides, or on none.
    there = cached_files()
    return sum(there.values()), sum(size for name, size in kept.items() if cache_folder() / name not in there)


def cached_bytes() -> int:
    """What all cached states take on the disk, those of other code and packages too."""
    return sum(cached_files().values())


def cached_files() -> dict[Path, int]:
    """All files of cached states and their bytes, those of other code and packages too."""
    # Not the parts of files, which other runs rename while they are counted.
    return {file: file.stat().st_size for file in cache_folder().parent.rglob("[!.]*.npy")}


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


def free_device_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 on a CPU, whose memory holds the pages in use anyway."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
