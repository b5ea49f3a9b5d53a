"""Unit vectors: check them, normalise them, combine them, compare them. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import InvalidInput
from muomni_search.items import DIM, NOT_NUMBERS, holds_numbers

__all__ = [
    "check_vectors",
    "combine",
    "cosines",
    "cosines_of_pairs",
    "mean_vector",
    "normalise",
    "unit_among",
]

# A sum shorter than this has cancelled out: its direction is rounding noise.
MIN_LENGTH = 1e-6
# Squares of lengths that float64 holds with all its digits, and those of their numbers.
SQUARES = (1e-200, 1e200)
# What float32 may miss of a length of 1 by rounding alone.
UNIT_TOLERANCE = 1e-5
ENCODE_AGAIN = "encode it again, or leave it out"
# Rows that are gathered at a time to be compared: 3 MB, and 8 MB with them in float64.
PAIRS_AT_ONCE = 2_048


def normalise(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``rows`` (…, d) scaled to unit length along the last axis, as float32.

    Computed in float64, so that huge and tiny values neither overflow nor vanish.
    """
    wide = np.asarray(rows, dtype=np.float64)
    squares, are_far = _squares(wide)
    if are_far.any():
        largest = np.max(np.abs(wide), axis=-1, keepdims=True)
        wide = np.where(are_far[..., np.newaxis], wide / largest, wide)
        squares = np.vecdot(wide, wide)
    return _divided(wide, squares)


def _squares(wide: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the squared length of each row (…, d), and whether float64 may have lost it."""
    with np.errstate(all="ignore"):
        squares = np.vecdot(wide, wide)
    least, most = SQUARES
    return squares, ~((squares > least) & (squares < most))


def _divided(wide: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(wide / np.sqrt(squares)[..., np.newaxis], dtype=np.float32)


def check_vectors(rows: Any, where: str, *, dim: int = DIM) -> NDArray[np.float32]:
    """Return ``rows`` as (n, dim) float32 unit rows.

    Args:
        rows: (n, dim) numbers.
        where: What to call them in an error: a file, or a file and a row.
        dim: The width that they must have.

    Raises:
        InvalidInput: Not numbers, another width, or a row that is not finite or all zero.
    """
    try:
        array = np.asarray(rows)
        if not holds_numbers(array):
            raise TypeError("flags, texts, dates and complex numbers have no place on an axis")
        if array.dtype.kind not in "fiu":
            array = array.astype(np.float64)
    except NOT_NUMBERS as error:
        raise InvalidInput(f"{where}: not a vector of {dim} numbers") from error
    if array.ndim != 2 or array.shape[1] != dim:
        width = array.shape[-1] if array.ndim else 0
        found = f"{width} numbers" if array.ndim <= 2 else f"{array.shape[1:]} numbers"
        raise InvalidInput(
            f"{where}: {found} a vector, expected {dim}",
            hint="encode it with the collection's model",
        )
    wide = np.asarray(array, dtype=np.float64)
    squares, are_far = _squares(wide)
    if not are_far.any():
        return _divided(wide, squares)
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise InvalidInput(f"{where}: {_number(bad)}holds NaN or infinity", hint=ENCODE_AGAIN)
    zero = ~array.any(axis=1)
    if zero.any():
        raise InvalidInput(
            f"{where}: {_number(zero)}is all zeros and has no direction", hint=ENCODE_AGAIN
        )
    return normalise(array)


def _number(which: Any) -> str:
    """Return which of several vectors is meant; of one, nothing."""
    return f"vector {int(np.argmax(which))} " if len(which) > 1 else ""


def unit_among(vectors: Sequence[Any]) -> NDArray[np.bool_]:
    """Return which of some objects are unit vectors (256,) of float32, as ``normalise`` makes."""
    found = np.array(
        [
            isinstance(one, np.ndarray) and one.dtype == np.float32 and one.shape == (DIM,)
            for one in vectors
        ],
        dtype=bool,
    )
    places = np.flatnonzero(found)
    if len(places):
        rows = np.stack([vectors[place] for place in places.tolist()])
        with np.errstate(all="ignore"):
            found[places] = np.abs(np.vecdot(rows, rows) - 1) < UNIT_TOLERANCE
    return found


def cosines(rows: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the cosine of each unit row (n, d) with the unit query (d,), float32 (n,).

    The one place where a cosine that a user sees is computed. Each row is summed on its own in
    float64, so equal rows get equal cosines whatever block, index or batch they came through; a
    matrix product gives no such promise, and ties would be ordered by chance.
    """
    products = np.vecdot(rows.astype(np.float64), query.astype(np.float64))
    return np.asarray(products, dtype=np.float32)


def mean_vector(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the unit mean (d,) of unit rows (n, d): one vector for an item of many segments."""
    return combine([1.0] * len(rows), rows, what="the mean of the segments")


def combine(
    weights: Sequence[float],
    rows: NDArray[np.float32] | Sequence[NDArray[np.float32]],
    *,
    what: str,
) -> NDArray[np.float32]:
    """Return the unit weighted sum (d,) of unit rows (n, d).

    Raises:
        InvalidInput: The sum cancels out, so that it has no direction.
    """
    if len(rows) == 1 and weights[0] > 0:
        return np.array(rows[0], np.float32)
    scaled = np.array(weights, dtype=np.float64)
    scaled /= np.abs(scaled).max() or 1.0  # so that it neither overflows nor vanishes
    total = scaled @ np.asarray(rows, dtype=np.float64)
    if float(np.linalg.norm(total)) < MIN_LENGTH:
        raise InvalidInput(f"{what} cancels out to zero", hint="change a weight or drop a part")
    return normalise(total)


def cosines_of_pairs(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], queries: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return ``cosines`` of each query (n, d) with rows of its own (n, m), float32 (n, m)."""
    values = np.empty(rows.shape, np.float32)
    width, dim = rows.shape[1], vectors.shape[1]
    at_once = max(1, min(PAIRS_AT_ONCE // max(width, 1), len(queries)))
    # Into the same places again and again: fresh memory takes longer than the products.
    gathered = np.empty((at_once * width, dim), np.float32)
    summed = np.empty(gathered.shape, np.float64)
    for start in range(0, len(queries), at_once):
        block = slice(start, start + at_once)
        some = rows[block]
        # "clip": else NumPy gathers elsewhere first, in case a row is not there.
        own = np.take(vectors, some.ravel(), axis=0, out=gathered[: some.size], mode="clip")
        summed[: some.size] = own
        asked = queries[block, None].astype(np.float64)
        values[block] = np.vecdot(summed[: some.size].reshape(*some.shape, dim), asked)
    return values
