"""A run's best model as a folder that plain transformers loads, with a model card in the hub's format."""

import json
import math
import re
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

import pandas as pd
import torch
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, get_token
from huggingface_hub.errors import HTTPError
from transformers import Florence2Processor

from docfloqa.analysis.intervals import Interval, score_intervals
from docfloqa.data.hub import HubError, split_revision
from docfloqa.exceptions import DocFloQAError, RunError, SettingsError, shown
from docfloqa.files import TINY_MODEL, check_writable, is_hub_id, resolve, whole_folder
from docfloqa.model.florence import Florence2ForDocVQA, generation_config
from docfloqa.runs.run import ADAPTER_FOLDER, SETTINGS_WITHOUT_EFFECT, Run
from docfloqa.settings import Settings
from docfloqa.text import escaped
from docfloqa.training.evaluation import evaluate_run

CARD = "README.md"
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
TAG = "docfloqa"
# What the model does, and the pipeline of transformers that does it.
TASK, PIPELINE = "document-question-answering", "image-text-to-text"
LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
SYNTH = "SynthDocVQA"
METRIC_NAMES = {"anls": "ANLS", "exact_match": "exact match", "f1": "F1", "accuracy": "accuracy"}
SOURCES = ("model", "data", "validation_data")
# What an export consists of; a folder with anything else in it is never replaced.
CONFIGURATIONS = "config generation_config processor_config tokenizer tokenizer_config".split()
EXPORTED = {CARD, "model.safetensors", *(f"{name}.json" for name in CONFIGURATIONS)}
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}


def export_run(run: Run, folder: Path, license: str | None = None) -> Path:
    """Write a run's best model in fp16, its processor and a model card; returns the folder.

    The folder appears whole or not at all; one that holds an earlier export, and nothing else, is replaced. Raises
    `FolderError` for one that must not be overwritten, `RunError` where the model is gone or damaged, and for weights
    that fp16 cannot hold.
    """
    if license is not None and not LICENSE.fullmatch(license):
        raise SettingsError(f"license is {shown(license)}; allowed are names of the hub, as apache-2.0, mit or other")
    check_writable(folder, is_export)
    settings = run.settings
    model, processor = run.load()
    card = model_card(run, model, processor, license)
    model.half()
    for name, weights in model.named_parameters():
        if not torch.isfinite(weights).all():
            largest = f"{torch.finfo(torch.half).max:g}, the largest of fp16"
            raise RunError(f"{name} of run {run.name} has values above {largest}")
    model.generation_config = generation_config(model, settings.max_new_tokens, settings.num_beams)
    with whole_folder(folder, is_export) as part:
        model.save_pretrained(part)
        processor.save_pretrained(part)
        card.save(part / CARD)
    return folder


def is_export(folder: Path) -> bool:
    """Whether a folder holds what `export_run` writes, and nothing else."""
    names, card = {path.name for path in folder.iterdir()}, folder / CARD
    return CARD in names <= EXPORTED and f"\n- {TAG}\n" in card.read_text(encoding="utf-8", errors="replace")


def export_adapter(run: Run, folder: Path) -> Path:
    """Write the LoRA adapters of a run's best epoch, and its projector, as peft loads them, with the processor.

    They go onto the model that the run started from. Raises `RunError` for a run without adapters, and as `export_run`.
    """
    check_writable(folder, is_adapter)
    _, processor = run.load()
    source = run.model_folder / ADAPTER_FOLDER
    if not source.is_dir():
        why = "it was made without lora_rank and lora, or before they were kept"
        raise RunError(f"run {run.name} has no adapters: {why}")
    with whole_folder(folder, is_adapter) as part:
        shutil.copytree(source, part, dirs_exist_ok=True)
        processor.save_pretrained(part)
        # Its own card, by peft, knows of no run.
        (part / CARD).unlink(missing_ok=True)
    return folder


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds what `export_adapter` writes, and nothing else."""
    names = {path.name for path in folder.iterdir()}
    return ADAPTER_FILES <= names <= ADAPTER_FILES | EXPORTED


def push(folder: Path, repository: str) -> str:
    """Upload an export to `owner/name` on the hub, a new one private; returns its address, or raises `HubError`."""
    api = HfApi()
    try:
        address = api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Export of DocFloQA-FreezeTune")
    except (OSError, ValueError, HTTPError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise HubError(f"{folder} cannot be pushed to {repository}: {reason}") from error
    return str(address)


def check_push(repository: str) -> None:
    """Raise `HubError` for what is no repository of the hub, or where there is no token."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise HubError(f"--push is {shown(repository)}; allowed is a repository of the hub, owner/name")
    if not get_token():
        raise HubError(f"to push to {repository}, the hub wants a token: hf auth login, or set HF_TOKEN")


