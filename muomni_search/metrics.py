"""What is measured, as pure functions of arrays: rankings, correlations, the shape of a space.

Rankings come in as two arrays. ``ranked`` (queries, depth) holds the gain of what was found, best
first: its grade, 0 where it is not relevant or where nothing was found. ``judged`` (queries, any)
holds the gains of all that is relevant, in any order, filled up with zeros. Metrics of rankings
return a value a query, so that their mean can be drawn again from the same queries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.extras import load_extra

__all__ = [
    "alignment",
    "bootstrap_draws",
    "bootstrap_interval",
    "chance_success_at_k",
    "effective_rank",
    "equal_rows",
    "first_relevant_ranks",
    "folds_of",
    "hubness",
    "interval_of",
    "is_separated",
    "mean",
    "mean_reciprocal_rank",
    "modality_gap",
    "ndcg_at_k",
    "pearson",
    "recall_at_k",
    "reciprocal_ranks",
    "spearman",
    "success_at_k",
    "successes_at_k",
    "uniformity",
]

Ranks = NDArray[np.int64]
Array = NDArray[np.floating]
Values = NDArray[np.float64]

RESAMPLES = 2_000
LEVEL = 0.95
# Rows compared with all others at a time: 16 MB of products with 4,000 of them.
ROWS_AT_ONCE = 512
FOLDS = 5


# ---- rankings --------------------------------------------------------------------------------


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

    Where each query has one relevant item this is recall@k; of several one is enough here.
    """
    return float(np.mean(ranks <= k))


def chance_success_at_k(relevant: Sequence[int], items: int, k: int) -> float:
    """Return the success@k that rankings by chance have on average.

    Of each query it is the hypergeometric probability that k of the items hold a relevant one.

    Args:
        relevant: How many items are relevant to each query.
        items: How many can be found.
        k: How many are looked at.
    """
    k = min(k, items)
    misses = [math.comb(items - count, k) / math.comb(items, k) for count in relevant]
    return 1.0 - float(np.mean(misses))


def mean_reciprocal_rank(ranks: Ranks) -> float:
    """Return the mean of 1 / rank of the first relevant item (Voorhees 1999)."""
    return float(np.mean(1.0 / ranks))


def recall_at_k(ranked: Array, judged: Array, k: int) -> Values:
    """Return the share of each query's relevant items that are among the first k."""
    found = (ranked[:, :k] > 0).sum(axis=1)
    return np.asarray(found / np.maximum((judged > 0).sum(axis=1), 1), np.float64)


def successes_at_k(ranked: Array, k: int) -> Values:
    """Return 1 for each query with a relevant item among the first k, else 0."""
    return np.asarray((ranked[:, :k] > 0).any(axis=1), np.float64)


def ndcg_at_k(ranked: Array, judged: Array, k: int) -> Values:
    """Return the normalised discounted cumulative gain of each query.

    As trec_eval and ir_measures have it: the gain is the grade itself, the discount
    log2(rank + 1), and 1 the best order of all that is relevant (Järvelin & Kekäläinen 2002).
    """
    best = -np.sort(-np.maximum(judged, 0), axis=1)
    ideal = _discounted(best[:, :k])
    found = _discounted(np.maximum(ranked[:, :k], 0))
    return np.divide(found, ideal, out=np.zeros(len(found)), where=ideal > 0)


def _discounted(gains: Array) -> Values:
    discount = 1 / np.log2(np.arange(2, gains.shape[1] + 2))
    return np.asarray(gains @ discount, np.float64)


def reciprocal_ranks(ranked: Array, k: int | None = None) -> Values:
    """Return 1 / rank of each query's first relevant item, 0 where there is none (up to k)."""
    found = ranked[:, :k] > 0
    first = np.argmax(found, axis=1) + 1 if found.shape[1] else np.ones(len(found))
    return np.asarray(found.any(axis=1) / first, np.float64)


# ---- correlations ----------------------------------------------------------------------------


def pearson(first: Array, second: Array) -> float:
    """Return the linear correlation; NaN where one side is constant."""
    one, other = (np.asarray(side, np.float64) - np.mean(side) for side in (first, second))
    length = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / length if length > 0 else float("nan")


def spearman(first: Array, second: Array) -> float:
    """Return the rank correlation (Spearman 1904); equal values share their mean rank."""
    return pearson(_mean_ranks(first), _mean_ranks(second))


def _mean_ranks(values: Array) -> Values:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: Values = (ends - counts + ends - 1) / 2
    return means[inverse]


# ---- how sure that is ------------------------------------------------------------------------


def mean(values: NDArray[Any]) -> float:
    """Return the mean of a value a unit."""
    return float(np.mean(values))


