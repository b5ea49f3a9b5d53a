"""Why an item answers a query: what in a picture, a sound or a text carries the similarity.

    picture   the loss of cosine when a square of it is covered        Grid
              (or the cosine of each patch, of models that know them)
    text      the loss of cosine when a word of it is left out         Words
    sound     the cosine of each short window with the query           Curve
    query     the share of each part of the sum; for words, each word

Covering and leaving out ask the encoder itself ("occlusion"; Zeiler & Fergus 2014, section 2.1),
so they hold for any model, and what they say is true of the vector that was compared: no
gradient, attention or inner map is taken for the cause. What is explained is the segment that
made the item a hit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from muomni_search.collection import Collection
from muomni_search.encoders.protocol import Encoder, Piece, SegmentEncoder
from muomni_search.errors import Conflict, InvalidInput, MuomniError, NotFound
from muomni_search.ingest.audio import SAMPLE_RATE
from muomni_search.items import Content, Hit, Item, Modality, Part, Query, Span
from muomni_search.pipeline import content_again, is_gone
from muomni_search.store.records import Known
from muomni_search.vectors import combine, cosines, mean_vector

__all__ = ["Curve", "Explanation", "Grid", "PartShare", "Word", "Words", "explain"]

# The shorter side of a picture is cut into so many squares, the longer one into as many of the
# same size, up to a limit. A cover is two squares wide and moves by one.
CELLS, MOST_CELLS = 8, 32
COVER = 2
# Encoders look at 224 pixels: covering and scaling down a hundred times what a camera gives
# would take minutes.
SHORTER_PIXELS, LONGER_PIXELS = 448, 2048
# A window of a sound: YAMNet's 0.96 s, rounded up, so that each has one of its patches.
WINDOW_MS, HOP_MS = 1_000, 250
PER_MS = SAMPLE_RATE // 1000
# Longer texts are taken apart by runs of words.
MOST_WORDS = 256
# How many variants are prepared before they are encoded: 150 KB each as pictures.
VARIANTS_AT_ONCE = 64
# What no cover changes by more than rounding has no heat at all.
LEAST_SHARE = 1e-3
# Digits in JSON: what is below is rounding of the encoders.
DIGITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class PartShare:
    """What a part of the query adds to the cosine.

    Args:
        part: The part, with its weight.
        cosine: Its own cosine with what was found.
        share: What it adds; the shares of all parts sum up to the cosine of the query.
    """

    part: Part
    cosine: float
    share: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object; of a vector without its numbers."""
        value = None if self.part.kind == "vector" else str(self.part.value)
        return {
            "kind": self.part.kind,
            "value": value,
            "weight": self.part.weight,
            "cosine": round(self.cosine, DIGITS),
            "share": round(self.share, DIGITS),
        }


@dataclass(frozen=True, slots=True)
class Word:
    """A word, where it stands, and what it adds: the cosine with it less the cosine without it."""

    text: str
    start: int
    end: int
    share: float

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "share": round(self.share, DIGITS),
        }


