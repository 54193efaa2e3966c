"""What is looked at before a study: each subject tells what it found, or raises what is wrong."""

import json
import math
import os
import platform
import time
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from shutil import which
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from datasets.table import InMemoryTable
from huggingface_hub import constants

from docfloqa.data import sources
from docfloqa.data.load import check_image, load_checked
from docfloqa.data.schema import DOCVQA
from docfloqa.data.sources import SPLITS
from docfloqa.exceptions import DataError, DocFloQAError, ModelError
from docfloqa.files import DiskFullError, free_bytes, output_folder, room_for, runs_folder, size
from docfloqa.model import device as on
from docfloqa.model.florence import (
    CHECKSUMS,
    PREFIX,
    START,
    Florence2ForDocVQA,
    base_config,
    generation_config,
    load_florence,
    stated_decoding,
    target_format,
)
from docfloqa.model.freezing import freeze
from docfloqa.model.microsoft_layout import is_original_layout
from docfloqa.runs.run import git_commit
from docfloqa.settings import Settings
from docfloqa.study.availability import find_data, find_model
from docfloqa.study.kernels import DEFAULT_KERNEL, kernel_device
from docfloqa.study.slots import BYTES_A_PARAMETER
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate
from docfloqa.training.trainer import CHECKPOINTS

# Bytes of parquet files: every page of smaller data is decoded, of larger data only columns without images are read.
SMALL = 2**26
PACKAGES = "torch transformers datasets huggingface_hub".split()


class Untried(DocFloQAError):
    """What cannot be looked at for want of something that another line tells of."""


