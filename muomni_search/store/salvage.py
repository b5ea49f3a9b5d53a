"""What can still be read of a damaged store, and what cannot.

A page that SQLite cannot read fails every statement that comes across it. So few items or rows are
asked for at a time; what fails is asked for in halves, down to the single ones that are lost. Which
rows there can be is known from their file, which ids from the segments.
"""

from __future__ import annotations

import bisect
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import CorruptData
from muomni_search.items import Item, Modality, Span
from muomni_search.store.check import AGAIN, MAX_ID, altered_items, sound_rows
from muomni_search.store.rows import NO_ROWS, ROW_BYTES, MappedRows
from muomni_search.store.snapshot import ItemRow, Snapshot, item_of, span_of

__all__ = ["Salvaged", "rows_left", "salvage"]

Found = TypeVar("Found")
# Items or rows asked for at once where nothing is damaged.
PAGE = 1_024
ITEMS = (
    f"SELECT content_hash, {', '.join(ItemRow._fields[:-1])}, 0 AS segments"  # noqa: S608
    " FROM items WHERE id = ?"
)
# Whose a key is by its index, which has both.
ID_AGAIN = "SELECT id FROM items INDEXED BY sqlite_autoindex_items_1 WHERE key = ?"
KEYS = "SELECT id, key FROM items WHERE id > ? ORDER BY id LIMIT ?"
# With a limit, or SQLite looks at the page behind the last one too.
ROWS = (
    'SELECT item_id, ordinal, "row", span_start, span_end FROM segments'
    ' WHERE modality = ?1 AND "row" BETWEEN ?2 AND ?3 LIMIT ?3 - ?2 + 1'
)
# What their index says of the segments of some items.
INDEXED = f"{AGAIN} WHERE item_id BETWEEN ? AND ?"


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
        return self._snapshot.ask(statement, values).fetchall()

    def past_damage(
        self, read: Callable[[int, int], list[Found]], first: int, last: int
    ) -> Iterator[Found]:
        """Yield what ``read`` finds between two numbers, both included."""
        for start in range(first, last + 1, PAGE):
            yield from self._halved(read, start, min(last, start + PAGE - 1))

    def _halved(
        self, read: Callable[[int, int], list[Found]], first: int, last: int
    ) -> Iterator[Found]:
        try:
            found = read(first, last)
        except (sqlite3.Error, CorruptData):
            if first == last:
                self.unreadable += 1
                return
            middle = (first + last) // 2
            yield from self._halved(read, first, middle)
            yield from self._halved(read, middle + 1, last)
            return
        yield from found

    def ids_again(self, key: str) -> list[tuple[int]]:
        """Return the ids that the index of keys has for one; none where it cannot be read."""
        try:
            return self.ask(ID_AGAIN, key)
        except sqlite3.Error:
            return []

    def keys(self, owners: Sequence[int]) -> dict[int, str]:
        """Return the keys of the items that can be read, by their ids.

        Args:
            owners: The ids that segments name, sorted: where to go on behind a page that is lost,
                for ids may lie anywhere.
        """
        found: dict[int, str] = {}
        after, page = -MAX_ID, PAGE
        while True:
            try:
                rows = self.ask(KEYS, after, page)
            except sqlite3.Error:
                rows = []
                is_lost = True
            else:
                # What is read in a damaged order would be read again and again.
                is_lost = any(number <= after for number, _ in rows)
            if not is_lost:
                found.update(rows)
                if len(rows) < page:
                    return found
                after, page = max(number for number, _ in rows), min(PAGE, 2 * page)
            elif page > 1:
                page //= 2
            else:
                at = bisect.bisect_right(owners, after)
                if at == len(owners):
                    return found
                # The one in the way may lie before the next owner, which is then asked for itself.
                after = max(after + 1, owners[at] - 1)


def salvage(snapshot: Snapshot) -> tuple[Iterator[Salvaged], list[str]]:
    """Return the items that are whole, by key, and a list of what is left out.

    The list is complete when the items have come to their end.
    """
    reader, left_out = _Reader(snapshot), list[str]()
    rows = {modality: _rows(snapshot, reader, modality) for modality in Modality}
    if reader.unreadable:
        left_out.append(f"{reader.unreadable} rows: whose they are cannot be read, if anybody's")
    owners = {owner for found in rows.values() for owner in found}
    keys = reader.keys(sorted(owners))
    ids = sorted(keys)

    def compared(first: int, last: int) -> list[tuple[int, bool]]:
        altered = {number for number, _ in altered_items(snapshot, ids[first], ids[last])}
        return [(number, number in altered) for number in ids[first : last + 1]]

    if any(name == "checksum" for _, name, *_ in reader.ask("PRAGMA table_info(items)")):
        is_altered = dict(reader.past_damage(compared, 0, len(ids) - 1))
    else:
        # Of an earlier version, and too damaged to be brought up to date.
        is_altered = dict.fromkeys(ids, False)
        left_out.append("nothing for a flipped byte: an earlier version kept no checksums of items")
    is_torn = dict(
        reader.past_damage(
            lambda first, last: _torn(reader, rows, ids[first : last + 1]), 0, len(ids) - 1
        )
    )
    unknown = len(ids) - len(is_torn)
    if unknown:
        left_out.append(
            f"any proof of whose vectors {unknown} items have: their segments cannot be held "
            "against their index"
        )
    left = {number for number in ids if not (is_torn.get(number) or is_altered.get(number))}
    sound = {one: _sound(snapshot, one, rows[one], left, left_out) for one in Modality}
    lost = owners - keys.keys()
    if lost:
        left_out.append(f"{len(lost)} items that have segments cannot be read")
    return _whole(reader, keys, is_altered, is_torn, rows, sound, left_out), left_out


