"""Hold SQLite, row files and index files against each other, and name what does not fit."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.documents import item_checksum, legible
from muomni_search.errors import CorruptData
from muomni_search.items import Modality
from muomni_search.store import tables
from muomni_search.store.files import is_leftover, unrecorded
from muomni_search.store.records import Fault, IndexFile, RowFile
from muomni_search.store.rows import (
    BLOCK_ROWS,
    HINT,
    ROW_BYTES,
    are_unit,
    read_blocks,
)
from muomni_search.store.snapshot import INDEX, Snapshot
from muomni_search.store.sqlite import DATABASE, disk_errors, schema_checksum

__all__ = [
    "AGAIN",
    "TORN",
    "altered_items",
    "block_length",
    "check",
    "checked_blocks",
    "database_faults",
    "index_fault",
    "index_faults",
    "items_without_segments",
    "number_faults",
    "sound_rows",
    "whole_blocks",
]

# Of SQLite's write-ahead log (https://www.sqlite.org/fileformat2.html, section 4.1).
LOG_HEAD, FRAME_HEAD = 32, 24
# Frames that are read at once: a megabyte.
LOG_FRAMES = 256
MAX_ID = 2**63 - 1
SUMMED_ITEMS = (
    f"SELECT id, checksum, {tables.SUMMED_BYTES} FROM items"  # noqa: S608
    " WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
)
WITHOUT_SEGMENTS = (
    "SELECT items.id FROM items LEFT JOIN segments"
    " ON segments.item_id = items.id AND segments.modality = items.modality"
    ' WHERE items.modality = ? AND segments."row" IS NULL ORDER BY items.id'
)
# The items whose segments are not the same in the table and in its index.
COLUMNS = 'item_id, ordinal, span_start, span_end, modality, "row" FROM segments'
# The condition, for otherwise SQLite reads the index in the table's place.
TABLE = f"SELECT {COLUMNS} NOT INDEXED WHERE modality > ''"
AGAIN = f"SELECT {COLUMNS} INDEXED BY segments_by_item"
ONE_ONLY = (
    f"SELECT * FROM ({TABLE} EXCEPT {AGAIN}) UNION ALL SELECT * FROM ({AGAIN} EXCEPT {TABLE})"  # noqa: S608
)
TORN = f"SELECT DISTINCT item_id FROM ({ONE_ONLY}) ORDER BY item_id"  # noqa: S608


def check(directory: Path, snapshot: Snapshot) -> Iterator[Fault]:
    """Yield every fault of a collection, as one snapshot shows it."""
    yield from _check_log(directory, snapshot)
    faults = list(database_faults(directory, snapshot))
    yield from faults
    if faults:
        return  # a database that is not whole can say nothing about the rest
    for item_id, key in altered_items(snapshot):
        where = f"{directory / DATABASE}, item {item_id}"
        yield Fault("item", where, f"what is stored of {key} is not what was written")
    for modality in Modality:
        yield from number_faults(snapshot, modality)
        yield from _check_rows(snapshot, modality)
        yield from index_faults(directory, snapshot, modality)
    for path in unrecorded(directory, snapshot.state):
        # What a writer that was killed has left is no fault: the next one removes it.
        if not is_leftover(path):
            yield Fault("orphan", str(path), "a file that nothing refers to")


def database_faults(directory: Path, snapshot: Snapshot) -> Iterator[Fault]:
    """Yield what SQLite itself finds wrong with the database."""
    where = str(directory / DATABASE)
    try:
        for (line,) in snapshot.ask("PRAGMA integrity_check"):
            if line != "ok":
                yield Fault("database", where, line)
        for row in snapshot.ask("PRAGMA foreign_key_check"):
            yield Fault("database", where, f"row {row[1]} of {row[0]} refers to no row of {row[2]}")
    except sqlite3.Error as error:
        yield Fault("database", where, str(error))
    for table in tables.metadata.sorted_tables:
        columns = snapshot.ask(f"PRAGMA table_xinfo({table.name})")
        if {name for _, name, *_ in columns} != set(table.columns.keys()):
            yield Fault("database", where, f"the table {table.name} has other columns")
    (found,) = snapshot.ask("PRAGMA user_version").fetchone()
    if found != schema_checksum(snapshot.connection):
        yield Fault("database", where, "the schema is not the one that was made")


def _check_log(directory: Path, snapshot: Snapshot) -> Iterator[Fault]:
    """Check that SQLite reads its write-ahead log to the end.

    A log that a process left when it was killed is taken to end at the first frame that is not as
    it was written; then commits are lost, and what is there is an older state. A commit that is
    whole behind that frame says that it is no half-written end.

    Only the log is opened, for no process locks that file. The database and ``-shm`` must not be:
    when any descriptor of a file is closed, the system takes all of a process's locks on it, those
    of SQLite's connections too (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    path = directory / f"{DATABASE}-wal"
    (page,) = snapshot.ask("PRAGMA page_size").fetchone()
    with suppress(OSError):  # there is no log, or somebody has just folded it into the database
        gap = _gap(path, page)
        # What a writer is about to write looks like one, and is whole the next time.
        if gap is not None and gap == _gap(path, page):
            read, commit = gap
            yield Fault("log", str(path), f"read to frame {read}, there is a commit at {commit}")


