"""A study's tables: published figures beside its own, each of its own with an interval."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pandas as pd

from docfloqa.analysis import intervals
from docfloqa.analysis.arms import BEST, RISE, loss_rise, rates_tried
from docfloqa.analysis.contrasts import VARIANT, Comparison, compare_all, holm_p_values, made, ratio_contrasts
from docfloqa.analysis.intervals import LOSS, NONE, RATIO, interval_table, last_epoch, number, p_text, percent, unbroken
from docfloqa.analysis.paired import SIGNIFICANT, PairedDifference, permutation_p_value
from docfloqa.analysis.robustness import ALL_KINDS, AREA, KEPT, PAGE_SETS, severity_curves
from docfloqa.data.degradations import CLEAN, SEVERITIES, amount
from docfloqa.files import runs_folder
from docfloqa.metrics import METRICS
from docfloqa.runs.results import Study, once_for_study, planned_runs
from docfloqa.runs.run import COMPLETE, NOT_BEGUN, read_record
from docfloqa.text import NO_BREAK

PUBLISHED: dict[str, Any] = json.loads(files("docfloqa.analysis").joinpath("published.json").read_text())
# What the published 66 % is ahead of 100 % in accuracy, as a share.
PUBLISHED_LEAD = 0.009
MAIN_COLUMNS = ["vision parameters", "epochs", "seeds", "ANLS (%)", "exact match (%)"]
MAIN_SCORES = ["anls", "exact_match"]
OWN = "own data"
ONE_PAIR = {"difference [95 %]": "difference [95 %, one pair]", "smallest shown": "smallest shown, one pair"}
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


def published(name: str) -> pd.DataFrame:
    """Published figures as text, with a note: "published_systems", or "published_differences" of every two ratios."""
    frame = pd.DataFrame.from_dict(PUBLISHED[name], orient="tight")
    frame.attrs["note"] = PUBLISHED[name]["note"]
    return frame


@once_for_study
def scores(study: Study) -> pd.DataFrame:
    """Tidy: ratio, epoch, metric, estimate, low, high: scores in [0, 1], `val_loss` in nats per token."""
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
            rows.append((study.name, run, record.get("error") or record.get("status", NOT_BEGUN)))
        rows += [(study.name, run, "made by code with other results than the present one") for run in study.outdated]
    return pd.DataFrame(rows, columns=["study", "run", "reservation"])


def finetuning_curve(study: Study) -> pd.DataFrame:
    """Published figures beside the study's, by epoch, with the vision encoder frozen (or its lowest ratio), as text."""
    lowest = study.runs[RATIO].min()
    published = pd.DataFrame(PUBLISHED["epoch_progress_ratio_0"]).set_index("epoch")
    frame = _beside(scores(study).query(f"{RATIO} == @lowest"), published)
    lacking = f"The study has no run at ratio 0: its own figures are those at {percent(lowest)}. "
    frame.attrs["note"] = (lacking if lowest > 0 else "") + NOTE
    return frame


def freezing_ablation(study: Study) -> pd.DataFrame:
    """Published figures beside the study's after the last epoch, by ratio, with what was trained, as text.

    Between 0 and 1 a ratio has a published counterpart only if it is counted as there: in tensors, from the output.
    """
    published = pd.DataFrame(PUBLISHED["freezing_ablation_epoch_8"]).set_index(RATIO)
    if (study.settings.unit, study.settings.side) != ("tensor", "output"):
        published = published.loc[[0.0, 1.0]]
    frame = _beside(last_epoch(scores(study)), published)
    runs = study.runs.groupby(RATIO).first()
    tensors = [f"{run.trainable_vision_tensors} of {run.vision_tensors}" for run in runs.itertuples()]
    frame.insert(0, ("vision encoder trained", "tensors"), tensors)
    frame.insert(1, ("vision encoder trained", "parameters"), vision_shares(study).map(percent))
    frame.index = pd.Index(frame.index.map(percent), name=f"ratio of {study.settings.unit}s")
    frame.attrs["note"] = f"Published: after epoch {PUBLISHED['setting']['epochs']}. {NOTE}"
    return frame


