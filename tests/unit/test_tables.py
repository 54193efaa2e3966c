"""The tables hold what the predictions give, published figures in their rows, and no claim without evidence."""

import csv
import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from fake_study import write_study
from scipy.stats import binomtest

from docfloqa import text as markup
from docfloqa.analysis import mistakes as errors
from docfloqa.analysis import tables
from docfloqa.analysis.intervals import percent, score_intervals
from docfloqa.files import NOTEBOOKS, reports_folder
from docfloqa.metrics import METRICS
from docfloqa.model.florence import Florence2ForDocVQA, base_config
from docfloqa.model.freezing import freeze
from docfloqa.report.tables import environment_table, run_table, setup_table, write_tables
from docfloqa.report.verdicts import reads_pages
from docfloqa.runs import results
from docfloqa.settings import Freezing

TRAINED = ("vision encoder trained", "parameters")


@pytest.fixture(scope="module")
def study():
    return write_study("tables")


@pytest.fixture(scope="module")
def unreadable():
    return write_study("tables-unreadable", ability=(0.5, 0.02), wrong_pages=0.6)


@pytest.fixture(scope="module")
def alone():
    return write_study("tables-alone", ratios=(0.33,), seeds=(0,), epochs=1)


def mean(study, metric, ratio, epoch):
    """The mean over all answers, which equals the mean of the seeds' means, for they answer the same."""
    rows = study.predictions
    return rows.loc[(rows["vision_trainable"] == ratio) & (rows["epoch"] == epoch), metric].mean()


def test_scores_are_means_and_loss_is_per_token(study):
    table = tables.scores(study).set_index(["vision_trainable", "epoch", "metric"])
    assert len(table) == 4 * 4 * (len(METRICS) + 1)
    assert table.loc[(0.66, 2, "anls"), "estimate"] == pytest.approx(mean(study, "anls", 0.66, 2))
    rows = study.predictions.query("vision_trainable == 0.33 and epoch == 3")
    per_seed = rows.groupby("seed")[["loss_sum", "tokens"]].sum()
    expected = (per_seed["loss_sum"] / per_seed["tokens"]).mean()
    assert table.loc[(0.33, 3, "val_loss"), "estimate"] == pytest.approx(expected)


def test_finetuning_curve_puts_each_published_figure_beside_the_metric_of_its_definition(study):
    frame = tables.finetuning_curve(study)
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert frame["accuracy, first answer (%)", "published"].tolist() == ["15.2", "36.2", "38.0", "40.2"]
    assert frame["similarity, first answer (%)", "published"].tolist() == ["24.4", "50.1", "51.6", "52.6"]
    assert frame["exact match, first answer (%)", "published"].tolist() == ["–", "36.3", "38.8", "40.1"]
    assert frame["validation loss", "published"].tolist() == ["–", "0.624", "0.597", "0.581"]
    for column, metric in (
        ("accuracy, first answer (%)", "contains_first"),
        ("similarity, first answer (%)", "similarity_first"),
        ("exact match, first answer (%)", "exact_match_first"),
        ("F1, first answer (%)", "f1_first"),
        ("ANLS (%)", "anls"),
    ):
        shown = [float(cell.split(" ")[0]) for cell in frame[column, "ours"]]
        assert shown == [round(100 * mean(study, metric, 0.0, epoch), 1) for epoch in range(4)]
    assert frame["ANLS (%)"].columns.tolist() == ["ours"]


def test_intervals_are_over_documents(alone):
    rows = alone.predictions.query("epoch == 1")
    intervals = score_intervals(rows)
    interval, loss = intervals["anls"], intervals["val_loss"]
    assert interval.low < interval.estimate < interval.high
    shown = tables.finetuning_curve(alone).loc[1].map(lambda cell: cell.replace("\u00a0", " "))
    assert shown["ANLS (%)", "ours"] == interval.format(100)
    assert shown["validation loss", "ours"] == loss.format(1, 3)


