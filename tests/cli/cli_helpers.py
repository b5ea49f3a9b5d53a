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
import soundfile
from click.testing import Result
from PIL import Image

Run = Callable[..., Result]
MUOMNI = [sys.executable, "-m", "muomni_search"]


def answers(result: Result) -> list[dict[str, Any]]:
    """Return the JSON objects on stdout of a command that succeeded."""
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.split("\n") if line]


def write_picture(path: Path, seed: int, side: int = 32) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_sound(path: Path, hertz: float, seconds: float = 1.0, rate: int = 16_000) -> Path:
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * time), rate)
    return path


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
