"""What is measured of one engine, in a process of its own: started by ``compare.py``.

    python benchmarks/measure.py build|ask|mix|overhead ENGINE FOLDER VECTORS OUTPUT

Each stage that is done is a line of JSON in OUTPUT, so that nothing is lost when the time runs out.
Times are by the clock on the wall; beside them stands the time that the processor worked for this
process, on all its threads, which other work on the machine hardly changes.
Only NumPy is imported before the engine is, so that what the process grows by is the engine's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peers import ENGINES, Engine, Filter, Found, Metadata, Muomni, MuomniPlanner, Unsupported

K = 10
PROMISE = 0.99
TURNS = 2
# Queries that choose the setting, and those that are asked with a filter.
CHOOSING, FILTERED = 200, 100
# No turn takes longer; what was asked until then counts.
TURN_SECONDS = 3.0
WARM_UP = 20
BATCHED = 2_000
# Openings, of which the median counts.
REOPENED = 5
SHARES = (500, 100, 10, 1)
# What is added while others ask, and the queries after each addition.
ADDED_AT_ONCE, ASKED_BETWEEN, ADDITIONS = 100, 10, 5


class Vectors:
    """The files that ``glosses.py`` made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queries = {kind: np.load(folder / f"{kind}.npy") for kind in ("in", "out")}
        self.near, self.far = np.load(folder / "near.npy"), np.load(folder / "far.npy")

    def array(self, name: str) -> np.ndarray:
        """Return one of the arrays, mapped."""
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def metadata(self, *, titles: bool) -> Metadata:
        """Return what is kept of the rows; their titles only where they are written."""
        made = json.loads((self.folder / "made.json").read_text())["titles"] if titles else ()
        return Metadata(np.array(self.array("shares")), np.array(self.array("topics")), made)

    def later(self, start: int, stop: int) -> tuple[np.ndarray, Metadata]:
        """Return some of the rows that are added while others ask."""
        rows = np.array(self.array("later")[start:stop])
        count = len(rows)
        titles = [f"a later gloss, number {number:040}" for number in range(start, stop)]
        return rows, Metadata(np.full(count, 999), np.zeros(count, np.int64), titles)


def filters(vectors: Vectors) -> dict[str, list[Filter]]:
    """Return the filters by what they let through, one for each query."""
    found = {f"{share / 10:g} %": [Filter("share", 0, share)] * FILTERED for share in SHARES}
    found["10 %, a new one each time"] = [
        Filter("share", 9 * number, 9 * number + 100) for number in range(FILTERED)
    ]
    for name, topics in (("the query's topic", vectors.near), ("the farthest topic", vectors.far)):
        found[name] = [Filter("topic", int(one), int(one) + 1) for one in topics[:FILTERED]]
    return found


# ---- the stages ----------------------------------------------------------------------------------


def build(engine: Engine, vectors: Vectors) -> Iterator[dict[str, Any]]:
    rows = np.array(vectors.array("rows"))
    metadata = vectors.metadata(titles=True)
    start, worked = time.perf_counter(), time.process_time()
    engine.build(rows, metadata)
    taken, worked = time.perf_counter() - start, time.process_time() - worked
    size = sum(path.stat().st_size for path in engine.folder.rglob("*") if path.is_file())
    yield {
        "build_s": taken,
        "build_cpu_s": worked,
        "vectors_per_s": len(rows) / taken,
        "bytes": size,
        "of_fp32": size / rows.nbytes,
    }


