"""What the planner and the collection rely on, on every index: candidates that hold the nearest.

``exact.py`` is the oracle, both for an index straight from its build and for one that was saved
and loaded again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from muomni_search.index import files, planner
from muomni_search.index.exact import exact_top_rows
from muomni_search.vectors import normalise

ROWS, FETCH = 3_000, 300
NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def vectors():
    """Rows whose dimensions fall in variance, as those of the models do."""
    rng = np.random.default_rng(11)
    return normalise(rng.standard_normal((ROWS, 256)) * (np.arange(256) + 1.0) ** -0.5)


@pytest.fixture(scope="module")
def queries(vectors):
    rng = np.random.default_rng(12)
    return normalise(vectors[:40] + 0.03 * rng.standard_normal((40, 256)))


@pytest.fixture(scope="module", params=["built", "saved and loaded"])
def index(request, vectors, tmp_path_factory):
    built = planner.build_index(vectors)
    if request.param == "built":
        return built
    directory = tmp_path_factory.mktemp("index")
    saved = files.save(built, directory, "text.1")
    return files.load(directory / saved.name, bytes=saved.bytes, checksum=saved.checksum)


def test_it_names_its_kind_and_covers_all_rows(index):
    assert index.kind == "pq4"
    assert index.rows == ROWS


def test_candidates_are_distinct_rows_within_the_index(index, queries):
    for query in queries:
        rows = index.search(query, FETCH)
        assert rows.dtype == np.int64
        assert len(rows) == len(np.unique(rows)) == FETCH
        assert rows.min() >= 0
        assert rows.max() < ROWS


def test_candidates_hold_nearly_all_of_the_nearest(index, vectors, queries):
    found = [
        np.isin(exact_top_rows(query, vectors, k=10, dead=NOTHING).rows, index.search(query, FETCH))
        for query in queries
    ]
    assert np.mean(found) >= 0.99


def test_the_likeliest_candidates_come_first(index, vectors, queries):
    first, last = [], []
    for query in queries:
        rows = index.search(query, FETCH)
        first.append(np.mean(vectors[rows[:50]] @ query))
        last.append(np.mean(vectors[rows[-50:]] @ query))
    assert np.min(np.array(first) - np.array(last)) > 0


def test_asking_for_more_than_all_gives_every_row_once(index, queries):
    assert sorted(index.search(queries[0], 10 * ROWS).tolist()) == list(range(ROWS))


def test_threads_that_search_at_once_get_what_one_gets(index, vectors, queries):
    alone = [index.search(query, FETCH) for query in queries]
    batch = planner.top_rows_many(queries, vectors, k=10, dead=NOTHING)
    with ThreadPoolExecutor(4) as pool:
        batches = [
            pool.submit(planner.top_rows_many, queries, vectors, k=10, dead=NOTHING)
            for _ in range(4)
        ]
        together = list(pool.map(lambda query: index.search(query, FETCH), queries))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)
    for done in batches:
        for one, other in zip(batch, done.result(), strict=True):
            assert np.array_equal(one.rows, other.rows)
            assert np.array_equal(one.cosines, other.cosines)


@pytest.mark.parametrize("count", [2, 15, 16, 33])
def test_an_index_of_very_few_rows_can_be_built(vectors, count):
    small = planner.build_index(vectors[:count])
    assert sorted(small.search(vectors[0], 100).tolist()) == list(range(count))


def test_rows_that_are_all_equal_can_be_built_and_asked(vectors):
    # FAISS has no scale for codes that do not differ and proposes nothing; the planner then
    # compares all rows.
    equal = planner.build_index(np.repeat(vectors[:1], 2_500, axis=0))
    assert len(equal.search(vectors[0], 100)) <= 100
