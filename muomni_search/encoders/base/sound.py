"""Sounds as the model `base` hears them: two towers, and three vectors that are added.

The mixture of the fetched tower's classes (`audio.py`), the vector of the own tower
(`own_sound.py`), and that of a network that takes what both give: of each part of 4 s the own
tower's features, with the log odds of the whole segment's classes. Each knows sounds that the
others mistake; `docs/models/base.md` has the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.base import own_sound
from muomni_search.encoders.base.audio import CLASSES, AudioEncoder, log_odds
from muomni_search.encoders.base.own_sound import Network, OwnSoundEncoder, mean_of_parts
from muomni_search.encoders.protocol import Piece
from muomni_search.items import DIM, Modality
from muomni_search.vectors import normalise

__all__ = ["JOINT_WIDTH", "SoundEncoder"]

JOINT_WIDTH = own_sound.WIDTH + 2 * CLASSES


class SoundEncoder:
    """The sound side of the model.

    Args:
        fetched: The encoder by the tower that is fetched.
        own: The encoder by the tower that ships.
        head: The file of the network that takes what both give.
    """

    modality = Modality.AUDIO
    dim = DIM

    def __init__(self, fetched: AudioEncoder, own: OwnSoundEncoder, head: Path) -> None:
        self.fetched, self.own = fetched, own
        self._network = Network(head, JOINT_WIDTH)

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that this encoder belongs to."""
        return self.fetched.fingerprint()

    def prepare(self, content: NDArray[np.float32]) -> list[Piece]:
        """Return a piece for each window of a waveform (samples,): what both make of it."""
        pieces = zip(self.fetched.prepare(content), self.own.prepare(content), strict=True)
        return [Piece((one.data, other.data), one.span) for one, other in pieces]

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        if not batch:
            return np.empty((0, DIM), np.float32)
        counts = [len(piece.data[1]) for piece in batch]
        pooled = self.fetched.pooled([piece.data[0] for piece in batch])
        heard = self.own.features([part for piece in batch for part in piece.data[1]])
        joined = np.concatenate([heard, np.repeat(log_odds(pooled), counts, axis=0)], axis=1)
        return normalise(
            self.fetched.project(pooled)
            + self.own.project(heard, counts)
            + mean_of_parts(self._network(joined), counts)
        )