def bootstrap_draws(
    rows: NDArray[Any],
    metric: Callable[[NDArray[Any]], float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Values:
    """Return a metric of as many rows drawn again with replacement, (resamples,) (Efron 1979).

    Of as many rows and with the same seed the same ones are drawn, so the difference of two
    models' draws is that of a paired bootstrap (Efron & Tibshirani 1993).

    Args:
        rows: A row (or a value) a query, pair or item: what is drawn.
        metric: Of some of the rows.
        resamples: How often.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    count = len(rows)
    return np.array([metric(rows[rng.integers(0, count, count)]) for _ in range(resamples)])


def interval_of(draws: Values, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of draws; NaN among them are left out."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_interval(
    ranks: Sequence[int] | Ranks,
    metric: Callable[[Ranks], float],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a metric over queries (Efron 1979)."""
    values = np.asarray(ranks)
    draws = bootstrap_draws(values, metric, resamples=resamples, seed=seed)
    return interval_of(draws, level=level)


# ---- the shape of a space --------------------------------------------------------------------


def effective_rank(vectors: Array) -> float:
    """Return how many directions vectors (n, d) use: 1 for one, d for all alike.

    The exponential of the entropy of their singular values, scaled to sum 1 (Roy & Vetterli
    2007). The vectors are taken as they are, not centred.
    """
    values = np.linalg.svd(np.asarray(vectors, np.float64), compute_uv=False)
    shares = values[values > 0] / values.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def uniformity(vectors: Array) -> float:
    """Return how evenly unit vectors (n, d) lie on the sphere; lower is more evenly, at best -4.

    The logarithm of the mean of exp(-2 ‖x - y‖²) over all pairs (Wang & Isola 2020).
    """
    wide = np.asarray(vectors, np.float64)
    count = len(wide)
    total = sum(
        float(np.exp(4 * (wide[start : start + ROWS_AT_ONCE] @ wide.T) - 4).sum())
        for start in range(0, count, ROWS_AT_ONCE)
    )
    # Every vector with itself is no pair; its distance is 0.
    return float(np.log((total - count) / (count * (count - 1))))


def alignment(groups: Sequence[tuple[Array, Array]]) -> float:
    """Return the mean of ‖x - y‖² over pairs of unit vectors that belong together.

    0 when they coincide, 2 when they have nothing to do with each other (Wang & Isola 2020).

    Args:
        groups: Vectors (n, d) and others (m, d) that all belong together, n · m pairs. They are
            not formed, as they may be as many as the square of the items.
    """
    total, pairs = 0.0, 0
    for group in groups:
        first, second = (np.asarray(side, np.float64) for side in group)
        total += len(second) * np.sum(first**2) + len(first) * np.sum(second**2)
        total -= 2 * first.sum(axis=0) @ second.sum(axis=0)
        pairs += len(first) * len(second)
    # Of vectors that coincide rounding may leave a little less than nothing.
    return max(0.0, float(total / pairs))


def modality_gap(first: Array, second: Array) -> float:
    """Return the distance between the means of two sets of vectors (Liang et al. 2022)."""
    gap = np.mean(first, axis=0, dtype=np.float64) - np.mean(second, axis=0, dtype=np.float64)
    return float(np.linalg.norm(gap))


def hubness(asking: Array, asked: Array, k: int) -> float:
    """Return the skewness of how often each item is among the k nearest of a query.

    0 when all are found alike often; above 1 a few hubs are found for everything (Radovanović
    et al. 2010). NaN when they are all found equally often.

    Args:
        asking: The queries (q, d); the same array as ``asked`` when items ask for each other,
            and then none finds itself.
        asked: The items (n, d).
        k: How many are found, fewer than there are items.
    """
    counts = np.zeros(len(asked))
    for start in range(0, len(asking), ROWS_AT_ONCE):
        products = asking[start : start + ROWS_AT_ONCE] @ asked.T
        if asking is asked:
            own = np.arange(len(products))
            products[own, start + own] = -np.inf
        nearest = np.argpartition(-products, k - 1, axis=1)[:, :k]
        counts += np.bincount(nearest.ravel(), minlength=len(asked))
    spread = counts - counts.mean()
    deviation = float(np.sqrt(np.mean(spread**2)))
    return float(np.mean(spread**3)) / deviation**3 if deviation > 0 else float("nan")


def is_separated(first: Array, second: Array, *, seed: int = 0) -> Values:
    """Return for each of two sets' vectors whether a line puts it on the right side, 1 or 0.

    The line is a logistic regression's that has not seen the vector or an equal one (five folds,
    fewer where a set has fewer different vectors), and as many of either set are taken, so that a
    mean of .5 means that the two cannot be told apart and 1 that they lie on two sides of a plane.

    Raises:
        NotFound: scikit-learn is not installed.
    """
    count = min(len(first), len(second))
    rng = np.random.default_rng(seed)
    vectors = np.concatenate(
        [side[np.sort(rng.permutation(len(side))[:count])] for side in (first, second)]
    )
    sides = np.repeat([0, 1], count)
    linear = load_extra("sklearn.linear_model", extra="explore")
    selection = load_extra("sklearn.model_selection", extra="explore")
    numbers = equal_rows(vectors)
    different = min(len(set(numbers[sides == side].tolist())) for side in (0, 1))
    parts = folds_of(numbers, sides, min(FOLDS, different), seed) if different > 1 else []
    if not parts or any(len(np.unique(sides[learned])) < 2 for learned, _ in parts):
        # Nothing would be left of a set to learn from.
        parts = folds_of(np.arange(len(vectors)), sides, min(FOLDS, count), seed)
    model = linear.LogisticRegression(max_iter=1_000)
    found = selection.cross_val_predict(model, vectors, sides, cv=parts)
    return np.asarray(found == sides, np.float64)


def equal_rows(vectors: Array) -> NDArray[np.int64]:
    """Return a number for each vector (n, d), the same one for equal vectors."""
    known: dict[bytes, int] = {}
    return np.array([known.setdefault(row.tobytes(), len(known)) for row in vectors], np.int64)


def folds_of(
    groups: NDArray[np.int64], labels: NDArray[np.int64], folds: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return the rows to learn from and the rows held out of each fold of a cross-validation.

    What is equal is held out together: else the answer would have been seen.

    Args:
        groups: The group of each row (n,), which is never cut.
        labels: The label of each row (n,), shared out among the folds evenly. Each has rows of
            ``folds`` groups or more.
        folds: How many.
        seed: By what the rows are shuffled.

    Raises:
        NotFound: scikit-learn is not installed.
    """
    selection = load_extra("sklearn.model_selection", extra="explore")
    if len(np.unique(groups)) == len(groups):
        parts = selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
        return list(parts.split(labels, labels))
    parts = selection.StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    return list(parts.split(labels, labels, groups))
