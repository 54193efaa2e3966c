"""What makes a run the run that it is: settings, starting weights, data, versions of the code and of packages."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from docfloqa.model.targets import target_format
from docfloqa.settings import Settings
from docfloqa.versions import PAGES, TRAINING

if TYPE_CHECKING:
    from torch import nn

IDENTIFYING_VERSIONS = ("torch", "transformers")
# These say where and whether a run is made, not what it computes.
SETTINGS_WITHOUT_EFFECT = ("study", "cache_gib", "allow_cpu")


def weights_checksum(model: nn.Module) -> str:
    """A checksum of every tensor of the model, by name, and of what begins its targets where something does."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    # Without a model's own start, what it is called is what it was called before there were any.
    if start := target_format(model).start:
        digest.update(json.dumps(start).encode())
    return digest.hexdigest()


def identity(settings: Settings, weights: str, data: str) -> dict[str, Any]:
    """Everything that makes a run the run that it is."""
    effective = {name: value for name, value in settings.to_dict().items() if name not in SETTINGS_WITHOUT_EFFECT}
    return {
        "settings": effective,
        "training": TRAINING,
        "pages": PAGES,
        "weights": weights,
        "data": data,
        "versions": {package: version(package) for package in IDENTIFYING_VERSIONS},
    }


def run_id(settings: Settings, weights: str, data: str) -> str:
    """The name of a run's folder: ratio and seed for people, then a checksum of its `identity`."""
    content = json.dumps(identity(settings, weights, data), sort_keys=True)
    checksum = hashlib.sha256(content.encode()).hexdigest()[:10]
    earlier = "".join(f"after{100 * ratio:03.0f}-" for ratio in settings.trained_before)
    return f"{earlier}vision{100 * settings.vision_trainable:03.0f}-seed{settings.seed}-{checksum}"
