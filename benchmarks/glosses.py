"""Real vectors to compare engines on: WordNet's glosses, in one of two spaces, kept on the disk.

    base       the model `base`: words are rows, and pictures ask as well (some 100 texts a second)
    wordllama  the table of the package wordllama (256 numbers a text; a million texts in minutes)

Texts come in a fixed order until there are enough: definitions, words with their definitions,
definitions with those of related meanings. Rows and the queries "in" are drawn from the first of
them alike; no query is a row. Queries "out" ask as another modality does: with `base` they are
pictures; with wordllama, which knows none, they are texts half rotated, shifted by a constant gap
and noisy.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import SEED

from muomni_search.encoders.model import load_model
from muomni_search.items import DIM, Modality
from muomni_search.vectors import cosines, normalise
from muomni_search.view import encode_all, encode_contents

ROOT = Path(__file__).resolve().parent.parent
PACKAGES, CACHE = ROOT / ".work/packages", ROOT / ".work/benchmarks"
SPACES = ("base", "wordllama")
PARTS = ("noun", "verb", "adj", "adv")
# Vectors that are no rows: those that ask, and those that are added while others ask.
QUERIES, LATER = 500, 2_000
PICTURES = ("*.png", "*.jpg", "*.jpeg", "*.webp")
TEXTS_AT_ONCE = 4_096
# Topics are what lies nearest to the same one of so many centres, learned on so many rows.
TOPICS, TOPIC_ROWS, TOPIC_ROUNDS = 32, 50_000, 8
# Float32 products that lie so near to the last of the best are computed again in float64.
MARGIN = 1e-4


@dataclass(frozen=True, slots=True)
class Data:
    """What all engines are given.

    Args:
        space: Of which model the vectors are.
        rows: (n, 256) float32 unit rows, mapped.
        shares: For each row a number drawn from 0 to 999: a filter lets through those below one.
        topics: For each row the number of its topic.
        titles: For each row about 80 characters to keep as metadata.
        later: Further rows, (2,000, 256).
        queries: Unit queries (m, 256) by their kind: "in" and "out".
        near: For each query "in" the topic that it lies in.
        far: For each query "in" the topic that lies farthest from it.
        out: What the queries "out" are.
    """

    space: str
    rows: np.ndarray
    shares: np.ndarray
    topics: np.ndarray
    titles: Sequence[str]
    later: np.ndarray
    queries: dict[str, np.ndarray]
    near: np.ndarray
    far: np.ndarray
    out: str


def load(space: str, size: int) -> Data:
    """Return the vectors of a space, from the disk where they were made before."""
    folder = CACHE / f"{space}-{size}"
    if not (folder / "made.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        _make(space, size, folder)
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}
    made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    return Data(
        space=space,
        rows=arrays["rows"],
        shares=np.array(arrays["shares"]),
        topics=np.array(arrays["topics"]),
        titles=made["titles"],
        later=arrays["later"],
        queries={"in": np.array(arrays["in"]), "out": np.array(arrays["out"])},
        near=np.array(arrays["near"]),
        far=np.array(arrays["far"]),
        out=made["out"],
    )


def _make(space: str, size: int, folder: Path) -> None:
    print(f"making {size:,} vectors of {space} in {folder}", flush=True)
    rng = np.random.default_rng(SEED)
    wanted = size + QUERIES + LATER
    texts = _texts(wanted)
    encode = _encode_base if space == "base" else _encode_wordllama
    order = rng.permutation(wanted)
    texts = [texts[number] for number in order]
    vectors = encode(texts, folder)
    rows, asking, later = np.split(vectors, [size, size + QUERIES])
    out, what = _pictures() if space == "base" else _moved(asking, rng)
    centres = _centres(rows, rng)
    against = asking @ centres.T
    arrays = {
        "rows": rows,
        "later": later,
        "in": asking,
        "out": out,
        "topics": np.concatenate([(part @ centres.T).argmax(axis=1) for part in _blocks(rows)]),
        "shares": rng.integers(0, 1_000, size),
        "near": against.argmax(axis=1),
        "far": against.argmin(axis=1),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    titles = [text[:80].ljust(80, ".") for text in texts[:size]]
    (folder / "made.json").write_text(json.dumps({"out": what, "titles": titles}), encoding="utf-8")
    for part in folder.glob("part-*.npz"):
        part.unlink()


# ---- texts -----------------------------------------------------------------------------------


def _texts(wanted: int) -> list[str]:
    """Return so many distinct texts of WordNet, single definitions first."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from base_model.packages import TOWERS, unpack

    (package,) = [one for one in TOWERS if one.name == "wordnet-base"]
    meanings = dict(_meanings(unpack(package, PACKAGES) / "usr/share/wordnet"))
    rng = np.random.default_rng(SEED)
    texts: dict[str, None] = {}
    for kind in (_definitions, _worded, _pairs):
        found = list(dict.fromkeys(kind(meanings)))
        texts.update(dict.fromkeys(found[number] for number in rng.permutation(len(found))))
        if len(texts) >= wanted:
            return list(texts)[:wanted]
    raise SystemExit(f"WordNet gives {len(texts):,} texts, not {wanted:,}")


