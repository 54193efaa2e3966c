"""LoRA adapters in place of the weights that would be trained, and models without them again."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

SCALING = 2  # lora_alpha over rank


def add_adapters(model: nn.Module, share: float) -> int:
    """Put a LoRA adapter beside every linear layer that is trainable, and train adapters and projector only.

    The layers are those of the vision tower, the text encoder and the decoder; embeddings and the output layer
    get none. All adapters have one rank, chosen so that together they have about `share` of the model's
    parameters; it is returned. An adapter starts at zero, so that the model's outputs are what they were.

    Raises `ValueError` when no linear layer is trainable, or for a share that less than half of rank 1 has.
    Source: Hu et al., LoRA, ICLR 2022.
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and layer.weight.requires_grad
        and name.startswith(("model.vision_tower", "model.language_model"))
    }
    if not layers:
        raise ValueError("no linear layer is trainable, so there is nothing that adapters could stand beside")
    of_rank_1 = sum(layer.in_features + layer.out_features for layer in layers.values())
    wanted = share * sum(parameter.numel() for parameter in model.parameters())
    rank = round(wanted / of_rank_1)
    if rank < 1:
        raise ValueError(
            f"lora is {share!r}, which is {wanted:,.0f} parameters; adapters of rank 1 have {of_rank_1:,} already"
        )
    config = LoraConfig(
        r=rank, lora_alpha=SCALING * rank, lora_dropout=0.0, bias="none", target_modules=list(layers)
    )
    with torch.random.fork_rng():
        # A run's seed is the order of its questions; every run starts from the same weights.
        torch.manual_seed(0)
        # Into the model itself: it stays the class that saves as the native one.
        inject_adapter_in_model(config, model)
    model.model.multi_modal_projector.requires_grad_(True)
    return rank


def adapter_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """The layers that have an adapter, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def without_adapters(model: nn.Module) -> nn.Module:
    """The model with its adapters merged into the weights, which plain transformers loads; itself if it has none.

    With adapters it is a copy: to merge and to take out again is not exact.
    """
    if not adapter_layers(model):
        return model
    merged = copy.deepcopy(model)
    for name, layer in adapter_layers(merged).items():
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(merged.get_submodule(parent), child, layer.get_base_layer())
    return merged
