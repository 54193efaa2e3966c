"""Which parts train when, and tensors at rates of their own: gradual unfreezing, layer-wise decay, Auto-RGN."""

from collections.abc import Callable, Hashable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from docfloqa.model.freezing import vision_parts
from docfloqa.settings import Freezing, Settings
from docfloqa.training.batches import split

MEASURED_BATCHES = 5  # of an epoch, for Auto-RGN


def layer_rates(model: nn.Module, decay: float) -> dict[Tensor, float]:
    """By what each parameter's learning rate is multiplied: `decay` to the power of its distance from the output.

    Language model and projector are at 0, stage4 at 1, the stem at 5. Source: Bao et al., BEiT, ICLR 2022 (by layer).
    """
    tower = model.model.vision_tower
    far = enumerate(reversed(vision_parts(model).values()), start=1)
    of_tower = {tower.get_parameter(name): decay**distance for distance, names in far for name in names}
    return {parameter: of_tower.get(parameter, 1.0) for parameter in model.parameters()}


def group_parameters(optimizer: Optimizer, key: Callable[[Tensor], Hashable]) -> None:
    """Divide the groups of a new optimizer, so that in each all parameters have the same `key`."""
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        divided: dict[Hashable, list[Tensor]] = {}
        for parameter in group["params"]:
            divided.setdefault(key(parameter), []).append(parameter)
        for parameters in divided.values():
            optimizer.add_param_group({**group, "params": parameters})


def set_rates(optimizer: Optimizer, model: nn.Module, settings: Settings) -> None:
    """Give parameters of a new optimizer groups of their own where the settings give them rates of their own."""
    if settings.auto_rgn:
        group_parameters(optimizer, key=id)
    elif settings.layer_decay != 1:
        rates = layer_rates(model, settings.layer_decay)
        group_parameters(optimizer, key=rates.get)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rates[group["params"][0]]


def thawing_steps(unfreezing: str, parts: list[str], steps: int) -> dict[str, int]:
    """Before which of so many steps, from 0 on, each part of the vision encoder, from the input side on, is thawed.

    "lp_ft": all at half of them (Kumar et al., ICLR 2022). "from_input" and "from_output": one after another, the first
    at once (Howard and Ruder, ULMFiT, ACL 2018, which goes from the output).
    """
    if unfreezing == "lp_ft":
        return dict.fromkeys(parts, steps // 2)
    order = parts if unfreezing == "from_input" else parts[::-1]
    return {part: place * steps // len(order) for place, part in enumerate(order)}


class GradualUnfreezing(TrainerCallback):
    """Thaws parts of the vision encoder while it trains; which follows from the step alone, whatever interrupts it."""

    def __init__(self, model: nn.Module, freezing: Freezing):
        self.parts, self.unfreezing = vision_parts(model), freezing.unfreezing

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        tower = model.model.vision_tower
        for part, start in thawing_steps(self.unfreezing, [*self.parts], state.max_steps).items():
            for name in self.parts[part]:
                tower.get_parameter(name).requires_grad_(state.global_step >= start)


class AutoRGN(TrainerCallback):
    """Gives every tensor its own learning rate before each epoch, by its relative gradient norm, with a new optimizer.

    Its weight is the mean of ‖g‖ / ‖θ‖ over the epoch's first batches by the largest of all. Source: Lee et al.,
    Surgical Fine-Tuning, ICLR 2023; warm-up, decay and clipping, which theirs lacks, stay.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, model=None, optimizer=None, lr_scheduler=None, **kwargs):
        weights = self.weights(model)
        optimizer.state.clear()
        for place, group in enumerate(optimizer.param_groups):
            rate = args.learning_rate * weights[group["params"][0]]
            lr_scheduler.base_lrs[place] = rate
            group["lr"] = rate * lr_scheduler.lr_lambdas[place](lr_scheduler.last_epoch)

    def weights(self, model: nn.Module) -> dict[Tensor, float]:
        """The weight of every parameter that is trained, 0 to 1; nothing of the training is changed by it."""
        trainer, parameters = self.trainer, [one for one in model.parameters() if one.requires_grad]
        sampler = trainer._get_train_sampler()
        sampler.set_epoch(trainer.epoch)
        ratios = []
        # What dropout draws here must not depend on an interruption, nor the training on what is drawn here.
        with torch.random.fork_rng():
            torch.manual_seed(trainer.settings.seed + trainer.epoch)
            for questions in islice(split([*sampler], trainer.settings.batch_size), MEASURED_BATCHES):
                batch = trainer.training_collator(questions)
                trainer.training_step(model, batch, int((batch["labels"] != -100).sum()))
                gradients = [parameter.grad for parameter in parameters]
                with torch.no_grad():
                    norms = [torch.stack(torch._foreach_norm(each)) for each in (gradients, parameters)]
                ratios.append(norms[0] / norms[1])
                model.zero_grad()
        trainer.loss_sum, trainer.loss_tokens = 0.0, 0
        return dict(zip(parameters, relative_weights(torch.stack(ratios)).tolist(), strict=True))


def relative_weights(ratios: Tensor) -> Tensor:
    """Weights of tensors, 0 to 1, from their ratios of norms (batches, tensors); a tensor of zeros has 1."""
    mean = ratios.float().mean(dim=0)
    finite = mean.isfinite()
    return torch.where(finite, mean / mean.where(finite, 0.0).max(), 1.0)
