"""The one schema in which every data set arrives, lmms-lab/DocVQA's columns, and what else they may be called."""

from datasets import Features, Image, List, Value, disable_progress_bars

# Of steps ("Map", "Casting") that mean nothing to who waits; this project has bars of its own.
disable_progress_bars()
SPLITS = ("train", "validation")
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
    "docId": ("docId", "other_metadata.doc_id"),
    "ucsf_document_id": ("ucsf_document_id", "other_metadata.ucsf_document_id"),
    "ucsf_document_page_no": ("ucsf_document_page_no", "other_metadata.ucsf_document_page_no"),
}
# One column of each is demanded; the others are null where they are not there.
DEMANDED = (("questionId",), ("question",), ("image",), ("answers",), ("ucsf_document_id", "docId"))
# Published sizes of DocVQA's splits (Mathew et al., WACV 2021): questions and pages.
DOCVQA = {"train": (39_463, 10_194), "validation": (5_349, 1_286)}
