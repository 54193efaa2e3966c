"""A made-up study (see `fake_study`) whose runs have models that can be loaded: the shipped one, untrained."""

import json

from fake_study import write_study

from docfloqa.files import TINY_MODEL, runs_folder
from docfloqa.model.florence import load_florence
from docfloqa.runs.results import Study
from docfloqa.runs.run import BEST_MODEL, RECORD, read_record

BEST_EPOCH = 1


def small_study(name: str = "embedded", ratios=(0.0, 1.0), seeds=(0,), **settings) -> Study:
    """Write a study of two epochs on few drawn documents, with a best model in every run, and load it."""
    few = {"synth_documents": 4, "synth_validation_documents": 3, "model": "data/florence2-tiny"}
    study = write_study(name, ratios, seeds, epochs=2, documents=6, questions=2, **{**few, **settings})
    model, processor = load_florence(TINY_MODEL, study.settings.prefix)
    for run in study.records:
        folder = runs_folder(name) / run
        model.save_pretrained(folder / BEST_MODEL)
        processor.save_pretrained(folder / BEST_MODEL)
        record = read_record(folder) | {"best_epoch": BEST_EPOCH, "versions": {"torch": "2"}}
        (folder / RECORD).write_text(json.dumps(record))
    return Study.load(name)