Meanings = dict[tuple[str, str], tuple[list[str], list[tuple[str, str]], str]]


def _meanings(folder: Path) -> Iterator[tuple[tuple[str, str], tuple]]:
    """Yield each meaning's part and offset, words, related meanings and gloss (wndb(5WN))."""
    of_letter = {"n": "noun", "v": "verb", "a": "adj", "s": "adj", "r": "adv"}
    for part in PARTS:
        for line in (folder / f"data.{part}").read_text(encoding="latin1").splitlines():
            if line.startswith(" "):
                continue
            fields, gloss = line.split(" | ")[0].split(), line.split("|", 1)[1].strip()
            count = int(fields[3], 16)
            words = [
                re.sub(r"\(.*", "", word).replace("_", " ")
                for word in fields[4 : 4 + 2 * count : 2]
            ]
            at = 4 + 2 * count
            related = [
                (of_letter[fields[at + 3 + 4 * number]], fields[at + 2 + 4 * number])
                for number in range(int(fields[at]))
            ]
            yield (part, fields[0]), (words, related, gloss)


def _definition(gloss: str) -> str:
    return gloss.split('; "')[0]


def _definitions(meanings: Meanings) -> Iterator[str]:
    for _, _, gloss in meanings.values():
        yield _definition(gloss)


def _worded(meanings: Meanings) -> Iterator[str]:
    for words, _, gloss in meanings.values():
        for word in words:
            yield f"{word}: {gloss}"


def _pairs(meanings: Meanings) -> Iterator[str]:
    for words, related, gloss in meanings.values():
        for name in dict.fromkeys(related):
            others, _, other = meanings[name]
            for word in words:
                yield f"{word}: {_definition(gloss)}; {others[0]}: {_definition(other)}"


# ---- vectors ---------------------------------------------------------------------------------


def _encode_base(texts: Sequence[str], folder: Path) -> np.ndarray:
    """Encode with `base`, a part at a time: what is done is kept when it is stopped."""
    encoder = load_model("base").encoder(Modality.TEXT)
    # Texts of like length are encoded together, so that little is padded.
    order = np.argsort([len(text) for text in texts], kind="stable")
    texts = [texts[number] for number in order]
    parts = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        path = folder / f"part-{start:08}.npz"
        if not path.exists():
            vectors = encode_all(encoder, texts[start : start + TEXTS_AT_ONCE])
            with path.with_suffix(".partial").open("wb") as file:
                np.savez(file, vectors=vectors)
            path.with_suffix(".partial").rename(path)
            print(f"  {start + len(vectors):,} of {len(texts):,} texts", flush=True)
        parts.append(path)
    vectors = np.empty((len(texts), DIM), np.float32)
    vectors[order] = np.concatenate([np.load(path)["vectors"] for path in parts])
    return vectors


def _encode_wordllama(texts: Sequence[str], folder: Path) -> np.ndarray:  # noqa: ARG001
    """Look up with wordllama: the mean of a row of its table for each token."""
    import wordllama

    # Table and tokenizer come with the package, which looks for the latter in a cache only.
    package = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(dim=DIM, cache_dir=package, disable_download=True)
    return np.concatenate(
        [
            normalise(model.embed(list(texts[start : start + TEXTS_AT_ONCE])))
            for start in range(0, len(texts), TEXTS_AT_ONCE)
        ]
    )


