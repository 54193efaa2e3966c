"""Which questions are answered wrong, how, and by which runs."""

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from docfloqa.analysis.confidence import confident_answers
from docfloqa.analysis.intervals import (
    NONE,
    RATIO,
    Interval,
    bootstrap_interval,
    interval_table,
    p_text,
    percent,
    text_table,
)
from docfloqa.analysis.paired import holm
from docfloqa.data.synth.canvas import Field
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
LOCATED = ("page_kind", "height", "vertical", "horizontal")
LOCATION = ("value", "page_kind", "left", "top", "right", "bottom", "height", "vertical", "horizontal")
NOT_KNOWN = "not known"
LENGTHS = {3: "1 to 3", 6: "4 to 6", 10: "7 to 10", 20: "11 to 20"}
LONGEST = "over 20"
THIRDS = {"vertical": ("top", "middle", "bottom"), "horizontal": ("left", "centre", "right")}

NUMBER = r"[-+]?(\d[\d,]*)?\.?\d+"
KINDS = {
    "amount of money": rf"[$€£¥] ?{NUMBER}( (thousand|million|billion))?|"
    rf"{NUMBER} ?([$€£¥]|USD|EUR|GBP|dollars?|euros?|pounds?|cents?)",
    "number": NUMBER,
    "time": r"\d{1,2}:\d\d(:\d\d)?( ?[ap]\.?m\.?)?|\d{1,2} ?[ap]\.?m\.?",
    "number with a unit": rf"{NUMBER} ?([%°][A-Z]?|[a-zµ][a-zA-Z]*)( [a-z]+)?",
}
NUMERIC_DATE = re.compile(r"\d{4}([/.-])\d\d?\1\d\d?|\d\d?([/.-])\d\d?\2(\d{4}|\d\d)")
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
    for kind, pattern in KINDS.items():
        if re.fullmatch(pattern, text):
            return kind
    if _is_date(text):
        return "date"
    words = text.split()
    if re.search(r"\d", text):
        return "code" if all(re.search(r"\d", word) for word in words) else "text with digits"
    long = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 3] or words[:1]
    return "capitalised words" if long and all(word[0].isupper() for word in long) else "other text"


def _is_date(text: str) -> bool:
    parts = [part for part in re.split(r"[\s,./-]+", text) if part]
    others = [part for part in parts if not MONTH.fullmatch(part)]
    named = len(others) < len(parts) and any(part[0].isdigit() for part in others)
    return bool(NUMERIC_DATE.fullmatch(text)) or (named and all(map(DATE_PART.fullmatch, others)))


def answer_length(answer: str) -> str:
    """The number of characters of an answer as one of the bins of `LENGTHS`, or `LONGEST`."""
    length = len(flat(answer))
    return next((name for most, name in LENGTHS.items() if length <= most), LONGEST)


def locate(settings: Settings, question_ids: Iterable[str]) -> pd.DataFrame:
    """Where the answers of drawn validation questions stand, by drawing their pages again; a row for every id.

    Columns: value (as printed); page_kind; left, top, right, bottom (the part on the page of the answer's box, in
    pixels of the page as drawn); height (of the whole box, in pixels); vertical and horizontal: the third of the page
    that the box's middle is in. All are missing values for questions that the drawn validation documents do not have,
    so for all where the validation data is not drawn.
    """
    ids = pd.Index(list(question_ids), name="question_id")
    drawn = (settings.validation_data or settings.data) == "synth"
    rows = [_location(settings, name) if drawn else {} for name in ids]
    return pd.DataFrame(rows, index=ids, columns=list(LOCATION))


@lru_cache(maxsize=10_000)
def _asked(drawing: str, seed: int, document: int) -> tuple[str, tuple[int, int], list[Field]]:
    rng = page_seed(drawing, seed, "validation", document)
    page = draw_page(rng, drawing)
    return page.kind, page.image.size, asked_fields(rng, page)


