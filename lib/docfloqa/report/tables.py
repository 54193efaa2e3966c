"""Tables as a reader gets them: with a caption in the notebook, and as files for a paper."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path

import pandas as pd
from IPython.display import HTML, Markdown, display

from docfloqa.files import reports_folder, write_whole
from docfloqa.text import NO_BREAK, flat, to_latex, to_markdown

INTERVAL = re.compile(r"\[[^][]{1,24}, [^][]{1,24}\]")


def show_table(frame: pd.DataFrame, caption: str) -> None:
    """Display a frame with its caption and, below it, the frame's note; whatever its cells hold stays text.

    An index of bare numbers is left out. Of a frame without rows only the caption is left, and that there is none.
    """
    if frame.empty:
        display(Markdown(f"*{caption.rstrip('.')}: none.*"))
        return
    bare = isinstance(frame.index, pd.RangeIndex) and frame.index.name is None
    with pd.option_context("display.html.use_mathjax", False, "display.max_colwidth", None):
        html = frame.map(_cell).to_html(index=not bare, border=0)
    head, body = html.split(">", 1)
    note = frame.attrs.get("note")
    below = f"\n<p>{escape(note)}</p>" if note else ""
    display(HTML(f"{head}>\n<caption>{escape(caption)}</caption>{body}{below}"))


def _cell(value: object) -> str:
    """A cell on one line; an interval stays in one piece where the line wraps."""
    return INTERVAL.sub(lambda found: found[0].replace(" ", NO_BREAK), flat(str(value)))


def write_frames(study: str, frames: Mapping[str, pd.DataFrame]) -> list[Path]:
    """Write frames to `reports/<study>/tables/` as CSV, Markdown and LaTeX (booktabs); returns the files.

    A frame that holds fractions, which are not rounded, is written as CSV only; one without rows is not written.
    """
    written = []
    for name, frame in frames.items():
        contents = {"csv": frame.to_csv(index=frame.index.name is not None).replace(NO_BREAK, " ")}
        if not any(map(pd.api.types.is_float_dtype, frame.dtypes)):
            contents |= {"md": to_markdown(frame), "tex": to_latex(frame)}
        for suffix, content in contents.items() if len(frame) else ():
            written.append(reports_folder(study) / "tables" / f"{name}.{suffix}")
            write_whole(written[-1], content)
    return written
