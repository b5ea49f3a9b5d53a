"""Where the time of a warm query goes, stage by stage, from ``Collection.query`` to its hits.

    nice python benchmarks/path.py [--rows 100000] [--queries 400]

Each stage is timed without those that it calls, by the processor time of its thread, which other
work on the machine hardly changes; the timing itself adds about a microsecond a call. "search" is
the scan of the codes and the comparison of what it proposes; the rest is the path around it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common import SEED, describe_machine, make_records, make_rows, table

from muomni_search import ranking
from muomni_search.collection import Collection
from muomni_search.index import planner
from muomni_search.index.faiss_index import FourBitScan
from muomni_search.items import Query
from muomni_search.store.snapshot import Snapshot
from muomni_search.store.store import Store
from muomni_search.view import View

WARM_UP = 50
# What is timed: where a function lies, its name, and what it does.
STAGES: tuple[tuple[Any, str, str], ...] = (
    (Collection, "query", "a connection, a view, the list of hits"),
    (Store, "_begin_reading", "the transaction, and which state it sees"),
    (View, "resolve_many", "the query's unit vector"),
    (View, "rank", "modalities, scores, order"),
    (ranking, "background", "cosines with the sample that scores are measured on"),
    (View, "_top", "which rows are whose"),
    (FourBitScan, "search", "search: the scan of the codes"),
    (planner, "top_rows", "search: the comparison of its candidates"),
    (Snapshot, "matches", "whose rows these are, and their spans (SQL)"),
    (Snapshot, "shown", "keys, sources, texts and metadata of hits (SQL, JSON)"),
    (View, "_hits", "hits"),
)


class Clock:
    """Times functions without those in them that are timed too."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)
        self._within: list[float] = []

    def time(self, place: Any, name: str, told: str) -> AbstractContextManager[Any]:
        """Return a context in which every call of a function is timed."""
        function: Callable[..., Any] = getattr(place, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            self._within.append(0.0)
            start = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                whole = time.thread_time() - start
                self.taken[told].append(whole - self._within.pop())
                if self._within:
                    self._within[-1] += whole

        return patch.object(place, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description="where the time of a warm query goes")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=400)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rows, queries = make_rows(options.rows, rng), make_rows(options.queries + WARM_UP, rng)
    describe_machine()
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as scratch,
        Collection.create(Path(scratch) / "c", model="base") as collection,
    ):
        collection.add(make_records(rows))
        asked = [Query.vector(query) for query in queries]
        for query in asked[:WARM_UP]:
            collection.query(query)
        with ExitStack() as timing:
            for stage in STAGES:
                timing.enter_context(clock.time(*stage))
            for query in asked[WARM_UP:]:
                collection.query(query)
    means = {told: 1e6 * sum(clock.taken[told]) / options.queries for _, _, told in STAGES}
    whole = sum(means.values())
    table(
        ("stage", "µs a query", "of the whole"),
        ((told, f"{mean:,.0f}", f"{mean / whole:.0%}") for told, mean in means.items()),
    )
    around = sum(mean for told, mean in means.items() if not told.startswith("search"))
    print(
        f"\n{options.rows:,} rows: {whole / 1e3:.2f} ms, {around / 1e3:.2f} of it around the search"
    )


if __name__ == "__main__":
    main()