def test_a_study_without_ratio_0_says_which_ratio_stands_in(study, alone):
    assert "no run at ratio 0: its own figures are those at 33 %" in tables.finetuning_curve(alone).attrs["note"]
    assert "no run at ratio 0" not in tables.finetuning_curve(study).attrs["note"]


def test_epochs_beyond_the_published_ones_have_no_published_figure():
    frame = tables.finetuning_curve(write_study("tables-long", (0.0,), (0,), epochs=9, documents=3))
    assert frame["accuracy, first answer (%)", "published"].tolist()[8:] == ["45.6", "–"]


def test_freezing_ablation_has_the_last_epoch_by_ratio(study):
    frame = tables.freezing_ablation(study)
    assert frame.index.tolist() == ["0 %", "33 %", "66 %", "100 %"]
    assert frame["vision encoder trained", "tensors"].tolist() == [f"{n} of 40" for n in (0, 13, 26, 40)]
    assert frame[TRAINED].tolist() == ["0 %", "51.2 %", "79.2 %", "100 %"]
    assert frame["accuracy, first answer (%)", "published"].tolist() == ["45.6", "49.3", "51.1", "50.2"]
    assert frame["similarity, first answer (%)", "published"].tolist() == ["58.2", "60.2", "61.1", "60.7"]
    shown = [float(cell.split(" ")[0]) for cell in frame["ANLS (%)", "ours"]]
    assert shown == [round(100 * mean(study, "anls", ratio, 3), 1) for ratio in (0.0, 0.33, 0.66, 1.0)]


@pytest.mark.parametrize(("setting", "value"), [("unit", "block"), ("side", "input")])
def test_another_way_of_counting_has_no_published_counterpart(setting, value):
    other = write_study(f"tables-{value}", seeds=(0,), documents=3, **{setting: value})
    frame = tables.freezing_ablation(other)
    assert frame["accuracy, first answer (%)", "published"].tolist() == ["45.6", "–", "–", "50.2"]


def test_a_ratio_that_was_not_published_has_no_published_counterpart():
    frame = tables.freezing_ablation(write_study("tables-half", (0.5, 0.66), (0,), documents=3))
    assert frame["F1, first answer (%)", "published"].tolist() == ["–", "56.8"]


def test_costs(study):
    frame = tables.costs(study)
    row = frame.loc["66 %"]
    assert row["vision parameters trained"] == "792" and row["of the vision encoder"] == "79.2 %"
    assert row["parameters trained"] == "2,792" and row["of the model"] == "93.1 %"
    assert row["seconds"] == "1,005" and row["samples/s"] == "25.0"
    assert row["process memory (GiB)"] == "2.00"
    assert "GPU memory (GiB)" not in frame


def test_memory_of_the_gpu_is_shown_where_there_was_one(study):
    study = write_study("tables-gpu", (0.0, 1.0), (0,), documents=3)
    next(iter(study.records.values()))["peak_memory"]["gpu_mib"] = 3072.0
    assert tables.costs(study)["GPU memory (GiB)"].tolist() == ["3.00", "–"]


def test_how_much_a_seed_moves_a_score_is_told_where_there_are_several(study, alone):
    spread = tables.summary(study)["ANLS, standard deviation over seeds"]
    means = [
        100 * study.predictions.query("vision_trainable == 0.66 and epoch == 3 and seed == @seed")["anls"].mean()
        for seed in (0, 1)
    ]
    assert spread["66 %"] == f"{np.std(means, ddof=1):.1f}" and spread["before training"] == "–"
    assert spread.name not in tables.summary(alone)


def test_every_two_ratios_are_compared_on_the_same_questions(study):
    frame = tables.comparisons(study)
    assert len(frame) == 6 and frame.index[0] == "33 % − 0 %"
    last = study.predictions.query("epoch == 3").groupby("vision_trainable")["anls"].mean()
    assert frame.loc["100 % − 0 %"].iloc[0].startswith(f"{100 * (last[1.0] - last[0.0]):.1f} [")
    assert (frame["standard error, seeds"] != "–").all()