class Examination:
    """What is known of settings, a kernel and this machine; each subject is a method that tells what it found."""

    def __init__(self, settings: Settings, kernel: str | None):
        self.settings, self.kernel_name = settings, kernel
        self.questions: dict[str, int] = {}
        self.row: Dataset | None = None
        self.loaded: Florence2ForDocVQA | None = None
        self.decodes = False

    model_source = cached_property(lambda self: find_model(self.settings))
    data_sources = cached_property(lambda self: find_data(self.settings))

    @property
    def network(self) -> Florence2ForDocVQA:
        if self.loaded is None:
            raise Untried("the model does not load" if self.model_source.folder else "there is no model here yet")
        return self.loaded

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
            bf16 = "" if torch.cuda.is_bf16_supported() else ", no bf16"
            what = f"{device['gpus']} GPU, {device['name']}: {size(free)} of {size(total)} free{bf16}"
        return f"{what}; memory: {size(memory.available)} of {size(memory.total)} free"

    def kernel(self) -> str:
        device = kernel_device(self.settings, self.kernel_name)
        gpus = f"{device['gpus']} GPU" if device["gpus"] else "no GPU"
        return f"{self.kernel_name or DEFAULT_KERNEL} answers: {gpus}, {device['name']}"

    def hub(self) -> str:
        needed = [self.model_source, *self.data_sources.values()]
        named = [source for source in needed if source.commit or not source.folder]
        cache = f"the cache, {constants.HF_HUB_CACHE}"
        if not named:
            return "not needed: model and data are here"
        if all(source.folder for source in named):
            return f"not asked: all is in {cache}"
        if any(source.trouble for source in named):
            offline = "; HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
            return f"{constants.ENDPOINT} does not give what is not in {cache}{offline}"
        return f"{constants.ENDPOINT} answers; the cache is {constants.HF_HUB_CACHE}"

    def model(self) -> str:
        source = self.model_source
        if told := source.to_download():
            return told
        self.loaded, self.processor = load_florence(source.given, self.settings.prefix)
        layout = "original" if is_original_layout(source.folder) else "native"
        checked = ", as its checksums say" if (source.folder / CHECKSUMS).is_file() else ""
        parameters = sum(tensor.numel() for tensor in self.loaded.parameters())
        return f"{source}{checked}: {layout} layout, {parameters:,} parameters"

    def vocabulary(self) -> str:
        network, tokenizer, images = self.network, self.processor.tokenizer, self.processor.image_token_id
        embeddings, output = network.get_input_embeddings().weight, network.get_output_embeddings().weight
        if len(tokenizer) > len(embeddings) or images != network.config.image_token_id:
            raise ModelError(
                f"the tokenizer has {len(tokenizer):,} tokens and the image token {images}, config.json "
                f"{len(embeddings):,} rows and the image token {network.config.image_token_id}: take tokenizer and "
                "weights of one checkpoint"
            )
        token = self._token(tokenizer.convert_tokens_to_ids(PREFIX))
        prefix = {"token": token, "text": f"{PREFIX} as text", "none": "none"}[self.settings.prefix]
        tied = "tied" if output is embeddings else f"own ({output.numel():,} parameters)"
        return (
            f"{len(embeddings):,} rows, {len(tokenizer):,} tokens; output embedding {tied}; "
            f"prefix {prefix}; image {self._token(images)}"
        )

    def targets(self) -> str:
        target = target_format(self.network)
        tokens = [*map(self._token, target.start), "answer", self._token(target.end)]
        # The neutral settings: what a file states of them changes nothing.
        neutral = generation_config(self.network, None).to_dict()
        stated = stated_decoding(self.model_source.folder).items()
        cleared = [f"{name} {json.dumps(told)}" for name, told in stated if name != START and neutral.get(name) != told]
        return (
            f"{' '.join(tokens)}, after {self._token(target.decoder_start)}; "
            f"generation settings cleared: {', '.join(cleared) or 'none'}"
        )

    def decoding(self) -> str:
        settings, text = self.settings, self.network.config.text_config
        generation_config(self.network, settings.max_new_tokens, settings.num_beams)
        self.decodes = True
        page = self.processor.image_processor.size
        beams = f"{settings.num_beams} beams" if settings.num_beams > 1 else "greedy"
        return (
            f"{beams}, at most {settings.max_new_tokens} new tokens of {text.max_position_embeddings:,} positions; "
            f"pages of {page['width']} x {page['height']} pixels, {self.processor.num_image_tokens} image tokens"
        )

    def data(self) -> str:
        by_split = self.data_sources
        needed = list(dict.fromkeys(by_split.values()))
        if not all(source.folder for source in needed):
            self.questions = {split: self._used(split, DOCVQA[split][0]) for split in SPLITS}
            return "\n".join(told for source in needed if (told := source.to_download()))
        names = {split: str(source.given) for split, source in by_split.items()}
        settings = self.settings.replace(data=names["train"], validation_data=names["validation"])
        files = {split: sources.files_of(names[split], split, settings) for split in SPLITS}
        count = self._checked if sum(file.stat().st_size for file in chain(*files.values())) <= SMALL else self._counted
        lines = count(settings, files)
        columns = ", ".join(pq.read_schema(files["validation"][0]).names)
        return "\n".join(["; ".join(map(str, needed)), f"columns {columns}", *lines])

    def _checked(self, settings: Settings, _) -> list[str]:
        """A line for each split and reason, from the checks that a study makes."""
        dataset, checks = load_checked(settings)
        self.questions, self.row = dict(checks.kept), dataset["validation"].select([0])
        reasons = checks.summary()[["split", "rows", "reason"]].itertuples(index=False)
        return [
            f"{split}: {checks.kept[split]:,} of {checks.read[split]:,} questions used, on "
            f"{len(set(rows['page'])):,} pages of {len(set(rows['document_id'])):,} documents"
            for split, rows in dataset.items()
        ] + [f"left out of {split}: {rows:,} rows, {reason}" for split, rows, reason in reasons]

    def _counted(self, settings: Settings, files: dict[str, list[Path]]) -> list[str]:
        """A line for each split, from columns without images where checks take long."""
        self.row = _first_usable(files["validation"], f"split 'validation' of {settings.validation_data!r}")
        lines = []
        for split, some in files.items():
            rows, pages = _rows_and_pages(some, f"split {split!r}")
            self.questions[split] = self._used(split, rows)
            lines.append(f"{split}: {self.questions[split]:,} of {rows:,} questions{pages}, not checked yet")
        return lines

    def _used(self, split: str, questions: int) -> int:
        return min(getattr(self.settings, f"{split}_questions") or questions, questions)

    def question(self) -> str:
        network, settings = self.network, self.settings
        if self.row is None:
            raise Untried("there is no data here yet")
        if not self.decodes:
            raise Untried("answers cannot be decoded with these settings")
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
        return (
            f"prompt <image> x {image_tokens} {decode(batch['input_ids'][0][image_tokens:])}\n"
            f"label {decode(label[label != -100])}, accepted: {', '.join(map(repr, answered['answers']))}\n"
            f"before training: answer {answered['prediction']!r}, loss {loss:.2f}\n"
            f"encoded and once forward in {forward:.1f} s, answered in {seconds:.1f} s, "
            f"in {'bf16' if on.uses_bf16(settings) else 'fp32'} on {network.device.type}"
        )

    def run(self) -> str:
        settings, frozen = self.settings, self._freezing
        if not self.questions:
            raise Untried("there is no data here")
        held = 4 * frozen.parameters + (BYTES_A_PARAMETER - 4) * frozen.trainable_parameters
        steps = math.ceil(self.questions["train"] / settings.batch_size)
        return (
            f"one of ratio {settings.vision_trainable:g}: {frozen.trainable_parameters:,} of {frozen.parameters:,} "
            f"parameters trained; weights, gradients and AdamW's numbers take {size(held)}, activations not counted\n"
            f"{settings.epochs} epochs of {steps:,} steps: {on.least_time(settings, self.questions['train'])}, which "
            "training does not reach; make estimate measures"
        )

    def disk(self) -> str:
        settings, output, cache = self.settings, output_folder(), Path(constants.HF_HUB_CACHE)
        download = sum(one.download or 0 for one in {self.model_source, *self.data_sources.values()})
        # Data is read once, into a file of about its size.
        copied = sum(source.download or 0 for source in {*self.data_sources.values()})
        try:
            # As `DocVQATrainer._bytes_needed`, without the answers.
            weights, moments = 4 * self._freezing.parameters, 8 * self._freezing.trainable_parameters
            one_run = min(CHECKPOINTS + 1, settings.epochs) * (weights + moments) + 2 * weights
        except Untried:
            one_run = 0
        runs = runs_folder(settings.study)
        # What a study has begun is there in part, and every run asks for its own room.
        first = 0 if runs.is_dir() and any(runs.iterdir()) else one_run
        needs = [(cache, download, "the download"), (output, copied, "the data read"), (output, first, "one run")]
        _require_room([need for need in needs if need[1]])
        free = f"{size(free_bytes(output))} free in {output}"
        if download:
            free += f", {size(free_bytes(cache))} in {cache} for {size(download)} to download"
        if one_run:
            free += f"; one run takes up to {size(one_run)}"
        if settings.vision_cache:
            free += f"; up to {settings.cache_gib:g} GiB of cached pages and states where they fit"
        return free

    @cached_property
    def _freezing(self) -> Any:
        """What is trained; of a model that is yet to be downloaded, as of Florence-2-base."""
        network = self.loaded
        if network is None:
            if self.model_source.folder or self.settings.lora:
                raise Untried("there is no model to count")
            with torch.device("meta"):
                network = Florence2ForDocVQA(base_config())
        return freeze(network, self.settings)

    def _token(self, index: int) -> str:
        return f"{self.processor.tokenizer.convert_ids_to_tokens(index)} ({index})"


