"""Data sets laid out as the hub has them: columns, types and names of files as published, pages and questions drawn."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, List, Value

from docfloqa.data.synth.dataset import document_rows, draw_page, page_seed

M4, LMMS, PIXPARSE = "HuggingFaceM4/DocumentVQA", "lmms-lab/DocVQA", "pixparse/docvqa-single-page-questions"
STRUCTURE_FROM = {
    M4: "its card at 695cc83877dd856b4d309063de9a278c37be7bc5",
    LMMS: "its card at 539088ef8a8ada01ac8e2e6d4e372586748a265e",
    PIXPARSE: "its card at 33136ef456fa5a3fe68568d6e31dda4eeff95b9b",
}
TEXT, TEXTS = Value("string"), List(Value("string"))
BOX = List(Value("int64"))
FEATURES = {
    M4: Features(
        {
            "questionId": Value("int32"),
            "question": TEXT,
            "question_types": TEXTS,
            "image": Image(),
            "docId": Value("int32"),
            "ucsf_document_id": TEXT,
            "ucsf_document_page_no": TEXT,
            "answers": TEXTS,
        }
    ),
    LMMS: Features(
        {
            "questionId": TEXT,
            "question": TEXT,
            "question_types": TEXTS,
            "image": Image(),
            "docId": Value("int64"),
            "ucsf_document_id": TEXT,
            "ucsf_document_page_no": TEXT,
            "answers": TEXTS,
            "data_split": TEXT,
        }
    ),
    PIXPARSE: Features(
        {
            "image": Image(),
            "question_id": Value("int64"),
            "question": TEXT,
            "answers": TEXTS,
            "data_split": TEXT,
            "ocr_results": {
                "page": Value("int64"),
                "clockwise_orientation": Value("float64"),
                "width": Value("int64"),
                "height": Value("int64"),
                "unit": TEXT,
                "lines": List(
                    {
                        "bounding_box": BOX,
                        "text": TEXT,
                        "words": List({"bounding_box": BOX, "text": TEXT, "confidence": TEXT}),
                    }
                ),
            },
            "other_metadata": {
                "ucsf_document_id": TEXT,
                "ucsf_document_page_no": TEXT,
                "doc_id": Value("int64"),
                "image": TEXT,
            },
        }
    ),
}
FOLDERS = {M4: "data", LMMS: "DocVQA", PIXPARSE: "data"}
# The split's first docId and questionId.
FIRST = {"train": 1_000, "validation": 100_000, "test": 200_000}


def write_data_set(
    folder: Path,
    source: str,
    train_documents: int = 3,
    validation_documents: int = 2,
    test_documents: int = 2,
    drawing: str = "full",
    shards: int = 2,
    seed: int = 0,
) -> dict[str, list[dict]]:
    """Write the files of a repository, as many of each split as `shards`; returns its rows by split, as written.

    Pages are of full size for `drawing` "full", else small ones. lmms-lab/DocVQA
    gets no training split, and no test split has answers, as published.
    """
    documents = {"train": train_documents, "validation": validation_documents, "test": test_documents}
    if source == LMMS:
        del documents["train"]
    below = folder / FOLDERS[source]
    below.mkdir(parents=True, exist_ok=True)
    rows = {}
    for split, count in documents.items():
        rows[split] = _rows(source, split, count, drawing, seed)
        per_shard = -(-len(rows[split]) // shards)
        for shard in range(shards):
            some = rows[split][shard * per_shard : (shard + 1) * per_shard]
            # With the features among its metadata, as `push_to_hub` writes it.
            table = pa.Table.from_pylist(some, schema=FEATURES[source].arrow_schema)
            pq.write_table(table, below / f"{split}-{shard:05d}-of-{shards:05d}.parquet")
    return rows


def _rows(source: str, split: str, documents: int, drawing: str, seed: int) -> list[dict]:
    rows = []
    for document in range(documents):
        rng = page_seed(drawing, seed, split, document)
        for row in document_rows(rng, draw_page(rng, drawing, split), split, document):
            number = FIRST[split] + len(rows)
            row |= {"questionId": number, "docId": FIRST[split] + document, "data_split": split}
            if split == "test":
                row |= {"answers": None, "question_types": None}
            rows.append(_as_published(source, row))
    return rows


def _as_published(source: str, row: dict) -> dict:
    if source == LMMS:
        row["questionId"] = str(row["questionId"])
    if source == PIXPARSE:
        name, page = row["ucsf_document_id"], row["ucsf_document_page_no"]
        box = [0, 0, 60, 0, 60, 12, 0, 12]
        word = {"bounding_box": box, "text": "Invoice", "confidence": None}
        line = {"bounding_box": box, "text": "Invoice", "words": [word]}
        row["question_id"] = row["questionId"]
        row["ocr_results"] = {
            "page": 1,
            "clockwise_orientation": 0.0,
            "width": 1700,
            "height": 2200,
            "unit": "pixel",
            "lines": [line],
        }
        row["other_metadata"] = {
            "ucsf_document_id": name,
            "ucsf_document_page_no": page,
            "doc_id": row["docId"],
            "image": f"documents/{name}_{page}.png",
        }
    return {column: row[column] for column in FEATURES[source]}
