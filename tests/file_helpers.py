"""Small files that tests make."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image


def write_picture(path: Path, seed: int, side: int = 32) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_sound(path: Path, hertz: float, seconds: float = 1.0, rate: int = 16_000) -> Path:
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * time), rate)
    return path


@contextmanager
def mounted_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of its own, of so many bytes; skip the test where that is not allowed."""
    folder.mkdir(parents=True)
    what = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(what, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def bound(what: Path, place: Path) -> Iterator[None]:
    """Show a folder of a disk at another place, as a mounted disk is."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", what, place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=False, capture_output=True)


def sql(place: Path, *statements: str) -> None:
    """Change a collection's database behind its back."""
    with sqlite3.connect(place / "collection.db") as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def flip_span(place: Path, item_id: int) -> None:
    """Give a segment another span, in the table and not in its index."""
    with sqlite3.connect(place / "collection.db") as connection:
        (words,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = 'segments_by_item'"
        ).fetchone()
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'segments_by_item'"
        ).fetchone()
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'segments_by_item'")
        connection.commit()
    connection.close()
    with sqlite3.connect(place / "collection.db") as connection:
        connection.execute(
            "UPDATE segments SET span_start = 5, span_end = 9 WHERE item_id = ?", [item_id]
        )
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "INSERT INTO sqlite_master VALUES ('index', 'segments_by_item', 'segments', ?, ?)",
            (root, words),
        )
    connection.close()
