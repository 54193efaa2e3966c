"""What gradients say before training: statistics of every part of the model, and what a step with it costs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import count, islice

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from tqdm.auto import tqdm

from docfloqa.data.load import load_docvqa
from docfloqa.exceptions import DataError
from docfloqa.model.device import autocast, compute_device, finish_device, precision, require_device
from docfloqa.model.florence import Florence2ForDocVQA, load_florence
from docfloqa.model.freezing import freeze, trained, vision_parts
from docfloqa.settings import Freezing, Settings
from docfloqa.training.batches import EpochSampler, QuestionCollator

Batch = dict[str, Tensor]
LANGUAGE, PROJECTOR = "language model", "projector"
START, LATER = "start", "language model trained"
BATCHES = 10  # of whose gradients statistics are taken
STEPS = 30  # of training the language model alone
TIMED = 3  # steps with each set of parts, of which the first is not timed
# What a step is timed with: nothing, each part, the input side, everything.
SETS = ("none", "stem", "stage1", "stage2", "stage3", "stage4", "stem stage1 stage2", "all")


def measure(settings: Settings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`gradient_statistics` of the training questions, and `thawing_costs`, on this machine.

    Of a run's first batches, at most `BATCHES`: at the starting weights, and after `STEPS` steps with the vision
    encoder frozen (column `when`: `START`, `LATER`). fp16 is fp32 here, since its gradients would need scaling. Raises
    what loading data and model raises, `NoGPUError`, and `DataError` for fewer questions than two batches.
    """
    require_device(settings)
    if precision(settings) == "fp16":
        settings = settings.replace(precision="fp32")
    if settings.folds and not settings.fold:
        settings = settings.replace(fold=1)
    rows = load_docvqa(settings, "train")
    # A variance needs two.
    if len(rows) < 2 * settings.batch_size:
        raise DataError(
            f"split 'train' of {settings.data!r} has {len(rows)} questions and batch_size is {settings.batch_size}; "
            f"advice takes two batches or more, so a batch_size of {len(rows) // 2} at most"
        )
    model, processor = load_florence(settings.model, settings.prefix)
    model.to(compute_device())
    collator = QuestionCollator(rows, model, processor, settings.prefix, shuffled_questions=settings.shuffled_questions)
    batches = _batches(collator, settings)
    some = [*islice(batches, min(BATCHES, len(rows) // settings.batch_size))]
    with tqdm(total=2 * len(some) + TIMED * len(SETS) + STEPS, desc="advising", unit="step", disable=None) as bar:
        before = gradient_statistics(model, some, settings, bar)
        costs = thawing_costs(model, some[0], settings, bar)
        train_language_model(model, islice(batches, STEPS), settings, bar)
        after = gradient_statistics(model, some, settings, bar)
    return pd.concat({START: before, LATER: after}, names=["when"]).reset_index("when").reset_index(drop=True), costs


def model_parts(model: Florence2ForDocVQA) -> dict[str, list[nn.Parameter]]:
    """All parameters, each once: the vision encoder's parts (`vision_parts`), the language model, the projector."""
    tower = dict(model.model.vision_tower.named_parameters())
    parts = {part: [tower[name] for name in names] for part, names in vision_parts(model).items()}
    projector = [*model.model.multi_modal_projector.parameters()]
    known = {id(one) for some in (*parts.values(), projector) for one in some}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return {**parts, LANGUAGE: rest, PROJECTOR: projector}


def gradient_statistics(
    model: Florence2ForDocVQA, batches: Sequence[Batch], settings: Settings, bar: tqdm
) -> pd.DataFrame:
    """A row for every part of the model, from the gradient g of each batch's mean cross-entropy, in eval mode.

    Means over batches of ‖g‖ / ‖θ‖ (`relative_norm`), ‖g‖² (`squared_norm`, and its `share` of all parts) and `loss`;
    `snr` is ‖mean of g‖² over the variance of g *over batches* (n − 1; NaN for one), both summed over the part. Source:
    Auto-RGN and Auto-SNR of Lee et al., Surgical Fine-Tuning, ICLR 2023; theirs is the mean of every parameter's own
    ratio, which the smallest variances decide.
    """
    parts, losses = model_parts(model), []
    model.requires_grad_(True).eval()
    squares, means = {part: [] for part in parts}, {part: [0.0] * len(some) for part, some in parts.items()}
    for batch in batches:
        model.zero_grad()
        losses.append(_backward(model, _on_device(batch, model), settings))
        for part, parameters in parts.items():
            # What no question of a batch reaches has no gradient.
            gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
            squares[part].append(_square(gradients))
            means[part] = [old + new / len(batches) for old, new in zip(means[part], gradients, strict=True)]
        bar.update()
    model.zero_grad()
    rows = []
    for part, parameters in parts.items():
        square, signal = np.array(squares[part]), _square(means[part])
        # Of rounding, a difference of equals may be below 0.
        noise = max(0.0, square.sum() - len(square) * signal) / (len(square) - 1) if len(square) > 1 else np.nan
        snr = np.divide(signal, noise) if noise else np.inf
        relative = np.sqrt(square / _square(parameters)).mean()
        rows.append((part, sum(one.numel() for one in parameters), relative, snr, square.mean()))
    table = pd.DataFrame(rows, columns=["part", "parameters", "relative_norm", "snr", "squared_norm"])
    return table.assign(share=table["squared_norm"] / table["squared_norm"].sum(), loss=float(np.mean(losses)))


def thawing_costs(model: Florence2ForDocVQA, batch: Batch, settings: Settings, bar: tqdm) -> pd.DataFrame:
    """What a training step of this batch costs with each of `SETS` trainable, projector and language model always.

    `seconds` are those of the quickest step, optimizer included, the frozen beginning cached; `memory_mib` is computed:
    weights, gradients, AdamW's two numbers and what the backward pass keeps; `cached` is the share of sub-blocks that
    run once a page, `encoder_share` that of the encoder's `parameters` that train.
    """
    rows, batch = [], _on_device(batch, model)
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    for parts in SETS:
        found = freeze(model, Freezing(parts=parts.split()))
        # A rate of 0 takes the time of a step and no step.
        optimizer = torch.optim.AdamW(trained(model), lr=0.0, weight_decay=0.0)
        boundary = found.frozen_prefix if settings.vision_cache else 0
        with torch.no_grad(), autocast(settings):
            states = model.vision_states(batch["pixel_values"], 0, boundary)
        kept: dict[int, int] = {}
        seconds = []
        model.vision_start = boundary
        for step in range(TIMED):
            finish_device()
            begun = time.perf_counter()
            with saved_tensors_hooks(partial(_noted, kept), lambda tensor: tensor) if step == 0 else nullcontext():
                _backward(model, batch | {"pixel_values": states}, settings)
            optimizer.step()
            optimizer.zero_grad()
            finish_device()
            seconds.append(time.perf_counter() - begun)
            bar.update()
        model.vision_start = 0
        bytes_held = sum(one.nbytes for one in model.parameters()) + 3 * sum(one.nbytes for one in trained(model))
        bytes_held += sum(size for storage, size in kept.items() if storage not in weights)
        of_encoder, cached = found.trainable_vision_parameters, boundary / found.sub_blocks
        share = of_encoder / found.vision_parameters
        rows.append((parts, of_encoder, share, min(seconds[1:]), bytes_held / 2**20, cached))
    return pd.DataFrame(rows, columns=["parts", "parameters", "encoder_share", "seconds", "memory_mib", "cached"])


def train_language_model(model: Florence2ForDocVQA, batches: Iterator[Batch], settings: Settings, bar: tqdm) -> None:
    """Train all but the vision encoder on the batches: AdamW at the settings' constant rate; eval mode at the end."""
    torch.manual_seed(settings.seed)
    freeze(model, Freezing(parts=("none",)))
    optimizer = torch.optim.AdamW(trained(model), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    model.train()
    for batch in batches:
        _backward(model, _on_device(batch, model), settings)
        nn.utils.clip_grad_norm_(trained(model), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        bar.update()
    model.eval()


def _batches(collator: QuestionCollator, settings: Settings) -> Iterator[Batch]:
    """Whole batches in the order of a run's epochs, without end."""
    order, size = EpochSampler(collator.pages, settings.batching, settings.seed), settings.batch_size
    for epoch in count():
        order.set_epoch(epoch)
        questions = [*order]
        for start in range(0, len(questions) - size + 1, size):
            yield collator(questions[start : start + size])


def _backward(model: Florence2ForDocVQA, batch: Batch, settings: Settings) -> float:
    with autocast(settings):
        loss = model(**batch).loss
    loss.backward()
    return loss.item()


def _on_device(batch: Batch, model: nn.Module) -> Batch:
    return {name: tensor.to(model.device) for name, tensor in batch.items() if name != "index"}


def _square(tensors: Sequence[Tensor]) -> float:
    return sum(torch.linalg.vector_norm(one.detach(), dtype=torch.float64).item() ** 2 for one in tensors)


def _noted(kept: dict[int, int], tensor: Tensor) -> Tensor:
    """A tensor that is kept for the backward pass; notes the bytes of its storage."""
    storage = tensor.untyped_storage()
    kept[storage.data_ptr()] = storage.nbytes()
    return tensor
