"""The answers of a run's best model to the test questions: asked once, kept for as long as they are that model's."""

import pandas as pd

from docfloqa import files
from docfloqa.exceptions import DamagedError
from docfloqa.runs.run import BEST_MODEL, Run
from docfloqa.runs.tables import TEST_ANSWERS

# What the record says of them; the answers themselves have every metric.
RECORDED = ("anls", "exact_match")


def has_test(run: Run) -> bool:
    """Whether the best model, as it is kept, has answered the test questions, and its answers are undamaged."""
    told = run.record.get("test", {})
    try:
        files.check_files(run.folder, {TEST_ANSWERS: told.get("answers")})
    except DamagedError:
        return False
    return told["weights"] == _weights(run)


def save_test(run: Run, predictions: pd.DataFrame) -> None:
    """Keep the best model's answers to the test questions, and what they come to in the record (`test`)."""
    epoch = run.epoch_of_model(BEST_MODEL)
    predictions.insert(0, "epoch", epoch)
    files.write_whole(run.folder / TEST_ANSWERS, predictions.to_parquet(index=False))
    run.update(
        test={
            "epoch": epoch,
            "questions": len(predictions),
            "documents": predictions["document_id"].nunique(),
            **{metric: float(predictions[metric].mean()) for metric in RECORDED},
            "answers": files.checksum(run.folder / TEST_ANSWERS),
            "weights": _weights(run),
        }
    )


def _weights(run: Run) -> list[str]:
    return [files.checksum(path) for path in sorted((run.folder / BEST_MODEL).glob("*.safetensors"))]
