"""A model without weights: features are hashed into the space, the same in every run.

It is deterministic, instant and tiny, so tests use it wherever the meaning of a vector does not
matter. Words that are equal get equal features; nothing is aligned across modalities.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.description import fingerprint_of
from muomni_search.encoders.protocol import Encoder, Model, Piece
from muomni_search.errors import InvalidInput
from muomni_search.items import DIM, Modality, Span
from muomni_search.vectors import normalise

__all__ = ["HashingEncoder", "HashingModel"]

DESCRIPTION = {"name": "hashing", "kind": "hashing", "dim": DIM, "preprocessing": 1}

SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]*\s*")
PASSAGE_WORDS = 32
SAMPLE_RATE = 16_000
WINDOW_SAMPLES, HOP_SAMPLES = 2 * SAMPLE_RATE, SAMPLE_RATE
GRID = 4
BANDS = 32


class HashingModel(Model):
    """The model without weights."""

    def __init__(self) -> None:
        super().__init__("hashing", "hashing", None)

    def fingerprint(self) -> str:
        """Return the hash of its description, which is all there is."""
        return fingerprint_of(DESCRIPTION)

    def _load(self, modality: Modality) -> Encoder:
        return HashingEncoder(modality, self.fingerprint())


class HashingEncoder:
    """An encoder of any modality that needs no weights.

    Args:
        modality: What it reads.
        fingerprint: The model's.
    """

    dim = DIM

    def __init__(self, modality: Modality, fingerprint: str) -> None:
        self.modality = modality
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that this encoder belongs to."""
        return self._fingerprint

    def prepare(self, content: str | NDArray[np.uint8] | NDArray[np.float32]) -> list[Piece]:
        """Split long texts and sounds into pieces of named features.

        Raises:
            InvalidInput: A text without words.
        """
        if isinstance(content, str):
            pieces = [Piece(_words(content[a:b]), span) for a, b, span in _passages(content)]
            pieces = [piece for piece in pieces if piece.data]
            if not pieces:
                raise InvalidInput("the text has no words", hint="write some, or leave it out")
            return pieces
        if self.modality == Modality.IMAGE:
            return [Piece(_picture(content))]
        return [Piece(_sound(content[a:b]), span) for a, b, span in _windows(len(content))]

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        rows = np.zeros((len(batch), DIM))
        for row, piece in zip(rows, batch, strict=True):
            for name, value in piece.data.items():
                row += value * _direction(f"{self.modality}:{name}")
        return normalise(rows)


def _direction(name: str) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(DIM)


def _words(text: str) -> dict[str, float]:
    words: dict[str, float] = {}
    for word in re.findall(r"\w+", text.lower()):
        words[word] = words.get(word, 0.0) + 1.0
    return words


def _passages(text: str) -> Iterator[tuple[int, int, Span | None]]:
    if len(text.split()) <= PASSAGE_WORDS:
        yield 0, len(text), None
        return
    for match in SENTENCE.finditer(text):
        if match.group().strip():
            yield match.start(), match.end(), Span("char", match.start(), match.end())


def _picture(picture: NDArray[np.uint8] | NDArray[np.float32]) -> dict[str, float]:
    bands = [
        block.mean(axis=(0, 1))
        for rows in np.array_split(picture[:, :, :3], min(GRID, picture.shape[0]), axis=0)
        for block in np.array_split(rows, min(GRID, picture.shape[1]), axis=1)
    ]
    values = np.asarray(bands, np.float64).ravel() / 255.0
    return {"bias": 1.0, **{str(number): float(value) for number, value in enumerate(values)}}


def _windows(samples: int) -> Iterator[tuple[int, int, Span | None]]:
    if samples <= WINDOW_SAMPLES:
        yield 0, samples, None
        return
    for start in [*range(0, samples - WINDOW_SAMPLES, HOP_SAMPLES), samples - WINDOW_SAMPLES]:
        end = start + WINDOW_SAMPLES
        per_ms = SAMPLE_RATE // 1000
        yield start, end, Span("ms", start // per_ms, end // per_ms)


def _sound(samples: NDArray[np.uint8] | NDArray[np.float32]) -> dict[str, float]:
    energy = np.abs(np.fft.rfft(samples, max(2 * BANDS, len(samples)))) ** 2
    bands = np.log1p([part.sum() for part in np.array_split(energy, BANDS)])
    return {"bias": 1.0, **{str(number): float(value) for number, value in enumerate(bands)}}
