"""Vectors that tests of indexes share."""

from __future__ import annotations

import numpy as np

from muomni_search.vectors import normalise


def rows_of(count: int, seed: int) -> np.ndarray:
    """Return unit rows (count, 256) whose variances fall as 1/rank, as those of models do."""
    rng = np.random.default_rng(seed)
    return normalise(rng.standard_normal((count, 256)) * (np.arange(256) + 1.0) ** -0.5)
