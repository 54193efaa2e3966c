"""SynthDocVQA: documents drawn from a seed, with questions and answers, in DocVQA's schema."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random
from statistics import mean

from datasets import Dataset
from tqdm.auto import tqdm

from docfloqa.data.schema import FEATURES, TEST
from docfloqa.data.synth.canvas import Field, Page
from docfloqa.data.synth.full import full_page
from docfloqa.data.synth.small import CLEAN, LAYOUTS, NEW_LAYOUTS, WORN, Print, small_page
from docfloqa.data.synth.vocabulary import KNOWN, NEW, Vocabulary, accepted_answers, question
from docfloqa.files import check_folder, data_folder, held, is_sound, seal_folder, whole_folder
from docfloqa.parameters import mixture
from docfloqa.settings import SHIFTS, Settings
from docfloqa.versions import DRAWING

# What small pages are drawn with under each shift; pretraining knows CLEAN, KNOWN and LAYOUTS only. Of the words
# `draw_page` takes a side.
SMALL = {"input": (WORN, KNOWN, LAYOUTS), "layout": (CLEAN, KNOWN, NEW_LAYOUTS), "content": (CLEAN, NEW, LAYOUTS)}

# By split, which setting says how many documents, and from where on they are numbered.
DOCUMENTS = {"train": "synth_documents", "validation": "synth_validation_documents", TEST: "synth_test_documents"}
NUMBERED = {"train": 0, "validation": 10**7, TEST: 2 * 10**7}


def synth_folder(settings: Settings, split: str) -> Path:
    """The folder of a split's parquet file that `settings` ask for, drawn and written if it is not there.

    The folder's name covers the settings that matter and the number of the drawing, so that a changed one is a new
    data set. It appears whole or not at all; a damaged one is set aside and drawn again.
    """
    drawing, seed = drawing_of(settings), drawn_from(settings, split)
    documents = getattr(settings, DOCUMENTS[split])
    folder = data_folder() / "synthdocvqa" / f"{drawing}-{seed}-{split}-{documents}-{DRAWING}".replace(":", "-")
    if not is_sound(folder, check_folder):
        with held(f"synthdocvqa-{folder.name}", f"the drawing of {folder.name}"):
            # Whoever held the lock before may have drawn the same.
            if not is_sound(folder, check_folder):
                with whole_folder(folder) as part:
                    write_split(part, split, drawing, seed, documents)
                    seal_folder(part)
    return folder


def drawing_of(settings: Settings) -> str:
    """What is drawn: "full" for full-size pages, else the shift of the small ones, or a mixture of shifts."""
    return "full" if settings.synth_scale == "full" else settings.synth_shift


def drawn_from(settings: Settings, split: str) -> str:
    """What the documents of a split are drawn from: `synth_seed`, and those of training the run's seed as well."""
    return f"{settings.synth_seed}:{settings.seed}" if split == "train" else str(settings.synth_seed)


def page_seed(drawing: str, seed: str, split: str, document: int) -> Random:
    """The random numbers that a document is drawn from; all mixtures have the same, so that they can be compared."""
    drawn = drawing if drawing in (*SMALL, "full") else "mixture"
    return Random(f"{drawn}-{seed}-{split}-{document}")


def draw_page(rng: Random, drawing: str, split: str) -> Page:
    """A full-size page for "full", else a small page under one of the shifts or a mixture of them.

    Half of the made-up words of validation and test are in no document of training or pretraining.
    """
    if drawing == "full":
        return full_page(rng)
    look, words, layouts = SMALL[drawing] if drawing in SMALL else mixed(rng, drawing)
    return small_page(rng, look, words["training" if split == "train" else "held out"], layouts)


def mixed(rng: Random, drawing: str) -> tuple[Print, dict[str, Vocabulary], dict[str, Callable]]:
    """Print, words and layouts of a document of a mixture: what is new of it at a strength is new at every higher one.

    The strength of "input" is how far the print is from CLEAN to WORN, and the share of documents in a worn font; the
    others are the shares of documents with new words and with a new layout.
    """
    strengths = mixture("drawing", drawing, SHIFTS)
    new = {shift: rng.random() < strength for shift, strength in strengths.items()}
    look = CLEAN.towards(WORN, strengths["input"], new["input"])
    return look, NEW if new["content"] else KNOWN, NEW_LAYOUTS if new["layout"] else LAYOUTS


def words_per_page(settings: Settings, pages: int = 200) -> float | None:
    """Mean number of printed words on the first training pages; None where the data is not drawn."""
    if settings.data != "synth":
        return None
    drawing, seed = drawing_of(settings), drawn_from(settings, "train")
    seeds = (page_seed(drawing, seed, "train", n) for n in range(min(pages, settings.synth_documents)))
    return mean(draw_page(rng, drawing, "train").words for rng in seeds)


def write_split(folder: Path, split: str, drawing: str, seed: str, documents: int) -> None:
    """Draw the documents of a split (see `draw_page`) and write them as `<split>-00000-of-00001.parquet`.

    The same arguments give the same bytes; documents of different splits are drawn independently.
    """
    rows = []
    for document in tqdm(range(documents), desc=f"drawing {split}", unit="page", leave=False, disable=None):
        rng = page_seed(drawing, seed, split, document)
        rows += document_rows(rng, draw_page(rng, drawing, split), split, document)
    Dataset.from_list(rows, features=FEATURES).to_parquet(folder / f"{split}-00000-of-00001.parquet")


def document_rows(rng: Random, page: Page, split: str, document: int) -> list[dict]:
    """The questions of one drawn page, 3 to 6 of them where it has so many facts, as rows of the schema."""
    png = BytesIO()
    page.image.save(png, "png")
    name = f"{page.kind}-{split}-{document:05d}"
    return [
        {
            "questionId": f"{split}-{document:05d}-{place}",
            "question": question(rng, field.key.subject),
            "question_types": [field.key.question_type],
            "image": {"bytes": png.getvalue(), "path": f"{name}.png"},
            "docId": NUMBERED[split] + document,
            "ucsf_document_id": name,
            "ucsf_document_page_no": "1",
            "answers": accepted_answers(field.value),
            "data_split": split,
        }
        for place, field in enumerate(asked_fields(rng, page))
    ]


def asked_fields(rng: Random, page: Page) -> list[Field]:
    """The fields of a page that are asked about, in the order of its questions; `rng` is what drew the page."""
    return rng.sample(page.fields, min(len(page.fields), rng.randint(3, 6)))
