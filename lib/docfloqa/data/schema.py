"""The one schema in which every data set arrives, lmms-lab/DocVQA's columns, and what else they may be called."""

import pyarrow as pa
from datasets import Features, Image, List, Value, disable_progress_bars

# Of steps ("Map", "Casting") that mean nothing to who waits; this project has bars of its own.
disable_progress_bars()
SPLITS, TEST = ("train", "validation"), "test"
# Splits that may not share documents: what is also in the second is left out of the first.
DISJOINT = ((TEST, "validation"), ("train", "validation"), ("train", TEST))
FEATURES = Features(
    {
        "questionId": Value("string"),
        "question": Value("string"),
        "question_types": List(Value("string")),
        "image": Image(),
        "docId": Value("int64"),
        "ucsf_document_id": Value("string"),
        "ucsf_document_page_no": Value("string"),
        "answers": List(Value("string")),
        "data_split": Value("string"),
    }
)
# What a data set may call a column, the first that it has counts; "a.b" is the field b of the column a. The second
# names are those of pixparse/docvqa-single-page-questions.
NAMES = {column: (column,) for column in FEATURES} | {
    "questionId": ("questionId", "question_id"),
    "question": ("question", "query"),
    "question_types": ("question_types", "question_type"),
    "docId": ("docId", "other_metadata.doc_id"),
    "ucsf_document_id": ("ucsf_document_id", "other_metadata.ucsf_document_id", "document_id"),
    "ucsf_document_page_no": ("ucsf_document_page_no", "other_metadata.ucsf_document_page_no"),
    "answers": ("answers", "answer"),
    "data_split": ("data_split", "split"),
}
DEMANDED = ("image", "question", "answers")  # the others are filled where they are not there
# What tables of questions call their columns, however they are written: "Question ID" is "question_id".
COLUMNS = {
    "image": ("image", "image_path", "file_name", "image_file", "file", "path"),
    "question": NAMES["question"],
    "answers": NAMES["answers"],
    "split": ("split", "data_split"),
    "document": ("document", *NAMES["ucsf_document_id"], *NAMES["docId"]),
    "question_id": NAMES["questionId"],
    "question_type": NAMES["question_types"],
    "page": ("page", "page_number"),
}
SPLIT_NAMES = {"train": "train", "training": "train"} | dict.fromkeys(("validation", "val", "dev"), "validation")
SPLIT_NAMES[TEST] = TEST
# Columns of data sets with several pages to a question: MP-DocVQA's, DUDE's and what others call them.
SEVERAL_PAGES = ("images", "image_paths", "file_names", "page_ids", "image_1", "answers_page_bounding_boxes")
ONE_PAGE = (
    "has several pages to a question, in {}, and a model here sees one: write a row for each question with the page "
    "that its answer is on, as an image or as a PDF with its number in a column page"
)
# Published sizes of DocVQA's splits (Mathew et al., WACV 2021): questions and pages.
DOCVQA = {"train": (39_463, 10_194), "validation": (5_349, 1_286), TEST: (5_188, 1_287)}


def names_in(schema: pa.Schema) -> list[str]:
    """The columns of a table, then the fields of those that are structs, as "column.field"."""
    flat = schema.empty_table().flatten().column_names
    return [*schema.names, *(name for name in flat if name not in schema.names)]
