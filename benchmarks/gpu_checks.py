"""Checks of what only a GPU can show, on the shipped tiny model; with `--device cpu` a rehearsal of them.

    python benchmarks/gpu_checks.py --device cuda

A run in fp32 has the losses of a CPU's, one in bf16 nearly those, an interrupted one ends as an undisturbed one,
a process under torchrun computes the same through NCCL, a batch beyond the memory goes through in parts, and
batches in few shapes give the same losses. Further arguments go to pytest.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    DEVICE = sys.argv[sys.argv.index("--device") + 1] if "--device" in sys.argv else "cuda"
    os.environ["DOCFLOQA_CHECKED_DEVICE"] = DEVICE
# The environment is set before any library reads it.
ON_GPU = os.environ.get("DOCFLOQA_CHECKED_DEVICE", "cuda") == "cuda"
if not ON_GPU:
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from docfloqa.data.load import load_docvqa
from docfloqa.settings import Settings
from docfloqa.training import trainer as training
from docfloqa.training.evaluation import evaluate
from docfloqa.training.trainer import DocVQATrainer

RATIO = 1.0
LOSSES = ["train_loss", "val_loss"]
# The rehearsal is to be short.
FEW = {} if ON_GPU else {"synth_documents": 4, "synth_validation_documents": 2}
FP32 = 1e-3
# bf16 has 8 bits of a number, so that each sum is off by up to 0.4 %; over two epochs that adds up.
BF16 = 0.05
COMMAND = ["-m", "docfloqa", "run", "--profile", "smoke", "--ratio", str(RATIO), "--allow-cpu", "--json"]
IN_FP32 = [f"--{name.replace('_', '-')}={value}" for name, value in {"precision": "fp32", **FEW}.items()]


@pytest.fixture(scope="session", autouse=True)
def as_on_the_cpu():
    """Convolutions without TF32, which has 10 bits."""
    if ON_GPU:
        assert torch.cuda.is_available(), "no GPU that PyTorch can use"
        torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session")
def smoke() -> Settings:
    chosen = {"precision": "fp32", "static_shapes": "off", **FEW}
    return Settings.profile("smoke", vision_trainable=RATIO, **chosen)


@pytest.fixture(scope="session")
def started(tmp_path_factory, as_on_the_cpu) -> dict:
    """A run on the CPU and one under torchrun, each in a process of its own, beside what is computed here."""
    processes = {}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    for name, command, further in (
        ("cpu", COMMAND, {"CUDA_VISIBLE_DEVICES": ""}),
        ("torchrun", [*torchrun, *COMMAND], {"NVIDIA_TF32_OVERRIDE": "0"}),
    ):
        folder = tmp_path_factory.mktemp(name)
        environment = {**os.environ, "DOCFLOQA_OUTPUT": str(folder), "OMP_NUM_THREADS": "1", **further}
        environment |= {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(folder / "nccl.txt")}
        with (folder / "log.txt").open("w") as log:
            process = subprocess.Popen([sys.executable, *command, *IN_FP32], env=environment, stdout=log, stderr=log)
        processes[name] = folder, process
    yield processes
    for _, process in processes.values():
        process.kill()
        process.wait()


def epochs_of(started: dict, name: str) -> tuple[pd.DataFrame, dict, Path]:
    """Epochs and record of a run in a process of its own, once it is complete, and its output folder."""
    folder, process = started[name]
    process.wait(timeout=240)
    assert process.returncode == 0, (folder / "log.txt").read_text()[-3000:]
    [run] = (folder / "reports" / "smoke" / "runs").iterdir()
    return pd.read_csv(run / "epochs.csv"), json.loads((run / "run.json").read_text()), folder


@pytest.fixture(scope="session")
def dataset(smoke, started):
    return load_docvqa(smoke)


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def undisturbed(smoke, dataset, tmp_path_factory) -> pd.DataFrame:
    """The epochs of a run in fp32 on the device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("undisturbed")))
        run = DocVQATrainer(smoke, dataset).fit()
        assert run.record["device"]["kind"] == ("cuda" if ON_GPU else "cpu")
        return run.epochs()


def assert_same(one: pd.DataFrame, other: pd.DataFrame, tolerance: float) -> None:
    """Losses of every epoch."""
    difference = (one[LOSSES] - other[LOSSES]).abs().max().max()
    print(f"losses differ by at most {difference:.1e}, allowed {tolerance:g}")
    assert len(one) == len(other) == 3 and difference <= tolerance


def test_bf16_has_nearly_the_losses_of_fp32(smoke, dataset, undisturbed, output):
    assert_same(DocVQATrainer(smoke.replace(precision="bf16"), dataset).fit().epochs(), undisturbed, BF16)


