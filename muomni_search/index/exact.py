"""The oracle: every row compared, one way only, nothing clever. Tests hold all else against it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from muomni_search.index.protocol import Candidates
from muomni_search.vectors import cosines

__all__ = ["MARGIN", "best_of", "exact_top_rows", "is_in"]

# A float32 product of unit vectors of 256 numbers is off by less than 256 · 2⁻²⁴ = 1.5e-5, and
# two products are compared: that of the row and that of the threshold.
MARGIN = 4e-5
# How many rows are marked, and how many marks cleared for each of those, in the time of one step of
# a binary search: to search for 4,000 of 1,000,000 rows among 100,000 took 0.6 ms, marks 0.2.
MARKED_PER_STEP, CLEARED_AT_ONCE = 6, 32


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


def is_in(rows: NDArray[np.int64], some: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row, in any order, is among some sorted ones."""
    if not len(rows) or not len(some):
        return np.zeros(len(rows), bool)
    first, last = rows.min(), rows.max()
    near = some[np.searchsorted(some, first) : np.searchsorted(some, last, side="right")]
    if not len(near):
        return np.zeros(len(rows), bool)
    inside: NDArray[np.bool_]
    steps = len(rows) * len(near).bit_length()
    if len(near) + (last - first) // CLEARED_AT_ONCE < MARKED_PER_STEP * steps:
        marks = np.zeros(last - first + 1, bool)
        marks[near - first] = True
        inside = marks[rows - first]
    else:
        places = np.minimum(np.searchsorted(near, rows), len(near) - 1)
        inside = near[places] == rows
    return inside