def _pictures() -> tuple[np.ndarray, str]:
    """Return the vectors of the sample corpus' pictures and of open clip art, in `base`."""
    from base_model.packages import DRAWINGS, unpack

    (package,) = [one for one in DRAWINGS if one.name == "openclipart-png"]
    own = _files(ROOT / "examples/corpus")
    others = _files(unpack(package, PACKAGES))
    chosen = np.random.default_rng(SEED).permutation(len(others))[: QUERIES - len(own)]
    paths = [*own, *(others[number] for number in chosen)]
    # Some of the clip art has more pixels than may be read.
    found = encode_contents(load_model("base").encoder(Modality.IMAGE), paths)
    vectors = [vector for vector in found if isinstance(vector, np.ndarray)]
    what = f"{len(vectors)} pictures, {len(own)} of the sample corpus, the others Open Clip Art"
    return np.stack(vectors), what


def _files(folder: Path) -> list[Path]:
    return sorted(path for kind in PICTURES for path in folder.rglob(kind) if not path.is_symlink())


def _moved(texts: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Return queries as another modality might ask: half rotated, with a gap, and noisy."""
    rotation, _ = np.linalg.qr(rng.standard_normal((DIM, DIM)))
    gap = normalise(rng.standard_normal(DIM))
    noise = normalise(rng.standard_normal(texts.shape))
    moved = normalise(texts + 0.5 * texts @ rotation + 0.5 * gap + 0.3 * noise)
    return moved, "texts half rotated, with a constant gap and noise"


def _centres(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the centres of the topics, by spherical k-means."""
    some = rows[np.sort(rng.permutation(len(rows))[:TOPIC_ROWS])]
    centres = some[rng.permutation(len(some))[:TOPICS]]
    for _ in range(TOPIC_ROUNDS):
        nearest = (some @ centres.T).argmax(axis=1)
        sums = np.stack([some[nearest == number].sum(axis=0) for number in range(TOPICS)])
        centres = normalise(sums + 1e-6 * centres)
    return centres


# ---- truth -----------------------------------------------------------------------------------


def reached(
    queries: np.ndarray, rows: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Return the cosine (m,) of each query's k-th best row, or of the last when there are fewer.

    By blocked products; what lies near the threshold is computed once more in float64.

    Args:
        queries: (m, 256).
        rows: (n, 256).
        k: How many.
        allowed: Which rows a filter lets through; all by default.
    """
    numbers = np.arange(len(rows)) if allowed is None else allowed
    k = min(k, len(numbers))
    best = np.full((len(queries), k), -np.inf, np.float32)
    for some in _blocks(numbers):
        both = np.concatenate([best, queries @ rows[some].T], axis=1)
        best = -np.partition(-both, k - 1, axis=1)[:, :k]
    rough = best.min(axis=1)
    near: list[list[np.ndarray]] = [[] for _ in queries]
    for some in _blocks(numbers):
        which, places = np.nonzero(queries @ rows[some].T >= rough[:, None] - MARGIN)
        for query in np.unique(which):
            near[query].append(some[places[which == query]])
    exact = [
        cosines(rows[np.concatenate(own)], query) for own, query in zip(near, queries, strict=True)
    ]
    return np.array([np.sort(one)[-k] for one in exact])


def recall(
    found: Sequence[Sequence[int]], queries: np.ndarray, rows: np.ndarray, least: np.ndarray, k: int
) -> float:
    """Return the mean share of the k nearest that were found; rows tied with the last count.

    Args:
        found: The rows that each query found.
        queries: (m, 256).
        rows: (n, 256).
        least: What ``reached`` returned.
        k: How many there are to find for each.
    """
    shares = []
    for own, query, threshold in zip(found, queries, least, strict=True):
        distinct = np.unique(np.asarray(own[:k], np.int64))
        values = cosines(rows[distinct], query) if len(distinct) else np.empty(0)
        shares.append(min(k, int((values >= threshold).sum())) / k)
    return float(np.mean(shares))


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(array), 65_536):
        yield array[start : start + 65_536]
