"""Everything that a run depends on, in one frozen dataclass made of groups, with named profiles."""

import dataclasses
import json
from dataclasses import dataclass
from itertools import product
from typing import Any, Self

import yaml

from docfloqa import parameters
from docfloqa.exceptions import SettingsError, did_you_mean, shown
from docfloqa.parameters import POSITIVE, Group, by_name, check_source, check_study_name, setting

UNITS = ("tensor", "block", "stage")
SIDES = ("output", "input")
COUNTED = ("units", "parameters")
ADAPTERS = ("lora", "lora_rank")
# Of each pair a run has one at most. Adapters are merged into the weights when a run ends, so no other goes on from it;
# how the vision encoder is unfrozen, and at which rates, is for all of it.
NOT_TOGETHER = (
    ADAPTERS,
    ("parts", "vision_trainable"),
    ("unfreezing", "auto_rgn"),
    ("layer_decay", "auto_rgn"),
    *product((*ADAPTERS, "parts"), ("trained_before",)),
    *product(("unfreezing", "layer_decay", "auto_rgn"), (*ADAPTERS, "vision_trainable", "parts", "trained_before")),
)
PARTS = ("none", "stem", "stage1", "stage2", "stage3", "stage4", "all")
PREFIXES = ("token", "text", "none")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
BATCHINGS = ("uniform", "by_image")
SHIFTS = ("input", "layout", "content")
# Of transformers, those that need nothing else to be installed or given.
SCHEDULES = (*"linear cosine cosine_with_restarts polynomial constant constant_with_warmup inverse_sqrt".split(),)
OPTIMIZERS = (*"adamw_torch_fused adamw_torch adafactor sgd rmsprop adagrad".split(),)
TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")
SHARE, SEED = (0, 1), (0, 2**31 - 1)
COUNT, DOCUMENTS = (1, 10**9), (1, 10**7)
# What may differ from a run's own settings when its model is scored again.
EVALUATION_SETTINGS = (
    "validation_questions synth_scale synth_shift synth_validation_documents synth_seed precision num_beams "
    "max_new_tokens eval_batch_size"
).split()
OF_A_RUN = ("vision_trainable", "seed", "fold")  # what a study's runs differ in, its arms' left aside


