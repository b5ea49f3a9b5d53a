"""The nouns: modality, span, record, item, hit, and the query as a weighted sum of parts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from muomni_search.errors import InvalidInput

__all__ = [
    "DIM",
    "Content",
    "Hit",
    "Item",
    "Modality",
    "Part",
    "PartKind",
    "Problem",
    "Query",
    "Record",
    "Span",
    "holds_numbers",
]

# Every modality is projected into this many dimensions (the μOmni design).
DIM = 256

# What a reader hands to an encoder, by modality:
#   text   str
#   image  uint8 (height, width, 3) RGB, or (height, width, 4) RGBA with straight alpha
#   audio  float32 (samples,), mono, 16 kHz, in [-1, 1]
Content = str | NDArray[np.uint8] | NDArray[np.float32]
# What becomes a float when it is told to, and is no number.
NO_NUMBERS = (
    *(str, bytes, bytearray, bool, np.bool_),
    *(complex, np.complexfloating, np.datetime64, np.timedelta64),
)
# What NumPy raises of what makes no array of numbers, and PyTorch of a tensor that has a gradient.
NOT_NUMBERS = (TypeError, ValueError, OverflowError, RuntimeError)


def holds_numbers(array: NDArray[Any]) -> bool:
    """Whether an array holds numbers that have a place on an axis, of whatever precision."""
    if array.dtype.kind == "O":
        return not any(isinstance(one, NO_NUMBERS) for one in array.flat)
    # "V" are those of other packages, as bfloat16, and structures, which have names.
    return array.dtype.kind in "fiuV" and array.dtype.names is None


class Modality(StrEnum):
    """The three kinds of content that one space holds."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"