def ask(engine: Engine, vectors: Vectors) -> Iterator[dict[str, Any]]:
    queries = vectors.queries
    before = memory()
    start = time.perf_counter()
    engine.open(vectors.metadata(titles=False))
    engine.search(queries["in"][0], K)
    yield {"cold_s": time.perf_counter() - start}
    for query in queries["in"][-50:]:
        engine.search(query, K)
    yield {f"{name}_mb": (size - before[name]) / 1e6 for name, size in memory().items()}
    yield {"pace_ms": pace()}

    # From here on the process also holds what tells right from wrong.
    from glosses import recall

    rows, truth = vectors.array("rows"), np.load(vectors.folder / "truth.npz")

    def share(found: Sequence[Found], asked: np.ndarray, name: str) -> float:
        return recall(found, asked, rows, truth[name][: len(found)], K)

    def turn(asked: np.ndarray, kind: str) -> dict[str, Any]:
        figures, found = timed(lambda number: engine.search(asked[number], K), len(asked))
        return {**figures, "recall": share(found, asked[: len(found)], kind)}

    sweep = []
    for setting in engine.settings:
        engine.use(**setting)
        sweep.append({"setting": setting, **turn(queries["in"][:CHOOSING], "in")})
        if sweep[-1]["recall"] >= PROMISE:
            break
    if sweep:
        good = [one for one in sweep if one["recall"] >= PROMISE]
        chosen = good[0] if good else max(sweep, key=lambda one: one["recall"])
        engine.use(**chosen["setting"])
        yield {"setting": chosen["setting"]}
        # Beyond the promise too, for the curve.
        for setting in engine.settings[len(sweep) : len(sweep) + 2]:
            engine.use(**setting)
            sweep.append({"setting": setting, **turn(queries["in"][:CHOOSING], "in")})
        engine.use(**chosen["setting"])
        yield {"sweep": sweep}
    for kind, asked in queries.items():
        turns = [turn(asked, kind) for _ in range(TURNS)]
        yield {f"single_{kind}": min(turns, key=lambda one: one["p50"])}
        each = min(one["cpu"] for one in turns)
    if engine.batches:
        asked = np.concatenate([queries["in"], vectors.array("later")])[:BATCHED]
        # Enough for matrix products to pay, and no more than a slow engine can answer.
        asked = asked[: max(200, int(4 * TURN_SECONDS * 1e3 / each))]
        best = least = np.inf
        for _ in range(TURNS):
            start, worked = time.perf_counter(), time.process_time()
            answers = engine.search_many(asked, K)
            best = min(best, time.perf_counter() - start)
            least = min(least, time.process_time() - worked)
        known = min(len(asked), len(queries["in"]))
        found = engine.numbers(answers)[:known]
        yield {
            "batch": {
                "queries_per_s": len(asked) / best,
                "cpu": 1e3 * least / len(asked),
                "queries": len(asked),
                "recall": share(found, asked[:known], "in"),
            }
        }
    yield from filtered(engine, vectors, share)
    yield {"pace_after_ms": pace()}
    yield {"reopened_s": reopened(engine, vectors)}


def reopened(engine: Engine, vectors: Vectors) -> float:
    """Return the seconds to open and ask, when all is imported and the files are warm: a median."""
    engine.close()
    metadata = vectors.metadata(titles=False)

    def once() -> float:
        start = time.perf_counter()
        again = type(engine)(engine.folder)
        again.open(metadata)
        again.search(vectors.queries["in"][0], K)
        taken = time.perf_counter() - start
        again.close()
        return taken

    return float(np.median([once() for _ in range(REOPENED)]))


def filtered(
    engine: Engine, vectors: Vectors, share: Callable[..., float]
) -> Iterator[dict[str, Any]]:
    asked = vectors.queries["in"]
    figures: dict[str, Any] = {}
    for name, conditions in filters(vectors).items():
        is_new = "new" in name
        try:
            # What an engine keeps of a filter that comes again, it has then.
            for condition in () if is_new else dict.fromkeys(conditions):
                engine.search_where(asked[0], K, condition)
            turns = [
                timed(
                    lambda number: engine.search_where(asked[number], K, conditions[number]),  # noqa: B023
                    FILTERED,
                    warm_up=0 if is_new else 2,
                )
                for _ in range(1 if is_new else TURNS)
            ]
        except Unsupported:
            return
        times, found = min(turns, key=lambda one: one[0]["p50"])
        figures[name] = {
            **times,
            "recall": share(found, asked[: len(found)], name),
            "short": sum(len(own) < K for own in found),
            "asked": len(found),
        }
        yield {"filters": figures}


