"""Models and data of the hub come from its cache at one commit, without a network; what is not there is told.

The cache is filled by the hub's own client, with the commands that the errors tell, from a hub on this machine.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from hub_data import M4, PIXPARSE, write_data_set
from hub_server import served
from original_checkpoint import TASK_TOKENS, native_model, small_config, tensors, write

from docfloqa.data.hub import COMMIT, COMMITS, MODEL_FILES, REVISIONS, HubError, pinned, split_revision
from docfloqa.data.load import load_docvqa
from docfloqa.data.synth.dataset import synth_folder
from docfloqa.exceptions import DataError, ModelError
from docfloqa.files import TINY_MODEL, is_hub_id, reports_folder
from docfloqa.model.florence import load_florence
from docfloqa.model.folder import CHECKSUMS, model_folder
from docfloqa.settings import Settings
from docfloqa.study.examination import find
from docfloqa.study.workers import parameters

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no network."""
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home"


@pytest.fixture
def hub():
    """Repositories, folders by commit, and the address of a hub that serves them."""
    repositories, folders = {}, {}
    with served(repositories, folders) as address:
        yield repositories, folders, address


def download(error: Exception, address: str, cache: Path) -> None:
    """Run the command that an error tells, where there is a network."""
    command = re.search(r"(hf download .*?)\. It fills the cache", str(error))[1]
    program, *arguments = shlex.split(command)
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    hf = Path(sys.executable).with_name(program)
    subprocess.run([hf, *arguments], env=environment, check=True, capture_output=True)


@pytest.mark.parametrize("name", ["florence-community/Florence-2-base-ft", "someone/else", "someone/else@v1"])
def test_a_native_model_of_the_hub_loads_by_name_once_it_is_in_the_cache(name, hub, cache):
    repositories, folders, address = hub
    repository, revision = split_revision(name)
    commit = revision if COMMIT.fullmatch(revision) else FIRST
    repositories[f"models/{repository}"] = commit
    folders[commit] = TINY_MODEL
    with pytest.raises(ModelError, match=rf"{name}.*not in the hub's cache") as error:
        load_florence(name)
    assert not parameters(name)
    download(error.value, address, cache)
    assert parameters(name)
    model, processor = load_florence(name)
    local, _ = load_florence(TINY_MODEL)
    assert torch.equal(model.lm_head.weight, local.lm_head.weight)
    assert processor.image_token == "<image>"


def test_an_original_model_of_the_hub_loads_by_name_and_its_code_stays_there(hub, cache, tmp_path):
    repositories, folders, address = hub
    name = "microsoft/Florence-2-base-ft"
    words = 300
    native = native_model(small_config(words + len(TASK_TOKENS)))
    write(tmp_path / "original", native, tensors(native), words, 96)
    (tmp_path / "original" / "pytorch_model.bin").write_bytes(b"a pickle")
    commit = COMMITS[name]
    repositories[f"models/{name}"], folders[commit] = commit, tmp_path / "original"
    with pytest.raises(ModelError, match=f"--revision {commit}") as error:
        load_florence(name)
    download(error.value, address, cache)
    model, _ = load_florence(name, "none")
    assert torch.equal(model.lm_head.weight, native.lm_head.weight)
    [snapshot] = (cache / "hub" / "models--microsoft--Florence-2-base-ft" / "snapshots").iterdir()
    assert snapshot.name == commit
    assert {path.suffix for path in snapshot.iterdir()} == {".json", ".txt", ".safetensors"}
    assert all(path.is_symlink() for path in snapshot.iterdir())


@pytest.mark.parametrize(("name", "below"), [("someone/questions", "data"), ("lmms-lab/DocVQA", "DocVQA")])
def test_data_of_the_hub_loads_by_name_once_it_is_in_the_cache(name, below, hub, cache, tmp_path, output):
    repositories, folders, address = hub
    settings = Settings.profile("smoke", synth_documents=3, synth_validation_documents=3)
    commit = COMMITS.get(name, FIRST)
    repositories[f"datasets/{name}"], folders[commit] = commit, tmp_path / "dataset"
    for split in ("train", "validation"):
        shutil.copytree(synth_folder(settings, split), folders[commit] / below, dirs_exist_ok=True)
    (folders[commit] / below / "test-00000-of-00001.parquet").write_bytes(b"not wanted")
    (folders[commit] / "README.md").write_text("not wanted either")
    with pytest.raises(DataError, match=rf"{name}.*not in the hub's cache.*data/README\.md") as error:
        load_docvqa(settings.replace(data=name))
    download(error.value, address, cache)
    assert load_docvqa(settings.replace(data=name), "validation").to_dict() == (
        load_docvqa(settings, "validation").to_dict()
    )
    assert not [path for path in (cache / "hub").rglob("*") if path.name.startswith(("README", "test-"))]


@pytest.mark.parametrize("name", [M4, PIXPARSE])
def test_a_published_data_set_loads_by_name_without_its_test_files(name, hub, cache, tmp_path, output):
    repositories, folders, address = hub
    settings = Settings.profile("smoke", data=name)
    commit = COMMITS.get(name, FIRST)
    repositories[f"datasets/{name}"], folders[commit] = commit, tmp_path / "dataset"
    rows = write_data_set(folders[commit], name, drawing="input")
    with pytest.raises(DataError, match=f"{name}.*not in the hub's cache") as error:
        load_docvqa(settings)
    download(error.value, address, cache)
    dataset = load_docvqa(settings)
    assert {split: len(dataset[split]) for split in dataset} == {
        split: len(rows[split]) for split in ("train", "validation")
    }
    [snapshot] = (cache / "hub" / f"datasets--{name.replace('/', '--')}" / "snapshots").iterdir()
    assert snapshot.name == commit
    assert {path.name[: path.name.index("-0")] for path in snapshot.rglob("*.parquet")} == {"train", "validation"}