def test_batches_in_few_shapes_give_the_same_losses_and_answers(smoke, dataset, undisturbed, output):
    trainer = DocVQATrainer(smoke.replace(static_shapes="on"), dataset)
    epochs = trainer.fit().epochs()
    assert_same(epochs, undisturbed, FP32)
    if ON_GPU:
        assert trainer.captured.graphs and not trainer.captured.failed
        print(f"steps are {len(trainer.captured.graphs)} CUDA graphs")
    assert epochs["anls"].tolist() == pytest.approx(undisturbed["anls"].tolist(), abs=1e-3)


def with_dropout(trainer: DocVQATrainer) -> DocVQATrainer:
    """What is drawn by chance on the device must come back with a checkpoint; the tiny model draws nothing itself."""
    for module in trainer.model.model.language_model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.1
    return trainer


# On a GPU, where a step is a CUDA graph, chance is drawn within it.
@pytest.mark.parametrize("shapes", ["off", "on"] if ON_GPU else ["off"])
def test_an_interrupted_run_ends_as_an_undisturbed_one(shapes, smoke, dataset, output, monkeypatch):
    smoke = smoke.replace(static_shapes=shapes)
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(output / "undisturbed"))
    expected = with_dropout(DocVQATrainer(smoke, dataset)).fit().epochs()
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(output / "interrupted"))
    evaluated = []

    def stop(*arguments):
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        evaluated.append(1)
        return evaluate(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            with_dropout(DocVQATrainer(smoke, dataset)).fit()
    resumed = with_dropout(DocVQATrainer(smoke, dataset))
    assert resumed.run.has_epoch(1) and not resumed.run.is_complete()
    assert_same(resumed.fit().epochs(), expected, FP32)


class Gradients(TrainerCallback):
    """The gradients of the first step."""

    def __init__(self, trainer: DocVQATrainer):
        self.trainer, self.found = trainer, None

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Keep them."""
        parameters = self.trainer.model.named_parameters()
        self.found = {name: p.grad.clone() for name, p in parameters if p.grad is not None}


def one_step(settings: Settings, dataset) -> tuple[DocVQATrainer, dict[str, torch.Tensor]]:
    """A step of a batch with every question."""
    trainer = DocVQATrainer(settings, dataset)
    trainer.args.eval_strategy = trainer.args.save_strategy = "no"
    trainer.args.max_steps = 1
    trainer.use_states()
    gradients = Gradients(trainer)
    trainer.add_callback(gradients)
    trainer.train()
    return trainer, gradients.found


def test_a_batch_beyond_the_memory_goes_through_in_halves(smoke, dataset, output, monkeypatch):
    settings = smoke.replace(batch_size=len(dataset["train"]), batching="by_image")
    if ON_GPU:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    whole, expected = one_step(settings, dataset)
    assert whole.micro_batch is None
    if ON_GPU:
        # A quarter of what the whole batch took is missing; half of it takes little more than half.
        allowed = before + 0.75 * (torch.cuda.max_memory_allocated() - before)
        del whole
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.mem_get_info()[1])
    else:
        forward = type(whole.model).forward

        def small(self, *arguments, **named):
            if self.training and len(named["input_ids"]) > settings.batch_size // 2:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return forward(self, *arguments, **named)

        monkeypatch.setattr(type(whole.model), "forward", small)
    try:
        halved, found = one_step(settings, dataset)
    finally:
        if ON_GPU:
            torch.cuda.set_per_process_memory_fraction(1.0)
    parts = halved.run.record["out_of_memory"]
    print(f"{settings.batch_size} questions, at once: {[part['micro_batch'] for part in parts]}")
    assert 1 <= halved.micro_batch < settings.batch_size
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_run_in_fp32_has_the_losses_of_a_cpu(started, undisturbed):
    epochs, record, _ = epochs_of(started, "cpu")
    assert record["device"]["kind"] == "cpu"
    assert_same(epochs, undisturbed, FP32)


def test_a_process_under_torchrun_has_the_same_losses_through_nccl(started, undisturbed):
    epochs, record, folder = epochs_of(started, "torchrun")
    assert_same(epochs, undisturbed, FP32)
    assert record["processes"] == 1
    if ON_GPU:
        assert record["device"]["kind"] == "cuda"
        said = (folder / "nccl.txt").read_text()
        assert "Init COMPLETE" in said, said[-2000:]


def main() -> int:
    """The exit code of pytest."""
    rest = sys.argv[1:]
    if "--device" in rest:
        place = rest.index("--device")
        del rest[place : place + 2]
    return pytest.main([__file__, "-p", "no:cacheprovider", "-rA", *rest])


if __name__ == "__main__":
    sys.exit(main())
