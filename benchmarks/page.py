"""The page of `muomni serve` in Chromium: its weight, how soon it answers, how smoothly it moves.

    python benchmarks/page.py [--items 50000] [--rounds 20]

A collection of that many ready vectors is served, with the model ``base-offline`` for words.
Measured are the files of the page; the time from navigating to it, with nothing in a cache, until
its first items are painted; the time from *Enter* until the first hit is painted; and the time
from frame to frame while hits are scrolled through, which fetches further ones, and while the map
is zoomed and dragged, one step a frame. An empty page does the same beside it. The map's layout
is measured by `benchmarks/map.py`; here its points stand where two columns of the vectors say.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import MOVING, describe_machine, make_records, make_rows, table
from playwright.sync_api import sync_playwright

from muomni_search import Collection, Modality, Record

KINDS = (Modality.TEXT, Modality.IMAGE, Modality.AUDIO)
WORDS = ("robin", "dawn", "ferry", "granite", "whistle", "harbour", "lantern", "seven", "night")
PATIENCE = 60_000  # milliseconds
SCROLLED, MOVED, STEP = 300, 120, 120  # frames, frames, pixels a frame
# Milliseconds from navigating until items are painted.
READY = """new Promise(done => {
  const look = () => document.querySelector(".card")
    ? requestAnimationFrame(() => done(performance.now())) : requestAnimationFrame(look);
  look();
})"""
# Milliseconds from Enter until the first of other hits is painted. If that is the one from before,
# none is: then it fails.
ASKING = """([words, most]) => new Promise(async (done, fail) => {
  const box = document.getElementById("words");
  const first = () => document.querySelector('.hits:not(.stale) [data-at="0"]')?.ariaLabel;
  const old = first();
  box.value = words;
  box.dispatchEvent(new Event("input", {bubbles: true}));
  await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  const from = performance.now();
  box.form.requestSubmit();
  const look = () => {
    const spent = performance.now() - from, isThere = first() && first() !== old;
    if (isThere) requestAnimationFrame(() => done(performance.now() - from));
    else if (spent > most) fail(new Error(`after ${most} ms, "${words}" has no other first hit`));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""
CANVAS = {"at": ".map canvas", "x": 500, "y": 400, "step": STEP}
FRAMES = (("scroll", SCROLLED), ("zoom", MOVED), ("drag", MOVED))


def main() -> None:
    parser = argparse.ArgumentParser(description="how the page of a server loads and moves")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    describe_machine()
    rows = make_rows(options.items, np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        with Collection.create(Path(folder, "c"), model="base-offline") as collection:
            collection.add(mixed(rows))
        with serving(Path(folder, "c")) as url, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
                args=["--no-sandbox"],
            )
            table(
                (f"{options.items:,} items", "p50", "p95"),
                measure(browser, url, rows, options.rounds),
            )
            browser.close()


def mixed(rows: np.ndarray) -> Iterator[Record]:
    """Yield the rows as texts, pictures and sounds in turn."""
    for number, record in enumerate(make_records(rows)):
        kind = KINDS[number % len(KINDS)]
        text = f"Text {number} of many." if kind == Modality.TEXT else None
        yield replace(record, modality=kind, text=text)


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Run ``muomni serve``; give its address."""
    command = [sys.executable, "-m", "muomni_search", "serve", "-c", str(directory), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().decode().strip()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def measure(browser: Any, url: str, rows: np.ndarray, rounds: int) -> Iterator[list[str]]:
    """Yield the rows of the table, each when it is measured."""
    sizes: list[int] = []
    times = []
    for turn in range(rounds):
        context = browser.new_context(viewport={"width": 1_280, "height": 850})
        page = context.new_page()
        if turn == 0:
            page.on("requestfinished", lambda asked: weigh(asked, sizes))
        page.goto(url, wait_until="commit")
        times.append(page.evaluate(READY))
        if turn == 0:
            page.wait_for_load_state("networkidle")
        if turn < rounds - 1:
            context.close()
    yield [f"weight of the page: {len(sizes)} files", f"{sum(sizes) / 1e3:.0f} kB", ""]
    yield ["opens, until its first items are painted", *told(times)]
    rng = np.random.default_rng(1)
    page.evaluate(ASKING, ["warm", PATIENCE])
    asked = [f"{' '.join(rng.choice(WORDS, 3))} {turn}" for turn in range(rounds)]
    yield [
        "*Enter*, until the first hit is painted",
        *told([page.evaluate(ASKING, [one, PATIENCE]) for one in asked]),
    ]
    empty = context.new_page()
    for kind, frames in FRAMES:
        if kind == "zoom":
            page.route("**/v1/collections/c/map", lambda route: route.fulfill(json=points(rows)))
            page.get_by_role("button", name="Map", exact=True).click()
            page.locator(".map canvas").wait_for()
        for name, one in (("an empty page", empty), ("the page", page)):
            one.bring_to_front()
            moved = one.evaluate(MOVING, [frames, kind, CANVAS])
            yield [f"{kind}, frame by frame: {name}", *told(moved)]
        if kind == "scroll":
            last = page.locator(".card").last.get_attribute("aria-posinset")
            there = f"{page.locator('.card').count()}"
            yield [f"cards in the document when {last} hits were scrolled through", there, ""]
    context.close()


def weigh(asked: Any, sizes: list[int]) -> None:
    if "/v1/" not in asked.url:
        sizes.append(asked.sizes()["responseBodySize"])


def points(rows: np.ndarray) -> dict[str, Any]:
    """Return what the server would send of a map."""
    places = rows[:, :2] / np.abs(rows[:, :2]).max()
    told = [
        {"key": record.key, "modality": str(record.modality), "title": record.key, "x": x, "y": y}
        for record, (x, y) in zip(mixed(rows), places.tolist(), strict=True)
    ]
    return {"method": "pca", "found": len(told), "points": told}


def told(times: list[float]) -> list[str]:
    return [f"{np.percentile(times, at):.0f} ms" for at in (50, 95)]


if __name__ == "__main__":
    main()
