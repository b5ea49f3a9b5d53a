"""Row files: the vectors of a modality, 256 little-endian float32 a row, nothing else.

``vectors/<modality>.<generation>.f32`` only ever grows. What counts is its first ``rows`` rows,
as SQLite says; whatever a writer that died has left behind them is cut off by the next one.
"""

from __future__ import annotations

import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.durable import disk_hint
from muomni_search.errors import CorruptData
from muomni_search.items import DIM
from muomni_search.store.records import RowFile

__all__ = [
    "BLOCK_ROWS",
    "HINT",
    "LENGTH_TOLERANCE",
    "NO_ROWS",
    "ROW_BYTES",
    "MappedRows",
    "append_rows",
    "are_unit",
    "block_checksums",
    "cut_rows",
    "lengths",
    "not_unit",
    "read_blocks",
]

ROW_BYTES = 4 * DIM
BLOCK_ROWS = 4096  # 4 MiB: what one checksum covers
ROW_TYPE = np.dtype("<f4")
NO_ROWS = np.empty((0, DIM), np.float32)
# A unit vector of float32 may miss its length by rounding alone, about 256 ulp.
LENGTH_TOLERANCE = 1e-4
HINT = "run: muomni verify --repair"


def append_rows(path: Path, start: int, rows: NDArray[np.float32]) -> None:
    """Put rows (n, 256) after the first ``start`` of a file and bring them to the disk.

    Raises:
        CorruptData: The file has fewer rows than ``start``.
        OSError: They could not be written; what was there before is untouched.
    """
    with _opened(path, start) as descriptor:
        data = np.ascontiguousarray(rows, dtype=ROW_TYPE).reshape(-1).view(np.uint8).data
        durable.write_all(descriptor, data, start * ROW_BYTES)
        durable.fsync_file(descriptor)
    if start == 0:
        # Also when the file is there: the writer that made it may have died before this.
        durable.fsync_directory(path.parent)


def cut_rows(path: Path, rows: int) -> None:
    """Cut a file to its first ``rows`` rows.

    Raises:
        CorruptData: It has fewer.
    """
    with _opened(path, rows):
        pass


@contextmanager
def _opened(path: Path, rows: int) -> Iterator[int]:
    """Open a file, cut to its first ``rows`` rows; make it when there are to be none."""
    if rows == 0:
        path.parent.mkdir(exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | (0 if rows else os.O_CREAT), 0o644)
    except FileNotFoundError as error:
        raise CorruptData(f"{path} is missing", hint=HINT) from error
    try:
        size = os.fstat(descriptor).st_size
        if size < rows * ROW_BYTES:
            raise _too_short(path, size, rows)
        if size > rows * ROW_BYTES:
            durable.cut(descriptor, rows * ROW_BYTES)
        yield descriptor
    finally:
        os.close(descriptor)


class MappedRows:
    """The first rows of a file, mapped into memory; never more than SQLite says there are.

    Raises:
        CorruptData: The file is missing or too short.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path = path
        self.rows = rows
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < rows * ROW_BYTES:
                    raise _too_short(path, size, rows)
                self._map = mmap.mmap(file.fileno(), rows * ROW_BYTES, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise CorruptData(f"{path} is missing", hint=HINT) from error
        except OSError as error:
            raise CorruptData(f"{path}: {error.strerror}", hint=disk_hint(error.errno)) from error
        self._vectors = np.frombuffer(self._map, ROW_TYPE).reshape(rows, DIM)

    def vectors(self) -> NDArray[np.float32]:
        """Return the rows (rows, 256), read-only.

        Raises:
            CorruptData: The file was cut since it was mapped: reading would kill the process.
        """
        size = self._map.size()
        if size < self.rows * ROW_BYTES:
            raise _too_short(self.path, size, self.rows)
        return self._vectors


def _too_short(path: Path, size: int, rows: int) -> CorruptData:
    return CorruptData(
        f"{path} has {size} bytes, its {rows} rows of {DIM} float32 need {rows * ROW_BYTES}",
        hint=HINT,
    )


def read_blocks(path: Path, rows: int) -> Iterator[NDArray[np.float32]]:
    """Yield the first ``rows`` rows of a file block by block; a row that was cut off is left out.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        for start in range(0, rows, BLOCK_ROWS):
            data = file.read(min(BLOCK_ROWS, rows - start) * ROW_BYTES)
            whole = len(data) // ROW_BYTES
            yield np.frombuffer(data, ROW_TYPE, whole * DIM).reshape(whole, DIM)


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
        running = previous if (start + at) % BLOCK_ROWS else 0
        data = np.ascontiguousarray(rows[at:end], dtype=ROW_TYPE).data
        yield block, zlib.crc32(data, running)
        at = end


def not_unit(file: RowFile | None) -> CorruptData:
    """Return the error that a row, of a file, is not what vectors are."""
    where = f"{file.path}: " if file else ""
    return CorruptData(f"{where}a row is not finite or not of length 1", hint=HINT)


def are_unit(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return for each row (n, 256) whether it is finite and of length 1."""
    unit: NDArray[np.bool_] = np.abs(lengths(rows) - 1) < LENGTH_TOLERANCE
    return unit


def damaged_among(
    rows: NDArray[np.float32], numbers: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return which of all rows (n, 256), or of some, ``are_unit`` refuses, in a sixth of its time.

    Args:
        rows: All rows.
        numbers: Which are meant; what is returned are places in these.
    """
    found = [np.empty(0, np.int64)]
    for start in range(0, len(rows) if numbers is None else len(numbers), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        some = rows[block] if numbers is None else rows[numbers[block]]
        with np.errstate(all="ignore"):
            squares = np.vecdot(some, some)
        # Of a length that is off by less than half of the tolerance, and rounding is far less.
        doubtful = np.flatnonzero(~(np.abs(squares - 1) < LENGTH_TOLERANCE))
        found.append(start + doubtful[~are_unit(some[doubtful])])
    return np.concatenate(found)


def lengths(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the length of each row (n, 256)."""
    with np.errstate(all="ignore"):
        found: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    return found