def test_a_study_keeps_the_commit_that_its_first_load_found(hub, cache, output):
    repositories, folders, address = hub
    settings = Settings.profile("smoke", model="someone/else", data="someone/questions@main")
    for kind in ("models/someone/else", "datasets/someone/questions"):
        repositories[kind] = FIRST
    folders[FIRST] = folders[SECOND] = TINY_MODEL
    with pytest.raises(HubError, match="someone/else") as no_model:
        pinned(settings)
    no_data = HubError("hf download someone/questions --repo-type dataset. It fills the cache")
    for error in (no_model.value, no_data):
        download(error, address, cache)
    first = pinned(settings)
    assert first.model == f"someone/else@{FIRST}" and first.data == f"someone/questions@{FIRST}"
    repositories["models/someone/else"] = SECOND
    download(no_model.value, address, cache)
    assert pinned(settings) == first and pinned(first) == first
    assert pinned(settings.replace(study="later")).model == f"someone/else@{SECOND}"
    kept = json.loads((reports_folder(settings.study) / REVISIONS).read_text())
    assert kept == {"model someone/else@main": FIRST, "dataset someone/questions@main": FIRST}


def test_what_has_a_commit_already_or_is_no_hub_id_asks_nobody(output):
    settings = Settings.profile("paper", model="microsoft/Florence-2-large-ft", data="synth")
    assert pinned(settings).model == f"microsoft/Florence-2-large-ft@{COMMITS[settings.model]}"
    local = Settings.profile("smoke")
    assert pinned(local) is local
    assert not reports_folder(settings.study).exists()


def test_what_the_cache_lacks_of_a_model_is_counted_and_left_there(hub, cache, monkeypatch):
    repositories, folders, address = hub
    model = Settings.profile("paper").model
    repository, commit = split_revision(model)
    repositories[f"models/{repository}"], folders[commit] = commit, TINY_MODEL
    url = address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": address, "HUGGINGFACE_CO_URL_TEMPLATE": url}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)

    def lacking() -> int:
        return find(model, [["*.safetensors"], MODEL_FILES]).download

    files = [file for file in TINY_MODEL.iterdir() if file.suffix in (".json", ".safetensors")]
    sizes = {file.name: file.stat().st_size for file in files}
    assert lacking() == sum(sizes.values()) and not list(cache.rglob("*.safetensors"))
    command = HubError(f"hf download {repository} config.json --revision {commit}. It fills the cache")
    download(command, address, cache)
    assert not parameters(model) and lacking() == sum(sizes.values()) - sizes["config.json"]
    download(HubError(str(command).replace("config.json ", "")), address, cache)
    assert parameters(model) and lacking() == 0


@pytest.mark.parametrize("name", ["a/b", "a/b@main", "a-b/c.d@refs/pr/6", "a/b@" + FIRST])
def test_hub_ids_may_name_a_revision(name):
    assert is_hub_id(name)
    assert split_revision(name)[0] == name.split("@")[0]


@pytest.mark.parametrize("name", ["a", "a/b/c", "/a/b", "a/b@", "a/b@-x", "../b", "a/b@x y", "a/b@x/../y"])
def test_what_is_no_hub_id_is_told(name):
    assert not is_hub_id(name)
    with pytest.raises(ModelError, match="is not a folder"):
        load_florence(name)


@pytest.fixture
def shipped(tmp_path) -> Path:
    return Path(shutil.copytree(TINY_MODEL, tmp_path / "florence2-tiny"))


def test_the_shipped_model_is_what_its_checksums_say():
    listed = {line.split()[1] for line in (TINY_MODEL / CHECKSUMS).read_text().splitlines()}
    loaded = {path.name for path in TINY_MODEL.iterdir() if path.suffix in (".json", ".safetensors")}
    assert listed == loaded
    assert model_folder(TINY_MODEL) == TINY_MODEL


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_one_changed_byte_of_a_model_with_checksums_is_noticed(shipped, name):
    content = bytearray((shipped / name).read_bytes())
    content[-2] ^= 1
    (shipped / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name} is damaged: it does not fit its checksum"):
        load_florence(shipped)


def test_a_missing_or_cut_file_is_named(shipped):
    (shipped / "generation_config.json").unlink()
    with pytest.raises(ModelError, match=r"generation_config\.json is missing"):
        load_florence(shipped)
    (shipped / CHECKSUMS).unlink()
    weights = shipped / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=r"florence2-tiny' cannot be loaded"):
        load_florence(shipped)
    weights.unlink()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        load_florence(shipped)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_no_code_that_comes_with_a_model_is_run(shipped, file):
    (shipped / CHECKSUMS).unlink()
    (shipped / "theirs.py").write_text("raise SystemExit('remote code was run')\n")
    names = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
    settings = json.loads((shipped / file).read_text())
    settings["auto_map"] = {name: "theirs.Theirs" for name in names}
    settings["auto_map"]["AutoTokenizer"] = ["theirs.Theirs", "theirs.Theirs"]
    (shipped / file).write_text(json.dumps(settings))
    try:
        load_florence(shipped)
    except ModelError as error:
        assert "trust_remote_code" in str(error)
