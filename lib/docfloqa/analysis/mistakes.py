"""Which questions are answered wrong, how, and by which runs."""

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from docfloqa.analysis.confidence import confident_answers
from docfloqa.analysis.intervals import NONE, RATIO, Interval, interval_table, p_text, percent, text_table
from docfloqa.analysis.paired import holm
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
RELABELLINGS = 2000

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

    Columns: value (as printed); left, top, right, bottom (the part on the page of the answer's box, in pixels of the
    page as drawn); page_kind; height (of the whole box, in pixels); vertical and horizontal: the third of the page
    that the box's middle is in. All are missing values for questions that were not drawn.
    """
    drawn = (settings.validation_data or settings.data) == "synth"
    count = settings.synth_validation_documents if drawn else 0
    return _drawn(drawing_of(settings), settings.synth_seed, count).reindex(pd.Index(question_ids, name="question_id"))


@lru_cache
def _drawn(drawing: str, seed: int, documents: int) -> pd.DataFrame:
    rows = {}
    for document in range(documents):
        rng = page_seed(drawing, seed, "validation", document)
        page = draw_page(rng, drawing)
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

    Groups with an order are ordered categories; heights are in thirds of the questions. What is not known is missing:
    all of `LOCATED` where the present code draws no validation data, or other answers than those that were accepted.
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

    ANLS in [0, 1] after the last epoch; `questions` is how many different ones the group has. Ordered groups come in
    their order, others with the most frequent first, `NOT_KNOWN` last.
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


@once_for_study
def right_sets(study: Study) -> pd.DataFrame:
    """A row for every set of ratios that some question is answered right by, and by no other ratio.

    Columns: ratios (a tuple, from the lowest), estimate, low, high (how many questions), chance, chance_low,
    chance_high (how many if seeds alone differed, and the middle 95 % of that), p (two-sided, with Holm's correction
    for all rows), questions (their ids). The most frequent set comes first.

    A ratio is right if more than half of its seeds are (exact match after the last epoch). Chance is `RELABELLINGS`
    changes of labels, of each document's runs among themselves, given how many runs get each question right. Raises
    ValueError for runs that answered different questions. Sources: Cochran, Biometrika 37, 1950, for the condition;
    Phipson & Smyth, Statistical Applications in Genetics and Molecular Biology 9, 2010, for p.
    """
    answers = study.last_answers
    table = answers.pivot(index=["document_id", "question_id"], columns=[RATIO, "seed"], values="exact_match")
    if table.isna().any(axis=None):
        raise ValueError(f"the runs of study {study.name!r} answered different questions")
    right, documents = table.to_numpy() > 0, table.index.get_level_values("document_id")
    ratios, starts, seeds = np.unique(table.columns.get_level_values(RATIO), return_index=True, return_counts=True)

    def sets(right: NDArray) -> NDArray:
        """For every question the set of ratios as a number, with a bit for each; columns are runs, sorted by ratio."""
        majority = 2 * np.add.reduceat(right.astype(int), starts, axis=1) > seeds
        return majority @ (1 << np.arange(len(starts)))

    document_of = pd.factorize(documents)[0]
    rng, size = np.random.default_rng(0), (document_of.max() + 1, right.shape[1])
    relabelled = np.empty((RELABELLINGS, 2 ** len(ratios)))
    for row in relabelled:
        order = rng.random(size).argsort(axis=1)[document_of]
        row[:] = np.bincount(sets(np.take_along_axis(right, order, axis=1)), minlength=len(row))
    observed = sets(right)
    names = np.unique(observed)
    shares = pd.DataFrame({"document_id": documents, "of": "all", **{name: observed == name for name in names}})
    counts = len(table) * interval_table(shares, ["of"], names)[["estimate", "low", "high"]]
    by_chance, questions = relabelled[:, names], table.index.get_level_values("question_id")
    mean, (low, high) = by_chance.mean(axis=0), np.quantile(by_chance, [0.025, 0.975], axis=0)
    further = np.abs(by_chance - mean) >= np.abs(shares[names].sum().to_numpy() - mean) - 1e-9
    frame = counts.assign(
        ratios=[tuple(ratio for bit, ratio in enumerate(ratios.tolist()) if name >> bit & 1) for name in names],
        **{"chance": mean, "chance_low": low, "chance_high": high},
        p=holm((1 + further.sum(axis=0)) / (1 + RELABELLINGS)),
        questions=[sorted(questions[observed == name]) for name in names],
    )
    return frame.sort_values("estimate", ascending=False, kind="stable", ignore_index=True)


def only_right_at(study: Study) -> pd.DataFrame:
    """`right_sets` as text, indexed by the set, with up to three question ids evenly spaced through each."""
    rows = {}
    for row in right_sets(study).itertuples():
        places = np.linspace(0, len(row.questions) - 1, min(3, len(row.questions))).round().astype(int)
        rows[set_name(row.ratios, study)] = {
            "questions": Interval(row.estimate, row.low, row.high).format(1, 0),
            "by chance [middle 95 %]": Interval(row.chance, row.chance_low, row.chance_high).format(1, 0),
            "p (Holm)": p_text(row.p),
            "for example": ", ".join(row.questions[place] for place in places),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("right at")


def set_name(ratios: tuple[float, ...], study: Study) -> str:
    """A set of the study's ratios in words: "no ratio", "every ratio", "only 66 %", "only 0 % and 33 %"."""
    if not ratios:
        return "no ratio"
    if len(ratios) == study.runs[RATIO].nunique():
        return "every ratio"
    return f"only {' and '.join(map(percent, ratios))}"
