"""What an encoder is: one modality's content in, unit vectors of one shared space out.

An encoder works in two steps, so that reading overlaps with computing. ``prepare`` runs in
worker threads and turns one decoded content into its pieces: the passages of a text, the
windows of a sound, the whole of a picture. ``encode`` runs in one thread and turns a batch of
pieces, of many items together, into one unit vector each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from muomni_search.items import Modality, Span

__all__ = ["Encoder", "Piece"]


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
