"""What an index is: something that proposes rows, faster than reading them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["CODES", "Candidates", "VectorIndex"]

# Codes of 4 bits a row, the most first: what memory does not hold is halved before it is left out.
CODES = (128, 64)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows that answer a query.

    Args:
        rows: int64 (m,), the best first; equal cosines by row.
        cosines: float32 (m,), as ``vectors.cosines`` computes them.
        how: Whether all rows were compared.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    how: Literal["exact", "ann"]


class VectorIndex(Protocol):
    """Proposes rows for a query; the caller compares them exactly."""

    @property
    def kind(self) -> str:
        """Its name, as ``stats`` shows it."""
        ...

    @property
    def rows(self) -> int:
        """It covers the first so many rows; its positions are row numbers."""
        ...

    def search(self, query: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        """Return up to ``fetch`` distinct rows that may be nearest to a query (256,).

        The likeliest come first: the caller asks deeper when its hits come from the far end.
        """
        ...
