"""The folder that a model is loaded from, local or the hub's, checked before anything in it is used."""

from __future__ import annotations

import hashlib
from pathlib import Path

from docfloqa.files import is_hub_id, resolve
from docfloqa.hub import MODEL_FILES, snapshot

CHECKSUMS = "SHA256SUMS"
TO_SAFETENSORS = (
    "import torch; from safetensors.torch import save_file; "
    "tensors = torch.load('{pickle}', map_location='cpu', weights_only=True); "
    "save_file({{name: one.clone() for name, one in tensors.items()}}, 'model.safetensors')"
)


class ModelError(ValueError):
    """A model that cannot be loaded, with where it was looked for and what to do."""


def model_folder(model: str | Path) -> Path:
    """The folder of a model: a local one, or that of the hub's id `owner/name` or `owner/name@revision`.

    Raises `ModelError` for what is neither, for a folder without config.json or safetensors, and for files that
    are not those of its checksums; `HubError` for a repository that cannot be had.
    """
    source = resolve(model)
    folder = snapshot(source, MODEL_FILES) if is_hub_id(source) else Path(source)
    if not folder.is_dir():
        raise ModelError(
            "it is not a folder; give one written by save_pretrained or in Florence-2's original layout, or a hub "
            "id such as 'florence-community/Florence-2-base-ft'"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"folder {folder} has no config.json")
    _require_safetensors(folder)
    verify_checksums(folder)
    return folder


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file that a model is loaded from, in the format of `sha256sum`."""
    files = sorted((*folder.glob("*.json"), *folder.glob("*.safetensors")))
    (folder / CHECKSUMS).write_text("".join(f"{_sha256(file)}  {file.name}\n" for file in files))


def verify_checksums(folder: Path) -> None:
    """Compare a folder with its checksums where it has any; raises `ModelError` for the first file that differs."""
    checksums = folder / CHECKSUMS
    for line in checksums.read_text().splitlines() if checksums.is_file() else ():
        expected, name = line.split(maxsplit=1)
        found = _sha256(folder / name) if (folder / name).is_file() else "no file"
        if found != expected:
            raise ModelError(
                f"{folder / name} was changed or damaged: {CHECKSUMS} expects SHA-256 {expected}, found was {found}"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if not pickles:
        raise ModelError(f"folder {folder} has no *.safetensors")
    command = TO_SAFETENSORS.format(pickle=pickles[0])
    raise ModelError(
        f"folder {folder} has its weights in {', '.join(pickles)} only: a pickle can run code when it is read, so "
        "only safetensors are. Take a revision of the model that has them, or convert the file in its folder with: "
        f'python -c "{command}"'
    )
