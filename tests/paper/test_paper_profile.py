"""A model of Florence-2-base's size, from Microsoft's layout through the paper profile to an exported model."""

import json
import os
import resource
import subprocess
import sys

import pandas as pd
import pytest
import torch
from original_checkpoint import BART_WORDS, native_processor
from safetensors.torch import load_file
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from docfloqa.data.synth.dataset import write_split
from docfloqa.model.florence import encode_prompts, load_florence

BASE_PARAMETERS = 231_414_784
WIDTH = 768
VISION_PARAMETERS = 90_368_000
MEMORY = 12  # GiB


def test_a_base_size_checkpoint_is_converted_to_the_native_model_that_it_came_from(native, original, tmp_path):
    model, processor = load_florence(original, "none")
    assert model.num_parameters() == native.num_parameters() == BASE_PARAMETERS
    theirs = native_processor(BART_WORDS, 768)
    prompts = [encode_prompts(one, ["What is the date?"], "none", 1024) for one in (processor, theirs)]
    assert prompts[0] == prompts[1] and prompts[0][0][:577] == [51289] * 577
    inputs = {
        "input_ids": torch.tensor(prompts[0]),
        "pixel_values": torch.randn(1, 3, 768, 768),
        "decoder_input_ids": torch.tensor([[2, 0, 713, 16]]),
    }
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, native(**inputs).logits)
    del model
    with_prefix, processor = load_florence(original)
    with_prefix.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load_florence(tmp_path)
    for one in (with_prefix, again):
        assert one.num_parameters() == BASE_PARAMETERS + WIDTH
        assert one.lm_head.weight is one.get_input_embeddings().weight
        assert one.model.language_model.decoder.embed_tokens.weight is one.lm_head.weight


@pytest.fixture(scope="module")
def study(original, tmp_path_factory):
    """Two ratios for an epoch on drawn full-size pages; one core, so that one run at a time is made."""
    root = tmp_path_factory.mktemp("study")
    (root / "scans").mkdir()
    for split in ("train", "validation"):
        write_split(root / "scans", split, "full", seed=1, documents=2)
    environment = {**os.environ, "DOCFLOQA_OUTPUT": str(root), "HF_HUB_OFFLINE": "1", "HOME": str(root)}

    def docfloqa(*arguments: str) -> subprocess.CompletedProcess:
        core = min(os.sched_getaffinity(0))
        return subprocess.run(
            [sys.executable, "-m", "docfloqa", *arguments],
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )

    few = "--epochs 1 --train-questions 6 --max-new-tokens 8"
    what = f"--profile paper --model {original} --data {root / 'scans'} --ratios 0 1 --name paper --allow-cpu"
    docfloqa("study", *what.split(), *few.split(), "--json")
    return root, docfloqa


def test_the_paper_profile_is_made_to_the_end(study, original):
    root, _ = study
    runs = {path.name[:9]: path for path in (root / "reports/paper/runs").iterdir()}
    assert set(runs) == {"vision000", "vision100"}
    start = load_florence(original)[0].state_dict()
    for name, trainable in (("vision000", 0), ("vision100", VISION_PARAMETERS)):
        record = json.loads((runs[name] / "run.json").read_text())
        assert record["status"] == "complete"
        assert record["freezing"]["trainable_vision_parameters"] == trainable
        settings = record["settings"]
        assert (settings["batch_size"], settings["num_beams"], settings["learning_rate"]) == (6, 3, 1e-6)
        epochs = pd.read_csv(runs[name] / "epochs.csv")
        assert epochs["epoch"].tolist() == [0, 1] and epochs["val_loss"].notna().all()
        trained = load_file(runs[name] / "model" / "model.safetensors")
        for tensor in (
            "model.vision_tower.convs.0.conv.weight",
            "model.vision_tower.blocks.3.0.channel_block.ffn.fc2.bias",
        ):
            assert torch.equal(trained[tensor], start[tensor]) == (trainable == 0), tensor
        assert not torch.equal(trained["model.language_model.shared.weight"], start["lm_head.weight"])
    for name in ("01_explore_data", "03_ablate", "04_analyze"):
        for kind in ("ipynb", "html", "pdf"):
            assert (root / "reports/paper" / f"{name}.{kind}").stat().st_size > 1000
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    assert largest < MEMORY, f"the largest process took {largest:.1f} GiB"


def test_a_run_of_the_paper_profile_exports_and_answers(study, tmp_path):
    _, docfloqa = study
    docfloqa("export", "paper/vision100", str(tmp_path / "mine"))
    plain = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "mine")
    processor = AutoProcessor.from_pretrained(tmp_path / "mine")
    assert plain.num_parameters() == BASE_PARAMETERS + WIDTH
    assert plain.lm_head.weight is plain.get_input_embeddings().weight
    assert processor.image_token_id == 51289
