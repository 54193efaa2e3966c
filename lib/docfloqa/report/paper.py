"""What makes a paper of a study's report: abstract, setting, limits, and what its runs were made with."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from docfloqa.analysis.intervals import LOSS, interval_table
from docfloqa.analysis.tables import (
    NONE,
    RATIO,
    SIGNIFICANT,
    holm_of,
    interval,
    last_epoch,
    number,
    paired_differences,
    percent,
    smallest_of_all,
)
from docfloqa.arms import ENDS
from docfloqa.files import TINY_MODEL, resolve
from docfloqa.report.findings import at_floor, base_freezing, counted, instrument
from docfloqa.report.headlines import arm_epochs, contrasts, said
from docfloqa.runs.results import Study
from docfloqa.text import escaped

NO_DIFFERENCE = ", which cannot be distinguished from none"
SHOWN = 8  # characters of a commit


def abstract(study: Study) -> str:
    """The study in a paragraph of Markdown, made from its numbers; what was not made or not shown is not claimed."""
    ratios = sorted(study.runs[RATIO].unique())
    sentences = [
        "How much of a document model's vision encoder must be trained when it learns to answer questions about "
        "pages? A published student project on Florence-2 says 66 %, from one training run of each ratio, one "
        "after another on the same weights, without intervals.",
        f"We ask again with {instrument(study)}: {_listed([*map(percent, ratios)])} of the vision encoder's "
        f"{study.settings.unit}s {'is' if len(ratios) == 1 else 'are'} trained, every run from the same starting "
        f"weights for {counted(study.settings.epochs, 'epoch')}.",
        _found(study, ratios),
    ]
    if not at_floor(study):
        sentences += [_protocol(study), _part(study)]
    return " ".join(filter(None, [*sentences, _about(study)]))


def _found(study: Study, ratios: list[float]) -> str:
    if at_floor(study):
        return (
            "It could not be shown that the model reads these documents, so nothing can be concluded about how much "
            "of the vision encoder to train."
        )
    table = interval_table(last_epoch(study.predictions), [RATIO], ["anls"]).set_index(RATIO)
    reached = [f"{interval(table.loc[ratio]).format(100)} %" for ratio in (ratios[-1], ratios[0])]
    pairs = paired_differences(study)
    if len(ratios) == 1:
        return f"After the last epoch ANLS is {reached[0]}; there is one ratio only, so nothing is compared."
    sentence = (
        f"After the last epoch ANLS is {reached[0]} with {percent(ratios[-1])} trained and {reached[1]} with "
        f"{percent(ratios[0])}"
    )
    if not pairs:
        return f"{sentence}; too little is shared between them to compare them."
    p_values = holm_of(pairs)
    clear = sum(p_value < SIGNIFICANT for p_value in p_values)
    ends = [
        said(difference, p_value, NO_DIFFERENCE)
        for (low, high, difference), p_value in zip(pairs, p_values, strict=True)
        if (low, high) == (ratios[0], ratios[-1])
    ]
    sentence += f", a difference of {ends[0]}." if ends else "."
    if len(pairs) > 1:
        sentence += (
            f" Of {len(pairs)} pairs of ratios {clear or 'none'} {'is' if clear == 1 else 'are'} distinguished"
            + (", the others cannot be" if 0 < clear < len(pairs) else "")
            + " (paired, Holm's correction)."
        )
    return sentence


def _protocol(study: Study) -> str:
    found = {contrast.says: text for contrast, _, text in contrasts(study, "cumulative", NO_DIFFERENCE)}
    last = found.get("100 % against 66 % in the published protocol")
    lost = found.get("100 % with fresh weights against the published protocol's")
    if not (last and lost):
        return ""
    return (
        f"In the published protocol ({arm_epochs(study)}) 100 % less 66 % is {last}; 100 % with fresh weights "
        f"less 100 % in that protocol is {lost}."
    )


def _part(study: Study) -> str:
    found = [
        (contrast.shift, text) for contrast, _, text in contrasts(study, "side", NO_DIFFERENCE) if contrast.says == ENDS
    ]
    if not found:
        return ""
    # The study's own shift, or the only data that there is, comes first.
    (_, own), *others = found
    elsewhere = "".join(f"; where the {shift} is new instead it is {text}" for shift, text in others)
    return (
        f"Trained alone ({arm_epochs(study)}), the first third of the encoder's parameters, in the published order of "
        f"tensors, less the last third is {own}{elsewhere}."
    )


def _about(study: Study) -> str:
    lacking = f" Planned runs that are missing: {len(study.missing)}." if study.missing else ""
    if not _tiny(study):
        return f"This is about this model, these documents and this learning rate alone.{lacking}"
    documents = "drawn documents" if _drawn(study) else "these documents"
    return (
        f"This is about a tiny model on {documents}: it tests the instrument and the protocol, and does not say how "
        f"much of Florence-2-base to train for DocVQA.{lacking}"
    )


def setting(study: Study) -> str:
    """How the study's runs were trained and evaluated, as a paragraph of Markdown."""
    settings, counts = study.settings, study.predictions.groupby("run")["question_id"].nunique()
    trained = {record.get("data_checks", {}).get("kept", {}).get("train") for record in study.records.values()}
    on = f" on {counted(max(trained), 'question')}" if None not in trained else ""
    beams = "greedily" if settings.num_beams == 1 else f"with {settings.num_beams} beams"
    return (
        f"Every run starts from the weights of {escaped(Path(settings.model).name)} and trains"
        f"{on} for {counted(settings.epochs, 'epoch')} with AdamW in batches of {settings.batch_size}, at a learning "
        f"rate of {settings.learning_rate:g} that falls linearly to zero after {settings.warmup_steps} steps of "
        f"warm-up, weight decay {settings.weight_decay:g}. After every epoch "
        f"{counted(counts.max(), 'validation question')} are answered {beams}, with at most "
        f"{settings.max_new_tokens} tokens."
        + (
            f" Pages are drawn by this project, and those of training and validation differ from those of the tiny "
            f"model's pretraining by the *{settings.synth_shift}* shift."
            if _drawn(study) and _tiny(study) and settings.synth_scale == "small"
            else ""
        )
    )