def mix(engine: Engine, vectors: Vectors) -> Iterator[dict[str, Any]]:
    """Add a hundred at a time, durably where the engine is durable, with queries in between."""
    metadata = vectors.metadata(titles=False)
    engine.open(metadata)
    count, queries = len(metadata.shares), vectors.queries["in"]
    engine.search(queries[0], K)
    adding, asking, seen = [], [], 0
    for number in range(ADDITIONS):
        rows, own = vectors.later(number * ADDED_AT_ONCE, (number + 1) * ADDED_AT_ONCE)
        start = time.perf_counter()
        try:
            engine.add(rows, count, own)
        except Unsupported:
            return
        adding.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = engine.search(rows[-1], K)
        asking.append(time.perf_counter() - start)
        count += len(rows)
        seen += count - 1 in list(found)
        for place in range(ASKED_BETWEEN - 1):
            start = time.perf_counter()
            engine.search(queries[number * ASKED_BETWEEN + place], K)
            asking.append(time.perf_counter() - start)
    yield {
        "mixed": {
            "added_per_s": ADDED_AT_ONCE / float(np.median(adding)),
            "seen": seen / ADDITIONS,
            **quantiles(1e3 * np.array(asking)),
        }
    }


def overhead(folder: Path, vectors: Vectors) -> Iterator[dict[str, Any]]:
    """Ask the whole path and the planner in it in turns, query by query."""
    ways = [Muomni(folder), MuomniPlanner(folder)]
    queries = vectors.queries["in"]
    taken: dict[str, list[float]] = {"wall": [], "cpu": []}
    for way in ways:
        way.open(vectors.metadata(titles=False))
        for query in queries[:WARM_UP]:
            way.search(query, K)
    for query in queries:
        for way in ways:
            wall, cpu = time.perf_counter(), time.thread_time()
            way.search(query, K)
            taken["cpu"].append(time.thread_time() - cpu)
            taken["wall"].append(time.perf_counter() - wall)
    figures = {}
    for clock, both in taken.items():
        pairs = 1e3 * np.array(both).reshape(-1, 2)
        figures[clock] = {
            "whole_p50": float(np.median(pairs[:, 0])),
            "planner_p50": float(np.median(pairs[:, 1])),
            "difference_p50": float(np.median(pairs[:, 0] - pairs[:, 1])),
        }
    yield {"overhead_ms": figures}


# ---- clocks and sizes ----------------------------------------------------------------------------


def timed(
    work: Callable[[int], Found], count: int, *, warm_up: int = WARM_UP
) -> tuple[dict[str, float], list[Found]]:
    """Return the milliseconds and the answers of so many calls, fewer when they take long."""
    began = time.perf_counter()
    for number in range(min(warm_up, count)):
        work(number)
        if time.perf_counter() - began > TURN_SECONDS / 4:
            break
    taken, found = [], []
    began, worked = time.perf_counter(), time.process_time()
    for number in range(count):
        start = time.perf_counter()
        answer = work(number)
        end = time.perf_counter()
        taken.append(1e3 * (end - start))
        found.append(answer)
        if end - began > TURN_SECONDS:
            break
    worked = time.process_time() - worked
    return {**quantiles(np.array(taken)), "cpu": 1e3 * worked / len(taken)}, found


def quantiles(milliseconds: np.ndarray) -> dict[str, float]:
    p50, p95, p99 = np.quantile(milliseconds, [0.5, 0.95, 0.99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99)}


def pace() -> float:
    """Return the milliseconds of the same product every time: how fast the machine is now."""
    rng = np.random.default_rng(0)
    rows, query = (
        rng.standard_normal((20_000, 256), np.float32),
        rng.standard_normal(256, np.float32),
    )
    taken = []
    for _ in range(50):
        start = time.perf_counter()
        np.vecdot(rows, query)
        taken.append(time.perf_counter() - start)
    return 1e3 * float(np.median(taken))


def memory() -> dict[str, float]:
    """Return the resident bytes of this process: all, and those that no file backs."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: 1024.0 * int(fields[field].split()[0])
        for name, field in (("resident", "VmRSS"), ("anonymous", "RssAnon"))
    }


def main() -> None:
    stage, name, folder, made, output = sys.argv[1:]
    vectors, place = Vectors(Path(made)), Path(folder)
    if stage == "overhead":
        figures = overhead(place, vectors)
    else:
        engine = ENGINES[name](place)
        figures = {"build": build, "ask": ask, "mix": mix}[stage](engine, vectors)
    with Path(output).open("a", encoding="utf-8") as file:
        for one in figures:
            file.write(json.dumps(one) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
