"""Memory and disk of a collection that is added to, changed, deleted from and asked for hours.

    nice python benchmarks/soak.py [--operations 1000000] [--items 30000]

Additions and deletions keep the number of items the same, so that what grows leaks.
Memory is what the process has for itself (``RssAnon``: files that are mapped do not count). The
slope is that of a line through the measurements of the second half, over the whole of that, as a
share of their mean. At the end `verify` must find nothing.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from common import SEED, anonymous_memory, describe_machine, make_rows, table

from muomni_search.collection import Collection
from muomni_search.items import Modality, Query, Record

# Of how many items each write is; a write brings everything to the disk.
AT_ONCE = 32
MEASUREMENTS = 40
# Of a hundred rounds: how many add or delete, and how many update. The others ask.
ADD_OR_DELETE, UPDATE = 4, 1


def disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


class Soak:
    """A collection, the keys that it has, and what is done with it."""

    def __init__(self, collection: Collection, pool: np.ndarray, items: int) -> None:
        self.collection = collection
        self.pool = pool
        self.items = items  # how many it holds, give or take one write
        self.rng = np.random.default_rng(SEED)
        self.keys: list[str] = []
        self.made = 0
        self.done = 0

    def records(self, keys: list[str]) -> Iterator[Record]:
        """Yield a record of a random vector for each key."""
        for key, number in zip(keys, self.rng.integers(0, len(self.pool), len(keys)), strict=True):
            yield Record(
                key,
                list(Modality)[len(key) % 2],
                "made up",
                vector=self.pool[number],
                metadata={"n": int(number % 100), "tags": ["a", "b"][: number % 3]},
            )

    def add(self, count: int) -> None:
        """Add so many new items."""
        fresh = [f"{'x' * (n % 2)}{n:07}" for n in range(self.made, self.made + count)]
        self.made += count
        self.collection.add(self.records(fresh))
        self.keys += fresh

    def update(self, count: int) -> None:
        """Give so many items another vector."""
        self.collection.add(self.records(list(self.rng.choice(self.keys, count, replace=False))))

    def delete(self, count: int) -> None:
        """Delete so many items."""
        places = np.sort(self.rng.choice(len(self.keys), count, replace=False))[::-1]
        doomed = []
        for place in places.tolist():
            self.keys[place], self.keys[-1] = self.keys[-1], self.keys[place]
            doomed.append(self.keys.pop())
        self.collection.delete(doomed)

    def ask(self) -> None:
        """Ask once, with a filter every fourth time."""
        query = Query.vector(self.pool[self.rng.integers(len(self.pool))])
        where = [None, None, None, f"n = {self.rng.integers(100)}"][self.rng.integers(4)]
        hits = self.collection.query(query, k=int(self.rng.integers(1, 30)), where=where)
        if not hits and where is None:
            raise SystemExit("nothing was found")

    def round(self) -> None:
        """Do one thing or another: a write of many, or one question for each of its items."""
        drawn = 100 * self.rng.random()
        if drawn >= ADD_OR_DELETE + UPDATE:
            self.ask()
            self.done += 1
            return
        if drawn >= ADD_OR_DELETE:
            self.update(AT_ONCE)
        elif len(self.keys) <= self.items:
            self.add(AT_ONCE)
        else:
            self.delete(AT_ONCE)
        self.done += AT_ONCE


def show(done: int, used: int, size: int) -> None:
    """Say what was measured; it may take hours until the table stands."""
    line = f"{done:,} operations: {used / 1e6:.1f} MB of memory, {size / 1e6:.0f} MB of disk"
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="memory and disk under constant change")
    parser.add_argument("--operations", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=30_000)
    options = parser.parse_args()
    describe_machine()
    pool = make_rows(50_000, np.random.default_rng(SEED))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "c"
        with Collection.create(directory, model="hashing") as collection:
            soak = Soak(collection, pool, options.items)
            soak.add(options.items)
            seen: list[tuple[int, int, int]] = []
            start = time.perf_counter()
            for part in range(1, MEASUREMENTS + 1):
                while soak.done < part * options.operations // MEASUREMENTS:
                    soak.round()
                gc.collect()
                seen.append((soak.done, anonymous_memory(), disk(directory)))
                show(*seen[-1])
            taken = time.perf_counter() - start
            faults = collection.verify()
        table(
            ("operations", "memory, MB", "disk, MB"),
            (
                (f"{done:,}", f"{used / 1e6:.1f}", f"{size / 1e6:.0f}")
                for done, used, size in seen[:: MEASUREMENTS // 10]
            ),
        )
        late = np.array(seen[MEASUREMENTS // 2 :], np.float64)
        for name, column in (("memory", 1), ("disk", 2)):
            slope = np.polyfit(late[:, 0], late[:, column], 1)[0] * np.ptp(late[:, 0])
            print(f"\n{name}: slope {slope / late[:, column].mean():+.1%} over the second half")
        print(f"{soak.done / taken:,.0f} operations/s; verify: {len(faults)} faults")


if __name__ == "__main__":
    main()
