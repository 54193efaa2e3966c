"""Models and data sets of the Hugging Face hub, each at one commit: from its cache, or downloaded."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HTTPError

from docfloqa.data.importing.kinds import patterns
from docfloqa.data.schema import SPLITS
from docfloqa.exceptions import DataError, DocFloQAError
from docfloqa.files import is_hub_id, reports_folder, resolve, write_whole
from docfloqa.settings import Settings

# What other projects publicly pin; none of them could be compared with the hub itself. HuggingFaceM4/DocumentVQA was
# uploaded in two commits, of which 695cc83 is the first: it lacks the last validation files.
COMMITS = {
    "florence-community/Florence-2-base-ft": "0b03b6f15a4a211370fb204aee4e7dd48887ea37",
    "florence-community/Florence-2-large-ft": "26b734a54fdfbf9c398351eedfabb7f27fc470b7",
    "microsoft/Florence-2-base-ft": "f6c1a25888ffc1d945ee8a1a77ac833c7303d46e",
    "microsoft/Florence-2-large-ft": "4a12a2b54b7016a48a22037fbd62da90cd566f2a",
    "HuggingFaceM4/DocumentVQA": "a44195f8f989c10d06ab4ccc98ffe9cdb6d928e4",
    "lmms-lab/DocVQA": "539088ef8a8ada01ac8e2e6d4e372586748a265e",
}
# Neither the code of a repository nor its pickles are so much as downloaded.
MODEL_FILES = ("*.json", "*.txt", "*.safetensors")
# lmms-lab/DocVQA holds two data sets; its card lists no training split, and its test answers are empty.
HUB_FOLDERS = {"lmms-lab/DocVQA": "DocVQA"}
REVISIONS = "revisions.json"
COMMIT = re.compile(r"[0-9a-f]{40}")


class HubError(DocFloQAError, ValueError):
    """A repository that is neither in the hub's cache nor to be had: says what to download, and where to put it."""


def split_revision(name: str) -> tuple[str, str]:
    """Repository and revision of `owner/name` or `owner/name@revision`; `COMMITS` and then "main" are the default."""
    repository, _, revision = name.partition("@")
    return repository, revision or COMMITS.get(repository, "main")


def snapshot(name: str, files: Sequence[str], kind: str = "model") -> Path:
    """The folder of a repository at one commit, its name, with the files that match `files`.

    `name` is `owner/name` or `owner/name@revision`, `kind` "model" or "dataset". What the hub's cache has is not
    downloaded again; without a network the cache is all there is. Raises `HubError` when it lacks the repository.
    """
    try:
        return _snapshot(name, files, kind)
    except (OSError, ValueError, HTTPError) as error:
        raise not_to_be_had(name, files, kind, error) from error


def data_snapshot(name: str, splits: Sequence[str] = SPLITS) -> Path:
    """The folder with the parquet files of these splits of a hub's data set; raises `DataError`."""
    below = HUB_FOLDERS.get(split_revision(name)[0], ".")
    wanted = [str(Path(below, pattern)) for split in splits for pattern in patterns(split)]
    try:
        return snapshot(name, wanted, "dataset") / below
    except HubError as error:
        raise DataError(f"data set {name!r} cannot be had: {error} as data; see data/README.md") from error


def cached_snapshot(name: str, files: Sequence[str], kind: str = "model") -> Path | None:
    """The folder of `snapshot` (same arguments) if the hub's cache has it; never asks the hub.

    Which files a repository has the cache knows only if the hub's client filled it: some may be missing.
    """
    try:
        return _snapshot(name, files, kind, local_files_only=True)
    except FileNotFoundError:
        return None


def _snapshot(name: str, files: Sequence[str], kind: str, **how: bool) -> Path:
    repository, revision = split_revision(name)
    return Path(snapshot_download(repository, repo_type=kind, revision=revision, allow_patterns=list(files), **how))


def not_to_be_had(name: str, files: Sequence[str], kind: str, why: Exception) -> HubError:
    """What to tell of a repository (arguments as of `snapshot`) that the hub does not give for this reason."""
    repository, revision = split_revision(name)
    kept = "".join(f" --include '{pattern}'" for pattern in files)
    type_of = f" --repo-type {kind}" if kind != "model" else ""
    return HubError(
        f"{name} is not in the hub's cache, {constants.HF_HUB_CACHE}, and cannot be downloaded "
        f"({(str(why) or type(why).__name__).splitlines()[0]}). Where there is a network, run: "
        f"hf download {repository}{type_of} --revision {revision}{kept}. It fills the cache in $HF_HOME/hub "
        "(~/.cache/huggingface/hub): copy that here, or download with --local-dir FOLDER and give the folder"
    )


def pinned(settings: Settings) -> Settings:
    """The settings with a commit in every hub id, asked once in a study and kept; `HubError` where nobody knows it."""
    memory = reports_folder(settings.study) / REVISIONS
    commits = json.loads(memory.read_text()) if memory.is_file() else {}
    changes = {}
    for field, kind in (("model", "model"), ("data", "dataset"), ("validation_data", "dataset")):
        name = getattr(settings, field)
        if name is None or not is_hub_id(resolve(name)):
            continue
        repository, revision = split_revision(name)
        if not COMMIT.fullmatch(revision):
            key = f"{kind} {repository}@{revision}"
            if key not in commits:
                # No file is wanted: the folder's name is the commit.
                commits[key] = snapshot(name, (), kind).name
                write_whole(memory, json.dumps(commits, indent=2))
            revision = commits[key]
        changes[field] = f"{repository}@{revision}"
    return settings.replace(**changes) if changes else settings
