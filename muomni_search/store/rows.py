"""Row files: the vectors of a modality, 256 little-endian float32 a row, nothing else.

``vectors/<modality>.<generation>.f32`` only ever grows. What counts is its first ``rows`` rows,
as SQLite says; whatever a writer that died has left behind them is cut off by the next one.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import CorruptData
from muomni_search.items import DIM
from muomni_search.store import durable

__all__ = ["BLOCK_ROWS", "ROW_BYTES", "append_rows", "block_checksums", "map_rows"]

ROW_BYTES = 4 * DIM
BLOCK_ROWS = 4096  # 4 MiB: what one checksum covers
ROW_TYPE = np.dtype("<f4")


def append_rows(path: Path, start: int, rows: NDArray[np.float32]) -> None:
    """Put rows (n, 256) after the first ``start`` of a file and bring them to the disk.

    Raises:
        CorruptData: The file has fewer rows than ``start``.
        OSError: They could not be written; what was there before is untouched.
    """
    is_new = not path.exists()
    if is_new:
        path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size < start * ROW_BYTES:
            raise too_short(path, size, start)
        if size > start * ROW_BYTES:
            durable.step("before cut")
            os.ftruncate(descriptor, start * ROW_BYTES)
        data = np.ascontiguousarray(rows, dtype=ROW_TYPE)
        durable.write_all(descriptor, memoryview(data).cast("B"), start * ROW_BYTES)
        durable.fsync_file(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        durable.fsync_directory(path.parent)


def map_rows(path: Path, rows: int) -> NDArray[np.float32]:
    """Return the first ``rows`` rows of a file as a read-only memory map (rows, 256).

    Raises:
        CorruptData: The file is missing or too short.
    """
    if rows == 0:
        return np.empty((0, DIM), np.float32)
    try:
        size = path.stat().st_size
        if size < rows * ROW_BYTES:
            raise too_short(path, size, rows)
        return np.memmap(path, ROW_TYPE, "r", shape=(rows, DIM)).view(np.ndarray)
    except OSError as error:
        raise CorruptData(
            f"{path}: {error.strerror}", hint="run: muomni verify --repair"
        ) from error


def too_short(path: Path, size: int, rows: int) -> CorruptData:
    """Return the error for a file that lost rows."""
    return CorruptData(
        f"{path} has {size} bytes, its {rows} rows need {rows * ROW_BYTES}",
        hint="run: muomni verify --repair",
    )


def block_checksums(
    rows: NDArray[np.float32], *, start: int = 0, previous: int = 0
) -> Iterator[tuple[int, int]]:
    """Yield (block number, CRC-32) of each block that rows (n, 256) touch.

    Args:
        rows: The rows from ``start`` on.
        start: The number of the first of them.
        previous: The checksum so far of the block that ``start`` lies in, which runs on.
    """
    at = 0
    while at < len(rows):
        block = (start + at) // BLOCK_ROWS
        end = min(len(rows), (block + 1) * BLOCK_ROWS - start)
        data = memoryview(np.ascontiguousarray(rows[at:end], dtype=ROW_TYPE)).cast("B")
        running = previous if (start + at) % BLOCK_ROWS else 0
        yield block, zlib.crc32(data, running)
        at = end