def _first_usable(files: Sequence[Path], of: str) -> Dataset:
    """The first row with a question, answers and an image, as the collator wants it."""
    for batch in chain.from_iterable(sources.batches_in_schema(file, of) for file in files):
        for place, row in enumerate(batch.to_pylist()):
            asked = (row["question"] or "").strip() and row["answers"] and all(row["answers"])
            if asked and check_image(row["image"], {})[1] is None:
                rows = Dataset(InMemoryTable(pa.Table.from_batches([batch.slice(place, 1)])))
                return rows.add_column("page", ["first"]).add_column("document_id", ["first"])
    raise DataError(f"{of} has no usable row")


def _rows_and_pages(files: Sequence[Path], of: str) -> tuple[int, str]:
    """Rows of a split and, where columns tell of them, its pages and documents; no image is read."""
    try:
        rows = sum(pq.read_metadata(file).num_rows for file in files)
        names = sources.column_names(pq.read_schema(files[0]), of)
        about = [names.get(column) for column in ("ucsf_document_id", "ucsf_document_page_no")]
        if None in about:
            return rows, ""
        table = pq.read_table(files, columns=about).flatten()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"a file of {of} cannot be read: {error}") from error
    pages, documents = (table.group_by(columns).aggregate([]).num_rows for columns in (about, about[:1]))
    return rows, f" on {pages:,} pages of {documents:,} documents"


def _require_room(needs: Sequence[tuple[Path, int, str]]) -> None:
    """Raise `DiskFullError` where a disk has less room than is needed in its folders together."""
    by_disk: dict[int, list[tuple[Path, int, str]]] = {}
    for folder, needed, what in needs:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(there, os.W_OK):
            raise DiskFullError(f"{folder} is needed for {what} and cannot be written")
        by_disk.setdefault(there.stat().st_dev, []).append((folder, needed, what))
    for some in by_disk.values():
        folders, sizes, whats = zip(*some, strict=True)
        try:
            with room_for(folders[-1], sum(sizes), " and ".join(whats)):
                pass
        except DiskFullError as error:
            raise DiskFullError(f"{error}; HF_HOME does so for the hub's cache") from None
