"""What it costs that a core is busy with something else: how long FAISS's threads wait for others.

    nice python benchmarks/busy.py [--rows 100000]

Products of some queries with all rows, as small batches and the measuring of an index take them,
with threads that look 300,000 times whether the others are done before they sleep, as GNU OpenMP
has it, and with those of `muomni_search`. Each way has a process of its own, for OpenMP reads how
often when it is loaded. In turns; the median of all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from common import SEED, busy, describe_machine, make_rows, seconds, table

from muomni_search.cores import SPINS
from muomni_search.index.faiss_index import nearest

QUERIES = (16, 128, 1_024)
K, CALLS, TURNS = 10, 5, 3
WAYS = {"OpenMP's own": dict.fromkeys(SPINS, "300000"), "muomni_search's": {}}


def measure(count: int) -> None:
    """Print what products of some queries with so many rows take, seconds of several calls each."""
    rng = np.random.default_rng(SEED)
    rows, asked = make_rows(count, rng), make_rows(max(QUERIES), rng)
    taken = {}
    for queries in QUERIES:
        product = partial(nearest, asked[:queries], rows, K)
        product()
        before = time.process_time()
        walls = [seconds(product) for _ in range(CALLS)]
        taken[queries] = [walls, (time.process_time() - before) / CALLS]
    print(json.dumps(list(taken.values())))


def ways(count: int) -> Iterator[Sequence[str]]:
    """Yield a line for each way and number of busy cores."""
    for beside in range(2):
        found: dict[str, list[list[tuple[list[float], float]]]] = {told: [] for told in WAYS}
        with busy(beside):
            for _ in range(TURNS):
                for told, spins in WAYS.items():
                    done = subprocess.run(
                        [sys.executable, __file__, "--rows", str(count), "--measure"],
                        check=True,
                        stdout=subprocess.PIPE,
                        env={**os.environ, **spins},
                    )
                    found[told].append(json.loads(done.stdout))
        for told, turns in found.items():
            cells = []
            for one in zip(*turns, strict=True):
                wall = np.median(np.concatenate([walls for walls, _ in one]))
                cells.append(f"{wall * 1e3:.0f} ({np.median([cpu for _, cpu in one]) * 1e3:.0f})")
            yield str(beside), told, *cells


def main() -> None:
    parser = argparse.ArgumentParser(description="what a busy core costs")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--measure", action="store_true", help="what each process does")
    options = parser.parse_args()
    if options.measure:
        measure(options.rows)
        return
    describe_machine()
    table(
        ("cores that are busy", "threads wait", *(f"{one:,} queries, ms (CPU)" for one in QUERIES)),
        ways(options.rows),
    )


if __name__ == "__main__":
    main()
