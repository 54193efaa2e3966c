"""Runs that are killed before any change of a file, damaged, or short of room, and then go on."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from random import Random

import pytest
from damages import DAMAGES, killed_after, killed_at
from smoke_runs import CHANGES, killed_in_the_third_epoch, of_interest, trainer_of

from docfloqa.files import DiskFullError
from docfloqa.runs.run import Run
from docfloqa.settings import Settings

SEED = int(os.environ.get("SEED", "1"))
KILLS = 24


def fit(settings: Settings, dataset) -> Run:
    return trainer_of(settings, dataset).fit()


def test_killed_before_a_change_of_a_file(undisturbed_third, third, few, tmp_path, monkeypatch, tell):
    rng, killed, runs, lost = Random(SEED), 0, 0, 0
    while killed < KILLS:
        runs += 1
        output = tmp_path / str(runs)
        monkeypatch.setenv("DOCFLOQA_OUTPUT", str(output))
        # Until one of them gets to the end, whose last changes come after fewer than a whole run's.
        while killed < KILLS and killed_at(rng.randint(1, CHANGES), output / "reports", lambda: fit(third, few)):
            killed += 1
        run = fit(third, few)
        lost += of_interest(run) != undisturbed_third or bool([*run.folder.glob("*.damaged")])
    tell(f"seed {SEED}: faults injected {killed}, survived {killed - lost}, lost {lost} ({runs} runs)")
    assert lost == 0


def test_killed_at_any_time(undisturbed_third, third, few, tmp_path, monkeypatch, tell):
    """In the middle of a step, of an answer, of a file that is written without Python."""
    rng, killed, runs, lost, longest = Random(SEED), 0, 0, 0, 0.0
    while killed < KILLS:
        runs += 1
        output = tmp_path / str(runs)
        monkeypatch.setenv("DOCFLOQA_OUTPUT", str(output))
        while killed < KILLS and killed_after(rng.uniform(0, max(2.0, longest)), lambda: fit(third, few)):
            killed += 1
        begun = time.monotonic()
        run = fit(third, few)
        longest = max(longest, time.monotonic() - begun)
        lost += of_interest(run) != undisturbed_third or bool([*run.folder.glob("*.damaged")])
    tell(f"seed {SEED}: faults injected {killed}, survived {killed - lost}, lost {lost} ({runs} runs)")
    assert lost == 0


# Of a run that was killed in its third epoch, and of one that is complete.
UNFINISHED = (
    "run.json epochs/epoch-0001.parquet epochs/epoch-0002.json best_model/model.safetensors "
    "last/model.safetensors last/optimizer.pt last/scheduler.pt last/rng_state.pth last/trainer_state.json "
    "last/checksums.json both/optimizer.pt"
).split()
COMPLETE = "run.json epochs.csv predictions.parquet wrong_pages.parquet model/model.safetensors".split()


def damaged(run: Run, name: str, damage) -> None:
    """Damage a file of a run; "last/" is in the last checkpoint, "both/" in the last two."""
    folder, _, file = name.rpartition("/")
    checkpoints = sorted(run.checkpoints.glob("*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for place in {"last": checkpoints[-1:], "both": checkpoints}.get(folder, [run.folder / folder]):
        damage(place / file)


def test_every_kind_of_damaged_file_is_named_and_made_again(undisturbed_third, third, few, tmp_path, monkeypatch, tell):
    injected, survived = 0, 0
    for stage, names in (("unfinished", UNFINISHED), ("complete", COMPLETE)):
        monkeypatch.setenv("DOCFLOQA_OUTPUT", str(tmp_path / stage))
        if stage == "unfinished":
            killed_in_the_third_epoch(third, few, tmp_path)
        else:
            fit(third, few)
        for place, name in enumerate(names):
            damage = DAMAGES[place % len(DAMAGES)]
            copy = tmp_path / f"{stage}-{place}"
            shutil.copytree(tmp_path / stage, copy)
            monkeypatch.setenv("DOCFLOQA_OUTPUT", str(copy))
            damaged(trainer_of(third, few).run, name, damage)
            injected += 1
            with pytest.warns(UserWarning, match=rf"{Path(name).name}.* is damaged|{Path(name).stem}.* is damaged"):
                run = fit(third, few)
            assert of_interest(run) == undisturbed_third, name
            assert [*run.folder.glob("*.damaged")], name
            survived += 1
            shutil.rmtree(copy)
    tell(f"files damaged {injected}, noticed and made again {survived}, lost {injected - survived}")


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory, just large enough for the run of a third and what is drawn and cached for it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=110m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs root, to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_fills_up_in_the_second_epoch(undisturbed_third, third, few, small_disk, monkeypatch, tell):
    monkeypatch.setenv("DOCFLOQA_OUTPUT", str(small_disk))
    # On a disk like this one nothing is cached, and states that are computed with a batch are rounded in another way.
    monkeypatch.setattr("docfloqa.training.vision_cache.SPARE_BYTES", 0)
    trainer = trainer_of(third, few)
    ballast, evaluate = small_disk / "ballast", trainer.evaluate

    def fill_up(*arguments, **further):
        if trainer.run.has_epoch(1):
            free = shutil.disk_usage(small_disk).free
            # Room for the answers, not for the checkpoint after them.
            ballast.write_bytes(bytes(free - 2**20))
        return evaluate(*arguments, **further)

    trainer.evaluate = fill_up
    with pytest.raises(DiskFullError, match=r"needs \d+\.\d MiB more on the disk of .*of which \d\.\d MiB are free"):
        trainer.fit()
    # With the disk still full the run is not even begun, and nothing is damaged.
    with pytest.raises(DiskFullError, match="more on the disk"):
        fit(third, few)
    assert trainer.run.has_epoch(1)
    ballast.unlink()
    run = fit(third, few)
    assert of_interest(run) == undisturbed_third and not [*run.folder.glob("*.damaged")]
    tell("disks filled 1, survived 1, lost 0")
