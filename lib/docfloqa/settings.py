"""Everything that a run depends on, in one frozen dataclass with named profiles, and how it is given as text."""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Number = TypeVar("Number", int, float)
# What else lies in reports/ and figures/, and what some systems cannot have as a folder's name.
DEVICES = "con prn aux nul".split() + [f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10)]
RESERVED = ("benchmarks", "screenshots", "log.md", *DEVICES)
LONGEST_NAME, LONGEST_PART = 1000, 255  # bytes of a path, and of each part of it
NO_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
LONGEST_SHOWN = 200


class SettingsError(ValueError):
    """A setting that is unknown or out of range: names the field, the value and what is allowed."""


def by_name(further: str | dict[str, Any]) -> dict[str, Any]:
    """Settings by name from a JSON object; raises `SettingsError` for anything else, and for a name given twice."""
    try:
        settings = json.loads(further, object_pairs_hook=_once) if isinstance(further, str) else further
    except (RecursionError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"further settings are {shown(further)}, which is not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise SettingsError(f"further settings are {shown(settings)}; allowed is a JSON object of settings by name")
    return settings


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SettingsError(f"further settings name {shown(twice)} twice; allowed is once")
    return dict(pairs)


def numbers(name: str, text: Any, kind: type[Number]) -> list[Number]:
    """The numbers of a text, separated by blanks; raises `SettingsError`. A single one may be a number already."""
    try:
        return [kind(word) for word in str(text).split()]
    except ValueError:
        wanted = "whole numbers" if kind is int else "numbers"
        raise SettingsError(f"{name} are {shown(text)}; allowed are {wanted}, separated by blanks") from None


def check_parameters(notebook: Path, parameters: dict[str, Any]) -> None:
    """Raise `SettingsError` unless papermill may write these parameters into a notebook.

    It writes names as they are, so that any other text than the name of a parameter would run as code; of values
    it knows how to write text, numbers, True, False and None.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    known = [
        target.id
        for statement in ast.parse("\n".join(tagged)).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    ]
    for name, value in parameters.items():
        if name not in known:
            raise SettingsError(f"{notebook.name} has no parameter {shown(name)}; it has {', '.join(known)}")
        if not isinstance(value, str | int | float | None):
            raise SettingsError(f"parameter {name} is {shown(value)}; allowed are text and numbers")


def literal(path: Path) -> str:
    """A path as papermill takes it: it would fill in what stands in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def check_study_name(name: str) -> None:
    """Raise `SettingsError` unless a study may be called so: its folders are to lie beside those of other studies."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?", name):
        raise SettingsError(
            f"study is {shown(name)}; allowed are up to 64 letters, digits, '.', '_' and '-', beginning with a letter "
            "or digit and not ending with '.'"
        )
    if name.lower() in RESERVED or name.lower().split(".")[0] in DEVICES:
        raise SettingsError(f"study is {name!r}; allowed is any other name, since that one means something else")


def check_source(name: str, source: str | None) -> None:
    """Raise `SettingsError` for what can be neither a folder nor a hub id; None is neither and may be."""
    if source is None:
        return
    if not source.strip():
        raise SettingsError(f"{name} is empty; give a folder or a hub id")
    encoded = source.encode(errors="replace")
    if NO_NAME.search(source) or len(encoded) > LONGEST_NAME or max(map(len, encoded.split(b"/"))) > LONGEST_PART:
        raise SettingsError(
            f"{name} is {shown(source)}; allowed is a folder or a hub id: no control characters, at most "
            f"{LONGEST_NAME} bytes, and {LONGEST_PART} between two slashes"
        )


def shown(value: Any) -> str:
    """A value as a message shows it, the end cut off where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        # Python does not write out an integer of thousands of digits.
        return f"a {type(value).__name__} that is too large to be shown"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


UNITS = ("tensor", "block", "stage")
SIDES = ("output", "input")
COUNTED = ("units", "parameters")
PREFIXES = ("token", "text", "none")
PRECISIONS = ("auto", "fp32", "bf16")
STATIC_SHAPES = ("auto", "on", "off")
BATCHINGS = ("uniform", "by_image")
SYNTH_SCALES = ("small", "full")
SHIFTS = ("input", "layout", "content")
LARGEST_COUNT = 10**9
MOST_LEGS = 16  # of trained_before: a run's folder names them all


@dataclass(frozen=True)
class Settings:
    """What one run depends on. Validated on construction; the defaults are the embedded profile's.

    study: the name under which reports and figures are written
    vision_trainable: share of the vision encoder that is trained, in [0, 1], in units of `unit`
    unit, side: what is unfrozen as a whole, and from which end of the vision encoder
    counted: whether a share is one of the "units" or, as near as whole units come to it, of the "parameters"
    lora: what LoRA adapters have, as a share of the model's parameters; they are then trained in place of the
        weights (see `docfloqa.model.freezing`). 0 trains the weights themselves
    trained_before: shares that were trained one after another before, each for as many epochs, on the same
        weights (the published protocol); none starts from the pretrained weights
    shuffled_questions: a control: every question's text is replaced by that of another one, its answers are not
    seed: of the order of the questions and of everything random in training
    model: a folder or a hub id, `owner/name` or `owner/name@revision`; prefix: how `<DocVQA>` stands before a question
    data, validation_data: "synth", a folder of parquet files, or a hub id of such; None validates on `data`
    train_questions, validation_questions: how many at most, drawn by document; None takes all
    synth_*: the documents that are drawn when data is "synth"
    synth_shift: how small drawn pages differ from those of the tiny model's pretraining: on the "input"
        side (fonts, contrast, noise, shading, stamps), in "layout", or in "content" (words and formats)
    batching: "uniform" shuffles questions; "by_image" keeps the questions of a page together
    static_shapes: whether batches come in few shapes (texts padded to few lengths, pages to few numbers), so that a
        GPU gets a training step as one CUDA graph: "on", "off", or "auto", which is on where a GPU trains alone
    gradient_checkpointing: whether activations are computed again in the backward pass, to save memory
    num_beams, max_new_tokens: how answers are decoded
    vision_cache, cache_gib: whether the outputs of the frozen beginning of the vision encoder are computed
        once and kept on disk, and how much all of them may take there in GiB
    allow_cpu: whether the run may go on where there is no GPU
    """

    study: str = "embedded"
    vision_trainable: float = 1.0
    unit: str = "tensor"
    side: str = "output"
    counted: str = "units"
    lora: float = 0.0
    trained_before: tuple[float, ...] = ()
    shuffled_questions: bool = False
    seed: int = 0
    model: str = "data/florence2-tiny"
    prefix: str = "token"
    data: str = "synth"
    validation_data: str | None = None
    train_questions: int | None = None
    validation_questions: int | None = None
    synth_scale: str = "small"
    synth_shift: str = "input"
    synth_documents: int = 400
    synth_validation_documents: int = 140
    synth_seed: int = 1
    epochs: int = 8
    batch_size: int = 24
    batching: str = "by_image"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_steps: int = 20
    max_grad_norm: float = 1.0
    precision: str = "auto"
    static_shapes: str = "auto"
    gradient_checkpointing: bool = False
    num_beams: int = 1
    max_new_tokens: int = 24
    eval_batch_size: int = 64
    vision_cache: bool = True
    cache_gib: float = 20.0
    allow_cpu: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = _cast(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for name, low, high in (
            ("vision_trainable", 0, 1),
            ("lora", 0, 1),
            ("seed", 0, 2**31 - 1),
            ("synth_seed", 0, 2**31 - 1),
            ("train_questions", 1, LARGEST_COUNT),
            ("validation_questions", 1, LARGEST_COUNT),
            ("synth_documents", 1, 10**7),
            ("synth_validation_documents", 1, 10**7),
            ("epochs", 1, 10**4),
            ("batch_size", 1, 10**5),
            ("eval_batch_size", 1, 10**5),
            ("weight_decay", 0, 1),
            ("warmup_steps", 0, 10**7),
            ("num_beams", 1, 64),
            ("max_new_tokens", 1, 1024),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SettingsError(f"{name} is {shown(value)}; allowed is a number from {low} to {high}")
        for name in ("learning_rate", "max_grad_norm", "cache_gib"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"{name} is {getattr(self, name)!r}; allowed is a positive finite number")
        for name, allowed in (
            ("unit", UNITS),
            ("side", SIDES),
            ("counted", COUNTED),
            ("prefix", PREFIXES),
            ("precision", PRECISIONS),
            ("static_shapes", STATIC_SHAPES),
            ("batching", BATCHINGS),
            ("synth_scale", SYNTH_SCALES),
            ("synth_shift", SHIFTS),
        ):
            if getattr(self, name) not in allowed:
                given = shown(getattr(self, name))
                raise SettingsError(f"{name} is {given}; allowed are {', '.join(allowed)}")
        earlier = self.trained_before
        if len(earlier) > MOST_LEGS or not all(0 <= share <= 1 for share in earlier):
            raise SettingsError(
                f"trained_before is {shown(earlier)}; allowed are at most {MOST_LEGS} numbers from 0 to 1"
            )
        if self.lora and self.trained_before:
            raise SettingsError(
                f"lora is {self.lora!r} and trained_before {self.trained_before!r}; allowed is one of the two, since "
                "adapters are merged into the weights when a run ends"
            )
        for name in ("model", "data", "validation_data"):
            check_source(name, getattr(self, name))
        check_study_name(self.study)

    @classmethod
    def profile(cls, name: str = "embedded", **overrides: Any) -> Settings:
        """The settings of a profile ("smoke", "embedded" or "paper"); an override of None keeps the profile's.

        Raises `SettingsError` for an unknown profile or field, or a value that is not allowed.
        """
        if not isinstance(name, str) or name not in PROFILES:
            raise SettingsError(f"profile is {shown(name)}; allowed are {', '.join(PROFILES)}")
        given = {field: value for field, value in overrides.items() if value is not None}
        return cls.from_dict({"study": name, **PROFILES[name], **given})

    @classmethod
    def from_parameters(cls, profile: str, further: str | dict[str, Any], **chosen: Any) -> Settings:
        """The settings of a notebook's parameters: a profile, then `further`, then what is `chosen` and not None.

        `further` is a JSON object or what `by_name` made of one.
        """
        chosen = {name: value for name, value in chosen.items() if value is not None}
        return cls.profile(profile, **{**by_name(further), **chosen})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Settings from field names and values; raises `SettingsError` for an unknown field."""
        names = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise SettingsError(f"unknown setting {shown(name)}; settings are {', '.join(names)}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """The inverse of `to_json`."""
        return cls.from_dict(by_name(text))

    def to_dict(self) -> dict[str, Any]:
        """Every field and its value."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Every field as a JSON object."""
        return json.dumps(self.to_dict(), indent=2)

    def replace(self, **changes: Any) -> Settings:
        """The same settings with some fields changed, validated again."""
        return Settings.from_dict({**self.to_dict(), **changes})


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Settings)


def _cast(name: str, value: Any) -> Any:
    hint = _hints()[name]
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return None
    kind = kinds[0]
    if get_origin(kind) is not tuple:
        return _of_kind(name, value, kind, hint)
    # JSON knows no tuples.
    if not isinstance(value, list | tuple):
        raise SettingsError(f"{name} is {shown(value)}; allowed is a list of numbers")
    return tuple(_of_kind(name, item, float, hint) for item in value)


def _of_kind(name: str, value: Any, kind: type, allowed: Any) -> Any:
    # A notebook parameter may arrive as 1 where 1.0 is meant; True is never meant as 1.
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise SettingsError(f"{name} is {shown(value)}; allowed is a number below 1e308") from None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SettingsError(f"{name} is {shown(value)} of type {type(value).__name__}; allowed is {allowed}")
    if kind is float and not math.isfinite(value):
        raise SettingsError(f"{name} is {value!r}; allowed is a finite number")
    return value


PROFILES: dict[str, dict[str, Any]] = {
    # Everything runs for real in seconds; scores mean nothing.
    "smoke": {
        "synth_documents": 8,
        "synth_validation_documents": 4,
        "epochs": 2,
        "batch_size": 8,
        "warmup_steps": 2,
    },
    "embedded": {},
    # The published setting (lr, batch, epochs, beams, tokens, questions), with the protocol mended.
    "paper": {
        "model": "florence-community/Florence-2-base-ft",
        "data": "HuggingFaceM4/DocumentVQA",
        "validation_questions": 500,
        "epochs": 8,
        "batch_size": 6,
        "batching": "uniform",
        "learning_rate": 1e-6,
        "warmup_steps": 0,
        "num_beams": 3,
        "max_new_tokens": 128,
        "eval_batch_size": 16,
        "cache_gib": 128.0,
        "allow_cpu": False,
    },
}
