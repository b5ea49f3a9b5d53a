"""What long work keeps in memory and on the disk: no more than it needs, however long it takes."""

from __future__ import annotations

import gc
import multiprocessing
import runpy
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from muomni_search import Collection, Modality, Record, batch, find_duplicates, write_neighbors
from muomni_search.batch import run_batch
from muomni_search.index import planner
from muomni_search.items import DIM
from muomni_search.vectors import normalise

ROWS, BLOCK = 3_000, 128
# float32 products of each with each take 36 MB.
MOST = 12_000_000
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection of pictures, each of them twice."""
    folder = tmp_path_factory.mktemp("memory") / "pairs"
    rows = normalise(np.random.default_rng(3).standard_normal((ROWS, DIM)))
    rows[1::2] = rows[::2]
    with Collection.create(folder, model="hashing") as collection:
        collection.add(
            Record(f"image/{number:05}", Modality.IMAGE, "here", vector=row)
            for number, row in enumerate(rows)
        )
    return folder


def most_of(work: Callable[[], object]) -> int:
    """Return the most bytes that a call held at once, when all is imported.

    The least of three calls: threads that other tests left behind allocate too.
    """
    work()
    found = []
    for _ in range(3):
        tracemalloc.start()
        try:
            work()
            found.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return min(found)


def test_duplicates_take_no_memory_a_pair(pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muomni_search.duplicates.BLOCK", BLOCK)
    found: list[int] = []
    with Collection.open(pairs) as collection:
        assert most_of(lambda: found.append(len(find_duplicates(collection)))) < MOST
    assert found == [ROWS // 2] * 4


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_neighbours_take_no_memory_a_pair(
    pairs: Path, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BLOCK_QUERIES", BLOCK)
    output = tmp_path / f"graph.{suffix}"
    with Collection.open(pairs) as collection:
        # Without force, the second run finds all done.
        assert most_of(lambda: write_afresh(collection, output)) < MOST


def write_afresh(collection: Collection, output: Path) -> None:
    output.unlink(missing_ok=True)
    assert write_neighbors(collection, output, k=2).answered == ROWS


def test_a_batch_takes_no_memory_a_pair(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "BLOCK_QUERIES", BLOCK)
    np.save(tmp_path / "q.npy", np.random.default_rng(5).standard_normal((ROWS, DIM)))
    output = tmp_path / "out.parquet"

    def ask() -> None:
        output.unlink(missing_ok=True)
        run_batch(collection, tmp_path / "q.npy", output, k=2)

    with Collection.open(pairs) as collection:
        assert most_of(ask) < MOST
    assert len(pq.read_table(output)) == 2 * ROWS


def change_constantly(place: Path) -> tuple[list[int], list[int]]:
    """A short `benchmarks/soak.py`; return the bytes that it held and stored after each round."""
    sys.path.insert(0, str(BENCHMARKS))
    planner.DEAD_ROWS = 64
    soaking = runpy.run_path(str(BENCHMARKS / "soak.py"))
    pool = normalise(np.random.default_rng(1).standard_normal((500, DIM)))
    held, sizes = [], []
    with Collection.create(place, model="hashing") as collection:
        soak = soaking["Soak"](collection, pool, 200)
        soak.add(200)
        tracemalloc.start()
        for _ in range(6):
            for _ in range(20):
                soak.add(4)
                soak.update(4)
                soak.delete(4)
                soak.ask()
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
            # Without the log, which SQLite writes over.
            database = (place / "collection.db").stat().st_size
            sizes.append(soaking["disk"](place / "vectors") + database)
        tracemalloc.stop()
        assert collection.verify() == []
        assert collection.stats()["items"] == 200
    return held, sizes


def test_constant_change_takes_neither_more_memory_nor_more_disk(tmp_path: Path) -> None:
    place = tmp_path / "c"
    # By itself: what other tests left behind in this process would be measured too.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        held, sizes = alone.submit(change_constantly, place).result()
    # A vector that is kept of each round would be 60 kB more.
    assert max(held[3:]) - max(held[:3]) < 50_000
    # Rows that stay would be 480 kB more.
    assert max(sizes[3:]) < 1.2 * max(sizes[:3])
    assert len(list(place.rglob("*"))) < 10
