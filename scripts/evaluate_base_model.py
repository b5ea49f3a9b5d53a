"""Evaluate a model on the held-out sets: every pair of modalities, with bootstrap intervals.

    python scripts/evaluate_base_model.py [--model base]

Downloads the evaluation packages (some 250 MB) and prints Markdown. The sets are for evaluation
alone: nothing is trained or tuned on them.

An item is a hit when it has the query's name. Pictures find pictures where two or more share a
name; words find words as the file name of a picture, where it differs, finds its caption; sounds
find sounds as the first half of one of 2 s or more finds its own second half.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from base_model.evaluation_sets import (
    Example,
    animal_photos,
    instruments,
    tux_paint,
    word_drawings,
    word_pairs,
)
from numpy.typing import NDArray

from muomni_search.encoders.base.audio import PATCH_SAMPLES
from muomni_search.encoders.model import fetch_model, load_model
from muomni_search.encoders.protocol import Model
from muomni_search.ingest.read import read_content
from muomni_search.items import Content, Modality
from muomni_search.metrics import (
    Ranks,
    bootstrap_interval,
    first_relevant_ranks,
    mean_reciprocal_rank,
    success_at_k,
)
from muomni_search.vectors import mean_vector

Array = NDArray[np.float32]
ROOT = Path(__file__).resolve().parent.parent


def embed(model: Model, modality: Modality, contents: Sequence[Content | Path]) -> Array:
    """Return a vector for each content: the unit mean of its segments."""
    encoder = model.encoder(modality)
    vectors = []
    for content in contents:
        if isinstance(content, Path):
            content = read_content(modality, content)
        vectors.append(mean_vector(encoder.encode(encoder.prepare(content))))
    return np.stack(vectors)


def row(title: str, asking: Array, asked: Array, names: Sequence[str], found: Sequence[str]) -> str:
    """Return one line of the table: queries named ``names`` among items named ``found``.

    Queries that are the items themselves are left out of their own answers.
    """
    cosines = asking @ asked.T
    relevant = np.array(names)[:, None] == np.array(found)[None]
    if asking is asked:
        np.fill_diagonal(relevant, False)
        np.fill_diagonal(cosines, -2)
        paired = relevant.any(axis=1)
        cosines, relevant = cosines[paired], relevant[paired]
    ranks = first_relevant_ranks(cosines, relevant)

    def within(k: int) -> Callable[[Ranks], float]:
        return lambda some: success_at_k(some, k)

    cells = []
    for metric in (within(1), within(5), within(10), mean_reciprocal_rank):
        low, high = bootstrap_interval(ranks, metric)
        cells.append(f"{metric(ranks):.3f} [{low:.2f}, {high:.2f}]")
    chance = np.mean(relevant.sum(axis=1)) * 10 / len(found)
    return f"| {title} | {len(ranks)} | {' | '.join(cells)} | {min(1, chance):.3f} |"


def retrieval(model: Model, work: Path) -> list[str]:
    lines = [
        "| set and direction | queries | R@1 | R@5 | R@10 | MRR | chance R@10 |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, examples in {
        "Tux Paint pictures": tux_paint(work),
        "animal photos": animal_photos(work),
        "word drawings": word_drawings(work),
    }.items():
        names = [example.name for example in examples]
        texts = sorted(set(names))
        words = embed(model, Modality.TEXT, texts)
        pictures = embed(model, Modality.IMAGE, [one.picture for one in examples if one.picture])
        lines.append(row(f"{title}, text → image", words, pictures, texts, names))
        lines.append(row(f"{title}, image → text", pictures, words, names, texts))
        if title.startswith("Tux"):
            lines.append(row(f"{title}, image → image", pictures, pictures, names, names))
            lines.append(reworded(model, examples, words, texts))
            lines += sounding(model, examples, pictures)
    examples = instruments(work)
    lines += sound_rows(model, "instrument sounds", examples)
    return lines


def reworded(model: Model, examples: Sequence[Example], words: Array, texts: Sequence[str]) -> str:
    """Ask with the words of a picture's file name for its caption, where the two differ."""
    asking = {}
    for example in examples:
        if example.picture:
            stem = " ".join(re.findall(r"[a-z]+", example.picture.stem.lower()))
            if stem and stem != example.name:
                asking[stem] = example.name
    vectors = embed(model, Modality.TEXT, list(asking))
    return row("Tux Paint file names, text → text", vectors, words, list(asking.values()), texts)


def sounding(model: Model, examples: Sequence[Example], pictures: Array) -> list[str]:
    """Return the lines of the examples that have a sound, with their pictures."""
    chosen = [number for number, example in enumerate(examples) if example.sound]
    return sound_rows(
        model, "Tux Paint sounds", [examples[number] for number in chosen], pictures[chosen]
    )


def sound_rows(
    model: Model, title: str, examples: Sequence[Example], pictures: Array | None = None
) -> list[str]:
    names = [example.name for example in examples]
    waves = [read_content(Modality.AUDIO, one.sound) for one in examples if one.sound]
    sounds = embed(model, Modality.AUDIO, waves)
    texts = sorted(set(names))
    words = embed(model, Modality.TEXT, texts)
    lines = [
        row(f"{title}, text → audio", words, sounds, texts, names),
        row(f"{title}, audio → text", sounds, words, names, texts),
    ]
    if pictures is not None:
        lines.append(row(f"{title}, audio → image", sounds, pictures, names, names))
        lines.append(row(f"{title}, image → audio", pictures, sounds, names, names))
    long = [wave for wave in waves if len(wave) >= 2 * PATCH_SAMPLES]
    first, second = (
        embed(model, Modality.AUDIO, halves)
        for halves in zip(*(np.array_split(wave, 2) for wave in long), strict=True)
    )
    numbers = [str(number) for number in range(len(long))]
    lines.append(row(f"{title}, first half → second half", first, second, numbers, numbers))
    return lines


def similarity(model: Model, work: Path) -> list[str]:
    lines = ["| human ratings | pairs | Spearman |", "|---|---|---|"]
    for name, pairs in word_pairs(work).items():
        first = embed(model, Modality.TEXT, [pair[0] for pair in pairs])
        second = embed(model, Modality.TEXT, [pair[1] for pair in pairs])
        ours = np.sum(first * second, axis=1)
        theirs = np.array([pair[2] for pair in pairs])
        lines.append(f"| {name} | {len(pairs)} | {spearman(ours, theirs):.3f} |")
    return lines


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Return the rank correlation; equal values share their mean rank."""
    return float(np.corrcoef(mean_ranks(first), mean_ranks(second))[0, 1])


def mean_ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: NDArray[np.float64] = (ends - counts + ends - 1) / 2
    return means[inverse]


def main() -> None:
    parser = argparse.ArgumentParser(description="measure a model on the held-out sets")
    parser.add_argument("--model", default="base")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages")
    options = parser.parse_args()
    fetch_model(options.model)
    model = load_model(options.model)
    print(f"model {model.name}, fingerprint {model.fingerprint()[:12]}\n")
    print("\n".join([*retrieval(model, options.work), "", *similarity(model, options.work)]))


if __name__ == "__main__":
    main()
