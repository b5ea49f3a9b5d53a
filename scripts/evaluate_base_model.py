"""Evaluate a model on the held-out sets: every pair of modalities, with bootstrap intervals.

    python scripts/evaluate_base_model.py [--model base]

Downloads the evaluation packages (some 250 MB) and prints Markdown. The sets are for evaluation
alone: nothing is trained or tuned on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from base_model.evaluation_sets import (
    animal_photos,
    instruments,
    tux_paint,
    word_drawings,
    word_pairs,
)
from numpy.typing import NDArray

from muomni_search.encoders.model import Model, fetch_model, load_model
from muomni_search.evaluation import (
    bootstrap_interval,
    first_relevant_ranks,
    mean_reciprocal_rank,
    success_at_k,
)
from muomni_search.ingest.read import read_content
from muomni_search.items import Modality
from muomni_search.vectors import mean_vector

Array = NDArray[np.float32]
ROOT = Path(__file__).resolve().parent.parent


def embed(model: Model, modality: Modality, contents: Sequence[str | Path]) -> Array:
    """Return a vector for each content: the unit mean of its segments."""
    encoder = model.encoder(modality)
    vectors = []
    for content in contents:
        pieces = encoder.prepare(read_content(modality, content))
        vectors.append(mean_vector(encoder.encode(pieces)))
    return np.stack(vectors)


def row(title: str, asking: Array, asked: Array, names: Sequence[str], found: Sequence[str]) -> str:
    """Return one line of the table: queries named ``names`` among items named ``found``."""
    relevant = np.array(names)[:, None] == np.array(found)[None]
    ranks = first_relevant_ranks(asking @ asked.T, relevant)
    cells = []
    for k in (1, 5, 10):
        low, high = bootstrap_interval(ranks, lambda some, k=k: success_at_k(some, k))
        cells.append(f"{success_at_k(ranks, k):.3f} [{low:.2f}, {high:.2f}]")
    low, high = bootstrap_interval(ranks, mean_reciprocal_rank)
    cells.append(f"{mean_reciprocal_rank(ranks):.3f} [{low:.2f}, {high:.2f}]")
    chance = np.mean(relevant.sum(axis=1)) * 10 / len(found)
    return f"| {title} | {len(ranks)} | {' | '.join(cells)} | {min(1, chance):.3f} |"


def retrieval(model: Model, work: Path) -> list[str]:
    lines = [
        "| set and direction | queries | R@1 | R@5 | R@10 | MRR | chance R@10 |",
        "|---|---|---|---|---|---|---|",
    ]
    sets = {
        "Tux Paint pictures": tux_paint(work),
        "animal photos": animal_photos(work),
        "word drawings": word_drawings(work),
    }
    for title, examples in sets.items():
        names = [example.name for example in examples]
        texts = sorted(set(names))
        words = embed(model, Modality.TEXT, texts)
        pictures = embed(model, Modality.IMAGE, [one.picture for one in examples if one.picture])
        lines.append(row(f"{title}, text → image", words, pictures, texts, names))
        lines.append(row(f"{title}, image → text", pictures, words, names, texts))
        sounding = [number for number, one in enumerate(examples) if one.sound]
        if sounding:
            own = [names[number] for number in sounding]
            lines += sound_rows(
                model,
                "Tux Paint sounds",
                [examples[number].sound for number in sounding],
                own,
                pictures[sounding],
            )
    examples = instruments(work)
    names = [example.name for example in examples]
    lines += sound_rows(model, "instrument sounds", [one.sound for one in examples], names, None)
    return lines


def sound_rows(
    model: Model,
    title: str,
    paths: Sequence[Path | None],
    names: Sequence[str],
    pictures: Array | None,
) -> list[str]:
    sounds = embed(model, Modality.AUDIO, [path for path in paths if path])
    texts = sorted(set(names))
    words = embed(model, Modality.TEXT, texts)
    lines = [
        row(f"{title}, text → audio", words, sounds, texts, names),
        row(f"{title}, audio → text", sounds, words, names, texts),
    ]
    if pictures is not None:
        lines.append(row(f"{title}, audio → image", sounds, pictures, names, names))
        lines.append(row(f"{title}, image → audio", pictures, sounds, names, names))
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
    return ((ends - counts + ends - 1) / 2)[inverse]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="base")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages")
    options = parser.parse_args()
    fetch_model(options.model)
    model = load_model(options.model)
    print(f"model {model.name}, fingerprint {model.fingerprint()[:12]}\n")
    print("\n".join([*retrieval(model, options.work), "", *similarity(model, options.work)]))


if __name__ == "__main__":
    main()
