"""What follows from a study's runs, in words made from its numbers, and all of its tables as files."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from docfloqa.analysis.arm_tables import arm_comparisons, arm_interactions, arm_summary
from docfloqa.analysis.confidence import calibration, has_confidence
from docfloqa.analysis.intervals import Interval, interval_table, p_text
from docfloqa.analysis.mistakes import GROUPS, NOT_KNOWN, by_group, only_right_at
from docfloqa.analysis.paired import mcnemar_bounds
from docfloqa.analysis.published import QUESTIONS, published_differences, published_systems
from docfloqa.analysis.tables import (
    PUBLISHED,
    RATIO,
    SIGNIFICANT,
    across,
    comparisons,
    costs,
    exact_match_pairs,
    finetuning_curve,
    freezing_ablation,
    holm_of,
    interval,
    last_epoch,
    page_use,
    page_use_scores,
    paired_differences,
    percent,
    scores,
    seed_spread,
    smallest_of_all,
    summary,
    texts,
    vision_shares,
)
from docfloqa.files import TINY_MODEL, resolve
from docfloqa.model.florence import PREFIX, Florence2ForDocVQA, base_config
from docfloqa.model.freezing import Trainable, freeze
from docfloqa.report.tables import write_frames
from docfloqa.runs.results import Study
from docfloqa.settings import Freezing
from docfloqa.text import escaped

PREFIX_PIECES = 6  # of `<DocVQA>` in Florence-2's original tokenizer, which has no such token
# How much better a model must answer with a question's own page than with another document's before ratios
# are compared: dates and amounts look so much alike that guessing them blindly already scores.
FLOOR = 0.05


def at_floor(study: Study) -> bool:
    """Whether no ratio reads the pages, so that ratios cannot be compared.

    A ratio reads if its ANLS with a question's own page is at least `FLOOR` above that with another
    document's page, and the difference's interval above 0.
    """
    gains = page_use_scores(study).query("metric == 'difference'")
    return not ((gains["estimate"] >= FLOOR) & ((gains["low"] > 0) | gains["low"].isna())).any()


def conclusion(study: Study) -> str:
    """What the study's ANLS lets one say, as Markdown; near the floor it compares nothing."""
    anls, last = _last_anls(study), study.predictions["epoch"].max()
    best = max(anls, key=lambda ratio: anls[ratio].estimate)
    reached = f"{anls[best].format(100)} %"
    if at_floor(study):
        wrong = page_use_scores(study).query(f"metric == 'wrong' and {RATIO} == @best")
        return (
            f"**It could not be shown that the model reads these documents.** After epoch {last} ANLS is at "
            f"most {reached}; asked the "
            f"same questions on pages of other documents, that model reaches {texts(wrong)[0]} %. "
            f"{_comparison(study)} {_scope(study)}"
        )
    runs = study.predictions.query(f"{RATIO} == @best").set_index(["run", "question_id"])
    before, after = (runs[runs["epoch"] == epoch] for epoch in (0, last))
    after = after.assign(start=before["anls"], gain=after["anls"] - before["anls"]).reset_index()
    start, gain = map(interval, interval_table(after, [RATIO], ["start", "gain"]).itertuples())
    unsure = "" if gain.low > 0 else ", which cannot be told from none"
    highest = "the highest ANLS" if len(anls) > 1 else "ANLS"
    return (
        f"After epoch {last} {highest} is **{reached}**, with {percent(best)} of the vision encoder's "
        f"{study.settings.unit}s trained ({percent(vision_shares(study)[best])} of its parameters). Before "
        f"training it was {start.format(100)} %: a gain of {gain.format(100)} points{unsure}. "
        f"{_comparison(study)} {_scope(study)}"
    )


def claims(study: Study) -> pd.DataFrame:
    """Published claims and what the evidence says, as plain text; a model's facts are Florence-2-base's."""
    frozen, most = base_freezing(0.0), base_freezing(0.66)
    ablation, count = PUBLISHED["freezing_ablation_epoch_8"], QUESTIONS
    accuracy = dict(zip(ablation[RATIO], ablation["accuracy"], strict=True))
    best, full = accuracy[0.66], accuracy[1.0]
    bounds = mcnemar_bounds(*(round(count * value / 100) for value in (full, best)), count)
    odd = " and ".join(f"{value} %" for value in accuracy.values() if round(value * count / 100, 6) % 1)
    epochs = [str(PUBLISHED["setting"]["epochs"] * place) for place in range(1, len(accuracy) + 1)]
    others = pd.DataFrame(PUBLISHED["other_published_docvqa_figures"]).query("split == 'test'")
    top = others.explode("anls").sort_values("anls").iloc[-1]
    evidence = {
        "one prefix token + 80 % tunable parameters": f"{PREFIX} is no token of the original processor but "
        f"{PREFIX_PIECES} pieces of text. At 66 % of the tensors ({most.trainable_vision_tensors} of "
        f"{most.vision_tensors}), {most.trainable_vision_parameters:,} of {most.vision_parameters:,} "
        f"parameters of the vision encoder are trained ({percent(most.trainable_vision_share)}); with "
        f"projector and language model it is {percent(most.trainable_share)} of the whole.",
        "near-SOTA": f"The published {100 * max(ablation['similarity']):.1f} is a similarity with the first "
        f"answer without a threshold, not ANLS, on {count} validation questions; of the systems that the "
        f"project lists, the highest ANLS on the test split is {top['anls']:.1f} ({top['system']}).",
        "66 % is best": f"Published: {best} % accuracy against {full} % at 100 %. These {best - full:.1f} "
        f"points come from {count} questions, as published; taken so, McNemar's exact test has a p-value between "
        f"{p_text(bounds[0])} and {p_text(bounds[1])}, whichever questions were right, and {odd} are no "
        f"shares of {count} questions, which come in steps of {100 / count:.1f} %. The ratios were "
        f"trained one after another on the same weights and had {' / '.join(epochs)} epochs. This study: "
        f"{_comparison(study)}",
        "only the decoder head is tuned": "Projector and whole language model are trained at every ratio: "
        f"{frozen.trainable_parameters:,} of {frozen.parameters:,} parameters with the vision encoder frozen "
        f"({percent(frozen.trainable_share)}).",
    }
    return pd.DataFrame(evidence.items(), columns=["claim", "what the evidence says"])