def _check_lora(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise SettingsError(f"{name} is {shown(share)}; allowed is a number from 0 to 1, a share; a rank is lora_rank")


@dataclass(frozen=True)
class Freezing(Group):
    """What is trained."""

    vision_trainable: float = setting(1.0, "share of the vision encoder that is trained, in units of `unit`", SHARE)
    unit: str = setting("tensor", "what of the vision encoder is unfrozen as a whole", UNITS)
    side: str = setting("output", "from which end of the vision encoder units are unfrozen", SIDES)
    counted: str = setting(
        "units", "whether a share is of the units or, as nearly as they allow, of the parameters", COUNTED
    )
    parts: tuple[str, ...] = setting(
        (),
        "parts of the vision encoder that are trained in place of a share of it: stem (the first patch embedding), "
        "stage1 to stage4, all, or none",
        PARTS,
    )
    lora: float = setting(
        0.0,
        "LoRA adapters, trained in place of weights, as a share of parameters (a rank is lora_rank); 0: none",
        _check_lora,
    )
    lora_rank: int | None = setting(None, "the same by the adapters' rank; if not given: lora", (1, 10**4))
    lora_alpha: float | None = setting(None, "how much adapters count, over the rank; if not given: 2 ranks", POSITIVE)
    lora_targets: tuple[str, ...] = setting(
        (), "linear layers with adapters, by the end of their names, as q_proj v_proj; not given: all that train"
    )
    trained_before: tuple[float, ...] = setting(
        (), "shares trained one after another before, on the same weights, each as long (the published protocol)", SHARE
    )
    unfreezing: str = setting(
        "at_once",
        "when the vision encoder is unfrozen: at once, all of it after half of the training (lp_ft), or its parts one "
        "after another from an end of it",
        ("at_once", "lp_ft", "from_input", "from_output"),
    )
    layer_decay: float = setting(
        1.0, "by what the learning rate is multiplied with every part towards the vision encoder's input", (0.01, 1)
    )
    auto_rgn: bool = setting(False, "give every tensor a learning rate by its relative gradient norm (Auto-RGN)")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_both(NOT_TOGETHER)
        for name in ("lora_alpha", "lora_targets"):
            if (value := getattr(self, name)) and not (self.lora or self.lora_rank):
                raise SettingsError(f"{name} is {shown(value)} without adapters; it goes with lora_rank or lora")
        if len(self.parts) > 1 and {"none", "all"} & set(self.parts):
            raise SettingsError(f"parts is {', '.join(self.parts)}; none and all stand alone")


@dataclass(frozen=True)
class Questions(Group):
    """Data."""

    data: str = setting("synth", "synth, what import takes (a CSV, a folder), or a hub id", check_source)
    validation_data: str | None = setting(None, "the same to validate on; if not given: `data`", check_source)
    train_questions: int | None = setting(None, "how many at most, drawn by document; if not given: all", COUNT)
    validation_questions: int | None = setting(None, "how many at most, drawn by document; if not given: all", COUNT)
    test_questions: int = setting(
        0,
        "questions of a test split of `data` (or `validation_data`), at most, which choose nothing: the best model "
        "answers them once, after training; 0: none; drawn ones are asked for by synth_test_documents",
        (0, 10**9),
    )
    folds: int | None = setting(
        None, "folds of k-fold cross-validation over the documents of both splits; if not given: as split", (2, 100)
    )
    fold: int | None = setting(None, "which of the folds a run validates on, from 1 on", (1, 100))
    prefix: str = setting("token", "how <DocVQA> stands before a question", PREFIXES)
    shuffled_questions: bool = setting(
        False, "a control: every question has the text of another one, and its own answers"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fold and self.fold > (self.folds or 0):
            raise SettingsError(f"fold is {self.fold} and folds is {self.folds}; allowed is a number from 1 to folds")
        # They validate on every document.
        self.refuse_both(product(["folds"], ["validation_data", "validation_questions", "test_questions"]))


@dataclass(frozen=True)
class Drawing(Group):
    """Drawn documents (data synth)."""

    synth_scale: str = setting("small", "small pages, or full ones as scanned documents have", ("small", "full"))
    synth_shift: str = setting(
        "input",
        "how small pages differ from those of the tiny model's pretraining: input (fonts, contrast, noise, shading, "
        "stamps), layout, content (words and formats), or a mixture with strengths from 0 to 1: input:0.5+content:1 is "
        "print half as worn, and every document of new words (content and layout are shares); input:0 is no shift",
    )
    synth_documents: int = setting(400, "documents to train on", DOCUMENTS)
    synth_validation_documents: int = setting(140, "documents to validate on", DOCUMENTS)
    synth_test_documents: int = setting(
        0,
        "documents that choose nothing: the best model answers their questions once, after training; 0: none; folds, "
        "which validate on every document, have none",
        (0, DOCUMENTS[1]),
    )
    synth_seed: int = setting(1, "of what is drawn; training documents are drawn from `seed`, too", SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        # However it is given, one mixture makes one run.
        shift = parameters.mixture("synth_shift", self.synth_shift, SHIFTS)
        object.__setattr__(self, "synth_shift", parameters.mixture_text(shift))


@dataclass(frozen=True)
class Training(Group):
    """Training."""

    model: str = setting("data/florence2-tiny", "a folder or a hub id, owner/name or owner/name@revision", check_source)
    seed: int = setting(0, "of the order of the questions and of everything random in training", SEED)
    epochs: int = setting(8, "how often every question is trained on", (1, 10**4))
    max_steps: int | None = setting(None, "how many steps, whatever `epochs` says; if not given: by `epochs`", COUNT)
    early_stopping_patience: int | None = setting(
        None, "epochs without a better ANLS after which training ends; if not given: none ends early", (1, 10**4)
    )
    batch_size: int = setting(24, "questions in a batch", (1, 10**5))
    gradient_accumulation_steps: int = setting(1, "batches that make a step together", (1, 10**4))
    batching: str = setting("by_image", "uniform shuffles questions, by_image keeps a page's together", BATCHINGS)
    learning_rate: float = setting(1e-3, "after the warm-up", POSITIVE)
    weight_decay: float = setting(0.01, "the optimizer's", (0, 1))
    warmup_steps: int = setting(20, "steps in which the learning rate rises, a fifth of all at most", (0, 10**7))
    warmup_ratio: float | None = setting(
        None, "the same as a share of all steps, a fifth at most; if not given: warmup_steps", SHARE
    )
    lr_scheduler_type: str = setting("linear", "how the learning rate goes on after the warm-up", SCHEDULES)
    optim: str = setting("adamw_torch_fused", "the optimizer", OPTIMIZERS)
    max_grad_norm: float = setting(1.0, "longer gradients are clipped to it", POSITIVE)
    precision: str = setting(
        "auto", "of computation; auto is bf16 on a GPU that has it, fp16 on another one, fp32 on a CPU", PRECISIONS
    )
    static_shapes: str = setting(
        "auto",
        "whether batches come in few shapes, so that a GPU gets a step as one CUDA graph; auto is on where a GPU "
        "trains alone",
        ("auto", "on", "off"),
    )
    gradient_checkpointing: bool = setting(False, "compute activations again in the backward pass, to save memory")


@dataclass(frozen=True)
class Decoding(Group):
    """Decoding."""

    num_beams: int = setting(1, "beams of the search for an answer; 1 is greedy", (1, 64))
    max_new_tokens: int = setting(24, "the longest answer, in tokens", (1, 1024))
    eval_batch_size: int = setting(64, "questions answered at a time", (1, 10**5))
    eval_questions: int | None = setting(
        None,
        "validation questions answered after an epoch, drawn by document; all are before training, and after the last "
        "and the best epoch; if not given: all",
        COUNT,
    )


@dataclass(frozen=True)
class Storage(Group):
    """Names and storage."""

    study: str = setting("embedded", "the name of reports and figures", lambda _, name: check_study_name(name))
    vision_cache: bool = setting(True, "compute outputs of the encoder's frozen beginning once, and keep them on disk")
    report_to: tuple[str, ...] = setting((), "trackers that are told how a run goes, by the run's id", TRACKERS)
    cache_gib: float = setting(20.0, "GiB that cached pages and outputs may take on disk", POSITIVE)
    allow_cpu: bool = setting(True, "whether a run may go on where there is no GPU")


GROUPS = (Freezing, Questions, Drawing, Training, Decoding, Storage)


@dataclass(frozen=True)
class Settings(Storage, Decoding, Training, Drawing, Questions, Freezing):
    """What one run depends on, every group's settings by name. The defaults are the embedded profile's."""

    @classmethod
    def profile(cls, name: str = "embedded", **overrides: Any) -> Self:
        """The settings of a profile ("smoke", "embedded", "own" or "paper"); an override of None keeps the profile's.

        Raises `SettingsError` for an unknown profile or field, a value that is not allowed, and "own" without data.
        """
        if not isinstance(name, str) or name not in PROFILES:
            known = f"{', '.join(PROFILES)}{did_you_mean(name, PROFILES)}"
            raise SettingsError(f"profile is {shown(name)}; allowed are {known}")
        given = {field: value for field, value in overrides.items() if value is not None}
        settings = {**PROFILES[name], **given}
        if name == OWN:
            if settings.get("data", EMBEDDED.data) == EMBEDDED.data:
                raise SettingsError(f"profile {OWN} is for documents of your own; give them with --data FOLDER")
            if str(settings["model"]).rstrip("/").endswith(EMBEDDED.model):
                # The base model's rate would not move the tiny one, which a CPU trains in minutes.
                settings |= {"learning_rate": EMBEDDED.learning_rate, "allow_cpu": EMBEDDED.allow_cpu, **given}
        return cls.from_dict({"study": name, **settings})

    @classmethod
    def from_parameters(cls, profile: str, further: str | dict[str, Any], **chosen: Any) -> Self:
        """The settings of a notebook's parameters: a profile, then `further`, then what is `chosen` and not None."""
        chosen = {name: value for name, value in chosen.items() if value is not None}
        return cls.profile(profile, **{**by_name(further), **chosen})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Settings from field names and values; raises `SettingsError` for an unknown field."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                known = f"settings are {', '.join(names)}{did_you_mean(name, names)}"
                raise SettingsError(f"unknown setting {shown(name)}; {known}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls.from_dict(by_name(text))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2)

    def to_config(self, **planned: Any) -> str:
        """The YAML by which `docfloqa study --config` makes the study of these settings and runs again."""
        usual = EMBEDDED.to_dict()
        # A study's runs have these from ratios, seeds and folds.
        usual |= {name: getattr(self, name) for name in OF_A_RUN}
        changed = {name: value for name, value in self.to_dict().items() if value != usual[name]}
        about = {"profile": "embedded", **planned, "settings": {"study": self.study, **changed}}
        # YAML as JSON has it, without tuples.
        return yaml.safe_dump(json.loads(json.dumps(about)), sort_keys=False, allow_unicode=True)

    def replace(self, **changes: Any) -> Self:
        """The same settings with some fields changed, validated again."""
        return Settings.from_dict({**self.to_dict(), **changes})


EMBEDDED, OWN = Settings(), "own"
# What is the same wherever the published model is trained.
BASE = {"model": "florence-community/Florence-2-base-ft", "batch_size": 6, "eval_batch_size": 16, "allow_cpu": False}
PROFILES: dict[str, dict[str, Any]] = {
    # Everything runs for real in seconds; scores mean nothing.
    "smoke": {"synth_documents": 8, "synth_validation_documents": 4, "epochs": 2, "batch_size": 8, "warmup_steps": 2},
    "embedded": {},
    # A few dozen to a few thousand questions of one's own: at the published rate such few steps change nothing, so it
    # is one that AdamW fine-tunes pretrained transformers of this size with, for more epochs.
    OWN: {
        **BASE,
        "epochs": 20,
        "learning_rate": 3e-5,
        "warmup_ratio": 0.1,
        "early_stopping_patience": 4,
        "max_new_tokens": 64,
    },
    # The published setting (lr, batch, epochs, beams, tokens, questions), with the protocol mended.
    "paper": {
        **BASE,
        "data": "HuggingFaceM4/DocumentVQA",
        "validation_questions": 500,
        "epochs": 8,
        "batching": "uniform",
        "learning_rate": 1e-6,
        "warmup_steps": 0,
        "num_beams": 3,
        "max_new_tokens": 128,
        "cache_gib": 128.0,
    },
}
