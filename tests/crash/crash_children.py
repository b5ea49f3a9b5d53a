"""The process that the children are forked from, as whoever asks for one sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

__all__ = ["Children", "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code (negative for a signal), and what it told before."""

    code: int
    instants: int = 0
    commits: int = 0
    error: str = ""
    acknowledged: int = 0
    examined: dict[str, Any] = field(default_factory=dict)


class Children:
    """Lets commands run in children that die, fail or are killed when they are told to."""

    def __init__(self, server: subprocess.Popen[str]) -> None:
        self._server = server

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[Self]:
        program = Path(__file__).parent / "crash_child.py"
        # Threads that wait must not spin: on a busy machine a tiny index took a second, not 10 ms.
        with subprocess.Popen(
            [sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        ) as server:
            yield cls(server)
            assert server.stdin is not None
            server.stdin.close()

    def run(self, operation: str, place: Path, **request: Any) -> Ended:
        """Run a command in a child; see ``crash_child.live`` for what else may be asked for.

        Args:
            operation: The command.
            place: The folder that it works in.
            request: ``die_at`` an instant; ``fail_at`` one, with ``errors``; ``kill_after`` so many
                seconds; ``file_bytes``, ``memory_bytes`` and ``seconds`` as limits.
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        asked = {"operation": operation, "place": str(place), **request}
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))
