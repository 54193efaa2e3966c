"""How far a run is, read from its folder while it is made, and an epoch of it as one line."""

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from docfloqa.exceptions import DamagedError
from docfloqa.files import read_sealed
from docfloqa.runs.run import PROGRESS, is_complete
from docfloqa.runs.tables import EPOCHS, read_table


def read_progress(folder: Path) -> dict[str, Any]:
    """What a running run says of itself; a run that has said nothing yet is starting."""
    try:
        return json.loads((folder / PROGRESS).read_text())
    except FileNotFoundError:
        return {"epochs_done": 0.0, "doing": "starting", "time": time.time()}


def epochs_so_far(folder: Path) -> list[dict[str, float]]:
    """The rows of `epochs.csv` of a run that is complete or not; none where it has not been evaluated."""
    if is_complete(folder):
        return read_table(folder, EPOCHS).to_dict("records")
    rows = []
    for path in sorted((folder / "epochs").glob("*.json")):
        # What is damaged the run makes again; what is gone is in its epochs.csv at the next look.
        with suppress(DamagedError, FileNotFoundError):
            rows.append(read_sealed(path)["row"])
    return rows


def scores(row: dict[str, float]) -> str:
    """An epoch's ANLS in % and its validation loss in nats per token, as a bar or a line shows them."""
    return f"ANLS {100 * row['anls']:.1f} loss {row['val_loss']:.2f}"


def epoch_line(run: str, epochs: int, row: dict[str, float], seconds_left: float) -> str:
    """One epoch of a run, as in "vision100 epoch 3/8 ANLS 45.9 loss 0.94, 2 min left"."""
    line = f"{run} epoch {row['epoch']:.0f}/{epochs} {scores(row)}"
    for least, seconds, digits, unit in ((7200, 3600, 1, "h"), (90, 60, 0, "min"), (1, 1, 0, "s")):
        if seconds_left >= least:
            return f"{line}, {seconds_left / seconds:.{digits}f} {unit} left"
    return line
