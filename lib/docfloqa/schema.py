"""The one schema in which every data set arrives: lmms-lab/DocVQA's columns."""

from __future__ import annotations

from datasets import Features, Image, List, Value

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
COLUMNS = tuple(FEATURES)
# Published sizes of DocVQA's splits (Mathew et al., WACV 2021): questions and pages.
DOCVQA = {"train": (39_463, 10_194), "validation": (5_349, 1_286)}
