"""Scores that compare across modalities.

The cosines of a picture with pictures lie higher than those with words, whatever they show, so a
ranking of several modalities by raw cosine shows one of them only. A hit is therefore scored
against the background of its query over its modality: the median and the upper tail of the
cosines with a fixed sample of the rows. Within a modality the order stays that of the cosines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muomni_search.items import Modality

__all__ = ["Background", "Prior", "background", "prior_for", "sample_rows"]

# 200 rows rank as well as all; more make the score of a single query steadier.
SAMPLE_ROWS = 1_024
# So many rows weigh as much as what the model knew before.
PRIOR_WEIGHT = 50
TAIL = 0.99
# Of a normal law the 99 % point lies 2.326 deviations above the median, so that the scale is a
# deviation and the score reads like a z-value.
TAIL_DEVIATIONS = 2.326
# Rows that are all alike would make any difference infinitely large.
MIN_SCALE = 0.02


@dataclass(frozen=True, slots=True)
class Prior:
    """What to expect of unrelated cosines before any row is seen: median and deviation."""

    median: float
    scale: float


# For a model that says nothing: unrelated directions in 256 dimensions, generously.
UNKNOWN = Prior(0.0, 0.1)


@dataclass(frozen=True, slots=True)
class Background:
    """The cosines of one query with rows that it has nothing to do with."""

    median: float
    scale: float

    def score(self, cosine: float) -> float:
        """Return how many deviations above the background a cosine lies."""
        return (cosine - self.median) / self.scale


def background(
    query: NDArray[np.float32], sample: NDArray[np.float32], prior: Prior | None
) -> Background:
    """Return the background of a query (256,) over a sample (m, 256) of a modality's rows.

    While there are few rows the prior counts as much as ``PRIOR_WEIGHT`` of them.
    """
    expected = prior or UNKNOWN
    count = len(sample)
    if count == 0:
        return Background(expected.median, max(expected.scale, MIN_SCALE))
    cosines = sample @ query
    median, tail = np.quantile(cosines, [0.5, TAIL])
    weight = count / (count + PRIOR_WEIGHT)
    middle = weight * float(median) + (1 - weight) * expected.median
    scale = (
        weight * float(tail - median) / TAIL_DEVIATIONS + (1 - weight) * expected.scale
    )
    return Background(middle, max(scale, MIN_SCALE))


def prior_for(
    known: Mapping[str, Mapping[str, Mapping[str, float]]],
    asked_with: Sequence[str],
    modality: Modality,
) -> Prior | None:
    """Return the prior of a query made of these kinds of parts over a modality.

    Sums take the mean of their kinds; ids and bare vectors, which may be anything, of all kinds.
    """
    kinds = [kind for kind in asked_with if kind in known] or list(known)
    found = [known[kind][modality] for kind in kinds if modality in known[kind]]
    if not found:
        return None
    return Prior(
        float(np.mean([one["median"] for one in found])),
        float(np.mean([one["scale"] for one in found])),
    )


def sample_rows(count: int, dead: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a fixed sample of the live rows among ``count``, sorted."""
    live = np.setdiff1d(np.arange(count), dead, assume_unique=True)
    if len(live) <= SAMPLE_ROWS:
        return live
    rng = np.random.default_rng(SAMPLE_ROWS)
    return np.sort(rng.choice(live, SAMPLE_ROWS, replace=False))
