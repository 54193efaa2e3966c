"""Resized pages, and outputs of the frozen beginning of the vision tower: once per page, on disk."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm.auto import tqdm

from docfloqa.files import check_digest, data_folder, free_bytes, held, is_sound, with_digest, write_whole
from docfloqa.model.device import autocast, describe_device, precision
from docfloqa.model.florence import Florence2ForDocVQA, vision_sub_blocks
from docfloqa.settings import Settings
from docfloqa.training.batches import Alive, Pages, split
from docfloqa.versions import PAGES, version

# Always the same pages go through together, whoever asks first: rounding may depend on a batch's size.
PAGES_PER_FILE = 16
SPARE_BYTES = 2**30  # left free on the disk
SHARE_OF_DEVICE_MEMORY = 1 / 3  # of what is free before training, for states; the rest is for training


class CachedPages(Pages):
    """States of pages after `boundary` frozen sub-blocks, memory-mapped from the disk; with 0 the resized images.

    A file's and its folder's names cover all that its few pages follow from, so a stale one is never read.
    """

    def __init__(self, images: Pages, model: Florence2ForDocVQA, boundary: int, settings: Settings):
        self.images, self.model, self.boundary, self.settings = images, model, boundary, settings
        self.rows, self.processor, self.first, self.names = images.rows, images.processor, images.first, images.names
        key = self._checksum()
        chunks = list(split(self.names, PAGES_PER_FILE))
        files = [hashlib.sha256("".join((key, *chunk)).encode()).hexdigest()[:32] for chunk in chunks]
        self.chunks = {cache_folder() / f"{name}.npy": chunk for name, chunk in zip(files, chunks, strict=True)}
        self.files = {page: (path, index) for path, chunk in self.chunks.items() for index, page in enumerate(chunk)}

    def _checksum(self) -> str:
        # Of everything that the states depend on, but for the images and what `cache_folder` is named after.
        digest = hashlib.sha256()
        for name, sub_block in vision_sub_blocks(self.model)[: self.boundary]:
            for tensor_name, tensor in sub_block.state_dict().items():
                digest.update(f"{name}.{tensor_name}".encode())
                digest.update(tensor.cpu().contiguous().numpy().tobytes())
        about = {"boundary": self.boundary, "processor": self.processor.image_processor.to_dict()}
        if self.boundary:
            kind = precision(self.settings)
            about |= {"vision": self.model.config.vision_config.to_dict(), "bf16": kind == "bf16"}
            about |= {"fp16": True} if kind == "fp16" else {}
            # Processors of one name differ in what they compute with.
            about |= {"device": describe_device()["name"], "instructions": torch.backends.cpu.get_cpu_capability()}
        digest.update(json.dumps(about, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    @torch.no_grad()
    def content(self, chunk: Sequence[str]) -> bytes:
        """The states of some pages, computed anew, as the bytes of a .npy file; bf16, which numpy lacks, as int16."""
        with ThreadPoolExecutor(torch.get_num_threads()) as decoders:
            states = torch.stack(list(decoders.map(self.images.load, chunk)))
        if self.boundary:
            was_training = self.model.training
            self.model.eval()
            with autocast(self.settings):
                states = self.model.vision_states(states.to(self.model.device), 0, self.boundary).cpu()
            self.model.train(was_training)
        content = BytesIO()
        np.save(content, (states.view(torch.int16) if states.dtype == torch.bfloat16 else states).numpy())
        return content.getvalue()

    def load(self, page: str) -> Tensor:
        """The states of a page, (channels, rows, columns)."""
        path, index = self.files[page]
        states = torch.from_numpy(np.load(path, mmap_mode="r")[index].copy())
        return states.view(torch.bfloat16) if states.dtype == torch.int16 else states


class ResidentPages:
    """The states of all pages in the memory of the device where the model is; a step copies nothing."""

    def __init__(self, pages: Pages, device: torch.device):
        self.index = {page: index for index, page in enumerate(pages.names)}
        first = pages.load(pages.names[0])
        self.states = torch.empty((len(self.index), *first.shape), dtype=first.dtype, device=device)
        for page, index in tqdm(self.index.items(), desc="to the device", unit="page", leave=False, disable=None):
            self.states[index] = pages.load(page)

    def stack(self, pages: Sequence[str]) -> Tensor:
        return self.states[[self.index[page] for page in pages]]


def cache_folder() -> Path:
    """Where states are kept that this code and these packages compute; it may be deleted at any time between runs."""
    packages = "-".join(f"{package}-{version(package)}" for package in ("torch", "transformers", "pillow"))
    return data_folder() / "cache" / "vision" / f"pages{PAGES}-{packages}"


def cache_states(
    splits: dict[str, Pages], model: Florence2ForDocVQA, boundary: int, settings: Settings, alive: Alive = lambda: None
) -> tuple[dict[str, Pages | ResidentPages], int]:
    """The splits' pages as states after `boundary` sub-blocks, and that boundary, for `model.vision_start`.

    In the memory of a GPU where they fit. The images, with 0, where settings want no cache, nothing is frozen, or there
    is no room, which is warned of. Calls `alive` after every file that is computed.
    """
    if not settings.vision_cache:
        return splits, 0
    pages, start = splits, 0
    for wanted in dict.fromkeys((0, boundary)):
        states = {name: CachedPages(images, model, wanted, settings) for name, images in pages.items()}
        try:
            fill(states.values(), settings, alive)
            pages, start = states, wanted
        except OSError as error:
            what = f"{'vision states' if wanted else 'resized pages'} cannot be written to {cache_folder()}"
            why = f"which may be emptied between runs: {error}; going on without them, more slowly"
            warnings.warn(f"{what}, {why}", stacklevel=2)
    sizes = [states.load(states.names[0]).nbytes * len(states.names) for states in pages.values()]
    if sum(sizes) <= SHARE_OF_DEVICE_MEMORY * free_device_memory(model.device):
        pages = {name: ResidentPages(states, model.device) for name, states in pages.items()}
    return pages, start


def fill(splits: Iterable[CachedPages], settings: Settings, alive: Alive = lambda: None) -> None:
    """Compute what is missing or damaged on the disk, which runs share; raises `OSError` where it cannot be written."""
    chunks = [(path, states, chunk) for states in splits for path, chunk in states.chunks.items()]
    missing = {path: (states, chunk) for path, states, chunk in chunks if not is_sound(path, check_digest)}
    if not missing:
        return
    states, chunk = next(iter(missing.values()))
    one = len(states.content(chunk[:1]))
    wanted = {path.name: one * len(chunk) for path, (_, chunk) in missing.items()}
    bar = tqdm(total=len(missing), desc="caching", unit="batch", leave=False, disable=None)
    with bar, room_in_cache(wanted, settings):
        # What another one is computing is waited for last.
        for wait in (False, True):
            for path, (states, chunk) in list(missing.items()):
                with suppress(Timeout), FileLock(cache_folder() / "locks" / path.stem, blocking=wait):
                    if not is_sound(path, check_digest):
                        for left in path.parent.glob(f".{path.name}.*.part"):
                            # Of a run that was killed: nobody else writes it now.
                            left.unlink(missing_ok=True)
                        write_whole(path, with_digest(states.content(chunk)))
                    bar.update()
                    alive()
                    del missing[path]


@contextmanager
def room_in_cache(files: dict[str, int], settings: Settings) -> Iterator[None]:
    """Keep room for files, bytes by name, while they are written; raises `OSError` where there is too little.

    What other runs keep room for counts, a file that several want once; a lock says that they are still at work.
    """
    folder = cache_folder() / "room"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with held("vision-cache", "the vision cache"):
            kept = dict(files)
            for path in folder.iterdir():
                with suppress(FileNotFoundError), path.open() as other:
                    try:
                        flock(other, LOCK_EX | LOCK_NB)
                        # Of a run that has ended, however it did.
                        path.unlink()
                    except BlockingIOError:
                        kept |= json.loads(other.read())
            if _refusal(kept, settings):
                # What this code and these packages would never read.
                for folder_of_others in {*cache_folder().parent.iterdir()} - {cache_folder()}:
                    shutil.rmtree(folder_of_others, ignore_errors=True)
            if refusal := _refusal(kept, settings):
                raise OSError(refusal)
            mine = folder / uuid4().hex
            room = stack.enter_context(mine.open("w"))
            stack.callback(mine.unlink, missing_ok=True)
            flock(room, LOCK_EX)
            room.write(json.dumps(files))
            room.flush()
        yield


def _refusal(files: dict[str, int], settings: Settings) -> str | None:
    # Looked at once: a file that is finished meanwhile would count on both sides, or on none.
    there = cached_files()
    used, limit = sum(there.values()), settings.cache_gib * 2**30
    wanted = sum(size for name, size in files.items() if cache_folder() / name not in there)
    free = free_bytes(cache_folder()) - SPARE_BYTES
    if used + wanted <= limit and wanted <= free:
        return None
    return (
        f"{wanted / 2**30:.2f} GiB are wanted, {used / 2**30:.2f} GiB of at most {settings.cache_gib:g} (cache_gib) in "
        f"use, and {max(0, free) / 2**30:.2f} GiB are free"
    )


def cached_files() -> dict[Path, int]:
    """All files of cached states and their bytes, those of other code and packages too."""
    # Not the parts of files, which other runs rename while they are counted.
    return {file: file.stat().st_size for file in cache_folder().parent.rglob("[!.]*.npy")}


def free_device_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 on a CPU, whose memory holds the pages in use anyway."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
