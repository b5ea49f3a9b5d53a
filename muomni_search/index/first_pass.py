"""A batch's first pass in numbers of 8 bits, whose bound says what must be compared exactly.

    rows      8 bits each, a scale for some thousands ┐
    queries   7 bits each, a scale for each            ├─▶ product of whole numbers, which is exact
    the k-th best cosine so far, less the bound        ┘     │ above that
                                                             ▼
                                     the few rows that may be among the best ─▶ ``vectors.cosines``

With a row x = x' + e and a query q = q' + f, where x' and q' are what the whole numbers stand for,
x·q = x'·q' + x'·f + e·q, so x·q is off by no more than |x'||f| + |e||q| (Cauchy-Schwarz). The
product x'·q' has no rounding at all: ONNX Runtime's ``MatMulInteger`` multiplies 8 bits by 8 and
sums in 32. Processors without VNNI add two such products in 16 bits and cut off what is more; with
7 bits on one side nothing is (2 · 255 · 63 < 2¹⁵). So no row is missed, and what is compared counts
by its cosine alone: the answer is the one of ``planner`` without a first pass, to the bit.

Many processors multiply whole numbers of 8 bits faster than float32. Whether this one does, and
whether its products are exact, is tried at the first large batch of a process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.index.exact import MARGIN, is_in
from muomni_search.index.protocol import CandidateLists
from muomni_search.sessions import open_session
from muomni_search.vectors import cosines_of_pairs, normalise

__all__ = ["best_rows", "is_paying"]

# Made by scripts/build_first_pass.py: MatMulInteger and Greater.
GRAPH = Path(__file__).with_name("first_pass.onnx")
ROW_BITS, QUERY_BITS, ZERO = 127, 63, 128
# Products at a time: 16 MB, which two cores hold in their caches for the most part.
PRODUCTS_AT_ONCE = 4_194_304
# Pairs that are multiplied one by one: 8 MB of rows and queries.
PAIRS_AT_ONCE = 4_096
# To compare a pair takes far longer than to multiply it. Where more than this share of all
# pass, rows lie too near to one another for 8 bits (the texts of many models do, or a run of equal
# ones), and floats are faster; the first thresholds are low, so that some tiles may have more.
PASSING_SHARE, PATIENCE = 0.003, 8
# Multiplications that take about half a second: below, trying it out would cost more than it saves.
LARGE = 25_000_000_000
# How many rows a first guess of the thresholds is taken from: one of so many, within these numbers.
SAMPLE_STEP, SAMPLE_ROWS = 64, (4_096, 16_384)
# Where there are fewer rows for each hit, comparing takes what the products save, as at a million
# rows and k = 100, or 100,000 and k = 10.
ROWS_PER_HIT = 30_000
# How much faster than the products of float32 the first pass must be to be used.
GAIN = 1.2
TRIED_ROWS, TRIED_QUERIES, TRIED_K = 4_096, 1_024, 16
# The errors are norms computed in float32.
SLACK = 1.0001


def is_paying(queries: int, available: int, k: int) -> bool:
    """Whether so many queries of so many rows are answered faster with a first pass."""
    return (
        available >= ROWS_PER_HIT * k
        and queries * available * 256 >= LARGE
        and queries >= TRIED_QUERIES // 4
        and _is_faster()
    )


def best_rows(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None,
) -> CandidateLists | None:
    """Return for each query (n, 256) its best k rows and all tied with the last, in order.

    Args:
        queries: Unit vectors.
        vectors: All rows (m, 256).
        k: How many are wanted of each; there must be more.
        dead: Rows that do not count, sorted.
        allowed: The only rows that count, sorted, none of them dead; all by default.

    Returns:
        None where too many would have to be compared, or a row holds no numbers of a unit vector.
    """
    vectors = np.asarray(vectors)  # slices of a map are slower
    coarse, scales, errors = _coarse_queries(queries)
    best = _Best(queries, vectors, k)
    count = len(vectors) if allowed is None else len(allowed)
    step = max(1, count // min(max(count // SAMPLE_STEP, SAMPLE_ROWS[0]), SAMPLE_ROWS[1]))
    some = np.arange(0, count, step) if allowed is None else allowed[::step]
    best.guess(some[~is_in(some, dead)])
    at_once = max(1, PRODUCTS_AT_ONCE // len(queries))
    passed, products = 0, PATIENCE * PRODUCTS_AT_ONCE
    for start in range(0, count, at_once):
        tile = slice(start, start + at_once)
        numbers = np.arange(start, min(count, tile.stop)) if allowed is None else allowed[tile]
        live = numbers[~is_in(numbers, dead)]
        if not len(live):
            continue
        is_whole = allowed is None and len(live) == len(numbers)
        made = _coarse_rows(vectors[tile] if is_whole else vectors[live])
        if made is None:
            return None
        least = np.floor((best.least - made.bounds(errors)) / (made.scale * scales)) - 1
        is_near = _session().run(
            None,
            {
                "rows": made.whole,
                "queries": coarse,
                "least": np.clip(least, -(2**31), 2**31 - 1).astype(np.int32),
            },
        )[0]
        near = np.flatnonzero(is_near)
        passed, products = passed + len(near), products + is_near.size
        if passed > PASSING_SHARE * products:
            return None
        places, asked = np.divmod(near, len(queries))
        best.add(asked, live[places])
    return best.lists()


class _Best:
    """The best rows of each query among those that were compared."""

    def __init__(
        self,
        queries: NDArray[np.float32],
        vectors: NDArray[np.float32],
        k: int,
    ) -> None:
        self._queries = queries
        self._vectors = vectors
        self._k = k
        # No better than the k-th best of all, in float64 for what is computed of it.
        self.least = np.full(len(queries), -np.inf)
        self._kept = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        self._new = [self._kept]
        self._count = 0

    def guess(self, rows: NDArray[np.int64]) -> None:
        """Take a first threshold from products with some rows."""
        if len(rows) < self._k:
            return
        some_rows = self._vectors[rows]
        for some in _slices(len(self._queries), PRODUCTS_AT_ONCE // len(rows)):
            products = self._queries[some] @ some_rows.T
            products.partition(-self._k, axis=1)
            self.least[some] = products[:, -self._k].astype(np.float64) - MARGIN

    def add(self, asked: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Compare rows with the queries that they may answer, and keep those that may do so yet."""
        for some in _slices(len(rows), PAIRS_AT_ONCE):
            self._add(asked[some], rows[some])
        # Sorting takes a while, and later thresholds are only better. Of many that are equal all
        # are kept, and are not to be sorted again for each tile.
        if self._count > max(self._k * len(self._queries) // 2, len(self._kept[0])):
            self._settle()

    def _add(self, asked: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        # Most of them are not near enough, as a plain product sees.
        products = np.vecdot(self._vectors[rows], self._queries[asked])
        is_near = products >= self.least[asked] - MARGIN
        asked, rows = asked[is_near], rows[is_near]
        values = cosines_of_pairs(self._vectors, rows[:, None], self._queries[asked])[:, 0]
        is_near = values >= self.least[asked]
        self._new.append((asked[is_near], rows[is_near], values[is_near]))
        self._count += int(is_near.sum())

    def _settle(self) -> None:
        """Put what was found into order, and let go of what is no longer among the best."""
        asked, rows, values = (
            np.concatenate(column) for column in zip(self._kept, *self._new, strict=True)
        )
        order = _order(asked, values)
        asked, rows, values = asked[order], rows[order], values[order]
        counts = np.bincount(asked, minlength=len(self._queries))
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        are_many = np.flatnonzero(counts >= self._k)
        reached = values[starts[are_many] + self._k - 1].astype(np.float64)
        self.least[are_many] = np.maximum(self.least[are_many], reached)
        is_kept = values >= self.least[asked]
        self._kept = (asked[is_kept], rows[is_kept], values[is_kept])
        self._new, self._count = [], 0

    def lists(self) -> CandidateLists:
        """Return the best k of each query and all tied with the last; equal cosines by row."""
        self._settle()
        asked, rows, values = self._kept
        order = np.lexsort((rows, -values, asked))
        counts = np.bincount(asked, minlength=len(self._queries))
        starts = np.concatenate([[0], np.cumsum(counts)])
        is_exact = np.ones(len(self._queries), bool)
        return CandidateLists(starts, rows[order], values[order], is_exact)


def _slices(count: int, at_once: int) -> list[slice]:
    return [slice(start, start + at_once) for start in range(0, max(count, 1), at_once)]


def _order(asked: NDArray[np.int64], values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the order by query and, for each, by falling value: one sort of one number each."""
    bits = values.view(np.int32).astype(np.int64)
    # Of negative floats the bits rise where the values fall.
    rising = np.where(bits < 0, -(2**31) - 1 - bits, bits)
    found: NDArray[np.int64] = np.argsort((asked << 32) - rising)
    return found


def _coarse_queries(
    queries: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float64], NDArray[np.float64]]:
    """Return queries in 7 bits (256, n), the scale of each, and how far off each is."""
    scales = np.abs(queries).max(axis=1).astype(np.float64) / QUERY_BITS
    whole = np.rint(queries / scales[:, None])
    errors = np.linalg.norm(queries - whole * scales[:, None], axis=1)
    return np.ascontiguousarray(whole.T.astype(np.int8)), scales, errors


class _Coarse(NamedTuple):
    """Some rows in 8 bits.

    Args:
        whole: The whole numbers (m, 256), with ``ZERO`` for nothing.
        scale: What one of them stands for.
        length: The greatest length of a row.
        error: How far off the worst row is.
    """

    whole: NDArray[np.uint8]
    scale: float
    length: float
    error: float

    def bounds(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far off a product is at most, for queries that are so far off (n,)."""
        return SLACK * ((self.length + self.error) * errors + self.error) + MARGIN


def _coarse_rows(rows: NDArray[np.float32]) -> _Coarse | None:
    """Return rows in 8 bits; None where a number is none, or far beyond those of unit vectors."""
    scale = float(max(rows.max(), -rows.min())) / ROW_BITS
    if not 0 < scale < 1:  # NaN is neither
        return None
    length = float(np.sqrt(np.vecdot(rows, rows).max()))
    whole = rows * np.float32(1 / scale)
    np.rint(whole, out=whole)
    coarse = (whole + np.float32(ZERO)).astype(np.uint8)
    whole *= np.float32(scale)
    np.subtract(rows, whole, out=whole)
    return _Coarse(coarse, scale, length, float(np.sqrt(np.vecdot(whole, whole).max())))


@cache
def _session() -> Any:
    return open_session(GRAPH, threads=len(os.sched_getaffinity(0)))


@cache
def _is_faster() -> bool:
    """Whether the first pass is exact on this processor, and faster than what it would replace."""
    from muomni_search.index.faiss_index import nearest

    if not _is_exact():
        return False
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((TRIED_QUERIES, 256)).astype(np.float32)
    rows = normalise(rng.standard_normal((TRIED_ROWS, 256)))
    coarse, *_ = _coarse_queries(queries)
    least = np.full(TRIED_QUERIES, 2**31 - 1, np.int32)

    def first_pass() -> None:
        made = _coarse_rows(rows)
        if made is not None:
            given = {"rows": made.whole, "queries": coarse, "least": least}
            np.flatnonzero(_session().run(None, given)[0])

    taken = [_seconds(first_pass), _seconds(lambda: nearest(queries, rows, TRIED_K))]
    return GAIN * taken[0] < taken[1]


def _seconds(work: Callable[[], Any]) -> float:
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return min(taken)


def _is_exact() -> bool:
    """Whether products of the largest numbers are what they are, on this processor."""
    rng = np.random.default_rng(0)
    queries = rng.choice([-QUERY_BITS, QUERY_BITS], (256, 64)).astype(np.int8)
    queries[:, 0], queries[:, 1] = QUERY_BITS, -QUERY_BITS
    for row in (np.full(256, 255), np.full(256, 1), rng.choice([1, 255], 256)):
        rows = np.tile(row.astype(np.uint8), (32, 1))
        products = ((row - ZERO) @ queries.astype(np.int64)).astype(np.int32)
        given = {"rows": rows, "queries": queries}
        below = _session().run(None, {**given, "least": products - 1})[0]
        above = _session().run(None, {**given, "least": products})[0]
        if not below.all() or above.any():
            return False
    return True
