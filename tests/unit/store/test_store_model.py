"""The store against a dict, under random operations, with snapshots held open across commits."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from muomni_search.filters import parse_filter
from muomni_search.items import DIM, Modality, Record, Span
from muomni_search.store.compact import compact_rows
from muomni_search.store.store import NewItem, Snapshot, Store
from muomni_search.vectors import normalise

VECTORS = normalise(np.random.default_rng(3).standard_normal((9, DIM)))
KEYS = ["a", "b/b", "ü", "d'd", 'e"', "f"]
EVEN = parse_filter("n in (0, 2)")


@dataclass(frozen=True)
class Entry:
    modality: Modality
    rows: tuple[int, ...]
    n: int | None

    @property
    def metadata(self) -> dict[str, Any]:
        return {} if self.n is None else {"n": self.n}

    @property
    def spans(self) -> list[Span | None]:
        if len(self.rows) == 1 or self.modality == Modality.IMAGE:
            return [None] * len(self.rows)
        unit = "ms" if self.modality == Modality.AUDIO else "char"
        return [Span(unit, at, at + 1) for at in range(len(self.rows))]


@dataclass
class Held:
    """A snapshot that somebody holds, and what the store held when it began."""

    stack: ExitStack
    snapshot: Snapshot
    model: dict[str, Entry] = field(default_factory=dict)


entries = st.builds(
    Entry,
    st.sampled_from(list(Modality)),
    st.lists(st.integers(0, 8), min_size=1, max_size=3).map(tuple),
    st.none() | st.integers(0, 3),
)
keys = st.sampled_from(KEYS)


def record(key: str, entry: Entry) -> Record:
    return Record(key, entry.modality, origin=key, metadata=entry.metadata)


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def make(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "collection"
        self.store = Store.create(self.path, model="m", fingerprint="f")
        self.model: dict[str, Entry] = {}
        self.held: list[Held] = []

    @rule(
        batches=st.lists(st.dictionaries(keys, entries, max_size=4), max_size=2),
        fails=st.booleans(),
    )
    def put(self, batches: list[dict[str, Entry]], fails: bool) -> None:
        try:
            with self.store.write() as writer:
                for batch in batches:
                    writer.put(
                        [
                            NewItem(
                                key,
                                entry.modality,
                                VECTORS[list(entry.rows)],
                                entry.spans,
                                metadata=entry.metadata,
                            )
                            for key, entry in batch.items()
                        ]
                    )
                if fails:
                    raise KeyError
        except KeyError:
            return
        for batch in batches:
            self.model.update(batch)

    @rule(doomed=st.lists(keys, max_size=3, unique=True))
    def delete(self, doomed: list[str]) -> None:
        with self.store.write() as writer:
            assert writer.delete(doomed) == len(self.model.keys() & set(doomed))
        for key in doomed:
            self.model.pop(key, None)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), new=keys, n=st.none() | st.integers(0, 3))
    def move_or_touch(self, data: st.DataObject, new: str, n: int | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.model)))
        entry = self.model[key]
        changed = Entry(entry.modality, entry.rows, n)
        with self.store.write() as writer:
            if new == key or new in self.model:
                writer.touch(key, record(key, changed), "hash")
                self.model[key] = changed
            else:
                writer.move(key, record(new, changed))
                self.model[new] = changed
                del self.model[key]

    @rule()
    def rewrite_a_row_file(self) -> None:
        with self.store.write() as writer:
            file = writer.row_file(Modality.TEXT)
            if file is not None and file.rows:
                writer.replace_row_file(Modality.TEXT, [np.array(writer.vectors(Modality.TEXT))])

    @rule()
    def compact(self) -> None:
        with self.store.write() as writer:
            for modality in Modality:
                compact_rows(writer, modality)
        with self.store.snapshot() as snapshot:
            assert not any(len(snapshot.dead(modality)) for modality in Modality)

    @rule()
    def hold(self) -> None:
        if len(self.held) < 3:
            stack = ExitStack()
            self.held.append(
                Held(stack, stack.enter_context(self.store.snapshot()), dict(self.model))
            )

    @precondition(lambda self: self.held)
    @rule()
    def let_go(self) -> None:
        self.held.pop(0).stack.close()

    @rule()
    def reopen(self) -> None:
        while self.held:
            self.let_go()
        self.store.close()
        self.store = Store.open(self.path)

    @invariant()
    def every_snapshot_sees_what_it_began_with(self) -> None:
        for held in self.held:
            compare(held.snapshot, held.model)
        with self.store.snapshot() as snapshot:
            compare(snapshot, self.model)

    def teardown(self) -> None:
        while self.held:
            self.let_go()
        assert list(self.store.problems()) == []
        self.store.close()
        self.folder.cleanup()


def compare(snapshot: Snapshot, model: dict[str, Entry]) -> None:
    found = {item.key: item for item in snapshot.iter_items()}
    assert list(found) == sorted(model)
    rows = snapshot.item_rows(model)
    assert EVEN is not None
    for modality in Modality:
        own = {key: entry for key, entry in model.items() if entry.modality == modality}
        vectors, dead = snapshot.vectors(modality), snapshot.dead(modality)
        live = np.setdiff1d(np.arange(len(vectors)), dead)
        assert sorted(live) == sorted(row for key in own for row in rows[key][1])
        matching = [row for key in own if own[key].n in (0, 2) for row in rows[key][1]]
        assert snapshot.matching_rows(modality, EVEN).tolist() == sorted(matching)
        even, every = (snapshot.counting(modality, one) for one in (EVEN, None))
        assert even.rows is not None
        assert every.rows is None
        assert np.flatnonzero(even.marks()).tolist() == even.rows.tolist() == sorted(matching)
        assert np.flatnonzero(every.marks()).tolist() == live.tolist()
        owners = snapshot.row_items(modality)
        assert (owners[dead] == -1).all()
        matches = {match.row: match for match in snapshot.matches(modality, live)}
        ids = snapshot.item_ids(own)
        for key, entry in own.items():
            assert found[key].metadata == entry.metadata
            assert found[key].segments == len(entry.rows)
            assert np.array_equal(vectors[rows[key][1]], VECTORS[list(entry.rows)])
            assert [matches[row].span for row in rows[key][1].tolist()] == entry.spans
            assert {matches[row].item_id for row in rows[key][1].tolist()} == {ids[key]}
            assert len(set(owners[rows[key][1]].tolist())) == 1


StoreMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestStoreAgainstADict = StoreMachine.TestCase
