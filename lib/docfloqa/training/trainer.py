"""One run: evaluate, train with transformers' Seq2SeqTrainer, evaluate after every epoch, resume."""

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import PrinterCallback, TrainerState
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME

from docfloqa.data.hub import pinned
from docfloqa.data.load import data_checksum, draw_documents, load_checked
from docfloqa.data.novelty import PagesRead
from docfloqa.data.schema import SPLITS, TEST
from docfloqa.exceptions import ModelError, RunError
from docfloqa.files import folder_bytes, room_for
from docfloqa.metrics import METRICS
from docfloqa.model.device import compute_device, describe_device, peak_memory, require_device, uses_static_shapes
from docfloqa.model.florence import Florence2ForDocVQA, generation_config, load_florence, weights_checksum
from docfloqa.model.freezing import freeze
from docfloqa.model.processes import join_processes
from docfloqa.runs.recovery import has_test, last_checkpoint, refresh, save_test
from docfloqa.runs.run import BEST_MODEL, LAST_MODEL, Run
from docfloqa.settings import Settings
from docfloqa.training.arguments import CHECKPOINTS, RunProgress, training_arguments, warmup_steps
from docfloqa.training.batches import NOTHING, EpochSampler, Pages, QuestionCollator
from docfloqa.training.evaluation import evaluate
from docfloqa.training.schedules import AutoRGN, GradualUnfreezing, set_rates
from docfloqa.training.steps import CapturedSteps, DivergedError, StepTrainer
from docfloqa.training.vision_cache import ResidentPages, cache_states

# Of an answer with its question and scores, and of the processor in every model folder.
ANSWER_BYTES, PROCESSOR_BYTES = 1000, 2**22


