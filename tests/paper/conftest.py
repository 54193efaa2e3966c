"""The paper profile on this machine, offline, out of the user's folders; what a checkpoint is made of is in tests/."""

from pathlib import Path

import pytest
from original_checkpoint import BART_WORDS, native_model, tensors, write

from docfloqa.model.florence import Florence2ForDocVQA, base_config


@pytest.fixture(scope="session")
def native() -> Florence2ForDocVQA:
    """A native model of Florence-2-base's size, random in every tensor."""
    return native_model(base_config())


@pytest.fixture(scope="session")
def original(native, tmp_path_factory) -> Path:
    """The same in Microsoft's layout: fp32, every tied tensor written out, pages of 768 x 768 pixels."""
    folder = tmp_path_factory.mktemp("paper") / "original"
    write(folder, native, tensors(native), BART_WORDS, 768)
    return folder
