"""Frames of text as Markdown and LaTeX, in which whatever the data holds stays text."""

import re

import pandas as pd

NO_BREAK = "\u00a0"
# Typeset as other signs by LaTeX's default font encoding; pandas escapes the rest.
LATEX_SIGNS = str.maketrans({NO_BREAK: "~", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"})
# From the colon on it is what would become a link, a dash or an ellipsis.
MARKUP = re.compile(r"[\\|*_`<>$~#&]|\](?=\()|:(?=//)|(?<=\bwww)\.|@|-(?=-)|\.(?=\.\.)", re.IGNORECASE)
# LaTeX takes what opens a row so for an argument of the line break before it.
LATEX_OPENING = re.compile(r"^([ \t]*)([\[*])", re.MULTILINE)
# Names of variants and comparisons, which files keep as they are, as a reader gets them.
PLAIN = {
    r"\b\d+ % from the (input|output) side, tensors": r"\1 third",
    r"\b\d+ % from the (input|output) side, (blocks|stages)": r"\1 third, whole \2",
    r"\binput(?=: | − |$)": "new look",
    r"\b(?<!new )layout(?=: | − |$)": "new layout",
    r"\b(?<!new )content(?=: | − |$)": "new content",
    r"(^|: )([^−]+?: )(.*) − \2": r"\1\2\3 − ",
    "all against nothing": "all − none",
    "the input side against the output side": "(input side − output side)",
    "the stem against stage 4": "stem − stage 4",
    r"\b(\d+ %), after ((?:\d+ % and )*\d+ %)": r"\2 → \1",
    r"(\d+) % (?:and|→) (?=\d)": r"\1 → ",
    r"0 %, (\d) times the epochs": r"0 %, \1 times as long",
}
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def to_markdown(frame: pd.DataFrame) -> str:
    """A pipe table whose cells are plain text whatever they hold, with the frame's note below; "none" if empty."""
    if frame.empty:
        return "*none*\n"
    note = frame.attrs.get("note")
    frame = frame.reset_index() if frame.index.name else frame
    names = [": ".join(filter(None, name)) if isinstance(name, tuple) else name for name in frame.columns]
    names, *rows = [[escaped(str(cell)) for cell in row] for row in [names, *frame.to_numpy().tolist()]]
    lines = [f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *rows]]
    return "\n".join([*lines, *(["", escaped(note)] if note else []), ""])


def to_latex(frame: pd.DataFrame) -> str:
    """A booktabs table whose cells are plain text whatever they hold, with the frame's note as a comment."""
    named = frame.index.name is not None
    columns = "l" + "r" * frame.shape[1] if named else "lp{0.7\\textwidth}"
    one_line = frame.map(lambda cell: flat(str(cell)))
    latex = one_line.to_latex(index=named, escape=True, column_format=columns, multicolumn_format="c")
    latex = LATEX_OPENING.sub(r"\1{\2}", latex.translate(LATEX_SIGNS))
    return "".join(f"% {flat(str(note))}\n" for note in frame.attrs.values()) + latex


def flat(text: str) -> str:
    """`text` on one line, each run of white space as one space, "\ufffd" for every other control character."""
    return CONTROL.sub("\ufffd", re.sub(r"[^\S\u00a0]+", " ", text).strip())


def escaped(text: str) -> str:
    """`text` on one line, with every character escaped that Markdown would read as markup."""
    return MARKUP.sub(r"\\\g<0>", flat(text))


def plain(name: str) -> str:
    """A variant's or comparison's name in plain words: "new look: all − none" for "input: all − input: none"."""
    for pattern, words in PLAIN.items():
        name = re.sub(pattern, words, name)
    return name
