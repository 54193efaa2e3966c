"""What drawn documents say: keys, values, questions about them and the answers that count."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from random import Random
from zlib import crc32

Draw = Callable[[Random], str]

MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
UNITS = "kg mg cm EUR %".split()
QUESTION_TEMPLATES = (
    "What is the {}?|What is the {} mentioned in the document?|What is the {} given?|Which {} is shown?|"
    "What {} does the document state?|Please give the {}."
).split("|")
# What letters and memos say; the value of a fact stands in the place of [].
STATEMENTS = (
    "The {} is [].|Our {} is [].|Please note the {}: [].|We have [] as the {}.|As agreed, the {} is []."
).split("|")
FILLERS = (
    "Thank you for your letter.|Please call me soon.|All is well here.|We met on Monday.|It was good to see you."
).split("|")
CLOSINGS = ("Yours,", "Regards,", "Best wishes,")
STAMPS = ("PAID", "COPY", "RECEIVED", "DRAFT")
TITLES = "ORDER INVOICE REPORT MEMO RECEIPT NOTICE CLAIM PERMIT".split()
NEW_TITLES = "LICENCE SURVEY TICKET AUDIT WAIVER LEASE TARIFF LEDGER".split()

# Whose words a page has: those of pretraining; the few of training documents; those and as many that neither had.
SIDES = ("pretraining", "training", "held out")
TRAINED_WORDS = 300  # of every kind of words, in training documents
# Letters that print of 12 pixels tells apart: none of i, j, l, t and f.
SYLLABLES = [a + b for a, b in product("bdghkmnprsvz", "aeo")]
NEW_STARTS = [a + b for a, b in product("br ch dr gr pr qu sh sk sp sw".split(), "aeo")]
# What words end in that people, cities, items and companies are called.
ENDINGS = ("n s d", "by ham", "p x m", "nd ck")


def is_new_word(word: str) -> bool:
    """Whether no document of pretraining or training has this made-up word: a quarter of all, by its checksum."""
    return crc32(word.encode()) % 4 == 0


def has_new_word(answer: str) -> bool | None:
    """Whether a small drawn page's answer is a made-up word that is new; None where it is a number, date or code."""
    return None if re.search(r"\d", answer) else is_new_word(answer.split()[0])


def words_of(side: str, starts: Sequence[str], endings: str) -> list[str]:
    """The made-up words of a side: a start, a syllable and an ending each, in an order without meaning."""
    words = sorted("".join(parts).capitalize() for parts in product(starts, SYLLABLES, endings.split()))
    Random(endings).shuffle(words)
    new, known = ([word for word in words if is_new_word(word) == is_new] for is_new in (True, False))
    few = known[:TRAINED_WORDS]
    return {"pretraining": known, "training": few, "held out": few + new[:TRAINED_WORDS]}[side]


def number(fewest: int = 2, most: int = 5, unit: str = "") -> Draw:
    """What draws a whole number of so many digits, without a leading zero, with a unit."""

    def draw(rng: Random) -> str:
        digits = rng.randint(fewest, most)
        return str(rng.randint(10 ** (digits - 1), 10**digits - 1)) + unit

    return draw


def one_of(words: Sequence[str]) -> Draw:
    """What draws one of the words."""
    return lambda rng: rng.choice(words)


def money(rng: Random) -> str:
    """A dollar amount between $1.00 and $999.99."""
    return f"${rng.randint(1, 999)}.{rng.choice(('00', '25', '50', '75', '99'))}"


def date(rng: Random) -> str:
    """A date as day, short month and, half of the time, a year."""
    day_and_month = f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    return f"{day_and_month} {rng.randint(2018, 2026)}" if rng.random() < 0.5 else day_and_month


def accepted_answers(value: str) -> list[str]:
    """Every answer that counts for a printed value, the printed one first: without currency or unit, and so on."""
    answers = [value]
    words = value.split()
    if value.startswith("$"):
        answers.append(value[1:])
    if len(words) == 2 and words[1] in UNITS:
        answers.append(words[0])
    if len(words) == 3 and words[1] in MONTHS:
        answers.append(f"{words[1]} {words[0]}, {words[2]}")
    if re.search(r"\d,\d{3}\b", value):
        answers += [answer.replace(",", "") for answer in answers]
    return answers


@dataclass(frozen=True)
class Key:
    """A printed label, how its values are drawn, what a question calls it, and DocVQA's question type."""

    label: str
    value: Draw | None  # None where what one page says is all there is
    subject: str
    question_type: str = "form"

    def __str__(self) -> str:
        return self.label


TITLE_KEY = Key("Title", None, "title", "layout")


def item_key(item: str, amount: Draw = money) -> Key:
    """The key of one line of a receipt: its value is the amount printed beside the item."""
    return Key(item, amount, f"price of {item}", "table/list")


def question(rng: Random, subject: str) -> str:
    """One of the phrasings in which a document is asked for `subject`."""
    return rng.choice(QUESTION_TEMPLATES).format(subject)


