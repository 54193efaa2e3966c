"""The benchmark's command runs, and its numbers are those of what it measured."""

import json
import mmap
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from docfloqa.files import PROJECT
from docfloqa.model.florence import Florence2ForDocVQA, base_config, load_florence
from docfloqa.training.batches import QuestionCollator
from docfloqa.training.evaluation import evaluate

sys.path.insert(0, str(PROJECT / "benchmarks"))
import load
import paper_hours
import paper_step
import published_loop
import throughput


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    command = "--ratios 0 --batchings by_image --batch-sizes 6 --documents 20 4 --evaluated 8 --counted 1".split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(folder / "scratch"))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        own_process = throughput.memory

        def memory(arguments, whose, *what):
            # Of the two one is enough in a process of its own, which takes long to begin.
            return own_process(arguments, whose, *what) if whose == "ours" else throughput.measure_memory(whose, *what)

        patch.setattr(throughput, "memory", memory)
        throughput.main([*command, "--pairs", "3", "--evaluation-pairs", "3", "--output", str(folder)])
    return json.loads((folder / "throughput-tiny-cpu.json").read_text()), folder


def test_both_ways_are_measured_on_the_same_questions(measured):
    result, _ = measured
    training, evaluation = result["parts"]
    assert (training["part"], evaluation["part"]) == ("training step", "evaluation")
    for part in result["parts"]:
        ratio = part["ratio"]
        assert ratio["low"] <= ratio["estimate"] <= ratio["high"]
        # Medians of three: the machine may be slower at one moment.
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
    own = collator.texts(places)["labels"]
    assert torch.equal(theirs["labels"], own.masked_fill(own == -100, collator.pad_token_id))
    answers = evaluate(model, collator, settings)["prediction"]
    # The published way never says the same three tokens twice, and ends what is cut.
    loop.decoding.update(no_repeat_ngram_size=0, forced_eos_token_id=None)
    # One by one, where nothing is padded: the published way attends to padding.
    assert answers.tolist() == [text.strip() for text in loop.evaluate(rows, 1)[1]]


def test_the_share_is_operations_over_time_and_rate(measured):
    result, _ = measured
    for row in (result["parts"][0], *result["batch_sizes"]):
        rate = row["samples_per_second"] * row["gflop_per_sample"] / row["matrix_product_gflops"]
        assert row["share_of_matrix_product_rate"] == pytest.approx(rate)
        # Less than one on a machine that does nothing else.
        assert 0 < rate < 5


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
        throughput.step_flops(throughput.ours(settings.replace(precision=precision), dataset), 1)
        for precision in ("fp32", "bf16")
    ]
    assert counts[0] == counts[1] > 0


def test_a_batch_that_the_data_cannot_fill_is_refused(monkeypatch, tmp_path, dataset):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path))
    trainer = throughput.ours(throughput.settings_of("tiny", batch_size=1000), dataset)
    with pytest.raises(ValueError, match="a batch of 1000"):
        throughput.step_flops(trainer, 1)


def parts_of(*ratios: float) -> list[dict]:
    pages = {"decoding_seconds_per_page": 0.3, "states_seconds_per_page": 0.2}
    return [
        {"vision_trainable": ratio, "samples_per_second": 50.0 if ratio else 100.0, **part}
        for ratio in ratios
        for part in (
            {"part": "training step", "batching": "uniform", **pages},
            {"part": "training step", "batching": "by_image", **pages},
            {"part": "evaluation", "batching": "-"},
        )
    ]


def test_the_papers_study_is_the_sum_of_its_parts():
    # By hand: 8 x 39,463 and 10 x 500 questions at 100 a second, or 50 where the encoder is trained; 10,194 pages
    # decoded once and their states computed for every ratio.
    one = 8 * 394.63 + 10 * 5
    total = one + 3 * 2 * one + 10_194 * (0.3 + 4 * 0.2)
    every = paper_hours.paper_study_hours(parts_of(*throughput.RATIOS), "by_image")
    assert every == pytest.approx(total / 3600)
    assert paper_hours.paper_study_hours(parts_of(0.0, 1.0), "by_image") == every, "100 % stands for 33 and 66 %"
    with pytest.raises(ValueError, match=r"ratios measured are \[0.0\]; 1.0 must be among them"):
        paper_hours.paper_study_hours(parts_of(0.0), "by_image")


def test_a_faster_way_of_a_step_counts_if_its_losses_are_the_same():
    ways = [
        {"name": "eager", "seconds_per_step": 0.12, "same_loss": True},
        {"name": "no mask", "seconds_per_step": 0.01, "same_loss": False},
        {"name": "CUDA graph", "seconds_per_step": 0.06, "same_loss": True},
        {"name": "compiled", "error": "RuntimeError: no compiler"},
    ]
    steps = {"batch_size": 6, "ratios": {"0": {"tries": ways[:2]}, "1": {"tries": ways}}}
    assert paper_hours.fastest(steps) == {0.0: ("eager", 0.12), 1.0: ("CUDA graph", 0.06)}
    table = paper_hours.table({"parts": parts_of(0.0, 1.0)}, steps)
    assert table["batching"].tolist() == ["uniform", "by_image", "uniform"]
    # 6 questions in 0.12 seconds are 50 a second, 6 in 0.06 are 100.
    saved = 8 * 39_463 * ((1 / 100 - 1 / 50) + 3 * (1 / 50 - 1 / 100)) / 3600
    assert table["hours"][2] == pytest.approx(table["hours"][0] - saved)