def write_tables(study: Study, beside: Sequence[Study] = ()) -> list[Path]:
    """Write all tables of a study as `write_frames` does; returns the files.

    Beside the tables themselves there are those of the arms and of the errors as far as they can be made, and
    `across` where other studies are set beside this one.
    """
    frames = {
        table.__name__: table(study)
        for table in (
            finetuning_curve,
            freezing_ablation,
            summary,
            comparisons,
            exact_match_pairs,
            page_use,
            costs,
            seed_spread,
            claims,
            only_right_at,
            scores,
        )
    }
    for group in GROUPS:
        table = by_group(study, group)
        if table.index.tolist() != [NOT_KNOWN]:
            frames[f"by_{group}"] = table
    if has_confidence(study):
        frames["calibration"] = calibration(study)
    frames["published_differences"] = published_differences()
    frames["published_systems"] = published_systems()
    for arm in study.arms:
        frames[f"arm_{arm}"] = arm_summary(study, arm)
        frames[f"arm_{arm}_comparisons"] = arm_comparisons(study, arm)
        frames[f"arm_{arm}_interactions"] = arm_interactions(study, arm)
    if beside:
        frames["across"] = across([study, *beside])
    return write_frames(study.name, frames)


@functools.cache
def base_freezing(ratio: float) -> Trainable:
    """What a ratio of tensors freezes of Florence-2-base."""
    with torch.device("meta"):
        return freeze(Florence2ForDocVQA(base_config()), Freezing(ratio))


def _comparison(study: Study) -> str:
    anls = _last_anls(study)
    if at_floor(study):
        return (
            "Scores are near the floor, which is what guesses without the right page give: nothing can be "
            "concluded about how much of the vision encoder to train."
        )
    if len(anls) == 1:
        return "There is one ratio only, so nothing is compared."
    pairs = paired_differences(study)
    if not pairs:
        return "Two ratios with a seed in common and two documents are lacking, so nothing is compared."
    clear, together = [], []
    for (low, high, difference), p_value in zip(pairs, holm_of(pairs), strict=True):
        if p_value < SIGNIFICANT:
            above, below = (high, low) if difference.estimate > 0 else (low, high)
            size = abs(difference.estimate)
            sure = f"p {p_text(p_value)}"
            clear.append(f"{percent(above)} above {percent(below)} by {100 * size:.1f} points ({sure})")
        else:
            together.append(" and ".join(map(percent, (low, high))))
    smallest = max(smallest_of_all(difference, len(pairs)) for *_, difference in pairs)
    return (
        (
            f"Distinguished (paired, p below {SIGNIFICANT} after Holm's correction): {', '.join(clear)}. "
            if clear
            else ""
        )
        + (f"Cannot be distinguished: {', '.join(together)}. " if together else "")
        + f"True differences below {100 * smallest:.1f} points would often be missed in at least one pair."
    )


def instrument(study: Study) -> str:
    """What the study's figures come from, as Markdown: model and parameters, seeds, questions and documents."""
    name, counts = study.settings.model, study.predictions[["seed", "question_id", "document_id"]].nunique()
    source = resolve(name)
    named = f"the model {escaped(Path(name).name if Path(source).is_dir() else name)}"
    model = "the tiny embedded model" if source == str(TINY_MODEL) else named
    drawn = "drawn " if (study.settings.validation_data or study.settings.data) == "synth" else ""
    return (
        f"{model} with {study.runs['parameters'].iloc[0]:,} parameters, trained with "
        f"{counted(counts['seed'], 'seed')}, and {counted(counts['question_id'], 'question')} on "
        f"{counted(counts['document_id'], drawn + 'document')}"
    )


def _scope(study: Study) -> str:
    return (
        f"This is about {instrument(study)}; the interval of one ratio (95 %) is "
        "over documents and says nothing about other seeds, comparisons "
        + ("are over both." if study.runs["seed"].nunique() > 1 else "neither.")
        + " A seed is an order of the training questions: starting weights and documents are the same for all."
        + (f" Planned runs that are missing: {len(study.missing)}." if study.missing else "")
    )


def _last_anls(study: Study) -> dict[float, Interval]:
    table = interval_table(last_epoch(study.predictions), [RATIO], ["anls"])
    return {row.vision_trainable: interval(row) for row in table.itertuples()}


def counted(number: int, noun: str) -> str:
    """A number with a noun in the singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
