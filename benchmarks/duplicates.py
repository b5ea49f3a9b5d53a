"""A collection against itself: near-duplicates, and the nearest neighbours of every item.

    python benchmarks/duplicates.py [--rows 100000] [--above .95 .9 .8] [--k 10 100]

The rate counts each pair once for duplicates and twice for neighbours, which are asked from both
sides (2 · 256 operations each), all that is done included. Beside it stand the bare product of two
blocks of the same size, by torch as by NumPy (which multiplies a block by itself another way, and
slower), the faster of both, taken before and after; and the most memory that no file backs, beyond
what the process had before.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from common import anonymous_memory, describe_machine, make_records, make_rows, seconds, table

from muomni_search import Collection, find_duplicates, write_neighbors
from muomni_search.duplicates import BLOCK
from muomni_search.items import DIM

ROUNDS = 5
LOOKS_A_SECOND = 20


def bare_product() -> float:
    """Return the best rate of a float32 product of two blocks, in GFLOP/s."""
    import torch

    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, BLOCK, DIM)).astype(np.float32)
    into = np.empty((BLOCK, BLOCK), np.float32)
    ways = (
        partial(np.matmul, one, two.T, out=into),
        partial(torch.matmul, *map(torch.from_numpy, (one, two.T)), out=torch.from_numpy(into)),
    )
    best = min(seconds(way) for way in ways for _ in range(ROUNDS))
    return 2 * DIM * BLOCK**2 / best / 1e9


def measured(work: Callable[[], Sequence[str]], pairs: float) -> Sequence[str]:
    """Return what a job tells, and its seconds, rate, ratio to the bare product, and memory."""
    bare = bare_product()
    before = most = anonymous_memory()
    is_done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_done.wait(1 / LOOKS_A_SECOND):
            most = max(most, anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        told = work()
        took = time.perf_counter() - start
    finally:
        is_done.set()
        watcher.join()
    bare = max(bare, bare_product())
    rate = 2 * DIM * pairs / took / 1e9
    return (
        *(*told, f"{took:.1f}", f"{rate:.0f}", f"{bare:.0f}", f"{rate / bare:.2f}"),
        f"{(most - before) / 1e6:,.0f}",
    )


def duplicates(
    collection: Collection, rows: int, all_above: Sequence[float]
) -> Iterator[Sequence[str]]:
    def find(above: float) -> Sequence[str]:
        groups = find_duplicates(collection, above=above)
        return f"{len(groups):,}", f"{sum(len(group.items) for group in groups):,}"

    for above in all_above:
        yield f"{above}", *measured(partial(find, above), rows**2 / 2)


def neighbours(
    collection: Collection, rows: int, all_k: Sequence[int], scratch: Path
) -> Iterator[Sequence[str]]:
    def write(k: int) -> Sequence[str]:
        taken = write_neighbors(collection, scratch / f"{k}.parquet", k=k).seconds
        return (f"{rows / taken:,.0f}",)

    for k in all_k:
        yield f"{k}", *measured(partial(write, k), rows**2)


def main() -> None:
    parser = argparse.ArgumentParser(description="a collection against itself")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--above", type=float, nargs="*", default=[0.95, 0.9, 0.8])
    parser.add_argument("--k", type=int, nargs="*", default=[10, 100], help="neighbours")
    options = parser.parse_args()
    describe_machine()
    shared = ("seconds", "GFLOP/s", "bare product", "ratio", "MB more")
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        with Collection.create(scratch / "c", model="hashing") as collection:
            rows = make_rows(options.rows, np.random.default_rng(0))
            collection.add(make_records(rows))
        del rows
        with Collection.open(scratch / "c") as collection:
            table(
                ("above", "groups", "items", *shared),
                duplicates(collection, options.rows, options.above),
            )
            table(
                ("k", "neighbours of so many items a second", *shared),
                neighbours(collection, options.rows, options.k, scratch),
            )
    print(f"\n{options.rows:,} rows of {DIM}")


if __name__ == "__main__":
    main()
