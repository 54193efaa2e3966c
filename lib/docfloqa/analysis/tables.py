"""A study's tables: published figures beside its own, each of its own with an interval."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pandas as pd

from docfloqa.analysis.contrasts import (
    VARIANT,
    Comparison,
    arm_contrasts,
    holm_p_values,
    interactions,
    made,
    ratio_contrasts,
)
from docfloqa.analysis.intervals import (
    LOSS,
    NONE,
    RATIO,
    interval_table,
    last_epoch,
    number,
    p_text,
    percent,
    text_table,
    texts,
)
from docfloqa.analysis.paired import PairedDifference, holm, mcnemar_p_value
from docfloqa.metrics import METRICS
from docfloqa.runs.results import Study, once_for_study

PUBLISHED: dict[str, Any] = json.loads(files("docfloqa.analysis").joinpath("published.json").read_text())
# What the published 66 % is ahead of 100 % in accuracy, as a share.
PUBLISHED_LEAD = 0.009
MAIN_COLUMNS = ["vision parameters", "epochs", "seeds", "ANLS (%)", "exact match (%)"]
PAGE_USE = {"own": "ANLS, own page (%)", "wrong": "ANLS, wrong page (%)", "difference": "difference"}
# Quantity: the published column, what makes it a percentage, and the metric that is defined in the same way.
COUNTERPARTS: dict[str, tuple[str | None, float, str]] = {
    "ANLS (%)": (None, 1, "anls"),
    "accuracy, first answer (%)": ("accuracy", 1, "contains_first"),
    "similarity, first answer (%)": ("similarity", 100, "similarity_first"),
    "exact match, first answer (%)": ("exact_match", 1, "exact_match_first"),
    "F1, first answer (%)": ("f1", 1, "f1_first"),
    "validation loss": (LOSS, 1, LOSS),
}
NOTE = (
    "The published similarity is called ANLS there; it has no threshold and takes the first answer only. The "
    "published loss counts padding too: its course can be compared, its size cannot."
)


@once_for_study
def scores(study: Study) -> pd.DataFrame:
    """Tidy: ratio, epoch, metric, estimate, low, high; mean over seeds, 95 % interval over documents.

    Scores are in [0, 1], `val_loss` is in nats per token.
    """
    return interval_table(study.epoch_scores, [RATIO, "epoch"], [*METRICS, LOSS])


def vision_shares(study: Study) -> pd.Series:
    """Share of the vision encoder's parameters that was trained, in [0, 1], by ratio."""
    runs = study.runs.groupby(RATIO).first()
    return runs["trainable_vision_parameters"] / runs["vision_parameters"]


def reservations(studies: Sequence[Study]) -> pd.DataFrame:
    """Planned runs that are missing, and runs of code with other results than the present one's; may be empty."""
    rows = []
    for study in studies:
        for run, record in study.missing.items():
            rows.append((study.name, run, record.get("error") or record.get("status", "not begun")))
        rows += [(study.name, run, "made by code with other results than the present one") for run in study.outdated]
    return pd.DataFrame(rows, columns=["study", "run", "reservation"])


def finetuning_curve(study: Study) -> pd.DataFrame:
    """Published figures beside the study's, by epoch, with the vision encoder frozen (else its lowest ratio).

    Every cell is text: percent with one digit, losses with three, "–" where nothing was published.
    """
    lowest = study.runs[RATIO].min()
    published = pd.DataFrame(PUBLISHED["epoch_progress_ratio_0"]).set_index("epoch").to_dict("index")
    frame = _beside(scores(study).query(f"{RATIO} == @lowest"), "epoch", published)
    lacking = f"The study has no run at ratio 0: its own figures are those at {percent(lowest)}. "
    frame.attrs["note"] = (lacking if lowest > 0 else "") + NOTE
    return frame