def numeric_date(rng: Random) -> str:
    """A date as year, month and day in digits (2024-03-05)."""
    return f"{rng.randint(2018, 2026)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def serial(rng: Random) -> str:
    """Two capital letters, a hyphen and three or four digits."""
    letters = "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(2))
    return f"{letters}-{number(3, 4)(rng)}"


def euros(rng: Random) -> str:
    """An amount of 10 to 9,999 euros."""
    return f"{rng.randint(10, 9999):,} EUR"


def titles(words: Sequence[str]) -> list[str]:
    """Each word with each number of two digits."""
    return [f"{word} {digits}" for word in words for digits in range(10, 100)]


@dataclass(frozen=True)
class Vocabulary:
    """What the small pages speak of: what the tiny model is pretrained on, or what it has never read."""

    keys: tuple[Key, ...]
    titles: Sequence[str]
    items: Sequence[str]
    people: Sequence[str]
    cities: Sequence[str]
    companies: Sequence[str]
    date: Key
    total: Key
    identifiers: tuple[Key, ...]  # numbers in the heads of invoices
    columns: tuple[Key, ...]  # of tables
    bill_columns: tuple[Key, ...]  # of invoices


def named(label: str, keys: Sequence[Key]) -> Key:
    """The key with a label."""
    return next(key for key in keys if key.label == label)


def known_vocabulary(side: str) -> Vocabulary:
    """What pretraining speaks of, with the words of a side."""
    people, cities, items, companies = (words_of(side, SYLLABLES, ends) for ends in ENDINGS)
    person, price, weight = one_of(people), Key("Price", money, "price"), Key("Weight", number(1, 3, " kg"), "weight")
    keys = (
        Key("Invoice No", number(), "invoice number"),
        Key("Date", date, "date"),
        Key("Total", money, "total amount"),
        Key("Name", person, "name of the person"),
        Key("City", one_of(cities), "city"),
        Key("Phone", number(5, 6), "phone number"),
        Key("Order", number(), "order number"),
        Key("Tax", money, "tax amount"),
        Key("Due", date, "due date"),
        Key("Account", number(4, 6), "account number"),
        Key("Code", number(), "code"),
        Key("Item", one_of(items), "item"),
        Key("Qty", number(1, 3), "quantity"),
        price,
        Key("Room", number(2, 3), "room number"),
        Key("Manager", person, "name of the manager"),
        Key("Seat", lambda rng: number(1, 2)(rng) + rng.choice("ABCDEGHK"), "seat"),
        weight,
        Key("Age", number(2, 2), "age"),
        Key("Buyer", person, "name of the buyer"),
    )
    return Vocabulary(
        keys=keys,
        titles=titles(TITLES),
        items=items,
        people=people,
        cities=cities,
        companies=[f"{name} & Co" for name in companies],
        date=named("Date", keys),
        total=named("Total", keys),
        identifiers=(named("Order", keys), named("Account", keys), named("Code", keys)),
        columns=(Key("Sold", number(), "number sold"), Key("Stock", number(1, 4), "stock"), price, weight),
        bill_columns=(Key("Qty", number(1, 2), "quantity"), price),
    )


def new_vocabulary(side: str) -> Vocabulary:
    """What pretraining never read, with the words of a side."""
    people, cities, items, companies = (words_of(side, NEW_STARTS, ends) for ends in ENDINGS)
    person, city, rate = one_of(people), one_of(cities), lambda rng: f"{rng.randint(1, 99)}.{rng.randint(0, 9)} %"
    keys = (
        Key("Vessel", city, "name of the vessel"),
        Key("Serial", serial, "serial number"),
        Key("Issued", numeric_date, "date of issue"),
        Key("Expires", numeric_date, "date of expiry"),
        Key("Patient", person, "name of the patient"),
        Key("Doctor", person, "name of the doctor"),
        Key("Fee", euros, "fee"),
        Key("Deposit", euros, "deposit"),
        Key("Batch", serial, "batch"),
        Key("Port", city, "port"),
        Key("Dose", number(1, 3, " mg"), "dose"),
        Key("Depth", number(1, 3, " cm"), "depth"),
        Key("Rate", rate, "rate"),
        Key("Gate", lambda rng: rng.choice("ABCDEFGH") + number(1, 2)(rng), "gate"),
    )
    cost = Key("Cost", euros, "cost")
    return Vocabulary(
        keys=keys,
        titles=titles(NEW_TITLES),
        items=items,
        people=people,
        cities=cities,
        companies=[f"{name} Ltd" for name in companies],
        date=named("Issued", keys),
        total=Key("Sum", euros, "sum"),
        identifiers=(named("Serial", keys), named("Batch", keys)),
        columns=(
            Key("Hours", number(1, 3), "hours"),
            Key("Rate", rate, "rate"),
            cost,
            Key("Lost", number(1, 4), "number lost"),
        ),
        bill_columns=(Key("Pcs", number(1, 2), "pieces"), cost),
    )


KNOWN = {side: known_vocabulary(side) for side in SIDES}
NEW = {side: new_vocabulary(side) for side in SIDES}
