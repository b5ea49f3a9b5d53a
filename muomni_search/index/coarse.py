"""Products in fewer bits than float32 has, off by no more than is known.

    rows, queries ──▶ fewer bits each ──▶ products ──▶ pairs that may reach what is wanted of them

With a row x = x' + e and a query q = q' + f, where x' and q' are what fewer bits stand for, x·q is
off from x'·q' by no more than |x'||f| + |e||q| (Cauchy-Schwarz). Two kinds of numbers:

- *Whole numbers of 8 bits.* The product x'·q' has no rounding at all: ONNX Runtime's
  ``MatMulInteger`` multiplies 8 bits by 8 and sums in 32. Processors without VNNI add two such
  products in 16 bits and cut off what is more; with 7 bits on one side nothing is (2 · 255 · 63 <
  2¹⁵). Which holds for this processor is tried.
- *bfloat16*, floats of 8 significant bits, where a processor multiplies them itself (AMX, or
  AVX-512 BF16): less far off, since each number has a scale of its own. PyTorch multiplies; sums
  are float32, and are rounded to bfloat16 at the end. Rounding keeps order, so what reaches a
  number reaches it rounded, too. PyTorch takes long to load, so that this is for large jobs.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.cores import processor_flags, usable_cores
from muomni_search.index.exact import MARGIN
from muomni_search.items import DIM
from muomni_search.sessions import open_session
from muomni_search.vectors import normalise

__all__ = [
    "ROWS_AT_ONCE",
    "Arithmetic",
    "Asked",
    "choose",
    "gain",
    "is_tried",
    "workers",
]

# Made by scripts/build_first_pass.py: MatMulInteger and Greater.
GRAPH = Path(__file__).with_name("first_pass.onnx")
# The greatest whole number of a row, those of a query, the best first, and what stands for nothing.
ROW_MOST, QUERY_MOSTS, ZERO = 127, (127, 63), 128
# Rows that each thread multiplies at a time, with so many queries that their products, 1 or 2 MB,
# stay in the cache of its core until they are looked through. With more, fewer a second.
ROWS_AT_ONCE = 1_024
# Multiplications that take longer in 8 bits than PyTorch takes to load and to do them.
WORTH_TORCH = 1_000_000_000_000
NATIVE_BFLOAT16 = {"amx_bf16", "avx512_bf16"}
# No unit vector, rounded or not, is longer.
LONGEST = 1e4
# What is greater is positive in bfloat16 too.
LEAST_POSITIVE = 1e-30
# The errors are norms computed in float32.
SLACK = 1.0001
TRIED_QUERIES, TRIED_K, TRIES = 4_096, 16, 2

Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


class Queries(NamedTuple):
    """Some queries in fewer bits.

    Args:
        numbers: The numbers (256, n).
        scales: What one of each query's stands for (n,).
        errors: How far off each query is (n,).
    """

    numbers: Any
    scales: NDArray[np.float64]
    errors: NDArray[np.float64]


class Rows(NamedTuple):
    """Some rows in fewer bits.

    Args:
        numbers: The numbers (m, 256).
        scale: What one of them stands for.
        length: The greatest length of a row.
        error: How far off the worst row is.
    """

    numbers: Any
    scale: float
    length: float
    error: float

    def bounds(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far off a product is at most, for queries that are so far off (n,).

        The margin is for what is summed in float32, here or where nothing else is off.
        """
        return SLACK * ((self.length + self.error) * errors + self.error) + MARGIN


class Arithmetic(ABC):
    """Multiplies in fewer bits.

    Args:
        at_once: How many queries at a time.
    """

    at_once: int

    @abstractmethod
    def is_right(self) -> bool:
        """Whether products are off by no more than they may, on this processor."""

    @contextmanager
    def alone(self) -> Iterator[Callable[[], object]]:
        """Give what a thread calls first so that its products are computed by it alone."""
        yield int

    @abstractmethod
    def queries(self, queries: NDArray[np.float32]) -> Queries:
        """Return queries (n, 256) in fewer bits."""

    @abstractmethod
    def rows(self, rows: NDArray[np.float32]) -> Rows | None:
        """Return rows (m, 256) in fewer bits.

        None where a number is none, or far beyond those of unit vectors.
        """

    @abstractmethod
    def near(self, rows: Rows, queries: Queries, least: NDArray[np.float64]) -> Pairs:
        """Return the pairs of a query and a row whose cosine may be the query's least or more."""


# ---- whole numbers ---------------------------------------------------------------------------


