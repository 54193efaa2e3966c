"""What is looked at before a study: each subject tells what it found, or raises what is wrong."""

import math
import platform
import time
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from shutil import which
from typing import NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import filter_repo_objects

from docfloqa.data.hub import HUB_FOLDERS, MODEL_FILES, HubError, cached_snapshot, not_to_be_had, split_revision
from docfloqa.data.importing.kinds import patterns
from docfloqa.data.load import check_image, load_checked
from docfloqa.data.schema import FEATURES
from docfloqa.data.sources import batches_in_schema, files_of, split_sources
from docfloqa.exceptions import DataError, DocFloQAError, ModelError, size
from docfloqa.files import free_bytes, is_hub_id, output_folder, resolve, room_for, runs_folder
from docfloqa.model import device as on
from docfloqa.model.florence import Florence2ForDocVQA, base_config, load_florence, target_format
from docfloqa.model.folder import CHECKSUMS
from docfloqa.model.freezing import Trainable, freeze
from docfloqa.model.microsoft_layout import is_original_layout
from docfloqa.runs.run import git_commit
from docfloqa.settings import Settings
from docfloqa.study.kernels import DEFAULT_KERNEL, kernel_device
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate
from docfloqa.training.trainer import CHECKPOINTS

# Bytes of parquet files: every page of smaller data is decoded, of larger data one row is read.
SMALL = 2**26
PACKAGES = "torch transformers datasets huggingface_hub".split()
# Subjects without which another cannot be looked at.
NEEDS = {"question": ("model", "data")}


class NotHereError(DocFloQAError):
    """What cannot be looked at, since it is yet to be downloaded, or since another subject tells what is wrong."""


class Source(NamedTuple):
    """A model or data set: where it is here, or else how many bytes are to be downloaded, or why it cannot be had."""

    where: str = ""
    download: int = 0
    trouble: DocFloQAError | None = None


def find(name: str, groups: Sequence[Sequence[str]], kind: str = "model") -> Source:
    """A local folder, or a repository of the hub, of which every group of patterns is to match some file."""
    source, files = resolve(name), [*chain(*groups)]
    if not is_hub_id(source):
        return Source(source)
    folder = cached_snapshot(source, files, kind)
    if folder and all(any(any(folder.glob(pattern)) for pattern in group) for group in groups):
        return Source(str(folder))
    repository, revision = split_revision(source)
    try:
        there = snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=files, dry_run=True)
    except (OSError, ValueError, HTTPError) as error:
        return Source(trouble=not_to_be_had(source, files, kind, error.__cause__ or error))
    for group in groups:
        if not any(filter_repo_objects([file.filename for file in there], allow_patterns=[*group])):
            trouble = f"{repository} has no {' or '.join(group)} at {revision}; give another revision or repository"
            return Source(trouble=HubError(trouble))
    much = sum(file.file_size or 0 for file in there if file.will_download)
    told = f"{repository} at {revision} is not in the cache; make study downloads it, {much / 1e9:.2g} GB"
    return Source("", much, NotHereError(told))


