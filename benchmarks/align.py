"""Learning from pairs: the time and memory of `muomni align` where nothing has to be encoded.

    nice python benchmarks/align.py [--pairs 1000 5000]

The pairs are items of a collection that came with their vectors: made-up words, and pictures that
are a linear map of them with noise, so that there is something to learn. What is timed is
everything that the command does but its start: cross-validation, the map, the report, the model on
the disk.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import SEED, describe_machine, make_rows, table

from muomni_search.alignment import align
from muomni_search.collection import Collection
from muomni_search.items import DIM, Modality, Record
from muomni_search.vectors import normalise

# How much of a picture is its words, moved by a map, and how much is noise of its own.
SIGNAL, NOISE = 0.5, 1.0


def make_pairs(folder: Path, count: int) -> Path:
    """Make a collection of pairs, and the table that names them; return the table."""
    rng = np.random.default_rng(SEED)
    words = make_rows(count, rng)
    turned = words @ np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
    pictures = normalise(SIGNAL * (words + turned) + NOISE * make_rows(count, rng))

    def records() -> Iterator[Record]:
        for number in range(count):
            yield Record(f"t{number}", Modality.TEXT, "made up", vector=words[number])
            yield Record(f"i{number}", Modality.IMAGE, "made up", vector=pictures[number])

    with Collection.create(folder / "c", model="base") as collection:
        collection.add(records())
    pairs = folder / "pairs.csv"
    lines = [f"t{number},i{number}" for number in range(count)]
    pairs.write_text("\n".join(["key_a,key_b", *lines]) + "\n", encoding="utf-8")
    return pairs


def run(pairs: Path, refine: bool) -> tuple[float, float, float, float]:
    """Return the seconds and the peak GB of this process, and the MRR before and after."""
    start = time.perf_counter()
    with Collection.open(pairs.parent / "c") as collection:
        report = align(
            pairs, pairs.parent / "m", collection=collection, refine=refine, force=True
        ).as_dict()
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    before, after = (
        float(np.mean([one[when]["mrr"] for one in report["retrieval"]]))
        for when in ("before", "after")
    )
    return taken, peak, before, after


def main() -> None:
    parser = argparse.ArgumentParser(description="time and memory of learning from pairs")
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000, 5_000])
    options = parser.parse_args()
    describe_machine()
    lines = []
    for count in options.pairs:
        with tempfile.TemporaryDirectory() as scratch:
            pairs = make_pairs(Path(scratch), count)
            for name, refine in (("closed form", False), ("with `--refine`", True)):
                # In a process of its own, for the sake of its peak.
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                    taken, peak, before, after = alone.submit(run, pairs, refine).result()
                lines.append(
                    (f"{count:,}", name, f"{taken:.1f}", f"{peak:.2f}", f"{before:.3f}",
                     f"{after:.3f}")
                )  # fmt: skip
    table(("pairs", "learned", "seconds", "peak GB", "MRR before", "MRR after"), lines)


if __name__ == "__main__":
    main()
