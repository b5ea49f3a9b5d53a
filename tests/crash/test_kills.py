"""`muomni add`, a real process, is killed at any instant, over and over; nothing stored is lost.

``MUOMNI_CRASH_KILLS`` says how many times, by default a dozen.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.collection import Collection
from muomni_search.items import DIM, Modality, Query
from muomni_search.vectors import cosines, normalise

KILLS = int(os.environ.get("MUOMNI_CRASH_KILLS", "12"))
ITEMS = 1_500
# The command line as it is, but with a commit every 25 items, so that many kills hit one. It says
# when its imports are done: what comes before cannot harm anything.
MUOMNI = """
from muomni_search import collection, pipeline
from muomni_search.cli.main import main
pipeline.COMMIT_ITEMS = 25
print("ready", flush=True)
main()
"""
DIRECTIONS = normalise(np.random.default_rng(11).standard_normal((ITEMS, DIM)))


def vector_of(key: str, generation: int) -> NDArray[np.float32]:
    """Return the vector of an item in a generation, another one in each."""
    vector: NDArray[np.float32] = DIRECTIONS[(int(key[1:]) - generation) % ITEMS]
    return vector


def write_generation(folder: Path, generation: int) -> None:
    """Write a table that gives each item a new vector."""
    rows = [{"key": f"k{n:05}", "modality": "text", "g": generation} for n in range(ITEMS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    np.save(folder / "rows.npy", np.roll(DIRECTIONS, generation, axis=0))


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = ["add", "rows.jsonl", "--vectors", "rows.npy", "--model", "hashing", "-c", "c"]
    process = subprocess.Popen(
        [sys.executable, "-c", MUOMNI, *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def measure(folder: Path) -> float:
    """Return how many seconds an undisturbed process works."""
    folder.mkdir()
    write_generation(folder, 0)
    with start(folder) as process:
        started = time.monotonic()
        assert process.wait() == 0
    return time.monotonic() - started


def check(folder: Path, seen: dict[str, int]) -> dict[str, int]:
    """Check that nothing seen before is lost or older; return the generation of each item."""
    if not (folder / "c" / "collection.db").exists():
        assert not seen
        return {}
    with Collection.open(folder / "c") as collection:
        assert collection.verify() == []
        with collection.store.snapshot() as snapshot:
            found = {item.key: item.metadata["g"] for item in snapshot.iter_items()}
            for key, (_, rows) in snapshot.item_rows(found).items():
                expected = vector_of(key, found[key])
                assert np.array_equal(snapshot.vectors(Modality.TEXT)[rows], expected[None])
        hits = collection.query(Query.vector(DIRECTIONS[0]), ITEMS + 1) if found else []
    assert {hit.key: hit.cosine for hit in hits} == {
        key: cosines(vector_of(key, generation)[None], DIRECTIONS[0])[0]
        for key, generation in found.items()
    }
    assert all(found.get(key, -1) >= generation for key, generation in seen.items())
    return found


def test_a_process_that_is_killed_at_any_instant_loses_nothing(tmp_path: Path, count: Any) -> None:
    generator = random.Random(12)
    seconds = measure(tmp_path / "undisturbed")
    kills = midway = generation = 0
    seen: dict[str, int] = {}
    write_generation(tmp_path, generation)
    while kills < KILLS:
        with start(tmp_path) as process:
            try:
                process.wait(generator.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
            code = process.wait()
            assert process.stderr is not None
            assert code in (0, -signal.SIGKILL), process.stderr.read().decode()
        before, seen = seen, check(tmp_path, seen)
        kills += code != 0
        midway += code != 0 and seen != before
        if code == 0 or generator.random() < 0.3:
            generation += 1
            write_generation(tmp_path, generation)
    with start(tmp_path) as process:
        assert process.wait() == 0
    assert check(tmp_path, seen) == {f"k{n:05}": generation for n in range(ITEMS)}
    count("kills of `muomni add` at any instant", kills)
    count("kills of `muomni add` that had committed something", midway)
