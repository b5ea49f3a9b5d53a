"""Decide how a query is answered, and answer it.

    a filter lets few rows through  →  multiply these
    no index, or exact asked        →  multiply all, leave out what is dead or filtered
    an index                        →  its candidates and the rows since, compared exactly

The index knows no filter: it is asked for so many candidates more that enough of them are let
through, and when that runs away (the filter keeps rows far from the query) all are compared. So
they are for a query that is farther from all rows than any that the index was measured with.

Matrix products only choose which rows are compared: the cosine that counts is the one of
``vectors.cosines``, and a row within ``MARGIN`` of the threshold is always compared. So rounding
never decides which rows are found, and ties come out the same whatever way was taken.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from muomni_search.cores import usable_cores
from muomni_search.errors import CorruptData
from muomni_search.index import first_pass
from muomni_search.index.exact import MARGIN, best_of, is_in
from muomni_search.index.protocol import CODES, CandidateLists, Candidates, VectorIndex
from muomni_search.vectors import cosines, cosines_of_pairs

if TYPE_CHECKING:
    from muomni_search.index.faiss_index import FourBitScan
    from muomni_search.index.ties import Ties

__all__ = [
    "QUERY_BLOCK",
    "build_index",
    "choose_codes",
    "choose_kind",
    "is_compaction_due",
    "is_index_due",
    "top_rows",
    "top_rows_many",
]

# Up to here every row is compared: 20,000 rows take 0.7 ms, and no file and no FAISS are needed.
EXACT_ROWS = 20_000
# An index is built anew when the rows since are this share of all, so that adding stays linear.
STALE_SHARE = 0.2
# Dead rows are left out when they are this share of all. Until then they make comparing all rows
# slower, and files larger, by 1 / (1 - share): half at most. Each dead row pays for two live ones
# that are written and coded anew, so that updating stays linear too. The scan asks for
# FETCH / (1 - share) rows where the dead lie anywhere, and deeper where they crowd round a query.
DEAD_SHARE = 1 / 3
# Fewer of them than a block has, 4 MiB, are not worth a file.
DEAD_ROWS = 4_096
# Below this share of all rows gathering them beats multiplying all: without FAISS, at 100,000 rows
# 2.0 ms against 4.0 for a tenth, 4.6 against 3.9 for a quarter.
GATHER_SHARE = 0.2
# Up to about this share gathering them beats the scan of an index too, asked for so many more: a
# little more of 100,000 rows, a little less of 1,000,000.
SCAN_SHARE = 0.04
# Rows gathered at a time: 1 MB, which stays in the cache until it is multiplied. 40,000 of 400,000
# took 13 ms, 19 with eight times as many, 25 without a place of their own.
GATHERED_AT_ONCE = 1_024
# No cosine is greater; what is, is of a damaged row.
LONGEST = 1.001
# Candidates of the 4-bit scan where nothing was measured, for k up to 10 and in proportion.
FETCH, TUNED_K = 200, 10
# What an index takes beside its codes, of whatever rows: the centroids.
FIXED_BYTES = 20_000
# When the fetch would reach this share of the rows, comparing all is faster.
RUNAWAY_SHARE = 0.1
# So many candidates cost the scan little; whether they are compared is seen then.
CHEAP_SHARE = 0.002
WIDEN = 4
# A batch asks for so many rows more than k, to see all that may be tied with the last.
SPARE = 6
# FAISS multiplies 4,096 queries at a time; tiles of live rows are gathered once a block.
QUERY_BLOCK = 4_096
# What the scan takes for each query of a batch, and what comparing all rows one by one would, of
# the time of their products in float32: with 64 codes, of 100,000 and of 1,000,000 rows.
SCAN_TIME, COMPARING_TIME = 0.2, 75.0
# What a first pass in fewer bits takes of the time of its products alone: of 100,000 rows.
FIRST_PASS_TIME = 1.5
# To multiply all rows takes as long as so many queries more would: all of them must be read.
READING_TIME = 32
# So few queries with a filter of their own, as rows of a batch may have, are answered one by one:
# sooner than rows are gathered to be multiplied with all of them.
FEW_EXACT, FEW_BY_INDEX = 2, 6
# Of a block of queries on each thread, at most: 4 MB of rows, and a few times that to look through
# them.
PROPOSALS_AT_ONCE = 500_000
TILE_ROWS = 65_536
NO_PRODUCTS, NO_ROWS = np.empty(0, np.float32), np.empty(0, np.int64)
# Numbers of queries, rows that were found for them, and their cosines, (m,) each.
Compared = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
# What was found for a block of queries, and which of them need more: see ``_block_by_index``.
Block = tuple[list[Compared], NDArray[np.int64], NDArray[np.int64]]


def choose_kind(rows: int) -> Literal["exact", "ann"]:
    """Return ``exact`` or ``ann`` for a number of rows."""
    return "exact" if rows <= EXACT_ROWS else "ann"


def is_index_due(*, rows: int, covered: int) -> bool:
    """Whether an index that covers so many of the rows should be built anew."""
    return choose_kind(rows) == "ann" and rows - covered > max(EXACT_ROWS, STALE_SHARE * rows)


def choose_codes(rows: Sequence[int], memory: int | None) -> tuple[int, ...]:
    """Return how many codes the indexes of some numbers of rows may have, the first choice first.

    Args:
        rows: How many rows each modality has.
        memory: Bytes that the indexes may keep, all together; None for any.
    """
    indexed = sum(count for count in rows if choose_kind(count) == "ann")
    beside = FIXED_BYTES * sum(choose_kind(count) == "ann" for count in rows)
    held = tuple(one for one in CODES if memory is None or indexed * one // 2 + beside <= memory)
    # Where 64 keep no promise, 32 keep none either.
    return held[:-1] or held


def is_compaction_due(*, rows: int, dead: int) -> bool:
    """Whether the dead ones of so many rows cost more than to leave them out."""
    return dead > max(DEAD_ROWS, DEAD_SHARE * rows)


def build_index(vectors: NDArray[np.float32], codes: int = CODES[0]) -> FourBitScan:
    """Return a new index of all rows (n, 256), of which there must be one at least."""
    from muomni_search.index.faiss_index import FourBitScan

    return FourBitScan.build(vectors, codes)


def top_rows(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    *,
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None = None,
    index: VectorIndex | None = None,
    fetch: int = FETCH,
    reach: float = -1.0,
    marks: Callable[[], NDArray[np.bool_]] | None = None,
) -> Candidates:
    """Return the best rows for a query, exactly min(k, available) and those tied with the last.

    Args:
        query: (256,), unit length.
        vectors: All rows (n, 256), dead ones too.
        k: How many.
        dead: Dead rows, sorted.
        allowed: The live rows that a filter lets through, sorted; None for all.
        index: An index of the first rows; those since are compared exactly.
        fetch: How many candidates the index is asked for while k is 10 or less; in proportion
            for more.
        reach: How near the tenth best row (or the last, of fewer) must be for an answer by the
            index to count, however few are asked for.
        marks: Returns whether each row (n,) is live and let through: who asks again and again
            keeps that. By default what an index proposes is looked for among the rows.
    """
    share = 1.0 if allowed is None else len(allowed) / max(len(vectors), 1)
    if index is not None and share > SCAN_SHARE:
        wanted = max(fetch, fetch * k // TUNED_K)
        # How far a query is, and whether it is a hard one, was measured by the ten best: who asks
        # for fewer gets the first of these.
        sought = max(k, TUNED_K)
        found = _by_index(query, vectors, sought, dead, allowed, index, wanted, marks)
        if found is not None and _judged(found.cosines) >= reach:
            return found if k >= TUNED_K else best_of(found.rows, found.cosines, k, found.how)
    if allowed is None:
        rows = _near_live(query, vectors, k, dead)
    elif share <= GATHER_SHARE:
        rows = _near_gathered(query, vectors, k, allowed)
    else:
        rough = _products(vectors, query)[allowed]
        rows = allowed[_near(rough, min(k, len(allowed)))]
    return _best(query, vectors, rows, k)


def _judged(cosines: NDArray[np.float32]) -> float:
    """Return the cosine that says how far a query is, of those of its hits, the best first.

    Not the best one: that may be of the very row that asks.
    """
    return float(cosines[:TUNED_K][-1]) if len(cosines) else 1.0


def _near_gathered(
    query: NDArray[np.float32], vectors: NDArray[np.float32], k: int, rows: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return those of some rows that may be among their best k."""
    rough = _products_of(vectors, rows, query)
    return rows[_near(rough, min(k, len(rows)))]


