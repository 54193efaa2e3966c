"""What drawn documents say: keys, values, questions about them and the answers that count."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

Draw = Callable[[Random], str]

FIRST_NAMES = (
    "Anna Ben Carla David Emma Frank Grace Henry Iris Jack Karen Leo Maria Nina Oscar Paula Robert Sara Tom Victor"
).split()
LAST_NAMES = (
    "Adams Baker Clark Davis Evans Fischer Green Hughes Irwin Jones Keller Lopez Moore Novak Olsen Price"
).split()
CITIES = "Paris London Rome Berlin Madrid Oslo Tokyo Boston Lima Cairo Delhi Dublin".split()
STATUSES = "Paid Open Closed Urgent Draft Final Sent Late".split()
ITEMS = "Apples Bread Milk Rice Tea Coffee Paper Pens Soap Sugar Lamp Chair Desk Ink Rope Salt".split()
TITLES = "ORDER INVOICE REPORT MEMO RECEIPT NOTICE CLAIM PERMIT".split()
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


KEYS = (
    Key("Invoice No", number(), "invoice number"),
    Key("Date", date, "date"),
    Key("Total", money, "total amount"),
    Key("Name", one_of(FIRST_NAMES), "name of the person"),
    Key("City", one_of(CITIES), "city"),
    Key("Phone", number(5, 6), "phone number"),
    Key("Order", number(), "order number"),
    Key("Tax", money, "tax amount"),
    Key("Due", date, "due date"),
    Key("Account", number(4, 6), "account number"),
    Key("Code", number(), "code"),
    Key("Item", one_of(ITEMS), "item"),
    Key("Qty", number(1, 3), "quantity"),
    Key("Price", money, "price"),
    Key("Room", number(2, 3), "room number"),
    Key("Manager", one_of(FIRST_NAMES), "name of the manager"),
    Key("Status", one_of(STATUSES), "status"),
    Key("Weight", number(1, 3, " kg"), "weight"),
    Key("Age", number(2, 2), "age"),
    Key("Buyer", one_of(FIRST_NAMES), "name of the buyer"),
)
TITLE_KEY = Key("Title", one_of(TITLES), "title", "layout")


def item_key(item: str, amount: Draw = money) -> Key:
    """The key of one line of a receipt: its value is the amount printed beside the item."""
    return Key(item, amount, f"price of {item}", "table/list")


def question(rng: Random, subject: str) -> str:
    """One of the phrasings in which a document is asked for `subject`."""
    return rng.choice(QUESTION_TEMPLATES).format(subject)


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


def named(label: str, keys: Sequence[Key] = KEYS) -> Key:
    """The key with a label."""
    return next(key for key in keys if key.label == label)


KNOWN = Vocabulary(
    keys=KEYS,
    titles=TITLES,
    items=ITEMS,
    people=FIRST_NAMES,
    cities=CITIES,
    companies=[f"{name} & Co" for name in LAST_NAMES],
    date=named("Date"),
    total=named("Total"),
    identifiers=(named("Order"), named("Account"), named("Code")),
    columns=(
        Key("Sold", number(), "number sold"),
        Key("Stock", number(1, 4), "stock"),
        named("Price"),
        named("Weight"),
    ),
    bill_columns=(Key("Qty", number(1, 2), "quantity"), named("Price")),
)


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


NEW_PEOPLE = "Amir Beth Chloe Dmitri Elsa Farid Gwen Hugo Ines Jonas Kira Luc Mona Nils Olga Pedro".split()
NEW_CITIES = "Athens Bergen Cusco Dakar Geneva Havana Kyoto Lagos Milan Porto Quito Vienna".split()
NEW_KEYS = (
    Key("Vessel", one_of(NEW_CITIES), "name of the vessel"),
    Key("Serial", serial, "serial number"),
    Key("Issued", numeric_date, "date of issue"),
    Key("Expires", numeric_date, "date of expiry"),
    Key("Patient", one_of(NEW_PEOPLE), "name of the patient"),
    Key("Doctor", one_of(NEW_PEOPLE), "name of the doctor"),
    Key("Fee", euros, "fee"),
    Key("Deposit", euros, "deposit"),
    Key("Batch", serial, "batch"),
    Key("Port", one_of(NEW_CITIES), "port"),
    Key("Dose", number(1, 3, " mg"), "dose"),
    Key("Depth", number(1, 3, " cm"), "depth"),
    Key("Rate", lambda rng: f"{rng.randint(1, 99)}.{rng.randint(0, 9)} %", "rate"),
    Key("Gate", lambda rng: rng.choice("ABCDEFGH") + number(1, 2)(rng), "gate"),
)
NEW = Vocabulary(
    keys=NEW_KEYS,
    titles="LICENCE SURVEY TICKET AUDIT WAIVER LEASE TARIFF LEDGER".split(),
    items="Bolts Cables Drills Filters Gears Hoses Jacks Levers Motors Nails Pumps Valves".split(),
    people=NEW_PEOPLE,
    cities=NEW_CITIES,
    companies=[f"{name} Ltd" for name in "Abbott Barker Cole Dunn Emery Frost Gibbs Hale Ivory Judd".split()],
    date=named("Issued", NEW_KEYS),
    total=Key("Sum", euros, "sum"),
    identifiers=(named("Serial", NEW_KEYS), named("Batch", NEW_KEYS)),
    columns=(
        Key("Hours", number(1, 3), "hours"),
        Key("Rate", named("Rate", NEW_KEYS).value, "rate"),
        Key("Cost", euros, "cost"),
        Key("Lost", number(1, 4), "number lost"),
    ),
    bill_columns=(Key("Pcs", number(1, 2), "pieces"), Key("Cost", euros, "cost")),
)
