"""What tuning the picture tower on drawings gives `base`, on styles and on names unseen.

    python scripts/compare_tuned_towers.py

A tower is tuned, and a head fitted, without three styles of drawings and their next of kin, and
asked for the drawings of things in these styles by their names. It met all names of the emoji among
them in other styles, of the clip art a fifth. Another one is tuned without half of the names and
all names near those too, and asked for these. Beside drawings they are asked for what nothing was
fitted to: the backgrounds (most of them photographs) and costumes of Scratch 1.4 and photographs of
foods. Prints Markdown, S@10, the mean over the styles.

The towers are kept in ``--work``, beside the packages, and are not tuned again when they are there:
that takes minutes on a GPU, and hours on a CPU. `build_base_model.py` fits the prior of the scores
with the first of them. The figures in `docs/models/base.md` are from this script. The held-out sets
are not touched.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from base_model import drawings as drawn
from base_model import tuning
from base_model.learning import DEVICES, chosen_device
from base_model.packages import unpack
from base_model.towers import as_it_came, folded
from build_base_model import UNSEEN_STYLES
from compare_head_kinds import (
    NEAR,
    NEEDED,
    Array,
    Halves,
    Mask,
    Pictures,
    are_things,
    foods,
    kernel_ridge,
    kind_of,
    look,
    recalls,
)
from muomni_tiny.pictures import scratch
from numpy.typing import NDArray
from tune_towers import embedded_names, read_squares

from muomni_search.durable import whole_file
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.vectors import normalise

ROOT = Path(__file__).resolve().parent.parent
UNSEEN_NAMES = "tuned-names.npz"


@dataclass(frozen=True)
class Part:
    """Which drawings a tower is tuned on, and which are asked for, style by style."""

    kept: str  # the tower's file
    epochs: int  # chosen beforehand: 1,230 and 780 steps, where all drawings take 2,520
    learn: Mask
    asked: list[Mask]


def parts(
    names: NDArray[np.str_], packages: NDArray[np.str_], words: dict[str, Array], work: Path
) -> dict[str, Part]:
    """Return both ways to hold drawings back: by their styles, and by their names too."""
    outside = ~np.isin(packages, drawn.UNSEEN)
    asked = [np.isin(packages, style) & are_things(names, work) for style, _ in drawn.STYLES]
    last = np.array([hashlib.md5(name.encode()).digest()[-1] % 2 for name in names])
    known = np.unique(names)
    held = np.stack([words[name] for name in np.unique(names[last == 0])])
    near = (np.stack([words[name] for name in known]) @ held.T).max(axis=1) > NEAR
    return {
        "styles": Part(UNSEEN_STYLES, 30, outside, asked),
        "names": Part(
            UNSEEN_NAMES,
            60,
            outside & ~np.isin(names, known[near]),
            [one & (last == 0) for one in asked],
        ),
    }


def tuned(part: Part, words: dict[str, Array], work: Path, device: str) -> dict[str, NDArray[Any]]:
    """Return the blocks of a tower that was tuned on a part of the drawings; keep them."""
    kept = work / part.kept
    if not kept.exists():
        drawings = [one for of_one in drawn.read_drawings(work).values() for one in of_one]
        squares, names = read_squares(drawings)
        few = [names[number] for number in np.flatnonzero(part.learn)]
        weights = folded(as_it_came(work))
        blocks = tuning.tune_pictures(
            weights, squares[part.learn], few, words, device=device, epochs=part.epochs
        )
        with whole_file(kept) as partial, partial.open("wb") as file:
            np.savez(file, **blocks)
    with np.load(kept, allow_pickle=False) as arrays:
        return dict(arrays)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="compare the picture tower tuned and as it came; keeps the towers beside the "
        "packages, where build_base_model.py fits the prior with one of them"
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="to tune on")
    options = parser.parse_args()
    work, device = options.work.resolve(), chosen_device(options.device)
    for package in NEEDED:
        unpack(package, work)
    media, food = list(scratch(work)), foods(work)
    others = [*media, *food]
    kind = kind_of(media, food)
    before = look(folded(as_it_came(work)), others, work)
    names, packages = before[0].names, before[1]
    words = embedded_names([*names, *(name for _, name in others)])
    targets = np.stack([words[name] for name in names])
    with np.load(packaged_directory() / "image.head.npz", allow_pickle=False) as arrays:
        classes, onto = (arrays[name].astype(np.float32) for name in ("classes", "projection"))
    word = {name: normalise(row @ onto) for name, row in words.items()}
    free = np.isin(packages, list(drawn.FREE))
    print("| tower | unseen | drawings | of these clip art | backgrounds | costumes | foods |")
    print("|---|---|---|---|---|---|---|")
    for held, part in parts(names, packages, words, work).items():
        after = look(tuned(part, words, work, device), others, work)
        for title, (seen, _, beside) in (("as it came", before), ("tuned", after)):
            learnt = seen.only(part.learn)
            half = kernel_ridge(learnt, targets[part.learn], free[part.learn])
            head = Halves(half, learnt, classes)

            def found(some: Pictures, head: Halves = head) -> list[float]:
                pictures = normalise(head(some.features, some.logits) @ onto)
                return recalls(pictures, some.names, word)

            of_styles = [found(seen.only(asked)) for asked in part.asked]
            cells = [np.mean(of_styles, axis=0), of_styles[0]]
            cells += [found(beside.only(kind == number)) for number in range(3)]
            shown = " | ".join(f"{there:.3f} / {back:.3f}" for there, back in cells)
            print(f"| {title} | {held} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
