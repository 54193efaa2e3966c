"""Arms beside the four ratios: each a question, the runs that answer it, and which of them are compared."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from docfloqa.exceptions import SettingsError
from docfloqa.settings import SHIFTS, SIDES, UNITS, Settings

RATIOS = (0.0, 0.33, 0.66, 1.0)
# An arm's runs train for so many times fewer epochs than the study, so that all arms take less than twice as long.
FEWER_EPOCHS = 2
SIDE_SHARE = 0.33  # of the vision encoder's parameters
LORA_SHARE = 0.1  # of the model's parameters
# Adapters begin at zero: what moves weights gently from where they are does not move them at all.
LORA_LEARNING_RATE = 1e-4
# What the contrasts of the arm `side` say that are compared across shifts.
ENDS = "the input side against the output side"
WHOLE = "all against nothing"


@dataclass(frozen=True)
class Variant:
    """A way of fine-tuning: its name in tables, and how its settings differ from the study's.

    One that no sentence compares is made with the study's first seed only.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    first_seed_only: bool = False

    def runs(self, settings: Settings, seeds: Sequence[int]) -> list[Settings]:
        """The settings of its runs, one for every seed."""
        epochs = max(1, settings.epochs // FEWER_EPOCHS)
        chosen = seeds[:1] if self.first_seed_only else seeds
        return [settings.replace(epochs=epochs, seed=seed, **self.changes) for seed in chosen]


@dataclass(frozen=True)
class Contrast:
    """Two variants that are compared, the second against the first, and what their difference says."""

    first: str
    second: str
    says: str

    @property
    def shift(self) -> str:
        """The designed shift that the variants' names begin with; empty where they name none."""
        shift, colon, _ = self.first.partition(": ")
        return shift if colon else ""


@dataclass(frozen=True)
class Arm:
    """A question in one sentence, the variants whose runs answer it, and what is compared.

    `interactions` are pairs of contrasts on different documents, the second's difference compared with the first's.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    contrasts: tuple[Contrast, ...]
    interactions: tuple[tuple[Contrast, Contrast], ...] = ()


def cumulative(settings: Settings) -> Arm:
    """The published protocol, ratios trained one after another on the same weights, and its control."""
    alone = _variants((f"{_percent(ratio)}, fresh weights", {"vision_trainable": ratio}) for ratio in RATIOS)
    stacked = _variants(
        (
            f"{_percent(RATIOS[legs])}, after {' and '.join(map(_percent, RATIOS[:legs]))}",
            {"vision_trainable": RATIOS[legs], "trained_before": RATIOS[:legs]},
        )
        for legs in (1, 2, 3)
    )
    control = _variants(
        (f"0 %, {times} times the epochs", {"vision_trainable": 0.0, "trained_before": (0.0,) * (times - 1)})
        for times in (2, 3)
    )
    compared = (
        (alone[0], alone[2], "66 % against 0 %, fresh weights for each"),
        (alone[0], stacked[1], "66 % against 0 % in the published protocol"),
        (alone[0], control[1], "as many epochs as that with the encoder frozen throughout, against fewer"),
        (control[1], stacked[1], "66 % in the published protocol against as many epochs with the encoder frozen"),
        (stacked[1], stacked[2], "100 % against 66 % in the published protocol"),
        (alone[2], alone[3], "100 % against 66 %, fresh weights for each"),
        (stacked[2], alone[3], "100 % with fresh weights against the published protocol's"),
    )
    return Arm(
        "cumulative",
        "What does the published protocol, ratios trained one after another on the same weights, do to the "
        "differences between them, and how much of that is only more training?",
        (*alone, *stacked, *control),
        _contrasts(compared),
    )


def side(settings: Settings) -> Arm:
    """The same share of parameters from the input side and from the output side, under every designed shift."""
    drawn = settings.data == "synth" and settings.synth_scale == "small" and not settings.validation_data
    own = settings.synth_shift
    variants, contrasts = [], []
    for shift in [own, *(shift for shift in SHIFTS if shift != own)] if drawn else [None]:
        prefix, data = (f"{shift}: ", {"synth_shift": shift}) if shift else ("", {})
        none, everything = _variants(
            (f"{prefix}{name}", {"vision_trainable": ratio, **data}) for name, ratio in (("none", 0.0), ("all", 1.0))
        )
        # Blocks and stages with the first seed only, so that all arms take less than two hours.
        ends = [
            Variant(
                f"{prefix}{_percent(SIDE_SHARE)} from the {end} side, {unit}s",
                {"vision_trainable": SIDE_SHARE, "unit": unit, "side": end, "counted": "parameters", **data},
                first_seed_only=unit != "tensor",
            )
            for unit in UNITS
            for end in SIDES
        ]
        variants += [none, everything, *ends]
        compared = (
            (none, everything, WHOLE),
            (ends[0], ends[1], ENDS),
            (none, ends[1], "the input side against nothing"),
            (ends[1], everything, "all against the input side"),
        )
        contrasts += _contrasts(compared)
    across_shifts = [
        (there, here)
        for here, there in combinations(contrasts, 2)
        if here.says == there.says and here.says in (ENDS, WHOLE)
    ]
    return Arm(
        "side",
        "Is it how much of the vision encoder is trained, or which part of it, and does that depend on what is "
        "new about the documents?",
        tuple(variants),
        tuple(contrasts),
        tuple(across_shifts),
    )


def prefix(settings: Settings) -> Arm:
    """How the task prefix is written, and whether the model uses the question; the vision encoder is frozen."""
    plain, *others = _variants(
        (name, {"vision_trainable": 0.0, **changes})
        for name, changes in (
            ("0 %, fresh weights", {}),
            ("prefix as text", {"prefix": "text"}),
            ("no prefix", {"prefix": "none"}),
            ("questions shuffled", {"shuffled_questions": True}),
        )
    )
    says = (
        "one token against text that the tokenizer takes apart",
        "one token against no prefix",
        "the right question against that of somebody else",
    )
    return Arm(
        "prefix",
        "Does it matter how the task prefix is written, and does the model use the question at all?",
        (plain, *others),
        _contrasts((other, plain, text) for other, text in zip(others, says, strict=True)),
    )


def lora(settings: Settings) -> Arm:
    """LoRA adapters with about equally many parameters, on the language model only and on both."""
    adapters = {"lora": LORA_SHARE, "learning_rate": max(settings.learning_rate, LORA_LEARNING_RATE)}
    language, both, language_lora, both_lora = variants = _variants(
        (
            ("0 %, fresh weights", {"vision_trainable": 0.0}),
            ("100 %, fresh weights", {"vision_trainable": 1.0}),
            ("LoRA, language model", {"vision_trainable": 0.0, **adapters}),
            ("LoRA, language model and vision encoder", {"vision_trainable": 1.0, **adapters}),
        )
    )
    compared = (
        (language_lora, both_lora, "adapters in both against the language model only"),
        (language_lora, language, "all weights of the language model against adapters there"),
        (both_lora, both, "all weights of both against adapters in both"),
    )
    return Arm(
        "lora",
        "Can LoRA adapters, a tenth of the model's parameters, do what unfreezing weights does, and do they have to "
        "stand in the vision encoder?",
        variants,
        _contrasts(compared),
    )


def _variants(rows: Iterable[tuple[str, dict[str, Any]]]) -> tuple[Variant, ...]:
    return tuple(Variant(*row) for row in rows)


def _contrasts(rows: Iterable[tuple[Variant, Variant, str]]) -> tuple[Contrast, ...]:
    return tuple(Contrast(first.name, second.name, says) for first, second, says in rows)


ARMS: dict[str, Callable[[Settings], Arm]] = {arm.__name__: arm for arm in (cumulative, prefix, lora, side)}


def choose_arms(names: Sequence[str], settings: Settings) -> list[Arm]:
    """The arms of these names, "all" for every one; raises `SettingsError` for another name."""
    for name in names:
        if name not in (*ARMS, "all"):
            raise SettingsError(f"arm is {name!r}; allowed are {', '.join(ARMS)}, or all")
    return [arm(settings) for name, arm in ARMS.items() if name in names or "all" in names]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"
