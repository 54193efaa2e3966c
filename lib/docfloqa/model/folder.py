"""A model's files: found, checked, and known again, so that what was loaded once need not be loaded for its name."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from docfloqa.data.hub import MODEL_FILES, snapshot
from docfloqa.exceptions import ModelError
from docfloqa.files import check_files, check_folder, checksum, is_hub_id, nearest_path, remembered, resolve
from docfloqa.versions import TRAINING, version

CHECKSUMS = "SHA256SUMS"
PICKLES = (
    "folder {} has its weights in {} only: a pickle can run code when it is read, so only safetensors are. Take a "
    'revision of the model that has them, or convert the file in its folder with: python -c "'
    "import torch; from safetensors.torch import save_file; "
    "tensors = torch.load('{}', map_location='cpu', weights_only=True); "
    "save_file({{name: one.clone() for name, one in tensors.items()}}, 'model.safetensors')\""
)
# Of these the names and order of a model's tensors are.
PACKAGES = ("torch", "transformers")


def model_folder(model: str | Path) -> Path:
    """The folder of a model: a local one, or that of the hub's id `owner/name` or `owner/name@revision`.

    Raises `ModelError` or `DamagedError` for one that is incomplete or damaged, `HubError` for one that cannot be had.
    """
    source = resolve(model)
    folder = snapshot(source, MODEL_FILES) if is_hub_id(source) else Path(source)
    if not folder.is_dir():
        raise ModelError(
            "it is not a folder; give one written by save_pretrained or in Florence-2's original layout, or a hub "
            f"id such as 'florence-community/Florence-2-base-ft'{nearest_path(source)}"
        )
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise ModelError(PICKLES.format(folder, ", ".join(pickles), pickles[0]))
    for file in ("config.json", "*.safetensors"):
        if not any(folder.glob(file)):
            raise ModelError(f"folder {folder} has no {file}")
    # The checksums of the shipped model, or of a run's.
    with suppress(FileNotFoundError):
        sums = (line.split(maxsplit=1) for line in (folder / CHECKSUMS).read_text().splitlines())
        check_files(folder, {name: told for told, name in sums})
    with suppress(FileNotFoundError):
        check_folder(folder)
    return folder


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file that a model is loaded from, in the format of `sha256sum`."""
    files = sorted((*folder.glob("*.json"), *folder.glob("*.safetensors")))
    (folder / CHECKSUMS).write_text("".join(f"{checksum(file)}  {file.name}\n" for file in files))


def known_weights(model: str | Path, prefix: str, max_new_tokens: int, num_beams: int) -> str:
    """The `weights_checksum` of the model with which a run begins, loaded where it is new; raises what loading does."""

    def load() -> dict[str, str]:
        # They import torch and transformers, which take seconds.
        from docfloqa.model.florence import generation_config, load_florence, weights_checksum

        network, _ = load_florence(model, prefix)
        # Refused here, not in every run.
        generation_config(network, max_new_tokens, num_beams)
        return {"weights": weights_checksum(network)}

    try:
        folder = model_folder(model)
    except (OSError, ValueError):
        # Loading says what is wrong in words of its own.
        return load()["weights"]
    files = {path.name: checksum(path) for pattern in MODEL_FILES for path in sorted(folder.glob(pattern))}
    asked = [files, prefix, max_new_tokens, num_beams, TRAINING, *map(version, PACKAGES)]
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return remembered(f"weights-{name}", load)["weights"]
