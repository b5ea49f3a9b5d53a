"""Decide how a query is answered, and answer it.

    a filter lets few rows through  →  gather them and multiply
    a filter lets many through      →  multiply all, leave out the others
    no index, or exact asked        →  multiply all
    an index                        →  its candidates and the rows since, compared exactly

Matrix products only choose which rows are compared: the cosine that counts is the one of
``vectors.cosines``, and a row within ``MARGIN`` of the threshold is always compared. So rounding
never decides which rows are found, and ties come out the same whatever way was taken.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from muomni_search.index.exact import best_of
from muomni_search.index.protocol import Candidates, VectorIndex
from muomni_search.vectors import cosines, cosines_of_pairs

__all__ = [
    "build_index",
    "choose_kind",
    "is_index_due",
    "top_rows",
    "top_rows_many",
]

# Up to here every row is compared: 20,000 rows take 0.4 ms, as long as the scan of any number.
EXACT_ROWS = 20_000
# An index is built anew when the rows since are this share of all, so that adding stays linear.
STALE_SHARE = 0.2
# Below this share of all rows gathering them beats multiplying all.
GATHER_SHARE = 0.08
# A float32 product of unit vectors of 256 numbers is off by less than 256 · 2⁻²⁴ = 1.5e-5.
MARGIN = 2e-5
# Candidates of the 4-bit scan: 200 gave a recall@10 of .995 and more on the model's own vectors.
FETCH = 200
FETCH_PER_HIT = 20
# When widening the fetch would reach this share of the rows, comparing all is faster.
RUNAWAY_SHARE = 0.1
WIDEN = 4
# A batch asks for so many rows more than k, to see all that may be tied with the last.
SPARE = 6
QUERY_BLOCK = 1_024
TILE_ROWS = 65_536


def choose_kind(rows: int) -> str:
    """Return ``exact`` or ``ann`` for a number of rows."""
    return "exact" if rows <= EXACT_ROWS else "ann"


def is_index_due(*, rows: int, covered: int) -> bool:
    """Whether an index that covers so many of the rows should be built anew."""
    return choose_kind(rows) == "ann" and rows - covered > max(EXACT_ROWS, STALE_SHARE * rows)


def build_index(vectors: NDArray[np.float32]) -> VectorIndex:
    """Return a new index of all rows."""
    from muomni_search.index.faiss_index import FourBitScan

    return FourBitScan.build(vectors)


def top_rows(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    *,
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None = None,
    index: VectorIndex | None = None,
    exact: bool = False,
) -> Candidates:
    """Return the best rows for a query, exactly min(k, available) and those tied with the last.

    Args:
        query: (256,), unit length.
        vectors: All rows (n, 256), dead ones too.
        k: How many.
        dead: Dead rows, sorted.
        allowed: The live rows that a filter lets through, sorted; None for all.
        index: An index of the first rows; those since are compared exactly.
        exact: Compare every row all the same.
    """
    if allowed is not None:
        return _among(query, vectors, allowed, k)
    if index is not None and not exact:
        found = _by_index(query, vectors, k, dead, index)
        if found is not None:
            return found
    return _among_all(query, vectors, k, dead)


def _among(
    query: NDArray[np.float32], vectors: NDArray[np.float32], allowed: NDArray[np.int64], k: int
) -> Candidates:
    """Compare the rows that a filter lets through."""
    if len(allowed) <= GATHER_SHARE * len(vectors):
        return best_of(allowed, cosines(vectors[allowed], query), k)
    rough = (vectors @ query)[allowed]
    return _refined(query, vectors, allowed, rough, k)


def _among_all(
    query: NDArray[np.float32], vectors: NDArray[np.float32], k: int, dead: NDArray[np.int64]
) -> Candidates:
    rough = vectors @ query
    rough[dead] = -np.inf
    return _refined(query, vectors, None, rough, k, available=len(vectors) - len(dead))


def _refined(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64] | None,
    rough: NDArray[np.float32],
    k: int,
    *,
    available: int | None = None,
) -> Candidates:
    """Compare exactly the rows whose rough cosines may reach the best k."""
    wanted = min(k, len(rough) if available is None else available)
    if wanted == 0:
        return best_of(np.empty(0, np.int64), np.empty(0, np.float32), k)
    threshold = np.partition(rough, len(rough) - wanted)[len(rough) - wanted]
    near = np.flatnonzero(rough >= threshold - MARGIN)
    chosen = near if rows is None else rows[near]
    return best_of(chosen, cosines(vectors[chosen], query), k)


def _by_index(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    index: VectorIndex,
) -> Candidates | None:
    """Compare what the index proposes and the rows since; None when that does not pay."""
    wanted = max(FETCH, FETCH_PER_HIT * k)
    fetch = wanted
    while True:
        if fetch > RUNAWAY_SHARE * index.rows:
            return None
        proposed = index.search(query, fetch)
        live = proposed[~_is_in(proposed, dead)]
        # Dead rows may crowd out the live: fetch again until as many live ones came as were
        # measured to be enough.
        if len(live) >= wanted:
            break
        fetch *= WIDEN
    since = np.arange(index.rows, len(vectors))
    rows = np.concatenate([live[:fetch], since[~_is_in(since, dead)]])
    return best_of(rows, cosines(vectors[rows], query), k, how="ann")


def _is_in(rows: NDArray[np.int64], dead: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row is among the sorted dead ones."""
    if not len(dead):
        return np.zeros(len(rows), bool)
    places = np.minimum(np.searchsorted(dead, rows), len(dead) - 1)
    inside: NDArray[np.bool_] = dead[places] == rows
    return inside