def _beside(ours: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    columns = {}
    for quantity, (theirs, scale, metric) in COUNTERPARTS.items():
        cells = ours[ours["metric"] == metric].set_index(published.index.name)
        if theirs:
            values = published[theirs].reindex(cells.index) * scale
            columns[quantity, "published"] = [number(value, 3 if metric == LOSS else 1) for value in values]
        columns[quantity, "ours"] = intervals.texts(cells)
    return pd.DataFrame(columns, index=cells.index)


def costs(study: Study) -> pd.DataFrame:
    """What a run of each ratio trained and took, as text: means over seeds, for memory the largest.

    One column is how long it took to the highest ANLS in whole percent that every run reaches, where that is not 0.
    """
    target, rows = math.floor(100 * study.epochs.groupby("run")["anls"].max().min()) / 100, {}
    seconds = study.epochs[["train_seconds", "evaluation_seconds"]].fillna(0).sum(axis=1)
    epochs = study.epochs.assign(taken=seconds.groupby(study.epochs["run"]).cumsum())
    reached = epochs[epochs["anls"] >= target].groupby([RATIO, "run"])["taken"].first().groupby(RATIO).mean()
    for ratio, runs in study.runs.groupby(RATIO):
        rows[percent(ratio)] = {
            "vision parameters trained": f"{runs['trainable_vision_parameters'].iloc[0]:,}",
            "of the vision encoder": percent(vision_shares(study)[ratio]),
            **_costs_of(runs),
            # All have reached nothing before they begin.
            **({f"seconds to ANLS {percent(target)}": number(reached[ratio], 0)} if target else {}),
            "device": ", ".join(sorted(runs["device"].unique())),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ratio")


def costs_by_arm(study: Study) -> pd.DataFrame:
    """How many complete runs the ratios and each arm have, and the hours that these took together, each run once."""
    records = [(arm, read_record(runs_folder(study.name) / run)) for run, arm in planned_runs(study.name).items()]
    made = [(arm or "ratios", one["seconds"] / 3600) for arm, one in records if one.get("status") == COMPLETE]
    by_arm = pd.DataFrame(made, columns=["runs of", "hours"]).groupby("runs of", sort=False)["hours"]
    return by_arm.agg(runs="size", hours="sum").assign(hours=lambda frame: frame["hours"].map(number))


def _costs_of(runs: pd.DataFrame) -> dict[str, str]:
    whole = runs["trainable_parameters"].iloc[0]
    memory = {"resident_mib": "process memory (GiB)", "gpu_mib": "GPU memory (GiB)"}
    return {
        "parameters trained": f"{whole:,}",
        "of the model": percent(whole / runs["parameters"].iloc[0]),
        "seconds": number(runs["seconds"].mean(), 0),
        "samples/s": number(runs["train_samples_per_second"].mean()),
        **{name: number(runs[key].max() / 1024, 2) for key, name in memory.items() if key in runs},
    }


@once_for_study
def comparisons(study: Study) -> pd.DataFrame:
    """The `contrast_table` of every two ratios, with standard errors, and what a test of all pairs shows (Bonferroni).

    The last columns say how many documents would show the lead of the published 66 %, for these seeds, and for others.
    """
    pairs = made(ratio_contrasts(study))
    found = [pair.difference for pair in pairs]
    frame = contrast_table(pairs).drop(columns="what it says").rename(columns=ONE_PAIR)
    seeds = [NONE if one.seeds == 1 else number(100 * one.over_seeds, 2) for one in found]
    frame.insert(3, "standard error, documents", [number(100 * one.over_documents, 2) for one in found])
    frame.insert(4, "standard error, seeds", seeds)
    all_pairs = [one.smallest_detectable(confidence=1 - 0.05 / len(found)) for one in found]
    frame["smallest shown, all pairs"] = [*map(_points, all_pairs)]
    these = [_documents(replace(one, over_seeds=0.0)) for one in found]
    frame[f"documents to show {100 * PUBLISHED_LEAD:.1f}, these seeds"] = these
    frame["any seeds"] = [_documents(one) if one.seeds > 1 else intervals.UNKNOWN for one in found]
    return frame


def _documents(one: PairedDifference) -> str:
    needed = one.documents_needed(PUBLISHED_LEAD)
    return intervals.UNKNOWN if math.isnan(needed) else "no number" if needed == math.inf else f"{needed:,}"


def _points(share: float) -> str:
    """A difference in points; that it is unknown where there is none, since a dash would pass for none needed."""
    return intervals.UNKNOWN if math.isnan(share) else number(100 * share)


def contrast_table(found: Sequence[Comparison]) -> pd.DataFrame:
    """Comparisons that could be made, by name, as text, in points, with Holm's correction in each family.

    Intervals are of one comparison alone; the smallest difference shown would be found with probability 0.8.
    """
    found = made(found)
    columns = {
        "what it says": [one.says for one in found],
        "difference [95 %]": [one.difference.interval().format(100) for one in found],
        "p (Holm)": [*map(p_text, holm_p_values(found))],
        "p, permutation": [p_text(permutation_p_value(*one.sides, one.metric)) if one.sides else NONE for one in found],
        "seeds": [str(one.difference.seeds) if one.sides else NONE for one in found],
        "smallest shown": [_points(one.difference.smallest_detectable()) for one in found],
    }
    return pd.DataFrame(columns, index=pd.Index([one.name for one in found], name="ANLS, points", dtype=object))


def summary(study: Study) -> pd.DataFrame:
    """ANLS and exact match in percent before and after training, by ratio, as text; intervals over documents.

    They are those of validation; where the study is tested, its best models' on test stand beside them.
    """
    table = scores(study).query("metric in @MAIN_SCORES")
    frame = intervals.text_table(last_epoch(table), RATIO, "metric", f"vision {study.settings.unit}s trained")
    if study.tested:
        on_test = intervals.text_table(interval_table(study.compared, [RATIO], MAIN_SCORES), RATIO, "metric")
        frame = frame.join(on_test.rename(columns=lambda name: name.replace(" (%)", ", best epoch on test (%)")))
    frame["ANLS, another document's page (%)"] = page_use(study)[intervals.TITLES["wrong"]]
    if study.runs["seed"].nunique() > 1:
        means = 100 * study.last_answers.groupby([RATIO, "seed"])["anls"].mean()
        frame["ANLS, standard deviation over seeds"] = means.groupby(RATIO).std().map(number).rename(percent)
    frame.insert(0, "share of parameters", [percent(share) for share in vision_shares(study)])
    first = table[table["epoch"] == table["epoch"].min()].drop_duplicates("metric").assign(epoch="before training")
    before = intervals.text_table(first, "epoch", "metric").reindex(columns=frame.columns).fillna(NONE)
    return pd.concat([before, frame]).rename_axis(frame.index.name)


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
    """Tidy: ratio, metric, estimate, low, high of ANLS with the "own" page, with the "wrong" one, the "difference"."""
    keys = ["run", "question_id"]
    own = study.last_answers.set_index(keys)
    own = own.assign(own=own["anls"], wrong=study.wrong_pages.set_index(keys)["anls"])
    own = own.assign(difference=own["own"] - own["wrong"]).reset_index()
    return interval_table(own, [RATIO], ["own", "wrong", "difference"])


def page_use(study: Study) -> pd.DataFrame:
    """`page_use_scores` in percent, as text."""
    return intervals.text_table(page_use_scores(study), RATIO, "metric", "ratio")


def arm_summary(study: Study, name: str) -> pd.DataFrame:
    """An arm's variants, as text: what was trained for how long, scores in percent, and costs; may be empty.

    Epochs count those before on the same weights. Times of runs that went side by side are no benchmark.
    """
    arm = study.arm(name)
    if arm is None:
        return pd.DataFrame()
    scored = intervals.text_table(interval_table(arm.compared, [VARIANT], MAIN_SCORES), VARIANT, "metric")
    rows: dict[str, dict[str, str]] = {variant: {} for variant in study.arms[name]}
    epochs = arm.epochs.groupby(VARIANT)
    rates = rates_tried(study, name)[BEST]
    for variant, runs in arm.runs.groupby(VARIANT):
        first = runs.iloc[0]
        settings = arm.records[first["run"]]["settings"]
        rows[variant] = {
            "vision parameters": percent(first["trainable_vision_parameters"] / first["vision_parameters"]),
            "epochs": str(settings["epochs"] * (1 + len(settings["trained_before"]))),
            "seeds": str(len(runs)),
            **scored.loc[variant],
            **({BEST: rates[variant], RISE: percent(loss_rise(epochs.get_group(variant)))} if variant in rates else {}),
            **_costs_of(runs),
        }
    return pd.DataFrame.from_dict(rows, orient="index").fillna(NONE).rename_axis(VARIANT)


def degradation_scores(answers: pd.DataFrame, metrics: Sequence[str] = MAIN_SCORES) -> pd.DataFrame:
    """Tidy: ratio, kind, severity (0: clean), metric, estimate, low, high, as `interval_table` gives them."""
    return interval_table(severity_curves(answers), [RATIO, "kind", "severity"], metrics)


def degradation_table(answers: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent with 95 % intervals over documents: a row for each degradation and severity, by ratio."""
    cells = intervals.text_table(degradation_scores(answers, ["anls"]), ["kind", "severity"], RATIO)
    rows = {CLEAN: cells.loc[next(iter(SEVERITIES)), 0]}
    for kind, severity in PAGE_SETS[1:]:
        rows[f"{kind} {severity}: {amount(kind, severity):g} ({SEVERITIES[kind][0]})"] = cells.loc[kind, severity]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("ANLS (%)")


def area_table(areas: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent over all degradations by ratio: on clean pages, area under the curve, the share kept."""
    table = interval_table(areas[areas["kind"] == ALL_KINDS], [RATIO], [CLEAN, AREA, KEPT])
    return intervals.text_table(table, RATIO, "metric", "ratio")


def area_comparisons(areas: pd.DataFrame) -> pd.DataFrame:
    """Every two ratios over all degradations, in points, as text: difference in area, and in the share kept."""
    together, frames = areas[areas["kind"] == ALL_KINDS], {}
    for quantity, name in {AREA: "area under the curve", KEPT: "share kept"}.items():
        frames[name] = contrast_table(compare_all(together, RATIO, quantity, family=name)).rename(columns=ONE_PAIR)
    return pd.concat(frames, axis=1).drop(columns=["what it says", "p, permutation", "seeds"], level=1)


def comparisons_by(answers: pd.DataFrame, metric: str, by: str = "kind") -> pd.DataFrame:
    """Every two ratios (rows) for each name in the column `by` (columns), in points with intervals, as text.

    A star says that p is below 0.05 after Holm's correction for the whole table.
    """
    parts = answers.groupby(by, sort=False)
    pairs = made(pair for name, part in parts for pair in compare_all(part, RATIO, metric, family=by, where=name))
    columns: dict[str, dict[str, str]] = {}
    for pair, p_value in zip(pairs, holm_p_values(pairs), strict=True):
        star = f"{NO_BREAK}*" if p_value < SIGNIFICANT else ""
        columns.setdefault(pair.where, {})[pair.groups] = unbroken(pair.difference.interval()) + star
    return pd.DataFrame(columns).rename_axis("ANLS, points")


def cross_answers(own: pd.DataFrame, others: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The answers of `read_scores` on the study's own clean pages and on other data, named in a column `data`."""
    return pd.concat({OWN: own[own["kind"] == CLEAN], **others}, names=["data"]).reset_index("data")


def cross_table(answers: pd.DataFrame) -> pd.DataFrame:
    """ANLS in percent with 95 % intervals over documents by ratio, a column for each set of data."""
    frame = intervals.text_table(interval_table(answers, ["data", RATIO], ["anls"]), RATIO, "data", "ANLS (%)")
    return frame[answers["data"].unique()]