def test_with_one_seed_nothing_is_added_by_seeds(alone):
    one = write_study("tables-one-seed", (0.0, 1.0), (3,))
    assert float(tables.comparisons(one)["p (Holm)"].iloc[0].removeprefix("< ")) < 0.01
    assert tables.comparisons(one)["standard error, seeds"].tolist() == ["–"]
    assert tables.comparisons(alone).empty


def test_the_summary_holds_what_the_other_tables_say(study):
    frame = tables.summary(study)
    assert frame.index.tolist() == ["before training", "0 %", "33 %", "66 %", "100 %"]
    ablation = tables.freezing_ablation(study)["ANLS (%)", "ours"].tolist()
    assert frame["ANLS (%)"].tolist()[1:] == ablation
    assert frame.iloc[1:, 3].tolist() == tables.page_use(study).iloc[:, 1].tolist()
    assert frame["share of parameters"].tolist() == ["–", "0 %", "51.2 %", "79.2 %", "100 %"]


def test_studies_stand_side_by_side_whatever_their_ratios(study, alone):
    frame = tables.across([study, alone])
    assert [name.split(" (")[0] for name in frame] == [study.name, alone.name]
    assert frame.iloc[:, 0].tolist() == tables.summary(study)["ANLS (%)"].tolist()
    only = tables.summary(alone).index.tolist()
    assert (frame.iloc[:, 1] != "–").tolist() == [row in only for row in frame.index]
    assert "(2 seeds)" in frame.columns[0]
    names = {path.name for path in write_tables(study, [alone])}
    assert {"across.csv", "across.md", "across.tex"} <= names
    reports_folder(study.name).joinpath("tables", "across.csv").unlink()
    for suffix in ("md", "tex"):
        reports_folder(study.name).joinpath("tables", f"across.{suffix}").unlink()


def test_by_question_type_counts_a_question_in_each_of_its_types(study):
    frame = errors.by_group(study, "question_type")
    # Of four questions a document has, the first and the last are of the first type; the third has two types.
    assert frame["questions"].to_dict() == {
        "table/list": 60,
        "50% | odd & $x_1$": 30,
        "free_text": 30,
        "handwritten": 30,
    }
    assert frame.index[0] == "table/list"
    rows = study.predictions.query("vision_trainable == 1 and epoch == 3")
    free = rows[[list(types) == ["free_text"] for types in rows["question_types"]]]
    assert float(frame.loc["free_text", "ANLS at 100 %"].split(" ")[0]) == round(100 * free["anls"].mean(), 1)


def test_reservations_name_missing_and_outdated_runs(monkeypatch):
    study = write_study("tables-missing", (0.0,), (0,), documents=3, missing=2)
    assert tables.reservations([study])["reservation"].tolist() == ["not begun"] * 2
    monkeypatch.setattr(results, "TRAINING", 99)
    told = ["not begun"] * 2 + ["made by code with other results than the present one"]
    assert tables.reservations([study])["reservation"].tolist() == told
    assert setup_table(study).loc["planned runs that are missing"].item() == "2"


