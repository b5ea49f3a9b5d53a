"""A child dies at its 1st, 2nd, … nth durable step, or at any instant; nothing is lost or doubled.

The child is a fork that never returns from here: it leaves SQLite and the row files as a killed
process does, and says through a pipe what it was told to be done.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config  # noqa: F401  here, so that not every child needs to import it
import numpy as np
import pytest

from muomni_search import durable
from muomni_search.errors import NotFound
from muomni_search.items import DIM, Modality, Problem, Record, Span
from muomni_search.store.compact import compact_rows
from muomni_search.store.rows import BLOCK_ROWS, ROW_BYTES
from muomni_search.store.store import IndexFile, Job, NewItem, Snapshot, Store
from muomni_search.store.writer import Writer
from muomni_search.vectors import normalise

TEXT, IMAGE, AUDIO = Modality.TEXT, Modality.IMAGE, Modality.AUDIO
VECTORS = normalise(np.random.default_rng(4).standard_normal((300, DIM)))
DIED = 99

Work = Callable[[Path, Callable[[int], None]], None]


# ---- dying ---------------------------------------------------------------------------------------


@dataclass
class Child:
    """A process that works until it is done or dead."""

    pid: int
    pipe: int

    def wait(self) -> tuple[int, int]:
        """Return its exit code (negative for a signal) and the last thing it said was done."""
        with os.fdopen(self.pipe, "rb") as pipe:
            said = pipe.read().split()
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status), int(said[-1]) if said else -1


def start(work: Work, place: Path, *, die_at: int | None = None) -> Child:
    """Let a child work on a place, and die at one of its durable steps."""
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return Child(pid, read)
    try:
        left = die_at

        def step(name: str) -> None:
            nonlocal left
            left = None if left is None else left - 1
            if left == 0:
                os._exit(DIED)

        durable.step = step
        work(place, lambda number: os.write(write, b"%d\n" % number) and None)
        os._exit(0)
    except BaseException:  # noqa: BLE001  a fork must not run into the parent's code
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)


# ---- what is done --------------------------------------------------------------------------------


def put(writer: Writer, modality: Modality, **rows: list[int]) -> None:
    spans = {TEXT: "char", AUDIO: "ms"}
    writer.put(
        [
            NewItem(
                key,
                modality,
                VECTORS[own],
                [
                    Span(spans[modality], at, at + 1) if modality in spans else None  # type: ignore[arg-type]
                    for at in range(len(own))
                ],
            )
            for key, own in rows.items()
        ]
    )


def set_index(writer: Writer, store: Store, content: bytes) -> None:
    name = f"text.0.{hashlib.sha256(content).hexdigest()[:12]}.faiss"
    partial = store.directory / "index" / f".{name}.1.partial"
    partial.write_bytes(content)
    durable.replace(partial, store.directory / "index" / name)
    checksum = hashlib.sha256(content).hexdigest()
    writer.set_index(IndexFile(TEXT, 0, name, "pq4", 1, len(content), checksum, {}))


def do(writer: Writer, store: Store, number: int) -> None:
    """Take one of the workload's writes."""
    if number == 0:
        put(writer, TEXT, a=[1], b=[2, 3], c=[4])
        put(writer, IMAGE, d=[5])
    elif number == 1:
        put(writer, TEXT, b=[6], d=[7])  # d was a picture
        put(writer, AUDIO, e=[8, 9])
        writer.fail([Problem("/broken", "bad", "mend it")])
    elif number == 2:
        writer.delete(["a"])
        writer.clear_failures(["/broken"])
    elif number == 3:
        writer.move("c", Record("f", TEXT, origin="f"))
        writer.touch("b", Record("b", TEXT, origin="b", metadata={"n": 1}), "hash")
    elif number == 4:
        set_index(writer, store, b"the first index")
    elif number == 5:
        set_index(writer, store, b"the second index")
    elif number == 6:
        writer.replace_row_file(TEXT, [np.array(writer.vectors(TEXT))])
    elif number == 7:
        put(writer, TEXT, a=[10], g=[11])
        writer.drop_index(TEXT)
    elif number == 8:
        for modality in Modality:
            compact_rows(writer, modality)


