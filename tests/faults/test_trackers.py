"""What trackers that take long to import were told of a run."""

import pytest
from smoke_runs import trainer_of

from docfloqa.settings import Settings

pytest.importorskip("mlflow", reason="pip install 'docfloqa[trackers]'")


def test_mlflow_is_told_losses_and_scores_under_the_runs_id(dataset, output, monkeypatch):
    from mlflow import MlflowClient, set_tracking_uri

    address = f"sqlite:///{output / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(output)
    set_tracking_uri(address)
    trackers = ["tensorboard", "mlflow"]
    run = trainer_of(Settings.profile("smoke", report_to=trackers, vision_trainable=0.0), dataset).fit()
    client = MlflowClient(address)
    [told] = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert told.info.run_name == run.id and told.info.status == "FINISHED"
    epochs = run.epochs()
    anls, loss = (client.get_metric_history(told.info.run_id, name) for name in ("eval_anls", "eval_loss"))
    assert [one.value for one in anls] == pytest.approx(epochs["anls"].tolist())
    assert [one.value for one in loss] == pytest.approx(epochs["val_loss"].tolist())
    assert [one.step for one in client.get_metric_history(told.info.run_id, "loss")] == [10]
    assert list((run.folder / "tensorboard").iterdir()), "both were told"