def test_claims_are_answered_with_computed_facts():
    """What the notebook says of the published claims, whose numbers are Florence-2-base's and the published ones."""
    cells = json.loads((NOTEBOOKS / "04_analyze.ipynb").read_text())["cells"]
    text = next(said for said in ("".join(cell["source"]) for cell in cells) if "## The published claims" in said)
    with torch.device("meta"):
        model = Florence2ForDocVQA(base_config())
    most, frozen = freeze(model, Freezing(0.66)), freeze(model, Freezing(0.0))
    tensors = f"{most.trainable_vision_tensors} of {most.vision_tensors}"
    parameters = f"{most.trainable_vision_parameters:,} of {most.vision_parameters:,}"
    _, of_vision, of_all = most.table()["share"]
    shares = f"({percent(of_vision)})", f"it is {percent(of_all)} of the"
    rest = f"{frozen.trainable_parameters:,} of {frozen.parameters:,} parameters with the vision encoder frozen ("
    # 251 and 256 of 500: at best for the claim 5 questions differ, at worst every one that can.
    least, greatest = binomtest(5, 5).pvalue, binomtest(244, 244 + 249).pvalue
    bounds = f"between {least:.3f} and {greatest:.3f}"
    published = tables.PUBLISHED["freezing_ablation_epoch_8"]
    accuracy = dict(zip(published["vision_trainable"], published["accuracy"], strict=True))
    gain = f"{accuracy[0.66]} % accuracy against {accuracy[1.0]} % at 100 %"
    odd = " and ".join(f"{value} %" for value in accuracy.values() if round(value * 5, 6) % 1)
    similarity = f"The published {100 * max(published['similarity']):.1f}"
    for fact in (
        tensors,
        parameters,
        *shares,
        rest + percent(frozen.table()["share"].iloc[-1]),
        bounds,
        gain,
        similarity,
    ):
        assert fact in text, fact
    assert f"{odd} are no shares of 500 questions" in text and f"{accuracy[0.66] - accuracy[1.0]:.1f} points" in text
    systems = tables.published("published_systems")
    best = systems[(systems["split"] == "test") & (systems["measure"] == "ANLS")]["published (%)"].str.split(" / ")
    top = best.map(lambda values: max(map(float, values)))
    assert f"{top.max()} ({top.idxmax().split()[0]}" in text
    assert systems.loc["Donut", "published (%)"] == "67.5"


def test_the_floor_is_what_wrong_pages_give(study, unreadable):
    assert reads_pages(study) and not reads_pages(unreadable)
    assert reads_pages(write_study("tables-low", ability=(0.2, 0.0))), "a low score may still be read"
    last, wrong = unreadable.predictions.query("epoch == 3"), unreadable.wrong_pages
    for ratio in (0.0, 1.0):
        own, other = (frame[frame["vision_trainable"] == ratio]["anls"].mean() for frame in (last, wrong))
        row = tables.page_use(unreadable).loc[percent(ratio)]
        assert row["ANLS, own page (%)"].startswith(f"{100 * own:.1f} [")
        assert row["ANLS, wrong page (%)"].startswith(f"{100 * other:.1f} [")
        assert row["difference"].startswith(f"{100 * (own - other):.1f} [")


@pytest.mark.parametrize(
    ("steps", "warmup", "highest", "says"),
    [
        (600, 20, 1e-3, "0.001; 600 steps, 20 of them warm-up"),
        (9, 20, 4.5e-4, "0.001, which was never reached: at most 0.00045; 9 steps, 20 of them warm-up"),
    ],
)
def test_the_report_says_which_schedule_there_was(study, steps, warmup, highest, says):
    was = {"schedule": {"steps": steps, "steps_done": steps, "warmup_steps": warmup, "highest_learning_rate": highest}}
    one = dataclasses.replace(study, records={run: record | was for run, record in study.records.items()})
    assert setup_table(one)["of every run"]["learning rate"] == says


def test_the_setup_is_the_studys_own(study):
    said = setup_table(study)["of every run"]
    assert said["validation questions"] == "120 on 30 documents" and said["learning rate"].startswith("0.001,")
    assert said["epochs"] == "3"
    other = write_study("tables-named", (0.0,), (0,), documents=3, model="org/a_b|c", data="owner/data")
    assert setup_table(other)["of every run"]["model"].startswith("a_b|c, ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "drawn; their input is new"),
        ({"synth_shift": "content"}, "drawn; their content is new"),
        ({"synth_scale": "full", "synth_shift": "layout"}, "drawn full pages"),
        ({"validation_data": "/scans"}, "given"),
        ({"data": "/scans"}, "given"),
        ({"data": "/scans", "validation_data": "synth", "synth_shift": "layout"}, "drawn; their layout is new"),
    ],
)
def test_a_shift_is_named_only_of_drawn_validation_documents_that_have_it(study, changes, said):
    other = dataclasses.replace(study, settings=study.settings.replace(**changes))
    assert setup_table(other).loc["validation documents"].item() == said


