"""An explanation as a PNG: the picture under its heat, or the sound under its curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.errors import InvalidInput
from muomni_search.explanation import Curve, Explanation, Grid
from muomni_search.explore.colours import VIRIDIS, rgb_of
from muomni_search.extras import load_extra
from muomni_search.ingest.audio import SAMPLE_RATE
from muomni_search.store.sqlite import disk_errors

__all__ = ["colours", "write_heat"]

SHADES = np.array([rgb_of(colour) for colour in VIRIDIS], float)
LONGER_PIXELS = 1_600  # what a screen shows
# How much of the picture shows through where the heat is lowest and highest.
VEIL, GLOW = 0.65, 0.45
CURVE_INCHES = (8.0, 2.6)
WAVE_POINTS = 2_000


def write_heat(path: str | Path, explanation: Explanation) -> None:
    """Write the picture or sound of an explanation, with what carries the similarity, as PNG.

    The file has its name only when it is whole.

    Args:
        path: The file; a PNG that is there is replaced.
        explanation: What ``explain`` returned.

    Raises:
        InvalidInput: It explains a text, or the name does not end in .png.
        NotFound: A curve needs matplotlib, which is not installed.
        Conflict: A file of another kind has this name.
        MuomniError: It cannot be written.
    """
    target = Path(path)
    evidence, content = explanation.evidence, explanation.content
    if isinstance(evidence, Grid):
        drawn = _overlay(np.asarray(content), evidence)
    elif isinstance(evidence, Curve):
        title = f"{explanation.hit.key}, cosine {explanation.hit.cosine:.3f}"
        drawn = _plot(np.asarray(content), evidence, title)
    else:
        raise InvalidInput(
            f"{explanation.hit.key!r} is a text, of which there is no picture",
            hint="its words are in the explanation: without -o `muomni explain` prints them",
        )
    if target.suffix.lower() != ".png":
        raise InvalidInput(f"{target}: no picture's name", hint="name a .png file")
    with disk_errors(target):
        durable.check_kind(target, durable.PNG_HEAD)
    with disk_errors(target), durable.whole_file(target) as partial:
        drawn(partial)


def colours(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the colour (…, 3) of each value in [0, 1]: dark violet, green, yellow."""
    places = np.linspace(0, 1, len(SHADES))
    channels = [np.interp(values, places, SHADES[:, number]) for number in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _overlay(picture: NDArray[Any], grid: Grid) -> Any:
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((LONGER_PIXELS, LONGER_PIXELS))
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    # Grey, so that every hue there is comes from the heat.
    grey = np.asarray(image.convert("L"), float)[:, :, None]
    small = Image.fromarray(grid.strengths().astype(np.float32))
    heat = np.clip(np.asarray(small.resize(image.size, Image.Resampling.BICUBIC)), 0, 1)
    through = VEIL + (GLOW - VEIL) * heat[:, :, None]
    drawn = Image.fromarray((through * grey + (1 - through) * colours(heat)).astype(np.uint8))
    return lambda path: drawn.save(path, "PNG", optimize=True)


def _plot(samples: NDArray[Any], curve: Curve, title: str) -> Any:
    figures = load_extra("matplotlib.figure", extra="explore")
    figure = figures.Figure(CURVE_INCHES, layout="constrained")
    axes = figure.subplots()
    start = int(curve.windows[0, 0]) / 1000
    end = start + len(samples) / SAMPLE_RATE
    wave = axes.twinx()
    wave.set_axis_off()
    step = max(1, len(samples) // WAVE_POINTS)
    peaks = np.maximum.reduceat(np.abs(samples), np.arange(0, len(samples), step))
    times = np.linspace(start, end, len(peaks), endpoint=False)
    wave.fill_between(times, -peaks, peaks, color="0.85", linewidth=0)
    wave.set_ylim(-1.05 * max(peaks.max(), 1e-3), 1.05 * max(peaks.max(), 1e-3))
    best = curve.best
    blue, yellow = colours(np.array([0.3, 1.0])) / 255
    axes.axvspan(best.start / 1000, best.end / 1000, color=yellow, alpha=0.35, linewidth=0)
    axes.plot(curve.windows.mean(axis=1) / 1000, curve.cosines, ".-", color=blue)
    # The curve above the wave.
    axes.set_zorder(wave.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.set(xlim=(start, end), xlabel="seconds", ylabel="cosine of a window")
    # Keys come from anywhere: a dollar sign would begin a formula.
    axes.set_title(title.replace("$", r"\$"), fontsize="medium")
    return lambda path: figure.savefig(path, format="png", dpi=120)
