"""A batch's first pass in fewer bits, whose bound says what must be compared exactly.

    rows, queries ──▶ fewer bits each ──▶ products (``coarse``)
                                              │ above the k-th best product so far, less the bound
                                              ▼
             rough products of the few rows that may be among the best
                                              │ what is left at the end
                                              ▼
                                      ``vectors.cosines``

No row is missed, and what is compared counts by its cosine alone: the answer is the one of
``planner`` without a first pass, to the bit.

Many processors multiply such numbers faster than float32. Whether this one does is tried at the
first large batch of a process. All that is done with a tile of rows is done by one thread, on each
core another tile: beside such products whatever only one core did would take a third of the time.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from muomni_search.index.exact import MARGIN, is_in
from muomni_search.index.protocol import CandidateLists
from muomni_search.items import DIM
from muomni_search.vectors import cosines_of_pairs

if TYPE_CHECKING:
    from concurrent.futures import Executor

__all__ = ["PASSING_SHARE", "best_rows", "is_paying"]

# Pairs whose cosines each thread computes at a time.
COMPARED_AT_ONCE = 16_384
# To compare a pair takes far longer than to multiply it. Where more than this share of all
# pass, rows lie too near to one another for few bits (the texts of many models do, or a run of
# equal ones), and floats are faster; the first thresholds are low, so that for each hit so many
# more may.
PASSING_SHARE, PATIENCE = 0.003, 4
# Multiplications that take about half a second: for fewer, trying it out costs more than it saves.
LARGE, FEWEST_QUERIES = 100_000_000_000, 256
# How many rows a first guess of the thresholds is taken from: one of so many, within these numbers.
SAMPLE_STEP, SAMPLE_ROWS = 64, (4_096, 16_384)
# Where there are fewer rows for each hit than this, divided by the share of the products' time that
# is saved, comparing takes all of that (benchmarks/batch.py: 900,000 rows, k = 100).
ROWS_PER_HIT = 4_000
# How much faster than the products of float32 the first pass must be to be used.
GAIN = 1.2


def is_paying(queries: int, available: int, k: int, least: float = GAIN) -> bool:
    """Whether so many queries of so many rows are answered faster with a first pass.

    Args:
        queries: How many queries go through together.
        available: How many rows count.
        k: How many hits each query has.
        least: How much faster its products must be than those of float32.
    """
    multiplications = queries * available * DIM
    if available < ROWS_PER_HIT * k or queries < FEWEST_QUERIES:  # nothing need be tried, or loaded
        return False
    from muomni_search.index import coarse

    if multiplications < LARGE and not coarse.is_tried():
        return False
    gain = coarse.gain(coarse.choose(multiplications))
    return gain >= least and available * (1 - 1 / gain) >= ROWS_PER_HIT * k


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
    from muomni_search.index import coarse  # threads and all, which a single query does without

    vectors = np.asarray(vectors)  # slices of a map are slower
    count = len(vectors) if allowed is None else len(allowed)
    arithmetic = coarse.choose(len(queries) * count * DIM)
    in_fewer_bits = coarse.Asked(arithmetic, queries)
    best = _Best(queries, vectors, k)
    step = max(1, count // min(max(count // SAMPLE_STEP, SAMPLE_ROWS[0]), SAMPLE_ROWS[1]))
    sample = np.arange(0, count, step) if allowed is None else allowed[::step]
    sample = sample[~is_in(sample, dead)]

    def compare(start: int) -> bool:
        """Compare a tile of rows; return whether it pays to go on."""
        tile = slice(start, start + coarse.ROWS_AT_ONCE)
        numbers = np.arange(start, min(count, tile.stop)) if allowed is None else allowed[tile]
        live = numbers[~is_in(numbers, dead)]
        if not len(live):
            return True
        is_whole = allowed is None and len(live) == len(numbers)
        near = in_fewer_bits.near(vectors[tile] if is_whole else vectors[live], best.least)
        if near is None:
            return False
        asked, places = near
        if not best.count_passed(len(places), len(live) * len(queries)):
            return False
        best.add(asked, live[places])
        return True

    best.guess(sample)
    with coarse.workers("muomni-first-pass", arithmetic) as pool:
        # The first that says no ends it: those that have not begun are called off.
        pays = all(pool.map(compare, range(0, count, coarse.ROWS_AT_ONCE)))
        return best.lists(pool) if pays else None


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

    def guess(self, rows: NDArray[np.int64]) -> None:
        """Take a first threshold from the products with some rows."""
        from muomni_search.index.faiss_index import nearest

        if len(rows) < self._k:
            return
        products, _ = nearest(self._queries, self._vectors[rows], self._k)
        self.least[:] = products[:, -1].astype(np.float64) - MARGIN

    def count_passed(self, passed: int, products: int) -> bool:
        """Count so many pairs that passed of so many; return whether they are few enough so far."""
        with self._lock:
            self._passed += passed
            self._may_pass += PASSING_SHARE * products
            return self._passed <= self._may_pass

    def add(self, asked: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Compare rows with the queries that they may answer, and keep those that may do so yet."""
        from muomni_search.index.faiss_index import products_of_pairs

        products = products_of_pairs(self._queries, asked, self._vectors, rows)
        is_near = products >= self.least[asked]  # most are not
        with self._lock:
            self._new.append((asked[is_near], rows[is_near], products[is_near]))
            self._count += int(is_near.sum())
            # Sorting takes a while, and later thresholds are only better. Of many that are equal
            # all are kept, and are not to be sorted again for each tile.
            if self._count > max(self._k * len(self._queries) // 2, len(self._kept[0])):
                self._settle()

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
        are_exact = np.ones(len(self._queries), bool)
        return CandidateLists.best_of(self._k, asked, rows, values, are_exact)


def _slices(count: int, at_once: int) -> list[slice]:
    return [slice(start, start + at_once) for start in range(0, max(count, 1), at_once)]


def _order(asked: NDArray[np.int64], products: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the order by query and, for each, by falling product: one sort of one number each."""
    bits = products.view(np.int32).astype(np.int64)
    # Of negative floats the bits rise where the values fall.
    rising = np.where(bits < 0, -(2**31) - 1 - bits, bits)
    found: NDArray[np.int64] = np.argsort((asked << 32) - rising)
    return found
