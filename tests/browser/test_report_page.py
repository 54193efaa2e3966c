"""The HTML report in a real browser with the network closed: complete, usable by keyboard, legible, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Page

from docfloqa.analysis import tables
from docfloqa.figures import study as figures
from docfloqa.figures.style import FORMATS, render
from docfloqa.files import PROJECT
from docfloqa.report.export import export
from docfloqa.report.tables import show_table
from docfloqa.report.verdicts import readable, verdicts
from docfloqa.runs.results import Study
from docfloqa.text import to_markdown

HOSTILE = '<script>document.title="run"</script><img src=http://x.test/i.png onerror=alert(1)> 5 % $x$'
# Relative luminance and contrast as in WCAG 2.2; text's ground is that of the nearest ancestor that has one.
CONTRASTS = """() => {
    const parts = colour => {
        const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
        context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
    const ground = element => {
        for (let at = element; at; at = at.parentElement) {
            const found = parts(getComputedStyle(at).backgroundColor);
            if (found[3]) return found;
        }
        return [255, 255, 255, 255];
    };
    const found = {};
    for (const element of document.querySelectorAll("body *")) {
        if (![...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())) continue;
        const [a, b] = [parts(getComputedStyle(element).color), ground(element)].map(luminance);
        const name = `${element.tagName} ${element.className} ${element.textContent.trim().slice(0, 20)}`;
        found[name] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }
    return found;
}"""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report of the shipped runs with all that one can hold, and what data could smuggle in."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DOCFLOQA_OUTPUT", str(PROJECT))
    outputs = []

    def keep(output):
        kind = {"HTML": "text/html", "Markdown": "text/markdown"}[type(output).__name__]
        outputs.append(new_output("display_data", {kind: output.data}))

    patch.setattr("docfloqa.report.tables.display", keep)
    study = Study.load("shipped")
    svg = render(figures.compare_finetune(study), "svg").decode()
    figure = new_output("display_data", {FORMATS["svg"][0]: svg})
    figure.metadata = {FORMATS["svg"][0]: {"alt": "Rising lines", "caption": HOSTILE, "drawing": True}}
    scan = new_output("display_data", {FORMATS["svg"][0]: svg})
    scan.metadata = {FORMATS["svg"][0]: {"alt": "A page", "caption": "A page", "drawing": False}}
    wide = tables.comparisons(study).rename(index={"33 % − 0 %": HOSTILE})
    show_table(wide, "A wide table")
    code = {"execution_count": 1}
    source = 'def f(x: int) -> str:  # a comment\n    return f"{x + 1.5}" if x else None'
    abstract = [new_output("display_data", {"text/markdown": to_markdown(readable(verdicts(study), "ratios"))})]
    cells = [
        new_markdown_cell("# A title"),
        new_code_cell(source, outputs=abstract, metadata={"tags": ["abstract"]}, **code),
        *(new_markdown_cell(f"## Part {n}\n\n{'Words. ' * 400} [(Hu et al. 2022)](#ref-hu2022)") for n in (1, 2)),
        new_code_cell(source, outputs=[figure, scan, *outputs, new_output("stream", text=HOSTILE)], **code),
        new_markdown_cell("## References"),
        new_code_cell(source, metadata={"tags": ["references"]}, **code),
    ]
    path = tmp_path_factory.mktemp("report") / "04_analyze.ipynb"
    about = {"study": "shipped", "date": "2026-01-31", "commit": "0123456789", "settings": {"model": HOSTILE}}
    nbformat.write(new_notebook(cells=cells, metadata={"docfloqa": about}), path)
    html, _ = export(path)
    patch.undo()
    return html


@pytest.fixture(params=["light", "dark"])
def reader(chromium, report, request) -> Iterator[Page]:
    """Somebody who opens the file without a network, on a system that is light or dark."""
    context = chromium.new_context(color_scheme=request.param, offline=True)
    page = context.new_page()
    page.scheme, page.asked, page.errors = request.param, [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("dialog", lambda dialog: page.errors.append(dialog.message))
    page.goto(report.as_uri())
    yield page
    assert not [url for url in page.asked if not url.startswith(("file:", "data:"))]
    assert not page.errors and page.title() == "A title · shipped"
    context.close()


def background(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_contents_and_citations_lead_there(reader):
    for link in reader.locator("nav a").all():
        link.press("Enter")
        target = reader.locator(link.get_attribute("href"))
        assert 0 <= target.bounding_box()["y"] < reader.viewport_size["height"]
    reader.locator("a[href='#ref-hu2022']").first.click()
    assert "LoRA" in reader.locator(":target").inner_text()


def test_code_unfolds_by_keyboard(reader):
    folded = reader.locator("details.code").first
    assert not folded.locator("pre").is_visible()
    folded.locator("summary").press("Enter")
    assert folded.locator("pre").is_visible() and "def f" in folded.inner_text()


def test_the_reader_chooses_light_or_dark(reader):
    grounds = {}
    for theme in ("light", "dark", "system"):
        reader.get_by_label(theme, exact=True).check()
        grounds[theme] = background(reader)
    assert grounds["light"] != grounds["dark"] and grounds["system"] == grounds[reader.scheme]


def test_in_the_dark_drawings_are_turned_and_pages_are_dimmed(reader):
    looks = "image => getComputedStyle(image).filter"
    for theme in ("light", "dark", "system"):
        reader.get_by_label(theme, exact=True).check()
        drawing, page = (reader.get_by_role("img", name=name).evaluate(looks) for name in ("Rising lines", "A page"))
        is_dark = "dark" in (theme, reader.scheme if theme == "system" else "")
        assert ("invert" in drawing, "brightness" in page, "invert" in page) == (is_dark, is_dark, False), theme


def test_text_stands_out_from_its_ground(reader):
    for fold in reader.locator("details.code summary").all():
        fold.click()
    contrasts = reader.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert not {name: ratio for name, ratio in contrasts.items() if ratio < 4.5}


@pytest.mark.parametrize("width", [360, 800, 1400])
def test_nothing_is_wider_than_the_window_but_in_its_own_box(reader, width):
    reader.set_viewport_size({"width": width, "height": 800})
    assert reader.evaluate("document.documentElement.scrollWidth") <= width
    box = reader.locator("div.output:has(caption)")
    if width == 360:
        assert box.evaluate("box => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX == 'auto'")


def test_figures_and_tables_are_named_and_what_data_hold_is_text(reader):
    assert reader.get_by_role("img", name="Rising lines").evaluate("image => image.naturalWidth") > 100
    assert reader.get_by_role("table", name="A wide table").count() == 1
    words = "5\xa0%".join(HOSTILE.split("5 %"))
    assert reader.locator("figcaption").first.inner_text().replace("5 %", "5\xa0%") == words
    assert reader.locator("pre.output").inner_text() == HOSTILE
    assert words in reader.locator("div.output").last.inner_text()
