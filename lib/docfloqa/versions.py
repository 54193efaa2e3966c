"""What the code computes, as numbers raised by hand when results change; `tests/unit/test_golden.py` says which.

A run, its drawn documents, its cached pages and its scores are known by these numbers and not by the text of the code:
to move, rename or reword something outdates nothing.
"""

from functools import cache
from importlib import metadata

DRAWING = 2  # which documents are drawn from a seed (docfloqa.data.synth.dataset and what it draws with)
PAGES = 1  # what the model is given of an image: decoding, resizing, the frozen beginning of the vision encoder
TRAINING = 1  # what training and evaluation make of questions, pages and weights
DEGRADATIONS = 1  # what a degradation does to a page

# Of a package that is installed. To look it up takes longer than all else that a planned run is asked.
version = cache(metadata.version)
