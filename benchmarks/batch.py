"""Queries a second of batch jobs, beside FAISS and beside the matrix products of the machine.

    nice python benchmarks/batch.py [--rows 100000] [--queries 10000]

``run_batch`` is a whole job: queries from a ``.npy``, answers with keys and scores in Parquet, on
the disk. ``top_rows_many`` is the search in it. All take turns with `faiss.knn` as the wheel has it
and with bare products of torch and NumPy; each figure is the best of its turns. Compare ratios
within one run only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from common import SEED, describe_machine, make_records, make_rows, quickest, seconds, table
from pyarrow.compute import value_counts
from pyarrow.parquet import read_table

from muomni_search.batch import run_batch
from muomni_search.collection import Collection
from muomni_search.index import coarse, faiss_index, first_pass, planner
from muomni_search.items import DIM

NO_ROWS = np.empty(0, np.int64)
DEAD_SHARE = 0.1
ALL_K = (10, 100)
# Small tiles stay in the caches; large ones wait less for one another on a busy machine.
TILES = (1_024, 4_096)
# Queries of a small batch; the numbers from which on FAISS, as installed, multiplies by BLAS.
FEW = (16, 64, 256)
FAISS_THRESHOLD = 128_000
INSTALLED = "`faiss.knn`, as installed"
# Run in a child that does not import this package, whose import mends what is measured here.
AS_INSTALLED = """
import sys, time
import faiss, numpy as np
rows, queries, k = np.load(sys.argv[1]), np.load(sys.argv[2]), int(sys.argv[3])
faiss.knn(queries[:100], rows, k, metric=faiss.METRIC_INNER_PRODUCT)
start = time.perf_counter()
faiss.knn(queries, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
print(time.perf_counter() - start)
"""


def multiply_by_torch(queries: np.ndarray, rows: np.ndarray, side: int) -> None:
    """Multiply all queries with all rows, tile by tile into the same place."""
    left, right = torch.from_numpy(queries), torch.from_numpy(rows).T
    place = torch.empty(side * side)
    for first in range(0, len(queries), side):
        some = left[first : first + side]
        for start in range(0, len(rows), side):
            tile = right[:, start : start + side]
            target = place[: len(some) * tile.shape[1]].view(len(some), tile.shape[1])
            torch.matmul(some, tile, out=target)


def multiply_by_numpy(queries: np.ndarray, rows: np.ndarray, side: int) -> None:
    """Multiply all queries with all rows, tile by tile into the same place."""
    place = np.empty(side * side, np.float32)
    for first in range(0, len(queries), side):
        some = queries[first : first + side]
        for start in range(0, len(rows), side):
            tile = rows[start : start + side].T
            target = place[: len(some) * tile.shape[1]].reshape(len(some), tile.shape[1])
            np.matmul(some, tile, out=target)


def as_installed(files: Sequence[Path], k: int) -> float:
    """Return the seconds that ``faiss.knn`` takes in a child that leaves the core type alone."""
    environment = {
        name: value for name, value in os.environ.items() if name != faiss_index.CORE_VARIABLE
    }
    command = [sys.executable, "-c", AS_INSTALLED, *map(str, files), str(k)]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    return float(child.stdout)


def batches(
    rows: np.ndarray, queries: np.ndarray, rounds: int, scratch: Path
) -> Iterator[Sequence[str]]:
    files = [scratch / "rows.npy", scratch / "queries.npy"]
    for path, array in zip(files, (rows, queries), strict=True):
        np.save(path, array)
    dead = np.flatnonzero(np.random.default_rng(SEED).random(len(rows)) < DEAD_SHARE)
    outputs = count()
    with Collection.create(scratch / "batch", model="base") as collection:
        collection.add(make_records(rows))

        def job(k: int) -> float:
            output = scratch / f"answers-{next(outputs)}.parquet"
            report = run_batch(collection, files[1], output, k=k)
            output.unlink()
            return report.seconds

        def search(k: int, gone: np.ndarray) -> float:
            return seconds(planner.top_rows_many, queries, rows, k=k, dead=gone)

        def search_in_floats(k: int) -> float:
            with patch.object(first_pass, "is_paying", lambda *_: False):
                return search(k, NO_ROWS)

        def search_in_whole_numbers(k: int) -> float:
            with patch.object(coarse, "choose", lambda _: coarse.EIGHT_BITS):
                return search(k, NO_ROWS)

        ways: dict[str, Callable[[int], float]] = {
            "`run_batch`, file to file": job,
            "`top_rows_many`": lambda k: search(k, NO_ROWS),
            "… by whole numbers of 8 bits at most": search_in_whole_numbers,
            "… without a first pass": search_in_floats,
            f"… with {DEAD_SHARE:.0%} dead rows": lambda k: search(k, dead),
            INSTALLED: lambda k: as_installed(files, k),
            "`faiss.knn`, core type mended": lambda k: seconds(
                faiss_index.nearest, queries, rows, k
            ),
        }
        products: dict[str, Callable[[], float]] = {
            f"products alone, {name}, tiles of {side:,}": partial(
                seconds, multiply, queries, rows, side
            )
            for name, multiply in (("torch", multiply_by_torch), ("NumPy", multiply_by_numpy))
            for side in TILES
        }
        tasks: dict[tuple[str, str], Callable[[], float]] = {
            (name, str(k)): partial(way, k) for k in ALL_K for name, way in ways.items()
        }
        tasks |= {(name, "–"): way for name, way in products.items()}
        best = quickest(tasks, rounds)
    sgemm = min(best[name, "–"] for name in products)
    for (name, k), taken in best.items():
        flops = 2 * DIM * len(rows) * len(queries) / taken
        peer = f"{best[INSTALLED, k] / taken:.2f}" if k != "–" else "–"
        yield (
            name, k, f"{len(queries) / taken:,.0f}", f"{flops / 1e9:.0f}",
            f"{sgemm / taken:.2f}", peer,
        )  # fmt: skip


def by_index(
    rows: np.ndarray, queries: np.ndarray, rounds: int, scratch: Path
) -> Iterator[Sequence[str]]:
    asked = scratch / "asked.npy"
    np.save(asked, queries)
    with Collection.create(scratch / "index", model="base") as collection:
        collection.add(make_records(rows))
        outputs = {exact: scratch / f"exact-{exact}.parquet" for exact in (True, False)}

        def job(k: int, exact: bool) -> float:
            outputs[exact].unlink(missing_ok=True)
            return run_batch(
                collection, asked, outputs[exact], k=k, exact=exact, force=True
            ).seconds

        for k in ALL_K:
            best = quickest({exact: partial(job, k, exact) for exact in outputs}, rounds)
            answers = {exact: read_table(output) for exact, output in outputs.items()}
            pairs = [
                set(zip(*(one[name].to_pylist() for name in ("query_id", "key")), strict=True))
                for one in answers.values()
            ]
            shares = value_counts(answers[False]["how"]).to_pylist()
            by = {one["values"]: one["counts"] / len(answers[False]) for one in shares}
            yield (
                f"{len(rows):,}", str(k), *(f"{len(queries) / best[one]:,.0f}" for one in outputs),
                f"{best[True] / best[False]:.1f}", f"{by.get('ann', 0):.0%}",
                f"{len(pairs[0] & pairs[1]) / len(pairs[0]):.4f}",
            )  # fmt: skip


def small_batches(rows: np.ndarray, queries: np.ndarray, rounds: int) -> Iterator[Sequence[str]]:
    options = faiss_index.faiss.cvar
    ours = int(options.distance_compute_blas_threshold)

    def ask(few: int, threshold: int) -> float:
        options.distance_compute_blas_threshold = threshold
        try:
            return seconds(faiss_index.nearest, queries[:few], rows, ALL_K[0])
        finally:
            options.distance_compute_blas_threshold = ours

    tasks = {
        (str(few), str(threshold)): partial(ask, few, threshold)
        for few in FEW
        for threshold in (FAISS_THRESHOLD, ours)
    }
    best = quickest(tasks, rounds)
    for few in map(str, FEW):
        before, now = best[few, str(FAISS_THRESHOLD)], best[few, str(ours)]
        yield few, f"{1e3 * before:.0f}", f"{1e3 * now:.0f}", f"{before / now:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="queries a second of batch jobs")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vectors", type=Path, help="unit rows in a .npy; the last ones ask")
    parser.add_argument("--quick", action="store_true", help="the first table alone")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    if options.vectors is None:
        rows, queries = make_rows(options.rows, rng), make_rows(options.queries, rng)
    else:
        given = np.load(options.vectors, mmap_mode="r")
        queries = np.array(given[-options.queries :])
        rows = np.array(given[: -options.queries][: options.rows])
    describe_machine()
    print(f"FAISS, mended, multiplies for {faiss_index.blas_core()}")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        table(
            ("batch", "k", "queries/s", "GFLOP/s", "of the products alone", "of `faiss.knn`"),
            batches(rows, queries, options.rounds, scratch),
        )
        if options.quick:
            return
        table(
            (
                *("rows", "k", "exact: queries/s", "by the index: queries/s", "times"),
                *("answers of the index", "of the exact ones found"),
            ),
            by_index(rows, queries, options.rounds, scratch),
        )
        table(
            ("queries at once", "ms as installed", "ms with the threshold set here", "times"),
            small_batches(rows, queries, options.rounds),
        )
    print(f"\nload {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