class DocVQATrainer(StepTrainer):
    """transformers' trainer on questions that share pages, with the study's evaluation and record (`run`).

    What is trained is in `trainable`. `loaded` are a model and its processor in place of the settings' own.
    """

    def __init__(self, settings: Settings, dataset: DatasetDict, checks: dict | None = None, loaded=None):
        self.settings, self.checks = settings, checks
        model, processor = loaded or load_florence(settings.model, settings.prefix)
        self.run = Run.open(settings, weights_checksum(model), data_checksum(dataset))
        self.trainable = freeze(model, settings)
        # As every model that the run saves will decode; refused before any work where it cannot.
        model.generation_config = generation_config(model, settings.max_new_tokens, settings.num_beams)
        model.vision_checkpointing = settings.gradient_checkpointing
        arguments = training_arguments(settings, self.run)
        if arguments.process_index:
            self.run = replace(self.run, writes=False)
        self.images = {split: Pages(dataset[split], processor) for split in SPLITS}
        static = uses_static_shapes(settings, arguments.world_size)
        common = {"shuffled_questions": settings.shuffled_questions, "static_shapes": static}

        def collator(split: str, rows: Dataset | None = None, wrong: bool = False) -> QuestionCollator:
            rows, pages = rows or dataset[split], self.images.get(split)
            return QuestionCollator(rows, model, processor, settings.prefix, pages, wrong, **common)

        self.training_collator, self.validation_collator = collator("train"), collator("validation")
        self.control_collator, self.subset_collator = collator("validation", wrong=True), self.validation_collator
        self.test_collator = collator(TEST) if TEST in dataset else None
        if (settings.eval_questions or len(dataset["validation"])) < len(dataset["validation"]):
            some = draw_documents(dataset["validation"], settings.eval_questions)
            self.subset_collator = collator("validation", some)
        text = model.config.text_config
        # What processes tell each other, what is computed again, and layers dropped by chance cannot be captured.
        alone = arguments.world_size == 1 and not settings.gradient_checkpointing
        # A graph begins with gradients at zero, and scales no loss.
        alone &= settings.gradient_accumulation_steps == 1 and not arguments.fp16
        # It holds the gradients of what trains when it is captured.
        alone &= settings.unfreezing == "at_once"
        drops = text.encoder_layerdrop or text.decoder_layerdrop
        captures = static and compute_device().type == "cuda" and alone and not drops
        self.captured = CapturedSteps() if captures else None
        self.micro_batch: int | None = None  # questions that go through at once; None is the whole batch
        self.loss_sum, self.loss_tokens, self.epoch_started = 0.0, 0, 0.0
        self.unchecked: tuple[Tensor, Tensor, str] | None = None
        self.schedule: dict[str, float] = {}
        self.progress = RunProgress(self)
        super().__init__(
            model=model,
            args=arguments,
            # The collator turns indices into a batch. The last one is at index `NOTHING`.
            train_dataset=[*range(len(dataset["train"])), NOTHING],
            eval_dataset=range(len(dataset["validation"])),
            data_collator=self.training_collator,
            processing_class=processor,
            callbacks=[self.progress],
        )
        # Its dictionaries would be printed between the bars.
        self.remove_callback(PrinterCallback)
        if settings.unfreezing != "at_once":
            self.add_callback(GradualUnfreezing(model, settings))
        if settings.auto_rgn:
            self.add_callback(AutoRGN(self))
        for callback in self.callback_handler.callbacks:
            # Else in the folder of checkpoints, which are deleted.
            if isinstance(callback, TensorBoardCallback) and not callback.logging_dir:
                callback.logging_dir = str(self.run.folder / "tensorboard")

    def fit(self) -> Run:
        """Make the run from the last epoch kept; a complete one is left as it is, one in the making waited for.

        Raises `DivergedError` on a loss that is not finite, `RunError` where the run that it goes on from is not
        complete, `DiskFullError` where there is not enough room, and `StudyError` for a model beyond the memory.
        """
        with self.run.hold():
            # What is on the disk is judged by one process, before any of them writes.
            first = self.is_world_process_zero()
            [found] = broadcast_object_list([self._found() if first else None])
            if found:
                with room_for(self.run.folder, self._bytes_needed() if first else 0, f"run {self.run.id}"):
                    self._fit(*found)
        return self.run

    def _found(self) -> tuple[str | None, bool] | None:
        """The last checkpoint, and whether the run was evaluated before training; None where it is complete."""
        refresh(self.run)
        if self.run.is_complete():
            self.run.tidy()
            return None
        # First, since it deletes what is of no use.
        last = last_checkpoint(self.run)
        return last and str(last), self.run.has_epoch(0)

    def _fit(self, last: str | None, evaluated: bool) -> None:
        run = self.run
        # As if begun earlier by what the legs before an interruption took.
        self.started = time.perf_counter() - run.record.get("seconds", 0.0)
        self.micro_batch = run.record.get("micro_batch")
        about = {"device": describe_device(), "processes": self.args.world_size, "data_checks": self.checks}
        run.start(freezing=vars(self.trainable), **about)
        if self.is_world_process_zero():
            self.training_collator.warn_of_long_answers("training", self.settings.max_new_tokens)
            self.validation_collator.warn_of_long_answers("validation", self.settings.max_new_tokens)
        self._start_from_predecessor()
        # Kept with the model wherever it is copied to.
        self.model.config.pages_read = vars(PagesRead.of(self.images["train"], self.images["validation"]))
        try:
            self.use_states()
            if not evaluated:
                self.evaluate()
            steps = int(last.rpartition("-")[2]) if last else 0
            # The trainer would make a further step.
            if last and (steps == self.settings.max_steps or self.stops_after(run.epochs_begun())):
                self._load_from_checkpoint(last)
                self.state = TrainerState.load_from_json(str(Path(last, TRAINER_STATE_NAME)))
                self.keep_best(self.epoch)
            else:
                self.train(resume_from_checkpoint=last)
            run.update(cuda_graphs=len(self.captured.graphs) if self.captured else 0)
            self._answer_the_rest(self.epoch, self.model)
            self.progress.report(self.settings.epochs, "evaluating on wrong pages")
            control = self.answers(self.control_collator)
        finally:
            self._use(self.images, vision_start=0)
        self.accelerator.wait_for_everyone()
        if (best := run.best_epoch(self.epoch)) != self.epoch:
            self._answer_the_rest(best)
        self._answer_the_test()
        if self.is_world_process_zero():
            run.save_model(self.model, self.processing_class, LAST_MODEL, self.epoch)
            run.finish(control, self.epoch, seconds=self._seconds(), peak_memory=peak_memory())

    def _bytes_needed(self) -> int:
        """What the run still writes, at most: checkpoints (one more while it is written), models, answers."""
        weights = sum(tensor.nbytes for tensor in self.model.parameters())
        # AdamW keeps two numbers for every parameter that it trains.
        moments = sum(2 * tensor.nbytes for tensor in self.model.parameters() if tensor.requires_grad)
        kept = min(CHECKPOINTS + 1, self.settings.epochs) * (weights + moments) + 2 * weights
        tested = len(self.test_collator.rows) if self.test_collator else 0
        answers = 2 * ANSWER_BYTES * (len(self.eval_dataset) * (self.settings.epochs + 2) + tested)
        return max(0, kept + answers + PROCESSOR_BYTES - folder_bytes(self.run.folder))

    def stops_after(self, epoch: int) -> bool:
        """Whether training ends early after this epoch, which is kept."""
        patience = self.settings.early_stopping_patience
        return patience is not None and epoch - self.run.best_epoch(epoch) >= patience

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, or was last; one that the last step ended before its end counts."""
        return math.ceil(self.state.epoch or 0)

    def _seconds(self) -> float:
        return round(time.perf_counter() - self.started, 1)

    def _start_from_predecessor(self) -> None:
        if not (before := self.run.predecessor):
            return
        try:
            if not before.is_complete():
                raise ModelError("it is not complete")
            weights, _ = load_florence(before.folder / LAST_MODEL, self.settings.prefix)
        except ModelError as error:
            needed = f"this run goes on from the last weights of {before.id} in {before.folder.parent}"
            raise RunError(f"{needed}: {error}; make that run first (a sweep does so)") from None
        self.model.load_state_dict(weights.state_dict())

    def use_states(self) -> None:
        """Let cached states stand for the images from here on, where the settings allow it; fills the cache."""
        started = time.perf_counter()
        self.progress.report(0, "caching")
        frozen = self.trainable.frozen_prefix
        states, boundary = cache_states(self.images, self.model, frozen, self.settings, self.progress.still_going)
        self._use(states, boundary)
        if any(isinstance(pages, ResidentPages) for pages in states.values()):
            # Worker processes would have no access to them, and no work left.
            self.args.dataloader_num_workers, self.args.dataloader_pin_memory = 0, False
        self.run.update(cached_sub_blocks=boundary, caching_seconds=round(time.perf_counter() - started, 3))

    def _use(self, pages: dict[str, Pages], vision_start: int) -> None:
        self.model.vision_start = vision_start
        self.training_collator.states = pages["train"]
        for collator in (self.validation_collator, self.control_collator, self.subset_collator):
            collator.states = pages["validation"]

    def answers(self, collator: QuestionCollator) -> pd.DataFrame:
        """The answers to a split's questions (see `docfloqa.training.evaluation`)."""
        try:
            return evaluate(self.model, collator, self.settings, self.progress.still_going)
        except torch.OutOfMemoryError:
            if not self.captured or self.captured.failed:
                raise
        self.captured.release()
        return self.answers(collator)

    def _answer_the_rest(self, epoch: int, model: Florence2ForDocVQA | None = None) -> None:
        """Keep the answers to all questions after an epoch, of its model or else the best one."""
        if self.subset_collator is self.validation_collator:
            return
        model = model or self.run.load()[0]
        predictions = evaluate(model, self.validation_collator, self.settings, self.progress.still_going)
        if self.is_world_process_zero():
            row = self.run.epoch_row(epoch)
            kept = row.keys() - {*METRICS, "val_loss", "epoch"}
            self.run.save_epoch(epoch, predictions, **{name: row[name] for name in kept})

    def _answer_the_test(self) -> None:
        """Keep the best model's answers to the test questions; what it has answered is not asked again."""
        [answered] = broadcast_object_list([self.test_collator is None or has_test(self.run)])
        if answered:
            return
        self.progress.report(self.settings.epochs, "answering the test questions")
        # As it is kept, so that who reads it again gets these answers.
        predictions = evaluate(self.run.load()[0], self.test_collator, self.settings, self.progress.still_going)
        if self.is_world_process_zero():
            save_test(self.run, predictions)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Answer the validation questions, keep the epoch in the run, and return its figures.

        Raises `DivergedError` where the last training loss or a validation loss is not finite: nothing is kept then.
        """
        self._check_loss()
        epoch, figures = self.epoch, {}
        self.progress.report(epoch, "evaluating")
        started = time.perf_counter()
        if epoch:
            seconds = started - self.epoch_started
            # The last step may have ended the epoch before its end.
            trained = len(self.training_collator.rows) * (self.state.epoch - epoch + 1)
            losses, tokens = np.sum(gather_object([(float(self.loss_sum), int(self.loss_tokens))]), axis=0)
            figures["train_loss"] = losses / tokens
            figures["train_seconds"] = round(seconds, 3)
            figures["train_samples_per_second"] = round(trained / seconds, 3)
        some = epoch and self.subset_collator is not self.validation_collator
        predictions = self.answers(self.subset_collator if some else self.validation_collator)
        if not np.isfinite(predictions["loss_sum"]).all():
            # The gradients of the last step may have been too large, though its loss was not.
            when = f"after step {self.state.global_step}" if epoch else "of the model before training"
            raise DivergedError(f"the validation loss {when} is not finite")
        if not self.is_world_process_zero():
            return {}
        figures["evaluation_seconds"] = round(time.perf_counter() - started, 3)
        if some:
            figures["subset_anls"] = predictions["anls"].mean()
            figures["subset_loss"] = predictions["loss_sum"].sum() / predictions["tokens"].sum()
        row = self.run.save_epoch(epoch, predictions, **figures)
        if self.settings.report_to:
            self.log({"eval_loss": row["val_loss"], **{f"eval_{name}": row[name] for name in METRICS}})
        self.run.update(seconds=self._seconds(), schedule={**self.schedule, "steps_done": self.state.global_step})
        self.progress.show(row)
        return row

    def keep_best(self, epoch: int) -> None:
        """Keep the weights as the best model if this epoch is the best so far and they are not kept yet."""
        run = self.run
        if run.has_epoch(epoch) and run.best_epoch(epoch) == epoch != run.epoch_of_model(BEST_MODEL):
            run.save_model(self.model, self.processing_class, BEST_MODEL, epoch)
            run.update(best_epoch=epoch)

    def create_optimizer(self, model=None):
        """The trainer's, with groups of parameters where some have learning rates of their own."""
        optimizer = super().create_optimizer(model)
        set_rates(optimizer, self.model, self.settings)
        return optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        """The trainer's, with a warm-up as `warmup_steps` bounds it."""
        self.args.warmup_steps = warmup_steps(self.settings, num_training_steps)
        before = {"highest_learning_rate": 0.0} | self.run.record.get("schedule", {})
        self.schedule = before | {"steps": num_training_steps, "warmup_steps": self.args.warmup_steps}
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        chosen = self.settings.batching, self.settings.seed, self.settings.batch_size, self.args.world_size
        return EpochSampler(self.training_collator.pages, *chosen)


def make_run(settings: Settings) -> Run:
    """Make the run of these settings in this process, or in all of those that torchrun has started for it.

    One that is complete is left as it is, one whose loss is not finite recorded as failed. Raises what loading data
    and model raise, `NoGPUError`, and what `DocVQATrainer.fit` raises otherwise.
    """
    # Joins the processes of torchrun, where it has started this one.
    state = join_processes(cpu=compute_device().type == "cpu")
    require_device(settings)
    # Data is drawn, downloaded and checked once; the others read what is on the disk then.
    with state.main_process_first():
        settings = pinned(settings)
        dataset, checks = load_checked(settings)
    trainer = DocVQATrainer(settings, dataset, vars(checks))
    try:
        return trainer.fit()
    except DivergedError as error:
        trainer.run.fail(f"{type(error).__name__}: {error}")
        return trainer.run
