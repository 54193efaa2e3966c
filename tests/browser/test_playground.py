"""The playground as people use it: in JupyterLab and as the demo's page, with a mouse, a keyboard and a file."""

import json
import re
import time
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from servers import PATIENCE, Requests, Site

expect.set_options(timeout=1000 * PATIENCE)

QUESTION = "What is <b>this</b> & that?"
WIDTH = 390  # pixels of a phone
MARKER = b"a scan that stays in memory"


def scan(name: str = "my-scan.png") -> dict:
    """A file to upload, with something in it that can be found again wherever it is written."""
    buffer = BytesIO()
    Image.new("RGB", (120, 160), "white").save(buffer, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": buffer.getvalue() + MARKER}


def picture_of_attention(page: Page):
    """The figure of where a model looked."""
    return page.locator('img[alt^="Where the model"]').first


def play(page: Page) -> None:
    """Look, move a control, choose another document, ask with the keyboard, upload a scan and ask of it."""
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_enabled()
    before = picture_of_attention(page).get_attribute("alt")
    token = page.get_by_label("while it wrote")
    token.select_option(index=token.locator("option").count() - 1)
    expect(picture_of_attention(page)).not_to_have_attribute("alt", before)
    expect(picture_of_attention(page)).to_have_attribute("alt", re.compile(r"\(end\)"))

    question = page.get_by_label("question", exact=True)
    document = page.locator('img[alt^="The page that is asked about"]').first
    first = document.get_attribute("alt")
    page.get_by_label("document", exact=True).select_option(index=1)
    expect(document).not_to_have_attribute("alt", first)
    question.fill(QUESTION)
    question.press("Tab")
    page.keyboard.press("Enter")
    caption = page.locator("caption").first
    expect(caption).to_have_text(QUESTION)
    expect(page.locator("tbody tr").first).to_contain_text("before training")

    # A server closes the connection for more than 10 MiB, and what was sent is lost.
    for mebibytes in (9, 11, 40):
        upload(page, {"name": "large.png", "mimeType": "image/png", "buffer": bytes(mebibytes * 2**20)})
        expect(page.get_by_text(f"the file has {mebibytes}.0 MiB; allowed are PNG, JPEG and PDF").first).to_be_visible()
        expect(page.locator('img[alt^="The page that is asked about"]')).to_have_count(0)
        expect(caption).to_have_count(0)
    upload(page, scan())
    expect(page.locator('img[alt="The page that is asked about: my-scan.png"]').first).to_be_visible()
    expect(picture_of_attention(page)).to_have_count(0)
    question.fill("What is on my scan?")
    question.press("Enter")
    expect(caption).to_have_text("What is on my scan?")
    expect(picture_of_attention(page)).to_have_attribute("alt", re.compile("What is on my scan"))


def luminance(page: Page) -> float:
    """How bright the ground of a page is, in [0, 1]."""
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 765


def upload(page: Page, file: dict) -> None:
    """Choose a file."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="or upload a scan").click()
    chooser.value.set_files(file)


def kernel_is_ready(site: Site) -> bool:
    """Whether a kernel is idle and somebody is connected; the server may stumble while it starts."""
    address = site.address.replace("/lab?", "/api/kernels?")
    try:
        with urlopen(address, timeout=10) as reply:
            kernels = json.load(reply)
    except HTTPError:
        return False
    return any(one["execution_state"] == "idle" and one["connections"] for one in kernels)


def test_in_jupyterlab(visitor: Page, lab: Site):
    requests = Requests(lab.origin)
    visitor.on("request", requests.note)
    visitor.on("websocket", lambda socket: requests.seen.append(socket.url))
    visitor.goto(lab.address.replace("/lab?", "/lab/tree/06_playground.ipynb?"))
    end = time.monotonic() + PATIENCE
    while not kernel_is_ready(lab):
        assert time.monotonic() < end
        visitor.wait_for_timeout(1000)
    visitor.get_by_role("menuitem", name="Run", exact=True).click()
    visitor.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    play(visitor)
    # Beside the widget stands what a report shows in its place.
    expect(visitor.locator(".jp-RenderedSVG, .jp-RenderedImage").last).to_be_visible()
    assert requests.seen and not requests.elsewhere()
    assert "eavesdropping" not in lab.log.read_text()


def test_as_the_demo(visitor: Page, chromium, demo: Site, scratch):
    requests = Requests(demo.origin)
    visitor.on("request", requests.note)
    visitor.on("websocket", lambda socket: requests.seen.append(socket.url))
    visitor.goto(demo.address)
    play(visitor)
    assert not visitor.locator(".jp-CodeCell .jp-InputArea:visible, .highlight:visible").count(), "no code is visible"
    assert "docfloqa.apps.playground" not in visitor.content()
    assert requests.seen and not requests.elsewhere()
    assert "eavesdropping" not in demo.log.read_text()

    assert luminance(visitor) > 0.9
    other = chromium.new_context(viewport={"width": WIDTH, "height": 844}, color_scheme="dark").new_page()
    other.goto(demo.address)
    expect(picture_of_attention(other)).to_be_visible()
    assert "my-scan" not in other.content()
    assert other.title().startswith("Ask a document") and luminance(other) < 0.1
    for control in other.locator("button:visible, input:visible, select:visible, summary").all():
        control.scroll_into_view_if_needed()
        box = control.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= WIDTH and box["height"] >= 20, control
    assert other.evaluate("document.documentElement.scrollWidth") <= WIDTH
    box = other.locator("div:has(> table)").first
    assert "ANLS" in box.inner_text() and box.evaluate("box => box.scrollWidth <= box.clientWidth")
    told = other.get_by_text("It is a hint at what was read").first
    expect(told).to_be_hidden()
    other.get_by_text("How this works").click()
    expect(told).to_be_visible()
    other.context.close()
    kept = [path for path in Path(scratch["HOME"]).rglob("*") if path.is_file() and MARKER in path.read_bytes()]
    assert not kept


@pytest.mark.parametrize("path", ["/", "/voila/files/06_playground.ipynb", "/api/kernels", "/voila/tree/"])
def test_without_the_token_there_is_nothing(demo: Site, path: str):
    try:
        with urlopen(demo.origin + path, timeout=60) as reply:
            assert reply.url.startswith(f"{demo.origin}/login")
    except HTTPError as error:
        assert error.code in {403, 404, 405}
