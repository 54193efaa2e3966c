"""An estimate with processes of its own, for real."""

from docfloqa.files import output_folder
from docfloqa.settings import Settings
from docfloqa.study.estimate import estimate


def test_a_smoke_study_is_estimated_and_leaves_only_its_documents(output, tiny):
    settings = Settings.profile("smoke")
    result = estimate(settings, ratios=[0, 1], seeds=[0, 1])
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
