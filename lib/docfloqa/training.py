"""One run: evaluate, train with transformers' Seq2SeqTrainer, evaluate after every epoch, resume."""

from __future__ import annotations

import time

import torch
from datasets import DatasetDict
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import (
    Florence2Processor,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)
from transformers.trainer_utils import get_last_checkpoint

from docfloqa.batches import EpochSampler, Pages, QuestionCollator
from docfloqa.device import compute_device, describe_device, peak_memory, uses_bf16
from docfloqa.evaluation import evaluate
from docfloqa.florence import Florence2ForDocVQA, load_florence
from docfloqa.freezing import Freezing
from docfloqa.runs import BEST_MODEL, LAST_MODEL, Run
from docfloqa.settings import Settings
from docfloqa.vision_cache import ResidentPages, cache_states


class DivergedError(RuntimeError):
    """The training loss is not finite: names the step, the learning rate and the questions of the batch."""


class PredecessorError(RuntimeError):
    """A run that goes on from another one's weights, which are not there: names that run."""


class Places(Dataset):
    """The places 0, 1, 2, ... of a split's questions; the collator turns places into a batch."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        return place


def training_arguments(settings: Settings, run: Run) -> Seq2SeqTrainingArguments:
    """The trainer's arguments for a run: AdamW, linear schedule, one checkpoint and evaluation an epoch."""
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
        dataloader_num_workers=4 if on_gpu else 0,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        logging_strategy="epoch",
        # A loss that is not finite stops the run; the trainer would hide it in the average.
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
    )
    # On several GPUs the trainer would split a batch's pages and questions apart.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


