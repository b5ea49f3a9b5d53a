"""How smoothly a page of `muomni map` moves, in Chromium: with WebGL, and without any.

    python benchmarks/map.py [--points 50000] [--layout umap]

A collection of that many ready vectors becomes a page. In it the map is zoomed and dragged, one
step a frame, and the time from frame to frame is taken; an empty page does the same beside it.
Where there is no GPU the page uses no WebGL; forced to, Chromium computes it on the processor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import MOVING, describe_machine, make_records, make_rows
from playwright.sync_api import sync_playwright

from muomni_search import Collection, make_map, write_map

FRAMES = 60
CANVAS = {"at": "#points", "x": 700, "y": 400}
# Milliseconds until a search is listed and painted.
SEARCHING = """words => new Promise(done => {
  const box = document.getElementById("search"), from = performance.now();
  box.value = words;
  box.dispatchEvent(new Event("input"));
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - from)));
})"""
# A renderer whose name is not told is taken for a graphics card.
FORCED = "WebGL2RenderingContext.prototype.getExtension = () => null;"
NO_WEBGL = """const old = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
  return kind.startsWith("webgl") ? null : old.call(this, kind, ...rest);
};"""


def main() -> None:
    parser = argparse.ArgumentParser(description="how smoothly a map moves")
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--layout", default="pca", choices=("pca", "umap", "tsne"))
    options = parser.parse_args()
    describe_machine()
    with tempfile.TemporaryDirectory() as folder:
        page, told = make_page(Path(folder), options.points, options.layout)
        print(told)
        empty = Path(folder) / "empty.html"
        empty.write_text("<!DOCTYPE html><title>empty</title>")
        print("\n| page | opens, s | zoom, ms a frame, p50 / p95 | drag | search, ms |")
        print("|---|---|---|---|---|")
        with sync_playwright() as playwright:
            for name, path, script, flags in (
                ("empty", empty, "", []),
                ("as it opens", page, "", []),
                ("WebGL, forced", page, FORCED, ["--enable-unsafe-swiftshader"]),
                ("no WebGL", page, NO_WEBGL, []),
            ):
                browser = playwright.chromium.launch(
                    executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
                    args=["--no-sandbox", *flags],
                )
                print(f"| {name} | {' | '.join(measure(browser, path, script))} |", flush=True)
                browser.close()


def make_page(folder: Path, points: int, layout: str) -> tuple[Path, str]:
    """Write the page; return it, and what it took."""
    rng = np.random.default_rng(0)
    with Collection.create(folder / "c", model="hashing") as collection:
        collection.add(make_records(make_rows(points, rng)))
        drawn = make_map(collection, method=layout, color="year", limit=points)
    start = time.perf_counter()
    write_map(drawn, folder / "map.html")
    took = time.perf_counter() - start
    size = (folder / "map.html").stat().st_size
    return folder / "map.html", (
        f"{points:,} points: laid out by {layout} in {drawn.seconds:.1f} s, "
        f"written in {took:.1f} s, {size / 1e6:.1f} MB"
    )


def measure(browser: Any, path: Path, script: str) -> list[str]:
    """Return the cells of a page's row."""
    page = browser.new_page(viewport={"width": 1_400, "height": 900})
    if script:
        page.add_init_script(script)
    start = time.perf_counter()
    page.goto(path.as_uri())
    page.evaluate("() => new Promise(done => requestAnimationFrame(done))")
    cells = [f"{time.perf_counter() - start:.2f}"]
    for kind in ("zoom", "drag"):
        times = page.evaluate(MOVING, [FRAMES, kind, CANVAS])
        cells.append(f"{np.median(times):.0f} / {np.percentile(times, 95):.0f}")
    there = page.locator("#search").count()
    cells.append(f"{page.evaluate(SEARCHING, 'picture 123'):.0f}" if there else "")
    page.close()
    return cells


if __name__ == "__main__":
    main()
