"""What of the model is trained: a share of the vision encoder, its weights or LoRA adapters."""

import copy
import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pandas as pd
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME as ADAPTER
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from docfloqa.exceptions import SettingsError
from docfloqa.model.florence import vision_sub_blocks
from docfloqa.settings import Freezing

PROJECTOR = "multi_modal_projector"


def add_adapters(model: nn.Module, freezing: Freezing) -> int:
    """Train the projector, and LoRA adapters beside linear layers that train, or those that `lora_targets` names.

    They start at zero; their rank, which is returned, is `lora_rank`, or the one at which they have about the share
    `lora` of the model's parameters. Raises `SettingsError` when no linear layer is trainable, for a target that none
    is called, and for a share that less than half of rank 1 has. Source: Hu et al., LoRA, ICLR 2022.
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and layer.weight.requires_grad and re.match(r"model\.(vision|language)_", name)
    }
    if not layers:
        raise SettingsError("no linear layer is trainable, so there is nothing that adapters could stand beside")
    ends = tuple(f".{target}" for target in freezing.lora_targets)
    for end in ends:
        if not any(f".{name}".endswith(end) for name in layers):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in layers}))
            raise SettingsError(f"lora_targets has {end[1:]!r}; no linear layer that trains ends so, but in {known}")
    layers = {name: layer for name, layer in layers.items() if not ends or f".{name}".endswith(ends)}
    of_rank_1 = sum(layer.in_features + layer.out_features for layer in layers.values())
    wanted = freezing.lora * sum(parameter.numel() for parameter in model.parameters())
    rank = freezing.lora_rank or round(wanted / of_rank_1)
    if rank < 1:
        raise SettingsError(
            f"lora is {freezing.lora!r}, which is {wanted:,.0f} parameters; adapters of rank 1 have {of_rank_1:,} "
            "already"
        )
    alpha = freezing.lora_alpha or 2 * rank
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, bias="none", target_modules=list(layers))
    with torch.random.fork_rng():
        # A run's seed is the order of its questions; every run starts from the same weights.
        torch.manual_seed(0)
        # Into the model itself: it stays the class that saves as the native one.
        inject_adapter_in_model(config, model)
    model.model.multi_modal_projector.requires_grad_(True)
    return rank


def save_adapters(model: nn.Module, folder: Path) -> None:
    """Write a model's adapters, and its projector, which is trained beside them, as peft loads them; if it has any."""
    if not any(isinstance(layer, LoraLayer) for layer in model.modules()):
        return
    config = copy.copy(model.peft_config["default"])
    config.modules_to_save = [PROJECTOR]
    config.save_pretrained(str(folder))
    weights = get_peft_model_state_dict(model)
    projector = model.model.multi_modal_projector.state_dict(prefix=f"model.{PROJECTOR}.")
    named = {f"base_model.model.{name}": one.contiguous() for name, one in (weights | projector).items()}
    save_file(named, folder / ADAPTER)


