"""Filters on fields that were asked for before: by columns, where these tell as much as SQL."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count
from pathlib import Path
from sqlite3 import OperationalError, connect
from time import sleep
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search.filters import Test, parse_filter
from muomni_search.items import DIM, Modality, Span
from muomni_search.store import columns, snapshot
from muomni_search.store.columns import Column, Columns, matching
from muomni_search.store.fields import lacking_fields
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.sql_filter import field_values
from muomni_search.store.store import NewItem, Store

COUNT = 40


def item(number: int, **metadata: Any) -> NewItem:
    # Keys in another order than ids.
    vector = np.eye(1, DIM, number, np.float32)
    return NewItem(f"k{99 - number}", Modality.TEXT, vector, [None], metadata=metadata)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    # A field is read as soon as SQL has taken any time for it, a second for each filter.
    monkeypatch.setattr(columns, "READING_TIME", 0)
    ticks = count()
    monkeypatch.setattr(snapshot, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
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
        assert reads(seen, "kind >= 'b' and kind <= 'b' and year > 2035") == ([37, 39], 0)
        assert reads(seen, "not kind > 'a' and year < 2004") == ([0, 2], 0)
        with pytest.raises(ValueError, match="read-only"):
            seen.matching_rows(Modality.TEXT, Test(("year",), "=", 2007))[0] = 8


def test_a_field_is_read_when_sql_has_taken_as_long_for_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "READING_TIME", 0.5)
    kept, year, kind = Columns(), ("year",), ("kind",)

    def is_worth(*fields: tuple[str, ...]) -> bool:
        return kept.is_worth(fields, lambda: 4)

    assert not is_worth(year)
    kept.spend([year], 1.9)
    assert not is_worth(year)
    kept.spend([year, kind], 0.2)
    assert is_worth(year)
    assert not is_worth(year, kind)
    kept.spend([kind], 1.9)
    assert is_worth(year, kind)
    # Where one took longer than reading is thought to take, that may well do so too.
    kept.spend([year, kind], 9)
    assert not is_worth(year)
    kept.spend([year], 2.5)
    assert is_worth(year)
    for number in range(2 * columns.MOST_FIELDS):
        kept.spend([(str(number),)], 9)
    assert len(kept._spent) == columns.MOST_FIELDS
    assert is_worth(("1",))
    assert not is_worth((str(columns.MOST_FIELDS),))
    with store.snapshot() as seen:
        for number in range(4):
            assert reads(seen, f"year = {2000 + number}") == ([number], 1)


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


def test_that_no_item_has_a_field_is_looked_up_once_a_version(store: Store) -> None:
    def looks(text: str) -> tuple[dict[str, list[str]], int]:
        condition = parse_filter(text)
        assert condition is not None
        statements: list[str] = []
        with store.snapshot() as seen:
            seen.connection.set_trace_callback(statements.append)
            lacking = lacking_fields(seen, condition)
            seen.connection.set_trace_callback(None)
        return lacking, sum(one.startswith("SELECT id FROM items WHERE") for one in statements)

    assert looks("yaer > 2000") == ({"yaer": ["year"]}, 1)
    assert looks("yaer > 2001 and kind = 'a'") == ({"yaer": ["year"]}, 1)
    assert looks("yaer > 2000") == ({"yaer": ["year"]}, 0)
    with store.write() as writer:
        writer.put([item(50, yaer=2050)])
    assert looks("yaer > 2000") == ({}, 1)
    assert looks("yaer > 2000") == ({}, 0)


@pytest.mark.parametrize(
    "field", ["tags contains {}", "key = 'k{}'", "source is null or key = '{}'"]
)
def test_what_columns_do_not_tell_is_left_to_sql(store: Store, field: str) -> None:
    with store.snapshot() as seen:
        for number in (5, 6, 7):
            asked = 99 - number if "k{" in field else number
            rows, _ = reads(seen, field.format(asked))
            assert rows == (list(range(40)) if "null" in field else [number])
        assert {("key",), ("source",)}.isdisjoint(seen.state.columns._columns)


def test_a_field_with_an_index_is_read_too_where_that_takes_long(store: Store) -> None:
    with store.write() as writer:
        writer.index_field(("year",))
    with store.snapshot() as seen:
        for number in range(4):
            rows, read = reads(seen, f"year != {2000 + number}")
            assert (len(rows), read) == (COUNT - 1, number < 2)


@pytest.mark.parametrize(
    ("limit", "most", "read"),
    [("MOST_TEXTS", 9, 10), ("MOST_TEXT_BYTES", 15, 20), ("MOST_TEXTS", 40, 40)],
)
def test_more_texts_than_are_kept_are_read_no_further(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, read: int
) -> None:
    monkeypatch.setattr(columns, limit, most)
    monkeypatch.setattr(columns, "READ_AT_ONCE", 10)
    taken: list[int] = []

    def values() -> Iterator[tuple[str, bytes]]:
        for number in range(COUNT):
            taken.append(number)
            yield "text", b"%d" % number

    assert Column.of(values(), COUNT).is_told == (read == COUNT)
    assert len(taken) == read


def test_long_texts_are_not_read_and_left_to_sql(store: Store) -> None:
    long = "ü" * (columns.LONGEST_TEXT + 1)
    with store.write() as writer:
        writer.put([item(41, title=long), item(42, title=long[1:])])
    with store.snapshot() as seen:
        for text, rows in (("= 'x'", []), (f"= '{long}'", [40]), (f">= '{long[1:]}'", [40, 41])):
            assert reads(seen, f"title {text}")[0] == rows
        assert not seen.state.columns._columns["title",].is_told
        fetched = seen.ask(*field_values(("title",))).fetchall()
        assert fetched[-2:] == [("text", None), ("text", long[1:].encode())]


def test_more_than_there_is_room_for_is_left_to_sql_and_drives_nothing_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = COUNT * (columns.ID_BYTES + columns.ROW_BYTES)
    monkeypatch.setattr(columns, "COLUMN_BYTES", room)
    with store.snapshot() as seen:
        for number in range(3):
            assert reads(seen, f"year = {2000 + number} and kind > ''") == ([number], 1)
        assert [reads(seen, f"year = {2000 + number}")[1] for number in range(3, 6)] == [1, 0, 0]
        assert [reads(seen, f"kind > '{number}'")[1] for number in range(3)] == [1, 1, 1]
        assert reads(seen, "year = 2011") == ([11], 0)


def test_an_item_that_is_damaged_costs_no_answer_that_sql_gives(store: Store) -> None:
    with closing(connect(store.database)) as database, database:
        database.execute("UPDATE items SET metadata = '{\"year\": ' WHERE key = 'k94'")
        database.execute("UPDATE items SET modality = 'audio' WHERE key = 'k94'")
    with store.snapshot() as seen:
        # The field is tried once, and not again.
        for number, tries in ((6, 0), (7, 0), (8, 1), (9, 0), (10, 0)):
            text = f"modality = 'text' and year = {2000 + number}"
            assert reads(seen, text) == ([number], 1 + tries)
        with pytest.raises(OperationalError, match="malformed JSON"):
            reads(seen, "year = 2000")


def test_threads_read_a_field_once_and_no_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fields = [(name,) for name in "abcdef"]
    monkeypatch.setattr(columns, "READING_TIME", 0)
    # The ids, and two columns with a little text.
    monkeypatch.setattr(columns, "COLUMN_BYTES", 4 * (8 + 2 * 13) + 2 * 51)
    kept = Columns()
    read: list[tuple[str, ...]] = []

    def values(field: tuple[str, ...]) -> list[tuple[str, Any]]:
        read.append(field)
        sleep(0.01)
        return [("text", b"x"), ("integer", 1), ("integer", 2), ("null", None)]

    for one in fields:
        kept.spend([one], 1)
        assert kept.is_worth([one], lambda: 4)

    def ask(number: int) -> NDArray[np.int64] | None:
        own = fields[number % 6]
        return kept.matching(Test(own, "=", 1), [own], lambda: np.arange(4) * 10, values)

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, range(24)))
    told = [one.tolist() for one in found if one is not None]
    assert told == [[10]] * 8
    assert len(read) == len(set(read)) == 2
    assert not kept.is_worth([("z",)], lambda: 4)


def test_items_are_counted_and_not_their_rows(tmp_path: Path) -> None:
    spans = [Span("char", number, number + 1) for number in range(20)]
    with Store.create(tmp_path / "c", model="m", fingerprint="f") as made:
        with made.write() as writer:
            rows = np.eye(20, DIM, dtype=np.float32)
            writer.put([NewItem("k", Modality.TEXT, rows, spans, text="x" * 20, metadata={"a": 1})])
        with made.snapshot() as seen:
            assert seen._count_items() == 1


def test_whole_numbers_that_floats_round_are_left_to_sql(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "READ_AT_ONCE", 2)
    assert Column.of([("integer", 2**53)], 1).numbers is not None
    rounded = Column.of([("integer", 2**53 + 1), ("integer", 1), ("integer", 2), ("text", b"")], 4)
    assert rounded.numbers is None
    exact = Column.of([("integer", 2**53), ("real", 2.0**60), ("integer", 3)], 3)
    x = ("x",)
    for value, told in ((2**53, [True, False, False]), (2.0**60, [False, True, False])):
        for test in (Test(x, "=", value), Test(x, "in", (value, "a")), Test(x, "not in", (value,))):
            found = matching(test, {x: exact})
            assert found is not None
            assert found.tolist() == [one != (test.op == "not in") for one in told]
            assert matching(test, {x: rounded}) is None
    for test in (Test(x, "!=", 2**53 + 1), Test(x, "not in", (2**53 + 1, 3))):
        assert matching(test, {x: exact}) is None


def test_a_text_with_a_nul_is_no_beginning_of_another(store: Store) -> None:
    with store.snapshot() as seen:
        for op, rows in (("in", []), ("not in", list(range(40)))):
            for values in (("a\0", "b\0"), ("a\0",), ("b\0a",)):
                condition = Test(("kind",), op, values)
                assert seen.matching_rows(Modality.TEXT, condition).tolist() == rows
        assert len(reads(seen, "kind in ('a', 'c')")[0]) == 20
