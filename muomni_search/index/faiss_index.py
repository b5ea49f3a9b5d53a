"""FAISS, and the only import of it: the 4-bit scan, and matrix products for batches.

The wheel's OpenBLAS takes recent processors for old ones and multiplies 4 to 6 times too slowly.
It reads ``OPENBLAS_CORETYPE`` when it is loaded, so the right name stands in the environment for
just that moment: NumPy's newer OpenBLAS, loaded before, and child processes never see it. So does
what tells its threads not to wait for one another at the cost of others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache, reduce
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.cores import processor_flags, short_waits, usable_cores
from muomni_search.errors import CorruptData
from muomni_search.index.protocol import CODES
from muomni_search.items import DIM

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["FourBitScan", "blas_core", "nearest", "products_of_pairs"]

CORE_VARIABLE = "OPENBLAS_CORETYPE"
# Four dimensions a code of 4 bits: 32 bytes a vector, scanned 32 vectors at a time in registers.
BITS = 4
# Rows that the codes are learned from: with 65,536 as many of the nearest are found, no more.
TRAINING_ROWS = 16_384
ADDED_AT_ONCE = 65_536
# FAISS's number for a scan that keeps what it finds in a reservoir (IndexFastScan.h): for many
# queries faster than the one that FAISS chooses, for one as fast.
RESERVOIR = 15
# So many rows are worth a part and a thread of their own (benchmarks/index.py, of a million rows).
# Each part costs something: five of a million a third more than two.
PART_ROWS, MOST_PARTS = 200_000, 8
# How near rows seem, and their numbers, (n, m) each.
Proposed = tuple[NDArray[np.float32], NDArray[np.int64]]


def _processor_core() -> str | None:
    """Return OpenBLAS's name for the widest instructions that this processor has."""
    flags = processor_flags()
    if {"avx512f", "avx512vl"} <= flags:
        return "SKYLAKEX"
    return "HASWELL" if "avx2" in flags else None


def _import_faiss() -> Any:
    wanted = short_waits()
    core = _processor_core()
    if core is not None and CORE_VARIABLE not in os.environ:
        wanted = wanted | {CORE_VARIABLE: core}
    os.environ.update(wanted)
    try:
        import faiss
    finally:
        for name in wanted:
            del os.environ[name]
    return faiss


faiss = _import_faiss()
# From so many numbers on (7 queries) FAISS multiplies by BLAS. As the wheel has it, 128,000, the
# next 490 queries take up to eleven times as long (benchmarks/batch.py).
faiss.cvar.distance_compute_blas_threshold = 7 * DIM


@cache
def blas_core() -> str:
    """Return the kind of processor that FAISS's OpenBLAS computes for."""
    from threadpoolctl import threadpool_info

    for library in threadpool_info():
        if library["internal_api"] == "openblas" and "faiss" in library["filepath"]:
            return str(library.get("architecture", "unknown"))
    return "unknown"


def use_threads(count: int | None = None) -> None:
    """Set how many threads FAISS uses for what the calling thread asks of it; all by default.

    A single query is fastest on one: with two and one busy core it took 26 ms instead of 7.
    OpenMP keeps the number for each thread by itself, so callers do not disturb one another.
    """
    faiss.omp_set_num_threads(count or usable_cores())