WRITES = 9
STATES: list[dict[str, list[int]]] = [
    {},
    {"a": [1], "b": [2, 3], "c": [4], "d": [5]},
    {"a": [1], "b": [6], "c": [4], "d": [7], "e": [8, 9]},
    {"b": [6], "c": [4], "d": [7], "e": [8, 9]},
    *[{"b": [6], "f": [4], "d": [7], "e": [8, 9]}] * 4,
    *[{"a": [10], "b": [6], "f": [4], "d": [7], "e": [8, 9], "g": [11]}] * 2,
]


def workload(place: Path, acknowledge: Callable[[int], None], *, until: int = WRITES) -> None:
    """Do every write that is not done yet; each says in the same commit that it is."""
    try:
        store = Store.open(place)
    except NotFound:
        store = Store.create(place, model="m", fingerprint="f")
    acknowledge(writes_done(store))
    while (done := writes_done(store)) < until:
        with store.write() as writer:
            do(writer, store, done)
            writer.set_job(Job("workload", "f", done + 1, "running"))
        acknowledge(done + 1)


def writes_done(store: Store) -> int:
    with store.snapshot() as snapshot:
        job = snapshot.job("workload")
    return job.done if job else 0


def check_state(store: Store, expected: dict[str, list[int]]) -> None:
    """Check that the items are these and no others, each with all of its vectors."""
    with store.snapshot() as snapshot:
        assert list(snapshot.iter_keys()) == sorted(expected)
        for key, (modality, rows) in snapshot.item_rows(expected).items():
            assert np.array_equal(snapshot.vectors(modality)[rows], VECTORS[expected[key]])
        check_rows(snapshot)
    assert list(store.problems()) == []


def check_rows(snapshot: Snapshot) -> None:
    for modality in Modality:
        owners = snapshot.row_items(modality)
        assert len(owners) == len(snapshot.vectors(modality))
        assert np.flatnonzero(owners < 0).tolist() == snapshot.dead(modality).tolist()


# ---- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(WRITES + 1))
def test_dying_at_any_durable_step_loses_and_doubles_nothing(
    tmp_path: Path, number: int, count: Any
) -> None:
    # Write 0 makes the store.
    before, place = tmp_path / "before", tmp_path / "collection"
    if number:
        assert start(partial(workload, until=number - 1), before).wait() == (0, number - 1)
    work = partial(workload, until=number)
    died = 0
    while True:
        if number:
            shutil.copytree(before, place)
        code, acknowledged = start(work, place, die_at=died + 1).wait()
        if code == 0:
            break
        assert code == DIED
        died += 1
        if number or (place / "collection.db").exists():
            with Store.open(place) as store:
                done = writes_done(store)
                # What was not acknowledged may be there, but then wholly.
                assert done in (max(acknowledged, 0), acknowledged + 1)
                check_state(store, STATES[done])
        # The same command again finishes the job.
        assert start(work, place).wait() == (0, number)
        with Store.open(place) as store:
            check_state(store, STATES[number])
        shutil.rmtree(place)
    assert died >= 2
    count("deaths at a durable step", died)


def test_dying_twice_in_a_row_is_no_worse(tmp_path: Path) -> None:
    generator = random.Random(5)
    for _ in range(15):
        place = tmp_path / "collection"
        for _ in range(4):
            code, acknowledged = start(workload, place, die_at=generator.randrange(1, 25)).wait()
            if acknowledged >= 0:
                with Store.open(place) as store:
                    assert writes_done(store) >= acknowledged
                    check_state(store, STATES[writes_done(store)])
            if code == 0:
                break
        assert start(workload, place).wait() == (0, WRITES)
        shutil.rmtree(place)


