"""What the benchmarks share: rows like those of real models, clocks, and tables in Markdown."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from muomni_search.items import DIM, Modality, Record
from muomni_search.vectors import normalise

SEED = 20260101
# A little harder for a 4-bit scan than the pictures of the model `base`: without asking deeper,
# 200 candidates hold .992 of the ten nearest of 100,000.
CLUSTERS = 100
CLUSTER_SPREAD = 1.0
Name = TypeVar("Name")
# JavaScript for ``page.evaluate``: resolves to the milliseconds from frame to frame while in each
# the page is scrolled by ``step`` pixels, or the canvas ``at`` a selector zoomed or dragged.
MOVING = """([frames, kind, {at, x, y, step}]) => new Promise(done => {
  const canvas = document.querySelector(at), times = [];
  const way = number => (number % 40 < 20 ? 1 : -1);
  const move = number => {
    if (kind === "scroll") scrollBy(0, step);
    if (kind === "zoom") canvas?.dispatchEvent(new WheelEvent("wheel",
      {deltaY: -40 * way(number), clientX: x, clientY: y, cancelable: true}));
    if (kind === "drag") canvas?.dispatchEvent(new KeyboardEvent("keydown",
      {key: way(number) > 0 ? "ArrowLeft" : "ArrowRight", bubbles: true}));
  };
  const frame = now => {
    times.push(now);
    if (times.length > frames) done(times.slice(1).map((time, k) => time - times[k]));
    else { move(times.length); requestAnimationFrame(frame); }
  };
  requestAnimationFrame(frame);
})"""
PACKAGES = ("faiss-cpu", "numpy", "onnxruntime", "pyarrow", "sqlalchemy", "torch")


def make_rows(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return unit rows (count, 256) around shared centres, with variances that fall as 1/rank."""
    centres = np.random.default_rng(SEED).standard_normal((CLUSTERS, DIM))
    deviations = (np.arange(DIM) + 1.0) ** -0.5
    rows = np.empty((count, DIM), np.float32)
    for start in range(0, count, 100_000):
        part = rows[start : start + 100_000]
        near = centres[rng.integers(0, CLUSTERS, len(part))]
        part[:] = normalise((near + CLUSTER_SPREAD * rng.standard_normal(part.shape)) * deviations)
    return rows


def make_records(rows: np.ndarray) -> Iterator[Record]:
    """Yield ready vectors with a source and metadata, as a table of pictures would hold them."""
    for number, vector in enumerate(rows):
        yield Record(
            key=f"pictures/{number:07}.jpg",
            modality=Modality.IMAGE,
            origin="made up",
            vector=vector,
            source=f"https://example.org/pictures/{number:07}.jpg",
            metadata={
                "title": f"Picture {number}",
                "year": 1990 + number % 35,
                "tags": [f"tag{number % 7}", f"tag{number % 11}"],
            },
        )


def seconds(work: Callable[..., Any], *given: Any, **named: Any) -> float:
    """Return how long one call took."""
    start = time.perf_counter()
    work(*given, **named)
    return time.perf_counter() - start


def quickest(ways: Mapping[Name, Callable[[], float]], rounds: int) -> dict[Name, float]:
    """Return the fewest seconds of each way, taken in turns: other work then strikes them alike."""
    best = dict.fromkeys(ways, np.inf)
    for _ in range(rounds):
        for name, way in ways.items():
            best[name] = min(best[name], way())
    return best


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many cores busy with something else."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def anonymous_memory() -> int:
    """Return the bytes that this process has for itself: files that are mapped do not count."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.findall(r"RssAnon:\s+(\d+)", status)[0])


def describe_machine() -> None:
    """Print what the figures depend on."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; "
        f"Python {platform.python_version()}, {versions}",
        flush=True,
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, each row as soon as it is there."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