def nearest(
    queries: NDArray[np.float32], rows: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the k largest inner products and their rows for each query, (n, k) both.

    By blocked matrix products on all threads; ``rows`` may be a memory map and is not copied, and
    holds k rows at least.

    Raises:
        CorruptData: So many of the rows are not finite that there are not k others.
    """
    use_threads()
    values, numbers = faiss.knn(
        np.ascontiguousarray(queries), rows, k, metric=faiss.METRIC_INNER_PRODUCT
    )
    if numbers.min(initial=0) < 0:  # FAISS finds no NaN, and says -1 where nothing is left
        raise CorruptData("a row is not finite", hint="run: muomni verify --repair")
    return values, numbers


def products_of_pairs(
    queries: NDArray[np.float32],
    asked: NDArray[np.int64],
    rows: NDArray[np.float32],
    numbers: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return the inner product of each pair of a query and a row, (m,); -inf for the row -1.

    On the calling thread. Rows that lie anywhere are multiplied where they lie: NumPy would
    gather them first.

    Args:
        queries: All queries (n, 256).
        asked: Which query each pair has (m,).
        rows: All rows, may be a memory map.
        numbers: Which row each pair has (m,), -1 for none.

    Raises:
        CorruptData: There is no such row: FAISS would read whatever lies there.
        ValueError: The shapes do not fit.
    """
    products = np.full(len(numbers), -np.inf, np.float32)
    if not len(numbers):
        return products
    if numbers.max() >= len(rows):
        raise CorruptData(
            "a row is asked for that is not there", hint="run: muomni verify --repair"
        )
    if not queries.shape[1] == rows.shape[1] == DIM or len(asked) != len(numbers):
        raise ValueError(f"{queries.shape}, {asked.shape}, {rows.shape} and {numbers.shape}")
    given = (
        np.ascontiguousarray(queries),
        np.ascontiguousarray(asked),
        np.asarray(rows),
        np.ascontiguousarray(numbers),
    )
    use_threads(1)
    faiss.pairwise_indexed_inner_product(
        DIM, len(numbers), *map(faiss.swig_ptr, (*given, products))
    )
    return products


class FourBitScan:
    """``PQ64x4fs`` (or 128, or 32) over interleaved dimensions: proposes rows, scores none.

    Product quantisation codes neighbouring dimensions together, and a model that orders its
    dimensions by variance (as a principal component analysis does) puts the strong ones into the
    same codes. With two dimensions a code, pairing the strongest with the weakest raised recall
    from .845 to .951 at 50 candidates of 200,000 pictures asked for with words.

    Many rows lie in parts, coded alike, one for each core: FAISS scans for a query on one thread.
    """

    kind = "pq4"

    def __init__(self, parts: Sequence[Any], order: NDArray[np.int64]) -> None:
        for part in parts:
            part.implem = RESERVOIR
        self._parts = parts
        self._starts = [0, *accumulate(int(part.ntotal) for part in parts)]
        self._order = order

    @property
    def rows(self) -> int:
        """How many rows it covers."""
        return self._starts[-1]

    @property
    def order(self) -> NDArray[np.int64]:
        """The order in which the dimensions are coded, (256,)."""
        return self._order

    @property
    def codes(self) -> int:
        """How many codes of 4 bits a row has."""
        return int(self._parts[0].pq.M)

    @classmethod
    def build(cls, vectors: NDArray[np.float32], codes: int = CODES[0]) -> FourBitScan:
        """Learn the codes from a sample of rows (n, 256) and code them all."""
        step = -(-len(vectors) // TRAINING_ROWS)
        sample = np.ascontiguousarray(vectors[::step])
        order = interleaved(sample.var(axis=0), DIM // codes)
        index = faiss.IndexPQFastScan(DIM, codes, BITS, faiss.METRIC_INNER_PRODUCT)
        training = np.resize(sample, (max(len(sample), 2**BITS), DIM))
        # take: indexing with [:, order] needs 15 times as long, longer than FAISS does.
        faiss.copy_array_to_vector(
            _learned(np.take(training, order, axis=1), codes), index.pq.centroids
        )
        index.is_trained = True
        use_threads()
        count = max(1, min(usable_cores(), MOST_PARTS, len(vectors) // PART_ROWS))
        parts = [faiss.clone_index(index) for _ in range(count)]
        bounds = [len(vectors) * number // count for number in range(count + 1)]
        for part, own in zip(parts, pairwise(bounds), strict=True):
            rows = vectors[slice(*own)]
            for start in range(0, len(rows), ADDED_AT_ONCE):
                part.add(np.take(rows[start : start + ADDED_AT_ONCE], order, axis=1))
        return cls(parts, order)

    def search(self, query: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        """Return up to ``fetch`` rows that may be nearest to a query (256,)."""
        with SCANNING as is_alone:
            is_divided = is_alone and len(self._parts) > 1 and usable_cores() > 1
            search = self._search_divided if is_divided else self._search_many
            numbers = search(query[None], fetch)
        return numbers[numbers >= 0]

    def search_many(self, queries: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        """Return what ``search`` does for each query (n, 256), (n, fetch); -1 where there is none.

        On one thread: what is done with the rows takes as long, so callers divide the queries.
        """
        with SCANNING:
            return self._search_many(queries, fetch)

    def _search_many(self, queries: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        asked = np.take(queries, self._order, axis=1)
        return _merged((self._scan(one, asked, fetch) for one in range(len(self._parts))), fetch)

    def _search_divided(self, query: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        """Return what ``search_many`` does for one query (1, 256), on all cores that are free."""
        asked = np.take(query, self._order, axis=1)
        others = range(1, len(self._parts))
        begun = [_begin(self._scan, part, asked, fetch) for part in others]
        first = self._scan(0, asked, fetch)
        # From the last on: whatever nobody has begun is done here, and not waited for.
        rest = [
            self._scan(part, asked, fetch) if future is None or future.cancel() else future.result()
            for part, future in reversed([*zip(others, begun, strict=True)])
        ]
        return _merged([first, *reversed(rest)], fetch)

    def _scan(self, part: int, asked: NDArray[np.float32], fetch: int) -> Proposed:
        """Return what a part proposes, and how near that seems, (n, fetch or fewer) both.

        As much as all parts are asked for: the nearest may all lie in one, as what was added
        together does.
        """
        use_threads(1)
        start, end = self._starts[part : part + 2]
        values, numbers = self._parts[part].search(asked, min(fetch, end - start))
        if start:
            numbers[numbers >= 0] += start
        return values, numbers

    def to_bytes(self) -> bytes:
        """Return the codes as FAISS writes them, part by part."""
        return b"".join(faiss.serialize_index(part).tobytes() for part in self._parts)

    @classmethod
    def from_bytes(cls, data: NDArray[np.uint8], order: NDArray[np.int64]) -> FourBitScan:
        """Return what ``to_bytes`` wrote; only for bytes whose checksum was checked.

        They are copied once, into the index: ``faiss.deserialize_index`` does so twice.

        Raises:
            ValueError: FAISS cannot read it, or it is another kind of index.
        """
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.size)
        parts: list[Any] = []
        while not parts or reader.rp_ < reader.total_:
            try:
                part = faiss.read_index(reader)
            except (RuntimeError, MemoryError) as error:
                raise ValueError("FAISS cannot read it") from error
            if (
                not isinstance(part, faiss.IndexPQFastScan)
                or (part.d, part.nbits) != (DIM, BITS)
                or part.M not in CODES
                or part.M != (parts or [part])[0].M
                or part.metric_type != faiss.METRIC_INNER_PRODUCT
                or not part.is_trained
                or part.ntotal < 1
            ):
                raise ValueError("it holds an index of another kind")
            parts.append(part)
        return cls(parts, order)


def _learned(rows: NDArray[np.float32], codes: int) -> NDArray[np.float32]:
    """Return the centroids that ``train`` learns, each core those of some of the codes.

    Each code is learned for itself, in short rounds of k-means in which two threads of FAISS would
    mostly wait for one another: 128 codes of 65,536 rows took 7.5 s of processor time, 1.7 on one.
    """
    width = DIM // codes
    groups = min(usable_cores(), codes)
    bounds = [codes * number // groups for number in range(groups + 1)]

    def learn(some: tuple[int, int]) -> NDArray[np.float32]:
        use_threads(1)
        start, end = some
        quantizer = faiss.ProductQuantizer((end - start) * width, end - start, BITS)
        # Fewer rows than FAISS asks for give poorer codes, which is no reason to fail or to warn:
        # so small an index is only made on demand.
        quantizer.cp.min_points_per_centroid = 1
        quantizer.train(np.ascontiguousarray(rows[:, start * width : end * width]))
        centroids: NDArray[np.float32] = faiss.vector_to_array(quantizer.centroids)
        return centroids

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(groups, "muomni-learn") as pool:
        return np.concatenate(list(pool.map(learn, pairwise(bounds))))


def _merged(found: Iterable[Proposed], fetch: int) -> NDArray[np.int64]:
    """Return the likeliest rows of what some parts propose, (n, fetch) or fewer."""

    def likeliest(one: Proposed, other: Proposed) -> Proposed:
        values = np.concatenate([one[0], other[0]], axis=1)
        numbers = np.concatenate([one[1], other[1]], axis=1)
        # Each is sorted, and a stable sort finds runs and merges them.
        best = np.argsort(-values, axis=1, kind="stable")[:, :fetch]
        queries = np.arange(len(values))[:, None]
        return values[queries, best], numbers[queries, best]

    return reduce(likeliest, found)[1]


@cache
def helpers() -> ThreadPoolExecutor:
    """Return the threads that scan parts beside the one that asks."""
    from concurrent.futures import ThreadPoolExecutor  # which few rows do without

    return ThreadPoolExecutor(max(1, usable_cores() - 1), "muomni-scan")


def _begin(work: Callable[..., Proposed], *given: Any) -> Future[Proposed] | None:
    """Give a helper something to do; None where no thread can be begun, or the interpreter ends."""
    try:
        return helpers().submit(work, *given)
    except RuntimeError:
        helpers.cache_clear()  # it keeps what it could not begin
        return None


class _Scanning:
    """Counts the scans that are under way, of all threads, those of a batch too.

    Where there are several, the cores are busy without dividing them; to divide them too costs a
    quarter of what all get done.
    """

    def __init__(self) -> None:
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin anew, as a child does: a fork copies no threads, and what they held is nobody's."""
        self._lock, self._count = threading.Lock(), 0
        helpers.cache_clear()

    def __enter__(self) -> bool:
        """Return whether no other scan is under way."""
        with self._lock:
            self._count += 1
            return self._count == 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._count = max(0, self._count - 1)  # who forks here has none of it to take back


SCANNING = _Scanning()


def interleaved(variance: NDArray[np.float32], together: int = 2) -> NDArray[np.int64]:
    """Return an order of dimensions that puts the strongest together with the weakest.

    Args:
        variance: Of each dimension.
        together: How many neighbours share a code.
    """
    falling = np.argsort(-variance, kind="stable").reshape(together, -1)
    # Dealt out to and fro, as cards are: whoever got the strongest of one round gets the weakest
    # of the next.
    falling[1::2] = falling[1::2, ::-1]
    return falling.T.ravel()
