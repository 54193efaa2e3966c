"""How far a run is: for whoever reads the notebook, and for whoever watches from outside."""

from __future__ import annotations

import time

from tqdm.auto import tqdm
from transformers import TrainerCallback

from docfloqa.runs.recovery import seal_checkpoint

SECONDS = 1.0  # between two words, at least


class RunProgress(TrainerCallback):
    """A progress bar over the steps of a `DocVQATrainer`, and the same in a file; seals what it has saved."""

    def __init__(self, trainer):
        self.trainer, self.bar = trainer, None
        self.done, self.doing, self.reported = 0.0, "starting", 0.0

    def report(self, done: float, doing: str) -> None:
        """Write how many epochs are done and what is being done."""
        self.done, self.doing, self.reported = done, doing, time.monotonic()
        self.trainer.run.report_progress(done, doing)

    def still_going(self) -> None:
        """Write that what was begun goes on; at most once in `SECONDS`."""
        if time.monotonic() - self.reported > SECONDS:
            self.report(self.done, self.doing)

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar, where a resumed run left off."""
        if state.global_step and state.is_world_process_zero:
            # The interruption may have come between a checkpoint and the best model.
            self.trainer.keep_best(round(state.epoch))
        self.bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc=self.trainer.run.id,
            unit="step",
            disable=not state.is_world_process_zero,
        )

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Begin an epoch's loss and clock."""
        self.trainer.loss_sum, self.trainer.loss_tokens = 0.0, 0
        self.trainer.epoch_started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar and the file."""
        self.bar.update(state.global_step - self.bar.n)
        self.done = self.trainer.run.settings.epochs * state.global_step / state.max_steps
        self.doing = "training"
        self.still_going()

    def on_save(self, args, state, control, **kwargs):
        """Seal the checkpoint; only then keep the best model, which can be made again from it."""
        # Every process keeps the state of its random numbers there.
        self.trainer.accelerator.wait_for_everyone()
        if not state.is_world_process_zero:
            return
        epoch = round(state.epoch)
        seal_checkpoint(self.trainer.run.checkpoints / f"checkpoint-{state.global_step}", epoch)
        self.trainer.keep_best(epoch)

    def show(self, row: dict[str, float]) -> None:
        """Show an epoch's scores beside the bar."""
        if self.bar is not None:
            self.bar.set_postfix(anls=f"{row['anls']:.3f}", val_loss=f"{row['val_loss']:.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.bar.close()
