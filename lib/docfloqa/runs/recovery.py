"""Where a run goes on that was interrupted, what of it was damaged meanwhile, and whether it was tested."""

from pathlib import Path
from typing import Any

import pandas as pd

from docfloqa.exceptions import DamagedError
from docfloqa.files import (
    check_files,
    check_folder,
    checksum,
    is_sound,
    read_sealed,
    remove_sealed,
    seal_folder,
    set_aside,
    write_whole,
)
from docfloqa.runs.run import BEST_MODEL, COMPLETE, LAST_MODEL, RECORD, Run, read_record
from docfloqa.runs.tables import TEST_ANSWERS, is_packed


def refresh(run: Run) -> None:
    """Read a run's record again, for another process may have changed it, and set aside what is damaged.

    Called while nobody else makes the run. A run that was complete and has lost something is not complete then.
    """
    if is_packed(run.folder):
        run.record = read_record(run.folder)
        return
    found = read_sealed(run.folder / RECORD) if is_sound(run.folder / RECORD, read_sealed) else {}
    run.record = {"identity": run.record.get("identity"), **found}
    lost = []
    for name in (*found.get("files", {}), LAST_MODEL, BEST_MODEL):
        path = run.folder / name
        try:
            if path.is_file():
                check_files(run.folder, {name: found["files"][name]})
            else:
                run.epoch_of_model(name)
        except DamagedError as error:
            set_aside(path, error)
            lost.append(name)
    if lost and found.get("status") == COMPLETE:
        run.fail(f"damaged, and set aside: {', '.join(lost)}")


def epochs_kept(run: Run) -> int:
    """How many trained epochs are kept undamaged, from the first one on; a damaged one is set aside."""
    kept = 0
    for epoch in range(run.epochs_begun() + 1):
        answers, row = run.epoch_files(epoch)
        if run.has_epoch(epoch):
            kept += epoch == kept + 1
        # Without its row, which is written last, an epoch was not finished.
        elif row.is_file():
            for path in filter(Path.is_file, (answers, row)):
                set_aside(path, f"{answers} or {row.name} is damaged: they do not fit their checksums", run.folder)
    return kept


def saved_checkpoints(folder: Path) -> list[Path]:
    """The folders in which transformers' trainer keeps what it needs to resume, in the order of their steps."""
    return sorted(folder.glob("checkpoint-*[0-9]"), key=lambda checkpoint: int(checkpoint.name.rpartition("-")[2]))


def seal_checkpoint(folder: Path, step: int, kept: int, **about: Any) -> None:
    """Seal the checkpoint of a step that the trainer has just written, and delete all but the last `kept`.

    In place of the trainer's own limit, which would leave half a checkpoint after a kill.
    """
    seal_folder(folder / f"checkpoint-{step}", **about)
    for checkpoint in saved_checkpoints(folder)[:-kept]:
        remove_sealed(checkpoint)


def last_checkpoint(run: Run) -> Path | None:
    """The checkpoint from which a run goes on; None where it begins anew.

    It is the last undamaged one with everything that was kept until then: all epochs' answers, the best one's weights.
    A damaged one is set aside; one that was not finished, or is of an epoch that is lost, is deleted.
    """
    kept, found, last = epochs_kept(run), None, 0
    for folder in reversed(saved_checkpoints(run.checkpoints)):
        try:
            epoch = check_folder(folder)["epoch"]
        except FileNotFoundError:
            remove_sealed(folder)
        except DamagedError as error:
            set_aside(folder, error, run.folder)
        else:
            best = run.best_epoch(epoch) if found is None and epoch <= kept else None
            # The weights of the epoch itself are in its checkpoint.
            if best and (best == epoch or run.epoch_of_model(BEST_MODEL) == best):
                found, last = folder, epoch
            elif found is None:
                remove_sealed(folder)
    # What comes after it is made again; a later interruption must not find half of the old in it.
    for epoch in range(last + 1, kept + 1):
        for path in reversed(run.epoch_files(epoch)):
            path.unlink()
    return found


def has_test(run: Run) -> bool:
    """Whether the best model, as it is kept, has answered the test questions, and its answers are undamaged."""
    told = run.record.get("test", {})
    try:
        check_files(run.folder, {TEST_ANSWERS: told.get("answers")})
    except DamagedError:
        return False
    return told["weights"] == _weights(run)


def save_test(run: Run, predictions: pd.DataFrame) -> None:
    """Keep the best model's answers to the test questions, and what they come to in the record (`test`)."""
    epoch = run.epoch_of_model(BEST_MODEL)
    predictions.insert(0, "epoch", epoch)
    write_whole(run.folder / TEST_ANSWERS, predictions.to_parquet(index=False))
    told = {"epoch": epoch, "questions": len(predictions), "documents": predictions["document_id"].nunique()}
    told |= {metric: float(predictions[metric].mean()) for metric in ("anls", "exact_match")}
    run.update(test=told | {"answers": checksum(run.folder / TEST_ANSWERS), "weights": _weights(run)})


def _weights(run: Run) -> list[str]:
    return [checksum(path) for path in sorted((run.folder / BEST_MODEL).glob("*.safetensors"))]
