"""Pictures to learn from: drawings with names, and others that the teacher looks at alone."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from base_model.heads import read_drawings

# Sets of emoji as SVG, of the packages @iconify-json/….
EMOJI_SETS = ("fluent-emoji", "twemoji", "noto-v1", "emojione", "emojione-v1", "fxemoji")
VAGUE_GROUPS = (2, 8, 9, None)  # components, symbols, flags
PIXELS = 224
LARGEST_BYTES = 100_000  # of clip art without a name: larger ones take most of the time to read
SCRATCH = "scratch/usr/share/scratch/Media"

Named = tuple[Path, str]


def named_pictures(packages: Path, folder: Path) -> list[Named]:
    """Return drawings with their names; render those that are formulas below ``folder``."""
    return [
        *read_drawings(packages, packages / "openmoji-png"),
        *emoji(packages, folder),
        *scratch(packages),
    ]


def unnamed_pictures(packages: Path) -> list[Path]:
    """Return pictures whose names say little: the rest of the clip art, and backgrounds."""
    clipart = packages / "openclipart-png/usr/share/openclipart/png"
    named = {path for path, _ in read_drawings(packages, packages / "openmoji-png")}
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


def emoji(packages: Path, folder: Path) -> list[Named]:
    """Render the emoji of several sets; return them with the names that Unicode gives them."""
    path = packages / "emojibase-data/package/en/data.json"
    entries: dict[str, Any] = {
        plain(entry["hexcode"]): entry for entry in json.loads(path.read_text(encoding="utf-8"))
    }
    slugs: dict[str, str] = {}
    for code, entry in entries.items():
        slugs.setdefault(slug(entry["label"]), code)
    found, jobs = [], []
    for name in EMOJI_SETS:
        package = packages / f"@iconify-json/{name}/package"
        icons = json.loads((package / "icons.json").read_text(encoding="utf-8"))
        codes: dict[str, str] = {}
        for code, icon in json.loads((package / "chars.json").read_text()).items():
            codes.setdefault(icon, plain(code))
        drawn = set()
        for icon, facts in sorted(icons["icons"].items()):
            code = codes.get(icon) or slugs.get(slug(icon)) or ""
            entry = entries.get(code)
            if entry is None or entry.get("group") in VAGUE_GROUPS or code in drawn:
                continue
            drawn.add(code)
            target = folder / name / f"{code}_{icon}.png"
            found.append((target, entry["label"]))
            if not target.exists():
                jobs.append((svg(icons, facts), target))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: render(*job), jobs))
    return [(path, name) for path, name in found if path.exists()]


def svg(icons: dict[str, Any], facts: dict[str, Any]) -> str:
    """Return an icon as a file: what is left out of it stands beside all of them."""
    width, height = (facts.get(side, icons.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{facts.get("left", 0)} {facts.get("top", 0)} {width} {height}">'
        f"{facts['body']}</svg>"
    )


def render(drawing: str, target: Path) -> None:
    """Write a drawing as PNG; one that cannot be rendered is left out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    size = str(PIXELS)
    done = subprocess.run(
        ["rsvg-convert", "-w", size, "-h", size, "--keep-aspect-ratio", "-o", str(partial)],
        input=drawing.encode(),
        capture_output=True,
        check=False,
    )
    if not done.returncode:
        partial.replace(target)


def plain(code: str) -> str:
    """Return a code point sequence without the selectors that only ask for colour."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
