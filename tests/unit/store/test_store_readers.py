"""Connections are kept for the next reader, and none outlives the store."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from muomni_search.store import store as store_module
from muomni_search.store.store import Store


def open_files(name: str) -> int:
    """Return how many descriptors of this process are of a file of this name."""
    targets = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            targets.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return sum(target.endswith(name) for target in targets)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "kept", model="m", fingerprint="f")


def test_the_next_reader_takes_the_same_connection(store: Store) -> None:
    with store:
        with store.snapshot() as first:
            connection = first.connection
        with store.snapshot() as second:
            assert second.connection is connection
            with store.snapshot() as third:  # taken already
                assert third.connection is not second.connection


def test_a_reader_that_failed_leaves_no_transaction(store: Store) -> None:
    connections = []

    def fail() -> None:
        with store.snapshot() as failed:
            connections.append(failed.connection)
            raise ZeroDivisionError

    with store:
        with pytest.raises(ZeroDivisionError):
            fail()
        assert connections[0].closed
        with store.snapshot() as snapshot:
            assert snapshot.version == 0
        # Nobody holds the log, so that it can be emptied.
        assert store.vacuum() == []


def test_what_was_let_go_of_is_not_read_from(store: Store) -> None:
    with store:
        with store.snapshot() as over:
            begun = over.iter_keys()
        for late in (over.counts, lambda: over.find(["a"]), lambda: next(begun)):
            with pytest.raises(RuntimeError, match="let go of"):
                late()
        assert not store._idle[0].in_transaction()


def test_readers_at_once_keep_a_few_and_closing_ends_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "IDLE", 3)
    at_once = threading.Barrier(6)

    def read() -> None:
        with store.snapshot():
            at_once.wait(30)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store._idle) == 3
    with store.snapshot() as snapshot:
        store.close()
        assert snapshot.version == 0  # who reads may go on
    assert store._idle == []
    assert open_files("kept/collection.db") == 0
