"""What full-size pages say: towns, goods, tables, and the sentences and facts of letters."""

import re
from random import Random

from docfloqa.data.synth.vocabulary import MONTHS

FIRST_NAMES = (
    "Anna Ben Carla David Emma Frank Grace Henry Iris Jack Karen Leo Maria Nina Oscar Paula Robert Sara Tom Victor"
).split()
LAST_NAMES = (
    "Adams Baker Clark Davis Evans Fischer Green Hughes Irwin Jones Keller Lopez Moore Novak Olsen Price"
).split()
CITIES = "Paris London Rome Berlin Madrid Oslo Tokyo Boston Lima Cairo Delhi Dublin".split()
TOWNS = (
    "Akron,Albany,Austin,Bangor,Boise,Buffalo,Camden,Chester,Dayton,Denver,Durham,Eugene,Fargo,Fresno,Gary,"
    "Helena,Juneau,Laredo,Lincoln,Macon,Mobile,Newark,Omaha,Peoria,Quincy,Reno,Salem,Tampa,Tucson,Tulsa"
).split(",")
DEPARTMENTS = (
    "Accounting,Archive,Canteen,Design,Export,Facilities,Finance,Garage,Human Resources,Import,Laboratory,"
    "Legal,Library,Logistics,Marketing,Medical Service,Packaging,Patents,Planning,Printing,Purchasing,"
    "Quality,Research,Sales,Security,Training,Warehouse"
).split(",")
GOODS = (
    "Steel shelf,Filing cabinet,Desk lamp,Copy paper A4,Toner cartridge,Wall clock,Label printer,Stool,"
    "Packing tape,Glass beaker,Rubber gloves,Water filter,Cable drum,Door handle,Paint roller,Air pump,"
    "Fuse box,Hand truck,Safety helmet,Tool chest,Extension cord,Garden hose,Oil can,Work bench,Floor mat"
).split(",")
YEARS = [str(year) for year in range(1962, 2026)]
EMPLOYEES = [f"{first} {last}" for first, last in zip(FIRST_NAMES * 2, LAST_NAMES * 2, strict=False)]

# A table's title, the heading and the names of its rows, and its columns: heading:unit:class of numbers.
SALES = "Orders:number:n4,Revenue:1000 USD:d1,Returns:pieces:n2,Costs:1000 USD:d1,Visits:number:n5".split(",")
OUTPUT = "Paper:tons:n4,Pulp:tons:n4,Power:MWh:d1,Waste:tons:d2,Workers:number:n3".split(",")
BUDGET = "Salaries:USD:n5,Rent:USD:n4,Travel:USD:n4,Supplies:USD:n5,Posts:number:n2".split(",")
STOCK = "In stock:pieces:n3,Sold:pieces:n4,Ordered:pieces:n3,Weight:kg:d1,Worth:USD:d2".split(",")
PATIENTS = "Seen:number:n4,Enrolled:number:n3,Lost:number:n2,Visits:number:n4,Doses:grams:d2".split(",")
COURSES = "Courses:number:n2,Duration:hours:d1,Exams:number:n2,Travel:USD:d2,Fees:USD:d2".split(",")
TABLES = (
    ("Sales by Branch", "Branch", TOWNS, SALES),
    ("Annual Output of the Mill", "Year", YEARS, OUTPUT),
    ("Budget by Department", "Department", DEPARTMENTS, BUDGET),
    ("Stock at the End of the Quarter", "Article", GOODS, STOCK),
    ("Patients by Study Site", "Site", TOWNS, PATIENTS),
    ("Training of Employees", "Employee", EMPLOYEES, COURSES),
)