@dataclass(frozen=True, slots=True)
class Words:
    """What carries a text: its words in order; ``start`` and ``end`` are characters of the item."""

    words: tuple[Word, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"kind": "words", "words": [word.as_dict() for word in self.words]}


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """What carries a picture: a number for each of the squares that it is cut into.

    Args:
        how: ``covered`` for the cosine that is lost where a square is covered; ``patches`` for
            the cosine of the encoder's own patches with the query.
        values: The numbers, (rows, columns) float32, of the picture upright.
    """

    how: Literal["covered", "patches"]
    values: NDArray[np.float32]

    def strengths(self) -> NDArray[np.float64]:
        """Return the values on a scale of 0 to 1, of which 1 is the largest.

        Of covers 0 is no loss, and a gain: where a cover that changes nothing lies is no matter.
        Patches have no such zero, so 0 is the least of them.
        """
        values = self.values.astype(np.float64)
        zero = 0.0 if self.how == "covered" else values.min()
        scale = max(float(values.max() - zero), LEAST_SHARE)
        return np.asarray(np.clip((values - zero) / scale, 0, 1))

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        values = np.round(self.values.astype(float), DIGITS).tolist()
        return {"kind": "grid", "how": self.how, "values": values}


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What carries a sound.

    Args:
        windows: From when to when each window lasts, in milliseconds of the item, (n, 2) int64.
        cosines: The cosine of each with the query, (n,) float32.
    """

    windows: NDArray[np.int64]
    cosines: NDArray[np.float32]

    @property
    def best(self) -> Span:
        """The window nearest to the query, the first of equals."""
        start, end = self.windows[np.argmax(self.cosines)].tolist()
        return Span("ms", start, end)

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "kind": "curve",
            "windows": self.windows.tolist(),
            "cosines": np.round(self.cosines.astype(float), DIGITS).tolist(),
            "best": self.best.as_dict(),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Why an item answers a query.

    Args:
        hit: The item as the search finds it among no others: rank 1, its score, its cosine, and
            the span of the segment that is explained.
        content: That segment: pixels, samples or text.
        evidence: What in it carries the similarity.
        parts: What each part of the query adds to the cosine.
        query_words: What each of its words adds, where the query is one text; empty otherwise.
    """

    hit: Hit
    content: Content
    evidence: Grid | Curve | Words
    parts: tuple[PartShare, ...]
    query_words: tuple[Word, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON object that ``muomni explain`` prints."""
        hit = self.hit.as_dict()
        shown = ("key", "modality", "score", "cosine", "source", "text", "span")
        return {
            **{name: hit[name] for name in shown},
            "evidence": self.evidence.as_dict(),
            "parts": [part.as_dict() for part in self.parts],
            "query_words": [word.as_dict() for word in self.query_words],
        }


def explain(
    collection: Collection, query: Query | str, key: str, *, patches: bool = False
) -> Explanation:
    """Return what makes an item answer a query, whatever its rank among all.

    Args:
        collection: Where the item is.
        query: The query, as ``Collection.query`` takes it.
        key: The item's key.
        patches: Compare the query with the patches of a picture, of a model that has vectors for
            them. It takes one run of the encoder instead of a hundred, and tells less: nothing
            says that the vector of the picture is made of those of its patches.

    Raises:
        NotFound: There is no such item, its file is gone, or the query names what is not there.
        Conflict: Its file has changed since it was added.
        InvalidInput: A bad query, an item of which only the vector is known, or patches of a
            model that has none.
    """
    asked = Query.text(query) if isinstance(query, str) else query
    if not isinstance(asked, Query) or not asked.parts:
        raise InvalidInput(f"{query!r} is no query", hint="give words, or a Query")
    with collection.view() as view:
        [item] = view.get([key])
        alone = [Query((replace(part, weight=1.0),)) for part in asked.parts]
        vectors = [_checked(vector) for vector in view.resolve_many(alone)]
        direction = combine([part.weight for part in asked.parts], vectors, what="the query")
        # The search itself, among this one item: the same cosine, score and segment.
        [hit] = view.rank(asked, direction, 1, where={"key": key}, exact=True, include_self=True)
        modality, rows = view.snapshot.item_rows([key])[key]
        segments = view.snapshot.vectors(modality)[rows]
        found = segments[np.argmax(cosines(segments, direction))]
        known = view.snapshot.known([key])[key]
    content = _segment(_content_of(item, known), hit.span)
    encoder = collection.model.encoder(item.modality)
    query_words: tuple[Word, ...] = ()
    if [part.kind for part in asked.parts] == ["text"]:
        [part] = asked.parts
        words = collection.model.encoder(Modality.TEXT)
        # Of a text that is subtracted, what is nearer to it is farther from the query.
        query_words = _words(words, part.value, found * np.float32(np.sign(part.weight)), 0)
    return Explanation(
        hit=hit,
        content=content,
        evidence=_evidence(encoder, content, direction, hit.span, patches=patches),
        parts=_part_shares(asked.parts, np.stack(vectors), found),
        query_words=query_words,
    )


def _checked(vector: NDArray[np.float32] | MuomniError) -> NDArray[np.float32]:
    if isinstance(vector, MuomniError):
        raise vector
    return vector


def _content_of(item: Item, known: Known) -> Content:
    """Return what an item's vectors came from, or say why it is not to be had."""
    content = content_again(item, known)
    if content is not None:
        return content
    # Of a file its size is known, whatever became of it.
    if item.source is None or known.size is None:
        raise InvalidInput(
            f"{item.key!r} came as a ready vector, which does not say what of its content counts",
            hint="add its text or its file to have it explained",
        )
    if is_gone(item.source):
        raise NotFound(
            f"{item.source}, the file of {item.key!r}, is gone", hint="put it back, or add it anew"
        )
    raise Conflict(
        f"{item.source}, the file of {item.key!r}, has changed since it was added, or cannot be "
        "read",
        hint="add it again, then ask again",
    )


def _segment(content: Content, span: Span | None) -> Content:
    if span is None:
        return content
    step = 1 if span.unit == "char" else PER_MS
    return content[span.start * step : span.end * step]


def _part_shares(
    parts: Sequence[Part], vectors: NDArray[np.float32], found: NDArray[np.float32]
) -> tuple[PartShare, ...]:
    weights = np.array([part.weight for part in parts])
    length = float(np.linalg.norm(weights @ vectors.astype(np.float64)))
    return tuple(
        PartShare(part, cosine, part.weight * cosine / length)
        for part, cosine in zip(parts, cosines(vectors, found).tolist(), strict=True)
    )


def _evidence(
    encoder: Encoder,
    content: Content,
    direction: NDArray[np.float32],
    span: Span | None,
    *,
    patches: bool,
) -> Grid | Curve | Words:
    start = span.start if span else 0
    if encoder.modality == Modality.TEXT:
        return Words(_words(encoder, cast("str", content), direction, start))
    if encoder.modality == Modality.IMAGE:
        picture = cast("NDArray[np.uint8]", content)
        look = _patches if patches else _covered
        return look(encoder, picture, direction)
    return _curve(encoder, cast("NDArray[np.float32]", content), direction, start)


def _variant_cosines(
    encoder: Encoder, variants: Iterator[Content], direction: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the cosine of each variant of a content, a long one as the mean of its pieces.

    What has nothing left to encode is like nothing: its cosine is 0.
    """
    values: list[float] = []
    waiting: list[list[Piece]] = []

    def encode() -> None:
        pieces = [piece for own in waiting for piece in own]
        vectors = encoder.encode(pieces) if pieces else None
        start = 0
        for own in waiting:
            end = start + len(own)
            values.append(
                float(cosines(mean_vector(vectors[start:end])[None], direction)[0])
                if vectors is not None and own
                else 0.0
            )
            start = end
        waiting.clear()

    for variant in variants:
        try:
            waiting.append(encoder.prepare(variant))
        except InvalidInput:
            waiting.append([])
        if len(waiting) == VARIANTS_AT_ONCE:
            encode()
    encode()
    return np.array(values, np.float32)


# ---- words -----------------------------------------------------------------------------------


def _words(
    encoder: Encoder, text: str, direction: NDArray[np.float32], offset: int
) -> tuple[Word, ...]:
    """Return what each word of a text adds to its cosine; ``offset`` is where the text begins."""
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    run = -(-len(spans) // MOST_WORDS)
    spans = [
        (spans[first][0], spans[min(first + run, len(spans)) - 1][1])
        for first in range(0, len(spans), max(run, 1))
    ]

    def variants() -> Iterator[Content]:
        yield text
        for start, end in spans:
            yield text[:start] + text[end:]

    whole, *without = _variant_cosines(encoder, variants(), direction).tolist()
    return tuple(
        Word(text[start:end], offset + start, offset + end, whole - less)
        for (start, end), less in zip(spans, without, strict=True)
    )


# ---- pictures --------------------------------------------------------------------------------


def _patches(encoder: Encoder, picture: NDArray[np.uint8], direction: NDArray[np.float32]) -> Grid:
    """Return the cosine of each of the encoder's patches with the query."""
    if not isinstance(encoder, SegmentEncoder):
        raise InvalidInput(
            "the model has no vectors for the patches of a picture",
            hint="leave --patches out: squares are covered instead, which works with any model",
        )
    [piece] = encoder.prepare(picture)
    vectors = encoder.encode_segments(piece)
    rows, columns, dim = vectors.shape
    values = cosines(vectors.reshape(-1, dim), direction)
    return Grid("patches", values.reshape(rows, columns))


def _covered(encoder: Encoder, picture: NDArray[np.uint8], direction: NDArray[np.float32]) -> Grid:
    """Return what each square of a picture (h, w, 3 or 4) adds to its cosine.

    A square's share is the mean over the covers that touch it.
    """
    small = _scaled(picture)
    height, width = small.shape[:2]
    rows, columns = _cells(height, min(height, width)), _cells(width, min(height, width))
    lines = np.linspace(0, height, rows + 1).round().astype(int)
    uprights = np.linspace(0, width, columns + 1).round().astype(int)
    covers = [
        (slice(max(row, 0), row + COVER), slice(max(column, 0), column + COVER))
        for row in range(1 - COVER, rows)
        for column in range(1 - COVER, columns)
    ]
    # The mean colour: no edge or hue that the picture has not.
    visible = small[small[:, :, 3] > 0] if small.shape[2] == 4 else small.reshape(-1, 3)
    colour = visible[:, :3].mean(axis=0) if len(visible) else np.zeros(3)

    def variants() -> Iterator[Content]:
        yield small
        for across, down in covers:
            covered = small.copy()
            top, bottom = lines[across.start], lines[min(across.stop, rows)]
            left, right = uprights[down.start], uprights[min(down.stop, columns)]
            # The outline of a cut-out stays: encoders crop to it.
            covered[top:bottom, left:right, :3] = colour
            yield covered

    whole, *without = _variant_cosines(encoder, variants(), direction).tolist()
    total, count = np.zeros((rows, columns)), np.zeros((rows, columns))
    for cover, less in zip(covers, without, strict=True):
        total[cover] += whole - less
        count[cover] += 1
    return Grid("covered", (total / count).astype(np.float32))


def _cells(side: int, shorter: int) -> int:
    """Return into how many squares a side of so many pixels is cut."""
    return min(round(CELLS * side / shorter), MOST_CELLS, side)


def _scaled(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of which neither side has more pixels than are looked at."""
    from PIL import Image

    height, width = picture.shape[:2]
    share = min(SHORTER_PIXELS / min(height, width), LONGER_PIXELS / max(height, width))
    if share >= 1:
        return picture
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


# ---- sounds ----------------------------------------------------------------------------------


def _curve(
    encoder: Encoder, samples: NDArray[np.float32], direction: NDArray[np.float32], offset: int
) -> Curve:
    """Return the cosine of each window of a sound, which begins at ``offset`` milliseconds.

    An encoder that tells of steps is asked for them once: a window is the mean over its steps.
    Any other one hears each window by itself.
    """
    length = max(len(samples) // PER_MS, 1)
    if isinstance(encoder, SegmentEncoder):
        [piece] = encoder.prepare(samples)
        steps = cosines(encoder.encode_segments(piece), direction)
        size = min(max(1, round(WINDOW_MS * len(steps) / length)), len(steps))
        values = np.convolve(steps, np.full(size, 1 / size), "valid")
        edges = np.arange(len(values))[:, None] + [0, size]
        windows = np.rint(edges * length / len(steps)).astype(np.int64)
    else:
        last = max(length - WINDOW_MS, 0)
        starts = np.linspace(0, last, round(last / HOP_MS) + 1).astype(np.int64)
        windows = np.stack([starts, np.minimum(starts + WINDOW_MS, length)], axis=1)
        values = _variant_cosines(
            encoder,
            (samples[start * PER_MS : end * PER_MS] for start, end in windows.tolist()),
            direction,
        )
    return Curve(windows + offset, values.astype(np.float32))
