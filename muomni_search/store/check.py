"""Hold SQLite, row files and index files against each other, and mend what can be derived."""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.documents import item_checksum, legible
from muomni_search.errors import CorruptData
from muomni_search.items import DIM, Item, Modality
from muomni_search.store import tables
from muomni_search.store.bits import Flipped, flipped_bit
from muomni_search.store.files import is_abandoned, is_leftover, unrecorded
from muomni_search.store.records import Fault, IndexFile, Known, NewItem, RowFile
from muomni_search.store.rows import (
    BLOCK_ROWS,
    HINT,
    LENGTH_TOLERANCE,
    ROW_BYTES,
    are_unit,
    cut_rows,
    lengths,
    read_blocks,
)
from muomni_search.store.snapshot import INDEX, Snapshot
from muomni_search.store.sqlite import DATABASE, disk_errors, schema_checksum
from muomni_search.store.writer import Writer

__all__ = [
    "TORN",
    "altered_items",
    "check",
    "index_fault",
    "repair",
    "sound_rows",
    "whole_blocks",
]

# Of SQLite's write-ahead log (https://www.sqlite.org/fileformat2.html, section 4.1).
LOG_HEAD, FRAME_HEAD = 32, 24
# Frames that are read at once: a megabyte.
LOG_FRAMES = 256
MAX_ID = 2**63 - 1
# What rounding to float32 leaves of a length of 1, of most vectors.
ROUNDED = 1e-8
SUMMED_ITEMS = (
    f"SELECT id, checksum, {tables.SUMMED_BYTES} FROM items"  # noqa: S608
    " WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
)
WITHOUT_SEGMENTS = (
    "SELECT items.id FROM items LEFT JOIN segments"
    " ON segments.item_id = items.id AND segments.modality = items.modality"
    ' WHERE items.modality = ? AND segments."row" IS NULL ORDER BY items.id'
)
BEYOND = 'SELECT item_id FROM segments WHERE modality = ?1 AND ("row" < 0 OR "row" >= ?2)'

# ---- checking ------------------------------------------------------------------------------------


def check(directory: Path, snapshot: Snapshot) -> Iterator[Fault]:
    """Yield every fault of a collection, as one snapshot shows it."""
    yield from _check_log(directory, snapshot)
    faults = list(_check_database(directory, snapshot))
    yield from faults
    if faults:
        return  # a database that is not whole can say nothing about the rest
    for item_id, key in altered_items(snapshot):
        where = f"{directory / DATABASE}, item {item_id}"
        yield Fault("item", where, f"what is stored of {key} is not what was written")
    for modality in Modality:
        yield from _check_numbers(snapshot, modality)
        yield from _check_rows(snapshot, modality)
        yield from _check_index(directory, snapshot, modality)
    for path in unrecorded(directory, snapshot.state):
        # What a writer that was killed has left is no fault: the next one removes it.
        if not is_leftover(path):
            yield Fault("orphan", str(path), "a file that nothing refers to")


def _check_database(directory: Path, snapshot: Snapshot) -> Iterator[Fault]:
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
        columns = snapshot.ask(f"PRAGMA table_info({table.name})")
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


def _check_numbers(snapshot: Snapshot, modality: Modality) -> Iterator[Fault]:
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
    lacking = _items_without_segments(snapshot, modality)
    if lacking:
        keys = snapshot.keys_of(lacking[:1])
        yield Fault("orphan", where, f"the item {keys[lacking[0]]} has no segment")


def _items_without_segments(snapshot: Snapshot, modality: Modality) -> list[int]:
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
        for start, content, is_whole in _blocks(snapshot.block_sums(modality), file):
            where = f"{file.path}, rows from {start}"
            if not is_whole and len(content) == _block_length(file, start):
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
            for start, content, is_whole in _blocks(snapshot.block_sums(modality), file):
                good[start : start + len(content)] = is_whole & are_unit(content)
    return good


def _block_length(file: RowFile, start: int) -> int:
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
        for start, content, is_whole in _blocks(sums, file):
            if not is_whole:
                break
            end = start + len(content)
            yield content
    if end < file.rows:
        raise CorruptData(f"{file.path}: row {end} or one after it is damaged", hint=HINT)


def _blocks(
    sums: Mapping[int, int], file: RowFile
) -> Iterator[tuple[int, NDArray[np.float32], bool]]:
    """Yield the first row of each block, its rows, and whether all are there as written."""
    for block, content in enumerate(read_blocks(file.path, file.rows)):
        start = block * BLOCK_ROWS
        is_whole = len(content) == _block_length(file, start)
        yield start, content, is_whole and zlib.crc32(content.data) == sums.get(block)


