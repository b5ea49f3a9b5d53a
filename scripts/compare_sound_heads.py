"""How `base` should hear: the parts of a sound's vector, alone and added, on packages unseen.

    python scripts/compare_sound_heads.py

The heads are trained on named sounds without a fifth of the packages, five times, and asked for
those packages' sounds by their names, a hundred names at a time, and back: once as they are, and
once more without all sounds whose name is near one that is asked for. Recordings and instruments
(soundfonts, drums, samples of a sequencer) are asked for apart. Prints Markdown, S@10.

The figures in `docs/models/base.md` are from this script. The held-out sets are not touched. The
own tower is the one that came: what ships was tuned on the sounds that are asked for here.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from base_model.packages import unpack
from build_own_sound import OWN_TOWER, SEED, learned_sounds
from compare_head_kinds import NEAR, recalls
from numpy.typing import NDArray
from own_sound.packages import NETWORK
from own_sound.training import export_tower, folded, read_checkpoint, train_head

from muomni_search.encoders.base.audio import AudioEncoder
from muomni_search.encoders.base.model import SOUND_TOWER, packaged_directory
from muomni_search.encoders.base.own_sound import Network
from muomni_search.encoders.model import load_model
from muomni_search.evaluation.subjects import embed
from muomni_search.items import Modality
from muomni_search.vectors import normalise

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
ROOT = Path(__file__).resolve().parent.parent
FOLDS, NAMES_ASKED = 5, 100
PLAYED = ("soundfont", "lmms-common", "hydrogen-drumkits")
# How much the mixture of classes, the own head and the joint head count.
SUMS = [
    *((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)),
    *((1, 1, 1), (0.5, 1, 1), (2, 1, 1)),
]
SHIPS = (1, 1, 1)


@dataclass(frozen=True)
class Sounds:
    """What the towers give for named sounds, and whose they are."""

    own: Array  # (n, 2056)
    joint: Array  # (n, 3098)
    mixture: Array  # (n, 256)
    names: NDArray[np.str_]
    packages: NDArray[np.str_]
    played: Mask


def read_sounds(work: Path, threads: int) -> Sounds:
    """Return all sounds that the heads that ship were trained on."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = unpack(NETWORK, work / "packages") / "aisfx/models/checkpoint.pth"
        export_tower(folded(read_checkpoint(checkpoint)), Path(folder) / OWN_TOWER)
        heard = learned_sounds(work, Path(folder), threads)
    head = packaged_directory() / "audio.head.npz"
    fetched = AudioEncoder(work / "packages" / SOUND_TOWER, head, "", threads=threads)
    packages = np.array([package_of(path.relative_to(work)) for path in heard.paths])
    return Sounds(
        heard.features,
        heard.joined,
        fetched.project(heard.pooled),
        np.array(heard.names),
        packages,
        np.array([any(one in package for one in PLAYED) for package in packages]),
    )


def package_of(path: Path) -> str:
    """Return the package that a sound below ``work`` is from, or what made it."""
    return "/".join(path.parts[1:2] if path.parts[0] == "packages" else path.parts[1:3])


def folds(sounds: Sounds) -> list[Mask]:
    """Return which sounds are asked for: packages are dealt out by size, of either kind."""
    found = [np.zeros(len(sounds.names), bool) for _ in range(FOLDS)]
    for kind in (True, False):
        sizes = Counter(sounds.packages[sounds.played == kind].tolist())
        for number, (package, _) in enumerate(sizes.most_common()):
            if "/" not in package or "fonts/" in package:  # not what is spoken or computed here
                found[number % FOLDS] |= sounds.packages == package
    return found


def halves(names: NDArray[np.str_]) -> list[Mask]:
    """Return two halves of sounds by their names."""
    last = np.array([hashlib.md5(name.encode()).digest()[-1] % 2 for name in names])
    return [last == 0, last == 1]


def by_head(
    inputs: Array, sounds: Sounds, learn: Mask, word: dict[str, Array], work: Path
) -> Array:
    """Return (n, 256) unit rows of all sounds by a head that learned from some."""
    head = train_head(inputs[learn], sounds.names[learn].tolist(), word, SEED)
    kept = work / "compared.head.npz"
    np.savez(kept, **head)
    found = Network(kept, inputs.shape[1])(inputs)
    kept.unlink()
    return found


def asked_for(names: Sequence[str]) -> Iterator[NDArray[np.str_]]:
    """Yield a hundred names at a time, in an order of no meaning."""
    mixed = np.random.RandomState(0).permutation(np.unique(names))
    for start in range(0, max(1, len(mixed) - NAMES_ASKED // 2), NAMES_ASKED):
        yield mixed[start : start + NAMES_ASKED]


def main() -> None:
    parser = argparse.ArgumentParser(description="compare how `base` hears sounds")
    parser.add_argument("--work", type=Path, default=ROOT / ".work")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    work = options.work.resolve()
    sounds = read_sounds(work, options.threads)
    known = np.unique(sounds.names)
    word = dict(zip(known, embed(load_model("base"), Modality.TEXT, known.tolist()), strict=True))
    said = np.stack([word[name] for name in sounds.names])
    print("| mixture, own, joint | recordings | instruments | … names unseen | |")
    print("|---|---|---|---|---|")
    cells: dict[tuple[float, ...], list[str]] = {weights: [] for weights in SUMS}
    for unseen in (False, True):
        found: dict[tuple[tuple[float, ...], bool], list[list[float]]] = {}
        for held in folds(sounds):
            for some in halves(sounds.names) if unseen else [np.ones(len(held), bool)]:
                asked, learn = held & some, ~held
                if unseen:
                    there = np.stack([word[name] for name in np.unique(sounds.names[asked])])
                    learn &= (said @ there.T).max(axis=1) < NEAR
                parts = (
                    sounds.mixture,
                    by_head(sounds.own, sounds, learn, word, work),
                    by_head(sounds.joint, sounds, learn, word, work),
                )
                for weights in SUMS:
                    rows = sum(
                        np.float32(share) * part for share, part in zip(weights, parts, strict=True)
                    )
                    for kind in (False, True):
                        which = asked & (sounds.played == kind)
                        for names in asked_for(sounds.names[which].tolist()):
                            those = which & np.isin(sounds.names, names)
                            value = recalls(normalise(rows[those]), sounds.names[those], word)
                            found.setdefault((weights, kind), []).append(value)
        for weights in SUMS:
            for kind in (False, True):
                there, back = np.mean(found[weights, kind], axis=0)
                cells[weights].append(f"{there:.3f} / {back:.3f}")
    for weights, row in cells.items():
        title = ", ".join(f"{share:g}" for share in weights)
        title += ": **ships**" if weights == SHIPS else ""
        print(f"| {title} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