def top_rows_many(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    *,
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None = None,
) -> Iterator[Candidates]:
    """Yield for each query (n, 256) what ``top_rows`` returns when it compares all rows.

    By matrix products of query blocks and row tiles; memory stays bounded whatever the numbers.
    """
    for start in range(0, len(queries), QUERY_BLOCK):
        yield from _top_rows_block(queries[start : start + QUERY_BLOCK], vectors, k, dead, allowed)


def _top_rows_block(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None,
) -> Iterator[Candidates]:
    available = len(vectors) - len(dead) if allowed is None else len(allowed)
    wanted = min(k + SPARE, available)
    if wanted == 0:
        for query in queries:
            yield top_rows(query, vectors, k=k, dead=dead, allowed=allowed)
        return
    rough, rows = _rough_best(queries, vectors, wanted, dead, allowed)
    values = cosines_of_pairs(vectors, rows, queries)
    last = min(k, available) - 1
    # The k-th best of those compared; a row that was not fetched is at most as good as the last
    # one that was, give or take the margin.
    reached = -np.partition(-values, last, axis=1)[:, last]
    is_sure = (wanted == available) | (rough.min(axis=1) < reached - MARGIN)
    for number, query in enumerate(queries):
        if is_sure[number]:
            yield best_of(rows[number], values[number], k)
        else:
            yield top_rows(query, vectors, k=k, dead=dead, allowed=allowed, exact=True)


def _rough_best(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    wanted: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the roughly best rows of each query and their products, (n, wanted) both."""
    from muomni_search.index.faiss_index import nearest

    if allowed is None and not len(dead):
        return nearest(queries, vectors, wanted)
    best = np.full((len(queries), wanted), -np.inf, np.float32)
    rows = np.full((len(queries), wanted), -1, np.int64)
    for numbers in _tiles(len(vectors), dead, allowed):
        values, places = nearest(queries, vectors[numbers], min(wanted, len(numbers)))
        best = np.concatenate([best, values], axis=1)
        rows = np.concatenate([rows, numbers[places]], axis=1)
        order = np.argpartition(-best, wanted - 1, axis=1)[:, :wanted]
        best = np.take_along_axis(best, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
    return best, rows


def _tiles(
    count: int, dead: NDArray[np.int64], allowed: NDArray[np.int64] | None
) -> Iterator[NDArray[np.int64]]:
    """Yield the rows to compare, a tile at a time."""
    if allowed is not None:
        for start in range(0, len(allowed), TILE_ROWS):
            yield allowed[start : start + TILE_ROWS]
        return
    for start in range(0, count, TILE_ROWS):
        numbers = np.arange(start, min(count, start + TILE_ROWS))
        live = numbers[~_is_in(numbers, dead)]
        if len(live):
            yield live