def _check_index(directory: Path, snapshot: Snapshot, modality: Modality) -> Iterator[Fault]:
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
        return None if _sha256(path) == index.checksum else "not the file that was written"
    except OSError as error:
        return error.strerror or str(error)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- mending -------------------------------------------------------------------------------------


GONE = "they are gone and listed by `muomni failures`: add them again"
# The items whose segments are not the same in the table and in its index.
COLUMNS = 'item_id, ordinal, span_start, span_end, modality, "row" FROM segments'
# The condition, for otherwise SQLite reads the index in the table's place.
TABLE = f"SELECT {COLUMNS} NOT INDEXED WHERE modality > ''"
AGAIN = f"SELECT {COLUMNS} INDEXED BY segments_by_item"
ONE_ONLY = (
    f"SELECT * FROM ({TABLE} EXCEPT {AGAIN}) UNION ALL SELECT * FROM ({AGAIN} EXCEPT {TABLE})"  # noqa: S608
)
TORN = f"SELECT DISTINCT item_id FROM ({ONE_ONLY}) ORDER BY item_id"  # noqa: S608
# Returns those of some items that could be encoded again from what is left of them.
Rescue = Callable[[Sequence[tuple[Item, Known]]], list[NewItem]]


def repair(directory: Path, writer: Writer, rescue: Rescue) -> list[str]:
    """Mend what can be derived; return a line for each thing done."""
    # A stranger goes too: these folders are the store's alone.
    useless = [
        path
        for path in unrecorded(directory, writer.state)
        if is_abandoned(path, writer.state) or not is_leftover(path)
    ]
    done = _repair_database(directory, writer, rescue)
    for modality in Modality:
        if any(True for _ in _check_index(directory, writer, modality)):
            writer.drop_index(modality)
            done.append(f"dropped the damaged index of {modality}; it is built anew from the rows")
        done += _repair_rows(writer, modality, rescue)
        done += _repair_numbers(writer, modality)
    # Last, when nothing can fail any more but the disk.
    for path in useless:
        with disk_errors(path):
            durable.unlink(path)
        done.append(f"removed {path}, which nothing refers to")
    return done


def _repair_database(directory: Path, writer: Writer, rescue: Rescue) -> list[str]:
    """Mend what SQLite itself derives, and references that lead nowhere; forget altered items."""
    is_torn = any(True for _ in _check_database(directory, writer))
    altered = [number for number, _ in altered_items(writer)]
    if not is_torn and not altered:
        return []
    path, done = directory / DATABASE, []
    torn = [number for (number,) in writer.connection.execute(TORN)] if is_torn else []
    # Before indexes are made of what is damaged: two keys may be the same now.
    with writer.with_torn_indexes():
        restored = writer.restore_items(altered)
        if restored:
            done.append(f"{path}: turned a flipped bit back in {len(restored)} items")
        beyond = [number for number in altered if number not in restored]
        lost = writer.lose_items(beyond, "what was stored of it was damaged")
        if lost:
            done.append(f"{path}: {len(lost)} items were damaged; {GONE}")
    if is_torn:
        writer.connection.execute("REINDEX")
        writer.forget_stray_segments()
        done.append(f"{path}: made its indexes anew and dropped segments without an item")
    # Which of two segments is right, nobody knows.
    return done + _save_or_lose(directory, writer, rescue, torn, "its segments were damaged")


def _save_or_lose(
    directory: Path, writer: Writer, rescue: Rescue, item_ids: Sequence[int], reason: str
) -> list[str]:
    """Encode items again, or list them as failures."""
    hurt = writer.items(item_ids)
    if not hurt:
        return []
    known = writer.known([item.key for item in hurt.values()])
    saved = rescue([(item, known[item.key]) for item in hurt.values()])
    writer.put(saved)
    kept = {item.key for item in saved}
    lost = writer.lose_items(
        [number for number, item in hurt.items() if item.key not in kept], reason
    )
    return [
        f"{directory / DATABASE}: the segments of {len(hurt)} items were damaged; {len(saved)} "
        f"items were encoded again; of {len(lost)} tells `muomni failures`: add them again"
    ]


