"""Time of filters: cold without and with an index of the field, and warm, as tables in Markdown.

    nice python benchmarks/filters.py [--rows 1000000]

A collection of ready vectors with titles, years and tags. "Cold" is the first query with a filter
after the collection was opened or changed: SQLite finds the items; then others with other values on
the same field, which is read in the end. "Warm" queries know their rows
already, and are answered from the index or from the rows themselves; what is let through is drawn
at random, or is what lies nearest to the query or farthest from it. Beside them FAISS's flat index
with a bitmap, on one thread, and its answers as the truth. Processor time of the thread, which
other work on the machine disturbs least; compare within one run only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import SEED, describe_machine, make_records, make_rows, table
from index import make_foreign

from muomni_search import indexing
from muomni_search.collection import Collection
from muomni_search.filters import parse_filter
from muomni_search.index import faiss_index, planner
from muomni_search.items import DIM, Modality

NO_ROWS = np.empty(0, np.int64)
SHARES = (0.5, 0.1, 0.01, 0.001)
# Each with others that ask for the same field.
VALUES = 8
COLD = {
    "year = {}": range(1995, 1995 + VALUES),
    "year >= {}": range(2020, 2020 - VALUES, -1),
    "title = 'Picture {}'": range(77, 77 + VALUES),
    "tags contains 'tag{}'": range(3, 3 + VALUES),
}


def taken(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what a call gives, and its milliseconds of processor time in this thread."""
    start = time.thread_time()
    result = work()
    return result, (time.thread_time() - start) * 1e3


def cold(collection: Collection) -> Iterator[Sequence[str]]:
    def asked(condition: str) -> list[tuple[Any, float]]:
        # Opened anew, nothing is known yet of the filter; but the owners of the rows are.
        with (
            Collection.open(collection.directory) as opened,
            opened.store.snapshot() as snapshot,
        ):
            snapshot.row_items(Modality.IMAGE)
            filters = [parse_filter(condition.format(value)) for value in COLD[condition]]
            return [taken(partial(snapshot.matching_rows, Modality.IMAGE, one)) for one in filters]

    plain = {condition: asked(condition) for condition in COLD}
    collection.index_fields(["year", "title"])
    for condition, times in plain.items():
        rows = times[0][0]
        with_index = asked(condition)[0][1]
        taken_by = [one for _, one in times]
        told = (taken_by[0], max(taken_by), taken_by[-1])
        shown = [f"{one:.0f}" if one >= 10 else f"{one:.1f}" for one in told]
        name = condition.format(COLD[condition][0])
        yield f"`{name}`", f"{len(rows):,}", *shown, f"{with_index:.0f}"


def allowed_rows(kind: str, share: float, cosines: np.ndarray, rng: np.random.Generator) -> Any:
    count = int(share * len(cosines))
    if kind == "random":
        return np.sort(rng.choice(len(cosines), count, replace=False))
    order = np.argpartition(-cosines if kind == "near" else cosines, count)
    return np.sort(order[:count])


def warm(collection: Collection, queries: np.ndarray, k: int) -> Iterator[Sequence[str]]:
    with collection.store.snapshot() as snapshot:
        rows = snapshot.vectors(Modality.IMAGE)
        file = snapshot.index_file(Modality.IMAGE)
        promise = indexing.promise_of(file) if file else None
        index = indexing.load(collection.directory, file) if file else None
    flat = faiss_index.faiss.IndexFlatIP(DIM)
    flat.add(rows)
    faiss_index.use_threads(1)
    for kind in ("random", "near", "far"):
        for share in SHARES:
            times: dict[str, list[float]] = {"ours": [], "flat": []}
            recalls, short, how = [], 0, set()
            for number, query in enumerate(queries):
                rng = np.random.default_rng(SEED + number)
                allowed = allowed_rows(kind, share, rows @ query, rng)
                mask = np.zeros(len(rows), bool)
                mask[allowed] = True
                bits = np.packbits(mask, bitorder="little")
                selector = faiss_index.faiss.IDSelectorBitmap(bits)
                parameters = faiss_index.faiss.SearchParameters(sel=selector)
                (_, truth), spent = taken(
                    lambda q=query, p=parameters: flat.search(q[None], k, params=p)
                )
                times["flat"].append(spent)
                found, spent = taken(
                    lambda q=query, a=allowed: planner.top_rows(
                        q, rows, k=k, dead=NO_ROWS, allowed=a, index=index,
                        fetch=promise.fetch if promise and promise.fetch else planner.FETCH,
                    )
                )  # fmt: skip
                times["ours"].append(spent)
                recalls.append(np.isin(truth[0], found.rows).mean())
                short += len(found.rows) < min(k, len(allowed))
                how.add(found.how)
            ours, theirs = (np.median(times[name]) for name in ("ours", "flat"))
            yield (
                kind, f"{share:.1%}", " ".join(sorted(how)), f"{np.mean(recalls):.4f}", str(short),
                f"{ours:.2f}", f"{np.quantile(times['ours'], 0.95):.2f}", f"{theirs:.2f}",
                f"{ours / theirs:.2f}",
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="time of filters")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=60, help="half of each kind")
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rows = make_rows(options.rows, rng)
    half = options.queries // 2
    queries = np.concatenate([make_rows(half, rng), make_foreign(half, rng)])
    describe_machine()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Collection.create(Path(scratch) / "c", model="base") as collection,
    ):
        collection.add(make_records(rows))
        table(
            (
                "cold filter",
                "rows",
                "ms",
                f"slowest of {VALUES} values",
                "the last",
                "field indexed",
            ),
            cold(collection),
        )
        table(
            ("let through", "share", "searched", f"recall@{options.k}", "short answers", "p50 ms",
             "p95 ms", "flat + bitmap, p50", "ratio"),
            warm(collection, queries, options.k),
        )  # fmt: skip


if __name__ == "__main__":
    main()