def test_a_trace_is_summed_up_a_step():
    events = [
        {"cat": "kernel", "name": "product", "ts": 0, "dur": 4},
        # Beside the first for half of its time.
        {"cat": "kernel", "name": "sum", "ts": 2, "dur": 4},
        {"cat": "gpu_memcpy", "name": "copy", "ts": 10, "dur": 2},
        {"cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": 0, "dur": 3},
        {"cat": "cuda_runtime", "name": "cudaStreamSynchronize", "ts": 4, "dur": 8},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 5},
        {"cat": "gpu_user_annotation", "name": "AdamW", "ts": 0, "dur": 50},
    ]
    found = paper_step.summary_of(events, 2)
    assert found["device_busy_seconds"] == pytest.approx(4e-6)
    assert (found["kernels"], found["copies"], found["launches"], found["waits"]) == (1, 0.5, 0.5, 0.5)
    assert found["launch_seconds"] == pytest.approx(1.5e-6) and found["wait_seconds"] == pytest.approx(4e-6)
    assert found["longest_kernels"][0] == {"name": "product", "seconds": 2e-6, "calls": 0.5}


def test_every_question_of_a_step_has_a_page_of_its_own(dataset):
    rows = dataset["train"]
    for places in paper_step.with_own_pages(rows, 4):
        assert len({rows["page"][place] for place in places}) == len(places) == 4


def test_the_published_loop_attends_to_padding_and_counts_it(dataset):
    loop = throughput.published(throughput.settings_of("tiny"))
    batch = loop.batch(dataset["validation"], [0, 1, 2, 5])
    pad = loop.target.pad
    assert (batch["labels"] == pad).any() and (batch["input_ids"] == pad).any()
    assert (batch["attention_mask"] == 1).all()
    loop.model.eval()
    with torch.no_grad():
        found = loop.model(**batch)
    # By hand, over every place of the labels.
    by_hand = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), batch["labels"].flatten())
    assert found.loss.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_published_model_has_an_output_embedding_of_its_own():
    model = throughput.published(throughput.settings_of("tiny")).model
    inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert inputs is not outputs and torch.equal(inputs, outputs) and outputs.requires_grad
    with torch.device("meta"):
        base = published_loop.untied(Florence2ForDocVQA(base_config()))
    assert round(base.num_parameters() / 1e6, 1) == 270.8


def test_published_answers_are_decoded_as_florence_2_says():
    with torch.device("meta"):
        model = Florence2ForDocVQA(base_config())
    model.generation_config.forced_bos_token_id = 0
    found = published_loop.published_decoding(model, 3, 128)
    # generation_config.json of Florence-2-base-ft, and the script's own two.
    stated = {
        **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "decoder_start_token_id": 2},
        **{"forced_bos_token_id": 0, "forced_eos_token_id": 2, "no_repeat_ngram_size": 3},
        **{"num_beams": 3, "early_stopping": True, "max_new_tokens": 128},
    }
    assert {name: getattr(found, name) for name in stated} == stated
    other_format = throughput.settings_of("tiny").replace(model="data/florence2-tiny-closed")
    own = throughput.published(other_format).decoding
    assert (own.no_repeat_ngram_size, own.forced_bos_token_id, own.forced_eos_token_id) == (0, None, None)


@pytest.mark.parametrize("arguments", [["--device", "tpu"], ["--devise", "cpu"]])
def test_the_gpu_command_names_what_is_wrong_with_its_arguments(arguments):
    done = subprocess.run(["bash", "benchmarks/gpu.sh", *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2 and arguments[arguments[0] == "--device"] in done.stderr


def test_the_gpu_command_notes_a_part_that_fails_and_goes_on(tmp_path):
    command = ["bash", "benchmarks/gpu.sh", "--device", "cpu", "--rehearse", "--output", tmp_path]
    # Nothing can be done by it, and each part says so.
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "PYTHON": "false"})
    table = (tmp_path / "parts.md").read_text()
    assert done.returncode == 1 and table.count("| failed (1) |") == 4 and table in done.stdout


def test_the_table_names_the_machine_and_the_command(measured):
    result, folder = measured
    text = (folder / "throughput-tiny-cpu.md").read_text()
    assert result["machine"]["name"] in text and "benchmarks/throughput.py --ratios 0" in text
    assert str(PROJECT) not in text and str(folder) not in text.replace(f"--output {folder}", "")


def test_memory_that_a_block_takes_is_seen_and_told_in_mib():
    with load.Memory(0.005) as memory:
        before = memory.look()
        # Of the system: an allocator may have kept as much from the tests before.
        taken = mmap.mmap(-1, 64 * 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        taken.write(bytes(len(taken)))
        memory.look()
    taken.close()
    assert 60 < memory.private - before < 200
    # What is given back afterwards still counts.
    assert memory.private > memory.look() + 30


def test_the_load_benchmark_measures_what_it_says(output, monkeypatch):
    command = ["benchmarks/load.py", "questions", "--sizes", "30", "--output", str(output / "load.json")]
    monkeypatch.setattr(sys, "argv", command)
    load.main()
    [row] = json.loads((output / "load.json").read_text())["parts"]["questions"]["rows"]
    assert row["size"] == 30 and 100 < row["before_mib"] < row["private_mib"] < row["resident_mib"]
    assert "## Questions" in (output / "load.md").read_text()
