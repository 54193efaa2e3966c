"""A run's best model as a folder that plain transformers loads, with a model card in the hub's format."""

import json
from pathlib import Path

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import Florence2Processor

from docfloqa.analysis.intervals import Interval, score_intervals
from docfloqa.data.hub import split_revision
from docfloqa.exceptions import RunError
from docfloqa.files import TINY_MODEL, check_writable, is_hub_id, resolve, whole_folder
from docfloqa.model.florence import Florence2ForDocVQA, generation_config
from docfloqa.runs.run import SETTINGS_WITHOUT_EFFECT, Run
from docfloqa.settings import Settings
from docfloqa.text import escaped

CARD = "README.md"
TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
TAG = "docfloqa"
TASK = "document-question-answering"
SYNTH = "SynthDocVQA"
METRIC_NAMES = {"anls": "ANLS", "exact_match": "exact match", "f1": "F1", "accuracy": "accuracy"}
SOURCES = ("model", "data", "validation_data")
# What an export consists of; a folder with anything else in it is never replaced.
EXPORTED = {CARD, "model.safetensors", *(f"{name}.json" for name in "config generation_config tokenizer".split())}
EXPORTED |= {"processor_config.json", "tokenizer_config.json"}


def export_run(run: Run, folder: Path) -> Path:
    """Write a run's best model in fp16, its processor and a model card; returns the folder.

    The folder appears whole or not at all; one that holds an earlier export, and nothing else, is replaced. The
    saved generation settings are the run's. Raises `FolderError` for a folder that must not be overwritten,
    `RunError` where the model is gone or damaged, and for weights that fp16 cannot hold.
    """
    check_writable(folder, is_export)
    settings = run.settings
    model, processor = run.load()
    card = model_card(run, model, processor)
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


def model_card(run: Run, model: Florence2ForDocVQA, processor: Florence2Processor) -> ModelCard:
    """The card of a run's best model, its scores being those of the run's own evaluation at that epoch."""
    settings, record = run.settings, run.record
    answers = run.answers(record["best_epoch"])
    intervals = score_intervals(answers)
    tiny = resolve(settings.model) == str(TINY_MODEL)
    freezing, kept = record["freezing"], record.get("data_checks", {}).get("kept")
    shown = {
        name: source_name(value) if name in SOURCES and value else value
        for name, value in settings.to_dict().items()
        if name not in SETTINGS_WITHOUT_EFFECT
    }
    return ModelCard.from_template(
        card_metadata(run, intervals, tiny),
        template_path=str(TEMPLATE),
        run=run,
        tiny=tiny,
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


def card_metadata(run: Run, intervals: dict[str, Interval], tiny: bool) -> ModelCardData:
    """The metadata of a card: what the model was made from, and its scores with their 95 % intervals."""
    settings, results = run.settings, []
    source = settings.validation_data or settings.data
    data = {"dataset_type": repository(source), "dataset_name": data_name(settings, source)}
    for metric, label in METRIC_NAMES.items():
        found = {name: round(value, 4) for name, value in vars(intervals[metric]).items()}
        score = {"metric_type": metric, "metric_name": label, "metric_value": found.pop("estimate")}
        # The hub's format has no place of its own for an interval.
        score["metric_args"] = {"confidence": 0.95, **found, "resampled": "documents"}
        results.append(EvalResult(task_type=TASK, dataset_split="validation", **data, **score))
    return ModelCardData(
        license="apache-2.0" if tiny else None,
        base_model=repository(settings.model),
        datasets=list(dict.fromkeys(map(repository, (settings.data, source)))),
        metrics=list(METRIC_NAMES),
        library_name="transformers",
        pipeline_tag=TASK,
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
