"""The process that the children are forked from, and the count of the deaths survived."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from crash_children import Children

Count = Callable[[str, int], None]


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    with Children.started() as children:
        yield children


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Write down how many deaths of a kind a test has seen and survived."""
    return lambda kind, number: record_property(f"survived: {kind}", number)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    totals: dict[str, int] = {}
    for report in terminalreporter.stats.get("passed", []):
        for name, number in report.user_properties:
            if name.startswith("survived: "):
                totals[name] = totals.get(name, 0) + int(str(number))
    for name, number in sorted(totals.items()):
        terminalreporter.write_line(f"{name}: {number}")
