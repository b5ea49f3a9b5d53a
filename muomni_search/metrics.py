"""How well a ranking finds what is relevant: recall, reciprocal rank, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_interval", "first_relevant_ranks", "mean_reciprocal_rank", "success_at_k"]

Ranks = NDArray[np.int64]


def first_relevant_ranks(similarities: NDArray[np.float32], relevant: NDArray[np.bool_]) -> Ranks:
    """Return the rank, from 1, of the best relevant item of each query, (queries,).

    Args:
        similarities: (queries, items); higher is better. Equal ones keep the items' order.
        relevant: (queries, items); every query needs at least one.

    Raises:
        ValueError: A query has nothing relevant.
    """
    if not relevant.any(axis=1).all():
        raise ValueError(f"query {int(np.argmin(relevant.any(axis=1)))} has nothing relevant")
    order = np.argsort(-similarities, axis=1, kind="stable")
    found = np.take_along_axis(relevant, order, axis=1)
    return np.asarray(np.argmax(found, axis=1) + 1, np.int64)


def success_at_k(ranks: Ranks, k: int) -> float:
    """Return the share of queries with a relevant item among the first k.

    With one relevant item a query, as in the sets here, this is recall@k.
    """
    return float(np.mean(ranks <= k))


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Return the mean of 1 / rank of the first relevant item (Voorhees 1999)."""
    return float(np.mean(1.0 / ranks))


def bootstrap_interval(
    ranks: Sequence[int] | Ranks,
    metric: Callable[[Ranks], float],
    *,
    resamples: int = 2_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric over queries (Efron 1979)."""
    values = np.asarray(ranks)
    rng = np.random.default_rng(seed)
    draws = [metric(values[rng.integers(0, len(values), len(values))]) for _ in range(resamples)]
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)
