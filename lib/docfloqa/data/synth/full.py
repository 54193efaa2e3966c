"""Full-size pages: letters, tables and invoices in the fonts and at the density of scanned paper."""

import re
from dataclasses import replace
from math import cos, radians, sin
from random import Random

from PIL import Image, ImageChops, ImageFont

from docfloqa.data.synth import phrases
from docfloqa.data.synth.canvas import Box, Page, add_noise, font, stamp
from docfloqa.data.synth.phrases import expand
from docfloqa.data.synth.vocabulary import Key

# Regular and bold, and the size that makes the families about equally wide.
FAMILIES = (
    ("DejaVuSans", "DejaVuSans-Bold", 1.0),
    ("DejaVuSerif", "DejaVuSerif-Bold", 1.0),
    ("STIXGeneral", "STIXGeneralBol", 1.15),
    ("STIXGeneral", "STIXGeneralBolIta", 1.15),
)
REGULAR, BOLD = range(2)


class Sheet(Page):
    """A page in the making: text goes on the baseline `y`; `printed` holds the box of each piece of text."""

    def __init__(self, rng: Random, kind: str):
        width = rng.randint(1000, 1240)
        size = width, round(width * rng.uniform(1.3, 1.414))
        super().__init__(rng, kind, size, rng.randint(222, 255), rng.randint(0, 70))
        *self.faces, scale = rng.choice(FAMILIES)
        self.em = width / rng.uniform(64, 74) * scale
        self.line = self.em * rng.uniform(1.18, 1.36)
        self.left = round(width * rng.uniform(0.07, 0.1))
        self.right, self.bottom = width - self.left, size[1] - 0.07 * width
        self.y = rng.uniform(0.09, 0.11) * width
        self.label_weight, self.justified = rng.choice((REGULAR, BOLD)), rng.random() < 0.5
        self.printed: list[Box] = []

    def face(self, weight: int = REGULAR, scale: float = 1.0) -> ImageFont.FreeTypeFont:
        """The page's font in a weight, `scale` times as large as running text."""
        return font(self.faces[weight], round(self.em * scale, 1))

    def put(self, x: float, text: str, weight: int = REGULAR, scale: float = 1.0, anchor: str = "l") -> Box:
        """Print `text` from, around or up to `x` (anchor l, m or r) and return the box of its ink."""
        style = {"font": self.face(weight, scale), "anchor": f"{anchor}s"}
        self.pen.text((x, self.y), text, fill=self.ink, **style)
        self.words += len(text.split())
        self.printed.append(self.pen.textbbox((x, self.y), text, **style))
        return self.printed[-1]

    def lines(self, x: float, text: str, end: float = 0, **style) -> None:
        """Print lines as in `phrases.ADDRESSEE`, the values in `style`, in a column or up to `end`."""
        rows = [expand(self.rng, line).split("|") for line in text.split("\n")]
        labels = [label for label, *fact in rows if fact]
        column = x + max(map(self.face(self.label_weight).getlength, labels), default=0) + 0.7 * self.em
        for label, *fact in rows:
            if fact:
                value, subject, kind = (*fact, "form")[:3]
                key_box = self.put(x, label, self.label_weight) if label else ()
                start = (end, "r") if end else (column, "l") if label else (x, style.get("anchor", "l"))
                box = self.put(start[0], value, **{**style, "anchor": start[1]})
                self.note(Key(label or subject, None, subject, kind), value, key_box or box, box)
            elif label:
                self.put(x, label)
            self.y += self.line * max(1, style.get("scale", 1))

    def paragraphs(self, facts: list[tuple[str, str]], bottom: float) -> None:
        """Print running text down to `bottom`, with those of `facts` that there is room for."""
        rng, face, full = self.rng, self.face(), self.right - self.left
        space, apart, facts = face.getlength(" "), rng.uniform(0.3, 0.6) * self.line, list(facts)
        while (room := int((bottom - self.y) / self.line)) >= 3:
            sentences = facts[:2] + [(text, "") for text in rng.sample(phrases.SENTENCES, rng.randint(2, 4))]
            facts = facts[2:]
            rng.shuffle(sentences)
            lines, free = [], 0.0
            for text, subject in sentences:
                # Brackets hold a key or a value, which no line break may part.
                words = re.findall(r"\[[^]]*\]\S*|\S+", expand(rng, text))
                widths = [face.getlength(re.sub(r"[][]", "", word)) for word in words]
                if len(lines) + 1 + sum(widths) / full > room:
                    break
                for word, width in zip(words, widths, strict=True):
                    if width > free:
                        lines.append([])
                        free = full
                    lines[-1].append((word, width, subject))
                    free -= width + space
            keys, style = {}, {"font": face, "anchor": "ls"}
            for line in lines:
                x, gap = self.left, space
                if self.justified and line is not lines[-1]:
                    gap = (full - sum(width for _, width, _ in line)) / max(1, len(line) - 1)
                self.words += len(line)
                for word, width, subject in line:
                    self.pen.text((x, self.y), re.sub(r"[][]", "", word), fill=self.ink, **style)
                    if word[0] == "[":
                        text = word[1 : word.index("]")]
                        box = self.pen.textbbox((x, self.y), text, **style)
                        if subject in keys:
                            label, key_box = keys[subject]
                            self.note(Key(label, None, subject, "free_text"), text, key_box, box)
                        keys[subject] = text, box
                    x += width + gap
                self.printed.append((self.left, self.y - 0.78 * self.em, x - gap, self.y + 0.24 * self.em))
                self.y += self.line
            self.y += apart

    def table(self, rows: list[list[str]], subjects: list[str], heads: int) -> None:
        """Print a table below `heads` rows of headings; `subjects` are its columns', with {} for the row."""
        scale, height, look = 0.9, 1.3 * self.line, self.rng.choice(("grid", "bands", "rules"))
        face, pad, top = self.face(BOLD, scale), 0.5 * self.em, self.y - 0.7 * self.em
        widths = [max(map(face.getlength, column)) + 2 * pad for column in zip(*rows, strict=True)]
        spare = (self.right - self.left - sum(widths)) / len(widths)
        edges = [self.left + sum(widths[:place]) + spare * place for place in range(len(widths) + 1)]
        for place, row in enumerate(rows):
            strong = place < heads or row[0] == "Total"
            if look == "bands" and place % 2:
                self.pen.rectangle([self.left, top, self.right, top + height], fill=self.paper - 30)
            if look == "grid" or place in (0, heads) or row[0] == "Total":
                self.pen.line([self.left, top, self.right, top], fill=self.ink)
            self.y = top + height / 2 + 0.33 * self.em
            key_box = self.put(self.left + pad, row[0], int(strong), scale)
            for edge, value, subject in zip(edges[2:], row[1:], subjects, strict=True):
                box = self.put(edge - pad, value, int(strong), scale, "r")
                if place >= heads:
                    self.note(Key(row[0], None, subject.format(row[0]), "table/list"), value, key_box, box)
            top += height
        for x in edges if look == "grid" else ():
            self.pen.line([x, top - height * len(rows), x, top], fill=self.ink)
        self.pen.line([self.left, top, self.right, top], fill=self.ink, width=2)
        self.y = top + 1.6 * self.line

    def stamp(self, x: float, y: float) -> None:
        """Now and then, set a stamp with its centre at (x, y), slightly askew and paler than the print."""
        if self.rng.random() < 0.4:
            word, face = expand(self.rng, "{stamp}"), self.face(BOLD, 1.5)
            size = round(face.getlength(word) + self.em), round(2.4 * self.em)
            mask = stamp(word, face, size, 170, 0, 3, self.rng.uniform(-6, 6))
            left, top = round(x - mask.width / 2), round(y - mask.height / 2)
            self.image.paste(self.ink, (left, top), mask)
            self.printed.append((left, top, left + mask.width, top + mask.height))
            self.note(Key(word, None, "word on the stamp", "others"), word, self.printed[-1], self.printed[-1])

    def scan(self) -> "Sheet":
        """The page as the scanner sees it: sometimes skewed by less than a degree, always noisy."""
        image, size = self.image, self.image.size
        if self.rng.random() < 0.35:
            angle = self.rng.uniform(-0.7, 0.7)
            # The nearest pixel will do at such angles, and is ten times as fast as interpolation.
            image = image.rotate(angle, Image.Resampling.NEAREST, fillcolor=self.paper)
            self.fields = [
                replace(fact, key_box=turn(fact.key_box, angle, size), value_box=turn(fact.value_box, angle, size))
                for fact in self.fields
            ]
        # A grain of two pixels looks scanned; noise for each pixel would take as long as all the text.
        grain = add_noise(Image.new("L", (size[0] // 2, size[1] // 2), 128), self.rng, 10.0)
        self.image = ImageChops.add(image, grain.resize(size, Image.Resampling.BILINEAR), 1, -128)
        return self


def turn(box: Box, angle: float, size: tuple[int, int]) -> Box:
    """The upright box around `box` once a page of `size` is turned by `angle` degrees counterclockwise."""
    middle, turned = complex(*size) / 2, complex(cos(radians(angle)), -sin(radians(angle)))
    corners = [middle + turned * (complex(x, y) - middle) for x in box[::2] for y in box[1::2]]
    across, down = [corner.real for corner in corners], [corner.imag for corner in corners]
    return min(across), min(down), max(across), max(down)


def letter(sheet: Sheet) -> None:
    """Print a letter below its letterhead."""
    rng, left, top, em = sheet.rng, sheet.left, sheet.y, sheet.em
    sheet.lines(left + 0.56 * (sheet.right - left), phrases.LETTER_REFERENCES)
    sheet.y = top
    sheet.lines(left, phrases.ADDRESSEE + phrases.LETTER_SUBJECT)
    end = sheet.bottom - 11 * sheet.line
    sheet.paragraphs(rng.sample(phrases.FACTS, rng.randint(4, 8)), end - rng.uniform(0, 0.1) * (end - sheet.y))
    sheet.lines(left, "{closing},\n\n")
    # The signature: a pen that circles while it moves on.
    y, turns, lean = sheet.y, rng.uniform(14, 30), rng.uniform(0.5, 3)
    circles = [(step / 150, turns * step / 150) for step in range(151)]
    strokes = [(left + em * (2 + 9 * t + cos(a)), y - em * sin(a + lean) * cos(3 * t)) for t, a in circles]
    sheet.pen.line(strokes, fill=sheet.ink, width=2, joint="curve")
    sheet.stamp(sheet.right - 9 * em, sheet.y)
    sheet.y += 2 * sheet.line
    sheet.lines(left, phrases.SIGNATURE)


def table(sheet: Sheet) -> None:
    """Print a report that consists of a table, below the letterhead."""
    facts, left = sheet.rng.sample(phrases.FACTS, 4), sheet.left
    sheet.stamp(sheet.right - 9 * sheet.em, sheet.y + 0.6 * sheet.line)
    sheet.lines(left, phrases.REPORT)
    sheet.paragraphs(facts[:2], sheet.y + 6 * sheet.line)
    room = int((sheet.bottom - 6 * sheet.line - sheet.y) / (1.3 * sheet.line))
    title, rows, subjects = phrases.table_text(sheet.rng, min(25, room - 3))
    sheet.lines(left, f"\nTable #:|{title}|title of the table|layout", weight=BOLD)
    sheet.table(rows, subjects, heads=2)
    sheet.lines(left, "Source:|{organization}|source of the table|layout\n")
    sheet.paragraphs(facts[2:], sheet.bottom - 1.5 * sheet.line)


def invoice(sheet: Sheet) -> None:
    """Print an invoice below the letterhead."""
    left, right, top = sheet.left, sheet.right, sheet.y
    sheet.lines(left + 0.6 * (right - left), phrases.INVOICE_REFERENCES)
    sheet.y = top
    sheet.lines(left, "|{invoice}|title of the document|layout", weight=BOLD, scale=1.5)
    sheet.lines(left, "\nBill to:\n" + phrases.ADDRESSEE + "\n")
    room = int((sheet.bottom - 16 * sheet.line - sheet.y) / (1.3 * sheet.line))
    rows, subjects, totals = phrases.invoice_text(sheet.rng, min(16, room - 1))
    sheet.table(rows, subjects, heads=1)
    sheet.stamp(left + 10 * sheet.em, sheet.y + sheet.line)
    sheet.lines(right - 17 * sheet.em, totals, end=right)
    sheet.lines(left, phrases.PAYMENT)
    sheet.paragraphs(sheet.rng.sample(phrases.FACTS, 2), sheet.bottom - 1.5 * sheet.line)


FULL_LAYOUTS = {one.__name__: one for one in (letter, table, invoice)}


def draw(rng: Random) -> Sheet:
    """A page as it comes from the printer, before it is scanned."""
    sheet = Sheet(rng, rng.choice(list(FULL_LAYOUTS)))
    x, anchor = rng.choice(((sheet.left, "l"), ((sheet.left + sheet.right) / 2, "m")))
    sheet.lines(x, phrases.LETTERHEAD, weight=BOLD, scale=rng.uniform(1.4, 1.7), anchor=anchor)
    sheet.lines(x, phrases.ADDRESS, anchor=anchor)
    sheet.lines(x if anchor == "l" else x - 8 * sheet.em, phrases.TELEPHONE)
    sheet.pen.line([sheet.left, sheet.y, sheet.right, sheet.y], fill=sheet.ink, width=rng.randint(1, 3))
    sheet.y += 2 * sheet.line
    FULL_LAYOUTS[sheet.kind](sheet)
    sheet.y = sheet.bottom
    sheet.lines(rng.choice((sheet.left, sheet.right - 5 * sheet.em)), phrases.PAGE_NUMBER)
    return sheet


def full_page(rng: Random) -> Page:
    """A letter, table or invoice of 1000 to 1240 by 1300 to 1753 pixels, with its facts; no `characters`."""
    return draw(rng).scan()
