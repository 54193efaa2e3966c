"""Small pages: forms, receipts, invoices, tables, letters and memos of 160 x 160 pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any

from PIL import Image, ImageChops, ImageFilter

from docfloqa.data.synth import vocabulary as texts
from docfloqa.data.synth.canvas import Box, Page, add_noise, font, stamp
from docfloqa.data.synth.vocabulary import TITLE_KEY, Key, Vocabulary, item_key, one_of

SMALL_PAGE_SIZE = 160
# A line of print lies in one row of the tiny model's image tokens, or nearly so: its print may be offset.
ROW = 16


@dataclass(frozen=True)
class Print:
    """How a page is printed and scanned; the tiny model is pretrained on `CLEAN`, `WORN` is the input-side shift."""

    fonts: tuple[str, ...]  # files that matplotlib ships, without their ending
    offset: int  # by how many pixels at most the lines of a page lie above or below their rows
    paper: tuple[int, int]  # grey levels, from and to; 0 is black
    ink: tuple[int, int]
    noise: float = 0.0  # the largest standard deviation of Gaussian noise, grey levels
    blur: float = 0.0  # the largest standard deviation of Gaussian blur, pixels
    shading: float = 0.0  # probability of a grey band behind a line
    rules: float = 0.0  # of a rule under it
    stamp: float = 0.0  # of a stamp on the page
    digit_width: tuple[float, float] = (6.8, 8.0)  # pixels, from and to; sets the size whatever the font

    def towards(self, other: "Print", strength: float, fonts: bool) -> "Print":
        """Every number so far, in [0, 1], on its way to that of another print; with `fonts` its fonts, else these."""
        names = [field.name for field in fields(self) if field.name != "fonts"]
        between = {name: _between(getattr(self, name), getattr(other, name), strength) for name in names}
        return replace(other if fonts else self, **between)


def _between(first: Any, second: Any, strength: float) -> Any:
    if isinstance(first, tuple):
        return tuple(_between(*ends, strength) for ends in zip(first, second, strict=True))
    number = (1 - strength) * first + strength * second
    # Pixels and grey levels are whole.
    return round(number) if isinstance(first, int) else number


CLEAN = Print(("DejaVuSansMono", "DejaVuSans", "STIXGeneral", "DejaVuSerif"), 1, (225, 255), (0, 50), noise=5.0)
WORN_FONTS = ("DejaVuSans-Bold", "DejaVuSansMono-BoldOblique", "DejaVuSerif-BoldItalic", "cmtt10")
WORN = Print(WORN_FONTS, 2, (180, 250), (0, 90), noise=16.0, blur=0.6, shading=0.25, rules=0.2, stamp=0.25)


class SmallSheet(Page):
    """A small page in the making: text goes on the baseline `y`, from row to row, in one font."""

    def __init__(self, rng: Random, look: Print, words: Vocabulary, kind: str):
        paper, ink, name = rng.randint(*look.paper), rng.randint(*look.ink), rng.choice(look.fonts)
        super().__init__(rng, kind, (SMALL_PAGE_SIZE, SMALL_PAGE_SIZE), paper, ink, name)
        self.look, self.vocabulary = look, words
        em = rng.uniform(*look.digit_width) / (font(name, 1000).getlength("0") / 1000)
        # Sizes in fifths of a pixel, so that few fonts are loaded.
        self.em = round(5 * em) / 5
        self.face = font(name, self.em)
        self.width = self.face.getlength
        self.left = rng.uniform(1, 8)
        self.right = SMALL_PAGE_SIZE - rng.uniform(1, 8)
        self.middle = (self.left + self.right) / 2
        self.y = ROW - 4 + rng.randint(-look.offset, look.offset)

    @property
    def room(self) -> int:
        """How many more lines fit on the page."""
        return max(0, int((SMALL_PAGE_SIZE - self.y) // ROW) + 1)

    def put(self, x: float, text: str, anchor: str = "l") -> Box:
        """Print `text` from, around or up to `x` (anchor l, m or r) on the baseline; return its box."""
        left = x - self.width(text) * {"l": 0, "m": 0.5, "r": 1}[anchor]
        self.words += len(text.split())
        self.pen.text((left, self.y), text, font=self.face, fill=self.ink, anchor="ls")
        for index, character in enumerate(text):
            if character != " ":
                middle = left + (self.width(text[:index]) + self.width(text[: index + 1])) / 2
                self.characters.append((middle, self.y - 0.35 * self.em, character))
        return left, self.y - 0.8 * self.em, left + self.width(text), self.y + 0.22 * self.em

    def tell(self, key: Key, value: str, x: float, anchor: str = "l", key_box: Box | None = None) -> Box:
        """Print a value, note the fact (its own key unless that has a box), and return the value's box."""
        box = self.put(x, value, anchor)
        self.note(key, value, key_box or box, box)
        return box

    def shade(self) -> None:
        """Print a grey band behind the line, as often as the look asks."""
        if self.rng.random() < self.look.shading:
            top = self.y - 0.85 * self.em
            self.pen.rectangle([0, top, SMALL_PAGE_SIZE, top + 1.1 * self.em], fill=max(0, self.paper - 35))

    def rule(self, always: bool = False) -> None:
        """Print a rule under the row above, always or as often as the look asks."""
        if always or self.rng.random() < self.look.rules:
            y = self.y - ROW + 0.28 * self.em
            self.pen.line([self.left, y, self.right, y], fill=self.ink)

    def title(self, text: str, told: bool = True) -> None:
        """Print a title in the middle or on the left, a fact unless every such page has it, and go on."""
        box = self.put(*self.rng.choice(((self.middle, text, "m"), (self.left, text, "l"))))
        if told:
            self.note(TITLE_KEY, text, box, box)
        self.y += ROW

    def value_that_fits(self, key: Key, free: float) -> str | None:
        """A value of `key` at most `free` pixels wide, or None if twelve draws give none."""
        values = (key.value(self.rng) for _ in range(12))
        return next((value for value in values if self.width(value) <= free), None)

    def entry(self, key: Key, label: str, column: float = 0.0, flush: bool = False) -> None:
        """Print a label on the left and its value behind it, in a column, or flush right, and go on."""
        start = max(self.left + self.width(label) + 0.6 * self.em, column)
        value = self.value_that_fits(key, self.right - start)
        if value is not None:
            x, anchor = (self.right, "r") if flush else (start, "l")
            self.tell(key, value, x, anchor, self.put(self.left, label))
        self.y += ROW

    def column(self, labels: Sequence[str]) -> float:
        """Where a column begins to the right of these labels."""
        return self.left + max(map(self.width, labels)) + 0.6 * self.em

    def table(self, rows: Sequence[str | Key], columns: Sequence[str | Key]) -> None:
        """Print a table, rows of names and columns of keys or the other way round, and note its cells."""
        cells = [[(name, key) if isinstance(key, Key) else (key, name) for key in columns] for name in rows]
        lines = [[str(row), *(key.value(self.rng) for _, key in line)] for row, line in zip(rows, cells, strict=True)]
        lines = [["", *map(str, columns)], *lines]
        widths = [max(map(self.width, column)) for column in zip(*lines, strict=True)]
        spare = (self.right - self.left - sum(widths)) / max(1, len(widths) - 1)
        edges = [self.left, *(self.left + sum(widths[: n + 1]) + spare * n for n in range(1, len(widths)))]
        ruled = self.rng.choice(("head", "all", "none"))
        for line, (label, *values) in zip([[], *cells], lines, strict=True):
            self.shade()
            key_box, *boxes = (
                self.put(x, text, "r" if n else "l")
                for n, (x, text) in enumerate(zip(edges, [label, *values], strict=True))
            )
            for (name, key), value, box in zip(line, values, boxes, strict=False):
                fact = Key(f"{name} {key}", None, f"{key.subject} of {name}", "table/list")
                self.note(fact, value, key_box, box, label)
            self.y += ROW
            self.rule(always=ruled == "all" or (ruled == "head" and not line))

    def running_text(self, most: int) -> None:
        """Print what fits of a paragraph: up to three facts that the page has not stated yet, and fillers."""
        rng, stated = self.rng, {field.key.subject for field in self.fields}
        facts = rng.randint(1, max(1, min(3, most - 3)))
        keys = rng.sample([key for key in self.vocabulary.keys if key.subject not in stated], facts)
        sentences = [(rng.choice(texts.STATEMENTS).format(key.subject), key, key.value(rng)) for key in keys]
        sentences += [(text, None, "") for text in rng.sample(texts.FILLERS, rng.randint(0, 2))]
        rng.shuffle(sentences)
        x, space = self.left, self.width(" ")
        for text, key, value in sentences:
            lines, end = 0, x
            words = [(word.replace("[]", value), "[]" in word) for word in text.split()]
            for word, _ in words:
                if end > self.left and end + self.width(word) > self.right:
                    lines, end = lines + 1, self.left
                end += self.width(word) + space
            for word, states in words if lines < self.room else ():
                if x > self.left and x + self.width(word) > self.right:
                    self.y += ROW
                    x = self.left
                box = self.put(x, word)
                x += self.width(word) + space
                if states:
                    box = (*box[:2], box[0] + self.width(value), box[3])
                    self.note(replace(key, question_type="free_text"), value, box, box)
        self.y += ROW

    def scan(self) -> "SmallSheet":
        """The page as the scanner sees it: perhaps stamped, blurred, always noisy."""
        rng, image, look = self.rng, self.image, self.look
        if rng.random() < look.stamp:
            word, face = rng.choice(texts.STAMPS), font("DejaVuSans-Bold", 14)
            mark = stamp(word, face, (round(face.getlength(word)) + 12, 24), 150, 255, 2, rng.uniform(-20, 20))
            layer = Image.new("L", image.size, 255)
            across, down = (SMALL_PAGE_SIZE - side for side in mark.size)
            layer.paste(mark, (round(rng.uniform(0.2, 1) * across), round(rng.uniform(0.3, 1) * down)))
            # The darker of both: print under a stamp stays readable.
            image = ImageChops.darker(image, layer)
        if look.blur:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, look.blur)))
        self.image = add_noise(image, rng, look.noise)
        return self


