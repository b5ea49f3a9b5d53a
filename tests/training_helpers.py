"""A small table of pairs, and a recipe for towers so small that a step takes an instant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

__all__ = ["RECIPE", "TEACHER", "write_pairs"]

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "grey": (128,) * 3}
RECIPE = """
name = "toy"
data = [{ path = "pairs.jsonl" }]
held_out = 0.25
report_every = 2
checkpoint_every = 2

[towers.text]
vocabulary = 80
layers = 1
heads = 2
hidden = 16

[towers.image]
size = 32
patch = 16
dim = 16
layers = 1
hidden = 16

[towers.audio]
channels = 4
dim = 18
layers = 1
hidden = 16
logarithm = true

[optimiser]
steps = 4
batch = 8
warm_up = 2

[augmentation]
seconds = 0.2
"""
TEACHER = '[distillation]\nteacher = "hashing"\n'


def write_pairs(folder: Path) -> Path:
    """Write a table of 24 rows: all have a text, two of three a picture, every second a sound."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        name = list(COLOURS)[number % 4]
        row: dict[str, Any] = {"text": f"a {name} square, number {number}"}
        if number % 3:
            noise = rng.integers(-20, 20, (24, 30, 3))
            pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255)
            row["image"] = f"{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / row["image"])
        if number % 2:
            time = np.arange(4800) / 16_000
            row["audio"] = f"{number}.wav"
            tone = 0.4 * np.sin(2 * np.pi * (200 * (1 + number % 4) + number) * time)
            soundfile.write(folder / row["audio"], tone, 16_000)
        rows.append(row)
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path
