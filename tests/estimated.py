"""What an estimate of a smoke study must say, wherever it was calibrated."""

from docfloqa.files import output_folder
from docfloqa.settings import Settings
from docfloqa.study.estimate import Estimate, estimate


def estimated_smoke_study(output, tiny) -> Estimate:
    """The estimate of two ratios and two seeds, looked at; nothing but the documents is left behind."""
    result = estimate(Settings.profile("smoke"), ratios=[0, 1], seeds=[0, 1])
    rows = result.kinds.set_index("vision_trainable")
    assert rows["runs"].tolist() == [2, 2]
    assert result.stand_ins == []
    assert rows.loc[1.0, "training_minutes"] > rows.loc[0.0, "training_minutes"] > 0
    parts = rows[["caching_minutes", "training_minutes", "evaluation_minutes"]].sum(axis=1)
    assert (rows["run_minutes"] > parts).all()
    assert result.memory_gib > 0.2
    weights = 4 * sum(weight.numel() for weight in tiny[0].parameters())
    assert result.disk_gib * 2**30 > 8 * weights, "eight models are kept, the last and the best of four runs"
    assert {path.name for path in output_folder().iterdir()} == {"data"}
    assert not (output / "data" / "cache" / "vision").exists()
    assert "minutes" in str(result)
    return result
