"""What makes a run the run that it is, as checksums: settings, code, starting weights, data, versions."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docfloqa.paths import NOTEBOOKS
from docfloqa.settings import Settings
from docfloqa.targets import target_format

if TYPE_CHECKING:
    from torch import nn

# What a run's results depend on; a test compares this with what the training code really imports.
RUN_MODULES = (
    "batches cuda_graphs data device disk evaluation fields florence freezing full_pages hub identity integrity "
    "locks lora metrics micro_batches model_folders original_layout page_images pages parameters paths phrases "
    "progress ranks records recovery runs schema settings sources synth targets training training_arguments "
    "vision_cache"
).split()
RUN_NOTEBOOK = "02_finetune.ipynb"
IDENTIFYING_VERSIONS = ("torch", "transformers")
# These say where and whether a run is made, not what it computes.
SETTINGS_WITHOUT_EFFECT = ("study", "cache_gib", "allow_cpu")


def code_checksum() -> str:
    """A checksum of the code that a run executes; comments, docstrings and layout do not count."""
    modules = (Path(__file__).parent / f"{name}.py" for name in RUN_MODULES)
    return _checksum_of(*(path.read_text() for path in (*modules, NOTEBOOKS / RUN_NOTEBOOK)))


# Every planned run asks, and to take the code apart takes a tenth of a second.
@functools.lru_cache(maxsize=1)
def _checksum_of(*texts: str) -> str:
    *modules, notebook = texts
    digest = hashlib.sha256()
    for text in modules:
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
                and ast.get_docstring(node) is not None
            ):
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(ast.unparse(tree).encode())
    for cell in json.loads(notebook)["cells"]:
        if cell["cell_type"] == "code" and "parameters" not in cell["metadata"].get("tags", []):
            digest.update("".join(cell["source"]).encode())
    return digest.hexdigest()


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
    """Everything that makes a run the run that it is: settings, code, starting weights, data, versions."""
    effective = {
        name: value for name, value in settings.to_dict().items() if name not in SETTINGS_WITHOUT_EFFECT
    }
    return {
        "settings": effective,
        "code": code_checksum(),
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
