"""Cold commands beside the bare imports that no search can do without.

    nice python benchmarks/cold.py [--rows 5000 100000] [--rounds 11]

Each command is a process of its own, on collections of ready vectors: small ones are compared row
by row, larger ones have an index, which a process that asks once needs for more than 150,000 rows.
All take turns, so that other work strikes them alike; the files are in the page cache. The floor is
an interpreter that imports what a search by an index is made of, and ends. Last, what a search with
words imports, package by package, without what these import in turn, and how long its model takes
when all is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from common import SEED, describe_machine, make_records, make_rows, seconds, table

from muomni_search.collection import Collection

BARE = "import click, faiss, numpy, sqlite3"
FLOOR = (f"floor: `{BARE}`", [sys.executable, "-c", BARE])
# As an installed package is: compiled once, here by the first run.
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
MUOMNI = [sys.executable, "-m", "muomni_search"]
SHOWN = 12
LOAD = """
import time, onnxruntime, tokenizers
from muomni_search import Modality, load_model
import muomni_search.encoders.base.text
start = time.perf_counter()
encoder = load_model("base").encoder(Modality.TEXT)
loaded = time.perf_counter()
encoder.encode(encoder.prepare("a dog that barks"))
print(loaded - start, time.perf_counter() - loaded)
"""


def commands(folder: Path, rows: int) -> dict[str, list[str]]:
    """Make a collection; return what is asked of it, by name."""
    vectors = make_rows(rows + 1, np.random.default_rng(SEED))
    place = folder / str(rows)
    with Collection.create(place, model="base") as collection:
        collection.add(make_records(vectors[:-1]))
        kind = collection.stats()["image"]["index"]["kind"]
    np.save(folder / f"{rows}.npy", vectors[-1])
    asked = {
        "`muomni search --vector FILE`": ["--vector", str(folder / f"{rows}.npy")],
        "`muomni search --id KEY`": ["--id", "pictures/0000007.jpg"],
        '`muomni search "a dog that barks"`': ["a dog that barks"],
    }
    return {
        f"{name}, {rows:,} rows, {kind}": [*MUOMNI, "search", *parts, "-c", str(place), "--json"]
        for name, parts in asked.items()
    }


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=True, capture_output=True, env=COMPILED)
    if "search" in command:
        json.loads(done.stdout.splitlines()[0])  # it did answer


def turns(ways: Mapping[str, Sequence[str]], rounds: int) -> Iterator[Sequence[str]]:
    for command in ways.values():
        run(command)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, command in ways.items():
            taken[name].append(1e3 * seconds(run, command))
    floor = np.median(taken[FLOOR[0]])
    for name, milliseconds in taken.items():
        median = np.median(milliseconds)
        yield name, f"{median:.0f}", f"{min(milliseconds):.0f}", f"{median / floor:.2f}"


def imports(command: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the packages that a command spends most on importing, and how much."""
    timed = [command[0], "-X", "importtime", *command[1:]]
    done = subprocess.run(timed, check=True, capture_output=True, text=True, env=COMPILED)
    spent: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        own, _, name = line.removeprefix("import time:").split("|")
        if own.strip().isdecimal():
            package = name.strip().partition(".")[0]
            package = "the standard library" if package in sys.stdlib_module_names else package
            spent[package] += int(own)
            count[package] += 1
    for package, micros in spent.most_common(SHOWN):
        yield package, f"{count[package]:,}", f"{micros / 1e3:.0f}"
    yield "all", f"{count.total():,}", f"{spent.total() / 1e3:.0f}"


def loads(rounds: int) -> Iterator[Sequence[str]]:
    """Yield what the model of a search with words takes beside the imports."""
    taken = []
    for _ in range(rounds):
        command = [sys.executable, "-c", LOAD]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=COMPILED)
        taken.append([1e3 * float(part) for part in done.stdout.split()])
    for name, milliseconds in zip(
        ("weights and tokenizer are read, held against their hashes, and opened", "a sentence"),
        np.array(taken).T,
        strict=True,
    ):
        yield name, f"{np.median(milliseconds):.0f}", f"{milliseconds.min():.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="cold commands beside the bare imports")
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 100_000])
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args()
    describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        ways = dict([FLOOR, ("`muomni --help`", [*MUOMNI, "--help"])])
        for rows in options.rows:
            ways |= commands(Path(folder), rows)
        table(("cold", "median ms", "best ms", "× the floor"), turns(ways, options.rounds))
        table(
            ("imported for words", "modules", "ms, with the clock running"),
            imports(list(ways.values())[-1]),
        )
        table(("the model of words", "median ms", "best ms"), loads(options.rounds))
    print(f"\nload {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
