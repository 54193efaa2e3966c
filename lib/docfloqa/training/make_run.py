"""One run without a notebook: in this process, or in all of those that torchrun has started for it."""

from accelerate import PartialState

from docfloqa.data.hub import pinned
from docfloqa.data.load import load_checked
from docfloqa.model.device import compute_device, require_device
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.training.trainer import DivergedError, DocVQATrainer


def make_run(settings: Settings) -> Run:
    """Make the run of these settings as `02_finetune` does; one that is complete is left as it is.

    A run whose loss is not finite is recorded as failed. Raises what loading data and model raise, `NoGPUError`, and
    what `DocVQATrainer.fit` raises otherwise.
    """
    # Joins the processes of torchrun, where it has started this one.
    state = PartialState(cpu=compute_device().type == "cpu")
    require_device(settings)
    # Data is drawn, downloaded and checked once; the others read what is on the disk then.
    with state.main_process_first():
        settings = pinned(settings)
        dataset, checks = load_checked(settings)
    trainer = DocVQATrainer(settings, dataset, checks.to_dict())
    try:
        return trainer.fit()
    except DivergedError as error:
        trainer.run.fail(f"{type(error).__name__}: {error}")
        return trainer.run
