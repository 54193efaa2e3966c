"""Arms beside the four ratios: each a question, the runs that answer it, and which of them are compared."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, product
from typing import Any

from docfloqa.exceptions import SettingsError, did_you_mean
from docfloqa.parameters import mixture_text
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
FEWER_SEEDS = 3  # of arms beside the claims, so that a study of five seeds fits into a night
STRENGTHS = (0.0, 0.5, 1.0)  # of the pixels' shift, and the share of new content, in the arm `grid`
# What the contrasts say that are compared across shifts.
ENDS, WHOLE = "the input side against the output side", "all against nothing"
STEM = "the stem against stage 4"
NONE, ALL = {"vision_trainable": 0.0}, {"vision_trainable": 1.0}


@dataclass(frozen=True)
class Variant:
    """A way of fine-tuning: its name in tables, and how its settings differ from the study's.

    It is made with the first `most_seeds` seeds; where it is `tuned`, at the learning rate that is best on validation
    (`docfloqa.runs.rates`), or in the mean over the documents of the shifts `tuned_on`.
    """

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    most_seeds: int | None = None
    tuned: bool = False
    tuned_on: tuple[str, ...] = ()

    def runs(self, settings: Settings, seeds: Sequence[int]) -> list[Settings]:
        chosen = seeds[: self.most_seeds]
        return [settings.replace(**{**_fewer(settings), "seed": seed, **self.changes}) for seed in chosen]

    def tried(self, settings: Settings, seeds: Sequence[int]) -> list[Settings]:
        """The settings whose learning rate is tried, by documents; none where it is not tuned."""
        first = self.runs(settings, seeds[:1]) if self.tuned else []
        return [one.replace(synth_shift=shift or one.synth_shift) for one in first for shift in self.tuned_on or [None]]


def shift_of(variant: str) -> str:
    """The designed shift that a variant's name begins with; empty where it names none."""
    return variant.rpartition(": ")[0]


@dataclass(frozen=True)
class Contrast:
    """Two variants that are compared, the second against the first, and what their difference says."""

    first: str
    second: str
    says: str


@dataclass(frozen=True)
class Arm:
    """A question in one sentence, the variants whose runs answer it, and what is compared.

    `interactions` are pairs of contrasts on different documents, the second's difference compared with the first's.
    Where it is `pooled`, the variance between seeds is that of all variants under the same shift.
    """

    name: str
    question: str
    variants: tuple[Variant, ...]
    contrasts: tuple[Contrast, ...]
    interactions: tuple[tuple[Contrast, Contrast], ...] = ()
    pooled: bool = False


