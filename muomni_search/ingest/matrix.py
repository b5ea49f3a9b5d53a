"""Vectors in a ``.npy`` file: a memory map, never a pickle."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.items import DIM

__all__ = ["NO_ARRAY", "load_matrix"]

# What NumPy raises of a file that holds no array, or a header that makes no sense.
NO_ARRAY = (
    *(ValueError, EOFError, TypeError, OverflowError, MemoryError, NotImplementedError),
    *(SyntaxError, TokenError, BadZipFile),
)


def load_matrix(path: Path) -> NDArray[Any]:
    """Return a ``.npy`` of (rows, 256) numbers as a memory map.

    Raises:
        NotFound: There is no such file.
        UnreadableFile: It holds no array of numbers.
        InvalidInput: It holds something else, or an array of another shape.
    """
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="check its name") from error
    except OSError as error:
        raise UnreadableFile(
            f"{path}: {error.strerror or error}", hint="write it with numpy.save"
        ) from error
    except NO_ARRAY as error:
        # NumPy's words speak of pickles, which none is read as.
        raise UnreadableFile(
            f"{path}: no array of numbers, or cut off", hint="write it with numpy.save"
        ) from error
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "fiu":
        kind = getattr(matrix, "dtype", "several arrays")
        raise InvalidInput(f"{path} holds {kind}, expected numbers", hint="write one array")
    if matrix.ndim != 2 or matrix.shape[1] != DIM:
        raise InvalidInput(
            f"{path} has the shape {matrix.shape}, expected (rows, {DIM})",
            hint=f"write one row of {DIM} numbers for each vector",
        )
    return matrix
