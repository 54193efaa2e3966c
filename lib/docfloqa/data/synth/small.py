"""Small pages: forms, receipts, invoices, tables, letters and memos of 160 x 160 pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random

import matplotlib
import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from docfloqa.data.synth.vocabulary import (
    CLOSINGS,
    FILLERS,
    KNOWN,
    LAYOUT,
    STAMPS,
    STATEMENTS,
    Key,
    Printed,
    Vocabulary,
    item_key,
)

FONT_FOLDER = Path(matplotlib.get_data_path(), "fonts", "ttf")
SMALL_PAGE_SIZE = 160
# A line of print lies in one row of the tiny model's image tokens, or nearly so: its print may be offset.
ROW = 16
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Print:
    """How a page is printed and scanned; the tiny model is pretrained on `CLEAN`, `WORN` is the input-side shift.

    fonts: files that matplotlib ships, without their ending
    digit_width: range of the width of a digit in pixels, which sets the size whatever the font
    offset: by how many pixels at most the lines of a page lie above or below their rows
    paper, ink: ranges of grey levels (0 black, 255 white)
    noise, blur: the largest standard deviation of Gaussian noise (grey levels) and of blur (pixels)
    shading, rules, stamp: probabilities of a grey band behind a line, a rule under it, a stamp on the page
    """

    fonts: tuple[str, ...]
    digit_width: tuple[float, float]
    offset: int
    paper: tuple[int, int]
    ink: tuple[int, int]
    noise: float = 0.0
    blur: float = 0.0
    shading: float = 0.0
    rules: float = 0.0
    stamp: float = 0.0


CLEAN = Print(
    ("DejaVuSansMono", "DejaVuSans", "STIXGeneral", "DejaVuSerif"),
    (6.8, 8.0),
    1,
    (225, 255),
    (0, 50),
    noise=5.0,
)
WORN = Print(
    ("DejaVuSans-Bold", "DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic", "cmtt10"),
    (6.8, 8.0),
    2,
    (180, 250),
    (0, 90),
    noise=16.0,
    blur=0.6,
    shading=0.25,
    rules=0.2,
    stamp=0.25,
)


@dataclass(frozen=True)
class Field:
    """A key and its value as printed; boxes are (left, top, right, bottom) in pixels.

    `key_text` is what stands in `key_box`, but for a colon; where it is None, the key's label.
    """

    key: Key
    value: str
    key_box: Box
    value_box: Box
    key_text: str | None = None


@dataclass
class Page:
    """A drawn page: its kind, font and grey image, its fields, every character with its centre, its words."""

    kind: str
    image: Image.Image
    font: str = ""
    fields: list[Field] = field(default_factory=list)
    characters: list[tuple[float, float, str]] = field(default_factory=list)
    words: int = 0


@lru_cache(maxsize=512)
def font(name: str, size: float) -> ImageFont.FreeTypeFont:
    """A font that matplotlib ships, by file name without its ending, at a size in pixels."""
    return ImageFont.truetype(FONT_FOLDER / f"{name}.ttf", size)


def add_noise(image: Image.Image, rng: Random, largest: float) -> Image.Image:
    """`image` with Gaussian noise whose standard deviation is drawn from [0, `largest`] grey levels."""
    grey = np.asarray(image, dtype=np.float32)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, largest), grey.shape)
    return Image.fromarray((grey + noise).clip(0, 255).astype(np.uint8))


class SmallSheet:
    """A small page in the making: text goes on the baseline `y`, from row to row, in one font."""

    def __init__(self, rng: Random, look: Print, words: Vocabulary, kind: str):
        self.rng, self.look, self.words = rng, look, words
        size = (SMALL_PAGE_SIZE, SMALL_PAGE_SIZE)
        self.paper, self.ink = rng.randint(*look.paper), rng.randint(*look.ink)
        name = rng.choice(look.fonts)
        em = rng.uniform(*look.digit_width) / (font(name, 1000).getlength("0") / 1000)
        # Sizes in fifths of a pixel, so that few fonts are loaded.
        self.em = round(5 * em) / 5
        self.font = font(name, self.em)
        self.page = Page(kind, Image.new("L", size, self.paper), name)
        self.pen = ImageDraw.Draw(self.page.image)
        self.left = rng.uniform(1, 8)
        self.right = SMALL_PAGE_SIZE - rng.uniform(1, 8)
        self.y = ROW - 4 + rng.randint(-look.offset, look.offset)

    @property
    def room(self) -> int:
        """How many more lines fit on the page."""
        return max(0, int((SMALL_PAGE_SIZE - self.y) // ROW) + 1)

    def width(self, text: str) -> float:
        """The width of `text` in pixels."""
        return self.font.getlength(text)

    def put(self, x: float, text: str, anchor: str = "l") -> Box:
        """Print `text` from, around or up to `x` (anchor l, m or r) on the baseline; return its box."""
        left = x - self.width(text) * {"l": 0, "m": 0.5, "r": 1}[anchor]
        self.page.words += len(text.split())
        self.pen.text((left, self.y), text, font=self.font, fill=self.ink, anchor="ls")
        for place, character in enumerate(text):
            if character != " ":
                before = self.width(text[:place])
                middle = left + (before + self.width(text[: place + 1])) / 2
                self.page.characters.append((middle, self.y - 0.35 * self.em, character))
        return left, self.y - 0.8 * self.em, left + self.width(text), self.y + 0.22 * self.em

    def shade(self) -> None:
        """Print a grey band behind the line, as often as the look asks."""
        if self.rng.random() < self.look.shading:
            top = self.y - 0.85 * self.em
            self.pen.rectangle([0, top, SMALL_PAGE_SIZE, top + 1.1 * self.em], fill=max(0, self.paper - 35))

    def rule(self, always: bool = False) -> None:
        """Print a rule under the line, always or as often as the look asks."""
        if always or self.rng.random() < self.look.rules:
            y = self.y + 0.28 * self.em
            self.pen.line([self.left, y, self.right, y], fill=self.ink)

    def feed(self, rows: int = 1) -> None:
        """Go on by so many rows."""
        self.y += ROW * rows

    def note(self, key: Key, value: str, key_box: Box, value_box: Box) -> None:
        """Note a fact that the page states."""
        self.page.fields.append(Field(key, value, key_box, value_box))

    def title(self, text: str, told: bool = True) -> None:
        """Print a title in the middle or on the left, a fact unless every such page has it, and go on."""
        x, anchor = self.rng.choice((((self.left + self.right) / 2, "m"), (self.left, "l")))
        box = self.put(x, text, anchor)
        if told:
            self.note(Key("Title", Printed(text), "title", LAYOUT), text, box, box)
        self.feed()

    def value_that_fits(self, key: Key, free: float) -> str | None:
        """A value of `key` at most `free` pixels wide, or None if twelve draws give none."""
        values = (key.value(self.rng) for _ in range(12))
        return next((value for value in values if self.width(value) <= free), None)

    def entry(self, key: Key, label: str, x: float, column: float | None = None, end: float = 0.0) -> None:
        """Print a label at `x` and its value behind it, in a column, or up to `end`."""
        start = max(x + self.width(label) + 0.6 * self.em, column or 0.0)
        value = self.value_that_fits(key, (end or self.right) - start)
        if value is not None:
            key_box = self.put(x, label)
            self.note(key, value, key_box, self.put(end, value, "r") if end else self.put(start, value))

    def grid(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[list[Box]]:
        """Print headings and rows of text in columns, all but the first flush right; return the rows' boxes."""
        columns = list(zip(heads, *rows, strict=True))
        widths = [max(map(self.width, column)) for column in columns]
        spare = (self.right - self.left - sum(widths)) / max(1, len(widths) - 1)
        edges = [self.left, *(self.left + sum(widths[: n + 1]) + spare * n for n in range(1, len(widths)))]
        ruled = self.rng.choice(("head", "all", "none"))
        boxes = []
        for place, row in enumerate([heads, *rows]):
            self.shade()
            boxes.append(
                [self.put(x, text, "r" if n else "l") for n, (x, text) in enumerate(zip(edges, row, strict=True))]
            )
            self.rule(always=ruled == "all" or (ruled == "head" and place == 0))
            self.feed()
        return boxes

    def paragraph(self, sentences: Sequence[Sequence[tuple[str, Key | None]]]) -> None:
        """Print running text, of its sentences those that fit whole; a piece with a key is the value of a fact."""
        x, space = self.left, self.width(" ")
        for sentence in sentences:
            words = [(word, key) for text, key in sentence for word in ([text] if key else text.split())]
            lines, end = 0, x
            for word, _ in words:
                if end > self.left and end + self.width(word) > self.right:
                    lines, end = lines + 1, self.left
                end += self.width(word) + space
            if lines >= self.room:
                continue
            for word, key in words:
                if x > self.left and x + self.width(word) > self.right:
                    self.feed()
                    x = self.left
                box = self.put(x, word)
                x += self.width(word) + space
                if key:
                    value = word.rstrip(".")
                    box = (*box[:2], box[0] + self.width(value), box[3])
                    self.note(key, value, box, box)
        self.feed()

    def scan(self) -> Page:
        """The page as the scanner sees it: perhaps stamped, blurred, always noisy."""
        if self.rng.random() < self.look.stamp:
            self._stamp()
        if self.look.blur:
            blur = ImageFilter.GaussianBlur(self.rng.uniform(0, self.look.blur))
            self.page.image = self.page.image.filter(blur)
        self.page.image = add_noise(self.page.image, self.rng, self.look.noise)
        return self.page

    def _stamp(self) -> None:
        word, face = self.rng.choice(STAMPS), font("DejaVuSans-Bold", 14)
        stamp = Image.new("L", (round(face.getlength(word)) + 12, 24), 255)
        pen = ImageDraw.Draw(stamp)
        pen.rectangle([1, 1, stamp.width - 2, 22], outline=150, width=2)
        pen.text((stamp.width / 2, 12), word, fill=150, font=face, anchor="mm")
        stamp = stamp.rotate(self.rng.uniform(-20, 20), Image.Resampling.BILINEAR, expand=True, fillcolor=255)
        layer = Image.new("L", self.page.image.size, 255)
        across, down = (SMALL_PAGE_SIZE - side for side in stamp.size)
        layer.paste(stamp, (round(self.rng.uniform(0.2, 1) * across), round(self.rng.uniform(0.3, 1) * down)))
        # The darker of both: print under a stamp stays readable.
        self.page.image = ImageChops.darker(self.page.image, layer)