class EightBits(Arithmetic):
    """Whole numbers of 8 bits; queries have 7 where 8 are not multiplied exactly."""

    at_once = 256  # products have 4 bytes

    def is_right(self) -> bool:
        """Whether there is a number of bits for which products are exact."""
        return _query_most() > 0

    def queries(self, queries: NDArray[np.float32]) -> Queries:
        """Return queries in as many bits as this processor multiplies exactly."""
        scales = np.abs(queries).max(axis=1).astype(np.float64) / _query_most()
        scales[scales == 0] = 1  # the mean of segments that cancel each other out
        whole = np.rint(queries / scales[:, None])
        errors = np.linalg.norm(queries - whole * scales[:, None], axis=1)
        return Queries(np.ascontiguousarray(whole.T.astype(np.int8)), scales, errors)

    def rows(self, rows: NDArray[np.float32]) -> Rows | None:
        """Return rows in 8 bits, with ``ZERO`` for nothing."""
        scale = float(max(rows.max(), -rows.min())) / ROW_MOST
        if not 0 < scale < 1:  # NaN is neither
            return None
        length = float(np.sqrt(np.vecdot(rows, rows).max()))
        whole = rows * np.float32(1 / scale)
        np.rint(whole, out=whole)
        coarse = (whole + np.float32(ZERO)).astype(np.uint8)
        whole *= np.float32(scale)
        np.subtract(rows, whole, out=whole)
        return Rows(coarse, scale, length, float(np.sqrt(np.vecdot(whole, whole).max())))

    def near(self, rows: Rows, queries: Queries, least: NDArray[np.float64]) -> Pairs:
        """Return the pairs of a query and a row whose cosine may be the query's least or more."""
        wanted = (least - rows.bounds(queries.errors)) / (rows.scale * queries.scales)
        are_near = _session().run(
            None,
            {
                "rows": rows.numbers,
                "queries": queries.numbers,
                # Products must be greater; what rounds here is far less than the margin.
                "least": np.clip(np.ceil(wanted) - 1, -(2**31), 2**31 - 1).astype(np.int32),
            },
        )[0]
        return _places(are_near)


@cache
def _session() -> Any:
    return open_session(GRAPH, threads=1)


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


# ---- bfloat16 --------------------------------------------------------------------------------


class BFloat16(Arithmetic):
    """Floats of 8 significant bits, by PyTorch."""

    at_once = 1_024  # products have 2 bytes
    _lock = threading.Lock()
    _users = 0  # of ``alone``, at this moment
    _threads = 0  # of PyTorch, before the first of them

    def is_right(self) -> bool:
        """Whether sums are those of float32, and rounded to the nearest."""
        with workers("muomni-tried", self) as pool:
            return all(pool.map(self._is_right, (0.0, 1.0, 8.0)))

    def _is_right(self, spread: float) -> bool:
        rng = np.random.default_rng(0)
        scales = 2.0 ** (spread * rng.standard_normal(DIM))
        rows = self.rows(normalise(rng.standard_normal((ROWS_AT_ONCE, DIM)) * scales))
        queries = self.queries(normalise(rng.standard_normal((self.at_once, DIM)) * scales))
        if rows is None:
            return False
        exact = rows.numbers.double().numpy() @ queries.numbers.double().numpy()
        found = self._products(rows, queries).float().numpy()
        # A half of the last of 8 bits, and what is off in a sum of float32.
        return bool((np.abs(found - exact) <= np.abs(exact) * 2.0**-8 + MARGIN).all())

    @contextmanager
    def alone(self) -> Iterator[Callable[[], object]]:
        """Give what sets PyTorch's threads for a thread.

        PyTorch keeps the number for each thread and, for those that have not asked yet, the one
        that was set last: it is put back when the last who computes so has ended. A thread that
        meets PyTorch for the first time in between stays on one.
        """
        import torch

        with self._lock:
            if not self._users:
                self._threads = torch.get_num_threads()
            self._users += 1
        try:
            yield lambda: torch.set_num_threads(1)
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    torch.set_num_threads(self._threads)

    def queries(self, queries: NDArray[np.float32]) -> Queries:
        """Return queries, each rounded number for itself."""
        rounded = _rounded(queries)
        errors = np.linalg.norm(queries - rounded.double().numpy(), axis=1)
        return Queries(rounded.T.contiguous(), np.ones(len(queries)), errors)

    def rows(self, rows: NDArray[np.float32]) -> Rows | None:
        """Return rows, each rounded number for itself."""
        with np.errstate(all="ignore"):
            length = float(np.sqrt(np.vecdot(rows, rows).max()))
        if not length < LONGEST:  # NaN is not
            return None
        rounded = _rounded(rows)
        off = rounded.float().numpy()
        np.subtract(rows, off, out=off)
        return Rows(rounded, 1.0, length, float(np.sqrt(np.vecdot(off, off).max())))

    def near(self, rows: Rows, queries: Queries, least: NDArray[np.float64]) -> Pairs:
        """Return the pairs of a query and a row whose cosine may be the query's least or more."""
        import torch

        products = self._products(rows, queries)
        # What is rounded here to float32 is far less than the margin.
        bounded = (least - rows.bounds(queries.errors)).astype(np.float32)
        wanted = torch.from_numpy(bounded).to(torch.bfloat16)
        if bounded.min() <= LEAST_POSITIVE:
            return _places((products >= wanted).numpy())
        # Bits of positive ones are in the order of the numbers, and NumPy is eight times as fast.
        of_products, of_wanted = (one.view(torch.int16).numpy() for one in (products, wanted))
        return _places(of_products >= of_wanted)

    def _products(self, rows: Rows, queries: Queries) -> Any:
        import torch

        return torch.mm(rows.numbers, queries.numbers)


