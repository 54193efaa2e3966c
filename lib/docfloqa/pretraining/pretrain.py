"""How the shipped tiny Florence-2 learns to read drawn pages, before it ever sees a question."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from random import Random

import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Florence2Processor, PreTrainedTokenizerFast, Trainer, TrainerCallback, TrainingArguments

from docfloqa.figures.style import show, styled
from docfloqa.files import check_folder, data_folder, is_sound
from docfloqa.model.florence import Florence2ForDocVQA, weights_checksum
from docfloqa.model.folder import write_checksums
from docfloqa.pretraining.drawings import Phase, Sample, collated, draw_sample
from docfloqa.pretraining.scaffold import Scaffold, character_loss
from docfloqa.pretraining.tiny import FIELD_TASK, OCR_PROMPT
from docfloqa.runs.recovery import saved_checkpoints, seal_checkpoint
from docfloqa.versions import DRAWING

HELD_OUT_IMAGES, PAGES_AT_ONCE = 128, 50
TASKS = ("character", "line", "region", "field")


class ReadingTrainer(Trainer):
    """Text loss plus the dense losses of `Scaffold`.

    These make reading emerge: with the text loss alone the model stays a language model that does not look at the page.
    """

    phase: Phase

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Sum of both losses on a batch of `collated`."""
        states, mask = model.vision_states(inputs["pixel_values"], 0), inputs["attention_mask"]
        features = model.model.multi_modal_projector(states)[inputs["page_index"]]
        encoded = model.encode(inputs["input_ids"], mask, features, output_hidden_states=True)
        dense = model.scaffold.losses(model, states, encoded, inputs)
        outputs = model(encoder_outputs=encoded, attention_mask=mask, labels=inputs["labels"])
        return outputs.loss + self.phase.dense_weight * dense

    def log(self, logs, start_time=None):
        """Beside every loss that is reported, the shares read right of held-out drawings as hard as the phase's last.

        `character` is that of printed characters, alone in their slots; the others are the exact match by task.
        """
        if "loss" in logs:
            rng = Random(f"held-out-{self.phase.draws}-{self.phase.seed}")
            samples = [draw_sample(rng, self.phase, progress=1.0) for _ in range(HELD_OUT_IMAGES)]
            read, characters = read_samples(self.model.eval(), self.processing_class, samples)
            logs = {**logs, "character": characters, **read.groupby("task")["exact_match"].mean()}
            self.model.train()
        super().log(logs, start_time)


class SealedCheckpoints(TrainerCallback):
    """Keeps the last two checkpoints, sealed, so that training never resumes from one that a kill has left half."""

    def on_save(self, args, state, control, **kwargs):
        seal_checkpoint(Path(args.output_dir), state.global_step, kept=2)


@torch.no_grad()
def read_samples(
    model: Florence2ForDocVQA, tokenizer: PreTrainedTokenizerFast, samples: Sequence[Sample]
) -> tuple[pd.DataFrame, float]:
    """A row for every prompt of the samples, and the share of characters that the throw-away head reads right.

    Columns: kind, font, task ("line", "region" or "field"), text, read (greedily) and exact_match.
    """
    batch = {name: tensor.to(model.device) for name, tensor in collated(tokenizer, samples).items()}
    states = model.vision_states(batch["pixel_values"], 0)
    features = model.model.multi_modal_projector(states)[batch["page_index"]]
    encoded = model.encode(batch["input_ids"], batch["attention_mask"], features)
    answers = model.generate(encoder_outputs=encoded, attention_mask=batch["attention_mask"])
    asked = [(page.kind, page.font, prompt, text) for page, some in samples for prompt, text, *_ in some]
    frame = pd.DataFrame(asked, columns=["kind", "font", "task", "text"])
    frame["task"] = frame["task"].map(
        lambda prompt: "field" if prompt.startswith(FIELD_TASK) else "line" if prompt == OCR_PROMPT else "region"
    )
    frame["read"] = tokenizer.batch_decode(answers, skip_special_tokens=True)
    characters = character_loss(model.scaffold.character, states, batch["characters"])[1].item()
    return frame.assign(exact_match=frame["read"] == frame["text"]), characters