class Examination:
    """What is known of settings, a kernel and this machine; each subject is a method that tells what it found."""

    def __init__(self, settings: Settings, kernel: str | None, runs: int = 1):
        self.settings, self.kernel_name, self.runs = settings, kernel, runs
        self.network: Florence2ForDocVQA | None = None

    @cached_property
    def sources(self) -> dict[str, Source]:
        """The model, and the data by split; what is to be drawn is drawn."""
        found = {"model": find(self.settings.model, [["*.safetensors"], MODEL_FILES])}
        names = split_sources(self.settings)
        for name in dict.fromkeys(names.values()):
            splits = [split for split in names if names[split] == name]
            source = Source(name)
            if name != "synth":
                below = Path(HUB_FOLDERS.get(split_revision(name)[0], "."))
                source = find(name, [[str(below / one) for one in patterns(split)] for split in splits], "dataset")
                if source.where and source.where != resolve(name):
                    source = source._replace(where=str(source.where / below))
            found |= dict.fromkeys(splits, source)
        return found

    def python(self) -> str:
        system = f"{platform.system()} {platform.release()}, {platform.machine()}"
        return f"{platform.python_version()} on {system}; docfloqa at {git_commit() or 'no commit'}"

    def torch(self) -> str:
        packages = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
        if torch.version.cuda:
            return f"{packages}, CUDA {torch.version.cuda}"
        wrong = "built without CUDA, though this machine has nvidia-smi: install torch from another index"
        return f"{packages}, {wrong if which('nvidia-smi') else 'no CUDA'}"

    def device(self) -> str:
        device, memory = on.describe_device(), psutil.virtual_memory()
        what = f"no GPU; {device['name']}, {device['cores']} cores"
        if device["gpus"]:
            free, total = torch.cuda.mem_get_info()
            bf16 = "" if torch.cuda.get_device_capability() >= on.BF16_CAPABILITY else ", no bf16"
            what = f"{device['gpus']} GPU, {device['name']}: {size(free)} of {size(total)} free{bf16}"
        return f"{what}; memory: {size(memory.available)} of {size(memory.total)} free"

    def kernel(self) -> str:
        device = kernel_device(self.settings, self.kernel_name)
        gpus = f"{device['gpus']} GPU" if device["gpus"] else "no GPU"
        return f"{self.kernel_name or DEFAULT_KERNEL} answers: {gpus}, {device['name']}"

    def hub(self) -> str:
        troubles = [source.trouble for source in self.sources.values() if source.trouble]
        if not troubles:
            return f"not asked: all is here, or in the cache, {constants.HF_HUB_CACHE}"
        gives = "answers" if all(isinstance(trouble, NotHereError) for trouble in troubles) else "does not give all"
        offline = "; HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
        return f"{constants.ENDPOINT} {gives}; the cache is {constants.HF_HUB_CACHE}{offline}"

    def _where(self, what: str) -> str:
        if trouble := self.sources[what].trouble:
            raise trouble
        return self.sources[what].where

    def model(self) -> str:
        found = self._where("model")
        self.network, self.processor = load_florence(found, self.settings.prefix)
        tokens, images = len(self.processor.tokenizer), self.processor.image_token_id
        rows, token = self.network.get_input_embeddings().num_embeddings, self.network.config.image_token_id
        if tokens > rows or images != token:
            raise ModelError(
                f"the tokenizer has {tokens:,} tokens and the image token {images}, config.json {rows:,} rows and the "
                f"image token {token}: take tokenizer and weights of one checkpoint"
            )
        layout = "original" if is_original_layout(Path(found)) else "native"
        checked = ", as its checksums say" if Path(found, CHECKSUMS).is_file() else ""
        parameters = sum(tensor.numel() for tensor in self.network.parameters())
        return f"{self.settings.model}, {found}{checked}: {layout} layout, {parameters:,} parameters"

    def data(self) -> str:
        names = {split: self._where(split) for split in split_sources(self.settings)}
        # Of folds the first stands for all: each has every document, in one split or the other.
        given = {"fold": 1} if self.settings.folds else {"validation_data": names["validation"]}
        settings = self.settings.replace(data=names["train"], **given)
        files = {split: files_of(names[split], split, settings) for split in names}
        columns = ", ".join(pq.read_schema(files["validation"][0]).names)
        lines = ["; ".join(dict.fromkeys(names.values())), f"columns {columns}"]
        if sum(file.stat().st_size for file in chain(*files.values())) > SMALL:
            self.row = _first_usable(files["validation"], f"split 'validation' of {settings.validation_data!r}")
            for split, some in files.items():
                try:
                    rows = sum(pq.read_metadata(file).num_rows for file in some)
                except (pa.ArrowException, OSError) as error:
                    raise DataError(f"a file of split {split!r} cannot be read: {error}") from error
                used = min(getattr(settings, f"{split}_questions") or rows, rows)
                lines.append(f"{split}: {used:,} of {rows:,} questions, not checked yet")
            return "\n".join(lines)
        dataset, checks = load_checked(settings)
        self.row = dataset["validation"].select([0])
        for split, rows in dataset.items():
            lines.append(
                f"{split}: {checks.kept[split]:,} of {checks.read[split]:,} questions used, on "
                f"{len(set(rows['page'])):,} pages of {len(set(rows['document_id'])):,} documents"
            )
        for split, reason, rows, _ in checks.summary().itertuples(index=False):
            lines.append(f"left out of {split}: {rows:,} rows, {reason}")
        return "\n".join(lines)

    def question(self) -> str:
        network, settings = self.network, self.settings
        network.to(on.compute_device())
        started = time.perf_counter()
        static = on.uses_static_shapes(settings, 1)
        collator = QuestionCollator(self.row, network, self.processor, settings.prefix, static_shapes=static)
        batch = {name: tensor.to(network.device) for name, tensor in collator([0]).items() if name != "index"}
        image_tokens = self.processor.num_image_tokens
        with torch.no_grad(), on.autocast(settings):
            found = network.page_features(batch["pixel_values"]).shape[1]
            if found != image_tokens:
                raise ModelError(
                    f"a page has {found} image tokens, the processor says {image_tokens}: take processor and weights "
                    "of one checkpoint"
                )
            loss = network(**batch).loss.item()
        on.finish_device()
        forward = time.perf_counter() - started
        if not math.isfinite(loss):
            raise ModelError(f"the loss of the first question is {loss}: set precision to fp32, or take other weights")
        answered = evaluate(network, collator, settings).iloc[0]
        seconds = time.perf_counter() - started - forward
        decode, label = self.processor.tokenizer.decode, batch["labels"][0]
        label = f"{decode(label[label != -100])} after {decode(target_format(network).decoder_start)}"
        return (
            f"prompt <image> x {image_tokens} {decode(batch['input_ids'][0][image_tokens:])}\n"
            f"label {label}, accepted: {', '.join(map(repr, answered['answers']))}\n"
            f"before training: answer {answered['prediction']!r}, loss {loss:.2f}\n"
            f"encoded and once forward in {forward:.1f} s, answered in {seconds:.1f} s, "
            f"in {on.precision(settings)} on {network.device.type}"
        )

    def disk(self) -> str:
        settings, output, cache = self.settings, output_folder(), Path(constants.HF_HUB_CACHE)
        # Data is read once, into a file of about its size.
        read = sum(source.download for source in {self.sources[split] for split in split_sources(settings)})
        download = self.sources["model"].download + read
        training = kept = 0
        if frozen := self._freezing():
            # As `DocVQATrainer._bytes_needed`, without the answers.
            weights, moments = 4 * frozen.parameters, 8 * frozen.trainable_parameters
            training, kept = min(CHECKPOINTS + 1, settings.epochs) * (weights + moments), 2 * weights
        # What a study has begun is there in part, and every run asks for its own room.
        begun = len([*runs_folder(settings.study).glob("*")])
        written = read + max(0, self.runs - begun) * kept + (0 if begun else training)
        runs = "one run" if self.runs == 1 else f"{self.runs} runs"
        disks = [next(path for path in (folder, *folder.parents) if path.exists()) for folder in (cache, output)]
        together = download if disks[0].stat().st_dev == disks[1].stat().st_dev else 0
        with (
            room_for(cache, download, "the download to HF_HOME"),
            room_for(output, together + written, f"what is downloaded, read and written by {runs}"),
        ):
            pass
        free = f"{size(free_bytes(output))} free in {output}"
        if download:
            free += f", {size(free_bytes(cache))} in {cache} for {size(download)} to download"
        if kept:
            more = f", {size(kept)} of it kept of each" if self.runs > 1 else ""
            free += f"; {runs} take{'s' * (self.runs == 1)} up to {size(training + self.runs * kept)}{more}"
        if settings.vision_cache:
            free += f"; up to {settings.cache_gib:g} GiB of cached pages and states where they fit"
        return free

    def _freezing(self) -> Trainable | None:
        """What is trained; of a model that is yet to be downloaded, as of Florence-2-base; None where none can say."""
        network = self.network
        if network is None:
            if self.sources["model"].where or self.settings.lora or self.settings.lora_rank:
                return None
            with torch.device("meta"):
                network = Florence2ForDocVQA(base_config())
        return freeze(network, self.settings)


def _first_usable(files: Sequence[Path], of: str) -> Dataset:
    """The first row with a question, answers and an image, as the collator wants it."""
    for batch in chain.from_iterable(batches_in_schema(file, of) for file in files):
        for row in batch.to_pylist():
            asked = (row["question"] or "").strip() and row["answers"] and all(row["answers"])
            if asked and check_image(row["image"], {})[1] is None:
                rows = Dataset.from_list([row], features=FEATURES)
                return rows.add_column("page", ["first"]).add_column("document_id", ["first"])
    raise DataError(f"{of} has no usable row")
