"""The surroundings of the tests in tests/, whose helpers these use: offline, out of the user's folders."""

import importlib.util
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path.insert(0, str(TESTS))
_specification = importlib.util.spec_from_file_location("surroundings", TESTS / "conftest.py")
_surroundings = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_surroundings)
# Its fixtures and hooks hold here too.
globals().update({name: value for name, value in vars(_surroundings).items() if not name.startswith("_")})