def reading_by_kind_and_font(model: Florence2ForDocVQA, tokenizer: PreTrainedTokenizerFast, pages=600) -> pd.DataFrame:
    """Exact match of regions and fields on clean pages that were never trained on, by kind, by font and of all.

    The index is ("kind", "font" or "all", which one); columns are the tasks and the number of prompts.
    """
    phase = Phase("held out", "pages", 1, 1, prompts_per_image=6, learning_rate=0.0, seed=1000)
    rng = Random(f"by-kind-and-font-{phase.seed}")
    model.eval()
    batches = tqdm(range(0, pages, PAGES_AT_ONCE), "reading held-out pages", unit="batch", leave=False, disable=None)
    drawn = ([draw_sample(rng, phase, progress=1.0) for _ in range(PAGES_AT_ONCE)] for _ in batches)
    read = pd.concat([read_samples(model, tokenizer, samples)[0] for samples in drawn]).assign(all="pages")
    tables = {by: read.pivot_table("exact_match", by, "task") for by in ("kind", "font", "all")}
    tables = {by: table.assign(prompts=read.groupby(by).size()) for by, table in tables.items()}
    return pd.concat(tables).rename_axis([None, None]).rename_axis(None, axis=1)


def pretrain(
    model: Florence2ForDocVQA, tokenizer: PreTrainedTokenizerFast, phase: Phase, reports: int = 10
) -> pd.DataFrame:
    """Train `model` in place on one phase; returns `reports` rows: phase, step, loss, held-out shares read right.

    It goes on where the same phase, from the same weights, was stopped; one that is finished is loaded.
    """
    if not hasattr(model, "scaffold"):
        model.scaffold = Scaffold(model).to(model.device)
    images = phase.steps * phase.images_per_step

    def drawn(indices: Sequence[int]) -> dict[str, Tensor]:
        rngs = [Random(f"{phase.draws}-{phase.seed}-{index}") for index in indices]
        # All drawings of a step are equally hard, so that they are equally high.
        reached = indices[0] // phase.images_per_step / phase.steps
        progress = phase.first_progress + (1 - phase.first_progress) * reached
        return collated(tokenizer, [draw_sample(rng, phase, progress) for rng in rngs])

    asked = json.dumps([asdict(phase), weights_checksum(model), DRAWING])
    folder = data_folder() / "cache" / "pretraining" / f"{phase.name}-{sha256(asked.encode()).hexdigest()[:10]}"
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=phase.steps,
        per_device_train_batch_size=phase.images_per_step,
        learning_rate=phase.learning_rate,
        adam_beta2=0.98,
        weight_decay=0.01,
        warmup_steps=60,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={"num_decay_steps": phase.steps // 3},
        logging_steps=max(1, phase.steps // reports),
        save_steps=100,
        remove_unused_columns=False,
        dataloader_num_workers=1,
        # Drawings get harder.
        train_sampling_strategy="sequential",
        seed=phase.seed,
    )
    keeping = {"processing_class": tokenizer, "callbacks": [SealedCheckpoints()]}
    trainer = ReadingTrainer(model, arguments, drawn, range(images), **keeping)
    trainer.phase = phase
    whole = (checkpoint for checkpoint in reversed(saved_checkpoints(folder)) if is_sound(checkpoint, check_folder))
    trainer.train(resume_from_checkpoint=next(map(str, whole), None))
    reported = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    return reported.assign(phase=phase.name).filter(["phase", "step", "loss", *TASKS])


def plot_reading(curve: pd.DataFrame) -> None:
    """Show exact match on held-out drawings over the steps of each phase, one line per task."""
    shares = curve.filter(["phase", "step", *TASKS]).melt(["phase", "step"], var_name="task", value_name="read right")
    show(
        _reading(shares.dropna()),
        caption="What is read of held-out drawings during pretraining: characters, and exact match of texts.",
        alt="Small panels, one per phase: shares read right over training steps, one line per task.",
    )


@styled
def _reading(shares: pd.DataFrame) -> Figure:
    lines = {"x": "step", "y": "read right", "hue": "task", "style": "task", "markers": True, "kind": "line"}
    panels = {"col": "phase", "col_wrap": 3, "height": 2, "aspect": 1.1, "facet_kws": {"sharex": False}}
    return sns.relplot(shares, **lines, **panels).set(ylim=(0, 1)).set_titles("{col_name}").figure


def sample_prompts(phase: Phase) -> pd.DataFrame:
    """The prompts of an image as hard as a phase's last, and the texts that answer them."""
    _, asked = draw_sample(Random(f"{phase.draws}-{phase.seed}-0"), phase, progress=1.0)
    return pd.DataFrame(asked).filter(["prompt", "text"])


def save_tiny(
    model: Florence2ForDocVQA, processor: Florence2Processor, folder: Path, curve: pd.DataFrame, reading: pd.DataFrame
) -> None:
    """Save the pretrained model (fp16, without its scaffold), its processor, and what it reads.

    `pretraining.csv` is its learning curve, `reading.csv` the table of `reading_by_kind_and_font`.
    """
    del model.scaffold
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    write_checksums(folder)
    curve.to_csv(folder / "pretraining.csv", index=False, float_format="%.4f")
    reading.rename_axis(["by", "which"]).to_csv(folder / "reading.csv", float_format="%.4f")
