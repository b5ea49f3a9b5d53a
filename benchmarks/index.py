"""Time and recall of the index: single queries and filters, as tables in Markdown.

    nice python benchmarks/index.py [--rows 100000]

The rows have the spectrum of real embeddings (variances that fall as 1/rank, clusters, unit
length). Queries "in" are drawn as the rows are; queries "out" are half rotated, shifted by a
constant gap and noisy, as words are that ask for pictures. Compare ratios within one run only.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
from common import SEED, busy, describe_machine, make_rows, table

from muomni_search.index import faiss_index, planner
from muomni_search.index.faiss_index import FourBitScan
from muomni_search.index.protocol import CODES
from muomni_search.items import DIM
from muomni_search.vectors import normalise

NO_ROWS = np.empty(0, np.int64)
FILTER_SHARES = (0.5, 0.1, 0.01, 0.001)
DEPTHS = (100, 200, 400)


def make_foreign(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return unit queries (count, 256) that do not lie where the rows do."""
    rotation, _ = np.linalg.qr(rng.standard_normal((DIM, DIM)))
    gap = normalise(rng.standard_normal(DIM))
    noise = normalise(rng.standard_normal((count, DIM)))
    rows = make_rows(count, rng)
    return normalise(rows + 0.5 * rows @ rotation + 0.5 * gap + 0.3 * noise)


def times(ask: Callable[[np.ndarray], Any], queries: np.ndarray) -> np.ndarray:
    """Return how many milliseconds each query took, after some to warm up."""
    for query in queries[:10]:
        ask(query)
    taken = np.empty(len(queries))
    for number, query in enumerate(queries):
        start = time.perf_counter()
        ask(query)
        taken[number] = time.perf_counter() - start
    return taken * 1e3


def single(
    rows: np.ndarray, index: FourBitScan, kinds: dict[str, np.ndarray], k: int
) -> Iterator[Sequence[str]]:
    flat = faiss_index.faiss.IndexFlatIP(DIM)
    flat.add(rows)
    for kind, queries in kinds.items():

        def ask_flat(query: np.ndarray) -> np.ndarray:
            faiss_index.use_threads(1)
            return flat.search(query[None], k)[1][0]

        def ask_exact(query: np.ndarray) -> np.ndarray:
            return planner.top_rows(query, rows, k=k, dead=NO_ROWS).rows

        def ask_index(query: np.ndarray) -> np.ndarray:
            return planner.top_rows(query, rows, k=k, dead=NO_ROWS, index=index).rows

        truth = [ask_exact(query) for query in queries[:200]]
        flat_p50 = None
        for how, ask in (
            ("`faiss.IndexFlatIP`, 1 thread", ask_flat),
            ("`top_rows`, exact", ask_exact),
            ("`top_rows`, ann", ask_index),
        ):
            hits = [
                len(np.intersect1d(ask(query)[:k], right)) / len(right)
                for query, right in zip(queries, truth, strict=False)
            ]
            taken = times(ask, queries)
            p50, p95 = np.quantile(taken, [0.5, 0.95])
            flat_p50 = flat_p50 or p50
            yield (
                f"{len(rows):,}", how, kind, f"{np.mean(hits):.4f}",
                f"{p50:.2f}", f"{p95:.2f}", f"{flat_p50 / p50:.1f} ×",
            )  # fmt: skip