def scored(run: Run) -> tuple[pd.DataFrame, bool]:
    """The answers of a run's best model, and whether it has just given them; else they are those of its training.

    Weights are kept in fp16, which may change an answer. What was the run's data may be gone, or not the same.
    """
    kept = None
    # One that was packed as an arm's has none any more.
    with suppress(RunError):
        kept = run.answers(run.record["best_epoch"])
    try:
        answers = evaluate_run(run, run.settings)
    except DocFloQAError as error:
        if kept is None:
            raise
        warnings.warn(f"the card has the scores of training, before rounding to fp16: {error}", stacklevel=2)
        return kept, False
    same = kept is None or {*answers["question_id"]} == {*kept["question_id"]}
    return (answers, True) if same else (kept, False)


def model_card(
    run: Run, model: Florence2ForDocVQA, processor: Florence2Processor, license: str | None = None
) -> ModelCard:
    """The card of a run's best model."""
    settings, record = run.settings, run.record
    answers, measured = scored(run)
    intervals = score_intervals(answers)
    tiny = resolve(settings.model) == str(TINY_MODEL)
    freezing, kept = record["freezing"], (record.get("data_checks") or {}).get("kept")
    shown = {
        name: source_name(value) if name in SOURCES and value else value
        for name, value in settings.to_dict().items()
        if name not in SETTINGS_WITHOUT_EFFECT
    }
    return ModelCard.from_template(
        card_metadata(run, intervals, license),
        template_path=str(TEMPLATE),
        run=run,
        tiny=tiny,
        measured=measured,
        license=license,
        side=processor.image_processor.size["height"],
        parameters=f"{model.num_parameters():,}",
        base_model=escaped(repository(settings.model)),
        trained_share=f"{100 * freezing['trainable_vision_parameters'] / freezing['vision_parameters']:.0f} %",
        scores=[(label, intervals[name].format(100)) for name, label in METRIC_NAMES.items()],
        questions=f"{len(answers):,}",
        documents=f"{answers['document_id'].nunique():,}",
        training=escaped(data_name(settings, settings.data)),
        validation=escaped(data_name(settings, settings.validation_data or settings.data)),
        train_questions=kept and f"{kept['train']:,}",
        synth=SYNTH if "synth" in (settings.data, settings.validation_data) else "",
        shown=[(name, escaped(json.dumps(value))) for name, value in shown.items()],
        versions=", ".join(f"{package} {version}" for package, version in record["versions"].items()),
    )


def card_metadata(run: Run, intervals: dict[str, Interval], license: str | None) -> ModelCardData:
    """The metadata of a card: what the model was made from, and its scores with their 95 % intervals."""
    settings, results = run.settings, []
    source = settings.validation_data or settings.data
    data = {"dataset_type": repository(source), "dataset_name": data_name(settings, source)}
    for metric, label in METRIC_NAMES.items():
        found = {name: round(value, 4) for name, value in vars(intervals[metric]).items()}
        score = {"metric_type": metric, "metric_name": label, "metric_value": found.pop("estimate")}
        # The hub's format has no place of its own for an interval; of few documents there is none.
        if all(map(math.isfinite, found.values())):
            score["metric_args"] = {"confidence": 0.95, **found, "resampled": "documents"}
        results.append(EvalResult(task_type=TASK, dataset_split="validation", **data, **score))
    return ModelCardData(
        license=license,
        base_model=repository(settings.model),
        datasets=list(dict.fromkeys(map(repository, (settings.data, source)))),
        metrics=list(METRIC_NAMES),
        library_name="transformers",
        pipeline_tag=PIPELINE,
        tags=[TAG, "florence2", "docvqa"],
        model_name=run.id,
        eval_results=results,
    )


def source_name(source: str) -> str:
    """A hub id as it is; of a folder its name alone, since no other machine has its path."""
    if source == "synth":
        return SYNTH
    folder = resolve(source)
    return source if is_hub_id(folder) else Path(folder).name


def repository(source: str) -> str:
    """What a model card's metadata calls a source: no hub id in it has a revision."""
    return split_revision(source_name(source))[0]


def data_name(settings: Settings, source: str) -> str:
    """What a source of data is called; of drawn pages also how they were drawn."""
    drawing = "full-size pages" if settings.synth_scale == "full" else f"{settings.synth_shift} shift"
    return f"{SYNTH} ({drawing}, seed {settings.synth_seed})" if source == "synth" else source_name(source)
