"""FAISS, and the only import of it: the 4-bit scan, and matrix products for batches.

The wheel's OpenBLAS takes recent processors for old ones and multiplies 4 to 6 times too slowly.
It reads ``OPENBLAS_CORETYPE`` when it is loaded, so the right name stands in the environment for
just that moment: NumPy's newer OpenBLAS, loaded before, and child processes never see it.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.cores import processor_flags, usable_cores
from muomni_search.index.protocol import CODES
from muomni_search.items import DIM

__all__ = ["FourBitScan", "blas_core", "nearest"]

CORE_VARIABLE = "OPENBLAS_CORETYPE"
# Four dimensions a code of 4 bits: 32 bytes a vector, scanned 32 vectors at a time in registers.
BITS = 4
# Rows that the codes are learned from: with 65,536 as many of the nearest are found, no more.
TRAINING_ROWS = 16_384
ADDED_AT_ONCE = 65_536


def _processor_core() -> str | None:
    """Return OpenBLAS's name for the widest instructions that this processor has."""
    flags = processor_flags()
    if {"avx512f", "avx512vl"} <= flags:
        return "SKYLAKEX"
    return "HASWELL" if "avx2" in flags else None


def _import_faiss() -> Any:
    core = _processor_core()
    if core is None or CORE_VARIABLE in os.environ:
        import faiss

        return faiss
    os.environ[CORE_VARIABLE] = core
    try:
        import faiss
    finally:
        del os.environ[CORE_VARIABLE]
    return faiss


faiss = _import_faiss()
# From so many numbers on (16 queries) FAISS multiplies by BLAS. As the wheel has it, 128,000, the
# next 480 queries take up to eleven times as long (benchmarks/batch.py).
faiss.cvar.distance_compute_blas_threshold = 16 * DIM


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

    By blocked matrix products on all threads; ``rows`` may be a memory map and is not copied.
    """
    use_threads()
    values, numbers = faiss.knn(
        np.ascontiguousarray(queries), rows, k, metric=faiss.METRIC_INNER_PRODUCT
    )
    return values, numbers


class FourBitScan:
    """``PQ64x4fs`` (or 128, or 32) over interleaved dimensions: proposes rows, scores none.

    Product quantisation codes neighbouring dimensions together, and a model that orders its
    dimensions by variance (as a principal component analysis does) puts the strong ones into the
    same codes. With two dimensions a code, pairing the strongest with the weakest raised recall
    from .845 to .951 at 50 candidates of 200,000 pictures asked for with words.
    """

    kind = "pq4"

    def __init__(self, index: Any, order: NDArray[np.int64]) -> None:
        self._index = index
        self._order = order

    @property
    def rows(self) -> int:
        """How many rows it covers."""
        return int(self._index.ntotal)

    @property
    def order(self) -> NDArray[np.int64]:
        """The order in which the dimensions are coded, (256,)."""
        return self._order

    @property
    def codes(self) -> int:
        """How many codes of 4 bits a row has."""
        return int(self._index.pq.M)

    @classmethod
    def build(cls, vectors: NDArray[np.float32], codes: int = CODES[0]) -> FourBitScan:
        """Learn the codes from a sample of rows (n, 256) and code them all."""
        # Short rounds of k-means, 25 a code: two threads mostly wait for one another. For 128 codes
        # and 65,536 rows they took 7.5 s of processor time instead of 1.7.
        use_threads(1)
        step = -(-len(vectors) // TRAINING_ROWS)
        sample = np.ascontiguousarray(vectors[::step])
        order = interleaved(sample.var(axis=0), DIM // codes)
        index = faiss.IndexPQFastScan(DIM, codes, BITS, faiss.METRIC_INNER_PRODUCT)
        # Fewer rows than FAISS asks for give poorer codes, which is no reason to fail or to warn:
        # so small an index is only made on demand.
        index.pq.cp.min_points_per_centroid = 1
        training = np.resize(sample, (max(len(sample), 2**BITS), DIM))
        # take: indexing with [:, order] needs 15 times as long, longer than FAISS does.
        index.train(np.take(training, order, axis=1))
        use_threads()
        for start in range(0, len(vectors), ADDED_AT_ONCE):
            index.add(np.take(vectors[start : start + ADDED_AT_ONCE], order, axis=1))
        return cls(index, order)

    def search(self, query: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        """Return up to ``fetch`` rows that may be nearest to a query (256,)."""
        use_threads(1)
        numbers = self._search(query[None], fetch)
        return numbers[numbers >= 0]

    def search_many(self, queries: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        """Return what ``search`` does for each query (n, 256), (n, fetch); -1 where there is none.

        On one thread: what is done with the rows takes as long, so callers divide the queries.
        """
        use_threads(1)
        return self._search(queries, fetch)

    def _search(self, queries: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        _, numbers = self._index.search(
            np.take(queries, self._order, axis=1), min(fetch, self.rows)
        )
        found: NDArray[np.int64] = numbers
        return found

    def to_bytes(self) -> bytes:
        """Return the codes as FAISS writes them."""
        data: bytes = faiss.serialize_index(self._index).tobytes()
        return data

    @classmethod
    def from_bytes(cls, data: NDArray[np.uint8], order: NDArray[np.int64]) -> FourBitScan:
        """Return what ``to_bytes`` wrote; only for bytes whose checksum was checked.

        They are copied once, into the index: ``faiss.deserialize_index`` does so twice.

        Raises:
            ValueError: FAISS cannot read it, or it is another kind of index.
        """
        try:
            index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.size))
        except (RuntimeError, MemoryError) as error:
            raise ValueError("FAISS cannot read it") from error
        if (
            not isinstance(index, faiss.IndexPQFastScan)
            or (index.d, index.nbits) != (DIM, BITS)
            or index.M not in CODES
            or index.metric_type != faiss.METRIC_INNER_PRODUCT
        ):
            raise ValueError("it holds an index of another kind")
        return cls(index, order)


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
