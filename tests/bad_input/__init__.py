"""Everything bad that may come from outside, by class: what it is, how it is made, what it must give."""

from bad_input.csvs import CSV_CLASSES
from bad_input.given import GIVEN
from bad_input.images import IMAGES
from bad_input.reports import REPORTS
from bad_input.rows import ROW_CLASSES
from bad_input.texts import QUESTIONS, SHOWN

CLASSES = [*GIVEN, *IMAGES, *ROW_CLASSES, *QUESTIONS, *CSV_CLASSES, *SHOWN, *REPORTS]