def _repair_rows(writer: Writer, modality: Modality, rescue: Rescue) -> list[str]:
    """Save the rows that are whole; encode the items of the others again, or forget them.

    Where one bit of a block is another one, and nothing else, it is turned back.
    """
    file = writer.row_file(modality)
    if file is None or not file.rows:
        return []
    good = sound_rows(writer, modality)
    flipped = {} if good.all() else _flipped_bits(writer, file)
    for block in flipped:
        good[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS] = True
    if good.all() and not flipped:
        with disk_errors(file.path):
            return _repair_length(file)
    owners = writer.row_items(modality)[~good]
    hurt = writer.items(np.unique(owners[owners >= 0]).tolist())
    known = writer.known([item.key for item in hurt.values()])
    saved = rescue([(item, known[item.key]) for item in hurt.values()])
    kept = {item.key for item in saved}
    lost = writer.lose_items(
        [number for number, item in hurt.items() if item.key not in kept],
        "its vectors were damaged",
    )
    writer.replace_row_file(modality, _mended(file, good, flipped))
    writer.put(saved)
    done = [f"{file.path}: turned a flipped bit back" for _ in flipped]
    if good.all():
        return done
    told = f"{file.path}: {int((~good).sum())} rows were damaged or missing"
    if saved:
        told += f"; {len(saved)} items were encoded again"
    if lost:
        told += f"; {len(lost)} items are gone and listed by `muomni failures`: add them again"
    return [*done, told]


def _flipped_bits(snapshot: Snapshot, file: RowFile) -> dict[int, Flipped]:
    """Return which bit is another one in each block of rows that has no other damage."""
    sums, found = snapshot.block_sums(file.modality), {}
    with disk_errors(file.path), suppress(FileNotFoundError):
        for start, content, is_whole in _blocks(sums, file):
            block = start // BLOCK_ROWS
            is_short = len(content) < _block_length(file, start)
            if is_whole or is_short or block not in sums or (~are_unit(content)).sum() > 1:
                continue
            bit = flipped_bit(content.data.cast("B"), sums[block])
            if bit is not None and _is_shown(content, bit):
                found[block] = bit
    return found


def _is_shown(rows: NDArray[np.float32], bit: Flipped) -> bool:
    """Whether the lengths of rows say too that this bit was flipped.

    Other damage, a page of other rows say, looks like a flipped bit in one of a hundred blocks, but
    then not like one of the row whose length is not what rounding leaves.
    """
    before, after = _misses(rows), _misses(_turned_back(rows, bit))
    row = bit.byte // ROW_BYTES
    others = max(ROUNDED, float(np.delete(after, row).max(initial=0.0)))
    is_row = bit.mask == 0 or before[row] > 2 * others
    return bool(is_row and after[row] <= 2 * others and others < LENGTH_TOLERANCE)


def _misses(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return by how much each row (n, 256) misses a length of 1."""
    misses = np.abs(lengths(rows) - 1)
    return np.where(np.isfinite(misses), misses, np.inf)


def _turned_back(rows: NDArray[np.float32], bit: Flipped) -> NDArray[np.float32]:
    return np.frombuffer(bit.turned_back(rows.data.cast("B")), rows.dtype).reshape(rows.shape)


def _repair_length(file: RowFile) -> list[str]:
    excess = file.path.stat().st_size - file.rows * ROW_BYTES
    if not excess:
        return []
    cut_rows(file.path, file.rows)
    return [f"{file.path}: cut off {excess} bytes that nothing refers to"]


def _mended(
    file: RowFile, good: NDArray[np.bool_], flipped: Mapping[int, Flipped]
) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of a file block by block, bits turned back, lost rows as a unit vector.

    A lost row is dead from now on, but keeps its place, or all rows behind it would move.
    """
    blocks = read_blocks(file.path, file.rows) if good.any() else iter(())
    for start in range(0, file.rows, BLOCK_ROWS):
        kept = good[start : start + BLOCK_ROWS]
        rows = np.zeros((len(kept), DIM), np.float32)
        rows[:, 0] = 1.0
        content = next(blocks, rows[:0])
        if start // BLOCK_ROWS in flipped:
            content = _turned_back(content, flipped[start // BLOCK_ROWS])
        rows[kept] = content[kept[: len(content)]]
        yield rows


def _repair_numbers(writer: Writer, modality: Modality) -> list[str]:
    """Let every item have segments, and every row be a segment's or dead."""
    file = writer.row_file(modality)
    count = file.rows if file else 0
    if not any(True for _ in _check_numbers(writer, modality)):
        return []
    beyond = writer.connection.execute(BEYOND, [str(modality), count])
    lost = {number for (number,) in beyond}
    lost.update(_items_without_segments(writer, modality))
    keys = writer.lose_items(sorted(lost), "it had no vectors")
    live = writer.row_numbers("segments", modality)
    writer.set_dead(modality, np.setdiff1d(np.arange(count), live))
    return [
        f"{modality}: counted the dead rows anew; {len(keys)} items without vectors are listed by "
        "`muomni failures`"
    ]
