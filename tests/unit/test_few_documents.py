"""On fewer documents than an interval can be told from, none is given: in numbers, tables, verdicts or JSON."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study

from docfloqa.analysis import tables
from docfloqa.analysis.intervals import interval_table
from docfloqa.metrics import FEWEST_DOCUMENTS
from docfloqa.report.tables import write_tables
from docfloqa.report.verdicts import OPEN, as_text, reads_pages, verdicts
from docfloqa.runs.results import Study

AN_INTERVAL = re.compile(r"\[[-\d.,\s\xa0~]*\d[-\d.,\s\xa0~]*\]")


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCFLOQA_OUTPUT", str(tmp_path_factory.mktemp("few")))
        yield


@pytest.fixture(scope="module")
def nine() -> Study:
    return write_study("nine", documents=9, epochs=1, arms=("cumulative", "prefix"))


@pytest.mark.parametrize(("documents", "given"), [(2, False), (9, False), (10, True)])
def test_intervals_begin_at_ten_documents(documents, given):
    rng = np.random.default_rng(0)
    scores = {"anls": rng.random(documents), "seed": 0, "question_id": range(documents)}
    frame = pd.DataFrame({"of": "all", "document_id": range(documents), **scores})
    [row] = interval_table(frame, ["of"], ["anls"]).itertuples()
    assert np.isfinite([row.low, row.high]).all() == given
    assert np.isfinite(row.estimate) and FEWEST_DOCUMENTS == 10


@pytest.mark.long
def test_no_table_of_few_documents_has_an_interval(nine):
    for path in write_tables(nine):
        if path.stem not in ("published_differences", "only_right_at"):
            assert not AN_INTERVAL.search(path.read_text()), path
    assert AN_INTERVAL.search("41.2 [38.0, 44.5]") and AN_INTERVAL.search("-1.2 [-3.0,\xa00.5]")
    assert pd.read_csv(path.parent / "scores.csv")[["low", "high"]].isna().all(axis=None)


def test_no_verdict_of_few_documents_is_settled(nine):
    found = verdicts(nine)
    assert set(found["verdict"]) == {OPEN} and found["difference"].notna().any() and not reads_pages(nine)
    assert found[["low", "high", "p"]].isna().all(axis=None) and found["reason"].str.contains("documents").all()
    rows = json.loads(found.to_json(orient="records"))
    assert {row[name] for row in rows for name in ("low", "high", "p")} == {None}
    assert not AN_INTERVAL.search(as_text(found)) and "9 documents validate" in as_text(found)


def test_what_few_documents_would_show_is_unknown(nine):
    shown = tables.comparisons(nine)
    assert (shown.filter(like="shown") == "unknown").all(axis=None)
    assert (shown.filter(like="documents to show") == "unknown").all(axis=None)


def test_one_seed_says_nothing_of_others():
    shown = tables.comparisons(write_study("one-seed", documents=20, epochs=1, seeds=(0,)))
    assert (shown.filter(like="any seeds") == "unknown").all(axis=None)
    assert (shown.filter(like="these seeds") != "unknown").all(axis=None)


def test_without_any_difference_nothing_is_said_of_what_would_be_shown():
    same = write_study("same", documents=20, epochs=1, ratios=(0.0, 1.0), ability=(0.0, 0.0))
    shown = tables.comparisons(same)
    assert (shown.filter(regex="shown|to show") == "unknown").all(axis=None)
    assert not [name for name in tables.costs(same) if name.startswith("seconds to")]
    assert set(verdicts(same)["verdict"]) == {OPEN}
