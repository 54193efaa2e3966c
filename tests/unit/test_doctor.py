"""What is told before a study begins: each trouble on a line of its own, the others all the same; no download."""

import json
import re
import shutil
import warnings
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_data import M4, write_data_set
from hub_models import NATIVE, ORIGINAL, random_florence, write_native, write_original
from huggingface_hub.errors import RevisionNotFoundError
from PIL import Image

from docfloqa.cli import main
from docfloqa.data import hub
from docfloqa.data.hub import COMMITS
from docfloqa.data.synth.dataset import synth_folder
from docfloqa.exceptions import StudyError
from docfloqa.files import TINY_MODEL, reports_folder, runs_folder
from docfloqa.model.device import require_device
from docfloqa.settings import Settings
from docfloqa.study import doctor, examination
from docfloqa.study.doctor import SUBJECTS, Finding, check_study, examine, verdict


@pytest.fixture(autouse=True)
def no_download(monkeypatch):
    """The hub's client looks into the cache only; the kernel is this process."""
    client = hub.snapshot_download

    def only_looks(*arguments, **options):
        assert options.get("local_files_only"), "this would download"
        return client(*arguments, **options)

    monkeypatch.setattr(hub, "snapshot_download", only_looks)
    monkeypatch.setattr(examination, "kernel_device", lambda settings, _: require_device(settings))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, and no network."""
    assert huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def paper() -> Settings:
    """The paper profile in short, on a CPU."""
    return Settings.profile("paper", allow_cpu=True, max_new_tokens=4)


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    assert [finding.subject for finding in findings] == SUBJECTS
    return {finding.subject: finding for finding in findings}


def the_one_thing_to_do(findings: list[Finding]) -> Finding:
    [wrong] = [finding for finding in findings if finding.to_do]
    assert verdict(findings).endswith("\nnot ok: 1 thing to do, marked with ->")
    assert verdict(findings).count("-> ") == 1
    return wrong


def untried(findings: list[Finding]) -> set[str]:
    return {finding.subject for finding in findings if finding.found.startswith("not tried: ")}


def in_cache(cache: Path, kind: str, name: str) -> Path:
    """The folder that the hub's client would have filled."""
    return cache / f"{kind}--{name.replace('/', '--')}" / "snapshots" / COMMITS[name]


@pytest.mark.long
def test_all_is_well_with_the_smoke_profile(output, capfd, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(output))
    assert main(["doctor", "--profile", "smoke", "--json"]) == 0
    told = capfd.readouterr()
    assert told.err == "", "bars, warnings or a kernel's log"
    found = json.loads(told.out)
    assert found["ok"] and [one["subject"] for one in found["findings"]] == SUBJECTS
    lines = {one["subject"]: one["found"] for one in found["findings"]}
    assert all(one["to_do"] is None for one in found["findings"])
    assert lines["kernel"].startswith("python3 answers: ") and "not asked" in lines["hub"]
    assert lines["model"] == f"data/florence2-tiny, {TINY_MODEL}, as its checksums say: native layout, " + (
        "2,455,712 parameters"
    )
    assert "train: 35 of 35 questions used, on 8 pages of 8 documents" in lines["data"]
    assert "prompt <image> x 101 <s><DocVQA>" in lines["question"] and "before training: answer" in (lines["question"])
    assert not reports_folder("smoke").exists()


def test_the_verdict_is_the_last_line(smoke):
    findings = examine(smoke)
    assert verdict(findings).splitlines()[-1] == "ok"
    assert "\n            label " in verdict(findings), "further lines stand below the first"


def test_a_model_that_is_not_there(smoke):
    findings = examine(smoke.replace(model="./none"))
    wrong = the_one_thing_to_do(findings)
    assert wrong.subject == "model" and "model './none' cannot be loaded: it is not a folder" in wrong.to_do
    assert untried(findings) == {"question"}
    assert "8 pages" in by_subject(findings)["data"].found


def test_a_damaged_model(smoke, tmp_path):
    folder = Path(shutil.copytree(TINY_MODEL, tmp_path / "damaged"))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-2] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    wrong = the_one_thing_to_do(examine(smoke.replace(model=str(folder))))
    assert wrong.subject == "model" and "model.safetensors is damaged: it does not fit its checksum" in wrong.to_do