def freezing_ablation(study: Study) -> pd.DataFrame:
    """Published figures beside the study's after the last epoch, by ratio, with what was trained.

    Every cell is text, as in `finetuning_curve`. Between 0 and 1 a ratio has a published counterpart only
    if it is counted as there: in tensors, from the output side.
    """
    published = pd.DataFrame(PUBLISHED["freezing_ablation_epoch_8"]).set_index(RATIO).to_dict("index")
    if (study.settings.unit, study.settings.side) != ("tensor", "output"):
        published = {ratio: published[ratio] for ratio in (0.0, 1.0)}
    frame = _beside(last_epoch(scores(study)), RATIO, published)
    runs = study.runs.groupby(RATIO).first()
    tensors = [f"{run.trainable_vision_tensors} of {run.vision_tensors}" for run in runs.itertuples()]
    frame.insert(0, ("vision encoder trained", "tensors"), tensors)
    frame.insert(1, ("vision encoder trained", "parameters"), vision_shares(study).map(percent))
    frame.index = pd.Index(frame.index.map(percent), name=f"ratio of {study.settings.unit}s")
    frame.attrs["note"] = f"Published: after epoch {PUBLISHED['setting']['epochs']}. {NOTE}"
    return frame


def costs(study: Study) -> pd.DataFrame:
    """What a run of each ratio trained and took, as text: means over seeds, for memory the largest.

    The last column says how long it took until an ANLS that every ratio reaches was reached for the first time
    (see `common_anls`), evaluations included.
    """
    target, rows = common_anls(study), {}
    epochs = study.epochs.assign(taken=study.epochs[["train_seconds", "evaluation_seconds"]].fillna(0).sum(axis=1))
    epochs["taken"] = epochs.groupby("run")["taken"].cumsum()
    reached = epochs[epochs["anls"] >= target].groupby([RATIO, "run"])["taken"].first().groupby(RATIO).mean()
    for ratio, runs in study.runs.groupby(RATIO):
        vision = runs["trainable_vision_parameters"].iloc[0]
        rows[percent(ratio)] = {
            "vision parameters trained": f"{vision:,}",
            "of the vision encoder": percent(vision / runs["vision_parameters"].iloc[0]),
            **costs_of(runs),
            f"seconds to ANLS {percent(target)}": number(reached[ratio], 0),
            "device": ", ".join(sorted(runs["device"].unique())),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ratio")


def costs_of(runs: pd.DataFrame) -> dict[str, str]:
    """What some rows of `Study.runs`, one for every seed, trained and took, as text."""
    whole = runs["trainable_parameters"].iloc[0]
    memory = {"resident_mib": "process memory (GiB)", "gpu_mib": "GPU memory (GiB)"}
    return {
        "parameters trained": f"{whole:,}",
        "of the model": percent(whole / runs["parameters"].iloc[0]),
        "seconds": number(runs["seconds"].mean(), 0),
        "samples/s": number(runs["train_samples_per_second"].mean()),
        **{name: number(runs[key].max() / 1024, 2) for key, name in memory.items() if key in runs},
    }


def common_anls(study: Study) -> float:
    """The highest ANLS in whole percent, in [0, 1], that every run reaches after some epoch."""
    return math.floor(100 * study.epochs.groupby("run")["anls"].max().min()) / 100


def seed_spread(study: Study) -> pd.DataFrame:
    """Mean and standard deviation over seeds of ANLS after the last epoch, in percent; empty for one seed."""
    by_run = 100 * study.last_answers.groupby([RATIO, "seed"])["anls"].mean()
    frame = by_run.groupby(RATIO).agg(["count", "mean", "std"])
    frame = frame.assign(mean=frame["mean"].map(number), std=frame["std"].map(number))
    frame.index = pd.Index(frame.index.map(percent), name="ratio")
    frame.columns = ["seeds", "mean ANLS (%)", "standard deviation"]
    return frame if frame["seeds"].max() > 1 else frame.iloc[:0]


@once_for_study
def comparisons(study: Study) -> pd.DataFrame:
    """Paired differences in ANLS after the last epoch between every two ratios, in points, as text.

    Over documents and, with several seeds, over seeds. Intervals are of one pair alone, p-values have Holm's
    correction. The smallest difference is the true one that would be found with probability 0.8, by a test of one
    pair alone or of all pairs (Bonferroni's bound). The last columns say how many documents would show the lead of
    the published 66 %, for these very seeds, and for others too.
    """
    pairs = made(ratio_contrasts(study))
    frame = contrast_table(pairs)
    found = [pair.difference for pair in pairs]
    all_pairs = [one.smallest_detectable(confidence=1 - 0.05 / len(found)) for one in found]
    return pd.DataFrame(
        {
            "difference [95 %, one pair]": frame["difference [95 %]"],
            "p (Holm)": frame["p (Holm)"],
            "p, permutation": frame["p, permutation"],
            "standard error, documents": [number(100 * one.over_documents, 2) for one in found],
            "standard error, seeds": [NONE if one.seeds == 1 else number(100 * one.over_seeds, 2) for one in found],
            "seeds": [one.seeds for one in found],
            "smallest shown, one pair": frame["smallest shown"],
            "smallest shown, all pairs": [number(100 * smallest) for smallest in all_pairs],
            f"documents to show {100 * PUBLISHED_LEAD:.1f}, these seeds": [
                _documents(replace(one, over_seeds=0.0)) for one in found
            ],
            "any seeds": [_documents(one) for one in found],
        },
        index=frame.index,
    )


def contrast_table(found: Sequence[Comparison]) -> pd.DataFrame:
    """Comparisons by name, as text, in points: as far as they could be made, with Holm's correction in each family.

    Over documents and seeds; intervals are of one comparison alone.
    """
    found = made(found)
    seeds = [str(one.difference.seeds) if one.sides else NONE for one in found]
    columns = {
        "what it says": [one.says for one in found],
        "difference [95 %]": [one.difference.interval().format(100) for one in found],
        "p (Holm)": [*map(p_text, holm_p_values(found))],
        "p, permutation": [p_text(one.permuted) for one in found],
        "seeds": seeds,
        "smallest shown": [number(100 * one.difference.smallest_detectable()) for one in found],
    }
    return pd.DataFrame(columns, index=pd.Index([one.name for one in found], name="ANLS, points", dtype=object))


def _documents(difference: PairedDifference) -> str:
    needed = difference.documents_needed(PUBLISHED_LEAD)
    return "no number" if math.isinf(needed) else f"{needed:,}"


@once_for_study
def exact_match_pairs(study: Study) -> pd.DataFrame:
    """McNemar's exact test of every two ratios on exact match after the last epoch, one row for every seed, as text.

    Questions are taken as independent, which those of one document are not; seeds are never pooled, and p-values
    have Holm's correction for all rows.
    """
    columns = {"only_first": "right at the lower only", "only_second": "right at the higher only"}
    tests = {
        f"{percent(pair.first)} and {percent(pair.second)}": mcnemar_p_value(*pair.sides)
        for pair in made(ratio_contrasts(study))
    }
    frame = pd.concat(tests, names=["ratios"]).reset_index() if tests else pd.DataFrame(columns=["ratios", "seed"])
    frame["p (Holm)"] = [*map(p_text, holm(frame.pop("p_value")))] if tests else ()
    return frame.rename(columns=columns)


def summary(study: Study) -> pd.DataFrame:
    """ANLS and exact match in percent before and after training, by ratio, as text; intervals over documents."""
    table = scores(study).query("metric in ['anls', 'exact_match']")
    columns = {"anls": "ANLS (%)", "exact_match": "exact match (%)"}
    frame = text_table(last_epoch(table), RATIO, "metric", f"vision {study.settings.unit}s trained")
    frame = frame.rename(columns=columns)
    frame["ANLS, another document's page (%)"] = page_use(study)[PAGE_USE["wrong"]]
    spread = seed_spread(study)
    if len(spread):
        frame["ANLS, standard deviation over seeds"] = spread["standard deviation"]
    frame.insert(0, "share of parameters", [percent(share) for share in vision_shares(study)])
    before = dict.fromkeys(frame.columns, NONE)
    first = table[table["epoch"] == table["epoch"].min()].drop_duplicates("metric")
    before |= dict(zip(first["metric"].map(columns), texts(first), strict=True))
    return pd.concat([pd.DataFrame(before, index=["before training"]), frame]).rename_axis(frame.index.name)


def across(studies: Sequence[Study]) -> pd.DataFrame:
    """ANLS in percent before training and after the last epoch by ratio, a column for every study, as text."""
    columns = {}
    for study in studies:
        seeds = study.runs["seed"].nunique()
        columns[f"{study.name} ({seeds} seed{'' if seeds == 1 else 's'})"] = summary(study)["ANLS (%)"]
    ratios = sorted({ratio for study in studies for ratio in study.runs[RATIO]})
    order = ["before training", *map(percent, ratios)]
    return pd.DataFrame(columns).reindex(order).fillna(NONE).rename_axis("vision encoder trained")


@once_for_study
def page_use_scores(study: Study) -> pd.DataFrame:
    """Tidy: ratio, metric ("own", "wrong", "difference"), estimate, low, high of ANLS after the last epoch."""
    keys = ["run", "question_id"]
    own = study.last_answers.set_index(keys)
    own = own.assign(own=own["anls"], wrong=study.wrong_pages.set_index(keys)["anls"])
    own = own.assign(difference=own["own"] - own["wrong"]).reset_index()
    return interval_table(own, [RATIO], [*PAGE_USE])


def page_use(study: Study) -> pd.DataFrame:
    """ANLS in percent after the last epoch with a question's own page and with another document's, by ratio."""
    return text_table(page_use_scores(study), RATIO, "metric", "ratio")[[*PAGE_USE]].rename(columns=PAGE_USE)


def _beside(ours: pd.DataFrame, key: str, published: dict[float, dict[str, float]]) -> pd.DataFrame:
    columns = {}
    for quantity, (theirs, scale, metric) in COUNTERPARTS.items():
        cells = ours[ours["metric"] == metric].set_index(key)
        if theirs:
            values = [published.get(at, {}).get(theirs, float("nan")) * scale for at in cells.index]
            columns[quantity, "published"] = [number(value, 3 if metric == LOSS else 1) for value in values]
        columns[quantity, "ours"] = texts(cells)
    return pd.DataFrame(columns, index=cells.index)


def arm_summary(study: Study, name: str) -> pd.DataFrame:
    """An arm's variants: what was trained for how long, scores in percent with intervals over documents, and costs.

    Epochs count those before on the same weights. Every cell is text; times of runs that went side by side are
    no benchmark. Empty where no run is complete.
    """
    runs = study.arm(name)
    if runs is None:
        return pd.DataFrame()
    scored = text_table(interval_table(runs.last_answers, [VARIANT], ["anls", "exact_match"]), VARIANT, "metric")
    rows: dict[str, dict[str, str]] = {}
    for variant in study.arms[name]:
        rows[variant], made_of = {}, runs.runs[runs.runs[VARIANT] == variant]
        if len(made_of):
            first = made_of.iloc[0]
            settings = runs.records[first["run"]]["settings"]
            rows[variant] = {
                "vision parameters": percent(first["trainable_vision_parameters"] / first["vision_parameters"]),
                "epochs": str(settings["epochs"] * (1 + len(settings["trained_before"]))),
                "seeds": str(len(made_of)),
                "ANLS (%)": scored.loc[variant, "anls"],
                "exact match (%)": scored.loc[variant, "exact_match"],
                **costs_of(made_of),
            }
    return pd.DataFrame.from_dict(rows, orient="index").fillna(NONE).rename_axis(VARIANT)


def arm_comparisons(study: Study, name: str) -> pd.DataFrame:
    """The contrasts of an arm; see `contrast_table`."""
    return contrast_table(arm_contrasts(study, name))


def arm_interactions(study: Study, name: str) -> pd.DataFrame:
    """By how much an arm's differences differ between documents, the sides having none in common; may be empty."""
    return contrast_table(interactions(study, name))[["difference [95 %]", "p (Holm)", "smallest shown"]]
