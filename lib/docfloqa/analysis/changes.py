"""Two runs on the same questions: how much more of each metric the second has, and which answers changed."""

import pandas as pd

from docfloqa.analysis.intervals import Interval, number, p_text
from docfloqa.analysis.paired import paired_difference, permutation_p_value
from docfloqa.exceptions import RunError
from docfloqa.metrics import METRICS
from docfloqa.runs.run import Run

QUESTION = ["question_id", "document_id", "question"]
NOTE = """\
On test questions where both runs answered them, else on validation after the last epochs. Differences are
second − first, with 95 % intervals over documents. p is Student's, over documents. No p is corrected for the number of
metrics, and none says what another seed would give."""


def paired_answers(first: Run, second: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two runs' answers by question; raises `RunError` unless both have the same questions and accepted answers."""
    sides = [run.compared().assign(seed=0).sort_values("question_id", ignore_index=True) for run in (first, second)]
    asked = [side[QUESTION].assign(answers=side["answers"].map(tuple)) for side in sides]
    if not asked[0].equals(asked[1]):
        counts = f"{len(asked[0])} and {len(asked[1])}, {len(asked[0].merge(asked[1]))} of them the same"
        allowed = "only runs with the same validation or test data can be compared"
        raise RunError(f"runs {first.name} and {second.name} were not asked the same questions: {counts}; {allowed}")
    return sides[0], sides[1]


def compare_metrics(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """How much more of each metric the second side of `paired_answers` has, one row for each, by `metric`.

    `difference` has its 95 % interval over documents. All are of these two trainings: another seed may differ as much
    by itself. Raises ValueError for a single document.
    """
    rows = {}
    for metric in METRICS:
        difference = paired_difference(first, second, metric)
        rows[metric] = {
            "first": first[metric].mean(),
            "second": second[metric].mean(),
            **vars(difference.interval()),
            "p_value": difference.p_value(),
            "p_permutation": permutation_p_value(first, second, metric),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename(columns={"estimate": "difference"}).rename_axis("metric")


def as_text(metrics: pd.DataFrame) -> pd.DataFrame:
    """What `compare_metrics` gives, in per cent and as text."""
    ends = metrics[["difference", "low", "high"]].itertuples(index=False)
    tests = {"p": "p_value", "p, permutation": "p_permutation"}
    columns = {f"{side} (%)": (100 * metrics[side]).map(number) for side in ("first", "second")}
    columns["difference"] = [Interval(*row).format(100) for row in ends]
    columns |= {name: metrics[p].map(p_text) for name, p in tests.items()}
    return pd.DataFrame(columns).rename_axis(None)


def compared(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The questions that both frames of predictions answer, by how much ANLS the second has more, most first.

    Columns: question_id, document_id, question, answers, first and second (predictions), anls of each, difference.
    """
    frame = first[[*QUESTION, "answers", "prediction", "anls"]].merge(
        second[["question_id", "prediction", "anls"]], on="question_id", suffixes=("_first", "_second")
    )
    frame = frame.rename(columns={"prediction_first": "first", "prediction_second": "second"})
    frame["difference"] = frame["anls_second"] - frame["anls_first"]
    return frame.sort_values(["difference", "question_id"], ascending=[False, True], ignore_index=True)
