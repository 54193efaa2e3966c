"""A made-up study in the layout that `Study` reads: answers are drawn from a seed, nothing is trained."""

import functools
import json
from random import Random

import pandas as pd
from datasets import Dataset
from PIL import Image

from docfloqa.arms import choose_arms
from docfloqa.data.schema import FEATURES
from docfloqa.files import reports_folder, runs_folder
from docfloqa.metrics import METRICS, score
from docfloqa.runs.results import Study
from docfloqa.settings import Settings
from docfloqa.versions import PAGES, TRAINING

RATIOS = (0.0, 0.33, 0.66, 1.0)
# Trainable tensors of 40 and parameters of 1,000 in the vision encoder; the rest of the model has 2,000.
TRAINED = {0.0: (0, 0), 0.33: (13, 512), 0.66: (26, 792), 1.0: (40, 1000)}
TYPES = (["table/list"], ["free_text"], ["handwritten", "50% | odd & $x_1$"])


def rows_of(documents: int, questions: int) -> list[dict]:
    """The questions of the made-up documents, with what markup and mathtext would trip over."""
    return [
        {
            "question_id": f"q{document:03d}-{place}",
            "document_id": f"doc{document:03d}",
            "question": f"What is $ \\noletter_{place} $ of {{invoice}} {document} | in total?",
            "question_types": TYPES[place % len(TYPES)],
            "answers": [f"{document}{place}7.50 kg", f"{document}{place}7.5"],
        }
        for document in range(documents)
        for place in range(questions)
    ]


@functools.cache
def answers(documents: int, questions: int, ability: float, seed: str) -> pd.DataFrame:
    """Scored predictions of which about a share `ability` is right in one way or another; not to be changed."""
    rows, rng = rows_of(documents, questions), Random(seed)
    predictions, losses = [], []
    for row in rows:
        first, second = row["answers"]
        right = [first, first, second, f"the {first} net", first.replace(".", ",")]
        predictions.append(rng.choice(right if rng.random() < ability else ["", "zzzzzzzzzz"]))
        losses.append(rng.uniform(1, 3) * (1.5 - ability))
    sure = [rng.uniform(0.2, 1) for _ in rows]
    frame = pd.DataFrame(rows).assign(prediction=predictions, confidence=sure, loss_sum=losses, tokens=4)
    return score(frame)


def write_study(
    name: str = "fake",
    ratios: tuple[float, ...] = RATIOS,
    seeds: tuple[int, ...] = (0, 1),
    epochs: int = 3,
    documents: int = 30,
    questions: int = 4,
    ability: tuple[float, float] = (0.5, 0.3),
    wrong_pages: float = 0.0,
    missing: int = 0,
    arms: tuple[str, ...] = (),
    test: tuple[int, int] | None = None,
    **settings,
) -> Study:
    """Write a study and load it; after the last epoch a share `ability[0] + ratio * ability[1]` is right.

    With another document's page a share `wrong_pages` is right. In an arm a variant is as good as its ratio. With
    `test`, documents and questions, there is a test split, on which lower ratios are the better ones.
    """
    chosen = Settings.profile("embedded", study=name, epochs=epochs, **settings)
    size = documents, questions
    names = [
        write_run(chosen.replace(vision_trainable=ratio, seed=seed), size, ability, wrong_pages, test=test)
        for ratio in ratios
        for seed in seeds
    ]
    made = {
        arm.name: {
            variant.name: [
                write_run(settings, size, ability, wrong_pages, f"{arm.name}-{place}-", test)
                for settings in variant.runs(chosen, seeds)
            ]
            for place, variant in enumerate(arm.variants)
        }
        for arm in choose_arms(arms, chosen)
    }
    planned = names + [f"vision000-seed{99 + place}-fake" for place in range(missing)]
    plan = {"settings": chosen.to_dict(), "planned": "2000-01-01T00:00:00+00:00", "runs": planned, "arms": made}
    (reports_folder(name) / "study.json").write_text(json.dumps(plan))
    return Study.load(name)


