"""Nothing is lost: killed at any moment, damaged, on a full disk or out of memory, a run ends as an undisturbed one."""

import os
import pickle
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from random import Random

import pytest
import torch
from damages import DAMAGES, flip_a_byte, killed_at
from smoke_runs import CHANGES, killed_in_the_third_epoch, of_interest, trainer_of

from docfloqa.analysis.scoring import score_robustness
from docfloqa.apps.ask import models_of_study
from docfloqa.apps.export import export_run
from docfloqa.apps.monitor import states as monitored
from docfloqa.apps.playground import models_and_note
from docfloqa.data.load import data_checksum, load_docvqa
from docfloqa.data.synth.dataset import synth_folder
from docfloqa.exceptions import RunError, StudyError
from docfloqa.files import (
    DamagedError,
    DiskFullError,
    caused_by_user,
    check_folder,
    checksum,
    held,
    read_sealed,
    remove_sealed,
    room_for,
    seal_folder,
    whole_folder,
    write_sealed,
)
from docfloqa.pretraining.drawings import Phase
from docfloqa.pretraining.pretrain import pretrain
from docfloqa.pretraining.tiny import build_model, train_tokenizer
from docfloqa.runs import run as run_module
from docfloqa.runs.recovery import last_checkpoint, refresh, saved_checkpoints
from docfloqa.runs.results import Study, open_run, status
from docfloqa.runs.run import PREDICTIONS, RESULT_FILES, Run, is_complete, read_record
from docfloqa.study import kernels as execution
from docfloqa.study.sweep import Plan, write_plan
from docfloqa.training.evaluation import evaluate_run

SEED = 1
KILLS = 5


@pytest.fixture(scope="module")
def interrupted(third, few, tmp_path_factory) -> Path:
    """The output folder of a run that was killed in its third epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(folder))
        killed_in_the_third_epoch(third, few, folder)
    return folder


@pytest.fixture
def again(interrupted, third, output, monkeypatch) -> Run:
    """A copy of the interrupted run, opened."""
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(output / "copy"))
    shutil.copytree(interrupted, output / "copy")
    [folder] = output.glob("copy/reports/smoke/runs/*")
    return Run(folder.name, third, read_record(folder))


@pytest.mark.long
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(undisturbed_third, third, few, output):
    # Few enough from one kill to the next that the run does not end before the last of them.
    chosen = Random(SEED).sample(range(1, CHANGES // KILLS), KILLS)
    killed = sum(killed_at(change, output / "reports", lambda: trainer_of(third, few).fit()) for change in chosen)
    run = trainer_of(third, few).fit()
    print(f"seed {SEED}: faults injected {killed}, survived {killed}, lost 0 (killed before changes {chosen})")
    assert killed == KILLS and of_interest(run) == undisturbed_third
    left = {path.name for path in run.folder.iterdir()}
    assert left == {*("run.json", "epochs.csv", "predictions.parquet", "wrong_pages.parquet", "model", "best_model")}


def checkpoints(run: Run) -> list[Path]:
    """A run's checkpoints, in their order."""
    return sorted(run.checkpoints.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))


@pytest.mark.long
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(again):
    before, last = checkpoints(again)
    files = sorted(path for path in last.iterdir() if path.is_file())
    assert {
        *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"),
        "checksums.json",
    } <= {path.name for path in files}
    shutil.copytree(again.folder / "epochs", again.folder / "epochs-before")
    injected = 0
    for path in files:
        for damage in DAMAGES:
            good = shutil.copytree(last, again.folder / "good")
            damage(path)
            with pytest.warns(UserWarning, match=rf"{path.name} is damaged.*kept as .*{last.name}.damaged"):
                assert last_checkpoint(again) == before
            injected += 1
            # Its epoch is made again, and so was taken away; here it comes back.
            shutil.rmtree(again.folder / f"{last.name}.damaged")
            good.rename(last)
            restore_epochs(again)
    assert last_checkpoint(again) == last and injected == len(DAMAGES) * len(files)
    print(f"faults injected {injected}, survived {injected}, lost 0")


