"""One run: evaluate, train with transformers' Seq2SeqTrainer, evaluate after every epoch, resume."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import Florence2Processor, PrinterCallback, Seq2SeqTrainingArguments, TrainerCallback

from docfloqa.exceptions import DocFloQAError, ModelError, RunError
from docfloqa.files import folder_bytes, room_for
from docfloqa.model.device import compute_device, describe_device, peak_memory, uses_bf16, uses_static_shapes
from docfloqa.model.florence import Florence2ForDocVQA, load_florence
from docfloqa.model.freezing import Trainable
from docfloqa.model.targets import generation_config
from docfloqa.runs.recovery import last_checkpoint, refresh, seal_checkpoint
from docfloqa.runs.run import BEST_MODEL, LAST_MODEL, Run
from docfloqa.settings import Settings
from docfloqa.training.batches import EpochSampler, Pages, QuestionCollator, share_of_batch
from docfloqa.training.evaluation import agreed, evaluate, gathered
from docfloqa.training.steps import CapturedSteps, MicroBatchTrainer
from docfloqa.training.vision_cache import ResidentPages, cache_states

CHECKPOINTS = 2


class Places(Dataset):
    """The places 0, 1, 2, ... of a split's questions; the collator turns places into a batch."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        return place


def training_arguments(settings: Settings, run: Run) -> Seq2SeqTrainingArguments:
    """The trainer's arguments for a run: AdamW, linear schedule, one checkpoint and evaluation an epoch.

    Raises `SettingsError` for a batch that the processes of the run cannot share.
    """
    on_gpu = compute_device().type == "cuda"
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(run.checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup_steps,
        optim="adamw_torch_fused",
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=uses_bf16(settings),
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
        # The last one, and the one before in case it is damaged.
        save_total_limit=CHECKPOINTS,
        logging_strategy="epoch",
        # A loss that is not finite stops the run; the trainer would hide it in the average.
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
    )
    # An effective batch is the same however many processes share it.
    arguments.per_device_train_batch_size = share_of_batch(settings.batch_size, arguments.world_size)
    # On several GPUs the trainer would split a batch's pages and questions apart.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


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


# Of an answer with its question and scores, and of the processor in every model folder.
ANSWER_BYTES, PROCESSOR_BYTES = 1000, 2**22


class DivergedError(DocFloQAError, RuntimeError):
    """The training loss is not finite: names the step, the learning rate and the questions of the batch."""


