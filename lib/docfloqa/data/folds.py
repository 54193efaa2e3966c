"""Folds over documents: every document is validated once, by a model that was not trained on it."""

from collections.abc import Sequence
from random import Random

import numpy as np
from datasets import Dataset, concatenate_datasets
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from docfloqa.exceptions import DataError

# A question's control is another document's page.
DOCUMENTS_IN_A_FOLD = 2


def of_fold(splits: dict[str, Dataset], folds: int, fold: int | None, pixels: dict[str, str]) -> dict[str, Dataset]:
    """All rows of `splits` as those that one of the folds, counted from 1, trains and validates on.

    Documents that share a page, or one of the same `pixels`, are in one fold, drawn from a fixed seed. Without a fold
    both parts are all rows. Raises `DataError` for fewer documents than the folds need.
    """
    rows = concatenate_datasets([*splits.values()])
    if len(set(rows["questionId"])) < len(rows):
        # The splits may each have counted from 0.
        names = [f"{split}-{name}" for split, part in splits.items() for name in part["questionId"]]
        rows = rows.remove_columns("questionId").add_column("questionId", names)
    groups = _groups(rows["document_id"], [pixels.get(page, page) for page in rows["page"]])
    sizes = np.bincount(groups)
    if len(sizes) < folds * DOCUMENTS_IN_A_FOLD:
        raise DataError(
            f"folds is {folds} and the data have {len(sizes)} documents; allowed are at most "
            f"{len(sizes) // DOCUMENTS_IN_A_FOLD} folds, of {DOCUMENTS_IN_A_FOLD} documents or more"
        )
    order = list(range(len(sizes)))
    Random(0).shuffle(order)
    fold_of = np.empty(len(sizes), int)
    fold_of[order] = np.arange(len(sizes)) % folds
    if fold is None:
        return {"train": rows, "validation": rows}
    inside = fold_of[groups] == fold - 1
    return {"train": rows.select(np.flatnonzero(~inside)), "validation": rows.select(np.flatnonzero(inside))}


def _groups(documents_of_rows: Sequence[str], pages_of_rows: Sequence[str]) -> np.ndarray:
    """A number for every row, the same for rows that a document or a page connects, by the documents' names."""
    documents, document_of = np.unique(documents_of_rows, return_inverse=True)
    pages, page_of = np.unique(pages_of_rows, return_inverse=True)
    size = len(documents) + len(pages)
    links = coo_matrix((np.ones(len(document_of)), (document_of, len(documents) + page_of)), shape=(size, size))
    return connected_components(links, directed=False)[1][document_of]