def _fewer(settings: Settings, times: int = FEWER_EPOCHS) -> dict[str, int]:
    return {name: max(1, most // times) for name in LENGTHS if (most := getattr(settings, name))}


def legs(run: Settings) -> list[Settings]:
    """The runs on whose weights a run goes on, the first one first."""
    before = run.trained_before
    return [run.replace(vision_trainable=each, trained_before=before[:place]) for place, each in enumerate(before)]


def _in_turn(ratios: Sequence[float]) -> dict[str, Any]:
    """What trains these ratios one after another on the same weights."""
    return {"vision_trainable": ratios[-1], "trained_before": tuple(ratios[:-1])}


def cumulative(settings: Settings) -> Arm:
    """The published protocol, ratios trained one after another on the same weights, and its control."""
    percent = [f"{100 * ratio:.0f} %" for ratio in RATIOS]
    fresh = {f"{name}, fresh weights": {"vision_trainable": ratio} for name, ratio in zip(percent, RATIOS, strict=True)}
    orders = {f"{percent[last]}, after {' and '.join(percent[:last])}": RATIOS[: last + 1] for last in (1, 2, 3)}
    stacked = {name: _in_turn(order) for name, order in orders.items()}
    control = {f"0 %, {times} times the epochs": _in_turn((0.0,) * times) for times in (2, 3)}
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


def is_drawn(settings: Settings) -> bool:
    """Whether a study's documents are small drawn ones, which have designed shifts."""
    return settings.data == "synth" and settings.synth_scale == "small" and not settings.validation_data


def shifts_of(settings: Settings) -> dict[str, str]:
    """The designed shifts by name, the study's own first, which may be a mixture; none where data are not drawn."""
    return {shift: shift for shift in (settings.synth_shift, *SHIFTS)} if is_drawn(settings) else {}


def _under_every_shift(arm: Arm, shifts: dict[str, str]) -> Arm:
    """The same arm with its variants under every shift, by what it is called; of data that is not drawn as it is."""
    variants, contrasts = [], []
    for called, shift in shifts.items():
        for one in arm.variants:
            variants.append(replace(one, name=f"{called}: {one.name}", changes={**one.changes, "synth_shift": shift}))
        for one in arm.contrasts:
            contrasts.append(replace(one, first=f"{called}: {one.first}", second=f"{called}: {one.second}"))
    return replace(arm, variants=tuple(variants), contrasts=tuple(contrasts)) if shifts else arm


def _across_shifts(arm: Arm) -> Arm:
    """The same arm, with what its contrasts differ by between every two shifts."""
    pairs = combinations([one for one in arm.contrasts if one.says in (ENDS, WHOLE, STEM)], 2)
    return replace(arm, interactions=tuple((there, here) for here, there in pairs if here.says == there.says))


def side(settings: Settings) -> Arm:
    """The same share of parameters from the input side and from the output side, under every designed shift."""
    ends = []
    # Blocks and stages with the first seed only, so that all arms take less than two hours.
    for unit, end in product(UNITS, SIDES):
        changes = {"vision_trainable": SIDE_SHARE, "counted": "parameters", "unit": unit, "side": end}
        name = f"{100 * SIDE_SHARE:.0f} % from the {end} side, {unit}s"
        ends.append(Variant(name, changes, most_seeds=None if unit == "tensor" else 1))
    output, input_ = ends[0].name, ends[1].name
    arm = Arm(
        "side",
        "Is it how much of the vision encoder is trained, or which part of it, and does that depend on what is "
        "new about the documents?",
        (*_variants({"none": NONE, "all": ALL}), *ends),
        (
            Contrast("none", "all", WHOLE),
            Contrast(output, input_, ENDS),
            Contrast("none", input_, "the input side against nothing"),
            Contrast(input_, "all", "all against the input side"),
        ),
    )
    return _across_shifts(_under_every_shift(arm, shifts_of(settings)))


def _thawed(named: dict[str, tuple[str, ...]], **options: Any) -> tuple[Variant, ...]:
    """None of the vision encoder, each of the `named` sets of its parts, and all of it."""
    some = {name: {**ALL, "parts": parts} for name, parts in named.items()}
    return _variants({"none": NONE, **some, "all": ALL}, tuned=True, **options)


def parts(settings: Settings) -> Arm:
    """Parts of the vision encoder, each at a learning rate of its own, under every shift; it compares the claims."""
    arm = Arm(
        "parts",
        "Which part of the vision encoder must be trained, and does that depend on what is new about the documents, "
        "when every part has the learning rate that is best for it?",
        _thawed({"stem": ("stem",), "stages 1 and 2": ("stage1", "stage2"), "stage 4": ("stage4",)}),
        (
            Contrast("none", "all", WHOLE),
            Contrast("stage 4", "stem", STEM),
            Contrast("none", "stem", "the stem against nothing"),
            Contrast("none", "stages 1 and 2", "stages 1 and 2 against nothing"),
            Contrast("none", "stage 4", "stage 4 against nothing"),
        ),
        pooled=True,
    )
    return _across_shifts(_under_every_shift(arm, shifts_of(settings)))


def one_rate(settings: Settings) -> Arm:
    """The variants of `parts` at the study's own learning rate: is what they differ by a matter of their rates?"""
    claims = parts(settings)
    return replace(
        claims,
        name="one_rate",
        question="What is left of the claims when every variant has the same learning rate?",
        variants=tuple(replace(one, tuned=False) for one in claims.variants),
    )


def cell(pixels: float, content: float) -> str:
    """What a cell of the arm `grid` is called, by the strength of the pixels' shift and the share of new content."""
    return f"pixels {pixels:g}, content {content:g}"


def grid(settings: Settings) -> Arm:
    """None, the input side, the output side, all and Auto-RGN, by how much is new of pixels and of content.

    The sides are whole parts of about equal size (of the tiny model's encoder 19 and 25 % of the parameters). Each has
    one learning rate in all cells, the best in the mean over the two pure shifts, where its trials are `parts`'.
    """
    pure = ("input", "content") if is_drawn(settings) else ()
    options = {"tuned_on": pure, "most_seeds": 2}
    # What advice has to be better than.
    rgn = Variant("Auto-RGN", {**ALL, "auto_rgn": True}, tuned=True, **options)
    arm = Arm(
        "grid",
        "Where does training the vision encoder, or its input side in place of its output side, begin to help, by how "
        "much is new about the pixels and about the content?",
        (*_thawed({"input side": ("stem", "stage1", "stage2"), "output side": ("stage4",)}, **options), rgn),
        (Contrast("none", "all", WHOLE), Contrast("output side", "input side", ENDS)),
        pooled=True,
    )
    cells = product(STRENGTHS, STRENGTHS) if pure else ()
    shifts = {cell(*pair): mixture_text(dict(zip(("input", "content"), pair, strict=True))) for pair in cells}
    return _under_every_shift(arm, shifts)


def prefix(settings: Settings) -> Arm:
    """How the task prefix is written, and whether the model uses the question; the vision encoder is frozen."""
    plain = "0 %, fresh weights"
    ways = {
        "prefix as text": ({"prefix": "text"}, "one token against text that the tokenizer takes apart"),
        "no prefix": ({"prefix": "none"}, "one token against no prefix"),
        "questions shuffled": ({"shuffled_questions": True}, "the right question against that of somebody else"),
    }
    return Arm(
        "prefix",
        "Does it matter how the task prefix is written, and does the model use the question at all?",
        _variants({plain: NONE} | {name: NONE | change for name, (change, _) in ways.items()}, most_seeds=FEWER_SEEDS),
        tuple(Contrast(name, plain, says) for name, (_, says) in ways.items()),
    )


def lora(settings: Settings) -> Arm:
    """LoRA adapters with about equally many parameters, on the language model only and on both, at the best rates."""
    adapters = {"lora": LORA_SHARE, "learning_rate": max(settings.learning_rate, LORA_LEARNING_RATE)}
    language, both = "0 %, fresh weights", "100 %, fresh weights"
    language_lora, both_lora = "LoRA, language model", "LoRA, language model and vision encoder"
    return Arm(
        "lora",
        "Can LoRA adapters, a tenth of the model's parameters, do what unfreezing weights does, and do they have to "
        "stand in the vision encoder?",
        _variants(
            {language: NONE, both: ALL, language_lora: {**NONE, **adapters}, both_lora: {**ALL, **adapters}},
            tuned=True,
            most_seeds=FEWER_SEEDS,
        ),
        (
            Contrast(language_lora, both_lora, "adapters in both against the language model only"),
            Contrast(language_lora, language, "all weights of the language model against adapters there"),
            Contrast(both_lora, both, "all weights of both against adapters in both"),
        ),
    )


def schedules(settings: Settings) -> Arm:
    """When the parts of the vision encoder begin to train and at which rates, in equally many epochs.

    The published protocol stands beside the same four legs with all and none of the encoder: is its gain the order, or
    training again? Legs have a quarter of the epochs each, at least one.
    """
    none, every, order, again, frozen = "none", "all", "0, 33, 66, 100 % in turn", "4 × 100 %", "4 × 0 %"
    leg = _fewer(settings, FEWER_EPOCHS * len(RATIOS))
    ways = {
        "language model first, then all (LP-FT)": {"unfreezing": "lp_ft"},
        "thawed from the input side": {"unfreezing": "from_input"},
        "thawed from the output side": {"unfreezing": "from_output"},
        "lower rates towards the input": {"layer_decay": LAYER_DECAY},
        "rates by relative gradients (Auto-RGN)": {"auto_rgn": True},
    }
    orders = {order: RATIOS, again: [1.0] * 4, frozen: [0.0] * 4}
    stacked = {name: _in_turn(ratios) | leg for name, ratios in orders.items()}
    changes = {none: NONE, every: ALL, **{name: {**ALL, **way} for name, way in ways.items()}, **stacked}
    return Arm(
        "schedules",
        "Does it matter when the parts of the vision encoder begin to train, and at which learning rates beside each "
        "other, if training is equally long and every way of it has the rate that is best for it?",
        _variants(changes, tuned=True, most_seeds=FEWER_SEEDS),
        (
            Contrast(none, every, WHOLE),
            *(Contrast(every, name, f"{name}, against all at once and at one rate") for name in ways),
            Contrast(frozen, order, "the published order against as much training again without the encoder"),
            Contrast(again, order, "the published order against as much training again of all"),
            Contrast(every, again, "four legs against one as long"),
            Contrast(every, order, "the published order against all at once"),
        ),
        pooled=True,
    )


def _variants(changes: dict[str, dict[str, Any]], **options: Any) -> tuple[Variant, ...]:
    return tuple(Variant(*item, **options) for item in changes.items())


ARMS = {arm.__name__: arm for arm in (cumulative, prefix, lora, side, parts, one_rate, grid, schedules)}


def choose_arms(names: Collection[str], settings: Settings) -> list[Arm]:
    """The arms of these names, "all" for every one; raises `SettingsError` for another name."""
    for name in names:
        if name not in (*ARMS, "all"):
            allowed = f"{', '.join(ARMS)}, or all{did_you_mean(name, ARMS)}"
            raise SettingsError(f"arm is {name!r}; allowed are {allowed}")
    return [arm(settings) for name, arm in ARMS.items() if name in names or "all" in names]
