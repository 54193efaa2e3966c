"""What transformers' trainer is told of a run, and how far the run is: its arguments and its callback."""

import math
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import Seq2SeqTrainingArguments, TrainerCallback

from docfloqa.exceptions import SettingsError, shown
from docfloqa.model.device import compute_device, precision
from docfloqa.runs.progress import epoch_line, scores
from docfloqa.runs.recovery import seal_checkpoint
from docfloqa.runs.run import Run
from docfloqa.settings import Settings

# The last one, and the one before in case it is damaged.
CHECKPOINTS = 2
LOGGED_STEPS = 10  # between two losses that a tracker is told
STEPS_PER_WARM_UP = 5  # at least
PROGRESS_SECONDS = 1.0  # between two words about a run's progress, at least


def training_arguments(settings: Settings, run: Run) -> Seq2SeqTrainingArguments:
    """The trainer's arguments for a run; raises `SettingsError` for settings that its processes cannot share."""
    on_gpu = compute_device().type == "cuda"
    same = "learning_rate weight_decay max_grad_norm seed gradient_accumulation_steps lr_scheduler_type optim".split()
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(run.checkpoints),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        **{name: getattr(settings, name) for name in same},
        bf16=precision(settings) == "bf16",
        # With the scaling of losses that fp16 needs.
        fp16=precision(settings) == "fp16",
        # Named only where it is wanted: newer versions of transformers give it another name.
        **({"gradient_checkpointing": True} if settings.gradient_checkpointing else {}),
        use_cpu=not on_gpu,
        # Every parameter that is trained is used in every step.
        ddp_find_unused_parameters=False,
        dataloader_num_workers=4 if on_gpu else 0,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="steps" if settings.report_to else "no",
        logging_steps=LOGGED_STEPS,
        report_to=list(settings.report_to),
        run_name=run.id,
        project=settings.study,
        # To look at every loss a GPU would have to be waited for; the run itself does, a step later.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
    )
    # An effective batch is the same however many processes share it.
    processes = arguments.world_size
    arguments.per_device_train_batch_size, left = divmod(settings.batch_size, processes)
    if left:
        shared = f"batch_size is {settings.batch_size} and {processes} processes share it"
        raise SettingsError(f"{shared}; allowed is a multiple of {processes}")
    for name, unlike in (("unfreezing", "at_once"), ("auto_rgn", False)):
        if processes > 1 and getattr(settings, name) != unlike:
            raise SettingsError(
                f"{name} is {shown(getattr(settings, name))} and {processes} processes share the run; "
                "allowed is one process"
            )
    if settings.auto_rgn and arguments.fp16:
        # Losses are scaled there until gradients are finite.
        raise SettingsError("auto_rgn is True and the run computes in fp16; allowed are bf16 and fp32")
    # On several GPUs the trainer would split a batch's pages and questions apart.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def warmup_steps(settings: Settings, steps: int) -> int:
    """In how many of so many steps the learning rate rises: a fifth at most, or it would hardly ever be reached."""
    ratio = settings.warmup_ratio
    return min(settings.warmup_steps if ratio is None else math.ceil(ratio * steps), steps // STEPS_PER_WARM_UP)


class RunProgress(TrainerCallback):
    """A progress bar over the steps of a `DocVQATrainer`, and the same in a file; seals what it has saved."""

    def __init__(self, trainer: Any):
        self.trainer, self.bar = trainer, None
        self.done, self.doing, self.reported = 0.0, "starting", 0.0

    def report(self, done: float, doing: str) -> None:
        self.done, self.doing, self.reported = done, doing, time.monotonic()
        self.trainer.run.report_progress(done, doing)

    def still_going(self) -> None:
        """Write that what was begun goes on; at most once in `PROGRESS_SECONDS`."""
        if time.monotonic() - self.reported > PROGRESS_SECONDS:
            self.report(self.done, self.doing)

    def show(self, row: dict[str, float]) -> None:
        """Show the scores of an epoch that was trained: beside the bar, or as a line where there can be none."""
        if self.bar is None:
            return
        self.bar.set_postfix_str(scores(row))
        if self.bar.disable:
            steps_left = self.trainer.state.max_steps - self.trainer.state.global_step
            a_step = (time.monotonic() - self.begun) / (self.trainer.state.global_step - self.bar.n)
            tqdm.write(epoch_line(self.trainer.run.id, self.trainer.settings.epochs, row, steps_left * a_step))

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step and state.is_world_process_zero:
            # The interruption may have come between a checkpoint and the best model.
            self.trainer.keep_best(self.trainer.epoch)
        # Where nothing can be drawn over, as in a file, `show` writes lines.
        shown = {"desc": self.trainer.run.id, "unit": "step", "disable": None if state.is_world_process_zero else True}
        self.bar, self.begun = tqdm(total=state.max_steps, initial=state.global_step, **shown), time.monotonic()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.trainer.loss_sum, self.trainer.loss_tokens = 0.0, 0
        self.trainer.epoch_started = time.perf_counter()

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        schedule, rate = self.trainer.schedule, max(group["lr"] for group in optimizer.param_groups)
        schedule["highest_learning_rate"] = max(schedule["highest_learning_rate"], rate)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(state.global_step - self.bar.n)
        self.done, self.doing = self.trainer.settings.epochs * state.global_step / state.max_steps, "training"
        self.still_going()

    def on_save(self, args, state, control, **kwargs):
        # Every process keeps the state of its random numbers there.
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            epoch = self.trainer.epoch
            seal_checkpoint(self.trainer.run.checkpoints, state.global_step, CHECKPOINTS, epoch=epoch)
            # Only then, since the best model can be made again from it.
            self.trainer.keep_best(epoch)
        control.should_training_stop |= self.trainer.stops_after(self.trainer.epoch)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()
