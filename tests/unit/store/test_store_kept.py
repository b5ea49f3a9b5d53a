"""What a state of the store keeps for those who ask again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search.filters import Filter, parse_filter
from muomni_search.items import DIM, Modality, Record
from muomni_search.store import snapshot
from muomni_search.store.fields import summarise_fields
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.store import NewItem, Store

COUNT = 60


def item(number: int, modality: Modality, segments: int = 1) -> NewItem:
    vectors = np.tile(np.eye(1, DIM, number, np.float32), (segments, 1))
    return NewItem(
        f"{modality}{number}", modality, vectors, [None] * segments, metadata={"year": number}
    )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.create(tmp_path / "kept", model="m", fingerprint="f") as made:
        with made.write() as writer:
            writer.put([item(number, Modality.TEXT) for number in range(COUNT)])
            writer.put([item(number, Modality.AUDIO, number % 4 + 1) for number in range(COUNT)])
        yield made


def parsed(text: str) -> Filter:
    condition = parse_filter(text)
    assert condition is not None
    return condition


def test_a_filter_with_a_long_list_is_kept_under_a_short_name(store: Store) -> None:
    with store.snapshot() as seen:
        keys = ", ".join(f"'{'x' * 50}{number}'" for number in range(5_000))
        assert len(seen.matching_rows(Modality.TEXT, parsed(f"key in ({keys}, 'text7')"))) == 1
        assert sum(len(part) for key in seen.state.arrays._arrays for part in key) < 500
        # What a name is made of tells 1 from true, as filters do.
        for text, found in (("year = 1", [1]), ("year = true", []), ("year = 1.0", [1])):
            assert seen.matching_rows(Modality.TEXT, parsed(text)).tolist() == found


def test_what_several_threads_ask_for_at_once_is_made_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    matching = Snapshot._matching

    def slow(self: Snapshot, condition: Filter) -> NDArray[np.int64]:
        asked.append(threading.current_thread().name)
        time.sleep(0.2)
        return matching(self, condition)

    monkeypatch.setattr(Snapshot, "_matching", slow)

    def look(_: int) -> list[int]:
        with store.snapshot() as seen:
            assert seen.count_items(parsed("year > 57"))[Modality.AUDIO] == 2
            return seen.matching_rows(Modality.TEXT, parsed("year > 57")).tolist()

    with store.snapshot():  # whose state the threads take
        pass
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(look, range(6))) == [[58, 59]] * 6
    assert len(asked) == 1


def test_one_that_failed_is_made_by_the_next_who_asks(store: Store) -> None:
    def fail() -> NDArray[np.int64]:
        time.sleep(0.05)
        raise ZeroDivisionError

    def ask(number: int) -> int:
        with store.snapshot() as seen:
            if number % 2:
                return int(seen.state.arrays.get(("it",), lambda: np.array([7]))[0])
            try:
                return int(seen.state.arrays.get(("it",), fail)[0])
            except ZeroDivisionError:
                return -1

    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(ask, range(8)))
    assert found <= {7, -1}
    assert 7 in found
    with store.snapshot() as seen:
        assert not seen.state.arrays._turns


def test_a_file_that_was_only_touched_leaves_what_is_kept(store: Store) -> None:
    def touched(**facts: Any) -> Record:
        known = {"source": None, "metadata": {"year": 3}, **facts}
        return Record("text3", Modality.TEXT, "text3", **known)

    def version_after(record: Record) -> tuple[int, int]:
        with store.write() as writer:
            writer.touch("text3", record, "hash")
        with store.snapshot() as seen:
            return seen.state.version, seen.state.revision

    version, revision = version_after(touched())  # its hash is new
    assert version_after(touched(size=7, mtime_ns=8, root="r")) == (version, revision + 1)
    with store.snapshot() as seen:
        known = seen.known(["text3"])["text3"]
        assert (known.size, known.mtime_ns, known.root) == (7, 8, "r")
        seen.matching_rows(Modality.TEXT, parsed("year = 3"))
        arrays = seen.state.arrays
    assert version_after(touched(size=9)) == (version, revision + 2)
    with store.snapshot() as seen:
        assert seen.state.arrays is arrays
    assert version_after(touched(metadata={"year": 4})) == (version + 1, revision + 3)
    assert version_after(touched(metadata={"year": 4}, source="s")) == (version + 2, revision + 4)
    with store.snapshot() as seen:
        assert seen.matching_rows(Modality.TEXT, parsed("year = 3")).tolist() == []
        assert seen.matching_rows(Modality.TEXT, parsed("source = 's'")).tolist() == [3]


def test_fields_are_told_by_some_items_from_among_all(store: Store) -> None:
    with store.snapshot() as seen:
        assert summarise_fields(seen)["year"]["items"] == 2 * COUNT
        years = [one["year"] for one in seen.iter_metadata(12)]
        assert 4 <= len(years) <= 12
        assert max(years) - min(years) > COUNT / 2
        # However they came, in turns too.
        assert len({year % 2 for year in years}) == 2
        assert 1 <= len(list(seen.iter_metadata(7))) <= 7
        assert len(list(seen.iter_metadata(2 * COUNT))) == 2 * COUNT
        assert len(list(seen.iter_metadata(1_000))) == 2 * COUNT
        told = summarise_fields(seen, values=5, most=12)["year"]
        assert told["items"] == len(years)
        assert 1 <= len(told["values"]) <= 5


def test_a_turn_that_nobody_will_end_is_not_waited_for_without_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "TURN_SECONDS", 0.05)
    with store.snapshot() as seen:
        arrays = seen.state.arrays
        arrays._turns["it",] = threading.Lock()
        arrays._turns["it",].acquire()  # as a fork leaves it
        assert arrays.get(("it",), lambda: np.array([7])).tolist() == [7]
        assert not arrays._turns


def test_items_are_counted_by_what_a_search_keeps(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.snapshot() as seen:
        for share in (0.0, 0.01, 1.0):  # by all owners, or looked up one by one
            monkeypatch.setattr(snapshot, "LOOKED_UP_SHARE", share)
            seen.state.arrays._arrays.clear()
            for text, texts, sounds in (
                ("year >= 50", 10, 10),
                ("year < 3 or key = 'audio9'", 3, 4),
                ("modality = 'audio' and year != 8", 0, 59),
                ("year > 100", 0, 0),
                ("yaer = 1", 0, 0),
            ):
                counts = seen.count_items(parsed(text))
                assert counts == {
                    Modality.TEXT: texts,
                    Modality.IMAGE: 0,
                    Modality.AUDIO: sounds,
                }, text
        statements: list[str] = []
        seen.connection.set_trace_callback(statements.append)
        assert seen.count_items(None) == {
            Modality.TEXT: COUNT,
            Modality.IMAGE: 0,
            Modality.AUDIO: COUNT,
        }
        assert len(statements) == 1
        seen.count_items(None)
        seen.count_items(parsed("year >= 50"))
        assert len(statements) == 1
        seen.connection.set_trace_callback(None)
    with store.write() as writer:
        writer.delete(["text3", "audio5"])
        writer.put([item(COUNT, Modality.IMAGE)])
    with store.snapshot() as seen:
        assert [*seen.count_items(None).values()] == [COUNT - 1, 1, COUNT - 1]
        assert [*seen.count_items(parsed("year <= 5")).values()] == [5, 0, 5]
