"""What transformers' trainer is told of a run."""

from __future__ import annotations

from torch.utils.data import Dataset
from transformers import Seq2SeqTrainingArguments

from docfloqa.model.device import compute_device, uses_bf16
from docfloqa.runs.run import Run
from docfloqa.settings import Settings
from docfloqa.training.batches import share_of_batch

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
