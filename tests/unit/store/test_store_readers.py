"""Connections are kept for the next reader, and none outlives the store."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from muomni_search import durable
from muomni_search.cli.main import cli
from muomni_search.errors import Conflict, NotFound
from muomni_search.items import DIM, Modality
from muomni_search.store import store as store_module
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.store import NewItem, Store


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
        assert not connections[0].in_transaction
        with store.snapshot() as snapshot:
            assert snapshot.version == 0
        # Nobody holds the log, so that it can be emptied.
        assert store.vacuum() == []


def test_a_reader_that_failed_folds_no_log_into_the_database(store: Store, tmp_path: Path) -> None:
    """A log that a kill left may be damaged: `verify` must see it first."""
    killed = tmp_path / "killed"
    with store:
        put(store, "a")
        shutil.copytree(store.directory, killed)
    log = killed / "collection.db-wal"
    before = log.stat().st_size
    with Store.open(killed) as again:
        with pytest.raises(ZeroDivisionError), again.snapshot():
            raise ZeroDivisionError
        assert before == log.stat().st_size > 0


def test_a_reader_that_failed_amid_reading_keeps_nobody_at_that_state(store: Store) -> None:
    kept = []
    with store:
        put(store, *(f"k{number:04}" for number in range(2_000)))
        for _ in range(2):
            try:
                with store.snapshot() as failed:
                    for row in failed.ask("SELECT key FROM items"):
                        raise ValueError(row)
            except ValueError as error:
                kept.append(error)  # and with its traceback all that it read from
        put(store, "late")
        with store.snapshot() as snapshot:
            assert list(snapshot.find(["late"])) == ["late"]
        assert store.vacuum() == []


def test_what_was_let_go_of_is_not_read_from(store: Store) -> None:
    with store:
        with store.snapshot() as over:
            begun = over.iter_keys()
        for late in (over.counts, lambda: over.find(["a"]), lambda: next(begun)):
            with pytest.raises(RuntimeError, match="let go of"):
                late()
        assert not store._idle[0].in_transaction


STREAMS: dict[str, Callable[[Snapshot], Iterator[object]]] = {
    "items": lambda snapshot: snapshot.iter_items(),
    "keys": lambda snapshot: snapshot.iter_keys(),
    "segments": lambda snapshot: snapshot.iter_segments(),
    "known": lambda snapshot: snapshot.known_under("/files"),
}


def put(store: Store, *keys: str) -> None:
    vector = np.eye(1, DIM, dtype=np.float32)
    with store.write() as writer:
        writer.put([NewItem(key, Modality.TEXT, vector, [None], root="/files") for key in keys])


@pytest.mark.parametrize("name", STREAMS)
def test_whoever_leaves_off_reading_does_not_keep_the_next_at_that_state(
    store: Store, name: str
) -> None:
    with store:
        put(store, *(f"k{number:04}" for number in range(2_000)))
        with store.snapshot() as first:
            begun = STREAMS[name](first)
            next(begun)
        put(store, "late")
        with store.snapshot() as second:
            assert second.version == first.version + 1
            assert list(second.find(["late"])) == ["late"]
        with pytest.raises(RuntimeError, match="let go of"):
            next(begun)
        assert store.vacuum() == []


def test_a_writer_that_failed_amid_reading_does_not_hinder_the_next(store: Store) -> None:
    begun = []

    def fail() -> None:
        with store.write() as writer:
            begun.append(writer.iter_keys())
            next(begun[0])
            writer.delete(["k0000"])
            raise ZeroDivisionError

    with store:
        put(store, *(f"k{number:04}" for number in range(2_000)))
        with pytest.raises(ZeroDivisionError):
            fail()
        put(store, "late")
        with store.snapshot() as snapshot:
            assert sorted(snapshot.find(["k0000", "late"])) == ["k0000", "late"]


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


# ---- another collection in its place -------------------------------------------------------------


def take_away(store: Store, how: str) -> None:
    """Put something else where a store was."""
    if how == "dropped":
        CliRunner().invoke(cli, ["drop", "-f", "-c", str(store.directory)], catch_exceptions=False)
        assert not store.directory.exists()
        return
    other = store.directory.with_name("other")
    shutil.rmtree(other, ignore_errors=True)
    with Store.create(other, model="m", fingerprint="f") as new:
        put(new, "new")
    shutil.rmtree(store.directory)
    if how == "replaced":
        other.rename(store.directory)


@pytest.mark.parametrize("how", ["dropped", "removed", "replaced"])
def test_what_was_dropped_or_replaced_is_not_read_or_written_any_more(
    store: Store, how: str
) -> None:
    with store:
        put(store, "old")
        take_away(store, how)
        rows = store.directory / "vectors" / "text.0.f32"
        before = rows.read_bytes() if how == "replaced" else None
        for late in (
            lambda: store.snapshot().__enter__(),
            lambda: put(store, "late"),
            lambda: list(store.problems()),
            store.repair,
            store.vacuum,
        ):
            with pytest.raises(NotFound, match="dropped or replaced"):
                late()
        assert before is None or rows.read_bytes() == before
    if how == "replaced":
        with Store.open(store.directory) as new, new.snapshot() as snapshot:
            assert list(snapshot.iter_keys()) == ["new"]
            assert list(new.problems()) == []


def test_one_that_began_to_write_before_it_was_replaced_is_told(store: Store) -> None:
    """The writer waits for the lock that whoever drops the collection holds."""
    told = []

    def write() -> None:
        try:
            put(store, "late")
        except NotFound as error:
            told.append(str(error))

    with store:
        put(store, "old")
        with Store.open(store.directory) as other, other.write():
            waiting = threading.Thread(target=write)
            waiting.start()
            time.sleep(0.2)
            shutil.rmtree(store.directory)
            Store.create(store.directory, model="m", fingerprint="f").close()
        waiting.join()
    assert "dropped or replaced" in told[0]
    assert not list((store.directory / "vectors").iterdir())


def test_another_of_the_same_number_is_told_by_its_birth(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store:
        take_away(store, "replaced")
        for connection in store._idle:
            connection.close()
        store._idle.clear()
        monkeypatch.setattr(durable, "place_of", lambda path: store._place)
        with pytest.raises(NotFound, match="dropped or replaced"):
            put(store, "late")


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    for late in (lambda: store.snapshot().__enter__(), lambda: put(store, "late")):
        with pytest.raises(Conflict, match="was closed: open it again"):
            late()