def without_adapters(model: nn.Module) -> nn.Module:
    """A copy with the adapters merged into the weights, for plain transformers; the model itself if it has none."""
    if not any(isinstance(layer, LoraLayer) for layer in model.modules()):
        return model
    # To merge and to take out again is not exact.
    merged = copy.deepcopy(model)
    for name, layer in list(merged.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            merged.set_submodule(name, layer.get_base_layer())
    return merged


def in_fp16(model: nn.Module) -> dict[str, Tensor] | None:
    """The weights in fp16, tied ones as one tensor still; None where one is too large for it (above 65,504)."""
    halves, state = {}, model.state_dict()
    weights = {name: halves.setdefault((one.data_ptr(), one.shape), one.half()) for name, one in state.items()}
    return weights if all(bool(weight.isfinite().all()) for weight in halves.values()) else None


@dataclass(frozen=True)
class Trainable:
    """What is trainable, counted in tensors and in parameters (a tied weight counts once), adapters not in all."""

    vision_tensors: int
    trainable_vision_tensors: int
    vision_parameters: int
    trainable_vision_parameters: int
    parameters: int
    trainable_parameters: int
    sub_blocks: int
    frozen_prefix: int  # sub-blocks (`vision_sub_blocks`) before the first that has a trainable tensor
    lora_rank: int

    def table(self) -> pd.DataFrame:
        """Trainable and total tensors and parameters, with their share in [0, 1]."""
        tensors = self.trainable_vision_tensors, self.vision_tensors
        vision = self.trainable_vision_parameters, self.vision_parameters
        whole = self.trainable_parameters, self.parameters
        index = ["vision encoder, tensors", "vision encoder, parameters", "whole model, parameters"]
        table = pd.DataFrame([tensors, vision, whole], index, ["trainable", "all"])
        return table.assign(share=table["trainable"] / table["all"])


def vision_units(model: nn.Module, unit: str) -> list[list[str]]:
    """The names of the vision encoder's tensors, grouped into units, from the input side to the output side.

    "tensor": one each in the order of `named_parameters`, as published, all patch embeddings before the blocks. "block"
    and "stage": execution order, each patch embedding with the block or stage that it opens.
    """
    if unit == "tensor":
        return [[name] for name, _ in model.model.vision_tower.named_parameters()]
    units: list[list[str]] = []
    for name, sub_block in vision_sub_blocks(model):
        opens_block = name.endswith("spatial_block") and name.split(".")[-2] != "0"
        if name.startswith("convs") or (unit == "block" and opens_block):
            units.append([])
        units[-1] += [f"{name}.{tensor}" for tensor, _ in sub_block.named_parameters()]
    return units


def vision_parts(model: nn.Module) -> dict[str, list[str]]:
    """The names of the vision encoder's tensors by part: stem (the first patch embedding), stage1 and so on."""
    first, *later = vision_units(model, "stage")
    stem = [name for name in first if name.startswith("convs.")]
    stages = [[name for name in first if name not in stem], *later]
    return {"stem": stem, **{f"stage{number}": names for number, names in enumerate(stages, start=1)}}


def freeze(model: nn.Module, freezing: Freezing) -> Trainable:
    """Make a share or parts of the vision encoder trainable, freeze the rest of it, and say what is trained.

    The share is rounded to whole units (of parameters, as near as they come): the last or, from the "input" side, the
    first. Projector and language model always train. With `lora` or a `lora_rank`, `add_adapters` says what does.
    """
    share, tower = freezing.vision_trainable, model.model.vision_tower
    sizes = {name: parameter.numel() for name, parameter in tower.named_parameters()}
    vision_parameters, parameters = sum(sizes.values()), sum(one.numel() for one in model.parameters())
    units = vision_units(model, freezing.unit)[:: -1 if freezing.side == "output" else 1]
    count = round(len(units) * share)
    if freezing.counted == "parameters":
        unfrozen = [0, *accumulate(sum(sizes[name] for name in unit) for unit in units)]
        count = min(range(len(unfrozen)), key=lambda number: abs(unfrozen[number] - share * vision_parameters))
    names = {name for unit in units[:count] for name in unit}
    if freezing.parts and freezing.parts != ("all",):
        parts = {"none": [], **vision_parts(model)}
        names = {name for part in freezing.parts for name in parts[part]}
    model.requires_grad_(True)
    for name, parameter in tower.named_parameters():
        parameter.requires_grad_(name in names)
    rank = add_adapters(model, freezing) if freezing.lora or freezing.lora_rank else 0
    # Sub-blocks change between train and eval mode with what is frozen.
    model.train(model.training)
    sub_blocks = vision_sub_blocks(model)
    thawed = [index for index, (_, sub_block) in enumerate(sub_blocks) if trained(sub_block)]
    return Trainable(
        vision_tensors=len(sizes),
        trainable_vision_tensors=len(trained(tower)),
        vision_parameters=vision_parameters,
        trainable_vision_parameters=sum(one.numel() for one in trained(tower)),
        parameters=parameters,
        trainable_parameters=sum(one.numel() for one in trained(model)),
        sub_blocks=len(sub_blocks),
        frozen_prefix=min(thawed, default=len(sub_blocks)),
        lora_rank=rank,
    )


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a model or a part of it that train."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
