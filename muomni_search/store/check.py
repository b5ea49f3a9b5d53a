"""Hold SQLite, row files and index files against each other, and mend what can be derived."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select, text

from muomni_search.items import Modality
from muomni_search.store import durable, tables
from muomni_search.store.rows import BLOCK_ROWS, ROW_BYTES, ROW_TYPE
from muomni_search.store.store import INDEX, VECTORS, Fault, RowFile, Snapshot, Writer

__all__ = ["check", "repair"]

# A unit vector of float32 may miss its length by rounding alone, about 256 ulp.
LENGTH_TOLERANCE = 1e-4


def check(directory: Path, snapshot: Snapshot) -> Iterator[Fault]:
    """Yield every fault of a collection, as one snapshot shows it."""
    yield from _check_database(directory, snapshot)
    for modality in Modality:
        yield from _check_numbers(snapshot, modality)
        yield from _check_rows(snapshot, modality)
        yield from _check_index(directory, snapshot, modality)
    yield from _check_orphans(directory, snapshot)


def _check_database(directory: Path, snapshot: Snapshot) -> Iterator[Fault]:
    where = str(directory / "collection.db")
    connection = snapshot.connection
    for (line,) in connection.execute(text("PRAGMA integrity_check")):
        if line != "ok":
            yield Fault("database", where, line)
    for row in connection.execute(text("PRAGMA foreign_key_check")):
        yield Fault("database", where, f"row {row[1]} of {row[0]} refers to nothing in {row[2]}")


def _check_numbers(snapshot: Snapshot, modality: Modality) -> Iterator[Fault]:
    """Check that every row is a segment or dead, once, and every item has segments."""
    file = snapshot.row_file(modality)
    count = file.rows if file else 0
    segments, dead = tables.segments, tables.dead_rows
    connection = snapshot.connection
    live = snapshot.row_numbers(segments, modality)
    gone = snapshot.row_numbers(dead, modality)
    where = str(modality)
    if file is not None and file.dead != len(gone):
        yield Fault("count", where, f"{len(gone)} dead rows, {file.dead} counted")
    seen = np.zeros(count, np.int8)
    for numbers in (live, gone):
        outside = numbers[(numbers < 0) | (numbers >= count)]
        if len(outside):
            yield Fault("orphan", where, f"row {outside[0]} is not among the {count} rows")
        np.add.at(seen, numbers[(numbers >= 0) & (numbers < count)], 1)
    if (seen == 0).any():
        yield Fault("orphan", where, f"row {int(np.argmin(seen))} belongs to no segment")
    if (seen > 1).any():
        yield Fault("orphan", where, f"row {int(np.argmax(seen))} is both a segment's and dead")
    without = connection.execute(
        select(tables.items.c.key)
        .outerjoin(segments)
        .where(tables.items.c.modality == modality, segments.c.row.is_(None))
        .limit(1)
    ).scalar()
    if without is not None:
        yield Fault("orphan", where, f"the item {without} has no segment")
    strange = connection.execute(
        select(tables.items.c.key)
        .join(segments)
        .where(tables.items.c.modality == modality, segments.c.modality != modality)
        .limit(1)
    ).scalar()
    if strange is not None:
        yield Fault("orphan", where, f"the item {strange} has segments of another modality")


def _check_rows(snapshot: Snapshot, modality: Modality) -> Iterator[Fault]:
    file = snapshot.row_file(modality)
    if file is None:
        return
    if not file.path.exists():
        yield Fault("rows", str(file.path), "missing")
        return
    size = file.path.stat().st_size
    if size < file.rows * ROW_BYTES:
        yield Fault("rows", str(file.path), f"{size} bytes, {file.rows * ROW_BYTES} needed")
    sums = snapshot.block_sums(modality)
    for block, content in enumerate(_blocks(file)):
        where = f"{file.path}, rows from {block * BLOCK_ROWS}"
        expected = min(BLOCK_ROWS, file.rows - block * BLOCK_ROWS)
        if len(content) < expected:
            continue
        if zlib.crc32(memoryview(content).cast("B")) != sums.get(block):
            yield Fault("checksum", where, "the rows are not those that were written")
        if not _are_unit(content).all():
            yield Fault("norm", where, "a row is not a finite vector of length 1")


def _blocks(file: RowFile) -> Iterator[NDArray[np.float32]]:
    """Yield the rows of a file block by block; a cut-off last row is left out."""
    with file.path.open("rb") as stream:
        for start in range(0, file.rows, BLOCK_ROWS):
            wanted = min(BLOCK_ROWS, file.rows - start)
            data = stream.read(wanted * ROW_BYTES)
            whole = len(data) // ROW_BYTES
            yield np.frombuffer(data[: whole * ROW_BYTES], ROW_TYPE).reshape(whole, -1)


def _are_unit(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    with np.errstate(all="ignore"):
        lengths = np.sqrt(np.sum(rows.astype(np.float64) ** 2, axis=1))
    unit: NDArray[np.bool_] = np.abs(lengths - 1) < LENGTH_TOLERANCE
    return unit


def _check_index(directory: Path, snapshot: Snapshot, modality: Modality) -> Iterator[Fault]:
    index = snapshot.index_file(modality)
    if index is None:
        return
    path = directory / INDEX / index.name
    if not path.exists():
        yield Fault("index", str(path), "missing")
    elif path.stat().st_size != index.bytes:
        yield Fault("index", str(path), f"{path.stat().st_size} bytes, expected {index.bytes}")
    elif hashlib.sha256(path.read_bytes()).hexdigest() != index.checksum:
        yield Fault("index", str(path), "not the file that was written")


def _check_orphans(directory: Path, snapshot: Snapshot) -> Iterator[Fault]:
    for path in _orphans(directory, snapshot):
        yield Fault("orphan", str(path), "a file that nothing refers to")


def _orphans(directory: Path, snapshot: Snapshot) -> Iterator[Path]:
    expected = set()
    for modality in Modality:
        file, index = snapshot.row_file(modality), snapshot.index_file(modality)
        if file is not None:
            expected.add(file.path)
        if index is not None:
            expected.add(directory / INDEX / index.name)
    for folder in (VECTORS, INDEX):
        for path in sorted((directory / folder).iterdir()):
            # The first rows of a modality: their writer died before the commit, and the next one
            # will write over them.
            unborn = path.name in {f"{modality}.0.f32" for modality in Modality}
            if path not in expected and not unborn:
                yield path


def repair(directory: Path, writer: Writer) -> list[str]:
    """Mend what can be derived; return a line for each thing done."""
    done = []
    for path in list(_orphans(directory, writer)):
        durable.unlink(path)
        done.append(f"removed {path}, which nothing referred to")
    for modality in Modality:
        if any(True for _ in _check_index(directory, writer, modality)):
            writer.drop_index(modality)
            done.append(f"dropped the damaged index of {modality}; it is built anew from the rows")
        done += _repair_rows(writer, modality)
    return done


def _repair_rows(writer: Writer, modality: Modality) -> list[str]:
    """Save the rows that are whole; forget the items of those that are not."""
    file = writer.row_file(modality)
    if file is None or not any(True for _ in _check_rows(writer, modality)):
        return []
    sums = writer.block_sums(modality)
    kept = np.zeros((file.rows, ROW_BYTES // 4), np.float32)
    kept[:, 0] = 1.0  # stands in for a lost row, which is dead from now on
    good = np.zeros(file.rows, bool)
    if file.path.exists():
        for block, content in enumerate(_blocks(file)):
            start = block * BLOCK_ROWS
            whole = len(content) == min(BLOCK_ROWS, file.rows - start)
            intact = whole and zlib.crc32(memoryview(content).cast("B")) == sums.get(block)
            if intact:
                kept[start : start + len(content)] = content
                good[start : start + len(content)] = True
    lost = np.flatnonzero(~good)
    keys = writer.forget_vectors(modality, lost)
    writer.replace_row_file(modality, kept)
    return [
        f"{file.path}: {len(lost)} rows were damaged; their {len(keys)} items are listed by "
        "`muomni failures` and come back when they are added again"
    ]
