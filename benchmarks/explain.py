"""How faithful explanations of pictures are: what is lost when the hottest fifth is taken away.

    python benchmarks/explain.py [PICTURES]

Each picture of the sample corpus is asked for by its file's name. Cells of its grid are replaced
by the picture's mean colour, the hottest fifth of them or a random fifth, and the cosine is taken
again (deletion; Petsiuk et al. 2018, "RISE").
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from muomni_search import Collection, Modality, Query, explain, read_corpus
from muomni_search.explanation import Grid
from muomni_search.ingest.read import read_content
from muomni_search.vectors import mean_vector

CORPUS = Path(__file__).resolve().parent.parent / "examples/corpus"
SHARE = 0.2


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 24
    found = sorted(path for path in CORPUS.rglob("*") if path.suffix in (".jpg", ".png"))
    rng = np.random.default_rng(0)
    chosen = [found[number] for number in sorted(rng.choice(len(found), count, replace=False))]
    drops: dict[str, list[float]] = {"hottest": [], "random": []}
    before = []
    with tempfile.TemporaryDirectory() as folder, Collection.create(folder) as collection:
        collection.add(read_corpus(chosen))
        encoder = collection.model.encoder(Modality.IMAGE)
        for path in chosen:
            words = path.stem.replace("-", " ")
            explanation = explain(collection, words, path.name)
            assert isinstance(explanation.evidence, Grid)
            heat = explanation.evidence.values
            query = collection.resolve(Query.text(words))
            pixels = np.asarray(Image.fromarray(read_content(Modality.IMAGE, path)).convert("RGB"))

            def cosine(picture: np.ndarray, query: np.ndarray = query) -> float:
                return float(mean_vector(encoder.encode(encoder.prepare(picture))) @ query)

            own = cosine(pixels)
            before.append(own)
            cells = round(SHARE * heat.size)
            for name, order in (
                ("hottest", np.argsort(-heat, axis=None)),
                ("random", rng.permutation(heat.size)),
            ):
                drops[name].append(own - cosine(without(pixels, heat.shape, order[:cells])))
    print(f"| {count} pictures | cosine |\n|---|---|\n| whole | {np.mean(before):.3f} |")
    for name, values in drops.items():
        print(f"| lost without the {name} fifth | {np.mean(values):.3f} |")


def without(pixels: np.ndarray, grid: tuple[int, ...], cells: np.ndarray) -> np.ndarray:
    """Return a picture with some cells of a grid in its mean colour."""
    covered = pixels.copy()
    rows, columns = (
        np.linspace(0, size, count + 1).astype(int)
        for size, count in zip(pixels.shape[:2], grid, strict=True)
    )
    for cell in cells:
        row, column = divmod(int(cell), grid[1])
        covered[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = pixels.mean(
            axis=(0, 1)
        )
    return covered


if __name__ == "__main__":
    main()
