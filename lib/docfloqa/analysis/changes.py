"""Two runs on the same questions: what the second one does better and worse, and whether that is chance."""

import math

import pandas as pd

from docfloqa.analysis.intervals import Interval, number, p_text
from docfloqa.analysis.paired import mcnemar_p_value, paired_difference, permutation_p_value
from docfloqa.exceptions import RunError
from docfloqa.metrics import METRICS
from docfloqa.runs.run import Run

QUESTION = ["question_id", "document_id", "question"]
CONFIDENCE = 0.95
NOTE = """\
After the last epochs; differences are second − first, with 95 % intervals over documents. p is Student's,
over documents; McNemar's takes questions as independent, so it may be too small. No p is corrected for the number of
metrics, and none says what another seed would give."""


def paired_answers(first: Run, second: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answers of two runs after their last epochs, question by question.

    Both frames have the columns that `docfloqa.analysis.paired` takes; a run is one training, so `seed` is 0. Raises
    `RunError` unless both runs were asked the same questions with the same accepted answers.
    """
    sides = []
    for run in (first, second):
        answers = run.answers().assign(seed=0)
        sides.append(answers.sort_values("question_id", kind="stable", ignore_index=True))
    asked = [side[QUESTION].assign(answers=side["answers"].map(tuple)) for side in sides]
    if not asked[0].equals(asked[1]):
        same = len(asked[0].merge(asked[1]))
        raise RunError(
            f"runs {first.name} and {second.name} were not asked the same questions: {len(asked[0])} and "
            f"{len(asked[1])}, {same} of them the same; only runs with the same validation data can be compared"
        )
    return sides[0], sides[1]


def compare_metrics(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """How much more of each metric the second side has, one row for each, by `metric`.

    Columns: `first` and `second` (means), `difference`, `low`, `high` (95 %, over documents), `p_value` (Student's),
    `p_permutation` (over documents), `p_mcnemar` (over questions; NaN for a metric that is not 0 or 1). All are of
    these two trainings: another seed may differ as much by itself. Frames as `paired_answers` gives them; raises
    ValueError for a single document.
    """
    rows = {}
    for metric in METRICS:
        difference = paired_difference(first, second, metric)
        estimate = vars(difference.interval(CONFIDENCE))
        binary = first[metric].isin([0, 1]).all() and second[metric].isin([0, 1]).all()
        rows[metric] = {
            "first": first[metric].mean(),
            "second": second[metric].mean(),
            "difference": estimate.pop("estimate"),
            **estimate,
            "p_value": difference.p_value(),
            "p_permutation": permutation_p_value(first, second, metric),
            "p_mcnemar": mcnemar_p_value(first, second, metric)["p_value"].iloc[0] if binary else math.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


def as_text(metrics: pd.DataFrame) -> pd.DataFrame:
    """What `compare_metrics` gives, in per cent and as text."""
    ends = metrics[["difference", "low", "high"]].itertuples(index=False)
    tests = {"p": "p_value", "p, permutation": "p_permutation", "p, McNemar": "p_mcnemar"}
    return pd.DataFrame(
        {
            "first (%)": (100 * metrics["first"]).map(number),
            "second (%)": (100 * metrics["second"]).map(number),
            "difference": [Interval(*row).format(100) for row in ends],
            **{name: metrics[p].map(p_text) for name, p in tests.items()},
        }
    ).rename_axis(None)


def compared(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The questions that both frames of predictions answer, by how much ANLS the second has more, most first.

    Columns: question_id, document_id, question, answers, then prediction and anls of each with the suffixes
    `_first` and `_second`, and `difference` in [-1, 1]. Equal differences stand in the order of question ids.
    """
    frame = first[[*QUESTION, "answers", "prediction", "anls"]].merge(
        second[["question_id", "prediction", "anls"]], on="question_id", suffixes=("_first", "_second")
    )
    frame["difference"] = frame["anls_second"] - frame["anls_first"]
    return frame.sort_values(["difference", "question_id"], ascending=[False, True], ignore_index=True)


def changed_questions(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Those of `compared` whose ANLS differs; `first` and `second` are what was answered."""
    frame = compared(first, second).rename(columns={"prediction_first": "first", "prediction_second": "second"})
    columns = [*QUESTION, "answers", "first", "second", "difference"]
    return frame.loc[frame["difference"] != 0, columns].reset_index(drop=True)