def restore_epochs(run: Run) -> None:
    """Bring back what is deleted of epochs that are to be made again."""
    for kept in (run.folder / "epochs-before").iterdir():
        shutil.copy(kept, run.folder / "epochs" / kept.name)


@pytest.mark.parametrize("name", ["epoch-0002.parquet", "epoch-0002.json", "epoch-0001.parquet", "epoch-0000.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_epoch_is_set_aside_and_made_again_from_the_one_before(again, name, damage):
    damage(again.folder / "epochs" / name)
    epoch = int(name[6:10])
    with pytest.warns(UserWarning, match=rf"epoch-000{epoch}.* is damaged"):
        found = last_checkpoint(again)
    assert (again.folder / f"{name}.damaged").is_file() and not again.has_epoch(epoch)
    # Nothing is trained again for the evaluation before training.
    expected = {0: 2, 1: 0, 2: 1}[epoch]
    assert (check_folder(found)["epoch"] if found else 0) == expected


def test_a_checkpoint_that_was_not_finished_is_no_damage(again, recwarn):
    before, last = checkpoints(again)
    (last / "checksums.json").unlink()
    assert last_checkpoint(again) == before and not last.exists()
    assert not [warning for warning in recwarn if "damaged" in str(warning.message)]


def test_a_folder_that_is_half_deleted_is_no_damage(again, tmp_path):
    last, change, killed = checkpoints(again)[-1], 1, True
    while killed:
        shutil.copytree(last, tmp_path / "half", dirs_exist_ok=True)
        if killed := killed_at(change, tmp_path / "half", lambda: remove_sealed(tmp_path / "half")):
            assert (change > 1) == (not (tmp_path / "half" / "checksums.json").exists())
            with nullcontext() if change == 1 else pytest.raises(FileNotFoundError):
                check_folder(tmp_path / "half")
            change += 1
    # One for each file, two for the folder.
    assert change - 1 == len([*last.iterdir()]) + 2 and not (tmp_path / "half").exists()


def test_pretraining_does_not_go_on_from_a_checkpoint_that_was_not_finished(output, monkeypatch):
    monkeypatch.setattr("docfloqa.pretraining.pretrain.HELD_OUT_IMAGES", 2)
    tokenizer, phase = train_tokenizer(), Phase("short", "strips", 2, 2, 2, 1e-3, seed=0)

    def losses() -> list[float]:
        return pretrain(build_model(tokenizer), tokenizer, phase, reports=2)["loss"].tolist()

    undisturbed = losses()
    [last] = saved_checkpoints(next(output.glob("data/cache/pretraining/short-*")))
    for name in ("checksums.json", "model.safetensors"):
        (last / name).unlink()
    assert losses() == undisturbed
    # Finished now, and so not made again.
    begun = (last / "model.safetensors").stat().st_mtime_ns
    assert losses() == undisturbed and (last / "model.safetensors").stat().st_mtime_ns == begun


class Malicious:
    """A pickle that would write a file."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_code_in_a_checkpoint_is_not_executed(again, third, few):
    trap = again.folder / "trap"
    last = checkpoints(again)[-1]
    state = torch.load(last / "optimizer.pt", weights_only=True)
    torch.save({**state, "more": Malicious(trap)}, last / "optimizer.pt")
    # Whoever can write a pickle can write its checksum.
    (last / "checksums.json").unlink()
    seal_folder(last, epoch=2)
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        trainer_of(third, few).fit()
    assert not trap.exists()


@pytest.fixture(scope="module")
def completed(third, few, tmp_path_factory) -> Path:
    """The output folder of a complete run of one epoch."""
    folder = tmp_path_factory.mktemp("completed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(folder))
        trainer_of(third.replace(epochs=1), few).fit()
    return folder


@pytest.fixture
def complete(completed, output) -> Run:
    """A copy of the complete run, opened."""
    shutil.copytree(completed, output, dirs_exist_ok=True)
    [folder] = output.glob("reports/smoke/runs/*")
    return open_run(folder)


@pytest.mark.long
def test_what_is_damaged_of_a_complete_run_is_noticed_by_readers_and_set_aside_by_a_sweep(complete):
    good = {path: path.read_bytes() for path in complete.folder.rglob("*") if path.is_file()}
    injected = 0
    for path in good:
        for damage in DAMAGES:
            damage(path)
            injected += 1
            part = path.relative_to(complete.folder).parts[0]
            if path.parent == complete.folder:
                with pytest.warns(UserWarning, match=rf"{path.name} is damaged.*does not count as complete"):
                    assert not is_complete(complete.folder)
            with pytest.warns(UserWarning, match=rf"{path.name} is damaged.*kept as .*{part}.damaged"):
                refresh(complete)
            assert not complete.is_complete() and not (complete.folder / part).is_file()
            for aside in complete.folder.glob("*.damaged"):
                shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
            for place, whole in good.items():
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(whole)
            refresh(complete)
            assert complete.is_complete()
    print(f"faults injected {injected}, noticed {injected}")


USERS = {
    "ask": lambda run, _: models_of_study(run.settings.study)[-1].load(),
    "playground": lambda run, _: models_and_note(run.settings.study)[0][-1].load(),
    "evaluate": lambda run, _: evaluate_run(run, run.settings),
    "export": lambda run, folder: export_run(run, folder / "exported"),
    "robustness": lambda run, _: score_robustness(Study.load(run.settings.study)),
}


def test_a_damaged_best_model_is_refused_by_all_that_use_it_with_the_same_sentence(complete, output, monkeypatch):
    # A process of its own takes seconds to begin.
    monkeypatch.setattr("docfloqa.analysis.scoring.ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    write_plan(complete.settings, Plan([complete], {}))
    saved = open_run(complete.folder)
    saved.load()
    flip_a_byte(complete.folder / "best_model" / "model.safetensors")
    said = {}
    for name, use in USERS.items():
        with pytest.raises(RunError, match=r"best_model/model.safetensors is damaged.*makes it again") as refused:
            use(saved, output)
        said[name] = str(refused.value)
    assert len(set(said.values())) == 1, said
    assert not (output / "exported").exists()


def test_to_ask_whether_runs_are_complete_hashes_their_files_once(complete, monkeypatch):
    hashed = []
    monkeypatch.setattr("docfloqa.files.checksum", lambda path: hashed.append(path.name) or checksum(path))
    run_module._checksum.cache_clear()
    write_plan(complete.settings, Plan([complete], {}))
    ask = [
        complete.is_complete,
        lambda: monitored(complete.settings.study),
        lambda: status([complete.folder]),
        lambda: open_run(complete.folder),
        lambda: Study.load(complete.settings.study),
    ]
    for _ in range(3):
        for look in ask:
            look()
    assert sorted(hashed) == sorted(RESULT_FILES)
    written = complete.folder / PREDICTIONS
    written.write_bytes(written.read_bytes())
    os.utime(written, ns=(0, 0))
    assert complete.is_complete() and complete.is_complete()
    assert sorted(hashed) == sorted([*RESULT_FILES, PREDICTIONS])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["train-00000-of-00001.parquet", "checksums.json"])
def test_damaged_drawn_documents_are_drawn_again(name, damage, smoke, dataset, output):
    folder = synth_folder(smoke, "train")
    good = {path.name: path.read_bytes() for path in folder.iterdir()}
    damage(folder / name)
    with pytest.warns(UserWarning, match=rf"{name} is damaged.*kept as .*{folder.name}.damaged and made again"):
        assert synth_folder(smoke, "train") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == good


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_results_of_checks_are_made_again(damage, smoke, dataset, output):
    assert data_checksum(load_docvqa(smoke)) == data_checksum(dataset)
    [first, *_] = sorted((output / "data" / "cache" / "checks").iterdir())
    damage(first)
    with pytest.warns(UserWarning, match=rf"{first.name} is damaged.*made again"):
        assert data_checksum(load_docvqa(smoke)) == data_checksum(dataset)


def test_no_flipped_bit_of_a_record_is_believed(tmp_path):
    content = {"status": "complete", "seconds": 1.5, "names": ["a", "ü"], "files": {"x": None}}
    place = tmp_path / "run.json"
    write_sealed(place, content)
    text = place.read_bytes()
    for position in range(len(text)):
        damaged = bytearray(text)
        damaged[position] ^= 1 << position % 8
        place.write_bytes(damaged)
        try:
            found = read_sealed(place)
        except DamagedError:
            continue
        # Only the name of the checksum, or a blank, may have changed.
        assert {name: found[name] for name in content} == content


def test_the_second_process_waits_and_says_for_whom(output, capsys):
    fork = get_context("fork")
    taken = fork.Event()

    def hold():
        with held("study", "study 'x'"):
            taken.set()
            time.sleep(60)

    holder = fork.Process(target=hold)
    holder.start()
    assert taken.wait(10)
    killer = fork.Process(target=lambda: (time.sleep(2), os.kill(holder.pid, signal.SIGKILL)))
    killer.start()
    with held("study", "study 'x'"):
        # At once, as it waited for the holder's end.
        holder.join(10)
        assert holder.exitcode == -signal.SIGKILL
    killer.join()
    said = capsys.readouterr().out
    assert f"study 'x' is in the hands of process {holder.pid} on " in said and " since 20" in said


@pytest.mark.long
def test_two_processes_on_one_run_make_it_once(undisturbed_third, third, few, output):
    """The second begins when the first is in the middle, and finds a complete run."""
    fork = get_context("fork")
    children = [fork.Process(target=lambda: trainer_of(third, few).fit()) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    [folder] = (output / "reports" / "smoke" / "runs").iterdir()
    run = Run(folder.name, third, read_record(folder))
    assert of_interest(run) == undisturbed_third


@pytest.mark.long
@pytest.mark.parametrize("moves", [True, False])
def test_a_kernel_is_stopped_when_nothing_moves_any_more(moves, tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "STALLED_AFTER", 1.5)
    progress = tmp_path / "progress.json"
    with execution.Execution("run", progress) as watched:
        for count in range(25):
            time.sleep(0.1)
            if moves:
                progress.write_text(str(count))
    assert watched.stalled == (not moves)


@pytest.mark.parametrize("renamed", [False, True])
def test_what_a_folder_was_when_its_writer_was_killed_between_two_renames_comes_back(renamed, tmp_path):
    folder, old = tmp_path / "model", tmp_path / ".model.old"
    old.mkdir()
    (old / "weights").touch()
    if renamed:
        folder.mkdir()
    with pytest.raises(KeyboardInterrupt), whole_folder(folder):
        raise KeyboardInterrupt
    assert [*tmp_path.iterdir()] == [folder] and (folder / "weights").exists() != renamed
    with whole_folder(folder, lambda _: True) as part:
        (part / "others").touch()
    assert [*tmp_path.iterdir()] == [folder] and [*folder.iterdir()] == [folder / "others"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_is_too_small_is_told_before_the_run(small_disk, third, dataset, monkeypatch):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(small_disk))
    trainer = trainer_of(third, dataset)
    trainer.train = trainer.evaluate = None
    wanted = rf"run {trainer.run.id} needs [89]\d\.\d MiB more on the disk of .*, of which 6\d\.\d MiB are free\. What"
    with pytest.raises(DiskFullError, match=wanted):
        trainer.fit()
    assert not list(trainer.run.folder.glob("*.safetensors"))


def test_a_disk_that_fills_up_meanwhile_is_told_with_what_is_needed_and_free(small_disk):
    with (
        pytest.raises(DiskFullError, match=r"a copy needs 40\.0 MiB more .* of which 0\.0 MiB are free.*No space"),
        room_for(small_disk, 40 * 2**20, "a copy"),
    ):
        (small_disk / "ballast").write_bytes(bytes(60 * 2**20))
        (small_disk / "copy").write_bytes(bytes(40 * 2**20))
    # What writes without Python says so in other words.
    with pytest.raises(DiskFullError, match="weights needs"), room_for(small_disk, 0, "weights"):
        torch.save({"weights": torch.zeros(2**24)}, small_disk / "weights.pt")
    told = caused_by_user(OSError(28, "No space left on device", str(small_disk / "x")))
    assert str(small_disk / "x") in str(told) and "0.0 MiB are free" in str(told)
    assert caused_by_user(OSError(13, "Permission denied")) is None


class Crowded:
    """Memory that so many questions fit into."""

    def __init__(self, trainer, questions: int):
        self.compute_loss, self.questions, self.seen = trainer.compute_loss, questions, []
        trainer.compute_loss = self

    def __call__(self, model, inputs, **further):
        if len(inputs["index"]) > self.questions:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        self.seen += inputs["index"].tolist()
        return self.compute_loss(model, inputs, **further)


def without_dropout(trainer) -> None:
    trainer.model.eval()
    trainer.model.train = lambda mode=True: trainer.model


def gradients(trainer) -> tuple[float, dict[str, torch.Tensor]]:
    batch = trainer.training_collator(list(range(8)))
    trainer.create_optimizer_and_scheduler(1)
    loss = trainer.training_step(trainer.model, batch, (batch["labels"] != -100).sum())
    named = trainer.model.named_parameters()
    return loss.item(), {name: weight.grad for name, weight in named if weight.grad is not None}


@pytest.fixture(scope="module")
def whole(third, dataset, tmp_path_factory) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and the gradients of a batch of eight questions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("whole")))
        trainer = trainer_of(third, dataset)
        tokens = (trainer.training_collator(list(range(8)))["labels"] != -100).sum(1)
        assert len(set(tokens.tolist())) > 1, "parts differ in tokens"
        without_dropout(trainer)
        return gradients(trainer)


@pytest.mark.parametrize("room", [4, 3, 1])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(room, whole, third, dataset, output):
    parts = trainer_of(third, dataset)
    without_dropout(parts)
    crowded = Crowded(parts, room)
    (loss, expected), (same, found) = whole, gradients(parts)
    assert sorted(crowded.seen[-8:]) == list(range(8)) and parts.micro_batch <= room
    assert same == pytest.approx(loss, rel=1e-5) and found.keys() == expected.keys()
    scale = max(gradient.abs().max() for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * scale.item(), msg=name)


@pytest.mark.long
def test_out_of_memory_halves_the_micro_batch_and_is_recorded(third, few, output):
    settings = third.replace(epochs=2)
    trainer = trainer_of(settings, few)
    crowded = Crowded(trainer, 3)
    run = trainer.fit()
    assert run.is_complete() and trainer.state.global_step == 2 * -(-len(few["train"]) // settings.batch_size)
    record = read_record(run.folder)
    assert record["micro_batch"] == 2
    assert record["out_of_memory"] == [{"step": 1, "micro_batch": 4}, {"step": 1, "micro_batch": 2}]
    assert sorted(crowded.seen) == sorted(2 * [*range(len(few["train"]))]), "every question once an epoch"
    assert record["identity"]["settings"]["batch_size"] == settings.batch_size


def test_memory_for_no_question_at_all_is_an_error_that_says_what_to_try(third, few, output):
    trainer = trainer_of(third, few)
    Crowded(trainer, 0)
    with pytest.raises(StudyError, match=r"one question at a time .* gradient_checkpointing"):
        trainer.fit()
