"""Arms beside the four ratios: each a question, the runs that answer it, and which of them are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from docfloqa.exceptions import SettingsError
from docfloqa.settings import SHIFTS, UNITS, Settings

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
UNIT_NAMES = {"tensor": "tensors", "block": "blocks", "stage": "stages"}


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
    alone = [Variant(f"{_percent(ratio)}, fresh weights", {"vision_trainable": ratio}) for ratio in RATIOS]
    stacked = [
        Variant(
            f"{_percent(RATIOS[place])}, after {' and '.join(map(_percent, RATIOS[:place]))}",
            {"vision_trainable": RATIOS[place], "trained_before": RATIOS[:place]},
        )
        for place in (1, 2, 3)
    ]
    control = [
        Variant(
            f"0 %, {times} times the epochs",
            {"vision_trainable": 0.0, "trained_before": (0.0,) * (times - 1)},
        )
        for times in (2, 3)
    ]
    contrasts = [
        Contrast(alone[0].name, alone[2].name, "66 % against 0 %, fresh weights for each"),
        Contrast(alone[0].name, stacked[1].name, "66 % against 0 % in the published protocol"),
        Contrast(
            alone[0].name,
            control[1].name,
            "as many epochs as that with the encoder frozen throughout, against fewer",
        ),
        Contrast(
            control[1].name,
            stacked[1].name,
            "66 % in the published protocol against as many epochs with the encoder frozen",
        ),
        Contrast(stacked[1].name, stacked[2].name, "100 % against 66 % in the published protocol"),
        Contrast(alone[2].name, alone[3].name, "100 % against 66 %, fresh weights for each"),
        Contrast(stacked[2].name, alone[3].name, "100 % with fresh weights against the published protocol's"),
    ]
    return Arm(
        "cumulative",
        "What does the published protocol, ratios trained one after another on the same weights, do to the "
        "differences between them, and how much of that is only more training?",
        (*alone, *stacked, *control),
        tuple(contrasts),
    )


def side(settings: Settings) -> Arm:
    """The same share of parameters from the input side and from the output side, under every designed shift."""
    drawn = settings.data == "synth" and settings.synth_scale == "small" and not settings.validation_data
    own = settings.synth_shift
    shifts = [own, *(shift for shift in SHIFTS if shift != own)] if drawn else [None]
    variants, contrasts = [], []
    for shift in shifts:
        prefix, data = (f"{shift}: ", {"synth_shift": shift}) if shift else ("", {})
        none, everything = (
            Variant(f"{prefix}{name}", {"vision_trainable": ratio, **data})
            for name, ratio in (("none", 0.0), ("all", 1.0))
        )
        variants += [none, everything]
        # Blocks and stages with the first seed only, so that all arms take less than two hours.
        for unit in UNITS:
            ends = [
                Variant(
                    f"{prefix}{_percent(SIDE_SHARE)} from the {end} side, {UNIT_NAMES[unit]}",
                    {
                        "vision_trainable": SIDE_SHARE,
                        "unit": unit,
                        "side": end,
                        "counted": "parameters",
                        **data,
                    },
                    first_seed_only=unit != "tensor",
                )
                for end in ("output", "input")
            ]
            variants += ends
            if unit == "tensor":
                contrasts += [
                    Contrast(none.name, everything.name, WHOLE),
                    Contrast(ends[0].name, ends[1].name, ENDS),
                    Contrast(none.name, ends[1].name, "the input side against nothing"),
                    Contrast(ends[1].name, everything.name, "all against the input side"),
                ]
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
    frozen = {"vision_trainable": 0.0}
    variants = (
        Variant("0 %, fresh weights", frozen),
        Variant("prefix as text", frozen | {"prefix": "text"}),
        Variant("no prefix", frozen | {"prefix": "none"}),
        Variant("questions shuffled", frozen | {"shuffled_questions": True}),
    )
    says = (
        "one token against text that the tokenizer takes apart",
        "one token against no prefix",
        "the right question against that of somebody else",
    )
    contrasts = [Contrast(other.name, variants[0].name, text) for other, text in zip(variants[1:], says, strict=True)]
    return Arm(
        "prefix",
        "Does it matter how the task prefix is written, and does the model use the question at all?",
        variants,
        tuple(contrasts),
    )


def lora(settings: Settings) -> Arm:
    """LoRA adapters with about equally many parameters, on the language model only and on both."""
    rate = {"lora": LORA_SHARE, "learning_rate": max(settings.learning_rate, LORA_LEARNING_RATE)}
    variants = (
        Variant("0 %, fresh weights", {"vision_trainable": 0.0}),
        Variant("100 %, fresh weights", {"vision_trainable": 1.0}),
        Variant("LoRA, language model", {"vision_trainable": 0.0, **rate}),
        Variant("LoRA, language model and vision encoder", {"vision_trainable": 1.0, **rate}),
    )
    language, both, language_lora, both_lora = (variant.name for variant in variants)
    return Arm(
        "lora",
        "Can LoRA adapters, a tenth of the model's parameters, do what unfreezing weights does, and do they have to "
        "stand in the vision encoder?",
        variants,
        (
            Contrast(language_lora, both_lora, "adapters in both against the language model only"),
            Contrast(language_lora, language, "all weights of the language model against adapters there"),
            Contrast(both_lora, both, "all weights of both against adapters in both"),
        ),
    )


ARMS: dict[str, Callable[[Settings], Arm]] = {arm.__name__: arm for arm in (cumulative, prefix, lora, side)}


def choose_arms(names: Sequence[str], settings: Settings) -> list[Arm]:
    """The arms of these names, "all" for every one; raises `SettingsError` for another name."""
    for name in names:
        if name not in (*ARMS, "all"):
            raise SettingsError(f"arm is {name!r}; allowed are {', '.join(ARMS)}, or all")
    return [arm(settings) for name, arm in ARMS.items() if name in names or "all" in names]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"