def test_a_tokenizer_of_another_checkpoint(smoke, tiny, monkeypatch):
    tiny[0].config.image_token_id += 1
    monkeypatch.setattr(examination, "load_florence", lambda *_: tiny)
    wrong = the_one_thing_to_do(examine(smoke, subjects=["model", "question"]))
    assert wrong.subject == "model" and "take tokenizer and weights of one checkpoint" in wrong.to_do


@pytest.mark.parametrize(("start", "begin"), [(0, "<s>"), (None, "")])
def test_what_a_target_begins_with_is_seen(start, begin, smoke, tiny, monkeypatch):
    """Where decoding forces what the labels lack, a model learns to answer nothing, and no error says so."""
    tiny[0].generation_config.forced_bos_token_id = start
    monkeypatch.setattr(examination, "load_florence", lambda *_: tiny)
    shown = examine(smoke, subjects=["model", "data", "question"])[-1].found
    [(label, answer)] = re.findall(r"^label (.*) after </s>, accepted: '(.*?)'", shown, re.MULTILINE)
    assert label == f"{begin}{answer}</s>"


@pytest.mark.parametrize("split", ["train", "validation"])
def test_data_without_a_split(split, smoke, tmp_path):
    (other,) = {"train", "validation"} - {split}
    folder = Path(shutil.copytree(synth_folder(smoke, other), tmp_path / "mine"))
    findings = examine(smoke.replace(data=str(folder)))
    wrong = the_one_thing_to_do(findings)
    assert wrong.subject == "data" and f"has no {split}-*.parquet" in wrong.to_do
    assert untried(findings) == {"question"}


