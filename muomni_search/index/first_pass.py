"""A batch's first pass in numbers of 8 bits, whose bound says what must be compared exactly.

    rows      8 bits each, a scale for some thousands ┐
    queries   8 or 7 bits each, a scale for each       ├─▶ product of whole numbers, which is exact
    the k-th best product so far, less the bound       ┘     │ above that
                                                             ▼
             rough products of the few rows that may be among the best
                                                             │ what is left at the end
                                                             ▼
                                                     ``vectors.cosines``

With a row x = x' + e and a query q = q' + f, where x' and q' are what the whole numbers stand for,
x·q = x'·q' + x'·f + e·q, so x·q is off by no more than |x'||f| + |e||q| (Cauchy-Schwarz). The
product x'·q' has no rounding at all: ONNX Runtime's ``MatMulInteger`` multiplies 8 bits by 8 and
sums in 32. Processors without VNNI add two such products in 16 bits and cut off what is more; with
7 bits on one side nothing is (2 · 255 · 63 < 2¹⁵). So no row is missed, and what is compared counts
by its cosine alone: the answer is the one of ``planner`` without a first pass, to the bit.

Many processors multiply whole numbers of 8 bits faster than float32. Whether this one does, and
with how many bits its products are exact, is tried at the first large batch of a process. All that
is done with a tile of rows is done by one thread, on each core another tile: beside such products
whatever only one core did would take a third of the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.cores import usable_cores
from muomni_search.index.exact import MARGIN, is_in
from muomni_search.index.protocol import CandidateLists
from muomni_search.items import DIM
from muomni_search.sessions import open_session
from muomni_search.vectors import cosines_of_pairs, normalise

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["ROWS_AT_ONCE", "Above", "best_rows", "is_paying"]

# Made by scripts/build_first_pass.py: MatMulInteger and Greater.
GRAPH = Path(__file__).with_name("first_pass.onnx")
# The greatest whole number of a row, those of a query, the best first, and what stands for nothing.
ROW_MOST, QUERY_MOSTS, ZERO = 127, (127, 63), 128
# Rows and queries that each thread multiplies at a time: 2 MB of products, which stay in the cache
# of its core until they are looked through. With eight times as many, a third fewer a second.
ROWS_AT_ONCE, QUERIES_AT_ONCE = 1_024, 512
# Pairs that are multiplied one by one: 2 MB of rows and queries.
PAIRS_AT_ONCE = 1_024
# Pairs whose cosines each thread computes at a time.
COMPARED_AT_ONCE = 16_384
# To compare a pair takes far longer than to multiply it. Where more than this share of all
# pass, rows lie too near to one another for 8 bits (the texts of many models do, or a run of equal
# ones), and floats are faster; the first thresholds are low, so that for each hit so many more may.
PASSING_SHARE, PATIENCE = 0.003, 4
# Multiplications that take about half a second: below, trying it out would cost more than it saves.
LARGE = 25_000_000_000
# How many rows a first guess of the thresholds is taken from: one of so many, within these numbers.
SAMPLE_STEP, SAMPLE_ROWS = 64, (4_096, 16_384)
# How many products that takes at a time: 16 MB.
GUESSED_AT_ONCE = 4_194_304
# Where there are fewer rows for each hit than this, divided by the share of the products' time that
# is saved, comparing takes all of that. With VNNI 900,000 rows and k = 100 take half of the time
# (benchmarks/batch.py).
ROWS_PER_HIT = 4_000
# How much faster than the products of float32 the first pass must be to be used.
GAIN = 1.2
TRIED_QUERIES, TRIED_K, TRIES = 1_024, 16, 4
# The errors are norms computed in float32.
SLACK = 1.0001


def is_paying(queries: int, available: int, k: int) -> bool:
    """Whether so many queries of so many rows are answered faster with a first pass."""
    return (
        available >= ROWS_PER_HIT * k  # else nothing need be tried
        and queries * available * DIM >= LARGE
        and queries >= TRIED_QUERIES // 4
        and _gain() >= GAIN
        and available * (1 - 1 / _gain()) >= ROWS_PER_HIT * k
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
        k: How many are wanted of each; at least as many rows must count.
        dead: Rows that do not count, sorted.
        allowed: The only rows that count, sorted, none of them dead; all by default.

    Returns:
        None where too many would have to be compared, or a row holds no numbers of a unit vector.
    """
    from concurrent.futures import ThreadPoolExecutor  # which a single query does without

    vectors = np.asarray(vectors)  # slices of a map are slower
    coarse = _coarse_blocks(queries)
    best = _Best(queries, vectors, k)
    count = len(vectors) if allowed is None else len(allowed)
    step = max(1, count // min(max(count // SAMPLE_STEP, SAMPLE_ROWS[0]), SAMPLE_ROWS[1]))
    sample = np.arange(0, count, step) if allowed is None else allowed[::step]
    sample = sample[~is_in(sample, dead)]

    def compare(start: int) -> bool:
        """Compare a tile of rows; return whether it pays to go on."""
        tile = slice(start, start + ROWS_AT_ONCE)
        numbers = np.arange(start, min(count, tile.stop)) if allowed is None else allowed[tile]
        live = numbers[~is_in(numbers, dead)]
        if not len(live):
            return True
        is_whole = allowed is None and len(live) == len(numbers)
        made = _coarse_rows(vectors[tile] if is_whole else vectors[live])
        if made is None:
            return False
        asked, places = _near_pairs(made, coarse, best.least)
        if not best.count_passed(len(places), len(live) * len(queries)):
            return False
        best.add(asked, live[places])
        return True

    with ThreadPoolExecutor(usable_cores(), "muomni-first-pass") as pool:
        best.guess(sample, pool)
        # The first that says no ends it: those that have not begun are called off.
        pays = all(pool.map(compare, range(0, count, ROWS_AT_ONCE)))
        return best.lists(pool) if pays else None


class Above:
    """Queries (n, 256), in 8 bits, and a cosine that rows shall reach."""

    def __init__(self, queries: NDArray[np.float32], least: float) -> None:
        self._coarse = _coarse_blocks(queries)
        self._least = np.full(len(queries), least)

    def pairs(
        self, rows: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Return the pairs of a query and a row (m, 256) that may reach it, as places (p,) each.

        For ``ROWS_AT_ONCE`` rows, and on the calling thread.

        Returns:
            None where they are so many that products of floats take less time.
        """
        made = _coarse_rows(rows)
        if made is None:
            return None
        asked, places = _near_pairs(made, self._coarse, self._least)
        return (
            None if len(places) > PASSING_SHARE * len(rows) * len(self._least) else (asked, places)
        )


class _Best:
    """The rows of each query that may be among its best, as far as compared, by several threads.

    By rough products, off by less than half of ``MARGIN``; the cosines come at the end, of few.
    """

    def __init__(
        self,
        queries: NDArray[np.float32],
        vectors: NDArray[np.float32],
        k: int,
    ) -> None:
        self._queries = queries
        self._vectors = vectors
        self._k = k
        self._lock = threading.Lock()
        self._passed, self._may_pass = 0, float(PATIENCE * k * len(queries))
        # The k-th best product so far less the margin: no row of a lesser one is among the best. In
        # float64 for what is computed of it. It only rises, so that who reads it meanwhile compares
        # a few more.
        self.least = np.full(len(queries), -np.inf)
        self._kept = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
        self._new = [self._kept]
        self._count = 0

    def guess(self, rows: NDArray[np.int64], pool: Executor) -> None:
        """Take a first threshold from products with some rows."""
        if len(rows) < self._k:
            return
        some_rows = self._vectors[rows]

        def multiply(some: slice) -> None:
            products = self._queries[some] @ some_rows.T
            products.partition(-self._k, axis=1)
            self.least[some] = products[:, -self._k].astype(np.float64) - MARGIN

        slices = _slices(len(self._queries), max(1, GUESSED_AT_ONCE // len(rows)))
        list(pool.map(multiply, slices))

    def count_passed(self, passed: int, products: int) -> bool:
        """Count so many pairs that passed of so many; return whether they are few enough so far."""
        with self._lock:
            self._passed += passed
            self._may_pass += PASSING_SHARE * products
            return self._passed <= self._may_pass

    def add(self, asked: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Compare rows with the queries that they may answer, and keep those that may do so yet."""
        products = self._products_of(asked, rows)
        is_near = products >= self.least[asked]  # most are not
        with self._lock:
            self._new.append((asked[is_near], rows[is_near], products[is_near]))
            self._count += int(is_near.sum())
            # Sorting takes a while, and later thresholds are only better. Of many that are equal
            # all are kept, and are not to be sorted again for each tile.
            if self._count > max(self._k * len(self._queries) // 2, len(self._kept[0])):
                self._settle()

    def _products_of(
        self, asked: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return the rough cosine of each query (n,) with its row (n,)."""
        products = np.empty(len(rows), np.float32)
        # Into the same places again and again, see ``vectors.cosines_of_pairs``.
        left, right = np.empty((2, min(PAIRS_AT_ONCE, len(rows)), DIM), np.float32)
        for some in _slices(len(rows), PAIRS_AT_ONCE):
            count = len(rows[some])
            products[some] = np.vecdot(
                np.take(self._vectors, rows[some], axis=0, out=left[:count], mode="clip"),
                np.take(self._queries, asked[some], axis=0, out=right[:count], mode="clip"),
            )
        return products

    def _settle(self) -> None:
        """Put what was found into order, and let go of what is no longer among the best."""
        asked, rows, products = (
            np.concatenate(column) for column in zip(self._kept, *self._new, strict=True)
        )
        order = _order(asked, products)
        asked, rows, products = asked[order], rows[order], products[order]
        counts = np.bincount(asked, minlength=len(self._queries))
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        are_many = np.flatnonzero(counts >= self._k)
        reached = products[starts[are_many] + self._k - 1].astype(np.float64) - MARGIN
        self.least[are_many] = np.maximum(self.least[are_many], reached)
        is_kept = products >= self.least[asked]
        self._kept = (asked[is_kept], rows[is_kept], products[is_kept])
        self._new, self._count = [], 0

    def lists(self, pool: Executor) -> CandidateLists:
        """Return the best k of each query and all tied with the last; equal cosines by row."""
        self._settle()
        asked, rows, _ = self._kept

        def compare(some: slice) -> NDArray[np.float32]:
            own = self._queries[asked[some]]
            return cosines_of_pairs(self._vectors, rows[some][:, np.newaxis], own)[:, 0]

        values = np.concatenate(list(pool.map(compare, _slices(len(rows), COMPARED_AT_ONCE))))
        order = np.lexsort((rows, -values, asked))
        asked, rows, values = asked[order], rows[order], values[order]
        firsts = np.searchsorted(asked, np.arange(len(self._queries)))
        is_found = values >= values[firsts + self._k - 1][asked]
        counts = np.bincount(asked[is_found], minlength=len(self._queries))
        starts = np.concatenate([[0], np.cumsum(counts)])
        are_exact = np.ones(len(self._queries), bool)
        return CandidateLists(starts, rows[is_found], values[is_found], are_exact)


def _slices(count: int, at_once: int) -> list[slice]:
    return [slice(start, start + at_once) for start in range(0, max(count, 1), at_once)]


def _order(asked: NDArray[np.int64], products: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the order by query and, for each, by falling product: one sort of one number each."""
    bits = products.view(np.int32).astype(np.int64)
    # Of negative floats the bits rise where the values fall.
    rising = np.where(bits < 0, -(2**31) - 1 - bits, bits)
    found: NDArray[np.int64] = np.argsort((asked << 32) - rising)
    return found


class _CoarseQueries(NamedTuple):
    """Some queries in 8 or 7 bits.

    Args:
        whole: The whole numbers (256, n).
        scales: What one of each query's stands for (n,).
        errors: How far off each query is (n,).
    """

    whole: NDArray[np.int8]
    scales: NDArray[np.float64]
    errors: NDArray[np.float64]


def _coarse_queries(queries: NDArray[np.float32]) -> _CoarseQueries:
    """Return queries in as many bits as this processor multiplies exactly."""
    scales = np.abs(queries).max(axis=1).astype(np.float64) / _query_most()
    whole = np.rint(queries / scales[:, None])
    errors = np.linalg.norm(queries - whole * scales[:, None], axis=1)
    return _CoarseQueries(np.ascontiguousarray(whole.T.astype(np.int8)), scales, errors)


def _coarse_blocks(queries: NDArray[np.float32]) -> list[_CoarseQueries]:
    return [_coarse_queries(queries[some]) for some in _slices(len(queries), QUERIES_AT_ONCE)]


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
        """Return how far off a product is at most, for queries that are so far off (n,).

        The margin is for rows of whole numbers, whose error is that of float32 alone.
        """
        return SLACK * ((self.length + self.error) * errors + self.error) + MARGIN


def _coarse_rows(rows: NDArray[np.float32]) -> _Coarse | None:
    """Return rows in 8 bits; None where a number is none, or far beyond those of unit vectors."""
    scale = float(max(rows.max(), -rows.min())) / ROW_MOST
    if not 0 < scale < 1:  # NaN is neither
        return None
    length = float(np.sqrt(np.vecdot(rows, rows).max()))
    whole = rows * np.float32(1 / scale)
    np.rint(whole, out=whole)
    coarse = (whole + np.float32(ZERO)).astype(np.uint8)
    whole *= np.float32(scale)
    np.subtract(rows, whole, out=whole)
    return _Coarse(coarse, scale, length, float(np.sqrt(np.vecdot(whole, whole).max())))


def _near_pairs(
    rows: _Coarse, blocks: list[_CoarseQueries], least: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what ``_near`` does for all blocks of queries."""
    slices = _slices(len(least), QUERIES_AT_ONCE)
    near = [
        (some.start + asked, places)
        for some, block in zip(slices, blocks, strict=True)
        for asked, places in [_near(rows, block, least[some])]
    ]
    asked, places = (np.concatenate(column) for column in zip(*near, strict=True))
    return asked, places


def _near(
    rows: _Coarse, queries: _CoarseQueries, least: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of a query and a row whose cosine may be the query's least or more."""
    bounded = np.floor((least - rows.bounds(queries.errors)) / (rows.scale * queries.scales)) - 1
    are_near = _session().run(
        None,
        {
            "rows": rows.whole,
            "queries": queries.whole,
            "least": np.clip(bounded, -(2**31), 2**31 - 1).astype(np.int32),
        },
    )[0]
    places, numbers = np.divmod(np.flatnonzero(are_near), len(least))
    return numbers, places


@cache
def _session() -> Any:
    return open_session(GRAPH, threads=1)


@cache
def _gain() -> float:
    """Return how much faster the first pass is than what it would replace; 0 where it is wrong.

    As far as it shows at this moment, when other programs may run: only speed hangs on it.
    """
    from concurrent.futures import ThreadPoolExecutor

    from muomni_search.index.faiss_index import nearest

    if _query_most() == 0:
        return 0.0
    rng = np.random.default_rng(0)
    # Tiles enough for each core, and queries that reach nothing.
    count = ROWS_AT_ONCE * max(4, 2 * usable_cores())
    queries = normalise(rng.standard_normal((TRIED_QUERIES, DIM)))
    rows = normalise(rng.standard_normal((count, DIM)))
    coarse = _coarse_blocks(queries)
    unreached = np.full(TRIED_QUERIES, 2.0)

    def first_pass(tile: slice) -> None:
        made = _coarse_rows(rows[tile])
        assert made is not None  # noqa: S101  (of unit vectors)
        _near_pairs(made, coarse, unreached)

    with ThreadPoolExecutor(usable_cores()) as pool:
        tiles = _slices(count, ROWS_AT_ONCE)
        ways = (lambda: nearest(queries, rows, TRIED_K), lambda: list(pool.map(first_pass, tiles)))
        # In turns, for the machine may be slower for a while.
        taken = np.array([[_seconds(way) for way in ways] for _ in range(TRIES)])
    in_floats, in_whole_numbers = taken.min(axis=0)
    return float(in_floats / in_whole_numbers)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@cache
def _query_most() -> int:
    """Return the greatest whole number that queries may have on this processor, 0 for none."""
    return next((most for most in QUERY_MOSTS if _is_exact(most)), 0)


def _is_exact(most: int) -> bool:
    """Whether products of the largest numbers are what they are, on this processor."""
    rng = np.random.default_rng(0)
    queries = rng.choice([-most, most], (DIM, 64)).astype(np.int8)
    queries[:, 0], queries[:, 1] = most, -most
    for row in (np.full(DIM, 255), np.full(DIM, 1), rng.choice([1, 255], DIM)):
        rows = np.tile(row.astype(np.uint8), (32, 1))
        products = ((row - ZERO) @ queries.astype(np.int64)).astype(np.int32)
        given = {"rows": rows, "queries": queries}
        below = _session().run(None, {**given, "least": products - 1})[0]
        above = _session().run(None, {**given, "least": products})[0]
        if not below.all() or above.any():
            return False
    return True