def limitations(study: Study) -> str:
    """What the study cannot tell, as a Markdown list made from what it is."""
    settings, seeds = study.settings, study.runs["seed"].nunique()
    items = []
    if _tiny(study):
        items.append(
            f"**The model is tiny**: {study.runs['parameters'].iloc[0]:,} parameters where Florence-2-base has "
            f"{base_freezing(0.0).parameters:,}. It was pretrained by this project, on drawn pages. What holds for its "
            "vision encoder need not hold for a pretrained one of the real size."
        )
    if _drawn(study):
        items.append(
            "**The documents are drawn**, and how they differ from what the model knows is of our design. They are "
            "easier to read and less varied than scans."
        )
    items.append(
        "**There is one seed.** No interval says what another order of the training questions would give."
        if seeds == 1
        else f"**There are {seeds} seeds**, and a seed is an order of the training questions alone: starting weights "
        "and documents are the same for all runs. Intervals of one ratio are over documents only."
    )
    items.append(
        f"**One learning rate** ({settings.learning_rate:g}) is used for all ratios; none was tuned for any of them. "
        "Scores are those after the last epoch, on the validation questions; there is no further test set."
    )
    losses = study.epochs.query(f"{RATIO} == {RATIO}.min()").groupby("epoch")[LOSS].mean()
    if losses.idxmin() < losses.index.max():
        items.append(
            f"**Overfitting.** At the lowest ratio the validation loss is least after epoch {losses.idxmin()} "
            f"({losses.min():.2f}) and {losses.iloc[-1]:.2f} after the last; the published one fell to its end, at a "
            "learning rate of 1e-6. What stacking ratios on the same weights costs here may come from that."
        )
    pairs = paired_differences(study)
    if pairs:
        smallest = max(smallest_of_all(difference, len(pairs)) for *_, difference in pairs)
        items.append(
            f"**Power.** True differences below {100 * smallest:.1f} points would often be missed in at least one pair "
            "of ratios; what cannot be distinguished is not shown to be equal."
        )
    if study.arms:
        items.append(f"**The arms train for less long** ({arm_epochs(study)}): they are compared within themselves.")
    if study.missing:
        items.append(
            f"**Runs are missing**: {len(study.missing)} that were planned are not complete, so that ratios may have "
            "fewer seeds than others."
        )
    if study.outdated:
        items.append(
            f"**Code has changed** since {counted(len(study.outdated), 'run')} "
            f"{'was' if len(study.outdated) == 1 else 'were'} made."
        )
    items.append(
        "**Published figures** come without answers to single questions. They are set beside ours, and never tested "
        "against them."
    )
    return "".join(f"- {each}\n" for each in items)


def run_table(study: Study) -> pd.DataFrame:
    """The runs of the ratios, as text: what was trained, for how long, the best epoch, the last score."""
    last = last_epoch(study.epochs).set_index("run")["anls"]
    rows = {}
    for run in study.runs.itertuples():
        record = study.records[run.run]
        rows[run.run] = {
            "ratio": percent(run.vision_trainable),
            "seed": str(run.seed),
            "best epoch": str(record.get("best_epoch", NONE)),
            "ANLS (%), last epoch": number(100 * last[run.run]),
            "seconds": number(run.seconds, 0),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("run")


def environment_table(study: Study) -> pd.DataFrame:
    """Device, commit and package versions of all complete runs, those of the arms included, as text."""
    arms = [study.arm(name) for name in study.arms]
    records = [record for part in (study, *arms) if part for record in part.records.values()]
    found: dict[str, set[str]] = {}
    for record in records:
        device = record["device"]
        cores = f", {counted(device['cores'], 'core')}" if device.get("cores") else ""
        entries = {
            "device": f"{device['name']}{cores}",
            "threads of a run": str(device.get("threads", NONE)),
            "commit": (record.get("git_commit") or NONE)[:SHOWN],
            **record.get("versions", {}),
        }
        for name, value in entries.items():
            found.setdefault(name, set()).add(value)
    rows = {name: {"of all runs": ", ".join(sorted(values))} for name, values in found.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("made with")


def _tiny(study: Study) -> bool:
    return resolve(study.settings.model) == str(TINY_MODEL)


def _drawn(study: Study) -> bool:
    return (study.settings.validation_data or study.settings.data) == "synth"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
