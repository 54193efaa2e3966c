"""Texts out of data: questions to a model, and what reports, widgets and tables show of them."""

import re
from functools import cache
from html.parser import HTMLParser

import pandas as pd
import yaml
from huggingface_hub import ModelCardData
from hypothesis import strategies as st
from pandocfilters import walk
from PIL import Image

from bad_input.case import BadInput, refused
from docfloqa.apps.ask import check_question
from docfloqa.apps.browser import image_html, page_html, table_html, text_html
from docfloqa.exceptions import RunError
from docfloqa.metrics import METRICS, score
from docfloqa.model.florence import encode_prompts, encode_text, load_florence
from docfloqa.report.document_tree import read
from docfloqa.text import escaped, flat, to_latex, to_markdown

TRICKY_TEXTS = ["a | b", "|", "||"]
TRICKY_TEXTS += (
    "<DocVQA>|</s>|<s>|<pad>|<unk>|<mask>|<loc_1>|<image>|<OCR>|a<DocVQA>b</s>|<script>alert(1)</script>|"
    '<img src=x onerror=alert(1)>|</td></tr></table><b>|"><svg onload=alert(1)>|&lt;b&gt;|&#60;|javascript:alert(1)|'
    "[a](javascript:alert(1))|![x](http://evil.example/x.png)|https://evil.example/?a=b|www.evil.example|a@evil.example|"
    "<http://evil.example>|**b** _i_ ~~s~~ `c`|# h|- l|1. x|> q|--- ... --|$x_1^2$ $|\\|\\[x\\]|[x|*y|{=html}|{{ x }}|"
    '{% x %}|#set page(width: 1pt)|#eval("1")|#raw(|@ref <label>|//|/* */|$ \\noletter $|50 % & 3_4 ~ ^ {}|\\input{x}|'
    "=1+1|=cmd!A0|+1|-1|@SUM(1)|'; DROP TABLE x|%s %n|\u202eabc|\u200b|\u2028|a\u00a0b|\x00|\x1b[31mred|\x07|a\x85b|"
    "中文問題|شما|Ωμέγα|हिन्दी|👩‍👩‍👧|e\u0301|\ufffd|\ufeff|What?  Two  blanks|a\tb\nc\r\nd"
).split("|")
TRICKY = st.sampled_from([text for text in TRICKY_TEXTS if text.strip()])
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)
BLANK = st.sampled_from(["", " ", "\n", "\t \r\n", "\u2003", "\u00a0"])
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


@cache
def processor():
    """That of the shipped model, with the prefix's token."""
    return load_florence("data/florence2-tiny")[1]


def prompt_of(case) -> None:
    question, prefix = case
    tokenizer = processor().tokenizer
    [prompt] = encode_prompts(processor(), [question], prefix, 10**6)
    images = processor().num_image_tokens
    lead = [processor().image_token_id] * images + [tokenizer.bos_token_id]
    lead += [tokenizer.convert_tokens_to_ids("<DocVQA>")] if prefix == "token" else []
    assert prompt[: len(lead)] == lead and prompt[-1] == tokenizer.eos_token_id
    asked = prompt[len(lead) : -1]
    assert not {*asked} & {*tokenizer.added_tokens_decoder}, "a token of the task's"
    text = ("<DocVQA>" if prefix == "text" else "") + question
    assert tokenizer.decode(asked, clean_up_tokenization_spaces=False) == text
    assert encode_text(processor(), [question]) == [
        tokenizer(question, add_special_tokens=False, split_special_tokens=True).input_ids
    ]


