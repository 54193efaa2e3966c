"""What the code computed when its numbers (`docfloqa.versions`) were last raised, in `golden.json`.

    .venv/bin/python tests/golden.py     # after a number was raised: writes what it computes now

Values are coarse enough that another processor's rounding does not show.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from smoke_runs import trainer_of

from docfloqa import versions
from docfloqa.data.degradations import DEGRADATIONS, degrade
from docfloqa.data.images import as_page
from docfloqa.data.load import load_docvqa
from docfloqa.data.synth.dataset import document_rows, draw_page, page_seed
from docfloqa.model.florence import load_florence
from docfloqa.settings import Settings
from docfloqa.training.batches import Pages

FILE = Path(__file__).with_name("golden.json")
# Grey levels of a mean over many pixels; of a loss, a share.
GREY, SHARE = 0.5, 2e-3


def grey(page: Image.Image) -> list[float]:
    """Mean and standard deviation of a page, and its size."""
    levels = np.asarray(page.convert("L"), dtype=float)
    return [round(levels.mean(), 2), round(levels.std(), 2), *page.size]


def drawing() -> dict[str, Any]:
    """Texts and pages of the first documents of every kind of drawing."""
    found = {}
    for kind in ("input", "layout", "content", "full"):
        for document in range(2):
            rng = page_seed(kind, 1, "train", document)
            page = draw_page(rng, kind, "train")
            rows = document_rows(rng, page, "train", document)
            found[f"{kind} {document}"] = {
                "grey": grey(page.image),
                "texts": [[row["question"], *row["answers"]] for row in rows],
            }
    return found


def pages() -> dict[str, Any]:
    """What the model is given of odd images, and what the frozen beginning of its vision encoder makes of one."""
    ramp = np.add.outer(np.arange(300), np.arange(420)) / 720
    images = {
        "grey": Image.fromarray((255 * ramp).astype(np.uint8)),
        "16 bits": Image.fromarray((65535 * ramp).astype(np.uint16)),
        "transparent": Image.merge("LA", [Image.fromarray((255 * ramp).astype(np.uint8))] * 2),
    }
    found: dict[str, Any] = {name: grey(as_page(image)) for name, image in images.items()}
    model, processor = load_florence("data/florence2-tiny")
    rows = load_docvqa(Settings.profile("smoke"))["train"]
    images = Pages(rows, processor)
    page = images.stack(images.names[:1])
    blocks = page.float().unflatten(2, (4, -1)).unflatten(4, (4, -1)).mean(dim=(1, 3, 5))
    found["resized"] = [round(value, 2) for value in blocks.flatten().tolist()]
    with torch.no_grad():
        for stop in (1, 4, None):
            states = model.vision_states(page, 0, stop)
            found[f"states {stop}"] = [round(states.mean().item(), 4), round(states.std().item(), 4)]
    return found


def training() -> dict[str, Any]:
    """Losses and scores of a run of seconds."""
    settings = Settings.profile("smoke", vision_trainable=0.66, precision="fp32")
    dataset = load_docvqa(settings)
    epochs = trainer_of(settings, dataset).fit().epochs()
    columns = ["val_loss", "train_loss", "similarity_first"]
    # No training loss before training.
    rows = epochs[columns].round(4).astype(object).where(epochs[columns].notna(), None)
    return {f"epoch {epoch}": row for epoch, row in zip(epochs["epoch"], rows.values.tolist(), strict=True)}


def degradations() -> dict[str, Any]:
    """A page under every degradation, at every severity."""
    page = draw_page(page_seed("input", 1, "train", 0), "input", "train").image
    return {
        f"{kind} {severity}": grey(degrade(page, kind, severity, "golden"))
        for kind in DEGRADATIONS
        for severity in (1, 2, 3)
    }


COMPUTE: dict[str, Callable[[], dict[str, Any]]] = {
    "DRAWING": drawing,
    "PAGES": pages,
    "TRAINING": training,
    "DEGRADATIONS": degradations,
}


def trouble(name: str, kept: dict[str, Any], found: dict[str, Any]) -> str | None:
    """What to do where the values of a number are not those that were kept; None where they are."""
    number = getattr(versions, name)
    if kept["number"] != number:
        return f"{name} is {number}, golden.json is of {kept['number']}: run .venv/bin/python tests/golden.py"
    changed = [key for key in kept["values"].keys() | found.keys() if not same(kept["values"].get(key), found.get(key))]
    if changed:
        return (
            f"results have changed ({', '.join(sorted(changed)[:5])}) and {name} is still {number}: raise {name} in "
            "lib/docfloqa/versions.py, then run .venv/bin/python tests/golden.py"
        )
    return None


def same(kept: Any, found: Any) -> bool:
    """Texts to the letter, numbers but for rounding."""
    if isinstance(kept, dict) and isinstance(found, dict):
        return kept.keys() == found.keys() and all(same(kept[key], found[key]) for key in kept)
    if isinstance(kept, list) and isinstance(found, list):
        return len(kept) == len(found) and all(map(same, kept, found))
    if isinstance(kept, float) and isinstance(found, float):
        # A mean of grey levels is large, a loss or a state is not.
        return abs(kept - found) <= (GREY if abs(kept) > 10 else max(SHARE * abs(kept), SHARE))
    return kept == found


def main() -> None:
    """Write the values of now."""
    golden = {name: {"number": getattr(versions, name), "values": compute()} for name, compute in COMPUTE.items()}
    FILE.write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DOCFLOQA_OUTPUT"] = scratch
        main()