def form(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """Keys on the left; a value follows its key, stands in a second column, or below."""
    if rng.random() < 0.5:
        sheet.title(rng.choice(words.titles))
    colon, where = rng.choice(("", ":")), rng.choice(("behind", "column", "below"))
    rows = 2 if where == "below" else 1
    count = min(most, sheet.room // rows)
    keys = rng.sample(words.keys, rng.randint(min(3, count), count))
    apart = rng.randint(1, max(1, sheet.room // (rows * len(keys))))
    column = sheet.column([key.label + colon for key in keys]) if where == "column" else 0.0
    for key in keys:
        sheet.shade()
        if where == "below":
            key_box = sheet.put(sheet.left, key.label + colon)
            sheet.y += ROW
            sheet.tell(key, key.value(rng), sheet.left + rng.uniform(0, 20), key_box=key_box)
            sheet.y += ROW
        else:
            sheet.entry(key, key.label + colon, column)
        sheet.rule()
        sheet.y += ROW * (min(2, apart) - 1)


def receipt(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """The shop and its city, items with prices at the right margin, a total under a rule."""
    shop = rng.choice(words.companies)
    sheet.tell(Key("Shop", None, "name of the shop", "layout"), shop, sheet.middle, "m")
    sheet.y += ROW
    if rng.random() < 0.5:
        sheet.entry(words.date, words.date.label)
    for item in rng.sample(words.items, max(2, min(most, sheet.room - 1) - 1)):
        sheet.shade()
        sheet.entry(item_key(item, words.total.value), item, flush=True)
    sheet.rule(always=True)
    sheet.entry(words.total, words.total.label, flush=True)


def invoice(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """A title, number and date, a table of items with quantities and prices, a total."""
    sheet.title(rng.choice(words.titles))
    for key in rng.sample((words.date, *words.identifiers), 2):
        sheet.entry(key, key.label + ":")
    rows = max(2, min(most - 3, sheet.room - 2))
    sheet.table(rng.sample(words.items, rng.randint(2, rows)), words.bill_columns)
    sheet.entry(words.total, words.total.label, flush=True)


def table(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """A table of one or two columns of numbers, mostly with a title."""
    if rng.random() < 0.7:
        sheet.title(rng.choice(words.titles))
    names = rng.choice((words.items, words.cities, words.people))
    rows = rng.randint(2, max(2, min(most, sheet.room - 1)))
    sheet.table(rng.sample(names, min(rows, len(names))), rng.sample(words.columns, rng.randint(1, 2)))


def letter(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """City and date on the right, a salutation, a paragraph that states facts, a signature."""
    sheet.tell(words.date, words.date.value(rng), sheet.right, "r")
    sheet.y += ROW
    reader, writer = rng.sample(words.people, 2)
    key_box = sheet.put(sheet.left, "Dear")
    addressee = Key("Dear", None, "name of the addressee")
    box = sheet.tell(addressee, reader, sheet.left + sheet.width("Dear "), key_box=key_box)
    sheet.put(box[2], ",")
    sheet.y += ROW
    sheet.running_text(most)
    if sheet.room >= 2:
        closing = rng.choice(texts.CLOSINGS)
        key_box = sheet.put(sheet.left, closing)
        sheet.y += ROW
        sheet.tell(Key(closing, None, "name of the writer"), writer, sheet.left, key_box=key_box)


def memo(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """To, from, date under a heading, and a paragraph that states facts."""
    sheet.title("MEMO", told=False)
    person = one_of(words.people)
    keys = Key("To", person, "name of the addressee"), Key("From", person, "name of the writer"), words.date
    column = sheet.column([key.label + ":" for key in keys])
    for key in keys:
        sheet.entry(key, key.label + ":", column)
    sheet.rule(always=True)
    sheet.running_text(most)


def cards(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """Two columns of boxes; in each box the value stands above its key."""
    half, top = sheet.middle - sheet.left, sheet.y
    count = max(2, min(most, 2 * (sheet.room // 2)))
    for index, key in enumerate(rng.sample(words.keys, count)):
        sheet.y = top + 2 * ROW * (index // 2)
        x = (sheet.middle if index % 2 else sheet.left) + 3
        value = sheet.value_that_fits(key, half - 6)
        if value is not None:
            frame = [x - 3, sheet.y - 12, x + sheet.middle - sheet.left - 7, sheet.y + ROW + 3]
            sheet.pen.rectangle(frame, outline=sheet.ink)
            value_box = sheet.put(x, value)
            sheet.y += ROW
            sheet.note(key, value, sheet.put(x, key.label), value_box)


def ledger(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """A table turned on its side: names across the top, one row for each kind of number."""
    names = rng.sample(rng.choice((words.items, words.cities, words.people)), 2)
    sheet.table(rng.sample(words.columns, min(len(words.columns), max(2, min(most, 6)))), names)


def flush_right(sheet: SmallSheet, rng: Random, words: Vocabulary, most: int) -> None:
    """Values on the left, their keys at the right margin."""
    for key in rng.sample(words.keys, max(3, min(most, sheet.room))):
        value = sheet.value_that_fits(key, sheet.right - sheet.left - sheet.width(key.label) - sheet.em)
        if value is not None:
            value_box = sheet.put(sheet.left, value)
            sheet.note(key, value, sheet.put(sheet.right, key.label, "r"), value_box)
        sheet.y += ROW


LAYOUTS = {one.__name__: one for one in (form, receipt, invoice, table, letter, memo)}
NEW_LAYOUTS = {"cards": cards, "ledger": ledger, "flush right": flush_right}


def small_page(rng: Random, look: Print, words: Vocabulary, layouts: dict = LAYOUTS, most_fields: int = 12) -> Page:
    """A page of 160 x 160 pixels with about `most_fields` fields at most, at least two."""
    kind = rng.choice(list(layouts))
    sheet = SmallSheet(rng, look, words, kind)
    layouts[kind](sheet, rng, words, most_fields)
    return sheet.scan()
