"""Filters on fields that were asked for before: by columns, where these tell as much as SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import OperationalError, connect
from typing import Any

import numpy as np
import pytest

from muomni_search.filters import parse_filter
from muomni_search.items import DIM, Modality
from muomni_search.store import columns, snapshot
from muomni_search.store.columns import Column
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.store import NewItem, Store

COUNT = 40


def item(number: int, **metadata: Any) -> NewItem:
    vector = np.eye(1, DIM, number, np.float32)
    return NewItem(f"k{number:02}", Modality.TEXT, vector, [None], metadata=metadata)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "c", model="m", fingerprint="f") as made:
        with made.write() as writer:
            writer.put(
                [
                    item(number, year=2000 + number, kind="ab"[number % 2], tags=["t", number])
                    for number in range(COUNT)
                ]
            )
        yield made


def reads(seen: Snapshot, text: str) -> tuple[list[int], int]:
    """Return the rows that a filter lets through, and how many statements read metadata for it."""
    condition = parse_filter(text)
    assert condition is not None
    statements: list[str] = []
    seen.connection.set_trace_callback(statements.append)
    try:
        rows = seen.matching_rows(Modality.TEXT, condition)
    finally:
        seen.connection.set_trace_callback(None)
    return rows.tolist(), sum("json_" in one and "FROM items" in one for one in statements)


def test_the_second_filter_on_a_field_reads_it_and_the_third_reads_nothing(store: Store) -> None:
    with store.snapshot() as seen:
        assert reads(seen, "year >= 2030") == (list(range(30, 40)), 1)
        assert reads(seen, "year >= 2030") == (list(range(30, 40)), 0)
        assert reads(seen, "year < 2003") == ([0, 1, 2], 1)
        assert reads(seen, "year = 2007") == ([7], 0)
        # Another field is new, and the two together read it alone.
        assert reads(seen, "kind = 'a'") == (list(range(0, 40, 2)), 1)
        assert reads(seen, "kind = 'b' and year < 2004") == ([1, 3], 1)
        assert reads(seen, "kind < 'b' or not year < 2039") == ([*range(0, 40, 2), 39], 0)
        assert reads(seen, "kind contains 'c' or year in (2001, 2002.0, '2003')") == ([1, 2], 0)


def test_what_was_committed_since_is_found(store: Store) -> None:
    with store.snapshot() as seen:
        for text in ("year > 2010", "year > 2020", "year > 2030"):
            reads(seen, text)
    with store.write() as writer:
        writer.put([item(50, year=2050), item(3, year=1900)])
    with store.snapshot() as seen:
        assert reads(seen, "year > 2038") == ([39, 40], 1)
        assert reads(seen, "year < 2002") == ([0, 1, 41], 1)
        assert reads(seen, "year = 1900") == ([41], 0)


@pytest.mark.parametrize("field", ["tags contains {}", "key = 'k{:02}'", "source is null"])
def test_what_columns_do_not_tell_is_left_to_sql(store: Store, field: str) -> None:
    with store.snapshot() as seen:
        for number in (5, 6, 7):
            rows, _ = reads(seen, field.format(number))
            assert rows == (list(range(40)) if "null" in field else [number])
        assert ("column", "key") not in seen.state.arrays
        assert ("column", "source") not in seen.state.arrays


def test_a_field_with_an_index_is_left_to_it(store: Store) -> None:
    with store.write() as writer:
        writer.index_field(("year",))
    with store.snapshot() as seen:
        for number in range(4):
            assert reads(seen, f"year = {2000 + number}")[0] == [number]
        assert ("column", "year") not in seen.state.arrays


def test_more_texts_than_are_kept_are_read_no_further(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "MOST_TEXTS", 1)
    monkeypatch.setattr(columns, "READ_AT_ONCE", 10)
    with store.snapshot() as seen:
        for text, rows in (("kind = 'a'", 20), ("kind = 'b'", 20), ("kind is null", 0)):
            found, read = reads(seen, text)
            assert (len(found), read > 0) == (rows, True)
    taken: list[int] = []

    def values() -> Iterator[tuple[str, bytes]]:
        for number in range(COUNT):
            taken.append(number)
            yield "text", b"%d" % number

    assert not Column.of(values(), COUNT).is_told
    assert len(taken) == 10


def test_more_items_than_may_be_kept_are_left_to_sql(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "ROW_BYTES", snapshot.ARRAY_BYTES // 2 // COUNT)
    with store.snapshot() as seen:
        for number in range(3):
            text = f"year = {2000 + number} and kind > ''"
            assert reads(seen, text) == ([number], 1)
        assert [reads(seen, f"year = {2000 + number}")[1] for number in range(3, 6)] == [1, 1, 0]


def test_an_item_that_is_damaged_costs_no_answer_that_sql_gives(store: Store) -> None:
    with closing(connect(store.database)) as database, database:
        database.execute("UPDATE items SET metadata = '{\"year\": ' WHERE key = 'k05'")
        database.execute("UPDATE items SET modality = 'audio' WHERE key = 'k05'")
    with store.snapshot() as seen:
        for number in range(6, 9):
            text = f"modality = 'text' and year = {2000 + number}"
            assert reads(seen, text)[0] == [number]
        with pytest.raises(OperationalError, match="malformed JSON"):
            reads(seen, "year = 2000")


def test_how_much_a_column_takes_is_known() -> None:
    column = Column.of([("integer", 1), ("text", b"ab"), (None, None)], 3)
    assert column.nbytes == 3 * columns.ROW_BYTES + columns.TEXT_BYTES + 2
    assert Column.of([("integer", 2**53 + 1)], 1).numbers is None
    assert Column.of([("integer", 2**53)], 1).numbers is not None
