"""A view's queries: what they cost where many rows are equal, and that all is found."""

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search import view
from muomni_search.collection import Collection
from muomni_search.items import DIM, Modality, Query, Span
from muomni_search.store.records import NewItem
from muomni_search.store.snapshot import Snapshot
from muomni_search.vectors import normalise

OTHERS = 400
RNG = np.random.default_rng(5)
MIDDLE = normalise(RNG.standard_normal((1, DIM)))
FAR = normalise(RNG.standard_normal((OTHERS, DIM)))
EQUAL = 1_200
# Keys that do not sort as the rows do.
KEYS = [f"equal {number * 7 % EQUAL:05d}" for number in range(EQUAL)]
EXPECTED = ["also five 0", "also five 1", *sorted(KEYS)[:3], *sorted(KEYS)[6:]]


def item(key: str, vectors: NDArray[np.float32]) -> NewItem:
    spans = [Span("char", 9 * number, 9 * number + 9) for number in range(len(vectors))]
    return NewItem(key, Modality.TEXT, vectors, spans if len(spans) > 1 else [None])


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, place: int) -> list[int]:
    """Return a list that grows by the length of an argument of each call of a method."""
    lengths: list[int] = []
    method = getattr(owner, name)

    def count(*args: Any, **options: Any) -> Any:
        lengths.append(len(args[place]))
        return method(*args, **options)

    monkeypatch.setattr(owner, name, count)
    return lengths


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    """Many items of one vector, two of which have it in five segments, and others."""
    with Collection.create(tmp_path_factory.mktemp("view") / "twins", model="hashing") as made:
        with made.store.write() as writer:
            writer.put([item(key, MIDDLE) for key in KEYS])
            writer.put(
                [item(f"also five {number}", MIDDLE.repeat(5, axis=0)) for number in range(2)]
            )
            writer.put([item(f"short {number}", FAR[[number]]) for number in range(OTHERS)])
        made.delete(sorted(KEYS)[3:6])
        yield made


def test_of_many_that_are_tied_only_those_are_looked_up_that_are_hits(
    twins: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    matched = counted(monkeypatch, Snapshot, "matches", 2)
    for k, offset in ((10, 0), (3, 20), (10, EQUAL - 10)):
        hits = twins.query(Query.vector(MIDDLE[0]), k, offset=offset, exact=True)
        assert [hit.key for hit in hits][: EQUAL - 1 - offset] == EXPECTED[offset : offset + k]
        assert sum(matched) <= 5 * (k + offset)
        matched.clear()


def test_a_batch_near_many_equal_items_answers_as_single_queries_do(
    twins: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [Query.id(key) for key in (*EXPECTED[:9], "short 1")] + [Query.vector(MIDDLE[0])]
    single = [[hit.key for hit in twins.query(one, 10, exact=True)] for one in queries]
    assert single[-1] == EXPECTED[:10]
    for most in (0, 1_500, 10**9):
        monkeypatch.setattr(view, "MOST_TIED", most)
        with twins.view() as held:
            vectors = np.stack(held.resolve_many(queries))  # type: ignore[misc]
            found = held.rank_many(queries, vectors, 10)
        assert list(found.found_keys()) == single


def test_a_batch_near_many_equal_items_needs_no_memory_for_all_of_them(twins: Collection) -> None:
    queries = [Query.id(key) for key in EXPECTED]
    with twins.view() as held:
        vectors = np.repeat(MIDDLE, len(queries), axis=0)
        tracemalloc.start()
        try:
            found = held.rank_many(queries, vectors, 10)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(found.places) == 10 * len(queries)
    # Each pair of equal items took some 80 bytes.
    assert peak < 25 * EQUAL**2