def statement(rng: Random, key: Key) -> list[tuple[str, Key | None]]:
    """A sentence that states a value of `key`, as pieces of text of which one is the value."""
    before, after = rng.choice(STATEMENTS).format(key.subject).split("[]")
    fact = Key(key.label, key.value, key.subject, "free_text")
    stop = "." if after.startswith(".") else ""
    return [(before, None), (key.value(rng) + stop, fact), (after.removeprefix("."), None)]


def running_text(sheet: SmallSheet, facts: int) -> None:
    """Print a paragraph of `facts` statements, of what the page has not stated, among other sentences."""
    rng, stated = sheet.rng, {field.key.subject for field in sheet.page.fields}
    keys = [key for key in sheet.words.keys if key.subject not in stated]
    sentences = [statement(rng, key) for key in rng.sample(keys, facts)]
    sentences += [[(text, None)] for text in rng.sample(FILLERS, rng.randint(0, 2))]
    rng.shuffle(sentences)
    sheet.paragraph(sentences)


def form(sheet: SmallSheet, most: int) -> None:
    """Keys on the left; a value follows its key, stands in a second column, or below."""
    rng, words = sheet.rng, sheet.words
    if rng.random() < 0.5:
        sheet.title(rng.choice(words.titles))
    colon, place = rng.choice(("", ":")), rng.choice(("behind", "column", "below"))
    rows = 2 if place == "below" else 1
    count = min(most, sheet.room // rows)
    keys = rng.sample(words.keys, rng.randint(min(3, count), count))
    apart = rng.randint(1, max(1, sheet.room // (rows * len(keys))))
    column = sheet.left + max(sheet.width(key.label + colon) for key in keys) + 0.6 * sheet.em
    for key in keys:
        sheet.shade()
        if place == "below":
            key_box = sheet.put(sheet.left, key.label + colon)
            sheet.feed()
            value = key.value(rng)
            sheet.note(key, value, key_box, sheet.put(sheet.left + rng.uniform(0, 20), value))
        else:
            sheet.entry(key, key.label + colon, sheet.left, column if place == "column" else None)
        sheet.rule()
        sheet.feed(min(2, apart))


def receipt(sheet: SmallSheet, most: int) -> None:
    """The shop and its city, items with prices at the right margin, a total under a rule."""
    rng, words = sheet.rng, sheet.words
    middle = (sheet.left + sheet.right) / 2
    shop = rng.choice(words.companies)
    box = sheet.put(middle, shop, "m")
    sheet.note(Key("Shop", Printed(shop), "name of the shop", LAYOUT), shop, box, box)
    sheet.feed()
    if rng.random() < 0.5:
        sheet.entry(words.date, words.date.label, sheet.left)
        sheet.feed()
    for item in rng.sample(words.items, max(2, min(most, sheet.room - 1) - 1)):
        sheet.shade()
        sheet.entry(item_key(item, words.total.value), item, sheet.left, end=sheet.right)
        sheet.feed()
    sheet.feed(-1)
    sheet.rule(always=True)
    sheet.feed()
    sheet.entry(words.total, words.total.label, sheet.left, end=sheet.right)


def invoice(sheet: SmallSheet, most: int) -> None:
    """A title, number and date, a table of items with quantities and prices, a total."""
    rng, words = sheet.rng, sheet.words
    sheet.title(rng.choice(words.titles))
    for key in rng.sample((words.date, *words.identifiers), 2):
        sheet.entry(key, key.label + ":", sheet.left)
        sheet.feed()
    rows = max(2, min(most - 3, sheet.room - 2))
    item_table(sheet, rng.sample(words.items, rng.randint(2, rows)), list(words.bill_columns))
    sheet.entry(words.total, words.total.label, sheet.left, end=sheet.right)


def item_table(sheet: SmallSheet, names: Sequence[str], columns: Sequence[Key]) -> None:
    """A table of a row for each name and a column for each key."""
    rows = [[name, *(column.value(sheet.rng) for column in columns)] for name in names]
    heads = ["", *(column.label for column in columns)]
    boxes = sheet.grid(heads, rows)
    for row, row_boxes in zip(rows, boxes[1:], strict=True):
        for place, column in enumerate(columns, 1):
            note_cell(sheet, column, row[0], row[place], row_boxes[0], row_boxes[place], row[0])


def note_cell(
    sheet: SmallSheet, column: Key, name: str, value: str, key_box: Box, value_box: Box, key_text: str
) -> None:
    """Note the cell of a table that `column` and `name` lead to; `key_text` is what its row begins with."""
    key = Key(f"{name} {column.label}", column.value, f"{column.subject} of {name}", "table/list")
    sheet.page.fields.append(Field(key, value, key_box, value_box, key_text))


def table(sheet: SmallSheet, most: int) -> None:
    """A table of one or two columns of numbers, mostly with a title."""
    rng, words = sheet.rng, sheet.words
    if rng.random() < 0.7:
        sheet.title(rng.choice(words.titles))
    names = rng.choice((words.items, words.cities, words.people))
    rows = rng.randint(2, max(2, min(most, sheet.room - 1)))
    item_table(sheet, rng.sample(names, min(rows, len(names))), rng.sample(words.columns, rng.randint(1, 2)))


def letter(sheet: SmallSheet, most: int) -> None:
    """City and date on the right, a salutation, a paragraph that states facts, a signature."""
    rng, words = sheet.rng, sheet.words
    day = words.date.value(rng)
    box = sheet.put(sheet.right, day, "r")
    sheet.note(words.date, day, box, box)
    sheet.feed()
    reader, writer = rng.sample(words.people, 2)
    key_box = sheet.put(sheet.left, "Dear")
    box = sheet.put(sheet.left + sheet.width("Dear "), reader)
    sheet.put(box[2], ",")
    sheet.note(Key("Dear", Printed(reader), "name of the addressee"), reader, key_box, box)
    sheet.feed()
    running_text(sheet, facts=rng.randint(1, max(1, min(3, most - 3))))
    if sheet.room >= 2:
        closing = rng.choice(CLOSINGS)
        key_box = sheet.put(sheet.left, closing)
        sheet.feed()
        box = sheet.put(sheet.left, writer)
        sheet.note(Key(closing, Printed(writer), "name of the writer"), writer, key_box, box)


def memo(sheet: SmallSheet, most: int) -> None:
    """To, from, date under a heading, and a paragraph that states facts."""
    rng, words = sheet.rng, sheet.words
    sheet.title("MEMO", told=False)
    keys = [
        Key("To", lambda rng: rng.choice(words.people), "name of the addressee"),
        Key("From", lambda rng: rng.choice(words.people), "name of the writer"),
        words.date,
    ]
    column = sheet.left + max(sheet.width(key.label + ":") for key in keys) + 0.6 * sheet.em
    for key in keys:
        sheet.entry(key, key.label + ":", sheet.left, column)
        sheet.feed()
    sheet.feed(-1)
    sheet.rule(always=True)
    sheet.feed()
    running_text(sheet, facts=rng.randint(1, max(1, min(3, most - 3))))


def cards(sheet: SmallSheet, most: int) -> None:
    """Two columns of boxes; in each box the value stands above its key."""
    rng, words = sheet.rng, sheet.words
    middle = (sheet.left + sheet.right) / 2
    count = max(2, min(most, 2 * (sheet.room // 2)))
    top = sheet.y
    for place, key in enumerate(rng.sample(words.keys, count)):
        sheet.y = top + 2 * ROW * (place // 2)
        x = middle + 3 if place % 2 else sheet.left + 3
        value = sheet.value_that_fits(key, middle - sheet.left - 6)
        if value is not None:
            frame = [x - 3, sheet.y - 12, x + middle - sheet.left - 7, sheet.y + ROW + 3]
            sheet.pen.rectangle(frame, outline=sheet.ink)
            value_box = sheet.put(x, value)
            sheet.feed()
            sheet.note(key, value, sheet.put(x, key.label), value_box)


def ledger(sheet: SmallSheet, most: int) -> None:
    """A table turned on its side: names across the top, one row for each kind of number."""
    rng, words = sheet.rng, sheet.words
    names = rng.sample(rng.choice((words.items, words.cities, words.people)), 2)
    columns = rng.sample(words.columns, min(len(words.columns), max(2, min(most, 6))))
    values = [[column.value(rng) for _ in names] for column in columns]
    boxes = sheet.grid(["", *names], [[c.label, *row] for c, row in zip(columns, values, strict=True)])
    for column, row, row_boxes in zip(columns, values, boxes[1:], strict=True):
        for place, name in enumerate(names):
            note_cell(sheet, column, name, row[place], row_boxes[0], row_boxes[place + 1], column.label)


def flush_right(sheet: SmallSheet, most: int) -> None:
    """Values on the left, their keys at the right margin."""
    rng = sheet.rng
    for key in rng.sample(sheet.words.keys, max(3, min(most, sheet.room))):
        value = sheet.value_that_fits(key, sheet.right - sheet.left - sheet.width(key.label) - sheet.em)
        if value is not None:
            value_box = sheet.put(sheet.left, value)
            sheet.note(key, value, sheet.put(sheet.right, key.label, "r"), value_box)
        sheet.feed()


Layout = Callable[[SmallSheet, int], None]
LAYOUTS: dict[str, Layout] = {
    "form": form,
    "receipt": receipt,
    "invoice": invoice,
    "table": table,
    "letter": letter,
    "memo": memo,
}
NEW_LAYOUTS: dict[str, Layout] = {"cards": cards, "ledger": ledger, "flush right": flush_right}


def small_page(
    rng: Random,
    look: Print = CLEAN,
    words: Vocabulary = KNOWN,
    layouts: dict[str, Layout] = LAYOUTS,
    most_fields: int = 12,
) -> Page:
    """A page of 160 x 160 pixels with about `most_fields` fields at most, at least two."""
    kind = rng.choice(list(layouts))
    sheet = SmallSheet(rng, look, words, kind)
    layouts[kind](sheet, most_fields)
    return sheet.scan()
