"""What tests tell is shown at the end, whichever process they ran in."""

from collections.abc import Callable

import pytest

TOLD = "told"


@pytest.fixture
def tell(record_property) -> Callable[[str], None]:
    return lambda text: record_property(TOLD, text)


def pytest_terminal_summary(terminalreporter) -> None:
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for text in [text for name, text in report.user_properties if name == TOLD and report.when == "call"]:
            terminalreporter.write_line(f"\n{report.nodeid.partition('::')[2]}\n{text}")
