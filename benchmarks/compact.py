"""Compaction and purge, beside plain copies of the files that they write anew.

    nice python benchmarks/compact.py [--rows 200000] [--dead 0.3]

The rows to delete lie anywhere. A copy is brought to the disk before its time is taken, as what a
compaction writes is. Compare ratios within one run only.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from common import describe_machine, make_records, make_rows, seconds, table

from muomni_search.collection import Collection
from muomni_search.index import planner
from muomni_search.items import Modality
from muomni_search.store.compact import compact_rows


def copy(path: Path) -> None:
    """Copy a file and bring it to the disk."""
    target = path.with_suffix(".copy")
    shutil.copyfile(path, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    target.unlink()


def row_file(collection: Collection) -> Path:
    with collection.store.snapshot() as snapshot:
        return snapshot.state.row_files[Modality.IMAGE].path


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of compaction and purge")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dead", type=float, default=0.3)
    options = parser.parse_args()
    describe_machine()
    # Or the deletion itself may leave the dead rows out.
    planner.DEAD_ROWS = options.rows
    rng = np.random.default_rng(0)
    with (
        tempfile.TemporaryDirectory() as folder,
        Collection.create(Path(folder, "c"), model="hashing") as collection,
    ):
        collection.add(make_records(make_rows(options.rows, rng)))
        keys = [item.key for item in collection.items()]
        doomed = rng.choice(options.rows, int(options.dead * options.rows), replace=False)
        collection.delete([keys[number] for number in doomed])
        lines = [("copy of the row file", seconds(copy, row_file(collection)))]
        lines.append(("copy of the database", seconds(copy, collection.store.database)))
        start = time.perf_counter()
        with collection.store.write() as writer:
            compact_rows(writer, Modality.IMAGE)
        lines.append(("live rows and segments (`compact_rows`)", time.perf_counter() - start))
        lines.append(("index of the rows left", seconds(collection.refresh_indexes)))
        lines.append(("database (`VACUUM`, log emptied)", seconds(collection.store.vacuum)))
        live = np.setdiff1d(np.arange(options.rows), doomed)
        lines.append(("purge of one item of the rest", seconds(collection.purge, keys[live[9]])))
        with collection.store.snapshot() as snapshot:
            start = time.perf_counter()
            snapshot.sample_rows(Modality.IMAGE, 1_024)
            lines.append(("sample that scores are measured on", time.perf_counter() - start))
    table(("what", "seconds"), [(what, f"{took:.2f}") for what, took in lines])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\n{options.rows:,} rows, {options.dead:.0%} dead; peak memory {peak:.2f} GB")


if __name__ == "__main__":
    main()
