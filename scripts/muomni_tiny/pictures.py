"""Pictures to learn from: drawings with names, and others that the teacher looks at alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from base_model.drawings import read_drawings
from base_model.packages import Named

# The drawings that are learned from, by their package or style.
STYLES = (
    *("openmoji", "google", "openclipart"),
    *("fluent-emoji", "twemoji", "noto-v1", "emojione", "emojione-v1", "fxemoji"),
)
LARGEST_BYTES = 100_000  # of clip art without a name: larger ones take most of the time to read
SCRATCH = "scratch/usr/share/scratch/Media"


def named_pictures(packages: Path) -> list[Named]:
    """Return drawings with their names."""
    drawings = read_drawings(packages)
    return [*(one for style in STYLES for one in drawings[style]), *scratch(packages)]


def unnamed_pictures(packages: Path) -> list[Path]:
    """Return pictures whose names say little: the rest of the clip art, and backgrounds."""
    clipart = packages / "openclipart-png/usr/share/openclipart/png"
    named = {path for path, _ in read_drawings(packages)["openclipart"]}
    return [
        *(
            path
            for path in sorted(clipart.rglob("*.png"))
            if path not in named and path.stat().st_size < LARGEST_BYTES
        ),
        *sorted((packages / SCRATCH / "Backgrounds").rglob("*.[jgp][pin][gf]")),
        *sorted((packages / "gnome-backgrounds/usr/share/backgrounds/gnome").glob("*.webp")),
    ]


def scratch(packages: Path) -> Iterator[Named]:
    """Yield the costumes and backgrounds of Scratch, called as their files are."""
    for path in sorted((packages / SCRATCH).glob("*/*/*.[jgp][pin][gf]")):
        if path.parent.name not in ("Letters", "Fantasy"):
            name = re.sub(r"([a-z])([A-Z])", r"\1 \2", path.stem)
            words = re.sub(r"[-_\d]+", " ", name).lower().split()
            if words and len(words[-1]) == 1:
                words.pop()
            if words:
                yield path, " ".join(words)