class DocVQATrainer(MicroBatchTrainer):
    """transformers' trainer on questions that share pages, with the study's evaluation and record."""

    def __init__(
        self,
        run: Run,
        model: Florence2ForDocVQA,
        processor: Florence2Processor,
        dataset: DatasetDict,
        freezing: Trainable,
        checks: dict | None = None,
    ):
        settings = run.settings
        # As every model that the run saves will decode; refused before any work where it cannot.
        model.generation_config = generation_config(model, settings.max_new_tokens, settings.num_beams)
        arguments = training_arguments(settings, run)
        if arguments.process_index:
            run = replace(run, writes=False)
        self.run, self.settings, self.freezing, self.checks = run, settings, freezing, checks
        self.images = {split: Pages(dataset[split], processor) for split in dataset}
        static = uses_static_shapes(settings, arguments.world_size)
        self.training_collator, self.validation_collator, self.control_collator = (
            QuestionCollator(
                dataset[split],
                model,
                processor,
                settings.prefix,
                self.images[split],
                wrong_pages=wrong,
                shuffled_questions=settings.shuffled_questions,
                static_shapes=static,
            )
            for split, wrong in (("train", False), ("validation", False), ("validation", True))
        )
        model.vision_checkpointing = settings.gradient_checkpointing
        self.captured = CapturedSteps() if static and self._can_be_captured(model, arguments) else None
        self.loss_sum, self.loss_tokens, self.epoch_started = 0.0, 0, 0.0
        self.unchecked: list[tuple[Tensor, Tensor, int, float]] = []
        self.progress = RunProgress(self)
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=Places(len(dataset["train"])),
            eval_dataset=Places(len(dataset["validation"])),
            data_collator=self.training_collator,
            processing_class=processor,
            callbacks=[self.progress],
        )
        # Its dictionaries would be printed between the bars.
        self.remove_callback(PrinterCallback)

    def _can_be_captured(self, model: Florence2ForDocVQA, arguments: Seq2SeqTrainingArguments) -> bool:
        # Neither what processes tell each other, nor what is computed again in the backward pass, nor layers that the
        # host drops by chance.
        text = model.config.text_config
        drops = text.encoder_layerdrop or text.decoder_layerdrop
        alone = arguments.world_size == 1 and not self.settings.gradient_checkpointing
        return compute_device().type == "cuda" and alone and not drops

    def fit(self) -> Run:
        """Make the run: the evaluation before training, the epochs, the record; from the last epoch kept.

        A complete run is left as it is; one that another process makes is waited for. Raises `DivergedError` on a
        training loss that is not finite, `RunError` where the run that it goes on from is not complete,
        `DiskFullError` where there is not enough room, and `TooLargeError` for a model beyond the memory.
        """
        with self.run.hold():
            # What is on the disk is judged by one process, before any of them writes.
            complete, last, evaluated = agreed(self._found)
            if not complete:
                needed = self.bytes_needed() if self.is_world_process_zero() else 0
                with room_for(self.run.folder, needed, f"run {self.run.id}"):
                    self._fit(last, evaluated)
        return self.run

    def _found(self) -> tuple[bool, str | None, bool]:
        """Whether the run is complete; else its last checkpoint, and whether it was evaluated before training."""
        run = self.run
        refresh(run)
        if run.is_complete():
            run.tidy()
            return True, None, True
        # First, since it deletes what is of no use.
        last = last_checkpoint(run)
        return False, str(last) if last else None, run.has_epoch(0)

    def _fit(self, last: str | None, evaluated: bool) -> None:
        run = self.run
        # As if begun earlier by what the legs before an interruption took.
        self.started = time.perf_counter() - run.record.get("seconds", 0.0)
        self.micro_batch = run.record.get("micro_batch")
        processes = self.args.world_size
        run.start(
            device=describe_device(),
            processes=processes,
            freezing=vars(self.freezing),
            data_checks=self.checks,
        )
        self.start_from_predecessor()
        try:
            self.use_states()
            if not evaluated:
                self.evaluate()
            self.train(resume_from_checkpoint=last)
            run.update(cuda_graphs=len(self.captured.graphs) if self.captured else 0)
            self.progress.report(self.settings.epochs, "evaluating on wrong pages")
            control = self.answers(self.control_collator)
        finally:
            self._use(self.images, vision_start=0)
        if self.is_world_process_zero():
            run.save_model(self.model, self.processing_class, LAST_MODEL, self.settings.epochs)
            run.finish(control, seconds=self.seconds(), peak_memory=peak_memory())

    def bytes_needed(self) -> int:
        """What the run still writes, at most: checkpoints (one more while it is written), models, answers."""
        weights = sum(tensor.nbytes for tensor in self.model.parameters())
        # AdamW keeps two numbers for every parameter that it trains.
        moments = sum(2 * tensor.nbytes for tensor in self.model.parameters() if tensor.requires_grad)
        kept = min(CHECKPOINTS + 1, self.settings.epochs) * (weights + moments) + 2 * weights
        answers = 2 * ANSWER_BYTES * len(self.eval_dataset) * (self.settings.epochs + 2)
        return max(0, kept + answers + PROCESSOR_BYTES - folder_bytes(self.run.folder))

    def start_from_predecessor(self) -> None:
        """Take over the last weights of the run that this one goes on from, if there is one."""
        before = self.run.predecessor
        if before is None:
            return
        if not before.is_complete() or not (before.folder / LAST_MODEL).is_dir():
            raise RunError(
                f"this run goes on from the weights of {before.id}, which is not complete or has lost its "
                f"{LAST_MODEL}/ in {before.folder.parent}; make that run first (a sweep does so)"
            )
        try:
            weights, _ = load_florence(before.folder / LAST_MODEL, self.settings.prefix)
        except ModelError as error:
            raise RunError(f"{error}, and this run goes on from it; a sweep makes it again") from None
        self.model.load_state_dict(weights.state_dict())

    def answers(self, collator: QuestionCollator) -> pd.DataFrame:
        """The answers to a split's questions (see `docfloqa.training.evaluation`)."""
        return evaluate(self.model, collator, self.settings, self.progress.still_going)

    def use_states(self) -> None:
        """Let cached states stand for the images from here on, where the settings allow it; fills the cache."""
        started = time.perf_counter()
        self.progress.report(0, "caching")
        states, boundary = cache_states(
            self.images, self.model, self.freezing.frozen_prefix, self.settings, self.progress.still_going
        )
        self._use(states, boundary)
        if any(isinstance(pages, ResidentPages) for pages in states.values()):
            # Worker processes would have no access to them, and no work left.
            self.args.dataloader_num_workers, self.args.dataloader_pin_memory = 0, False
        seconds = round(time.perf_counter() - started, 3)
        self.run.update(cached_sub_blocks=self.model.vision_start, caching_seconds=seconds)

    def _use(self, pages: dict[str, Pages], vision_start: int) -> None:
        self.model.vision_start = vision_start
        for collator, split in (
            (self.training_collator, "train"),
            (self.validation_collator, "validation"),
            (self.control_collator, "validation"),
        ):
            collator.states = pages[split]

    def seconds(self) -> float:
        """How long the run has taken so far, whatever was lost to an interruption left out."""
        return round(time.perf_counter() - self.started, 1)

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Answer every validation question, keep the epoch in the run, and return its figures.

        Raises `DivergedError` where the last training loss or a validation loss is not finite: nothing is kept then.
        """
        self.check_losses()
        epoch = round(self.state.epoch or 0)
        self.progress.report(epoch, "evaluating")
        training = {}
        if epoch:
            seconds = time.perf_counter() - self.epoch_started
            losses, tokens = zip(*gathered((float(self.loss_sum), int(self.loss_tokens))), strict=True)
            training = {
                "train_loss": sum(losses) / sum(tokens),
                "train_seconds": round(seconds, 3),
                "train_samples_per_second": round(len(self.train_dataset) / seconds, 3),
            }
        started = time.perf_counter()
        predictions = self._validation_answers()
        if not np.isfinite(predictions["loss_sum"]).all():
            # The gradients of the last step may have been too large, though its loss was not.
            when = f"after step {self.state.global_step}" if epoch else "of the model before training"
            raise DivergedError(f"the validation loss {when} is not finite")
        if not self.is_world_process_zero():
            return {}
        evaluation_seconds = round(time.perf_counter() - started, 3)
        row = self.run.save_epoch(epoch, predictions, **training, evaluation_seconds=evaluation_seconds)
        metrics = {f"eval_{name}": value for name, value in row.items() if name != "epoch"}
        self.run.update(seconds=self.seconds())
        self.log(metrics)
        self.progress.show(row)
        return metrics

    def _validation_answers(self) -> pd.DataFrame:
        try:
            return self.answers(self.validation_collator)
        except torch.OutOfMemoryError:
            if not self._release_graphs():
                raise
        return self.answers(self.validation_collator)

    def _release_graphs(self) -> bool:
        """Give the memory of CUDA graphs back, for good; whether there were any."""
        captured, self.captured = self.captured, None
        if captured:
            captured.release()
        return captured is not None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean cross-entropy over the label tokens of the batch; `check_losses` looks at it later."""
        places = inputs.pop("places")
        tokens = (inputs["labels"] != -100).sum()
        outputs = model(**inputs)
        # Where a process has no question of the last batch, the others still wait for its gradients. A process alone
        # does not ask, for a GPU would have to answer first.
        loss = outputs.loss if self.args.world_size == 1 or tokens else 0 * outputs.logits.sum()
        self._remember(loss, places)
        if num_items_in_batch is not None:
            # What went in may be a part of the batch; gradients are averaged over processes.
            loss = loss * (self.args.world_size * tokens / num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _remember(self, loss: Tensor, places: Tensor) -> None:
        rate = self._get_learning_rate() if self.lr_scheduler else self.args.learning_rate
        self.unchecked.append((loss.detach(), places, self.state.global_step + 1, rate))

    def check_losses(self) -> None:
        """Raise `DivergedError` where a loss since the last look is not finite.

        A step later, since a GPU would have to be waited for; before anything is kept of the epoch.
        """
        unchecked, self.unchecked = self.unchecked, []
        for loss, places, step, learning_rate in unchecked:
            losses = self.accelerator.gather(loss)
            if torch.isfinite(losses).all():
                continue
            question_ids = self.training_collator.rows["questionId"]
            questions = [question_ids[place] for part in gathered(places.tolist()) for place in part if place >= 0]
            raise DivergedError(
                f"the training loss is {losses.mean().item()} at step {step} with learning rate {learning_rate:.3g}; "
                f"questions of the batch: {', '.join(map(str, questions))}"
            )

    def training_step(self, model, inputs, num_items_in_batch=None):
        """The loss of a step, which counts for its epoch's by its label tokens."""
        self.check_losses()
        loss = self._captured_step(model, inputs) if self.captured else None
        if loss is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        tokens = (inputs["labels"] != -100).sum()
        # That of a part counts by the tokens of the whole batch already.
        self.loss_sum += loss * (tokens if num_items_in_batch is None else num_items_in_batch / self.args.world_size)
        self.loss_tokens += tokens
        return loss

    def _captured_step(self, model, inputs) -> Tensor | None:
        """The loss of a step that a CUDA graph has made; None where there is none for it."""
        if not model.training:
            model.train()
        batch = self._prepare_inputs(dict(inputs))
        places = batch.pop("places")
        loss = self.captured(model, batch)
        if loss is not None:
            self._remember(loss, places)
        return loss

    def on_smaller_micro_batch(self) -> None:
        """Record at which step memory ran out, and how many questions go through at once from there on."""
        self._release_graphs()
        parts = self.run.record.get("out_of_memory", [])
        parts = [*parts, {"step": self.state.global_step + 1, "micro_batch": self.micro_batch}]
        self.run.update(micro_batch=self.micro_batch, out_of_memory=parts)

    def keep_best(self, epoch: int) -> None:
        """Keep the weights as the best model if this epoch is the best so far and they are not kept yet."""
        run = self.run
        if run.has_epoch(epoch) and run.best_epoch(epoch) == epoch != run.epoch_of_model(BEST_MODEL):
            run.save_model(self.model, self.processing_class, BEST_MODEL, epoch)
            run.update(best_epoch=epoch)

    def floating_point_ops(self, inputs) -> int:
        """None counted: the trainer would walk through every module of the model at every step to guess them."""
        return 0

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        settings = self.settings
        chosen = settings.batching, settings.seed, settings.batch_size, self.args.world_size
        return EpochSampler(self.training_collator.pages, *chosen)