def _gap(path: Path, page: int) -> tuple[int, int] | None:
    """Return how many frames of a log are whole up to a broken one, and the first commit behind it.

    Args:
        path: The log.
        page: The bytes of a page.
    """
    read: int | None = None
    with path.open("rb") as file:
        head = file.read(LOG_HEAD)
        if len(head) < LOG_HEAD:
            return None
        order = ">u4" if head[3] == 0x83 else "<u4"
        words = np.frombuffer(head, order).astype(np.uint32)
        salt, before = head[16:24], np.frombuffer(head[24:], ">u4").astype(np.uint32)
        _, own = _weights(6)
        if (words[:6] @ own != before).any():
            read = 0
            salt = file.read(16)[8:]
            file.seek(LOG_HEAD)
        # Of a frame's head its first eight bytes are summed, and then the page.
        start, own = _weights(2 + page // 4)
        length, number = FRAME_HEAD + page, 1
        while data := file.read(LOG_FRAMES * length):
            frames = np.frombuffer(data, np.uint8)[: len(data) // length * length]
            frames = frames.reshape(-1, length)
            if not len(frames):
                break
            sums = np.ascontiguousarray(frames[:, 16:FRAME_HEAD]).view(">u4").astype(np.uint32)
            summed = np.concatenate([frames[:, :8], frames[:, FRAME_HEAD:]], axis=1).view(order)
            previous = np.concatenate([before[None], sums[:-1]])
            is_whole = (summed.astype(np.uint32) @ own + previous @ start == sums).all(axis=1)
            # Frames of an older log have another salt.
            is_whole &= (frames[:, 8:16] == np.frombuffer(salt, np.uint8)).all(axis=1)
            if read is None and not is_whole.all():
                read = number - 1 + int(np.argmin(is_whole))
            # The last frame of a commit says how large the database is then.
            commits = number + np.flatnonzero(is_whole & frames[:, 4:8].any(axis=1))
            if read is not None and (commits > read).any():
                return read, int(commits[commits > read][0])
            before, number = sums[-1], number + len(frames)
    return None


@cache
def _weights(words: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return how much the checksum before and each word count in SQLite's checksum of a log.

    It is linear modulo 2³²: for each two words x and y, ``one += x + two; two += y + one``.

    Args:
        words: How many are summed, an even number.

    Returns:
        Matrices (2, 2) and (words, 2), to be multiplied by row vectors from the left.
    """
    own = np.empty((words, 2), np.uint32)
    # From the last two on: ``start`` is what the checksum before them counts.
    start = np.eye(2, dtype=np.uint32)
    for at in range(words - 2, -1, -2):
        own[at], own[at + 1] = start[0] + start[1], start[1]
        start = np.array([start[0] + start[1], start[0] + start[1] + start[1]], np.uint32)
    return start, own


def altered_items(
    snapshot: Snapshot, first: int = 0, last: int = MAX_ID
) -> Iterator[tuple[int, str]]:
    """Yield the ids and keys of the items that are not what their checksums say, by id.

    Args:
        snapshot: Where.
        first: The first id to look at.
        last: The last one.
    """
    # With a limit, or SQLite looks at the page behind the last one too, which may be damaged.
    values = (first, last, min(last - first + 1, MAX_ID))
    for item_id, checksum, *columns in snapshot.ask(SUMMED_ITEMS, values):
        texts: list[Any] = [
            None if value is None else value.decode(errors="surrogateescape") for value in columns
        ]
        if checksum != item_checksum(*texts):
            yield item_id, legible(texts[0] or "")


def number_faults(snapshot: Snapshot, modality: Modality) -> Iterator[Fault]:
    """Check that every row is a segment's or dead, never both, and every item has segments."""
    file = snapshot.row_file(modality)
    count = file.rows if file else 0
    live = snapshot.row_numbers("segments", modality)
    dead = snapshot.row_numbers("dead_rows", modality)
    where = str(modality)
    if file is not None and file.dead != len(dead):
        yield Fault("count", where, f"{len(dead)} rows are dead, {file.dead} are counted")
    numbers = np.concatenate([live, dead])
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if len(outside):
        yield Fault("orphan", where, f"row {outside[0]} is not among the {count} rows")
    seen = np.bincount(np.setdiff1d(live, outside), minlength=count)
    seen += np.bincount(np.setdiff1d(dead, outside), minlength=count)
    if (seen == 0).any():
        yield Fault("orphan", where, f"row {int(np.argmin(seen))} is no segment's and not dead")
    if (seen > 1).any():
        yield Fault("orphan", where, f"row {int(np.argmax(seen))} is a segment's and dead")
    lacking = items_without_segments(snapshot, modality)
    if lacking:
        keys = snapshot.keys_of(lacking[:1])
        yield Fault("orphan", where, f"the item {keys[lacking[0]]} has no segment")


def items_without_segments(snapshot: Snapshot, modality: Modality) -> list[int]:
    """Return the ids of the items of a modality without segments in it."""
    return [number for (number,) in snapshot.ask(WITHOUT_SEGMENTS, [str(modality)])]


def _check_rows(snapshot: Snapshot, modality: Modality) -> Iterator[Fault]:
    file = snapshot.row_file(modality)
    if file is None or not file.rows:
        return
    try:
        size = file.path.stat().st_size
        if size < file.rows * ROW_BYTES:
            yield Fault("rows", str(file.path), f"{size} bytes, {file.rows * ROW_BYTES} needed")
        for start, content, is_whole in checked_blocks(snapshot.block_sums(modality), file):
            where = f"{file.path}, rows from {start}"
            if not is_whole and len(content) == block_length(file, start):
                yield Fault("checksum", where, "the rows are not those that were written")
            if not are_unit(content).all():
                yield Fault("norm", where, "a row is not finite and of length 1")
    except OSError as error:
        yield Fault("rows", str(file.path), error.strerror or str(error))


def sound_rows(snapshot: Snapshot, modality: Modality) -> NDArray[np.bool_]:
    """Return for each row of a modality whether it is there as it was written."""
    file = snapshot.row_file(modality)
    good = np.zeros(file.rows if file else 0, bool)
    if file is not None:
        with disk_errors(file.path), suppress(FileNotFoundError):
            for start, content, is_whole in checked_blocks(snapshot.block_sums(modality), file):
                good[start : start + len(content)] = is_whole & are_unit(content)
    return good


def block_length(file: RowFile, start: int) -> int:
    """Return how many rows the block has that begins at row ``start``."""
    return min(BLOCK_ROWS, file.rows - start)


def whole_blocks(snapshot: Snapshot, modality: Modality) -> Iterator[NDArray[np.float32]]:
    """Return all rows of a modality, dead ones too, block by block, each held against its checksum.

    Raises:
        CorruptData: From the iterator: a block is not what was written.
    """
    file = snapshot.row_file(modality)
    if file is None or not file.rows:
        return iter(())
    # Asked now: who replaces the rows block by block has forgotten the sums by then.
    return _whole(file, snapshot.block_sums(modality))


def _whole(file: RowFile, sums: Mapping[int, int]) -> Iterator[NDArray[np.float32]]:
    end = 0
    with disk_errors(file.path):
        for start, content, is_whole in checked_blocks(sums, file):
            if not is_whole:
                break
            end = start + len(content)
            yield content
    if end < file.rows:
        raise CorruptData(f"{file.path}: row {end} or one after it is damaged", hint=HINT)


def checked_blocks(
    sums: Mapping[int, int], file: RowFile
) -> Iterator[tuple[int, NDArray[np.float32], bool]]:
    """Yield the first row of each block, its rows, and whether all are there as written."""
    for block, content in enumerate(read_blocks(file.path, file.rows)):
        start = block * BLOCK_ROWS
        is_whole = len(content) == block_length(file, start)
        yield start, content, is_whole and zlib.crc32(content.data) == sums.get(block)


def index_faults(directory: Path, snapshot: Snapshot, modality: Modality) -> Iterator[Fault]:
    """Yield what is wrong with the index file of a modality."""
    index, file = snapshot.state.index_files.get(modality), snapshot.row_file(modality)
    if index is None:
        return
    path = directory / INDEX / index.name
    fault = index_fault(path, index)
    if fault is not None:
        yield Fault("index", str(path), fault)
    if file is None or (index.generation == file.generation and index.rows > file.rows):
        yield Fault("index", str(path), f"it covers {index.rows} rows, more than there are")


def index_fault(path: Path, index: IndexFile) -> str | None:
    """Return what is wrong with an index file; None when it is the one that was written."""
    try:
        size = path.stat().st_size
        if size != index.bytes:
            return f"{size} bytes, expected {index.bytes}"
        with path.open("rb") as file:
            blocks = iter(partial(file.read, durable.READ_BYTES), b"")
            found = durable.checksum(blocks, like=index.checksum)
        return None if found == index.checksum else "not the file that was written"
    except OSError as error:
        return error.strerror or str(error)
