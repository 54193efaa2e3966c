"""Strips and pages on a grid of characters: what the tiny model learns to read first."""

from random import Random

from docfloqa.data.synth.canvas import Box, Canvas, Page, add_noise, font
from docfloqa.data.synth.vocabulary import ITEMS, KEYS, TITLE_KEY, item_key, labelled

# DejaVu Sans Mono advances 0.602 em a character: at this size a character is exactly one column wide.
COLUMN, ROW = 8, 16
FONT_SIZE = COLUMN / 0.60205
GRID_PAGE_SIZE = 160
GRID_KINDS = ("form", "receipt", "stack")
FONT = "DejaVuSansMono"
# The grid is at most a pixel off; light paper, dark ink and a little noise, in grey levels.
LARGEST_OFFSET, PAPER, INK, NOISE = 1, (225, 255), (0, 50), 5.0


class Grid(Canvas):
    """A page of character cells in one font, on which text is put by column and row."""

    def __init__(self, rng: Random, kind: str, size: tuple[int, int]):
        super().__init__(rng, kind, size, rng.randint(*PAPER), rng.randint(*INK), FONT)
        self.font = font(FONT, FONT_SIZE)
        self.left, self.top = (rng.randint(0, LARGEST_OFFSET) for _ in range(2))
        self.columns, self.rows = (size[0] - LARGEST_OFFSET) // COLUMN, size[1] // ROW

    def put(self, column: int, row: int, text: str) -> Box:
        """Print `text` from a cell on and return the box that it fills."""
        left, top = self.left + COLUMN * column, self.top + ROW * row
        self.pen.text((left, top), text, font=self.font, fill=self.ink)
        self.page.characters += [
            (left + COLUMN * (index + 0.5), top + ROW / 2, letter) for index, letter in enumerate(text) if letter != " "
        ]
        return left, top, left + COLUMN * len(text) - 1, top + ROW - 1

    def finish(self) -> Page:
        """The page as the scanner sees it."""
        self.page.image = add_noise(self.page.image, self.rng, NOISE)
        return self.page


def strip(rng: Random, spread: float) -> tuple[Page, str]:
    """A strip of two rows with one line of text, and that text.

    `spread` in [0, 1] is how far from the top left corner the line may begin: 0 is easiest.
    """
    grid = Grid(rng, "strip", (GRID_PAGE_SIZE, 2 * ROW))
    key, choice = rng.choice(KEYS), rng.random()
    text = key.value(rng) if choice < 0.65 else key.label if choice < 0.85 else f"{key.label} {key.value(rng)}"
    text = text[: grid.columns]
    grid.put(rng.randint(0, int((grid.columns - len(text)) * spread)), rng.randint(0, 1), text)
    return grid.finish(), text


def grid_page(rng: Random, most_fields: int = 6) -> Page:
    """A form, a receipt or a stack of fields of 160 x 160 pixels, with 3 to `most_fields` fields.

    In a form the value follows its key or stands in a second column, in a receipt it ends at the
    right margin, in a stack it stands below. A third of the forms and stacks begin with a title.
    """
    kind = rng.choice(GRID_KINDS)
    grid, first_row = Grid(rng, kind, (GRID_PAGE_SIZE, GRID_PAGE_SIZE)), 0
    if kind != "receipt" and rng.random() < 1 / 3:
        title, first_row = TITLE_KEY.value(rng), 1
        box = grid.put((grid.columns - len(title)) // 2, 0, title)
        grid.note(TITLE_KEY, title, box, box)
    # The last row is left free: an offset may push it over the edge.
    rows = range(first_row, grid.rows - 1)
    rows_of_field = 2 if kind == "stack" else 1
    count = rng.randint(3, min(most_fields, len(rows) // rows_of_field))
    key_rows = rows[: 2 * count : 2] if kind == "stack" else sorted(rng.sample(rows, count))
    if kind == "receipt":
        keys = [*(item_key(item) for item in rng.sample(ITEMS, count - 1)), labelled("Total")]
    else:
        keys = rng.sample(KEYS, count)
    colon, value_column = rng.choice(("", ":")), rng.choice((None, 9))
    for key, row in zip(keys, key_rows, strict=True):
        value, value_row, label = key.value(rng), row, key.label + colon
        beside = len(label) + 1
        if kind == "stack":
            column, value_row = rng.randint(0, 3), row + 1
        elif kind == "receipt":
            column = grid.columns - len(value)
        else:
            column = max(beside, min(value_column or beside, grid.columns - len(value)))
        while value_row == row and column + len(value) > grid.columns:
            value = key.value(rng)
            column = max(beside, grid.columns - len(value))
        key_box = grid.put(0, row, label)
        grid.note(key, value, key_box, grid.put(column, value_row, value))
    return grid.finish()
