"""Tables as a reader gets them: with a caption in the notebook, and as files for a paper."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from itertools import chain
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Markdown, display

from docfloqa.analysis import arms, confidence, mistakes, tables
from docfloqa.analysis.contrasts import CLAIMS, HEADLINE, arm_contrasts, gains, interactions, lacking, made, of_arm
from docfloqa.analysis.intervals import NONE, RATIO, last_epoch, number, percent
from docfloqa.figures import arms as arm_figures
from docfloqa.figures import study as figures
from docfloqa.figures.style import publish
from docfloqa.files import reports_folder, write_whole
from docfloqa.parameters import mixture
from docfloqa.report.findings import is_own
from docfloqa.report.verdicts import MARGIN, readable, verdicts
from docfloqa.runs.results import Study
from docfloqa.settings import SHIFTS
from docfloqa.text import NO_BREAK, flat, plain, to_latex, to_markdown

# Of an arm, or of one that has a figure of its own: what draws it, its caption and what is seen.
DIFFERENCES = "The arm {}: A − B in points of ANLS, with 95 % intervals; filled: p < 0.05 (Holm)."
POINTS = "Points with error bars, one for each comparison; a vertical line at no difference."
FIGURES = {
    **{
        arm: (
            partial(arm_figures.claims, arm=arm),
            f"The {said}: A − B in points of exact match (squares) and ANLS (circles) under every shift, with 95 % "
            "intervals; filled: p < 0.05 (Holm, all of them, those between shifts too).",
            "A panel for each shift: points with error bars for each comparison, and a vertical line at no difference.",
        )
        for arm, said in CLAIMS.items()
    },
    "grid": (
        arm_figures.grid,
        "What training the vision encoder adds, in points of ANLS with 95 % intervals, by how much is new. Thick line: "
        "the sign flips; framed: p < 0.05 (Holm).",
        "Two panels of three by three cells with a number and its interval each, dark above zero and pale below.",
    ),
}
INTERVAL = re.compile(r"\[[^][]{1,24}, [^][]{1,24}\]")


def show_table(frame: pd.DataFrame, caption: str) -> None:
    """Display a frame as `table_html` does; of one without rows the caption, and that there is none."""
    none = Markdown(f"*{caption.rstrip('.')}: none.*")
    display(none if frame.empty else HTML(table_html(frame, caption)))


def table_html(frame: pd.DataFrame, caption: str) -> str:
    """A frame with its caption and, below it, the frame's note; whatever its cells hold is shown as text, uncut.

    An index of bare numbers is left out, an interval stays in one piece where the line wraps.
    """
    bare = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    one_line = frame.map(lambda cell: INTERVAL.sub(lambda found: found[0].replace(" ", NO_BREAK), flat(str(cell))))
    with pd.option_context("display.html.use_mathjax", False, "display.max_colwidth", None):
        head, body = one_line.to_html(index=not bare, border=0).split(">", 1)
    note = f"\n<p>{escape(frame.attrs['note'])}</p>" if frame.attrs.get("note") else ""
    return f"{head}>\n<caption>{escape(caption)}</caption>{body}{note}"


def show_arm(study: Study, name: str) -> None:
    """Display what is compared in an arm; of one that was not made, the command that makes it."""
    if why := lacking(study, name):
        display(Markdown(why))
        return
    if name == "grid":
        show_table(arms.grid_table(study), "The grid: differences in ANLS by how much is new of pixels and of content.")
    if made(arm_contrasts(study, name)):
        draw, caption, alt = FIGURES.get(name, (partial(figures.arm_contrasts, name=name), DIFFERENCES, POINTS))
        publish(draw(study), study.name, f"arm_{name}", caption.format(name), alt)


def show_gains(study: Study) -> None:
    """Display the figure that carries the result: the claims, else what each part or ratio gains; may be nothing."""
    if study.arm(HEADLINE):
        show_arm(study, HEADLINE)
    elif gains(study):
        caption = "What training a part of the vision encoder adds to a frozen one, a panel for each kind of documents."
        alt = "Points with error bars: a row for each part of the vision encoder, a panel for each kind of documents."
        publish(figures.gains(study), study.name, "gains", caption, alt)


def show_scores(study: Study, name: str) -> None:
    """Display the scores of an arm's variants, and the learning rates of those that are tuned."""
    scores = tables.arm_summary(study, name).rename(index=plain)
    scores = scores[[column for column in (*tables.MAIN_COLUMNS, *arms.TUNED) if column in scores]]
    show_table(scores, f"The arm {name}: scores, with 95 % intervals over documents.")
    if len(tried := arms.rates_tried(study, name)):
        caption = f"The arm {name}: validation ANLS (%) by learning rate; a star: none beyond the best was tried."
        show_table(tried.rename(index=plain), caption)
    if len(alike := arms.at_one_rate(study, name)):
        caption = f"The arm {name}: differences at one learning rate, exact match · ANLS, first seed, test answers."
        show_table(alike.rename(index=plain), caption)


