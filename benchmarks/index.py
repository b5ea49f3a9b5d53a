"""Time and recall of the index: single queries, filters and batches, as tables in Markdown.

    nice python benchmarks/index.py [--rows 100000]

The rows have the spectrum of real embeddings (variances that fall as 1/rank, clusters, unit
length). Queries "in" are drawn as the rows are; queries "out" are half rotated, shifted by a
constant gap and noisy, as words are that ask for pictures. Compare ratios within one run only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from muomni_search.index import faiss_index, planner
from muomni_search.index.faiss_index import FourBitScan
from muomni_search.items import DIM
from muomni_search.vectors import normalise

SEED = 20260101
# A little harder for a 4-bit scan than the pictures of the model `base`: without asking deeper,
# 200 candidates hold .992 of the ten nearest of 100,000.
CLUSTERS = 100
CLUSTER_SPREAD = 1.0
NO_ROWS = np.empty(0, np.int64)
FILTER_SHARES = (0.5, 0.1, 0.01, 0.001)
BATCH_K = (10, 100)
# Run in a child that does not import this package, whose import mends what is measured here.
AS_INSTALLED = """
import sys, time
import faiss, numpy as np
rows, queries, k = np.load(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
seconds = []
for _ in range(3):
    start = time.perf_counter()
    faiss.knn(queries, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
    seconds.append(time.perf_counter() - start)
print(min(seconds))
"""


def make_rows(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return unit rows (count, 256) around shared centres, with variances that fall as 1/rank."""
    centres = np.random.default_rng(SEED).standard_normal((CLUSTERS, DIM))
    deviations = (np.arange(DIM) + 1.0) ** -0.5
    rows = np.empty((count, DIM), np.float32)
    for start in range(0, count, 100_000):
        part = rows[start : start + 100_000]
        near = centres[rng.integers(0, CLUSTERS, len(part))]
        part[:] = normalise((near + CLUSTER_SPREAD * rng.standard_normal(part.shape)) * deviations)
    return rows


def make_foreign(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return unit queries (count, 256) that do not lie where the rows do."""
    rotation, _ = np.linalg.qr(rng.standard_normal((DIM, DIM)))
    gap = normalise(rng.standard_normal(DIM))
    noise = normalise(rng.standard_normal((count, DIM)))
    rows = make_rows(count, rng)
    return normalise(rows + 0.5 * rows @ rotation + 0.5 * gap + 0.3 * noise)


def times(ask: Callable[[np.ndarray], Any], queries: np.ndarray) -> np.ndarray:
    """Return how many milliseconds each query took, after some to warm up."""
    for query in queries[:10]:
        ask(query)
    taken = np.empty(len(queries))
    for number, query in enumerate(queries):
        start = time.perf_counter()
        ask(query)
        taken[number] = time.perf_counter() - start
    return taken * 1e3


def table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def single(
    rows: np.ndarray, index: FourBitScan, kinds: dict[str, np.ndarray], k: int
) -> Iterator[Sequence[str]]:
    flat = faiss_index.faiss.IndexFlatIP(DIM)
    flat.add(rows)
    for kind, queries in kinds.items():

        def ask_flat(query: np.ndarray) -> np.ndarray:
            faiss_index.use_threads(1)
            return flat.search(query[None], k)[1][0]

        def ask_exact(query: np.ndarray) -> np.ndarray:
            return planner.top_rows(query, rows, k=k, dead=NO_ROWS).rows

        def ask_index(query: np.ndarray) -> np.ndarray:
            return planner.top_rows(query, rows, k=k, dead=NO_ROWS, index=index).rows

        truth = [ask_exact(query) for query in queries[:200]]
        flat_p50 = None
        for how, ask in (
            ("`faiss.IndexFlatIP`, 1 thread", ask_flat),
            ("`top_rows`, exact", ask_exact),
            ("`top_rows`, ann", ask_index),
        ):
            hits = [
                len(np.intersect1d(ask(query)[:k], right)) / len(right)
                for query, right in zip(queries, truth, strict=False)
            ]
            taken = times(ask, queries)
            p50, p95 = np.quantile(taken, [0.5, 0.95])
            flat_p50 = flat_p50 or p50
            yield (
                f"{len(rows):,}", how, kind, f"{np.mean(hits):.4f}",
                f"{p50:.2f}", f"{p95:.2f}", f"{flat_p50 / p50:.1f} ×",
            )  # fmt: skip


def filters(rows: np.ndarray, queries: np.ndarray, k: int) -> Iterator[Sequence[str]]:
    rng = np.random.default_rng(SEED)
    for share in FILTER_SHARES:
        allowed = np.flatnonzero(rng.random(len(rows)) < share)

        def ask(query: np.ndarray, allowed: np.ndarray = allowed) -> np.ndarray:
            return planner.top_rows(query, rows, k=k, dead=NO_ROWS, allowed=allowed).rows

        p50, p95 = np.quantile(times(ask, queries), [0.5, 0.95])
        yield f"{share:.1%}", f"{len(allowed):,}", f"{p50:.2f}", f"{p95:.2f}"


def batch(rows: np.ndarray, queries: np.ndarray) -> Iterator[Sequence[str]]:
    def line(name: str, k: str, seconds: float) -> Sequence[str]:
        flops = 2 * DIM * len(rows) * len(queries) / seconds
        return name, k, f"{len(queries) / seconds:,.0f}", f"{flops / 1e9:.0f}"

    dead = np.flatnonzero(np.random.default_rng(SEED).random(len(rows)) < 0.1)
    for k in BATCH_K:
        for name, gone in (("`top_rows_many`", NO_ROWS), ("… with 10 % dead rows", dead)):
            yield line(name, str(k), clock(planner.top_rows_many, queries, rows, k=k, dead=gone))
        yield line(
            "`faiss.knn`, core type mended", str(k), clock(faiss_index.nearest, queries, rows, k)
        )
        yield line("`faiss.knn`, as installed", str(k), as_installed(rows, queries, k))
    yield line("torch matrix products alone", "–", clock(multiply, queries, rows))


def clock(work: Callable[..., Any], *given: Any, **named: Any) -> float:
    """Return the seconds of the quickest of three calls."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work(*given, **named)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def multiply(queries: np.ndarray, rows: np.ndarray) -> None:
    """Multiply all queries with all rows, block by block into the same place."""
    import torch

    left, right = torch.from_numpy(queries), torch.from_numpy(rows).T
    for first in range(0, len(queries), 1_024):
        some = left[first : first + 1_024]
        product = torch.empty(len(some), 1_024)
        for start in range(0, len(rows), 1_024):
            tile = right[:, start : start + 1_024]
            torch.matmul(some, tile, out=product[:, : tile.shape[1]])


def as_installed(rows: np.ndarray, queries: np.ndarray, k: int) -> float:
    """Return the seconds that ``faiss.knn`` takes in a child that leaves the core type alone."""
    with tempfile.TemporaryDirectory() as scratch:
        files = [str(Path(scratch, name)) for name in ("rows.npy", "queries.npy")]
        np.save(files[0], rows)
        np.save(files[1], queries)
        environment = {
            name: value for name, value in os.environ.items() if name != faiss_index.CORE_VARIABLE
        }
        command = [sys.executable, "-c", AS_INSTALLED, *files, str(k)]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return float(child.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description="time and recall of the index")
    parser.add_argument("--rows", type=int, default=100_000, help="up to 1,000,000 or so")
    parser.add_argument("--queries", type=int, default=500, help="single queries of each kind")
    parser.add_argument("--batch", type=int, default=10_000, help="queries of the batch")
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rows = make_rows(options.rows, rng)
    kinds = {"in": make_rows(options.queries, rng), "out": make_foreign(options.queries, rng)}
    print(f"{os.cpu_count()} cores, FAISS multiplies for {faiss_index.blas_core()}")
    start = time.perf_counter()
    index = planner.build_index(rows)
    seconds = time.perf_counter() - start
    print(f"Index built in {seconds:.1f} s, {len(index.to_bytes()) / 1e6:.1f} MB")
    table(
        ("rows", "how", "queries", f"recall@{options.k}", "p50 ms", "p95 ms", "against flat"),
        single(rows, index, kinds, options.k),
    )
    table(("let through", "rows", "p50 ms", "p95 ms"), filters(rows, kinds["in"], options.k))
    table(
        ("batch", "k", "queries/s", "GFLOP/s"),
        batch(rows, make_rows(options.batch, rng)),
    )


if __name__ == "__main__":
    main()
