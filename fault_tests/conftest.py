"""The long tests have the surroundings, the fixtures and the helpers of the short ones."""

import sys
from pathlib import Path

pytest_plugins = ["tests.conftest"]

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from test_faults import third, undisturbed  # noqa: E402, F401
