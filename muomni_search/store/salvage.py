"""What can still be read of a damaged store, and what cannot.

A page that SQLite cannot read fails every statement that comes across it. So ranges of ids and of
rows are asked for, and one that fails is halved, down to the single ones that are lost.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import exc

from muomni_search.errors import CorruptData
from muomni_search.items import Item, Modality, Span
from muomni_search.store.check import altered_items, sound_rows
from muomni_search.store.rows import NO_ROWS, ROW_BYTES, MappedRows
from muomni_search.store.snapshot import Snapshot, item_of, span_of

__all__ = ["Salvaged", "rows_left", "salvage"]

Found = TypeVar("Found")
# Ids asked for at once where nothing is damaged.
PAGE_IDS = 1_024
ITEMS = (
    "SELECT id, key, modality, source, text, metadata, added, content_hash, 0 AS segments"
    " FROM items WHERE id BETWEEN ? AND ?"
)
KEYS = "SELECT id, key FROM items WHERE id BETWEEN ? AND ?"
ROWS = (
    'SELECT item_id, ordinal, "row", span_start, span_end FROM segments'
    ' WHERE modality = ? AND "row" BETWEEN ? AND ?'
)


@dataclass(frozen=True, slots=True)
class Salvaged:
    """An item that is whole.

    Args:
        item: The item; how many segments it has is not counted.
        content_hash: The hash of its content.
        rows: Its rows in its modality's file, in order.
        spans: The span of each.
    """

    item: Item
    content_hash: str | None
    rows: NDArray[np.int64]
    spans: Sequence[Span | None]


class _Reader:
    """Reads ranges of a snapshot, past what cannot be read."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.unreadable = 0

    def ask(self, statement: str, *values: Any) -> list[Any]:
        return list(self._snapshot.connection.exec_driver_sql(statement, values))

    def past_damage(
        self, read: Callable[[int, int], list[Found]], first: int, last: int
    ) -> Iterator[Found]:
        """Yield what ``read`` finds between two numbers, both included."""
        for start in range(first, last + 1, PAGE_IDS):
            yield from self._halved(read, start, min(last, start + PAGE_IDS - 1))

    def _halved(
        self, read: Callable[[int, int], list[Found]], first: int, last: int
    ) -> Iterator[Found]:
        try:
            found = read(first, last)
        except (exc.DBAPIError, sqlite3.Error, CorruptData):
            if first == last:
                self.unreadable += 1
                return
            middle = (first + last) // 2
            yield from self._halved(read, first, middle)
            yield from self._halved(read, middle + 1, last)
            return
        yield from found

    def last_id(self) -> int:
        """Return an id that no item is beyond."""
        try:
            return int(self.ask("SELECT coalesce(max(id), 0) FROM items")[0][0])
        except (exc.DBAPIError, sqlite3.Error):
            # Each item has a row; those of items that were replaced are beyond that by far.
            files = self._snapshot.state.row_files.values()
            return 2 * sum(file.rows for file in files) + PAGE_IDS


def salvage(snapshot: Snapshot) -> tuple[Iterator[Salvaged], list[str]]:
    """Return the items that are whole, by key, and a list of what is left out.

    The list is complete when the items have come to their end.
    """
    reader, left_out = _Reader(snapshot), list[str]()
    last = reader.last_id()
    keys = {
        row.id: row.key for row in reader.past_damage(lambda a, b: reader.ask(KEYS, a, b), 1, last)
    }
    if reader.unreadable:
        left_out.append(f"{reader.unreadable} ids of items cannot be read; there may be none")
    altered = dict(reader.past_damage(lambda a, b: [*altered_items(snapshot, a, b)], 1, last))
    rows = {modality: _rows(snapshot, reader, modality, left_out) for modality in Modality}
    lost = {owner for found in rows.values() for owner in found} - keys.keys()
    if lost:
        left_out.append(f"{len(lost)} items that have segments cannot be read")
    return _whole(reader, keys, altered, rows, left_out), left_out


def rows_left(snapshot: Snapshot, modality: Modality) -> NDArray[np.float32]:
    """Return the rows of a modality, as many as its file has."""
    file = snapshot.row_file(modality)
    if file is None or not file.path.exists():
        return NO_ROWS
    rows = min(file.rows, file.path.stat().st_size // ROW_BYTES)
    return MappedRows(file.path, rows).vectors() if rows else NO_ROWS


_Rows = dict[int, list[tuple[int, int, int | None, int | None]]]


def _rows(snapshot: Snapshot, reader: _Reader, modality: Modality, left_out: list[str]) -> _Rows:
    """Return the ordinal, row and span of the segments of each item of a modality."""
    file = snapshot.row_file(modality)
    if file is None or not file.rows:
        return {}
    sound = sound_rows(snapshot, modality)
    if not sound.all():
        left_out.append(f"{file.path}: {int((~sound).sum())} rows are damaged or missing")
    found: _Rows = {}
    for item_id, ordinal, row, start, end in reader.past_damage(
        lambda a, b: reader.ask(ROWS, str(modality), a, b), 0, file.rows - 1
    ):
        if isinstance(row, int) and 0 <= row < file.rows:
            found.setdefault(item_id, []).append((ordinal, row if sound[row] else -1, start, end))
    return found


def _whole(
    reader: _Reader,
    keys: dict[int, str],
    altered: dict[int, str],
    rows: dict[Modality, _Rows],
    left_out: list[str],
) -> Iterator[Salvaged]:
    seen = None
    for item_id in sorted(keys, key=lambda one: str(keys[one])):
        key = keys[item_id]
        reason: str | None = (
            "what is stored of it is not what was written"
            if item_id in altered
            else "it cannot be read"
        )
        for found in (
            ()
            if item_id in altered
            else reader.past_damage(lambda a, b: reader.ask(ITEMS, a, b), item_id, item_id)
        ):
            try:
                item = item_of(found)
            except CorruptData:
                reason = "what is stored of it is damaged"
                continue
            segments = sorted(rows[item.modality].get(item_id, []))
            ordinals = [ordinal for ordinal, *_ in segments]
            if not segments or ordinals != list(range(len(segments))):
                reason = "not all of its segments can be read"
            elif min(row for _, row, *_ in segments) < 0:
                reason = "its vectors are damaged"
            elif key == seen:
                reason = "there is another one of this key"
            else:
                seen, reason = key, None
                yield Salvaged(
                    item,
                    found.content_hash,
                    np.array([row for _, row, *_ in segments], np.int64),
                    [span_of(item.modality, start, end) for *_, start, end in segments],
                )
        if reason:
            left_out.append(f"item {item_id} ({key}): {reason}")
