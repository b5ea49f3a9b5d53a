"""Mend what can be derived: SQLite's indexes, flipped bits, rows whose items can be encoded again.

What cannot be had back is deleted and listed as a failure, so that the collection is whole.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, select

from muomni_search import durable
from muomni_search.documents import item_bytes, item_checksum
from muomni_search.errors import CorruptData
from muomni_search.items import DIM, Item, Modality
from muomni_search.store import tables
from muomni_search.store.bits import Flipped, flipped_bit
from muomni_search.store.check import (
    TORN,
    altered_items,
    block_length,
    checked_blocks,
    database_faults,
    index_faults,
    items_without_segments,
    number_faults,
    sound_rows,
)
from muomni_search.store.files import is_abandoned, is_leftover, unrecorded
from muomni_search.store.records import Known, NewItem, RowFile
from muomni_search.store.rows import (
    BLOCK_ROWS,
    LENGTH_TOLERANCE,
    ROW_BYTES,
    are_unit,
    cut_rows,
    lengths,
    read_blocks,
)
from muomni_search.store.snapshot import Lookup, Snapshot
from muomni_search.store.sqlite import DATABASE, disk_errors
from muomni_search.store.tables import SUMMED, packed_hash, packed_time, written_time
from muomni_search.store.writer import Writer, quoted

__all__ = ["repair"]

# What rounding to float32 leaves of a length of 1, of most vectors.
ROUNDED = 1e-8
BEYOND = 'SELECT item_id FROM segments WHERE modality = ?1 AND ("row" < 0 OR "row" >= ?2)'
STORED_BY_ID = Lookup(
    "SELECT id, checksum, CAST(hash AS BLOB),"  # noqa: S608
    " iif(typeof(added_ms) = 'integer', added_ms, NULL),"
    f" {', '.join(f'CAST({name} AS BLOB)' for name in SUMMED)}"
    " FROM items WHERE id IN ({wanted})"
)
FIELD_STATEMENTS = (
    "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND name LIKE 'field %'"
)
# Of so many bytes one damage of 8,000 that is no flipped bit looks like one.
SURE_BYTES = 2**16
# What SQLite stores a time of ours in.
TIME_BYTES = 6
# Nothing where another item has the key.
RESTORE_ITEM = (
    "UPDATE OR IGNORE items SET key = ?, modality = ?, source = ?, text = ?, metadata = ?,"
    " hash = ?, added_ms = ?, checksum = ? WHERE id = ?"
)
# By the table's own tree: without the condition SQLite may read an index in its place.
ALL_ITEMS = f"SELECT id FROM items NOT INDEXED WHERE id >= {-(2**63)}"  # noqa: S608
GONE = "they are gone and listed by `muomni failures`: add them again"
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
        if any(True for _ in index_faults(directory, writer, modality)):
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
    is_torn = any(True for _ in database_faults(directory, writer))
    altered = [number for number, _ in altered_items(writer)]
    if not is_torn and not altered:
        return []
    path, done = directory / DATABASE, []
    there = _items(path, writer) if is_torn else set()
    torn = [number for (number,) in writer.connection.execute(TORN)] if is_torn else []
    # Before indexes are made of what is damaged: two keys may be the same now.
    with _torn_indexes(writer):
        restored = _restore_items(writer, altered)
        if restored:
            done.append(f"{path}: turned a flipped bit back in {len(restored)} items")
        beyond = [number for number in altered if number not in restored]
        lost = writer.lose_items(beyond, "what was stored of it was damaged")
        if lost:
            done.append(f"{path}: {len(lost)} items were damaged; {GONE}")
    if is_torn:
        writer.connection.execute("REINDEX")
        _forget_stray_segments(writer)
        if _items(path, writer) != there.difference(beyond):
            raise _beyond(path, "items would be lost that can be read")
        (found,) = writer.connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise _beyond(path, found.splitlines()[-1])  # before it: "*** in database main ***"
        done.append(f"{path}: made its indexes anew and dropped segments without an item")
    # Which of two segments is right, nobody knows.
    return done + _save_or_lose(directory, writer, rescue, torn, "its segments were damaged")


def _items(path: Path, writer: Writer) -> set[int]:
    """Return the ids of all items.

    SQLite makes an index anew, and no table: where a page of one is damaged, what is changed in it
    may take what is whole along.

    Raises:
        CorruptData: The table cannot be read from end to end, or is not in the order of the ids.
    """
    try:
        found = [number for (number,) in writer.connection.execute(ALL_ITEMS)]
    except sqlite3.Error as error:
        raise _beyond(path, str(error)) from error
    if any(one >= other for one, other in pairwise(found)):
        raise _beyond(path, "the table of the items is not in its order")
    return set(found)


def _beyond(path: Path, why: str) -> CorruptData:
    return CorruptData(f"{path} cannot be mended, and nothing was changed: {why}")


@contextmanager
def _torn_indexes(writer: Writer) -> Iterator[None]:
    """Change items as long as this lasts though SQLite's indexes of them may not fit.

    It takes an entry that is not there for damage else, and cannot compute the field of what is
    no JSON: fields are indexed anew at the end.
    """
    kept = writer.connection.execute(FIELD_STATEMENTS).fetchall()
    for name, _ in kept:
        writer.connection.execute(f"DROP INDEX {quoted(name)}")
    # What lets the schema be changed also lets indexes be torn; it is not changed.
    writer.connection.execute("PRAGMA writable_schema = ON")
    try:
        yield
    finally:
        writer.connection.execute("PRAGMA writable_schema = OFF")
    for _, statement in kept:
        writer.connection.execute(statement)


def _restore_items(writer: Writer, item_ids: Iterable[int]) -> set[int]:
    """Turn back the one bit by which items are not what was written; return of which."""
    restored = set()
    for item_id, checksum, own_hash, added_ms, *stored in list(
        writer.for_values(STORED_BY_ID, item_ids)
    ):
        written = _as_written(stored, checksum) or _unpacked(stored, checksum, own_hash, added_ms)
        if written is not None:
            writer.changes()
            *words, content_hash, added = written
            values = [
                *(*words, packed_hash(content_hash), packed_time(added)),
                *(item_checksum(*written), item_id),
            ]
            if writer.connection.execute(RESTORE_ITEM, values).rowcount:
                restored.add(item_id)
    return restored


def _as_written(stored: Sequence[bytes | None], checksum: Any) -> list[Any] | None:
    """Return an item's texts as they were before one bit flipped; None for other damage.

    Args:
        stored: Those of ``SUMMED`` as they lie in the database.
        checksum: What lies there as their checksum.
    """
    data = item_bytes(stored)
    # Where all fits, it was the one that tells a text from bytes.
    if zlib.crc32(data) != checksum:
        # Of longer ones other damage looks like a flipped bit too often.
        bit = flipped_bit(data, checksum) if len(data) < SURE_BYTES else None
        if bit is None:
            return None
        data = bit.turned_back(data)
    # Cut where they were joined: a text may hold a NUL.
    ends = [len(item_bytes(stored[: count + 1])) for count in range(len(stored))]
    try:
        return [
            None if one is None else data[end - len(one) : end].decode()
            for one, end in zip(stored, ends, strict=True)
        ]
    except UnicodeDecodeError:
        return None


def _unpacked(
    stored: Sequence[bytes | None], checksum: Any, own_hash: bytes | None, added_ms: int | None
) -> list[Any] | None:
    """Return an item's texts as they were before one bit of its hash or time flipped.

    One bit there is one or several in what is read of them.

    Args:
        stored: Those of ``SUMMED``, as they are read.
        checksum: What lies there as their checksum.
        own_hash: The bytes of the hash, or of what says that it is a text.
        added_ms: The time, where it is one.
    """
    *words, content_hash, added = stored
    hashes = [one.hex().encode() for one in _one_bit_off(own_hash or b"")]
    times = []
    with suppress(OverflowError):  # of a time that takes more bytes than ours do
        for one in _one_bit_off((added_ms or 0).to_bytes(TIME_BYTES, signed=True)):
            with suppress(OverflowError):
                times.append(written_time(int.from_bytes(one, signed=True)).encode())
    for pair in [*((one, added) for one in hashes), *((content_hash, one) for one in times)]:
        if zlib.crc32(item_bytes([*words, *pair])) == checksum:
            return _as_written([*words, *pair], checksum)
    return None


def _one_bit_off(data: bytes) -> Iterator[bytes]:
    """Yield the bytes, and all that differ from them in one bit."""
    yield data
    for byte, bit in product(range(len(data)), range(8)):
        yield data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :]


def _forget_stray_segments(writer: Writer) -> None:
    """Drop the segments whose items are not there, and those of no modality."""
    columns = tables.segments.c
    is_stray = columns.item_id.not_in(select(tables.items.c.id))
    is_none = columns.modality.not_in(list(map(str, Modality)))
    writer.changes()
    writer.transaction.execute(delete(tables.segments).where(is_stray | is_none))


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
    # Looked up, for other rows that the database names may not be there: see ``_repair_numbers``.
    owners = writer.owners_of(modality, np.flatnonzero(~good))
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
        for start, content, is_whole in checked_blocks(sums, file):
            block = start // BLOCK_ROWS
            is_short = len(content) < block_length(file, start)
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
    if not any(True for _ in number_faults(writer, modality)):
        return []
    beyond = writer.connection.execute(BEYOND, [str(modality), count])
    lost = {number for (number,) in beyond}
    lost.update(items_without_segments(writer, modality))
    keys = writer.lose_items(sorted(lost), "it had no vectors")
    live = writer.row_numbers("segments", modality)
    writer.set_dead(modality, np.setdiff1d(np.arange(count), live))
    return [
        f"{modality}: counted the dead rows anew; {len(keys)} items without vectors are listed by "
        "`muomni failures`"
    ]