class DocVQATrainer(Seq2SeqTrainer):
    """transformers' trainer on questions that share pages, with the study's evaluation and record."""

    def __init__(
        self,
        run: Run,
        model: Florence2ForDocVQA,
        processor: Florence2Processor,
        dataset: DatasetDict,
        freezing: Freezing,
        checks: dict | None = None,
    ):
        settings = run.settings
        self.run, self.settings, self.freezing, self.checks = run, settings, freezing, checks
        # As if begun earlier by what the legs before an interruption took.
        self.started = time.perf_counter() - run.record.get("seconds", 0.0)
        self.images = {split: Pages(dataset[split], processor) for split in dataset}
        self.training_collator, self.validation_collator, self.control_collator = (
            QuestionCollator(
                dataset[split],
                model,
                processor,
                settings.prefix,
                self.images[split],
                wrong_pages=wrong,
                shuffled_questions=settings.shuffled_questions,
            )
            for split, wrong in (("train", False), ("validation", False), ("validation", True))
        )
        model.vision_checkpointing = settings.gradient_checkpointing
        self.loss_sum, self.loss_tokens, self.epoch_started = 0.0, 0, 0.0
        self.progress = RunProgress(self)
        super().__init__(
            model=model,
            args=training_arguments(settings, run),
            train_dataset=Places(len(dataset["train"])),
            eval_dataset=Places(len(dataset["validation"])),
            data_collator=self.training_collator,
            processing_class=processor,
            callbacks=[self.progress],
        )
        # Its dictionaries would be printed between the bars.
        self.remove_callback(PrinterCallback)

    def fit(self) -> Run:
        """Make the run: the evaluation before training, the epochs, the record; from the last epoch kept.

        A complete run is left as it is. Raises `DivergedError` on a training loss that is not finite, and
        `PredecessorError` where the run that it goes on from is not complete.
        """
        run = self.run
        if run.complete:
            return run
        run.start(device=describe_device(), freezing=vars(self.freezing), data_checks=self.checks)
        self.start_from_predecessor()
        try:
            self.use_states()
            if not run.has_epoch(0):
                self.evaluate()
            last = get_last_checkpoint(run.checkpoints) if run.checkpoints.is_dir() else None
            self.train(resume_from_checkpoint=last)
            run.report_progress(self.settings.epochs, "evaluating on wrong pages")
            run.save_control(evaluate(self.model, self.control_collator, self.settings))
        finally:
            self._use(self.images, vision_start=0)
        run.save_model(self.model, self.processing_class, LAST_MODEL)
        run.finish(seconds=self.seconds(), peak_memory=peak_memory())
        return run

    def start_from_predecessor(self) -> None:
        """Take over the last weights of the run that this one goes on from, if there is one."""
        before = self.run.predecessor
        if before is None:
            return
        if not before.complete or not (before.folder / LAST_MODEL).is_dir():
            raise PredecessorError(
                f"this run goes on from the weights of {before.id}, which is not complete or has lost its "
                f"{LAST_MODEL}/ in {before.folder.parent}; make that run first (a sweep does so)"
            )
        weights, _ = load_florence(before.folder / LAST_MODEL, self.settings.prefix)
        self.model.load_state_dict(weights.state_dict())

    def use_states(self) -> None:
        """Let cached states stand for the images from here on, where the settings allow it; fills the cache."""
        started = time.perf_counter()
        states, boundary = cache_states(self.images, self.model, self.freezing.frozen_prefix, self.settings)
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
        """Answer every validation question, keep the epoch in the run, and return its figures."""
        epoch = round(self.state.epoch or 0)
        self.run.report_progress(epoch, "evaluating")
        training = {}
        if epoch:
            seconds = time.perf_counter() - self.epoch_started
            training = {
                "train_loss": float(self.loss_sum) / int(self.loss_tokens),
                "train_seconds": round(seconds, 3),
                "train_samples_per_second": round(len(self.train_dataset) / seconds, 3),
            }
        started = time.perf_counter()
        predictions = evaluate(self.model, self.validation_collator, self.settings)
        evaluation_seconds = round(time.perf_counter() - started, 3)
        row = self.run.save_epoch(epoch, predictions, **training, evaluation_seconds=evaluation_seconds)
        if self.run.is_best(epoch):
            self.run.save_model(self.model, self.processing_class, BEST_MODEL)
            self.run.update(best_epoch=epoch)
        metrics = {f"eval_{name}": value for name, value in row.items() if name != "epoch"}
        self.run.update(seconds=self.seconds())
        self.log(metrics)
        self.progress.show(row)
        return metrics

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean cross-entropy over the label tokens of the batch; raises `DivergedError` if not finite."""
        places = inputs.pop("places")
        outputs = model(**inputs)
        loss = outputs.loss
        if not torch.isfinite(loss):
            question_ids = self.training_collator.rows["questionId"]
            questions = [question_ids[place] for place in places.tolist()]
            raise DivergedError(
                f"the training loss is {loss.item()} at step {self.state.global_step + 1} with learning rate "
                f"{self._get_learning_rate():.3g}; questions of the batch: {', '.join(map(str, questions))}"
            )
        tokens = (inputs["labels"] != -100).sum()
        self.loss_sum += loss.detach() * tokens
        self.loss_tokens += tokens
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs) -> int:
        """None counted: the trainer would walk through every module of the model at every step to guess them."""
        return 0

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        return EpochSampler(self.training_collator.pages, self.settings.batching, self.settings.seed)


class RunProgress(TrainerCallback):
    """A progress bar over the run's steps, and the same in a file for whoever watches from outside."""

    def __init__(self, trainer: DocVQATrainer):
        self.trainer, self.bar, self.reported = trainer, None, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar, where a resumed run left off."""
        run = self.trainer.run
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=run.id, unit="step")

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Begin an epoch's loss and clock."""
        self.trainer.loss_sum, self.trainer.loss_tokens = 0.0, 0
        self.trainer.epoch_started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar; write the file at most once a second."""
        self.bar.update(state.global_step - self.bar.n)
        if time.monotonic() - self.reported > 1:
            self.reported = time.monotonic()
            run = self.trainer.run
            run.report_progress(run.settings.epochs * state.global_step / state.max_steps, "training")

    def show(self, row: dict[str, float]) -> None:
        """Show an epoch's scores beside the bar."""
        if self.bar is not None:
            self.bar.set_postfix(anls=f"{row['anls']:.3f}", val_loss=f"{row['val_loss']:.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.bar.close()