def write_run(
    settings: Settings,
    size: tuple[int, int],
    ability: tuple[float, float],
    wrong_pages: float,
    lead: str = "",
    test: tuple[int, int] | None = None,
) -> str:
    """Write a run's folder; returns its name."""
    ratio, seed, epochs = settings.vision_trainable, settings.seed, settings.epochs
    name = f"{lead}vision{100 * ratio:03.0f}-seed{seed}-fake"
    folder = runs_folder(settings.study) / name
    folder.mkdir(parents=True)
    anls, tables = tables_of(ratio, seed, epochs, size, ability, wrong_pages, lead, test)
    for file, content in tables.items():
        (folder / file).write_bytes(content)
    record = {
        "id": name,
        "status": "complete",
        "identity": {"training": TRAINING, "pages": PAGES},
        "settings": settings.to_dict(),
        "freezing": freezing(ratio),
        "seconds": 1000.0 + 10 * seed,
        "device": {"kind": "cpu", "name": "Example & Sons CPU_7 | 100%"},
        "peak_memory": {"resident_mib": 1024.0 * (1 + seed)},
    }
    if test:
        record["test"] = {"anls": anls}
    (folder / "run.json").write_text(json.dumps(record))
    return name


@functools.lru_cache(None, typed=True)
def tables_of(
    ratio: float,
    seed: int,
    epochs: int,
    size: tuple[int, int],
    ability: tuple[float, float],
    wrong_pages: float,
    lead: str,
    test: tuple[int, int] | None,
) -> tuple[float | None, dict[str, bytes]]:
    """ANLS on the test split, where there is one, and the files of a run's tables: most studies have the same."""
    frames, table = [], []
    for epoch in range(epochs + 1):
        share = (ability[0] + ratio * ability[1]) * epoch / epochs
        frame = answers(*size, share, f"{lead}{ratio}-{seed}-{epoch}" if epoch else "before")
        frames.append(frame.assign(epoch=epoch))
        row = {"epoch": epoch, **frame[list(METRICS)].mean()}
        row["val_loss"] = frame["loss_sum"].sum() / frame["tokens"].sum()
        row["evaluation_seconds"] = 2.0
        if epoch:
            row |= {"train_loss": 0.8 / epoch, "train_seconds": 4.0, "train_samples_per_second": 25.0}
        table.append(row)
    wrong = answers(*size, wrong_pages, f"{ratio}-{seed}-wrong")
    files = {
        "epochs.csv": pd.DataFrame(table).to_csv(index=False).encode(),
        "predictions.parquet": pd.concat(frames).to_parquet(index=False),
        "wrong_pages.parquet": wrong.to_parquet(index=False),
    }
    if not test:
        return None, files
    # The other way round, so that what is said of it cannot be of validation.
    tested = answers(*test, ability[0] + (1 - ratio) * ability[1], f"{lead}{ratio}-{seed}-test")
    files["test_predictions.parquet"] = tested.assign(epoch=epochs - 1).to_parquet(index=False)
    return tested["anls"].mean(), files


def freezing(ratio: float) -> dict:
    """What a run's record says about freezing."""
    tensors, parameters = TRAINED.get(ratio, (round(40 * ratio), round(1000 * ratio)))
    return {
        "ratio": ratio,
        "vision_tensors": 40,
        "trainable_vision_tensors": tensors,
        "vision_parameters": 1000,
        "trainable_vision_parameters": parameters,
        "parameters": 3000,
        "trainable_parameters": 2000 + parameters,
    }


def validation_of(documents: int = 30, questions: int = 4) -> Dataset:
    """The validation questions with grey pages, one shade per document."""
    rows = [
        {
            "questionId": row["question_id"],
            "question": row["question"],
            "question_types": row["question_types"],
            "image": Image.new("RGB", (60, 80), (7 * int(row["document_id"][3:]) % 256,) * 3),
            "docId": int(row["document_id"][3:]),
            "ucsf_document_id": row["document_id"],
            "ucsf_document_page_no": "1",
            "answers": row["answers"],
            "data_split": "validation",
        }
        for row in rows_of(documents, questions)
    ]
    return Dataset.from_list(rows, features=FEATURES)
