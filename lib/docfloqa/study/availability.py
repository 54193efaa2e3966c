"""Whether a model or data set is here, and if not, what is to be downloaded; nothing is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError, RevisionNotFoundError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import filter_repo_objects

from docfloqa.data.hub import MODEL_FILES, HubError, cached_snapshot, not_to_be_had, split_revision
from docfloqa.data.sources import HUB_FOLDERS, PARQUET_FILES, SPLITS, TRAINING_DATA
from docfloqa.data.synth.dataset import synth_folder
from docfloqa.files import folder_bytes, is_hub_id, resolve
from docfloqa.settings import Settings

PATIENCE = 5  # seconds for the hub to answer
# Where the hub does not tell. The model's is that of its weights, the data's that of training and validation.
DOWNLOADS = {
    "florence-community/Florence-2-base-ft": 463_178_864,
    "microsoft/Florence-2-base-ft": 463_221_266,
    TRAINING_DATA: 9_600_000_000,
}


@dataclass(frozen=True)
class Source:
    """A model or data set: its folder here, or else how many bytes are to be downloaded, or why it cannot be had."""

    name: str
    folder: Path | None = None
    download: int | None = None
    trouble: HubError | None = None
    commit: str | None = None

    @property
    def given(self) -> str | Path:
        """The name, or of what is the hub's, by whose name it might be downloaded, the folder."""
        return self.folder if self.commit else self.name

    def __str__(self) -> str:
        if self.commit:
            return f"{split_revision(self.name)[0]} at {self.commit}"
        return self.name if self.name == str(self.folder) else f"{self.name}, {self.folder}"

    def to_download(self) -> str | None:
        """What to tell of it where it is not here; raises its trouble."""
        if self.folder:
            return None
        much = f"{self.download / 1e9:.2g} GB" if self.download else "of unknown size"
        if self.trouble:
            raise HubError(f"{self.trouble}. It is {much}")
        repository, revision = split_revision(self.name)
        return f"{repository} at {revision} is not in the cache; make study downloads it, {much}"


def find_model(settings: Settings) -> Source:
    """The model of these settings."""
    return _find(settings.model, "model", [["config.json"], ["*.safetensors"]], MODEL_FILES)


def find_data(settings: Settings) -> dict[str, Source]:
    """The data of these settings, by split; drawn data is drawn."""
    names = {"train": settings.data, "validation": settings.validation_data or settings.data}
    found = {}
    for name in dict.fromkeys(names.values()):
        splits = [split for split in SPLITS if names[split] == name]
        source = Source(name, synth_folder(settings)) if name == "synth" else _find_data(name, splits)
        found |= dict.fromkeys(splits, source)
    return found


def _find_data(name: str, splits: Sequence[str]) -> Source:
    below = HUB_FOLDERS.get(split_revision(name)[0], ".")
    groups = [[str(Path(below, pattern.format(split=split))) for pattern in PARQUET_FILES] for split in splits]
    found = _find(name, "dataset", groups, [pattern for group in groups for pattern in group])
    return replace(found, folder=found.folder / below) if found.commit else found


def _find(name: str, kind: str, groups: Sequence[Sequence[str]], files: Sequence[str]) -> Source:
    """A local folder, or `files` of a hub's repository, of which every group of patterns is to match some."""
    source = resolve(name)
    if not is_hub_id(source):
        return Source(name, Path(source))
    folder = cached_snapshot(source, files, kind)
    if folder and all(any(any(folder.glob(pattern)) for pattern in group) for group in groups):
        return Source(name, folder, commit=folder.name)
    repository, revision = split_revision(source)
    try:
        info = HfApi().repo_info(repository, revision=revision, repo_type=kind, timeout=PATIENCE, files_metadata=True)
    except RevisionNotFoundError:
        trouble = f"{repository} has no revision {revision}; give {repository}@main, or another commit of it"
        return Source(name, trouble=HubError(trouble))
    except (OSError, ValueError, HTTPError) as error:
        return Source(name, None, DOWNLOADS.get(repository), trouble=not_to_be_had(source, files, kind, error))
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    lacking = [group for group in groups if not any(filter_repo_objects(sizes, allow_patterns=list(group)))]
    if sizes and lacking:
        trouble = f"{repository} has no {' or '.join(lacking[0])} at {revision}; give another revision or repository"
        return Source(name, trouble=HubError(trouble))
    wanted = sum(sizes[file] for file in filter_repo_objects(sizes, allow_patterns=list(files)))
    # What an interrupted download has left is not downloaded again.
    kept = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repository, repo_type=kind), "blobs")
    return Source(name, None, max(0, (wanted or DOWNLOADS.get(repository, 0)) - folder_bytes(kept)))