def test_the_appendix_lists_the_runs_and_what_made_them():
    study = write_study("tables-arms", epochs=1, documents=6, seeds=(0,), arms=("cumulative", "side"))
    runs = run_table(study)
    assert runs.index.tolist() == study.runs["run"].tolist()
    assert runs["ratio"].tolist() == ["0 %", "33 %", "66 %", "100 %"]
    made = environment_table(study)["of all runs"]
    assert made["device"] == "Example & Sons CPU_7 | 100%"
    study.records[next(iter(study.records))]["versions"] = {"torch": "2.0"}
    assert environment_table(study)["of all runs"]["torch"] == "2.0"


def cells(line):
    """The cells of a pipe table's row, as Markdown reads them."""
    parts = [part.strip() for part in re.split(r"(?<!\\)\|", line.strip())]
    assert parts[0] == parts[-1] == ""
    return [re.sub(r"\\([^\w\s]|_)", r"\1", part) for part in parts[1:-1]]


def test_markdown_cells_are_plain_text():
    nasty = ["a|b", r"back\slash", "*x* _y_ `z`", "<script>", "$x$", "[a](b)", "two\nlines", "~s~ # &amp;"]
    frame = pd.DataFrame({"text": nasty}, index=pd.Index(range(len(nasty)), name="n|o"))
    text = markup.to_markdown(frame)
    header, rule, *rows = text.strip().splitlines()
    assert cells(header) == ["n|o", "text"] and set(rule) <= set("|- ")
    assert [cells(row)[1] for row in rows] == [" ".join(cell.split()) for cell in nasty]
    for sign in "*_`<$~&":
        assert not re.search(rf"(?<!\\){re.escape(sign)}", text)
    assert not re.search(r"(?<!\\)\]\(", text)


def test_latex_cells_are_plain_text():
    nasty = ["50% & $x_1$", "{a}^b ~ #", "<DocVQA>|", "two\nlines"]
    frame = pd.DataFrame({"a_b": nasty}, index=pd.Index(["x%", "y", "z", "w"], name="in_dex"))
    text = markup.to_latex(frame)
    for expected in (
        r"50\% \& \$x\_1\$",
        r"\{a\}",
        r"\#",
        r"\textless{}DocVQA\textgreater{}\textbar{}",
        r"x\%",
        r"a\_b",
        r"in\_dex",
        "two lines",
    ):
        assert expected in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


def test_all_tables_are_written_whole(study):
    paths = write_tables(study)
    folder = reports_folder("tables") / "tables"
    names = (
        "finetuning_curve freezing_ablation summary comparisons page_use costs costs_by_arm "
        "by_question_type by_answer_kind by_answer_length only_right_at calibration verdicts "
        "published_differences published_systems"
    ).split()
    expected = {f"{name}.{suffix}" for name in names for suffix in ("csv", "md", "tex")} | {"scores.csv"}
    assert {path.name for path in paths} == {path.name for path in folder.iterdir()} == expected
    with (folder / "by_question_type.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][:2] == ["question type", "questions"] and rows[1][:2] == ["table/list", "60"]
    for name in names:
        lines = (folder / f"{name}.md").read_text().splitlines()
        table = [line for line in lines if line.startswith("|")]
        assert len({len(cells(line)) for line in table}) == 1
        latex = (folder / f"{name}.tex").read_text()
        assert len(set(re.findall(r"(?<!\\)&", latex))) == 1 and r"\midrule" in latex


def test_a_table_without_rows_is_not_written(alone):
    assert "comparisons.csv" not in {path.name for path in write_tables(alone)}
