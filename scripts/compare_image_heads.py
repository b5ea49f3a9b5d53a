"""How much the learned half of `base` should count for pictures, on media nothing was fitted to.

    python scripts/compare_image_heads.py

The costumes (drawings) and backgrounds (most of them photographs) of Scratch 1.4, asked for
by their files' names among all of them, and back. Prints Markdown: S@1 / S@10.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from base_model.packages import TINY, unpack
from muomni_tiny.pictures import scratch

from muomni_search import Modality, load_model
from muomni_search.encoders.base.image import (
    ImageEncoder,
    fit_square,
    join,
    mixture,
    named_half,
    nearness,
    unit_roots,
)
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.evaluation.subjects import embed
from muomni_search.ingest.read import read_content
from muomni_search.metrics import first_relevant_ranks, success_at_k
from muomni_search.vectors import normalise

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0)
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description="compare weights of the learned half")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages")
    options = parser.parse_args()
    for package in TINY:
        if package.name == "scratch":
            unpack(package, options.work)
    named = list(scratch(options.work))
    names = [name for _, name in named]
    is_background = np.array(["Backgrounds" in path.parts for path, _ in named])
    model = load_model("base")
    encoder = model.encoder(Modality.IMAGE)
    assert isinstance(encoder, ImageEncoder)
    squares = [fit_square(read_content(Modality.IMAGE, path)) for path, _ in named]
    parts = [encoder.run_tower(squares[at : at + BATCH]) for at in range(0, len(squares), BATCH)]
    features, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
    with np.load(packaged_directory() / "image.head.npz", allow_pickle=False) as arrays:
        head = {name: arrays[name].astype(np.float32) for name in arrays.files}
    classes = named_half(logits, head["classes"])
    near = nearness(unit_roots(features, head["feature_mean"]), normalise(head["landmarks"]))
    # What the learned half adds: centred, and counted by its length.
    learned = join(classes, near @ head["coefficients"], head["common"]) - classes
    sure = mixture(logits).max(axis=1, keepdims=True)
    words = embed(model, Modality.TEXT, names)
    same = np.array(names)[:, None] == np.array(names)[None]
    print("| learned half | backgrounds, text → image | back | costumes, text → image | back |")
    print("|---|---|---|---|---|")
    for title, share in (
        *((f"× {weight:g}", np.full_like(sure, weight)) for weight in WEIGHTS),
        ("× 2 (1 − p)", 2 * (1 - sure)),
    ):
        pictures = normalise((classes + share * learned) @ head["projection"])
        cells = []
        for some in (is_background, ~is_background):
            for cosines in ((words @ pictures.T)[some], (pictures @ words.T)[some]):
                ranks = first_relevant_ranks(cosines, same[some])
                cells.append(f"{success_at_k(ranks, 1):.3f} / {success_at_k(ranks, 10):.3f}")
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
