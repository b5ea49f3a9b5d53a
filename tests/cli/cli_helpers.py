"""What the tests of the command line share: the call's type, its answers, seeded files."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from file_helpers import write_picture, write_sound

__all__ = [
    "MUOMNI",
    "Run",
    "answers",
    "on_terminal",
    "plain",
    "write_picture",
    "write_sound",
    "write_vector",
]

Run = Callable[..., Result]
MUOMNI = [sys.executable, "-m", "muomni_search"]


def answers(result: Result) -> list[dict[str, Any]]:
    """Return the JSON objects on stdout of a command that succeeded."""
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.split("\n") if line]


def write_vector(path: Path, seed: int) -> Path:
    np.save(path, np.random.default_rng(seed).standard_normal(256).astype(np.float32))
    return path


def on_terminal(*args: str | Path, columns: int = 100) -> tuple[int, str]:
    """Run a command on a terminal; return its exit code and what the terminal got."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*MUOMNI, *map(str, args)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"},
    )
    os.close(slave)
    got = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not chunk:
            break
        got += chunk
    os.close(master)
    return process.wait(), got.decode()


def plain(text: str) -> str:
    """Return ``text`` without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
