"""Every work cited is in the bibliography, is cited as it says, and nothing stands there that is not cited."""

import json
import re

import pypandoc
import pytest

from docfloqa.files import NOTEBOOKS
from docfloqa.report.document_tree import BIBLIOGRAPHY, references, references_html

PROSE = "\n".join(
    "".join(cell["source"])
    for path in sorted(NOTEBOOKS.glob("*.ipynb"))
    for cell in json.loads(path.read_text())["cells"]
    if cell["cell_type"] == "markdown"
)
CITED = sorted(set(re.findall(r"\[([^][]*)\]\(#ref-(\w+)\)", PROSE)))


def test_all_works_are_cited_and_all_cited_works_listed():
    listed = {block["c"][0][0] for block in references()[0]["c"][1]}
    assert listed == {f"ref-{key}" for _, key in CITED}
    for key in listed:
        assert f'id="{key}"' in references_html()


@pytest.fixture(scope="module")
def citations():
    """What the bibliography makes of a citation of each work alone."""
    keys = [key for _, key in CITED]
    text = f"---\nbibliography: {BIBLIOGRAPHY}\n---\n\n" + "\n\n".join(f"[@{key}]" for key in keys)

    shown = pypandoc.convert_text(text, "plain", "markdown", ["--citeproc", "--wrap=none"])
    return dict(zip(keys, shown.split("\n\n"), strict=False))


@pytest.mark.parametrize(("text", "key"), CITED)
def test_a_work_is_cited_by_author_and_year(text, key, citations):
    assert text == citations[key].strip()
