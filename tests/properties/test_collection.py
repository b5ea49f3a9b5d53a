"""The collection against a model of it in a dict and NumPy, under random operations."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from muomni_search.collection import Collection
from muomni_search.items import DIM, Modality, Query, Record, Span
from muomni_search.store.records import NewItem
from muomni_search.vectors import cosines, normalise

KEYS = [f"k{number}" for number in range(12)]
# Few distinct vectors, so that ties and duplicates are common.
VECTORS = normalise(np.random.default_rng(5).standard_normal((7, DIM)))
QUERIES = normalise(np.random.default_rng(6).standard_normal((4, DIM)))


@dataclass
class Entry:
    modality: Modality
    vector: NDArray[np.float32]
    metadata: dict[str, Any]


def record(key: str, entry: Entry) -> Record:
    return Record(
        key=key,
        modality=entry.modality,
        origin=f"test:{key}",
        vector=entry.vector,
        metadata=entry.metadata,
    )


entries = st.builds(
    Entry,
    modality=st.sampled_from(list(Modality)),
    vector=st.integers(0, len(VECTORS) - 1).map(lambda row: VECTORS[row]),
    metadata=st.fixed_dictionaries({}, optional={"year": st.integers(2000, 2003)}),
)


class CollectionMachine(RuleBasedStateMachine):
    """Add, replace, delete, compact, purge, rebuild; every answer equals the model's."""

    @initialize()
    def make(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "collection"
        self.collection = Collection.create(self.path, model="hashing")
        self.model: dict[str, Entry] = {}

    @rule(batch=st.dictionaries(st.sampled_from(KEYS), entries, min_size=1, max_size=6))
    def add(self, batch: dict[str, Entry]) -> None:
        report = self.collection.add(record(key, entry) for key, entry in batch.items())
        known = self.model.keys() & batch.keys()
        assert report.added == len(batch) - len(known)
        assert report.updated + report.unchanged == len(known)
        self.model.update(batch)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, min_size=1))
        assert self.collection.delete(keys) == len(keys)
        for key in keys:
            del self.model[key]

    @rule(year=st.integers(2000, 2003))
    def delete_by_filter(self, year: int) -> None:
        doomed = [key for key, entry in self.model.items() if entry.metadata.get("year") == year]
        assert self.collection.delete(where=f"year = {year}") == len(doomed)
        for key in doomed:
            del self.model[key]

    @rule(kind=st.sampled_from(["exact", "auto"]))
    def rebuild(self, kind: str) -> None:
        self.collection.rebuild(kind=kind)

    @rule()
    def compact(self) -> None:
        before = self.answers()
        self.collection.compact()
        stats = self.collection.stats()
        assert [stats[modality]["dead"] for modality in Modality] == [0, 0, 0]
        assert self.answers() == before

    def answers(self) -> list[Any]:
        """Return all hits with scores and places, by item and by segment, one modality and all."""
        queries = [Query.vector(vector) for vector in QUERIES]
        return [
            self.collection.query_many(queries, 15, modality=modality, segments=segments)
            for modality in (None, *Modality)
            for segments in (False, True)
        ]

    @rule(keys=st.lists(st.sampled_from(KEYS), unique=True, max_size=2))
    def purge(self, keys: list[str]) -> None:
        done = self.collection.purge(keys)
        there = self.model.keys() & set(keys)
        assert (done.deleted, set(done.absent)) == (len(there), set(keys) - there)
        for key in there:
            del self.model[key]

    @rule()
    def reopen(self) -> None:
        self.collection.close()
        self.collection = Collection.open(self.path)

    @rule(
        query=st.integers(0, len(QUERIES) - 1),
        k=st.integers(1, 15),
        modality=st.none() | st.sampled_from(list(Modality)),
        year=st.none() | st.integers(2000, 2003),
        offset=st.integers(0, 3),
    )
    def query(
        self, query: int, k: int, modality: Modality | None, year: int | None, offset: int
    ) -> None:
        vector = QUERIES[query]
        hits = self.collection.query(
            Query.vector(vector),
            k,
            offset=offset,
            modality=modality,
            where=None if year is None else {"year": {"$gte": year}},
        )
        matching = {
            key: entry
            for key, entry in self.model.items()
            if modality in (None, entry.modality)
            and (year is None or entry.metadata.get("year", 0) >= year)
        }
        assert len(hits) == min(k, max(0, len(matching) - offset))
        assert len({hit.key for hit in hits}) == len(hits)
        assert [hit.rank for hit in hits] == list(range(offset + 1, offset + len(hits) + 1))
        assert [(-hit.score, hit.key) for hit in hits] == sorted(
            (-hit.score, hit.key) for hit in hits
        )
        for hit in hits:
            assert hit.cosine == cosine_of(matching[hit.key], vector)
        if modality is not None:
            expected = sorted(matching, key=lambda key: (-cosine_of(matching[key], vector), key))
            assert [hit.key for hit in hits] == expected[offset : offset + k]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        items = {item.key: item for item in self.collection.items()}
        assert items.keys() == self.model.keys()
        for key, item in items.items():
            assert item.modality == self.model[key].modality
            assert item.metadata == self.model[key].metadata

    def teardown(self) -> None:
        assert self.collection.verify() == []
        self.collection.close()
        self.folder.cleanup()


def cosine_of(entry: Entry, vector: Sequence[float] | NDArray[np.float32]) -> float:
    return float(cosines(entry.vector[np.newaxis], np.asarray(vector))[0])


CollectionMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestCollectionAgainstItsModel = CollectionMachine.TestCase


@given(
    counts=st.lists(st.integers(1, 3), min_size=1_200, max_size=1_500),
    doomed=st.sets(st.integers(0, 1_499), max_size=400),
    replaced=st.sets(st.integers(0, 1_499), max_size=400),
)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_compaction_changes_no_answer_of_more_rows_than_a_score_is_measured_on(
    counts: list[int], doomed: set[int], replaced: set[int]
) -> None:
    vectors = normalise(np.random.default_rng(len(doomed)).standard_normal((900, DIM)))

    def items(numbers: Iterable[int], shift: int) -> list[NewItem]:
        return [
            NewItem(
                f"k{n}",
                Modality.TEXT,
                vectors[[(n + shift + at) % 900 for at in range(counts[n])]],
                [Span("char", at, at + 1) for at in range(counts[n])],
            )
            for n in numbers
            if n < len(counts)
        ]

    with (
        tempfile.TemporaryDirectory() as folder,
        Collection.create(Path(folder) / "c", model="hashing") as collection,
    ):
        with collection.store.write() as writer:
            writer.put(items(range(len(counts)), 0))
            writer.put(items(replaced, 300))
            writer.delete([f"k{n}" for n in doomed])
        queries = [Query.vector(vector) for vector in QUERIES]
        ways: list[dict[str, Any]] = [{"segments": True}, {"offset": 5}]
        before = [collection.query_many(queries, 40, **way) for way in ways]
        collection.compact()
        assert [collection.query_many(queries, 40, **way) for way in ways] == before
        assert collection.verify() == []
