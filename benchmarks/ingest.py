"""Speed of additions: ready vectors beside their bare cost, warm queries, and real files.

    nice python benchmarks/ingest.py [--rows 100000] [--folder FOLDER…] [--files 400]

Ready vectors with metadata are added through ``Collection.add``, and the same bytes are written as
plainly as possible: one file, fsync, and the same SQL rows in one transaction. Another collection
gets a tenth of them after the other, to see whether the last takes longer than the first. The first
answers queries in turns with `faiss.IndexFlatIP`. At the end real files from the folders (by
default the sample corpus) are added with `muomni add` and the model `base`, each modality to a
collection of its own. Compare ratios within one run only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import SEED, describe_machine, make_records, make_rows, quickest, seconds, table

from muomni_search.collection import Collection
from muomni_search.index import faiss_index
from muomni_search.ingest.manifest import read_corpus
from muomni_search.items import DIM, Query
from muomni_search.store.writer import quoted

CORPUS = Path(__file__).resolve().parent.parent / "examples/corpus"
K = 10
# Queries of a way before the next has its turn, after some that only warm up the caches.
TURN, WARM_UP = 50, 5
SUFFIXES = {
    "text": (".txt", ".md"),
    "image": (".png", ".jpg", ".jpeg", ".webp"),
    "audio": (".flac", ".wav", ".ogg", ".mp3"),
}


# ---- ready vectors ---------------------------------------------------------------------------


def write_parquet(rows: np.ndarray, path: Path) -> None:
    """Write the records of the rows as a table that ``muomni add`` reads."""
    records = list(make_records(rows))
    columns = {
        name: [getattr(record, name) for record in records]
        for name in ("key", "modality", "source", "metadata")
    }
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM)
    pq.write_table(pa.table({**columns, "vector": vectors}), path)


def write_plainly(rows: np.ndarray, model: Path, target: Path) -> float:
    """Return the seconds to bring a collection's vectors and SQL rows to the disk, no more.

    Args:
        rows: The vectors.
        model: A collection that holds them.
        target: A new folder.
    """
    with sqlite3.connect(model / "collection.db") as source:
        schemas = [
            sql for (sql,) in source.execute(
                "SELECT sql FROM sqlite_master WHERE tbl_name IN ('items', 'segments') AND sql > ''"
            )
        ]  # fmt: skip
        # Of each table the columns that are stored, none that is computed.
        stored = {
            name: ", ".join(
                quoted(column) for _, column, *_ in source.execute(f"PRAGMA table_info({name})")
            )
            for name in ("items", "segments")
        }
        tables = {
            name: source.execute(f"SELECT {columns} FROM {name}").fetchall()
            for name, columns in stored.items()
        }
    source.close()
    target.mkdir()
    database = sqlite3.connect(target / "plain.db", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    for schema in schemas:
        database.execute(schema)
    start = time.perf_counter()
    with (target / "rows.npy").open("wb") as file:
        np.save(file, rows)
        file.flush()
        os.fsync(file.fileno())
    database.execute("BEGIN IMMEDIATE")
    for name, values in tables.items():
        marks = ", ".join("?" * len(values[0]))
        into = f"{name} ({stored[name]})"
        database.executemany(f"INSERT INTO {into} VALUES ({marks})", values)
    database.execute("COMMIT")
    taken = time.perf_counter() - start
    database.close()
    return taken


def additions(rows: np.ndarray, rounds: int, scratch: Path) -> Iterator[Sequence[str]]:
    parquet = scratch / "rows.parquet"
    write_parquet(rows, parquet)
    records = list(make_records(rows))
    numbers = count()
    durable = {"memory": np.inf, "parquet": np.inf}

    def add(name: str) -> float:
        folder = scratch / f"ready-{next(numbers)}"
        with Collection.create(folder, model="base") as collection:
            start = time.perf_counter()
            report = collection.add(records if name == "memory" else read_corpus([parquet]))
            durable[name] = min(durable[name], report.seconds)
            hit = collection.query(Query.vector(rows[-1]), k=1)[0]
            taken = time.perf_counter() - start
        if report.added != len(rows) or hit.cosine < 0.999:
            raise SystemExit(f"{folder} does not hold what was added")
        shutil.rmtree(folder)
        return taken

    model = scratch / "model"
    with Collection.create(model, model="base") as collection:
        collection.add(records)
    searchable = quickest(
        {
            "memory": lambda: add("memory"),
            "parquet": lambda: add("parquet"),
            "plain": lambda: write_plainly(rows, model, scratch / f"plain-{next(numbers)}"),
        },
        rounds,
    )
    plain = searchable["plain"]
    for name, taken in (
        ("`Collection.add` of records, durable", durable["memory"]),
        ("… with the index built and a first query answered", searchable["memory"]),
        ("… from a Parquet table, durable", durable["parquet"]),
        ("… with the index built and a first query answered", searchable["parquet"]),
        ("the same bytes: one file, fsync, one transaction", plain),
    ):
        yield name, f"{taken:.2f}", f"{len(rows) / taken:,.0f}", f"{plain / taken:.2f}"


def tenths(rows: np.ndarray, scratch: Path) -> Iterator[Sequence[str]]:
    """Add a tenth of the rows after the other; yield the rates of the first and of the last."""
    records = list(make_records(rows))
    step = len(records) // 10
    durable, searchable = [], []
    with Collection.create(scratch / "tenths", model="base") as collection:
        for start in range(0, 10 * step, step):
            began = time.perf_counter()
            report = collection.add(records[start : start + step])
            searchable.append(time.perf_counter() - began)
            durable.append(report.seconds)
    shutil.rmtree(scratch / "tenths")
    for name, taken in (("durable", durable), ("with the index kept up", searchable)):
        first, last, middle = (step / one for one in (taken[0], taken[-1], np.median(taken)))
        yield name, f"{first:,.0f}", f"{middle:,.0f}", f"{last:,.0f}", f"{last / first:.2f}"


# ---- warm queries ----------------------------------------------------------------------------


def warm_queries(rows: np.ndarray, queries: np.ndarray, scratch: Path) -> Iterator[Sequence[str]]:
    flat = faiss_index.faiss.IndexFlatIP(DIM)
    flat.add(rows)

    def ask_flat(query: np.ndarray, threads: int | None) -> None:
        faiss_index.use_threads(threads)
        flat.search(query[None], K)

    with Collection.open(scratch / "model") as collection:
        ways: dict[str, Callable[[np.ndarray], object]] = {
            "`faiss.IndexFlatIP`, 1 thread": lambda query: ask_flat(query, 1),
            "`faiss.IndexFlatIP`, all threads": lambda query: ask_flat(query, None),
            "`Collection.query`, exact": lambda query: collection.query(
                Query.vector(query), k=K, exact=True
            ),
            "`Collection.query`": lambda query: collection.query(Query.vector(query), k=K),
        }
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for start in range(0, len(queries), TURN):
            turn = queries[start : start + TURN]
            for name, ask in ways.items():
                for query in turn[:WARM_UP]:
                    ask(query)
                taken[name] += [1e3 * seconds(ask, query) for query in turn]
        how = {
            name: collection.query(Query.vector(queries[0]), k=1, exact=name.endswith("exact"))[0]
            for name in ways
            if name.startswith("`Collection")
        }
    flat_p50 = np.median(next(iter(taken.values())))
    for name, milliseconds in taken.items():
        p50, p95 = np.quantile(milliseconds, [0.5, 0.95])
        searched = how[name].how if name in how else "exact"
        yield name, searched, f"{p50:.2f}", f"{p95:.2f}", f"{flat_p50 / p50:.1f} ×"


# ---- real files ------------------------------------------------------------------------------


def muomni(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "muomni_search", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def gather(folder: Path, limit: int, target: Path) -> dict[str, Path]:
    """Copy up to so many files of each modality into a folder of their own."""
    rng = np.random.default_rng(SEED)
    gathered = {}
    for modality, suffixes in SUFFIXES.items():
        found = sorted(
            path for path in folder.rglob("*") if path.is_file() and path.suffix.lower() in suffixes
        )
        if found:
            chosen = rng.permutation(len(found))[:limit]
            gathered[modality] = target / modality
            gathered[modality].mkdir(parents=True)
            for number in chosen:
                path = found[number]
                shutil.copyfile(path, gathered[modality] / f"{number:06}{path.suffix.lower()}")
    return gathered


def files(folders: Sequence[Path], limit: int, scratch: Path) -> Iterator[Sequence[str]]:
    for number, folder in enumerate(folders):
        gathered = gather(folder, limit, scratch / f"files-{number}")
        for modality, source in gathered.items():
            collection = scratch / f"collection-{number}-{modality}"
            start = time.perf_counter()
            report = json.loads(muomni("add", source, "-c", collection, "--json"))
            wall = time.perf_counter() - start
            stats = json.loads(muomni("stats", "-c", collection, "--json"))[modality]
            size = sum(path.stat().st_size for path in source.iterdir()) / 1e6
            again = seconds(muomni, "add", source, "-c", collection, "--json")
            yield (
                f"`{folder.name}`", modality, f"{report['added']:,}", f"{stats['segments']:,}",
                f"{size:.1f}", f"{wall:.1f}", f"{report['added'] / report['seconds']:.0f}",
                f"{stats['segments'] / report['seconds']:.0f}", str(report["failed"]),
                f"{again:.2f}",
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of additions")
    parser.add_argument("--rows", type=int, default=100_000, help="ready vectors")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", nargs="+", type=Path, default=[CORPUS], help="real files")
    parser.add_argument("--files", type=int, default=400, help="at most, of each modality, or none")
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rows, queries = make_rows(options.rows, rng), make_rows(options.queries, rng)
    describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        table(
            (f"{options.rows:,} ready vectors", "seconds", "vectors/s", "of the plain rate"),
            additions(rows, options.rounds, scratch),
        )
        table(
            ("a tenth of them after the other", "first, vectors/s", "median", "last",
             "last / first"),
            tenths(rows, scratch),
        )  # fmt: skip
        table(
            (f"a warm query, k = {K}", "searched", "p50 ms", "p95 ms", "against flat"),
            warm_queries(rows, queries, scratch),
        )
        if options.files:
            table(
                ("`muomni add`", "modality", "items", "segments", "MB", "seconds, whole command",
                 "items/s", "segments/s", "failed", "again, s"),
                files(options.folder, options.files, scratch),
            )  # fmt: skip
    print(f"\nload {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
