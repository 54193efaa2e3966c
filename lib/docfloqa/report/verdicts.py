"""What a study's comparisons come to: a row each with difference, interval, p-value and a verdict in plain words."""

import re

import numpy as np
import pandas as pd

from docfloqa.analysis.contrasts import CLAIMS, ENDPOINTS, HEADLINE, contrasts, holm_p_values
from docfloqa.analysis.intervals import NONE, Interval, p_text
from docfloqa.analysis.paired import SIGNIFICANT
from docfloqa.analysis.tables import page_use_scores
from docfloqa.metrics import FEWEST_DOCUMENTS
from docfloqa.runs.results import Study
from docfloqa.text import plain

BETTER, WORSE, OPEN = "better", "worse", "not settled"
MARGIN = 2.0  # points of ANLS
ENDPOINT = re.compile(f"^({'|'.join(ENDPOINTS.values())})(: |, )")
# How much better a model must answer with a question's own page than with another document's before anything is
# compared: dates and amounts look so much alike that guessing them blindly already scores.
FLOOR = 0.05


def verdicts(study: Study, margin: float = MARGIN) -> pd.DataFrame:
    """All that a study compares, one row each: claims, ratios, arms, and ratios on bad scans where they were scored.

    Columns: part (p-values have Holm's correction within one), comparison, difference, low, high (points, of ANLS where
    nothing else is said, 95 % interval over documents and seeds), p, verdict, reason (why nothing can be settled). "The
    same" is what two one-sided tests show to differ by less than `margin`, which is above 0, else ValueError is raised.
    Nothing is settled where the model does not read the pages, without runs, and on too few documents for intervals;
    of a claim, where its endpoints do not have the same verdict.
    """
    if not margin > 0:
        raise ValueError(f"margin is {margin}; allowed are points of ANLS above 0")
    reads, rows, found = reads_pages(study), [], contrasts(study)
    same = holm_p_values(found, lambda difference: difference.equivalence_p_value(margin))
    for one, p_value, equivalent in zip(found, holm_p_values(found), same, strict=True):
        ends = vars(one.difference.interval()).values() if one.difference else [np.nan] * 3
        estimate, low, high = (100 * end for end in ends)
        verdict = OPEN
        if reads and p_value < SIGNIFICANT:
            verdict = BETTER if estimate > 0 else WORSE
        elif reads and equivalent < SIGNIFICANT:
            verdict = f"the same within {margin:g} points"
        reason = one.reason or (one.difference.doubt if one.difference else "")
        rows.append((one.family, one.name, estimate, low, high, p_value, verdict, reason))
    frame = pd.DataFrame(rows, columns=["part", "comparison", "difference", "low", "high", "p", "verdict", "reason"])
    # The endpoints of a claim are beside each other.
    of_each = frame.groupby(["part", frame.groupby("part").cumcount() // len(ENDPOINTS)])["verdict"]
    differ = frame["part"].isin(CLAIMS.values()) & (of_each.transform("nunique") > 1)
    alone = differ & (frame["verdict"] != OPEN)
    endpoint = pd.Series([ENDPOINTS.get(one.metric, "") for one in found], dtype=object)
    frame.loc[alone, "reason"] = frame["verdict"] + " on " + endpoint + " alone"
    frame.loc[differ, "verdict"] = OPEN
    documents = study.compared["document_id"].nunique()
    frame.attrs["on"] = f"Compared {compared_on(study)}."
    if documents < FEWEST_DOCUMENTS:
        frame.attrs["note"] = (
            f"{_counted(documents)} {'are tested on' if study.tested else 'validate'}. Intervals are given from "
            f"{FEWEST_DOCUMENTS} on: on fewer they hold the truth too seldom, so nothing is settled."
        )
    elif not reads:
        frame.attrs["note"] = (
            f"No model answers clearly better with a question's own page than with another document's ({100 * FLOOR:g} "
            "points): it could not be shown that the pages are read, so nothing is settled."
        )
    return frame


def readable(found: pd.DataFrame, part: str | None = None) -> pd.DataFrame:
    """What `verdicts` gives, or one part of it, as text for a table."""
    rows = found if part is None else found[found["part"] == part]
    ends = zip(rows["difference"], rows["low"], rows["high"], strict=True)
    columns = {
        # Of each part the first row alone names it.
        "among": rows["part"].where(~rows["part"].duplicated(), ""),
        "comparison": rows["comparison"],
        "difference [95 %]": [NONE if pd.isna(row[0]) else Interval(*row).format() for row in ends],
        "p (Holm)": rows["p"].map(p_text),
        "verdict": rows["verdict"].where(rows["reason"] == "", rows["verdict"] + ": " + rows["reason"]),
    }
    frame = pd.DataFrame(columns).reset_index(drop=True).drop(columns=[] if part is None else "among")
    frame.attrs = found.attrs
    return frame


def of_parts(found: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The `verdicts` on which part is trained, the claims or else the arm `side`, and on how these differ by shift."""
    claims = CLAIMS[HEADLINE]
    rows = found[found["part"].str.startswith(claims if claims in {*found["part"]} else "arm side")]
    between = rows["comparison"].str.contains(" against ")
    return rows[~between], rows[between]


def by_data(found: pd.DataFrame) -> pd.DataFrame:
    """Rows of `verdicts` as text, packed: a row for what is compared, a column for the documents (or the part).

    The endpoints of a claim share a cell.
    """
    cells: dict[str, dict[str, list]] = {}
    for one, difference in zip(found.itertuples(), readable(found)["difference [95 %]"], strict=True):
        name = ENDPOINT.sub("", plain(one.comparison)) if one.part in CLAIMS.values() else plain(one.comparison)
        on, compared = name.split(": ") if ": " in name else (one.part, name)
        told = cells.setdefault(on, {}).setdefault(compared, [])
        told += [] if pd.isna(one.difference) else [(difference, one.verdict, one.reason)]
    texts = {on: {compared: _cell(told) for compared, told in rows.items()} for on, rows in cells.items()}
    frame = pd.DataFrame({on: rows for on, rows in texts.items() if {*rows.values()} != {NONE}})
    if reasons := dict.fromkeys(found.loc[found["difference"].isna(), "reason"]):
        bare = ", ".join(on for on in cells if on not in frame)
        frame.attrs["note"] = f"{bare or NONE}: {'; '.join(reasons)}."
    return frame.fillna(NONE).rename_axis("A − B")


def _cell(told: list[tuple[str, str, str]]) -> str:
    """Differences, and their verdict with its reasons."""
    if not told:
        return NONE
    differences, verdicts, reasons = zip(*told, strict=True)
    why = ", ".join(filter(None, reasons))
    return f"{' · '.join(differences)} {verdicts[0]}{why and f' ({why})'}"


def as_text(found: pd.DataFrame) -> str:
    """What `verdicts` gives for a terminal: a block for every part, with the note below."""
    lines = []
    for part, rows in found.groupby("part", sort=False):
        width = rows["comparison"].str.len().max()
        lines.append(f"{part}, points{'' if part in CLAIMS.values() else ' of ANLS'} [95 %]:")
        for comparison, difference, _, said in readable(rows, part).itertuples(index=False):
            lines.append(f"  {comparison:<{width}}  {difference:<19}  {said}")
    return "\n".join([*lines, *found.attrs.values()])


def compared_on(study: Study) -> str:
    """On which documents the runs are compared, and whether these chose anything."""
    documents = study.compared["document_id"].nunique()
    if study.tested:
        return f"on {_counted(documents, 'test document')}, which chose nothing, by every run's best epoch"
    return f"on the {_counted(documents, 'validation document')}, which chose the epoch"


def validated_on(study: Study) -> str:
    """On how much a study was validated, and where its runs are compared, in sentences."""
    counts = study.last_answers[["question_id", "document_id"]].nunique()
    folds = study.settings.folds
    each = f", each document once, in {folds} folds by models that were not trained on it" if folds else ""
    validated = f"{_counted(counts['question_id'], 'question')} on {_counted(counts['document_id'])} validate{each}."
    return f"{validated} Compared {compared_on(study)}."


def _counted(count: int, of: str = "document") -> str:
    return f"{count:,} {of}{'' if count == 1 else 's'}"


def reads_pages(study: Study) -> bool:
    """Whether some ratio reads the pages: only then can be compared.

    A ratio does if its ANLS on a question's own page is at least `FLOOR` above that on another, and that is shown.
    """
    gains = page_use_scores(study).query("metric == 'difference'")
    return bool(((gains["estimate"] >= FLOOR) & (gains["low"] > 0)).any())