@dataclass(frozen=True, slots=True)
class Span:
    """Where a segment lies in its item: characters of a text or milliseconds of a sound."""

    unit: Literal["char", "ms"]
    start: int
    end: int

    def as_dict(self) -> dict[str, Any]:
        """Return the span as the JSON object that answers carry."""
        return {"unit": self.unit, "start": self.start, "end": self.end}


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One item as a corpus offers it, before anything was read or encoded.

    Exactly one of ``path``, ``text`` and ``vector`` holds the content, save that a vector may
    come with a text or a source to show.

    Args:
        key: The item's name in the collection.
        modality: What it is; where records are added its name will do.
        origin: Where it came from, for messages: a path, or ``table.jsonl:12``.
        path: The absolute path of its file.
        text: Its inline text.
        vector: Its ready vector, (256,) float32 of unit length.
        source: What answers show as ``source``; the absolute path of the file, else None.
        metadata: Its metadata, a JSON object.
        root: The absolute path of the folder that the key is relative to, or of the table that a
            row without a key of its own is numbered in; None for other rows of tables.
        size: The file's size in bytes.
        mtime_ns: When the file was last changed, in nanoseconds; see ``durable.changed_ns``.
    """

    key: str
    modality: Modality
    origin: str
    path: Path | None = None
    text: str | None = None
    vector: NDArray[np.float32] | None = None
    source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    root: str | None = None
    size: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """An input that could not be used: one row of the failures table.

    Args:
        source: The file, or ``table.jsonl:12``.
        error: What is wrong, in one line.
        hint: What to do about it, in one line.
        key: The key it would have had, where known.
    """

    source: str
    error: str
    hint: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One item as the collection holds it.

    Args:
        key: Its name in the collection.
        modality: What it is.
        source: The absolute path of its file, or None.
        text: Its text when it is one, else None.
        metadata: Its metadata.
        segments: How many segments it has.
        added: When it was first added, ISO 8601 in UTC.
        vector: The unit mean of its segments, (256,) float32, where asked for.
    """

    key: str
    modality: Modality
    source: str | None
    text: str | None
    metadata: dict[str, Any]
    segments: int
    added: str
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer to a query.

    Args:
        rank: 1 for the best.
        key: The item's key.
        modality: The item's modality.
        score: The calibrated score: comparable across modalities, higher is better.
        cosine: The raw cosine of the query with the item's best segment.
        source: The absolute path of the item's file, or None.
        text: The text of the item, or of the segment when the hit has a span.
        span: Where in the item the segment lies, or None for a whole item.
        metadata: The item's metadata.
        how: ``exact`` or ``ann``: what searched the item's modality.
        recall: The share of the ten best that such an answer holds at least, on average: 1 when it
            is exact, what the index was measured to keep when it is not, None when nobody measured.
    """

    rank: int
    key: str
    modality: Modality
    score: float
    cosine: float
    source: str | None
    text: str | None
    span: Span | None
    metadata: dict[str, Any]
    how: Literal["exact", "ann"]
    recall: float | None = 1.0

    @property
    def promise(self) -> str:
        """How it was searched, for people: ``exact``, or ``ann`` and what that promises."""
        if self.how == "exact":
            return self.how
        return f"{self.how}, recall {'not measured' if self.recall is None else f'{self.recall:g}'}"

    def as_dict(self) -> dict[str, Any]:
        """Return the hit as the JSON object that ``muomni search --json`` prints."""
        return {
            "rank": self.rank,
            "key": self.key,
            "modality": str(self.modality),
            "score": self.score,
            "cosine": self.cosine,
            "source": self.source,
            "text": self.text,
            "span": self.span.as_dict() if self.span else None,
            "metadata": self.metadata,
            "how": self.how,
            "recall": self.recall,
        }


PartKind = Literal["text", "image", "audio", "id", "vector"]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One addend of a query: a weight, and what it weighs."""

    weight: float
    kind: PartKind
    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """An immutable weighted sum of words, pictures, sounds, stored items and vectors.

    Each part counts as a unit vector; the sum is normalised again.

    Example:
        >>> query = Query.image("beach.jpg") - Query.text("beach") + 0.5 * Query.text("snow")
        >>> [(part.weight, part.kind) for part in query.parts]
        [(1.0, 'image'), (-1.0, 'text'), (0.5, 'text')]
    """

    parts: tuple[Part, ...]

    @classmethod
    def text(cls, text: str) -> Query:
        """Ask with words.

        Raises:
            InvalidInput: These are none.
        """
        return cls((Part(1.0, "text", _text(text, "words")),))

    @classmethod
    def image(cls, path: str | Path) -> Query:
        """Ask with a picture file.

        Raises:
            InvalidInput: This names none.
        """
        return cls((Part(1.0, "image", _path(path)),))

    @classmethod
    def audio(cls, path: str | Path) -> Query:
        """Ask with a sound file.

        Raises:
            InvalidInput: This names none.
        """
        return cls((Part(1.0, "audio", _path(path)),))

    @classmethod
    def id(cls, key: str) -> Query:
        """Ask with an item of the collection.

        Raises:
            InvalidInput: This is no key.
        """
        return cls((Part(1.0, "id", _text(key, "key")),))

    @classmethod
    def vector(cls, vector: ArrayLike) -> Query:
        """Ask with a vector of 256 numbers.

        Raises:
            InvalidInput: These are no numbers, or several vectors.
        """
        try:
            given = np.asarray(vector)
            if not holds_numbers(given):
                raise TypeError(f"{given.dtype} has no place on an axis")
            with np.errstate(over="ignore"):  # what is too large for float64 is refused as infinite
                value = np.squeeze(np.array(given, dtype=np.float64))
        except NOT_NUMBERS as error:
            raise InvalidInput(
                "the query vector is not usable: not numbers, a ragged list, or not detached"
            ) from error
        if value.ndim != 1:
            raise InvalidInput(f"the query vector has the shape {value.shape}, expected ({DIM},)")
        return cls((Part(1.0, "vector", value),))

    def __add__(self, other: Query) -> Query:
        if not isinstance(other, Query):
            return NotImplemented
        return Query(self.parts + other.parts)

    def __sub__(self, other: Query) -> Query:
        if not isinstance(other, Query):
            return NotImplemented
        return self + -other

    def __neg__(self) -> Query:
        return self * -1.0

    def __mul__(self, weight: float) -> Query:
        if not isinstance(weight, Real):
            return NotImplemented
        try:
            factor = float(weight)
        except OverflowError:  # a whole number beyond floats
            factor = math.inf
        parts = [replace(part, weight=part.weight * factor) for part in self.parts]
        if not all(math.isfinite(part.weight) and part.weight for part in parts):
            raise InvalidInput("a weight must be a finite number other than 0")
        return Query(tuple(parts))

    __rmul__ = __mul__


def _text(value: str, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{value!r} is no {name} to ask with", hint="give a text")
    return value


def _path(value: str | Path) -> Path:
    try:
        return Path(value)
    except TypeError as error:
        raise InvalidInput(f"{value!r} names no file to ask with", hint="give a path") from error