def batches(place: Path, acknowledge: Callable[[int], None]) -> None:
    """Add, replace and delete without end, a hundred items at a time."""
    with Store.open(place) as store:
        while True:
            done = writes_done(store)
            with store.write() as writer:
                if done % 3 == 2:
                    writer.delete([f"k{number}" for number in range(50)])
                rows = [(done + number) % len(VECTORS) for number in range(100)]
                put(writer, TEXT, **{f"k{number}": [row] for number, row in enumerate(rows)})
                writer.set_job(Job("workload", "f", done + 1, "running"))
            acknowledge(done + 1)


def test_killed_at_any_instant_nothing_is_lost(tmp_path: Path, count: Any) -> None:
    generator = random.Random(6)
    place = tmp_path / "collection"
    Store.create(place, model="m", fingerprint="f").close()
    kills = 0
    while kills < 20:
        child = start(batches, place)
        time.sleep(generator.uniform(0, 0.12))
        os.kill(child.pid, signal.SIGKILL)
        code, acknowledged = child.wait()
        assert code == -signal.SIGKILL
        kills += 1
        with Store.open(place) as store:
            done = writes_done(store)
            assert acknowledged in (-1, done - 1, done)
            last = {f"k{number}": [(done - 1 + number) % len(VECTORS)] for number in range(100)}
            check_state(store, last if done else {})
    count("kills of a writer at any instant", kills)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two blocks, of which the second is damaged, with an index that is too."""
    place = tmp_path_factory.mktemp("damaged") / "collection"
    rows = BLOCK_ROWS + 50
    with Store.create(place, model="m", fingerprint="f") as store, store.write() as writer:
        put(writer, TEXT, **{f"k{number}": [number % 300] for number in range(rows)})
        set_index(writer, store, b"an index")
    with (place / "vectors/text.0.f32").open("r+b") as file:
        file.seek((BLOCK_ROWS + 3) * ROW_BYTES)
        file.write(b"damage")
    (index,) = (place / "index").iterdir()
    index.write_bytes(b"no index")
    (place / "vectors" / "stranger").write_bytes(b"")
    return place


def test_a_repair_that_dies_can_be_done_again(damaged: Path, tmp_path: Path, count: Any) -> None:
    def repair(place: Path, acknowledge: Callable[[int], None]) -> None:
        with Store.open(place) as store:
            store.repair()
        acknowledge(1)

    died = 0
    while True:
        place = Path(shutil.copytree(damaged, tmp_path / f"{died}"))
        code, acknowledged = start(repair, place, die_at=died + 1).wait()
        with Store.open(place) as store:
            if acknowledged < 0:
                store.repair()
            with store.snapshot() as snapshot:
                # The block that was whole is there, the other one waits to be added again.
                assert set(snapshot.iter_keys()) == {f"k{number}" for number in range(BLOCK_ROWS)}
                assert len(snapshot.failures()) == 50
                assert np.array_equal(snapshot.vectors(TEXT)[:300], VECTORS)
                check_rows(snapshot)
            assert list(store.problems()) == []
        shutil.rmtree(place)
        if code == 0:
            break
        died += 1
    assert died > 10
    count("deaths at a durable step", died)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    taken: list[str] = []
    monkeypatch.setattr(durable, "step", taken.append)
    return taken


def test_nothing_is_committed_before_its_rows_are_on_the_disk(
    tmp_path: Path, steps: list[str]
) -> None:
    with Store.create(tmp_path / "c", model="m", fingerprint="f") as store:
        steps.clear()
        with store.write() as writer:
            put(writer, TEXT, a=[1])
            put(writer, IMAGE, b=[2])
    written = [at for at, name in enumerate(steps) if name == "after write"]
    on_disk = [at for at, name in enumerate(steps) if name == "after fsync"]
    named = [at for at, name in enumerate(steps) if name == "after fsync of a directory"]
    commit = steps.index("before commit")
    assert len(written) == len(on_disk) == len(named) == 2
    assert all(a < b < c < commit for a, b, c in zip(written, on_disk, named, strict=True))
