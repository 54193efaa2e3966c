"""Which questions are answered wrong, how, and by which runs."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd

from docfloqa.analysis.confidence import confident_answers
from docfloqa.analysis.intervals import NONE, RATIO, interval, interval_table, percent, text_table
from docfloqa.data.synth.dataset import asked_fields, draw_page, drawing_of, page_seed
from docfloqa.data.synth.vocabulary import MONTHS
from docfloqa.runs.results import Study, once_for_study
from docfloqa.settings import Settings
from docfloqa.text import flat

GROUPS = {
    "question_type": "question type",
    "answer_kind": "kind of answer",
    "answer_length": "characters of the answer",
    "page_kind": "kind of page",
    "height": "box height (pixels)",
    "vertical": "third of the page, down",
    "horizontal": "third of the page, across",
}
# The groups that need the page to be drawn again.
LOCATED = ["page_kind", "height", "vertical", "horizontal"]
LOCATION = ["value", "left", "top", "right", "bottom", *LOCATED]
NOT_KNOWN = "not known"
LENGTHS = {"1 to 3": 3, "4 to 6": 6, "7 to 10": 10, "11 to 20": 20, "over 20": np.inf}
THIRDS = {"vertical": ("top", "middle", "bottom"), "horizontal": ("left", "centre", "right")}

NUMBER = r"[-+]?(\d[\d,]*)?\.?\d+"
KINDS = {
    "amount of money": rf"[$€£¥] ?{NUMBER}( (thousand|million|billion))?|"
    rf"{NUMBER} ?([$€£¥]|USD|EUR|GBP|dollars?|euros?|pounds?|cents?)",
    "number": NUMBER,
    "time": r"\d{1,2}:\d\d(:\d\d)?( ?[ap]\.?m\.?)?|\d{1,2} ?[ap]\.?m\.?",
    "number with a unit": rf"{NUMBER} ?([%°][A-Z]?|[a-zµ][a-zA-Z]*)( [a-z]+)?",
    "date": r"\d{4}([/.-])\d\d?\1\d\d?|\d\d?([/.-])\d\d?\2(\d{4}|\d\d)",
}
MONTH = re.compile(f"({'|'.join(MONTHS)})[a-z]*", re.IGNORECASE)
DATE_PART = re.compile(
    r"\d{1,2}(st|nd|rd|th)?|'?\d\d|\d{4}|of|the|\w{3,6}day|mon|tue|wed|thu|fri|sat|sun", re.IGNORECASE
)


def answer_kind(answer: str) -> str:
    """What an answer looks like, the first of these that fits; only its text decides.

    "amount of money" (a number with a currency), "number", "time" (4:30 pm), "number with a unit" (up to two
    words that do not begin with a capital, or % or °), "date" (in digits, or a month's name beside digits and nothing
    else), "code" (every word has a digit), "text with digits", "capitalised words" (every word of more than three
    letters begins with a capital: most are names or titles), "other text".
    """
    text = flat(answer)
    if kind := next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, text)), None):
        return kind
    parts = [part for part in re.split(r"[\s,./-]+", text) if part]
    others = [part for part in parts if not MONTH.fullmatch(part)]
    if len(others) < len(parts) and any(part[0].isdigit() for part in others) and all(map(DATE_PART.fullmatch, others)):
        return "date"
    if re.search(r"\d", text):
        return "code" if all(re.search(r"\d", word) for word in text.split()) else "text with digits"
    long = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 3] or text.split()[:1]
    return "capitalised words" if long and all(word[0].isupper() for word in long) else "other text"


def locate(settings: Settings, question_ids: Iterable[str]) -> pd.DataFrame:
    """Where the answers of drawn validation questions stand, by drawing their pages again; a row for every id.

    Columns: value; left, top, right, bottom (its box on the page, pixels); page_kind; height (of the whole box,
    pixels); vertical, horizontal (the third of the page). Missing values for questions that were not drawn.
    """
    drawn = (settings.validation_data or settings.data) == "synth"
    count = settings.synth_validation_documents if drawn else 0
    return _drawn(drawing_of(settings), str(settings.synth_seed), count).reindex(
        pd.Index(question_ids, name="question_id")
    )


@lru_cache
def _drawn(drawing: str, seed: str, documents: int) -> pd.DataFrame:
    rows = {}
    for document in range(documents):
        rng = page_seed(drawing, seed, "validation", document)
        page = draw_page(rng, drawing, "validation")
        width, height = page.image.size
        for index, field in enumerate(asked_fields(rng, page)):
            left, top, right, bottom = field.value_box
            inside = max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom)
            middle = (top + bottom) / 2 / height, (left + right) / 2 / width
            name = f"validation-{document:05d}-{index}"
            rows[name] = (field.value, *inside, page.kind, round(bottom - top, 2), *middle)
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=LOCATION)
    thirds = {of: pd.cut(frame[of], [-np.inf, 1 / 3, 2 / 3, np.inf], False, names) for of, names in THIRDS.items()}
    return frame.assign(**thirds)


@once_for_study
def grouped_answers(study: Study) -> pd.DataFrame:
    """The answers after the last epoch with a column for every key of `GROUPS`; `question_type` has lists.

    What is not known is missing: all of `LOCATED` where the present code does not draw the answers that were accepted.
    """
    questions = study.last_answers.drop_duplicates("question_id").set_index("question_id")
    accepted = questions["answers"].map(lambda given: next(filter(str.strip, given)))
    groups = locate(study.settings, questions.index)
    if (groups["value"] != accepted).any():
        groups = groups.iloc[:0].reindex(questions.index)
    groups = groups[LOCATED].assign(
        height=_in_thirds(groups["height"].astype(float)),
        answer_kind=accepted.map(answer_kind),
        answer_length=pd.cut(accepted.map(flat).str.len(), [-np.inf, *LENGTHS.values()], labels=[*LENGTHS]),
        question_type=questions["question_types"].map(lambda types: sorted({*map(flat, types)}) or ["none given"]),
    )
    return study.last_answers.join(groups, on="question_id")


def _in_thirds(values: pd.Series) -> pd.Series:
    edges = values.quantile([1 / 3, 2 / 3]).dropna().unique()
    if not len(edges):
        return values.astype("category")
    between = [f"{low:.1f} to {high:.1f}" for low, high in pairwise(edges)]
    names = [f"up to {edges[0]:.1f}", *between, f"over {edges[-1]:.1f}"]
    return pd.cut(values, [-np.inf, *edges, np.inf], labels=names)


@once_for_study
def group_scores(study: Study, group: str) -> pd.DataFrame:
    """Tidy: the group (its key is the column), ratio, metric (anls), estimate, low, high, questions, in order.

    ANLS in [0, 1]; `questions` counts different ones. Groups come in their order, else the most frequent first.
    """
    answers = grouped_answers(study).explode(group)
    known = answers[group].dropna()
    # Sorted by count, and by name where counts are equal.
    counts = known.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    order = known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else counts.index
    answers[group] = pd.Categorical(answers[group].astype(object).fillna(NOT_KNOWN), [*order, NOT_KNOWN])
    table = interval_table(answers, [group, RATIO], ["anls"])
    return table.assign(questions=table[group].map(answers.groupby(group, observed=True)["question_id"].nunique()))


def by_group(study: Study, group: str) -> pd.DataFrame:
    """ANLS in percent by group and ratio as text; see `group_scores`."""
    table = group_scores(study, group)
    counts = table.groupby(group, sort=False)["questions"].first()
    frame = text_table(table, group, RATIO).reindex(counts.index).fillna(NONE).add_prefix("ANLS at ")
    frame.insert(0, "questions", counts)
    if NOT_KNOWN in counts:
        frame.attrs["note"] = "Where an answer stands is known of documents that the present code draws again."
    return frame.rename_axis(GROUPS[group])


def most_confident_errors(study: Study, count: int) -> pd.DataFrame:
    """The best ratio's first seed's wrong `confident_answers` (ANLS 0), the `count` most confident, by question id."""
    answers = confident_answers(study)
    answers = answers[answers[RATIO] == best_ratio(study)].query("seed == seed.min() and anls == 0")
    wrong = answers.sort_values(["confidence", "question_id"], ascending=[False, True])
    return wrong.set_index("question_id").head(count)


def best_ratio(study: Study) -> float:
    """The ratio with the highest ANLS after the last epoch, the lower one where two have the same."""
    return study.last_answers.groupby(RATIO)["anls"].mean().idxmax()


def only_right_at(study: Study) -> pd.DataFrame:
    """Questions by the set of ratios that get them right, as text: how many, and up to three ids spaced evenly.

    A ratio is right if more than half of its seeds are (exact match after the last epoch). The largest set comes first.
    """
    table = study.last_answers.pivot_table("exact_match", ["document_id", "question_id"], RATIO) > 0.5
    sets = table.apply(lambda right: _set_name(right.index[right], len(right)), axis=1)
    questions = table.index.to_frame(index=False).assign(of="all", **pd.get_dummies(sets.to_numpy(), dtype=float))
    counts = interval_table(questions.drop(columns="question_id"), ["of"], sets.unique())
    rows = {}
    for row in counts.sort_values("estimate", ascending=False, kind="stable").itertuples():
        ids = sorted(questions.loc[questions[row.metric] == 1, "question_id"])
        places = np.linspace(0, len(ids) - 1, min(3, len(ids))).round().astype(int)
        example = ", ".join(ids[place] for place in places)
        rows[row.metric] = {"questions": interval(row).format(len(questions), 0), "for example": example}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("right at")


def _set_name(ratios: Sequence[float], count: int) -> str:
    """Some of `count` ratios in words: "no ratio", "every ratio", "only 66 %", "only 0 % and 33 %"."""
    if len(ratios) in (0, count):
        return "every ratio" if len(ratios) else "no ratio"
    return f"only {' and '.join(map(percent, ratios))}"
