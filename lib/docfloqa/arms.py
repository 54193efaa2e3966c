"""Arms beside the four ratios: each a question, the runs that answer it, and which of them are compared."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from docfloqa.exceptions import SettingsError, did_you_mean
from docfloqa.settings import SHIFTS, SIDES, UNITS, Settings

RATIOS = (0.0, 0.33, 0.66, 1.0)
# An arm's runs train for so many times fewer epochs than the study, so that all arms take less than twice as long.
FEWER_EPOCHS = 2
LENGTHS = ("epochs", "max_steps")
SIDE_SHARE = 0.33  # of the vision encoder's parameters
LORA_SHARE = 0.1  # of the model's parameters
# Adapters begin at zero: what moves weights gently from where they are does not move them at all.
LORA_LEARNING_RATE = 1e-4
LAYER_DECAY = 0.7  # of the learning rate, from part to part
# What the contrasts of the arm `side` say that are compared across shifts.
ENDS, WHOLE = "the input side against the output side", "all against nothing"
NONE, ALL = {"vision_trainable": 0.0}, {"vision_trainable": 1.0}


@dataclass(frozen=True)
class Variant:
    """A way of fine-tuning: its name in tables, and how its settings differ from the study's.

    One that no sentence compares may be made with the study's first seed only. One that is `tuned` is made at the
    learning rate that is best for it on validation, with the first seed (see `docfloqa.runs.rates`).
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    first_seed_only: bool = False
    tuned: bool = False

    def runs(self, settings: Settings, seeds: Sequence[int]) -> list[Settings]:
        """The settings of its runs, one for every seed."""
        fewer = {name: max(1, most // FEWER_EPOCHS) for name in LENGTHS if (most := getattr(settings, name))}
        chosen = seeds[:1] if self.first_seed_only else seeds
        return [settings.replace(**fewer, seed=seed, **self.changes) for seed in chosen]


@dataclass(frozen=True)
class Contrast:
    """Two variants that are compared, the second against the first, and what their difference says."""

    first: str
    second: str
    says: str

    @property
    def shift(self) -> str:
        """The designed shift that the variants' names begin with; empty where they name none."""
        return self.first.rpartition(": ")[0]


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
    percent = [f"{100 * ratio:.0f} %" for ratio in RATIOS]
    fresh = {f"{name}, fresh weights": {"vision_trainable": ratio} for name, ratio in zip(percent, RATIOS, strict=True)}
    stacked = {
        f"{percent[legs]}, after {' and '.join(percent[:legs])}": {
            "vision_trainable": RATIOS[legs],
            "trained_before": RATIOS[:legs],
        }
        for legs in (1, 2, 3)
    }
    control = {f"0 %, {times} times the epochs": {**NONE, "trained_before": (0.0,) * (times - 1)} for times in (2, 3)}
    (none, _, most, every), (_, after, last), (_, longest) = fresh, stacked, control
    return Arm(
        "cumulative",
        "What does the published protocol, ratios trained one after another on the same weights, do to the "
        "differences between them, and how much of that is only more training?",
        _variants(fresh | stacked | control),
        (
            Contrast(none, most, "66 % against 0 %, fresh weights for each"),
            Contrast(none, after, "66 % against 0 % in the published protocol"),
            Contrast(none, longest, "as many epochs as that with the encoder frozen throughout, against fewer"),
            Contrast(longest, after, "66 % in the published protocol against as many epochs with the encoder frozen"),
            Contrast(after, last, "100 % against 66 % in the published protocol"),
            Contrast(most, every, "100 % against 66 %, fresh weights for each"),
            Contrast(last, every, "100 % with fresh weights against the published protocol's"),
        ),
    )


def shifts_of(settings: Settings) -> list[str | None]:
    """The designed shifts, the study's own first, which may be a mixture; of data that is not drawn none but itself."""
    drawn = settings.data == "synth" and settings.synth_scale == "small" and not settings.validation_data
    return [*dict.fromkeys((settings.synth_shift, *SHIFTS))] if drawn else [None]


def side(settings: Settings) -> Arm:
    """The same share of parameters from the input side and from the output side, under every designed shift."""
    variants: list[Variant] = []
    contrasts: list[Contrast] = []
    for shift in shifts_of(settings):
        start, data = (f"{shift}: ", {"synth_shift": shift}) if shift else ("", {})
        none, every = f"{start}none", f"{start}all"
        variants += _variants({none: {**NONE, **data}, every: {**ALL, **data}})
        shared = {"vision_trainable": SIDE_SHARE, "counted": "parameters", **data}
        # Blocks and stages with the first seed only, so that all arms take less than two hours.
        ends = [
            Variant(
                f"{start}{100 * SIDE_SHARE:.0f} % from the {end} side, {unit}s",
                {**shared, "unit": unit, "side": end},
                first_seed_only=unit != "tensor",
            )
            for unit in UNITS
            for end in SIDES
        ]
        variants += ends
        output, input_ = ends[0].name, ends[1].name
        contrasts += [
            Contrast(none, every, WHOLE),
            Contrast(output, input_, ENDS),
            Contrast(none, input_, "the input side against nothing"),
            Contrast(input_, every, "all against the input side"),
        ]
    return Arm(
        "side",
        "Is it how much of the vision encoder is trained, or which part of it, and does that depend on what is "
        "new about the documents?",
        tuple(variants),
        tuple(contrasts),
        across_shifts(contrasts),
    )


def across_shifts(contrasts: Sequence[Contrast]) -> tuple[tuple[Contrast, Contrast], ...]:
    """Those contrasts under two shifts each of which the difference is compared."""
    pairs = combinations([one for one in contrasts if one.says in (ENDS, WHOLE)], 2)
    return tuple((there, here) for here, there in pairs if here.says == there.says)


def parts(settings: Settings) -> Arm:
    """Parts of the vision encoder by name, each at a learning rate of its own, under every designed shift."""
    variants: list[Variant] = []
    contrasts: list[Contrast] = []
    for shift in shifts_of(settings):
        start, data = (f"{shift}: ", {"synth_shift": shift}) if shift else ("", {})
        named = {"stem": ("stem",), "stages 1 and 2": ("stage1", "stage2"), "stage 4": ("stage4",)}
        changes = {"none": NONE, **{name: {**ALL, "parts": trained} for name, trained in named.items()}, "all": ALL}
        variants += [Variant(start + name, {**change, **data}, tuned=True) for name, change in changes.items()]
        none, stem, first, last, every = (start + name for name in changes)
        contrasts += [
            Contrast(none, every, WHOLE),
            Contrast(last, first, ENDS),
            Contrast(none, first, "stages 1 and 2 against nothing"),
            Contrast(none, stem, "the stem against nothing"),
            Contrast(first, every, "all against stages 1 and 2"),
        ]
    return Arm(
        "parts",
        "Which part of the vision encoder must be trained, and does that depend on what is new about the documents, "
        "when every part has the learning rate that is best for it?",
        tuple(variants),
        tuple(contrasts),
        across_shifts(contrasts),
    )


def prefix(settings: Settings) -> Arm:
    """How the task prefix is written, and whether the model uses the question; the vision encoder is frozen."""
    plain, text, no_prefix, shuffled = "0 %, fresh weights", "prefix as text", "no prefix", "questions shuffled"
    changes = {
        plain: {},
        text: {"prefix": "text"},
        no_prefix: {"prefix": "none"},
        shuffled: {"shuffled_questions": True},
    }
    return Arm(
        "prefix",
        "Does it matter how the task prefix is written, and does the model use the question at all?",
        _variants({name: {**NONE, **change} for name, change in changes.items()}),
        (
            Contrast(text, plain, "one token against text that the tokenizer takes apart"),
            Contrast(no_prefix, plain, "one token against no prefix"),
            Contrast(shuffled, plain, "the right question against that of somebody else"),
        ),
    )


def lora(settings: Settings) -> Arm:
    """LoRA adapters with about equally many parameters, on the language model only and on both."""
    adapters = {"lora": LORA_SHARE, "learning_rate": max(settings.learning_rate, LORA_LEARNING_RATE)}
    language, both = "0 %, fresh weights", "100 %, fresh weights"
    language_lora, both_lora = "LoRA, language model", "LoRA, language model and vision encoder"
    return Arm(
        "lora",
        "Can LoRA adapters, a tenth of the model's parameters, do what unfreezing weights does, and do they have to "
        "stand in the vision encoder?",
        _variants({language: NONE, both: ALL, language_lora: {**NONE, **adapters}, both_lora: {**ALL, **adapters}}),
        (
            Contrast(language_lora, both_lora, "adapters in both against the language model only"),
            Contrast(language_lora, language, "all weights of the language model against adapters there"),
            Contrast(both_lora, both, "all weights of both against adapters in both"),
        ),
    )


def schedules(settings: Settings) -> Arm:
    """When the parts of the vision encoder begin to train and at which rates, in equally many epochs."""
    none, every = "none", "all"
    ways = {
        "language model first, then all (LP-FT)": {"unfreezing": "lp_ft"},
        "thawed from the input side": {"unfreezing": "from_input"},
        "thawed from the output side": {"unfreezing": "from_output"},
        "lower rates towards the input": {"layer_decay": LAYER_DECAY},
        "rates by relative gradients (Auto-RGN)": {"auto_rgn": True},
    }
    changes = {none: NONE, every: ALL, **{name: {**ALL, **way} for name, way in ways.items()}}
    return Arm(
        "schedules",
        "Does it matter when the parts of the vision encoder begin to train, and at which learning rates beside each "
        "other, if training is equally long and every way of it has the rate that is best for it?",
        tuple(Variant(name, change, tuned=True) for name, change in changes.items()),
        (
            Contrast(none, every, WHOLE),
            *(Contrast(every, name, f"{name}, against all at once and at one rate") for name in ways),
        ),
    )


def _variants(changes: dict[str, dict[str, Any]]) -> tuple[Variant, ...]:
    return tuple(Variant(*item) for item in changes.items())


ARMS: dict[str, Callable[[Settings], Arm]] = {
    arm.__name__: arm for arm in (cumulative, prefix, lora, side, parts, schedules)
}


def choose_arms(names: Iterable[str], settings: Settings) -> list[Arm]:
    """The arms of these names, "all" for every one; raises `SettingsError` for another name."""
    for name in names:
        if name not in (*ARMS, "all"):
            allowed = f"{', '.join(ARMS)}, or all{did_you_mean(name, ARMS)}"
            raise SettingsError(f"arm is {name!r}; allowed are {allowed}")
    return [arm(settings) for name, arm in ARMS.items() if name in names or "all" in names]
