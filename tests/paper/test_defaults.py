"""`PROFILE=paper` with its defaults, from what the hub holds to the report and an exported model, without a network.

The cache is filled by the hub's own client with the read-me's two commands, from a hub on this machine. Files have the
real ones' structure (`tests/hub_models.py`, `tests/hub_data.py`), sizes are small.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hub_data import M4, write_data_set
from hub_models import NATIVE, random_florence, write_native
from hub_server import served
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from docfloqa.data.hub import COMMITS
from docfloqa.data.images import decode_page
from docfloqa.files import PROJECT
from docfloqa.settings import PROFILES, Settings

SIDE = 192  # pixels of a page; of 768, as published, takes the test of the base size
DOWNLOADS = r"^\.venv/bin/(hf download (?:florence-community|HuggingFaceM4)/.*)$"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A folder with a filled cache of the hub and room for the study."""
    root = tmp_path_factory.mktemp("defaults")
    repositories = {f"models/{NATIVE}": COMMITS[NATIVE], f"datasets/{M4}": COMMITS[M4]}
    folders = {commit: root / "served" / commit for commit in repositories.values()}
    write_native(folders[COMMITS[NATIVE]], random_florence(), SIDE)
    write_data_set(folders[COMMITS[M4]], M4)
    commands = re.findall(DOWNLOADS, (PROJECT / "docs" / "paper.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    with served(repositories, folders) as address:
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(root / "huggingface"),
            "HF_HUB_OFFLINE": "0",
        }
        for command in commands:
            program, *arguments = shlex.split(command)
            subprocess.run([Path(sys.executable).with_name(program), *arguments], env=environment, check=True)
    return root


@pytest.fixture(scope="module")
def docfloqa(root):
    """The command line, offline, with that cache."""
    offline = {"HF_HOME": str(root / "huggingface"), "HF_HUB_OFFLINE": "1", "HOME": str(root)}
    environment = {**os.environ, **offline, "DOCFLOQA_OUTPUT": str(root)}

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "docfloqa", *arguments]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout

    return run


@pytest.fixture(scope="module")
def study(root, docfloqa) -> dict[str, Path]:
    """The study that `make study PROFILE=paper ALLOW_CPU=1` makes: its runs by ratio."""
    docfloqa("study", "--profile", "paper", "--allow-cpu")
    return {path.name[:9]: path for path in (root / "reports/paper/runs").iterdir()}


def test_the_doctor_finds_everything_and_says_so(docfloqa):
    found = docfloqa("doctor", "--profile", "paper", "--allow-cpu")
    for said in (COMMITS[NATIVE], COMMITS[M4], "native", "label <s>", "</s> after </s>"):
        assert said in found, found
    assert found.rstrip().endswith("ok")


def test_every_ratio_is_made_with_the_published_settings(study):
    assert set(study) == {"vision000", "vision033", "vision066", "vision100"}
    for folder in study.values():
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "complete"
        settings = Settings.from_dict(record["settings"])
        for name, value in PROFILES["paper"].items():
            if name not in ("model", "data", "allow_cpu"):
                assert getattr(settings, name) == value, name
        assert settings.model == f"{NATIVE}@{COMMITS[NATIVE]}" and settings.data == f"{M4}@{COMMITS[M4]}"
        epochs = pd.read_csv(folder / "epochs.csv")
        assert epochs["epoch"].tolist() == list(range(9)) and epochs["val_loss"].notna().all()


def test_the_report_is_there(root, study):
    for name in ("01_explore_data", "03_ablate", "04_analyze"):
        for kind in ("ipynb", "html", "pdf"):
            assert (root / "reports/paper" / f"{name}.{kind}").stat().st_size > 1000


def test_plain_transformers_gives_the_answers_that_the_score_was_made_from(root, study, docfloqa):
    docfloqa("export", "paper/vision100", str(root / "mine"))
    model = Florence2ForConditionalGeneration.from_pretrained(root / "mine", dtype="float32")
    processor = AutoProcessor.from_pretrained(root / "mine", backend="pil")
    record = json.loads((study["vision100"] / "run.json").read_text())
    predictions = pd.read_parquet(study["vision100"] / "predictions.parquet")
    best = predictions[predictions["epoch"] == record["best_epoch"]].set_index("question_id")["prediction"]
    [snapshot] = (root / "huggingface/hub" / f"datasets--{M4.replace('/', '--')}" / "snapshots").iterdir()
    rows = pd.concat([pd.read_parquet(file) for file in sorted(snapshot.glob("data/validation-*.parquet"))])
    for row in rows.to_dict("records"):
        page = decode_page(row["image"]["bytes"])
        inputs = processor(text=f"<DocVQA>{row['question']}", images=page, return_tensors="pt")
        [tokens] = model.generate(**inputs)
        answer = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert answer == best[str(row["questionId"])]