def codes(
    rows: np.ndarray, kinds: dict[str, np.ndarray], k: int, depths: Sequence[int]
) -> Iterator[Sequence[str]]:
    """Yield for each number of codes what the scan takes, and what is found so deep in it."""
    asked = {kind: queries[:200] for kind, queries in kinds.items()}
    truth = {
        kind: [planner.top_rows(query, rows, k=k, dead=NO_ROWS).rows for query in queries]
        for kind, queries in asked.items()
    }
    for count in sorted(CODES):
        start = time.perf_counter()
        index = planner.build_index(rows, count)
        built = time.perf_counter() - start
        scan = np.median(times(partial(index.search, fetch=depths[-1]), asked["in"]))
        found = []
        for depth in depths:
            ask = partial(
                planner.top_rows, vectors=rows, k=k, dead=NO_ROWS, index=index, fetch=depth
            )
            shares = [
                np.mean([np.isin(right, ask(query).rows).mean() for query, right in
                         zip(queries, truth[kind], strict=True)])
                for kind, queries in asked.items()
            ]  # fmt: skip
            p50 = np.median(times(ask, np.concatenate(list(asked.values()))))
            found.append(f"{p50:.2f}: {' / '.join(f'{share:.4f}' for share in shares)}")
        yield str(count), f"{built:.1f}", f"{count * len(rows) / 2e6:.1f}", f"{scan:.2f}", *found


def parts(rows: np.ndarray, queries: np.ndarray, k: int) -> Iterator[Sequence[str]]:
    """Yield what a query takes by an index in one part and by one in parts, in turns."""
    with patch.object(faiss_index, "PART_ROWS", len(rows)):
        indexes = {"one": planner.build_index(rows)}
    indexes["as built"] = planner.build_index(rows)
    for beside in range(2):
        taken: dict[str, list[np.ndarray]] = {told: [] for told in indexes}
        cpu = dict.fromkeys(indexes, 0.0)
        with busy(beside):
            for start in range(0, len(queries), 50):
                for told, index in indexes.items():
                    ask = partial(planner.top_rows, vectors=rows, k=k, dead=NO_ROWS, index=index)
                    before = time.process_time()
                    taken[told].append(times(ask, queries[start : start + 50]))
                    cpu[told] += time.process_time() - before
        for told, turns in taken.items():
            every = np.concatenate(turns)
            asked = len(every) + 10 * len(turns)  # with those that warm up
            yield (
                f"{len(rows):,}", told, str(beside),
                *(f"{one:.2f}" for one in np.quantile(every, [0.5, 0.95])),
                f"{cpu[told] / asked * 1e3:.2f}",
            )  # fmt: skip


def filters(rows: np.ndarray, queries: np.ndarray, k: int) -> Iterator[Sequence[str]]:
    rng = np.random.default_rng(SEED)
    for share in FILTER_SHARES:
        allowed = np.flatnonzero(rng.random(len(rows)) < share)

        def ask(query: np.ndarray, allowed: np.ndarray = allowed) -> np.ndarray:
            return planner.top_rows(query, rows, k=k, dead=NO_ROWS, allowed=allowed).rows

        p50, p95 = np.quantile(times(ask, queries), [0.5, 0.95])
        yield f"{share:.1%}", f"{len(allowed):,}", f"{p50:.2f}", f"{p95:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="time and recall of the index")
    parser.add_argument("--rows", type=int, default=100_000, help="up to 1,000,000 or so")
    parser.add_argument("--queries", type=int, default=500, help="single queries of each kind")
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    rng = np.random.default_rng(SEED)
    rows = make_rows(options.rows, rng)
    kinds = {"in": make_rows(options.queries, rng), "out": make_foreign(options.queries, rng)}
    describe_machine()
    start = time.perf_counter()
    index = planner.build_index(rows)
    seconds = time.perf_counter() - start
    print(f"Index built in {seconds:.1f} s, {len(index.to_bytes()) / 1e6:.1f} MB")
    table(
        ("rows", "how", "queries", f"recall@{options.k}", "p50 ms", "p95 ms", "against flat"),
        single(rows, index, kinds, options.k),
    )
    table(
        (
            *("codes", "built in s", "MB", "scan ms"),
            *(f"{depth} compared, ms: recall in / out" for depth in DEPTHS),
        ),
        codes(rows, kinds, options.k, DEPTHS),
    )
    table(
        ("rows", "parts", "cores that are busy", "p50 ms", "p95 ms", "CPU ms"),
        parts(rows, kinds["in"], options.k),
    )
    table(("let through", "rows", "p50 ms", "p95 ms"), filters(rows, kinds["in"], options.k))


if __name__ == "__main__":
    main()