# What may stand for a word in braces; `expand` puts it in.
PHRASES = {
    "first": FIRST_NAMES,
    "last": LAST_NAMES,
    "person": ["{first} {last}"],
    "trade": "Paper,Chemical,Printing,Research,Dairy,Steel,Textile,Optical,Medical,Railway,Seed".split(","),
    "firm": "Company,Institute,Corporation,Laboratories,Group,Foundation,Association,Brothers".split(","),
    "organization": ["{last} {trade} {firm}"],
    "position": "Director of Research,Sales Manager,Head of Purchasing,Vice President,Legal Adviser".split(","),
    "street": "Mill Road,Oak Avenue,Station Street,Harbor Lane,Park Row,Market Square,High Street".split(","),
    "town": TOWNS,
    "city": CITIES,
    "place": "the Oak Room,Conference Room B,the Town Hall,Building 12,the Grand Hotel,Lecture Hall 3".split(","),
    "day": [str(day) for day in range(1, 29)],
    "month": MONTHS,
    "year": YEARS,
    "date": ["{day} {month} {year}", "{month} {day}, {year}"],
    "n2": "#,##,##".split(","),
    "n3": "##,###,###".split(","),
    "n4": ["##", "###", "#,###", "#,###"],
    "n5": ["#,###", "##,###", "##,###", "###,###"],
    "d1": "#.#,##.#,###.#".split(","),
    "d2": "#.##,##.##,###.##".split(","),
    "closing": "Sincerely yours,Yours faithfully,With kind regards,Very truly yours".split(","),
    "invoice": "INVOICE,COMMERCIAL INVOICE,STATEMENT OF ACCOUNT".split(","),
    "stamp": "RECEIVED,COPY,APPROVED,PAID,FILED,CONFIDENTIAL,URGENT,CHECKED".split(","),
    "topic": "Renewal,Review,Extension,Approval,Results,Status,Revision,Completion".split(","),
    "group": "committee,board,department,laboratory,agency,office,panel,council,contractor".split(","),
    "thing": "proposal,budget,schedule,agreement,survey,policy,application,program,inspection".split(","),
    "kind": "annual,revised,technical,preliminary,joint,regional,internal,final,detailed".split(","),
    "did": "reviewed,discussed,accepted,returned,prepared,amended,examined,forwarded,completed".split(","),
    "how": "promptly,carefully,jointly,formally,briefly,generally,recently,gradually".split(","),
}


def expand(rng: Random, text: str) -> str:
    """`text` with a phrase for each class of `PHRASES` in braces and a digit for each #, never 0 first."""

    def drawn(match: re.Match) -> str:
        if match[1]:
            return expand(rng, rng.choice(PHRASES[match[1]]))
        return str(rng.randint(1 if match[2] else 0, 9))

    return re.sub(r"\{(\w+)\}|(?<![#.,\d])(#)|#", drawn, text)


SENTENCES = (
    "The {group} has {how} {did} the {kind} {thing} and informed the {group} of its view.",
    "We are grateful for the {kind} {thing} that your {group} sent to us, which we have {how} {did}.",
    "It was agreed that the {thing} should be {how} {did} before the {kind} {thing} is put to the {group}.",
    "No change to the {thing} is planned at present.",
    "Members of the {group} asked whether the {kind} {thing} could be {did} together with the {thing}.",
    "A copy of the {kind} {thing} is enclosed for your records.",
    "In our opinion the {thing}, as {how} {did} by the {group}, meets every requirement of the {group}.",
    "Should the {group} need further details of the {thing}, we shall be pleased to supply them.",
    "Although the {kind} {thing} was {did} in good time, the {group} has not yet replied to the {group}.",
    "Both the {group} and the {group} {how} {did} the {thing}; their remarks are attached.",
    "The costs of the {thing} are shared between the {group} and the {group}, as in earlier years.",
    "Please let us know if the {kind} {thing} differs from the {thing} that was {did} by your {group}.",
)
# Sentences that state a fact, with its key and its value in brackets, and what a question calls it.
FACTS = (
    ("The [closing date] for written comments is [{date}].", "closing date for written comments"),
    ("The board has [approved] a grant of [$##,#00] for this work.", "amount of the grant"),
    ("The next [meeting] will be held in [{place}], as in past years.", "place of the next meeting"),
    ("Please call the help desk at [extension] [####] in case of doubt.", "extension of the help desk"),
    ("In the last trial the [number of visitors] rose to [#,###] a day.", "number of visitors a day"),
    ("The project will be [led] by [{person}], who has worked with us before.", "name of the project leader"),
    ("As the annex shows, the [response rate] was [##.#%] among the members.", "response rate"),
    ("The goods left the [port] of [{city}] in good order and are insured.", "port of departure of the goods"),
    ("The new agreement has a [term] of [## months] from its signing.", "term of the new agreement"),
    ("All samples must be [stored] at [1# °C] or less.", "storage temperature of the samples"),
    ("Your [membership] remains valid until [{date}] unless you cancel it.", "end date of the membership"),
    ("For late payments a [fee] of [$##.#0] is charged.", "fee for late payments"),
    ("The new press has a [capacity] of [##,#00 sheets] an hour.", "capacity of the new press"),
    ("The [distance] between the two sites is [### miles] by road.", "distance between the two sites"),
    ("Our [auditor] for the coming year will be [{organization}].", "name of the auditor"),
    ("The [course] begins at [#:30 am] and takes the whole day.", "starting time of the course"),
)