def _rounded(vectors: NDArray[np.float32]) -> Any:
    import torch

    # Of what may not be written to, as rows that are mapped, PyTorch warns.
    own = np.require(vectors, requirements=("C", "W"))
    return torch.from_numpy(own).to(torch.bfloat16)


# ---- which -----------------------------------------------------------------------------------


EIGHT_BITS, BFLOAT16 = EightBits(), BFloat16()


def choose(multiplications: int) -> Arithmetic:
    """Return what takes the least time for so many of two numbers.

    As far as it shows at this moment, when other programs may run: only speed hangs on it.
    """
    ways: list[Arithmetic] = [EIGHT_BITS]
    is_loaded = "torch" in sys.modules or multiplications >= WORTH_TORCH
    if is_loaded and not NATIVE_BFLOAT16.isdisjoint(processor_flags()):
        ways.append(BFLOAT16)
    return max(ways, key=lambda way: gain(way))


class Asked:
    """Queries (n, 256) in fewer bits, as many at a time as are multiplied at once."""

    def __init__(self, arithmetic: Arithmetic, queries: NDArray[np.float32]) -> None:
        self._arithmetic = arithmetic
        self._starts = range(0, len(queries), arithmetic.at_once)
        self._blocks = [
            arithmetic.queries(queries[start : start + arithmetic.at_once])
            for start in self._starts
        ]

    def near(
        self, rows: NDArray[np.float32], least: NDArray[np.float64], most: float = math.inf
    ) -> Pairs | None:
        """Return the pairs of a query and a row that may reach what the query wants, as places.

        On the calling thread.

        Args:
            rows: (m, 256), ``ROWS_AT_ONCE`` at best.
            least: The cosine that each query wants, (n,).
            most: How many pairs are few enough.

        Returns:
            None where they are more, or a row holds no numbers of a unit vector.
        """
        made = self._arithmetic.rows(rows)
        if made is None:
            return None
        near: list[Pairs] = []
        count = 0
        for start, block in zip(self._starts, self._blocks, strict=True):
            wanted = least[start : start + self._arithmetic.at_once]
            asked, places = self._arithmetic.near(made, block, wanted)
            near.append((start + asked, places))
            count += len(places)
            if count > most:
                return None
        asked, places = (np.concatenate(column) for column in zip(*near, strict=True))
        return asked, places


def is_tried() -> bool:
    """Whether this process knows how fast one of them is."""
    return gain.cache_info().currsize > 0


@contextmanager
def workers(name: str, arithmetic: Arithmetic) -> Iterator[Executor]:
    """Give a thread for each core, on which products are computed by it alone."""
    with (
        arithmetic.alone() as begin,
        ThreadPoolExecutor(usable_cores(), name, initializer=begin) as pool,
    ):
        yield pool


@cache
def gain(arithmetic: Arithmetic) -> float:
    """Return how much faster it is than the products of float32; 0 where it is wrong."""
    from muomni_search.index.faiss_index import nearest

    if not arithmetic.is_right():
        return 0.0
    rng = np.random.default_rng(0)
    # Tiles enough for each core, and queries that reach nothing.
    count = ROWS_AT_ONCE * max(4, 2 * usable_cores())
    queries = normalise(rng.standard_normal((TRIED_QUERIES, DIM)))
    rows = normalise(rng.standard_normal((count, DIM)))
    asked = Asked(arithmetic, queries)
    unreached = np.full(TRIED_QUERIES, 2.0)

    def first_pass(start: int) -> None:
        asked.near(rows[start : start + ROWS_AT_ONCE], unreached)

    with workers("muomni-tried", arithmetic) as pool:
        starts = range(0, count, ROWS_AT_ONCE)
        ways = (lambda: nearest(queries, rows, TRIED_K), lambda: list(pool.map(first_pass, starts)))
        # In turns, for the machine may be slower for a while.
        taken = np.array([[_seconds(way) for way in ways] for _ in range(TRIES)])
    in_floats, in_fewer_bits = taken.min(axis=0)
    return float(in_floats / in_fewer_bits)


def _places(are_near: NDArray[np.bool_]) -> Pairs:
    """Return the columns and rows of what is true."""
    places, numbers = np.divmod(np.flatnonzero(are_near), are_near.shape[1])
    return numbers, places


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