def _location(settings: Settings, question_id: str) -> dict:
    match = re.fullmatch(r"validation-(\d+)-(\d+)", question_id)
    document, index = map(int, match.groups()) if match else (-1, -1)
    if not 0 <= document < settings.synth_validation_documents:
        return {}
    kind, (width, height), fields = _asked(drawing_of(settings), settings.synth_seed, document)
    if index >= len(fields):
        return {}
    left, top, right, bottom = fields[index].value_box
    middles = {"vertical": (top + bottom) / 2 / height, "horizontal": (left + right) / 2 / width}
    return {
        **{"value": fields[index].value, "page_kind": kind},
        **{"left": max(0.0, left), "top": max(0.0, top)},
        **{"right": min(float(width), right), "bottom": min(float(height), bottom)},
        "height": round(bottom - top, 2),
        **{name: THIRDS[name][min(2, max(0, int(3 * share)))] for name, share in middles.items()},
    }


@once_for_study
def grouped_answers(study: Study) -> pd.DataFrame:
    """The answers after the last epoch with a column for every key of `GROUPS`.

    Groups with an order are ordered categories; heights are in thirds of the questions. What is not known is
    a missing value: all of `LOCATED` where the validation data is not drawn, or where the present code
    draws other answers than those that were accepted. `question_type` is a list, since a question can have several.
    """
    answers = study.last_answers
    questions = answers.drop_duplicates("question_id").set_index("question_id")
    accepted = questions["answers"].map(lambda given: next(filter(str.strip, given)))
    groups = locate(study.settings, questions.index)
    if (groups["value"] != accepted).any():
        groups[list(LOCATION)] = np.nan
    groups = groups[list(LOCATED)].assign(
        height=_in_thirds(groups["height"].astype(float)),
        answer_kind=accepted.map(answer_kind),
        answer_length=pd.Categorical(accepted.map(answer_length), [*LENGTHS.values(), LONGEST], ordered=True),
        **{name: pd.Categorical(groups[name], names, ordered=True) for name, names in THIRDS.items()},
        question_type=[
            sorted({flat(kind) for kind in types}) or ["none given"] for types in questions["question_types"]
        ],
    )
    return answers.join(groups, on="question_id")


def _in_thirds(values: pd.Series) -> pd.Categorical:
    edges = np.unique(values.dropna().quantile([1 / 3, 2 / 3]).dropna())
    if not len(edges):
        return pd.Categorical([None] * len(values))
    between = [f"{low:.1f} to {high:.1f}" for low, high in pairwise(edges)]
    names = [f"up to {edges[0]:.1f}", *between, f"over {edges[-1]:.1f}"]
    places = np.where(values.isna(), -1, np.searchsorted(edges, values))
    return pd.Categorical.from_codes(places, names, ordered=True)


@once_for_study
def group_scores(study: Study, group: str) -> pd.DataFrame:
    """Tidy: the group (its key is the column), ratio, metric (anls), estimate, low, high, questions, in order.

    ANLS in [0, 1] after the last epoch, mean over seeds, with 95 % intervals over documents; `questions` is
    how many different ones the group has. Ordered groups come in their order, others with the most frequent
    first, `NOT_KNOWN` last. Raises KeyError for a group that is none of `GROUPS`.
    """
    if group not in GROUPS:
        raise KeyError(f"{group!r} is no group; groups are {', '.join(GROUPS)}")
    answers = grouped_answers(study).explode(group)
    known = answers[group].dropna()
    # Sorted by count, and by name where counts are equal.
    counts = known.value_counts().sort_index().sort_values(ascending=False, kind="stable")
    order = known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else counts.index
    places = {name: place for place, name in enumerate([*order, NOT_KNOWN])}
    answers = answers.assign(**{group: answers[group].astype(object).fillna(NOT_KNOWN)})
    table = interval_table(answers, [group, RATIO], ["anls"])
    table["questions"] = table[group].map(answers.groupby(group)["question_id"].nunique())
    return table.sort_values(group, key=lambda names: names.map(places), kind="stable", ignore_index=True)


def by_group(study: Study, group: str) -> pd.DataFrame:
    """ANLS in percent by group and ratio as text; see `group_scores`."""
    table = group_scores(study, group)
    counts = table.groupby(group, sort=False)["questions"].first()
    frame = text_table(table, group, RATIO).reindex(counts.index).fillna(NONE).add_prefix("ANLS at ")
    frame.insert(0, "questions", counts)
    if NOT_KNOWN in counts:
        frame.attrs["note"] = (
            "Where an answer stands is known of documents that the present code draws, by drawing them again."
        )
    return frame.rename_axis(GROUPS[group])