def write_frames(study: str, frames: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Write frames to `reports/<study>/tables/` as CSV, Markdown and LaTeX (booktabs); returns the files.

    A frame that holds fractions, which are not rounded, is written as CSV only; one without rows is not written.
    """
    written = []
    for name, frame in frames.items():
        contents = {"csv": frame.to_csv(index=frame.index.name is not None).replace(NO_BREAK, " ")}
        if not any(map(pd.api.types.is_float_dtype, frame.dtypes)):
            contents |= {"md": to_markdown(frame), "tex": to_latex(frame)}
        for suffix, content in contents.items() if len(frame) else ():
            written.append(reports_folder(study) / "tables" / f"{name}.{suffix}")
            write_whole(written[-1], content)
    return written


def write_tables(study: Study, beside: Sequence[Study] = (), margin: float = MARGIN) -> list[Path]:
    """Write all tables of a study as `write_frames` does, with `across` where others stand beside it."""
    made = [tables.summary, tables.comparisons, tables.scores, tables.page_use, tables.costs, tables.costs_by_arm]
    made += [mistakes.only_right_at, *([] if is_own(study) else [tables.finetuning_curve, tables.freezing_ablation])]
    frames = {"verdicts": readable(verdicts(study, margin))} | {table.__name__: table(study) for table in made}
    groups = {group: mistakes.by_group(study, group) for group in mistakes.GROUPS}
    frames |= {f"by_{name}": one for name, one in groups.items() if one.index.tolist() != [mistakes.NOT_KNOWN]}
    if confidence.has_confidence(study):
        frames["calibration"] = confidence.calibration(study)
    if not is_own(study):
        frames |= {name: tables.published(name) for name in ("published_differences", "published_systems")}
    for arm in study.arms:
        found, between = arm_contrasts(study, arm), interactions(study, arm)
        if arm in CLAIMS:
            found, between = of_arm(study, arm), []
        frames |= {f"arm_{arm}": tables.arm_summary(study, arm), f"arm_{arm}_rates": arms.rates_tried(study, arm)}
        frames[f"arm_{arm}_at_one_rate"] = arms.at_one_rate(study, arm)
        frames[f"arm_{arm}_comparisons"] = tables.contrast_table(found)
        shifts = tables.contrast_table(between)
        frames[f"arm_{arm}_interactions"] = shifts[["difference [95 %]", "p (Holm)", "smallest shown"]]
    frames |= {table.__name__: table(study, HEADLINE) for table in (arms.word_scores, arms.new_words)}
    frames["grid"] = arms.grid_table(study)
    if beside:
        frames |= {"across": tables.across([study, *beside]), "checkpoints": arms.checkpoints([study, *beside])}
    return write_frames(study.name, frames)


def setup_table(study: Study) -> pd.DataFrame:
    """With what the study was made, as text: model, questions, seeds, and how long and how fast it was trained."""
    settings = study.settings
    trained = {record.get("data_checks", {}).get("kept", {}).get("train") for record in study.records.values()}
    # Full pages have no shift.
    drawn = "drawn full pages" if settings.synth_scale == "full" else f"drawn; {_new(settings.synth_shift)}"
    rows = {
        "model": f"{Path(settings.model).name}, {study.runs['parameters'].iloc[0]:,} parameters",
        "training questions": NONE if None in trained else f"{max(trained):,}",
        "validation questions": _asked(study.last_answers),
        "test questions": _asked(study.compared) if study.tested else None,
        "validation documents": drawn if (settings.validation_data or settings.data) == "synth" else "given",
        "folds over documents": settings.folds or None,
        "seeds": study.runs["seed"].nunique(),
        "epochs": settings.epochs,
        "batch size": settings.batch_size,
        "learning rate": _schedule(study),
        "weight decay": f"{settings.weight_decay:g}",
        "beams, tokens of an answer": f"{settings.num_beams}, at most {settings.max_new_tokens}",
        "planned runs that are missing": len(study.missing),
    }
    return pd.DataFrame({"of every run": rows}, dtype=object).dropna().map(str).rename_axis("the study")


def _asked(answers: pd.DataFrame) -> str:
    return "{question_id:,} on {document_id:,} documents".format_map(answers[["question_id", "document_id"]].nunique())


def _new(shift: str) -> str:
    """What is new of the documents of a shift, or how much of what in a mixture."""
    if shift in SHIFTS:
        return f"their {shift} is new"
    parts = {part: strength for part, strength in mixture("synth_shift", shift, SHIFTS).items() if strength}
    new = ", ".join(f"{part} to {percent(strength)}" for part, strength in parts.items())
    return f"new: {new}" if new else "as those of pretraining"


def _schedule(study: Study) -> str:
    """The learning rate and its course, as the runs of the ratios had it."""
    rate = f"{study.settings.learning_rate:g}"
    schedules = [record["schedule"] for record in study.records.values() if record.get("schedule")]
    if not schedules:
        # Runs of before it was recorded: as they were set.
        return f"{rate}, to zero after {study.settings.warmup_steps} steps of warm-up"
    steps, warmup = (
        " to ".join(dict.fromkeys(f"{end([one[key] for one in schedules]):,}" for end in (min, max)))
        for key in ("steps", "warmup_steps")
    )
    highest = max(one["highest_learning_rate"] for one in schedules)
    never = "" if highest >= 0.999 * study.settings.learning_rate else f", which was never reached: at most {highest:g}"
    return f"{rate}{never}; {steps} steps, {warmup} of them warm-up"


def run_table(study: Study) -> pd.DataFrame:
    """The runs of the ratios, as text: ratio, seed, the best epoch, the last score, the time."""
    last = last_epoch(study.epochs).set_index("run")["anls"]
    runs = study.runs.set_index("run")
    columns = {
        "ratio": runs[RATIO].map(percent),
        "seed": runs["seed"].astype(str),
        "best epoch": [str(study.records[run].get("best_epoch", NONE)) for run in runs.index],
        "ANLS (%), last epoch": (100 * last[runs.index]).map(number),
        "seconds": runs["seconds"].map(lambda seconds: number(seconds, 0)),
    }
    return pd.DataFrame(columns)


def environment_table(study: Study) -> pd.DataFrame:
    """Device, commit and package versions of all complete runs, those of the arms included, as text."""
    rows = []
    for record in chain(*(part.records.values() for part in (study, *map(study.arm, study.arms)) if part)):
        device = record["device"]
        about = {
            "device": device["name"] + (f", cores: {device['cores']}" if device.get("cores") else ""),
            "threads of a run": str(device.get("threads", NONE)),
            "commit": (record.get("git_commit") or NONE)[:8],
        }
        rows.append(about | record.get("versions", {}))
    made = pd.DataFrame(rows).agg(lambda column: ", ".join(sorted(column.dropna().unique())))
    return made.to_frame("of all runs").rename_axis("made with")
