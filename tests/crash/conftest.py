"""The process that the children are forked from, and the count of the deaths survived."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Count = Callable[[str, int], None]


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, and what it had done until then."""

    code: int
    instants: int
    commits: int
    error: str


class Children:
    """Lets commands run in children that die when they are told to."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    def run(
        self, operation: str, place: Path, *, die_at: int = 0, file_bytes: int | None = None
    ) -> Ended:
        """Run a command; let it die at an instant, or its files not grow beyond a size."""
        request = {
            "operation": operation,
            "place": str(place),
            "die_at": die_at,
            "file_bytes": file_bytes,
        }
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        said: dict[str, Any] = json.loads(self._server.stdout.readline())
        return Ended(**said, **json.loads(self._server.stdout.readline()))


@pytest.fixture(scope="session")
def children() -> Iterator[Children]:
    program = Path(__file__).parent / "crash_child.py"
    # Threads that wait must not spin: on a busy machine a tiny index took a second, not 10 ms.
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    ) as server:
        yield Children(server)
        assert server.stdin is not None
        server.stdin.close()


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
