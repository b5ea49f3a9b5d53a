"""What the tests share: seeded generators, small collections, a corpus of real files."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search.items import DIM
from muomni_search.vectors import normalise


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that gives the same numbers in every run."""
    return np.random.default_rng(20_240_229)


def unit_rows(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    """Return n random unit vectors (n, 256)."""
    return normalise(rng.standard_normal((n, DIM)))
