"""Whether keeping the questions of a page together changes what is learnt: by_image against uniform.

Compares two studies of the same questions, ratios and seeds, made beforehand with

    .venv/bin/python -m docfloqa study --name shipped --seeds 0 1 2
    .venv/bin/python -m docfloqa sweep --name uniform --seeds 0 1 2 --batching uniform

and writes `reports/benchmarks/batching.md`.
"""

from __future__ import annotations

import sys

import pandas as pd

from docfloqa.analysis.paired import holm, paired_difference
from docfloqa.files import PROJECT, write_whole
from docfloqa.runs.results import Study
from docfloqa.text import to_markdown

COMMAND = "make batching"
PLACE = PROJECT / "reports" / "benchmarks" / "batching.md"


def compare(by_image: Study, uniform: Study) -> pd.DataFrame:
    """One row per ratio of both: ANLS after the last epoch, and the paired difference."""
    differences, rows = [], []
    ratios = set(by_image.runs["vision_trainable"]) & set(uniform.runs["vision_trainable"])
    for ratio in sorted(ratios):
        last = f"vision_trainable == {ratio} and epoch == {by_image.settings.epochs}"
        first, second = (study.predictions.query(last) for study in (uniform, by_image))
        difference = paired_difference(first, second, "anls")
        differences.append(difference)
        rows.append(
            {
                "vision encoder trained": f"{100 * ratio:.0f} %",
                "ANLS, uniform (%)": f"{100 * first['anls'].mean():.1f}",
                "ANLS, by_image (%)": f"{100 * second['anls'].mean():.1f}",
                "by_image − uniform [95 %]": difference.interval().format(100),
                "smallest shown (power 0.8)": f"{100 * difference.smallest_detectable():.1f}",
            }
        )
    corrected = holm([difference.p_value() for difference in differences])
    table = pd.DataFrame(rows)
    table.insert(4, "p (Holm)", ["< 0.001" if value < 0.001 else f"{value:.3f}" for value in corrected])
    return table


def main(by_image: str = "shipped", uniform: str = "uniform") -> None:
    """Compare two studies by name and write the table."""
    studies = [Study.load(name) for name in (by_image, uniform)]
    identities = [
        {
            (record["identity"].get("training", 1), *record["identity"]["versions"].values())
            for record in study.records.values()
        }
        for study in studies
    ]
    if identities[0] != identities[1] or len(identities[0]) > 1:
        sys.exit(f"studies {by_image!r} and {uniform!r} were made by different code or versions; make both again")
    table = compare(*studies)
    settings = studies[0].settings
    seeds = studies[0].runs["seed"].nunique()
    questions = studies[0].predictions["question_id"].nunique()
    days = sorted(record["finished"][:10] for study in studies for record in study.records.values())
    [(code, *_)] = identities[0]
    text = (
        "# Does keeping the questions of a page together change what is learnt?\n\n"
        f"`{COMMAND}`: the embedded study with both kinds of batches of {settings.batch_size} questions, "
        f"{settings.epochs} epochs, {seeds} seeds, {questions} validation questions. Differences are in points of "
        f"ANLS, paired by question and seed, over documents and seeds. Runs of {days[0]} to {days[-1]}; the number "
        f"of their training is {code}.\n\n" + to_markdown(table)
    )
    write_whole(PLACE, text)
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
