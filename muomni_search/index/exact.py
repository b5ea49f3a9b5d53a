"""The oracle: every row compared, one way only, nothing clever. Tests hold all else against it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from muomni_search.index.protocol import Candidates
from muomni_search.vectors import cosines

__all__ = ["best_of", "exact_top_rows"]


def exact_top_rows(
    query: NDArray[np.float32],
    vectors: NDArray[np.float32],
    *,
    k: int,
    dead: NDArray[np.int64],
    allowed: NDArray[np.int64] | None = None,
) -> Candidates:
    """Return the best k of the live and allowed rows, and all that are tied with the last."""
    rows = np.arange(len(vectors)) if allowed is None else allowed
    rows = np.setdiff1d(rows, dead)
    return best_of(rows, cosines(vectors[rows], query), k)


def best_of(
    rows: NDArray[np.int64],
    values: NDArray[np.float32],
    k: int,
    how: Literal["exact", "ann"] = "exact",
) -> Candidates:
    """Return the best k of rows with their cosines, and all that are tied with the last."""
    order = np.lexsort((rows, -values))
    if len(order) > k:
        last = values[order[k - 1]]
        order = order[: int(np.searchsorted(-values[order], -last, side="right"))]
    return Candidates(rows[order], values[order], how)