def test_damaged_data(smoke, tmp_path, monkeypatch):
    for split in ("train", "validation"):
        folder = Path(shutil.copytree(synth_folder(smoke, split), tmp_path / "mine", dirs_exist_ok=True))
    [file] = folder.glob("train*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    for small in (examination.SMALL, 0):
        monkeypatch.setattr(examination, "SMALL", small)
        wrong = the_one_thing_to_do(examine(smoke.replace(data=str(folder))))
        assert wrong.subject == "data" and "cannot be read" in wrong.to_do


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "image", [{"bytes": b"no image", "path": None}, {"bytes": None, "path": "page.png"}, {"bytes": b"", "path": None}]
)
def test_a_first_row_that_cannot_be_used_is_passed_over(image, large, smoke, tmp_path, monkeypatch):
    for split in ("train", "validation"):
        shutil.copy(next(synth_folder(smoke, split).glob("*.parquet")), tmp_path / f"{split}.parquet")
    Image.new("RGB", (9, 9)).save(tmp_path / "page.png")
    rows = pq.read_table(tmp_path / "validation.parquet").to_pylist()
    rows[0]["image"] = image | ({"path": str(tmp_path / "page.png")} if image["path"] else {})
    schema = pq.read_schema(tmp_path / "validation.parquet")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "validation.parquet")
    if large:
        monkeypatch.setattr(examination, "SMALL", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        findings = by_subject(examine(smoke.replace(data=str(tmp_path))))
    assert not any(finding.to_do for finding in findings.values())
    assert rows[1]["question"] in findings["question"].found


def test_more_new_tokens_than_positions(smoke):
    findings = examine(smoke.replace(max_new_tokens=300))
    wrong = the_one_thing_to_do(findings)
    assert wrong.subject == "question" and "max_new_tokens is 300; this model has 256 positions" in wrong.to_do


def test_no_gpu_where_one_is_wanted(smoke, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    findings = examine(smoke.replace(allow_cpu=False))
    wrong = the_one_thing_to_do(findings)
    assert wrong.subject == "kernel" and not untried(findings)
    assert "Choose a kernel with a GPU (KERNEL=...), or go on all the same" in wrong.to_do


def test_a_kernel_that_does_not_exist(smoke, monkeypatch):
    monkeypatch.undo()
    wrong = the_one_thing_to_do(examine(smoke, "none"))
    assert wrong.subject == "kernel" and "kernel 'none' does not exist; kernels here are" in wrong.to_do


def test_a_disk_that_is_too_small(smoke, monkeypatch):
    smoke = smoke.replace(study="too-large")
    monkeypatch.setattr("docfloqa.files.shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    findings = examine(smoke)
    wrong = the_one_thing_to_do(findings)
    assert wrong.subject == "disk" and not untried(findings)
    assert "written by one run needs 74.9 MiB more" in wrong.to_do and "1.0 MiB are free" in wrong.to_do
    # What is there in part is not asked for again.
    (runs_folder(smoke.study) / "begun").mkdir(parents=True)
    assert verdict(examine(smoke)).endswith("\nok")


def test_the_disk_is_asked_for_all_runs(smoke, monkeypatch):
    smoke = smoke.replace(study="many")
    of = ["model", "disk"]
    one, twelve = (examine(smoke, subjects=of, runs=runs)[-1] for runs in (1, 12))
    kept = 2 * 4 * 2_455_712 / 2**20
    few, many = (float(re.search(r"runs? takes? up to ([\d.]+) MiB", shown.found)[1]) for shown in (one, twelve))
    assert many - few == pytest.approx(11 * kept, abs=0.2)
    assert f"{kept:.1f} MiB of it kept of each" in twelve.found
    monkeypatch.setattr("docfloqa.files.shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    for place in range(2):
        (runs_folder("many") / f"begun{place}").mkdir(parents=True)
    short = examine(smoke, subjects=of, runs=12)[-1]
    assert f"written by 12 runs needs {10 * kept:.1f} MiB more" in short.to_do, "two are there"


def test_a_gpu_too_small_and_a_fault_of_ours(smoke, monkeypatch):
    def faulty(*_):
        raise KeyError("ours")

    monkeypatch.setattr(examination, "evaluate", faulty)
    findings = examine(smoke)
    wrong = the_one_thing_to_do(findings)
    assert wrong.subject == "question"
    assert wrong.to_do.startswith("KeyError: 'ours' (test_doctor.py, line ")
    assert wrong.to_do.endswith("; please report this output") and not untried(findings)

    def too_large(*_):
        raise examination.torch.OutOfMemoryError("20 MiB")

    monkeypatch.setattr(examination, "evaluate", too_large)
    assert "memory of the GPU" in the_one_thing_to_do(examine(smoke)).to_do


def test_an_empty_cache_without_a_network(paper, cache):
    found = by_subject(examine(paper))
    wrong = {subject: finding.to_do for subject, finding in found.items() if finding.to_do}
    assert set(wrong) == {"model", "data"}
    for subject, name in (("model", NATIVE), ("data", M4)):
        assert f"hf download {name}" in wrong[subject] and f"--revision {COMMITS[name]}" in wrong[subject]
    assert "HF_HUB_OFFLINE is set" in found["hub"].found
    # As Florence-2-base on DocVQA.
    assert "; one run takes up to 9.5 GiB" in found["disk"].found
    assert not cache.exists()


@pytest.fixture
def listed(monkeypatch) -> dict[str, dict[str, int]]:
    """A hub that answers: files and their sizes by repository; None where the revision is unknown."""
    files: dict[str, dict[str, int] | None] = {
        NATIVE: {"config.json": 5, "model.safetensors": 463_178_864, "pytorch_model.bin": 10**9},
        M4: {"data/train-00000-of-00001.parquet": 8 * 10**9, "data/validation-00000-of-00001.parquet": 10**9}
        | {"data/test-00000-of-00001.parquet": 10**9},
    }

    def dry_run(name, revision, allow_patterns, **options):
        assert options["dry_run"] and revision == COMMITS[name]
        if files[name] is None:
            raise RevisionNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
        return [
            SimpleNamespace(filename=file, file_size=size, will_download=True)
            for file, size in files[name].items()
            if any(fnmatch(file, pattern) for pattern in allow_patterns)
        ]

    monkeypatch.setattr(examination, "snapshot_download", dry_run)
    return files


def test_what_the_hub_would_give_is_told_and_left_there(paper, cache, listed):
    findings = examine(paper)
    found = by_subject(findings)
    assert verdict(findings).endswith("\nok")
    assert found["model"].found == f"{NATIVE} at {COMMITS[NATIVE]} is not in the cache; make study downloads it, " + (
        "0.46 GB"
    )
    assert found["data"].found.endswith("make study downloads it, 9 GB"), "without the test files"
    assert "answers" in found["hub"].found and "for 8.8 GiB to download" in found["disk"].found
    assert untried(findings) == {"question"} and not cache.exists()


def test_a_disk_too_small_for_the_download_is_told_before_it(paper, cache, listed, monkeypatch):
    free = 15 * 2**30
    monkeypatch.setattr("docfloqa.files.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    wrong = the_one_thing_to_do(examine(paper))
    assert wrong.subject == "disk" and "written by one run needs 26.7 GiB" in wrong.to_do
    monkeypatch.setattr("docfloqa.files.shutil.disk_usage", lambda _: SimpleNamespace(free=2**30))
    assert "the download to HF_HOME needs 8.8 GiB" in the_one_thing_to_do(examine(paper)).to_do


def test_what_the_hub_does_not_have_is_told_before_a_download(paper, cache, listed):
    listed[NATIVE] = None
    del listed[M4]["data/train-00000-of-00001.parquet"]
    found = by_subject(examine(paper))
    assert "cannot be downloaded (404). Where" in found["model"].to_do and COMMITS[NATIVE] in found["model"].to_do
    assert f"{M4} has no train-*.parquet or train.parquet or data/train-*.parquet" in found["data"].to_do


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A cache with the replicas of what the paper profile names, and the model in the original layout."""
    cache = tmp_path_factory.mktemp("published")
    model = random_florence()
    write_native(in_cache(cache, "models", NATIVE), model, 96)
    write_original(in_cache(cache, "models", ORIGINAL), model, 96)
    write_data_set(in_cache(cache, "datasets", M4), M4, drawing="input")
    return cache


@pytest.mark.parametrize(("name", "layout"), [(NATIVE, "native"), (ORIGINAL, "original")])
def test_a_filled_cache_is_looked_through(name, layout, paper, published, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(published))
    findings = examine(paper.replace(model=name))
    found = {subject: finding.found for subject, finding in by_subject(findings).items()}
    assert verdict(findings).endswith("\nok"), verdict(findings)
    assert found["hub"] == f"not asked: all is here, or in the cache, {published}"
    assert f"{COMMITS[name]}: {layout} layout, " in found["model"]
    assert f"{COMMITS[M4]}\ncolumns questionId, question, question_types, image" in found["data"]
    assert "label <s>" in found["question"] and "</s> after </s>, accepted: " in found["question"]


def test_large_data_is_counted_without_its_images(paper, published, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(published))
    checked = by_subject(examine(paper))["data"].found
    monkeypatch.setattr(examination, "SMALL", 0)
    monkeypatch.setattr(examination, "load_checked", None)
    counted = by_subject(examine(paper))["data"].found
    assert re.sub("questions used, on .* documents", "questions, not checked yet", checked) == counted


def test_a_study_stops_before_any_work_where_something_is_to_be_done(output, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "in_own_process", lambda function, *given: function(*given))
    monkeypatch.setattr("docfloqa.study.study.execute", None)
    assert main(["study", "--profile", "smoke", "--name", "broken", "--model", "./none"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "error: this study cannot be made here as it is" in told.err
    assert "-> model './none' cannot be loaded" in told.err
    assert told.err.rstrip().endswith("not ok: 1 thing to do, marked with ->")
    assert not reports_folder("broken").exists()


def test_a_study_on_a_cluster_does_not_want_a_gpu_here(smoke, monkeypatch):
    monkeypatch.setattr(doctor, "in_own_process", lambda function, *given: function(*given))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = smoke.replace(allow_cpu=False, model="./none")
    for scheduler, told in ((None, 2), ("tcp://host:8786", 1)):
        with pytest.raises(StudyError) as error:
            check_study(settings, scheduler=scheduler)
        assert str(error.value).count("-> ") == told


def test_the_embedded_study_does_not_wait(smoke, monkeypatch):
    monkeypatch.setattr(doctor, "examine", None)
    monkeypatch.setattr(doctor, "in_own_process", None)
    check_study(smoke)
    check_study(Settings.profile("embedded", validation_data="synth"))


def test_findings_are_told_without_control_characters():
    told = str(Finding("model", "a\x1b[31m\nb", "c\nd"))
    assert told == f"model{' ' * 7}a\ufffd[31m\n{' ' * 12}b\n{' ' * 12}-> c d"


def test_the_data_of_a_study_with_folds_are_those_of_a_fold(output):
    """Every study looks at its data before; with folds this one was refused for what the look itself had set."""
    folder = str(synth_folder(Settings.profile("smoke"), "train").parent)
    Path(folder, "both").mkdir()
    for split in ("train", "validation"):
        for file in synth_folder(Settings.profile("smoke"), split).glob("*.parquet"):
            shutil.copy(file, Path(folder, "both"))
    settings = Settings.profile("own", data=str(Path(folder, "both")), model="data/florence2-tiny", folds=3)
    [found] = [one for one in examine(settings, subjects=["data"]) if one.subject == "data"]
    assert not found.to_do and re.search(r"of 8 documents\n.*of 4 documents", found.found, re.S), found
