"""Near-duplicates: every pair of a collection compared, beside the machine's bare matrix product.

    python benchmarks/duplicates.py [--rows 100000]

The rate counts each pair once (2 · 256 operations), all that `find_duplicates` does included; the
bare product is of two blocks of the same size, by torch as by NumPy (which multiplies a block by
itself another way, and slower), the faster of both, taken before and after.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from common import describe_machine, make_records, make_rows, seconds, table

from muomni_search import Collection, find_duplicates
from muomni_search.duplicates import BLOCK
from muomni_search.items import DIM

ROUNDS = 5


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


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of finding near-duplicates")
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    describe_machine()
    with (
        tempfile.TemporaryDirectory() as folder,
        Collection.create(Path(folder, "c"), model="hashing") as collection,
    ):
        collection.add(make_records(make_rows(rows, np.random.default_rng(0))))
        lines = []
        for above in (0.95, 0.9, 0.8):
            bare = bare_product()
            start = time.perf_counter()
            groups = find_duplicates(collection, above=above)
            took = time.perf_counter() - start
            bare = max(bare, bare_product())
            rate = DIM * rows**2 / took / 1e9
            items = sum(len(group.items) for group in groups)
            lines.append(
                (f"{above}", f"{len(groups):,}", f"{items:,}", f"{took:.1f}", f"{rate:.0f}",
                 f"{bare:.0f}", f"{rate / bare:.2f}")
            )  # fmt: skip
    table(("above", "groups", "items", "seconds", "GFLOP/s", "bare product", "ratio"), lines)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\n{rows:,} rows of {DIM}; peak memory of the process {peak:.2f} GB")


if __name__ == "__main__":
    main()