def most_confident_errors(study: Study, count: int) -> pd.DataFrame:
    """The `count` wrong answers with the highest confidence, the most confident first, indexed by question id.

    Of the ratio with the highest ANLS after the last epoch and its first seed; wrong is an ANLS of 0. The
    columns are those of the predictions. Raises `RunError` for a study without confidence.
    """
    answers = confident_answers(study)
    answers = answers[answers[RATIO] == best_ratio(study)]
    answers = answers[(answers["seed"] == answers["seed"].min()) & (answers["anls"] == 0)]
    wrong = answers.sort_values(["confidence", "question_id"], ascending=[False, True])
    return wrong.set_index("question_id").head(count)


def best_ratio(study: Study) -> float:
    """The ratio with the highest ANLS after the last epoch, the lower one where two have the same."""
    return study.last_answers.groupby(RATIO)["anls"].mean().idxmax()


RELABELLINGS = 2000


@once_for_study
def right_sets(study: Study) -> pd.DataFrame:
    """A row for every set of ratios that some question is answered right by, and by no other ratio.

    Columns: ratios (a tuple, from the lowest), estimate, low, high (how many questions; 95 % bootstrap interval over
    documents), chance, chance_low, chance_high (how many if seeds alone differed, and the middle 95 % of that), p
    (two-sided, with Holm's correction for all rows), questions (their ids). The most frequent set comes first.

    A ratio is right if more than half of its seeds are (exact match after the last epoch). Chance is the mean of
    `RELABELLINGS` changes of labels, of each document's runs among themselves, with its questions kept together; it
    holds given how many runs get each question right.
    Raises ValueError for runs that answered different questions.
    Sources: Cochran, Biometrika 37, 1950, for the condition; Phipson & Smyth, Statistical Applications in
    Genetics and Molecular Biology 9, 2010, for p.
    """
    answers = study.last_answers
    table = answers.pivot(index=["document_id", "question_id"], columns=[RATIO, "seed"], values="exact_match")
    if table.isna().any(axis=None):
        raise ValueError(f"the runs of study {study.name!r} answered different questions")
    right, documents = table.to_numpy() > 0, table.index.get_level_values("document_id")
    ratios, starts, seeds = np.unique(table.columns.get_level_values(RATIO), return_index=True, return_counts=True)
    observed = _sets(right, starts, seeds)
    document_of = pd.factorize(documents)[0]
    rng, size = np.random.default_rng(0), (document_of.max() + 1, right.shape[1])
    relabelled = np.empty((RELABELLINGS, 2 ** len(ratios)))
    for place in range(RELABELLINGS):
        order = rng.random(size).argsort(axis=1)[document_of]
        changed = _sets(np.take_along_axis(right, order, axis=1), starts, seeds)
        relabelled[place] = np.bincount(changed, minlength=2 ** len(ratios))
    rows = []
    for number in np.unique(observed):
        has, by_chance = observed == number, relabelled[:, number]
        further = np.abs(by_chance - by_chance.mean()) >= abs(has.sum() - by_chance.mean()) - 1e-9
        low, high = np.quantile(by_chance, [0.025, 0.975])
        rows.append(
            {
                "ratios": tuple(ratio for bit, ratio in enumerate(ratios.tolist()) if number >> bit & 1),
                **{name: len(table) * end for name, end in vars(bootstrap_interval(has, documents)).items()},
                **{"chance": by_chance.mean(), "chance_low": low, "chance_high": high},
                "p": (1 + further.sum()) / (1 + RELABELLINGS),
                "questions": sorted(table.index.get_level_values("question_id")[has]),
            }
        )
    frame = pd.DataFrame(rows).assign(p=lambda sets: holm(sets["p"]))
    return frame.sort_values("estimate", ascending=False, kind="stable", ignore_index=True)


def only_right_at(study: Study, examples: int = 3) -> pd.DataFrame:
    """`right_sets` as text, indexed by the set, with up to `examples` question ids evenly spaced through each."""
    rows = {}
    for row in right_sets(study).itertuples():
        places = np.linspace(0, len(row.questions) - 1, min(examples, len(row.questions))).round().astype(int)
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


def _sets(right: NDArray[np.bool_], starts: NDArray, seeds: NDArray) -> NDArray[np.int64]:
    """For every question the set of ratios as a number, with a bit for each; columns are runs, sorted by ratio."""
    majority = 2 * np.add.reduceat(right.astype(int), starts, axis=1) > seeds
    return majority @ (1 << np.arange(len(starts)))