def too_long(case) -> None:
    text, count, room = case
    question = text * (count // len(text) + 1)
    [whole] = encode_prompts(processor(), [question], "token", 10**7)
    lead = processor().num_image_tokens + 2
    [cut] = encode_prompts(processor(), [question], "token", lead + 1 + room)
    assert len(cut) <= lead + 1 + room
    assert cut == whole[: len(cut) - 1] + whole[-1:]


def no_question(question: str) -> None:
    refused(RunError, "question is", check_question, question)


def scored(case) -> None:
    predictions, answers = case
    rows = [
        {"question_id": "1", "document_id": "1", "question": "?", "answers": answers, "prediction": one}
        for one in predictions
    ]
    found = score(pd.DataFrame(rows))
    for metric in METRICS:
        assert found[metric].between(0, 1).all()
    for row in found.itertuples():
        assert row.prediction not in answers or row.anls == row.exact_match == 1


def leaves(text: str, mimetype: str) -> tuple[list[list[str]], set[str]]:
    """The cells' texts of the tables in a document, row by row, and every kind of node in it."""
    kinds: set[str] = set()
    cells: list[str] = []

    def visit(kind, content, *_):
        kinds.add(kind)
        if kind == "Table":
            for body in [content[3][1], *(group[3] for group in content[4])]:
                for line in body:
                    cells.append([plain(cell[4]) for cell in line[1]])

    walk(read(text, mimetype), visit, "", {})
    return cells, kinds


def plain(blocks) -> str:
    """The text of some nodes; a quotation's signs are its own."""
    found = []

    def visit(kind, content, *_):
        match kind:
            case "Str":
                found.append(content)
            case "Space" | "SoftBreak":
                found.append(" ")
            case "Quoted":
                found.append('"' if content[0]["t"] == "DoubleQuote" else "'")
                walk(content[1], visit, "", {})
                found.append('"' if content[0]["t"] == "DoubleQuote" else "'")
                return []
        return None

    walk(blocks, visit, "", {})
    return "".join(found)


def alike(text: str) -> str:
    """A text with straight quotation marks, and spaces where reports keep a number and its sign on one line."""
    return re.sub("[‘’]", "'", re.sub("[“”]", '"', text)).replace("\u00a0", " ")


def markdown(texts: list[str]) -> int:
    cells, kinds = leaves(to_markdown(pd.DataFrame({"said": texts})), "text/markdown")
    assert [[alike(cell) for cell in line] for line in cells] == [["said"], *([alike(flat(text))] for text in texts)]
    assert kinds <= {
        "Table",
        "Plain",
        "Str",
        "Space",
        "Quoted",
        "DoubleQuote",
        "SingleQuote",
        "AlignLeft",
        "AlignRight",
        "AlignDefault",
        "ColWidthDefault",
    }, kinds
    return len(texts)


class Page(HTMLParser):
    """What a browser would make of HTML: the tags, and the texts between them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attributes]

    def handle_data(self, data):
        self.texts.append(data)


HARMLESS = {"alt", "border", "class", "src", "style"}
PIXEL = Image.new("L", (2, 2))


def html(texts: list[str]) -> int:
    for text in texts:
        for made in (text_html(text), page_html(PIXEL, text), image_html(b"", text)):
            page = Page(made)
            assert page.tags in (["p"], ["img"]) and {*page.attributes} <= HARMLESS
        if "\r" not in text and "\0" not in text:
            assert "".join(Page(text_html(text)).texts) == text
    page = Page(table_html(pd.DataFrame({text: [text] for text in dict.fromkeys(texts)}), texts[0]))
    assert {*page.tags} <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert {*page.attributes} <= HARMLESS
    return len(texts)


def latex(texts: list[str]) -> int:
    frame = pd.DataFrame({"said": texts, "too": "x"})
    frame.attrs["note"] = texts[0]
    lines = to_latex(frame).split("\n")
    assert lines[0].startswith("% ") and lines[1].startswith(r"\begin{tabular}")
    rows = [line for line in lines[2:] if line.endswith(r"\\")][1:]
    assert len(rows) == len(texts)
    for row in rows:
        assert not row.startswith(("[", "*")) and not CONTROL.search(row)
        assert len(re.findall(r"(?<!\\)&", row)) == 1, row
        assert not re.search(r"(?<!\\)[#$%_^]", row.replace(r"\\", ""))
    return len(texts)


def terminal(text: str) -> None:
    shown = flat(text)
    assert not CONTROL.search(shown) and "\n" not in shown
    assert "\n" not in escaped(text)


def card(name: str) -> None:
    made = ModelCardData(base_model=name, datasets=[name], tags=["docfloqa"], library_name="transformers")
    found = yaml.safe_load(made.to_yaml())
    assert found["base_model"] == name and found["datasets"] == [name] and found["tags"] == ["docfloqa"]


TEXTS_OF_ONE = st.lists(TRICKY | ANY_TEXT, min_size=8, max_size=8)
QUESTIONS = [
    BadInput(
        "question, tokens of the task in it",
        "they are text: no token of the task, and the same text back",
        st.tuples(
            TRICKY | st.lists(TRICKY, min_size=2, max_size=4).map("".join), st.sampled_from(["token", "text", "none"])
        ),
        prompt_of,
        2,
    ),
    BadInput(
        "question, any script, control characters",
        "the same text back",
        st.tuples(ANY_TEXT, st.sampled_from(["token", "text", "none"])),
        prompt_of,
        2,
    ),
    BadInput(
        "question, 10,000 characters and more",
        "cut at the end, to what the model reads",
        st.tuples(TRICKY | ANY_TEXT, st.integers(10_000, 30_000), st.integers(1, 200)),
        too_long,
        0.5,
    ),
    BadInput(
        "question, empty or no text",
        "refused",
        BLANK | st.sampled_from(["\ud800", "a\udcff", "\udfff?"]),
        no_question,
        0.5,
    ),
    BadInput(
        "answer, any text",
        "scores in [0, 1], and 1 for what is accepted",
        st.tuples(
            st.lists(st.just("") | TRICKY | ANY_TEXT, min_size=1, max_size=5),
            st.lists(TRICKY | ANY_TEXT, min_size=1, max_size=3),
        ),
        scored,
    ),
]
SHOWN = [
    BadInput("text in Markdown tables", "the same text, nothing else", TEXTS_OF_ONE, markdown, 0.5),
    BadInput("text in widgets and HTML", "the same text, no tag or attribute", TEXTS_OF_ONE, html, 0.5),
    BadInput("text in LaTeX tables", "text: no command, no argument, no comment", TEXTS_OF_ONE, latex, 0.5),
    BadInput("text on the terminal", "one line without control characters", TRICKY | ANY_TEXT, terminal),
    BadInput("text in a model card's metadata", "the same text", TRICKY | ANY_TEXT, card),
]