def _products_of(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the rough cosines of some rows (m,) with a query."""
    # Few rows are compared sooner than FAISS is imported; whoever imported it without us is not to
    # find it set otherwise.
    if "muomni_search.index.faiss_index" in sys.modules:
        from muomni_search.index.faiss_index import products_of_pairs

        return products_of_pairs(query[None], np.zeros(len(rows), np.int64), vectors, rows)
    rough = np.empty(len(rows), np.float32)
    # Into the same megabyte again and again: half of the time goes otherwise into fresh memory.
    gathered = np.empty((min(len(rows), GATHERED_AT_ONCE), vectors.shape[1]), np.float32)
    for start in range(0, len(rows), GATHERED_AT_ONCE):
        some = rows[start : start + GATHERED_AT_ONCE]
        # "clip": else NumPy gathers elsewhere first, in case a row is not there.
        into = np.take(vectors, some, axis=0, out=gathered[: len(some)], mode="clip")
        rough[start : start + GATHERED_AT_ONCE] = _products(into, query)
    return rough


def _near_live(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    *,
    start: int = 0,
) -> NDArray[np.int64]:
    """Return the live rows from ``start`` on that may be among their best k."""
    gone = dead[np.searchsorted(dead, start) :] - start
    rough = _products(vectors[start:], query)
    rough[gone] = -np.inf
    return start + _near(rough, min(k, len(rough) - len(gone)))


def _products(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rough cosines of rows (n, 256) with a query, on one thread.

    OpenBLAS's ``vectors @ query`` takes 5 ms for 100,000 rows on two threads, 13 when a core is
    busy; one product a row takes 3.6 either way.
    """
    with np.errstate(all="ignore"):  # of damaged rows, see ``_near``
        rough: NDArray[np.float32] = np.vecdot(vectors, query)
    return rough


def _near(rough: NDArray[np.float32], wanted: int) -> NDArray[np.int64]:
    """Return the places whose rough cosines may be among the best ``wanted``, ties and all.

    Raises:
        CorruptData: A row is not finite, or not of length 1.
    """
    if wanted == 0:
        return NO_ROWS
    _check_longest(rough)
    threshold = np.partition(rough, len(rough) - wanted)[len(rough) - wanted]
    return np.flatnonzero(rough >= threshold - MARGIN)


def _check_longest(values: NDArray[np.float32]) -> None:
    """Check that no cosine is one of a damaged row.

    Raises:
        CorruptData: One is NaN, or too great.
    """
    if not values.max() <= LONGEST:  # NaN is the greatest, and not that either
        raise CorruptData(
            "a row is not finite or not of length 1", hint="run: muomni verify --repair"
        )


def _best(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    k: int,
    how: Literal["exact", "ann"] = "exact",
) -> Candidates:
    """Compare rows exactly and return the best k, and all that are tied with the last."""
    # take: twice as fast as indexing for some hundred rows.
    values = [cosines(np.take(vectors, some, axis=0), query) for some in _gathered(rows)]
    return best_of(rows, np.concatenate([NO_PRODUCTS, *values]), k, how)


def _gathered(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield row numbers, as many as may be gathered at a time."""
    for start in range(0, len(rows), GATHERED_AT_ONCE):
        yield rows[start : start + GATHERED_AT_ONCE]


def _by_index(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None,
    index: VectorIndex,
    wanted: int,
    marks: Callable[[], NDArray[np.bool_]] | None,
) -> Candidates | None:
    """Compare what the index proposes and the rows since; None when that does not pay."""
    that_count = _that_count(dead, allowed, marks)
    since, alive = NO_ROWS, index.rows - int(np.searchsorted(dead, index.rows))
    if allowed is not None:
        alive = int(np.searchsorted(allowed, index.rows))
        since = allowed[alive:]
    elif index.rows < len(vectors):
        since = _near_live(query, vectors, k, dead, start=index.rows)
    while True:
        proposed = _proposed(query, wanted, alive, index, that_count)
        if proposed is None:
            return None
        depth = 2 * wanted
        while True:
            depth = min(depth, len(proposed))
            rows = np.concatenate([proposed[:depth], since]) if len(since) else proposed[:depth]
            rows = _near_gathered(query, vectors, k, rows)
            best = _best(query, vectors, rows, k, how="ann")
            # A hit from the far half of the proposals says that they end too early for this query:
            # it is a hard one, or a run of equal rows that goes on beyond them. Compared are twice
            # as many as wanted at first, so that most queries have no hit there.
            if set(best.rows.tolist()).isdisjoint(proposed[depth // 2 : depth].tolist()):
                return best
            if depth == len(proposed):
                break
            depth *= WIDEN
        wanted = 2 * len(proposed)


def _proposed(
    query: NDArray[np.float32],
    wanted: int,
    alive: int,
    index: VectorIndex,
    that_count: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> NDArray[np.int64] | None:
    """Return at least ``wanted`` rows that count, likeliest first; None when that costs too much.

    More are asked for at once, since a second scan takes as long as the first and depth costs
    little. Dead and filtered rows may crowd out the others, so those that count are counted and
    not what was fetched; ``alive`` is how many of them the index covers. When there are too few,
    as many are asked for as their share so far makes likely; where there are none at all among
    more than a few, comparing all rows is faster.
    """
    most = int(RUNAWAY_SHARE * index.rows)
    if wanted * index.rows > most * alive:
        return None
    cheap, wanted_of_all = int(CHEAP_SHARE * index.rows), wanted * index.rows // alive
    fetch = max(2 * wanted_of_all, min(cheap, WIDEN * wanted_of_all))
    while True:
        fetch = min(fetch, most)
        rows = index.search(query, fetch)
        found = that_count(rows)
        if len(found) >= wanted:
            return found
        if fetch == most or (fetch >= cheap and not len(found)):
            return None
        likely = 2 * fetch * wanted // max(len(found), 1)
        # So few say little of the share.
        fetch = max(WIDEN * fetch, likely if fetch >= cheap else cheap)


def _that_count(
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None,
    marks: Callable[[], NDArray[np.bool_]] | None,
) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Return what leaves of some rows those that are live and let through, in the same order."""
    if allowed is None and not len(dead):
        return lambda rows: rows
    if marks is not None:
        return lambda rows: rows[marks()[rows]]
    if allowed is not None:
        return lambda rows: rows[is_in(rows, allowed)]
    return lambda rows: rows[~is_in(rows, dead)]


def top_rows_many(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    *,
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None = None,
    index: VectorIndex | None = None,
    fetch: int = FETCH,
    reach: float = -1.0,
    ties: Ties | None = None,
    check_rows: Callable[[NDArray[np.int64] | None], None] | None = None,
) -> CandidateLists:
    """Return for each query (n, 256) what ``top_rows`` returns, without an index to the bit.

    By matrix products of query blocks and row tiles, or by the index where that takes less time;
    those for which it proposes too little are then compared with all rows. Beside the answers
    memory stays bounded, and with ``ties``, which leaves out what is tied with the last where that
    is much, so do these. ``check_rows`` is called before all rows are compared, or those that are
    allowed, and raises where one of them is damaged: products of matrices do not tell. See
    ``top_rows`` for the other arguments.
    """
    if allowed is not None and len(queries) <= (FEW_EXACT if index is None else FEW_BY_INDEX):
        one_by_one = partial(top_rows, k=k, dead=dead, allowed=allowed, index=index, fetch=fetch)
        return CandidateLists.joined([one_by_one(query, vectors, reach=reach) for query in queries])
    if index is not None and allowed is None and len(queries):
        wanted = max(fetch, fetch * k // TUNED_K, k, TUNED_K)
        # Twice as many, as of a single query: so what was measured of these holds for a batch too.
        depth = _first_depth(2 * wanted, dead, index)
        share = index.rows / len(vectors)
        taken = share * _time_by_index(depth, index.rows) + 1 - share
        at_once, live = min(len(queries), QUERY_BLOCK), len(vectors) - len(dead)
        if (
            WIDEN * depth <= RUNAWAY_SHARE * index.rows
            and taken < 1
            # Where fewer bits are as fast, all rows are compared: all are found.
            and not first_pass.is_paying(at_once, live, k, least=FIRST_PASS_TIME / taken)
        ):
            return _many_by_index(
                queries, vectors, k, dead, index, wanted, depth, reach, ties, check_rows
            )
    if check_rows is not None and len(queries):
        check_rows(allowed)
    return CandidateLists.joined(
        [
            _top_rows_block(queries[start : start + QUERY_BLOCK], vectors, k, dead, allowed, ties)
            for start in range(0, len(queries), QUERY_BLOCK)
        ]
    )


def _first_depth(wanted: int, dead: NDArray[np.int64], index: VectorIndex) -> int:
    """Return how many proposals a batch asks for so that so many of them may be live."""
    alive = index.rows - int(np.searchsorted(dead, index.rows))
    depth = wanted * index.rows // max(alive, 1)
    # The dead do not lie evenly.
    return depth + (depth // 4 if alive < index.rows else 0)


def _time_by_index(depth: int, rows: int) -> float:
    """Return how long a query of a batch takes by so many proposals of an index of so many rows.

    Of the time in which all are multiplied in float32.
    """
    return SCAN_TIME + COMPARING_TIME * depth / rows


def _many_by_index(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    index: VectorIndex,
    wanted: int,
    depth: int,
    reach: float,
    ties: Ties | None,
    check_rows: Callable[[NDArray[np.int64] | None], None] | None,
) -> CandidateLists:
    """Return what ``_by_index`` finds for each query; what is too hard for it, exactly."""
    from concurrent.futures import ThreadPoolExecutor  # which a single query does without

    sought = max(k, TUNED_K)  # see ``top_rows``
    since, missed = _since(queries, vectors, sought, dead, index.rows)
    threads = usable_cores()
    parts: list[Compared] = []
    beyond = [NO_ROWS]

    def compare(numbers: NDArray[np.int64], depths: Sequence[int]) -> Block:
        return _block_by_index(
            queries[numbers],
            vectors,
            sought,
            dead,
            index,
            wanted,
            reach,
            depths=depths,
            since=since[numbers],
            missed=missed[numbers],
        )

    def ask(asking: NDArray[np.int64], depths: Sequence[int]) -> NDArray[np.int64]:
        """Keep what is found for some queries; return those for which more is to be proposed."""
        most = max(1, PROPOSALS_AT_ONCE // depths[-1]) * threads
        # As many for each thread, or one would end before the other.
        blocks = np.array_split(asking, min(len(asking), threads * -(-len(asking) // most)))
        hard = [NO_ROWS]
        answers = pool.map(partial(compare, depths=depths), blocks)
        for numbers, (found, left, others) in zip(blocks, answers, strict=True):
            parts.extend((numbers[places], rows, values) for places, rows, values in found)
            hard.append(numbers[left])
            beyond.append(numbers[others])
        return np.concatenate(hard)

    with ThreadPoolExecutor(threads, "muomni-compare") as pool:
        hard = ask(np.arange(len(queries)), (depth, WIDEN * depth))
        deeper = WIDEN * WIDEN * depth
        if _is_deeper_paying(len(hard), deeper, index.rows):
            hard = ask(hard, (deeper,))
    left = np.sort(np.concatenate([hard, *beyond]))
    if len(left):
        exact = top_rows_many(
            queries[left], vectors, k=k, dead=dead, ties=ties, check_rows=check_rows
        )
        parts.append((np.repeat(left, np.diff(exact.starts)), exact.rows, exact.cosines))
    numbers, rows, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    are_exact = np.isin(np.arange(len(queries)), left)
    return CandidateLists.best_of(k, numbers, rows, values, are_exact)


def _is_deeper_paying(queries: int, depth: int, rows: int) -> bool:
    """Whether some queries are answered sooner by so many proposals each than by all rows."""
    time_by_index = queries * _time_by_index(depth, rows)
    return 0 < time_by_index < queries + READING_TIME and depth <= RUNAWAY_SHARE * rows


def _block_by_index(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    index: VectorIndex,
    wanted: int,
    reach: float,
    *,
    depths: Sequence[int],
    since: NDArray[np.int64],
    missed: NDArray[np.float32],
) -> Block:
    """Compare what is proposed to each query, and the best of the rows since.

    Most have enough at the first depth; for the others the index is asked anew.

    Returns:
        What was found at each depth, the queries for which the last one is too little, and those
        for which any is.
    """
    found: list[Compared] = []
    left, beyond = np.arange(len(queries)), [NO_ROWS]
    for depth in depths:
        if not len(left):
            break
        some = index.search_many(queries[left], depth)
        if len(dead):
            some[is_in(some.ravel(), dead).reshape(some.shape)] = -1
        rows = np.concatenate([since[left], some], axis=1)
        values = _best_cosines(vectors, rows, queries[left], k)
        least = np.partition(values, -k, axis=1)[:, -k]
        judged = least if k == TUNED_K else np.partition(values, -TUNED_K, axis=1)[:, -TUNED_K]
        is_found = values >= least[:, None]
        is_hard = is_found[:, since.shape[1] + depth // 2 :].any(axis=1)  # see ``_by_index``
        is_hard |= (some >= 0).sum(axis=1) < wanted
        is_beyond = ~is_hard & ((missed[left] >= least - MARGIN) | (judged < reach))
        is_found[is_hard | is_beyond] = False
        places, _ = np.nonzero(is_found)
        found.append((left[places], rows[is_found], values[is_found]))
        beyond.append(left[is_beyond])
        left = left[is_hard]
    return found, left, np.concatenate(beyond)


def _best_cosines(
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    queries: NDArray[np.float32],
    k: int,
) -> NDArray[np.float32]:
    """Return the cosines of each query with rows of its own (n, m) that may be among its best k.

    Those that are not, and the row -1, are -inf.
    """
    from muomni_search.index.faiss_index import products_of_pairs

    asked = np.repeat(np.arange(len(rows)), rows.shape[1])
    rough = products_of_pairs(queries, asked, vectors, rows.ravel()).reshape(rows.shape)
    _check_longest(rough)
    least = np.partition(rough, -k, axis=1)[:, -k]
    is_near = (rough >= least[:, None] - MARGIN) & (rows >= 0)
    values = np.full(rows.shape, -np.inf, np.float32)
    own = queries[np.nonzero(is_near)[0]]
    values[is_near] = cosines_of_pairs(vectors, rows[is_near][:, None], own)[:, 0]
    return values


def _since(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    start: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the live rows from ``start`` on that are roughly each query's best, (n, k or more).

    And the product that none of the others exceeds by more than rounding, (n,).
    """
    gone = dead[np.searchsorted(dead, start) :] - start
    live = len(vectors) - start - len(gone)
    none_missed = np.full(len(queries), -np.inf, np.float32)
    if not live:
        return np.empty((len(queries), 0), np.int64), none_missed
    wanted = min(k + SPARE, live)
    rough, rows = _rough_best(queries, vectors[start:], wanted, gone, None)
    return start + rows, none_missed if wanted == live else rough.min(axis=1)


def _top_rows_block(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32],
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None,
    ties: Ties | None,
) -> CandidateLists:
    available = len(vectors) - len(dead) if allowed is None else len(allowed)
    wanted = min(k + SPARE, available)
    if wanted == 0:
        nothing = np.zeros(len(queries) + 1, np.int64)
        return CandidateLists(nothing, NO_ROWS, NO_PRODUCTS, np.ones(len(queries), bool))
    if first_pass.is_paying(len(queries), available, k):
        found = first_pass.best_rows(queries, vectors, k, dead, allowed)
        if found is not None:
            _check_longest(found.cosines)
            return found if ties is None else ties.cut_all(found, k)
    rough, rows = _rough_best(queries, vectors, wanted, dead, allowed)
    values = cosines_of_pairs(vectors, rows, queries)
    _check_longest(values)
    order = np.lexsort((rows, -values), axis=1)
    rows, values = np.take_along_axis(rows, order, 1), np.take_along_axis(values, order, 1)
    # The k-th best of those compared; a row that was not fetched is at most as good as the last
    # one that was, give or take the margin.
    reached = values[:, min(k, available) - 1]
    is_sure = (wanted == available) | (rough.min(axis=1) < reached - MARGIN)
    is_found = values >= reached[:, None]
    if is_sure.all():
        starts = np.concatenate([[0], np.cumsum(is_found.sum(axis=1))])
        return CandidateLists(starts, rows[is_found], values[is_found], is_sure)

    def compare(query: NDArray[np.float32]) -> Candidates:
        # Cut one by one: of all queries near a run of equal rows together these are without bound.
        found = top_rows(query, vectors, k=k, dead=dead, allowed=allowed)
        return found if ties is None else ties.cut(found, k)

    return CandidateLists.joined(
        [
            Candidates(rows[number][own], values[number][own], "exact")
            if is_sure[number]
            else compare(query)
            for number, (query, own) in enumerate(zip(queries, is_found, strict=True))
        ]
    )


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
        live = numbers[~is_in(numbers, dead)]
        if len(live):
            yield live
