"""The benchmark's command runs, and its numbers are those of what it measured."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from docfloqa.batches import QuestionCollator
from docfloqa.evaluation import evaluate
from docfloqa.florence import load_florence
from docfloqa.paths import PROJECT

sys.path.insert(0, str(PROJECT / "benchmarks"))
import load
import throughput


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, "benchmarks/throughput.py", "--ratios", "0", "--batchings", "by_image"]
    command += ["--pairs", "2", "--evaluation-pairs", "2", "--evaluated", "8", "--batch-sizes", "6"]
    subprocess.run([*command, "--output", folder], cwd=PROJECT, check=True, capture_output=True)
    return json.loads((folder / "throughput-tiny-cpu.json").read_text()), folder


def test_both_ways_are_measured_on_the_same_questions(measured):
    result, _ = measured
    training, evaluation = result["parts"]
    assert (training["part"], evaluation["part"]) == ("training step", "evaluation")
    for part in result["parts"]:
        ratio = part["ratio"]
        assert ratio["low"] <= ratio["estimate"] <= ratio["high"]
        # Of two pairs, neither being ten times the other.
        one = part["samples_per_second"] / part["published_samples_per_second"]
        assert one / 3 < ratio["estimate"] < 3 * one
    assert training["memory"]["resident_mib"] > 100 < training["published_memory"]["resident_mib"]


def test_both_ways_see_the_same_prompts_and_give_the_same_answers(dataset):
    settings = throughput.settings_of("tiny")
    rows, places = dataset["validation"], [0, 1, 2, 5]
    model, processor = load_florence(settings.model, settings.prefix)
    collator = QuestionCollator(rows, model, processor, settings.prefix)
    loop = throughput.published(settings)
    theirs = loop.batch(rows, places)
    assert torch.equal(theirs["input_ids"], collator.texts(places)["input_ids"])
    answers = evaluate(model, collator, settings)["prediction"]
    assert answers.tolist() == [text.strip() for text in loop.evaluate(rows, 4)[1]]


def test_the_share_is_operations_over_time_and_rate(measured):
    result, _ = measured
    for row in (result["parts"][0], *result["batch_sizes"]):
        rate = row["samples_per_second"] * row["gflop_per_sample"] / row["matrix_product_gflops"]
        assert row["share_of_matrix_product_rate"] == pytest.approx(rate) and 0 < rate < 1


def test_a_depthwise_convolution_is_counted_with_its_groups():
    convolution = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    images = torch.zeros(2, 8, 5, 5, requires_grad=True)
    formulas = {torch.ops.aten.convolution_backward: throughput.convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        convolution(images).sum().backward()
    # By hand: multiplications and additions of 9 weights at 25 places of 8 channels of 2 images; and the backward
    # pass as much again for the images and for the weights.
    assert counter.get_total_flops() == 3 * 2 * 9 * 25 * 8 * 2


@pytest.mark.parametrize("ratio", throughput.RATIOS)
def test_operations_are_counted_in_bf16_as_in_fp32(ratio, monkeypatch, tmp_path, dataset):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path))
    settings = throughput.settings_of("tiny", vision_trainable=ratio, batch_size=4)
    counts = [
        throughput.step_flops(throughput.ours(settings.replace(precision=precision), dataset), 2)
        for precision in ("fp32", "bf16")
    ]
    assert counts[0] == counts[1] > 0


def test_a_batch_that_the_data_cannot_fill_is_refused(monkeypatch, tmp_path, dataset):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path))
    trainer = throughput.ours(throughput.settings_of("tiny", batch_size=1000), dataset)
    with pytest.raises(ValueError, match="a batch of 1000"):
        throughput.step_flops(trainer, 1)


def test_the_papers_study_is_the_sum_of_its_parts():
    parts = [
        {"vision_trainable": ratio, "samples_per_second": 100.0, **part}
        for ratio in throughput.RATIOS
        for part in (
            {"part": "training step", "batching": "uniform", "caching_seconds": 2.0},
            {"part": "training step", "batching": "by_image", "caching_seconds": 0.1},
            {"part": "evaluation", "batching": "-"},
        )
    ]
    # By hand: 8 x 39,463 and 10 x 500 questions at 100 a second, and 10,194 pages at 2 seconds for 4 of them.
    one = 8 * 394.63 + 10 * 5 + 10_194 * 0.5
    assert throughput.paper_study_hours(parts, 4, "by_image") == pytest.approx(4 * one / 3600)


def test_the_table_names_the_machine_and_the_command(measured):
    result, folder = measured
    text = (folder / "throughput-tiny-cpu.md").read_text()
    assert result["machine"]["name"] in text and "benchmarks/throughput.py --ratios 0" in text
    assert str(PROJECT) not in text and str(folder) not in text.replace(f"--output {folder}", "")


def test_memory_that_a_block_takes_is_seen_and_told_in_mib():
    with load.Memory(0.005) as memory:
        before = memory.look()
        taken = torch.ones(64 * 2**20, dtype=torch.uint8)
        memory.look()
    del taken
    assert 60 < memory.private - before < 200
    # What is given back afterwards still counts.
    assert memory.private > memory.look() + 30


def test_the_load_benchmark_measures_what_it_says(tmp_path):
    command = [
        sys.executable,
        "benchmarks/load.py",
        "questions",
        "--sizes",
        "30",
        "--output",
        tmp_path / "load.json",
    ]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    [row] = json.loads((tmp_path / "load.json").read_text())["parts"]["questions"]["rows"]
    assert row["size"] == 30 and 100 < row["before_mib"] < row["private_mib"] < row["resident_mib"]
    assert "## Questions" in (tmp_path / "load.md").read_text()
