"""Small files that tests make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image


def write_picture(path: Path, seed: int, side: int = 32) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_sound(path: Path, hertz: float, seconds: float = 1.0, rate: int = 16_000) -> Path:
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * hertz * time), rate)
    return path