# Facts of a page, one a line: label|value|subject|question type, all of it for `expand`. The type is `form`
# where none is given; lines without a fact are printed as they stand.
LETTERHEAD = "|{organization}|name of the organization in the letterhead|layout"
ADDRESS = "|### {street}, {town}|address in the letterhead|layout"
TELEPHONE = "Telephone|(###) 555-0###|telephone number in the letterhead"
ADDRESSEE = """|{person}|name of the addressee
|{organization}|organization of the addressee
|#0# {street}|street address of the addressee
|{town}|town of the addressee"""
LETTER_REFERENCES = """Date:|{date}|date of the letter
Our ref.:|#/###-##|reference number of the letter
File No.:|#####|file number"""
LETTER_SUBJECT = """

Re:|{topic} of the {kind} {thing}|subject of the letter|layout

Dear Sir or Madam,
"""
SIGNATURE = """|{person}|name of the person who signed the letter|layout
|{position}|position of the person who signed the letter|layout

cc:|{person}|name of the person who gets a copy
Encl.:|#|number of enclosures"""
REPORT = """Report No.|##-####|number of the report
Date|{date}|date of the report
Prepared by|{person}|name of the person who prepared the report
"""
INVOICE_REFERENCES = """Invoice No.|######|invoice number
Date|{date}|date of the invoice
Terms|## days net|terms of payment
Customer No.|##-###|customer number
Order No.|#####|order number"""
TOTALS = """Subtotal|${:,.2f}|subtotal
Tax rate|{}%|tax rate
Tax|${:,.2f}|tax amount
Total due|${:,.2f}|total amount due
"""
PAYMENT = """Bank|{last} & {last} Bank|name of the bank
Account No.|### ### ####|account number
Payment reference|####-###|payment reference
"""
PAGE_NUMBER = "Page|#|page number at the bottom of the page|layout"


def table_text(rng: Random, most_rows: int) -> tuple[str, list[list[str]], list[str]]:
    """The title of one of `TABLES`, its rows of text, and the subjects of its columns.

    Rows are two of headings and units, 6 to `most_rows`, and one of their sums. A subject, of each column
    after the first, has {} in the place of the row's name.
    """
    title, heading, names, columns = rng.choice(TABLES)
    heads, units, numbers = zip(*(one.split(":") for one in rng.sample(columns, rng.randint(2, 5))), strict=True)
    chosen = sorted(rng.sample(names, rng.randint(6, most_rows)))
    rows = [[name, *(expand(rng, f"{{{one}}}") for one in numbers)] for name in chosen]
    sums = ["Total"]
    for column in list(zip(*rows, strict=True))[1:]:
        decimals = len(column[0].partition(".")[2])
        sums.append(f"{sum(float(value.replace(',', '')) for value in column):,.{decimals}f}")
    return title, [[heading, *heads], ["", *units], *rows, sums], [f"value of {head} for {{}}" for head in heads]


def invoice_text(rng: Random, most_rows: int) -> tuple[list[list[str]], list[str], str]:
    """A row of headings and 4 to `most_rows` of goods, their subjects as in `table_text`, and the totals."""
    rows, subtotal, rate = [["Description", "Quantity", "Unit price", "Amount"]], 0, rng.randint(3, 19)
    for article in rng.sample(GOODS, rng.randint(4, most_rows)):
        quantity, cents = rng.randint(1, 60), rng.randint(95, 39999)
        rows.append([article, str(quantity), f"${cents / 100:,.2f}", f"${quantity * cents / 100:,.2f}"])
        subtotal += quantity * cents
    tax = round(subtotal * rate / 100)
    totals = TOTALS.format(subtotal / 100, rate, tax / 100, (subtotal + tax) / 100)
    return rows, ["quantity of {}", "unit price of {}", "amount for {}"], totals