def rows_left(snapshot: Snapshot, modality: Modality) -> NDArray[np.float32]:
    """Return the rows of a modality, as many as its file has."""
    file = snapshot.row_file(modality)
    if file is None or not file.path.exists():
        return NO_ROWS
    rows = min(file.rows, file.path.stat().st_size // ROW_BYTES)
    return MappedRows(file.path, rows).vectors() if rows else NO_ROWS


_Rows = dict[int, list[tuple[int, int, int | None, int | None]]]


def _rows(snapshot: Snapshot, reader: _Reader, modality: Modality) -> _Rows:
    """Return the ordinal, row and span of the segments of each item of a modality."""
    file = snapshot.row_file(modality)
    if file is None or not file.rows:
        return {}
    found: _Rows = {}
    for item_id, ordinal, row, start, end in reader.past_damage(
        lambda a, b: reader.ask(ROWS, str(modality), a, b), 0, file.rows - 1
    ):
        if isinstance(item_id, int) and isinstance(row, int) and 0 <= row < file.rows:
            found.setdefault(item_id, []).append((ordinal, row, start, end))
    return found


def _torn(
    reader: _Reader, rows: dict[Modality, _Rows], ids: Sequence[int]
) -> list[tuple[int, bool]]:
    """Return of each item whether its segments are others than their index says."""
    told: dict[int, list[Any]] = {number: [] for number in ids}
    for number, *segment in reader.ask(INDEXED, ids[0], ids[-1]):
        told.get(number, []).append(tuple(segment))
    return [
        (
            number,
            sorted(map(repr, segments))
            != sorted(
                repr((ordinal, start, end, str(modality), row))
                for modality, found in rows.items()
                for ordinal, row, start, end in found.get(number, ())
            ),
        )
        for number, segments in told.items()
    ]


def _sound(
    snapshot: Snapshot,
    modality: Modality,
    rows: _Rows,
    left: set[int],
    left_out: list[str],
) -> NDArray[np.bool_]:
    """Return which rows are whole, and named by one item at most that is not known as damaged."""
    file = snapshot.row_file(modality)
    if file is None or not file.rows:
        return np.empty(0, bool)
    sound = sound_rows(snapshot, modality)
    if not sound.all():
        left_out.append(f"{file.path}: {int((~sound).sum())} rows are damaged or missing")
    named = [row for number in left for _, row, *_ in rows.get(number, ())]
    return sound & (np.bincount(np.array(named, np.int64), minlength=len(sound)) < 2)


def _whole(
    reader: _Reader,
    keys: dict[int, str],
    is_altered: dict[int, bool],
    is_torn: dict[int, bool],
    rows: dict[Modality, _Rows],
    sound: dict[Modality, NDArray[np.bool_]],
    left_out: list[str],
) -> Iterator[Salvaged]:
    seen: str | None = None
    for item_id in sorted(keys, key=lambda one: str(keys[one])):
        key = keys[item_id]
        reason: str | None = "it cannot be read"
        if is_altered.get(item_id):
            reason = "what is stored of it is not what was written"
        for content_hash, *found in (
            reader.past_damage(lambda one, _: reader.ask(ITEMS, one), item_id, item_id)
            if is_altered.get(item_id) is False
            else ()
        ):
            try:
                item = item_of(ItemRow._make(found))
            except CorruptData:
                reason = "what is stored of it is damaged"
                continue
            segments = rows[item.modality].get(item_id, [])
            is_counted = all(isinstance(ordinal, int) for ordinal, *_ in segments)
            if is_counted:
                segments = sorted(segments, key=lambda segment: segment[:2])
            ordinals = [ordinal for ordinal, *_ in segments]
            numbers = np.array([row for _, row, *_ in segments], np.int64)
            if reader.ids_again(item.key) not in ([], [(item_id,)]):
                reason = "its number is not what was written, or the index of its key is not"
            elif is_torn.get(item_id) or not is_counted:
                reason = "its segments are not what was written, or their index is not"
            elif not segments or ordinals != list(range(len(segments))):
                reason = "not all of its segments can be read"
            elif not sound[item.modality][numbers].all():
                reason = "its vectors are damaged, or another item's"
            elif key == seen:
                reason = "there is another one of this key"
            else:
                seen, reason = key, None
                yield Salvaged(
                    item,
                    content_hash,
                    numbers,
                    [span_of(item.modality, start, end) for *_, start, end in segments],
                )
        if reason:
            left_out.append(f"item {item_id} ({key}): {reason}")
