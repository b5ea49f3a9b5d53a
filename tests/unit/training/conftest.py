"""A corpus of colours and tones, and a recipe for towers so small that a step takes an instant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

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

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 rows: all have a text, two of three a picture, every second a sound."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        name = list(COLOURS)[number % 4]
        row = {"text": f"a {name} square, number {number}"}
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
    lines = [json.dumps(row) for row in rows]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture
def write_recipe(corpus: Path, request: pytest.FixtureRequest) -> Write:
    """Return a function that writes a changed recipe beside the corpus."""

    def write(*changes: tuple[str, str], more: str = "") -> Path:
        said = RECIPE
        for old, new in changes:
            assert old in said
            said = said.replace(old, new)
        path = corpus / f"{request.node.name.replace('/', '-')}.toml"
        path.write_text(said + more, encoding="utf-8")
        return path

    return write
