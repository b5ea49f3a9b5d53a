"""Scores that compare across modalities.

The cosines of a picture with pictures lie higher than those with words, whatever they show, so a
ranking of several modalities by raw cosine shows one of them only. A hit is therefore scored
against the background of its query over its modality: the median and the upper tail of the
cosines with a fixed sample of the rows. Within a modality the order stays that of the cosines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from muomni_search.cores import usable_cores
from muomni_search.items import Modality

__all__ = [
    "PRIOR_SAMPLE",
    "SAMPLE_ROWS",
    "UNKNOWN",
    "Background",
    "Prior",
    "background",
    "backgrounds",
    "fit_prior",
    "prior_for",
    "upper_tail",
]

# 200 rows rank as well as all; more make the score of a single query steadier.
SAMPLE_ROWS = 1_024
# Contents of each modality that a model's prior is fitted on.
PRIOR_SAMPLE = 400
# So many rows weigh as much as what the model knew before.
PRIOR_WEIGHT = 50
TAIL = 0.99
# Of a normal law the 99 % point lies 2.326 deviations above the median, so that the scale is a
# deviation and the score reads like a z-value.
TAIL_DEVIATIONS = 2.326
# Rows that are all alike would make any difference infinitely large.
MIN_SCALE = 0.02
# A query whose answer is not there still finds something; the score of the best of that is known
# for so many rows, and its growth with them was measured between these numbers.
ALARM_ROWS, FEWEST_ROWS = 400, 50
FALSE_ALARMS = 0.1
# How many queries each thread compares with the sample at a time: 1 MB of cosines.
QUERIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Prior:
    """What to expect of unrelated cosines before any row is seen.

    Args:
        median: Their median.
        scale: Their deviation, by the upper tail.
        alarm: The score that the best of 400 unrelated rows reaches for one query of ten.
        growth: How much higher that is for each e-fold of rows.
    """

    median: float
    scale: float
    alarm: float = 4.0
    growth: float = 0.4

    def alarm_of(self, rows: int) -> float:
        """Return the score that the best of so many unrelated rows reaches, as far as known."""
        known = min(max(rows, FEWEST_ROWS), SAMPLE_ROWS)
        return self.alarm + self.growth * math.log(known / ALARM_ROWS)


# For a model that says nothing: unrelated directions in 256 dimensions, generously.
UNKNOWN = Prior(0.0, 0.1)


@dataclass(frozen=True, slots=True)
class Background:
    """The cosines of one query with rows that it has nothing to do with.

    A score of ``alarm`` or more is one that the best of so many unrelated rows reaches for one
    query of ten only.
    """

    median: float
    scale: float
    alarm: float = math.inf

    def score(self, cosine: float) -> float:
        """Return how many deviations above the background a cosine lies."""
        return (cosine - self.median) / self.scale


def background(
    query: NDArray[np.float32], sample: NDArray[np.float32], prior: Prior | None
) -> Background:
    """Return the background of a query (256,) over a sample (m, 256) of a modality's rows.

    While there are few rows the prior counts as much as ``PRIOR_WEIGHT`` of them.
    """
    return backgrounds(query[None], sample, [prior])[0]


def backgrounds(
    queries: NDArray[np.float32], sample: NDArray[np.float32], priors: Sequence[Prior | None]
) -> list[Background]:
    """Return the background of each query (n, 256), with a prior for each; see ``background``."""
    count = len(sample)
    weight = count / (count + PRIOR_WEIGHT)
    medians, scales = _measured(queries, sample)
    found = []
    for median, scale, prior in zip(medians.tolist(), scales.tolist(), priors, strict=True):
        expected = prior or UNKNOWN
        middle = weight * median + (1 - weight) * expected.median
        spread = weight * scale + (1 - weight) * expected.scale
        found.append(Background(middle, max(spread, MIN_SCALE), expected.alarm_of(count)))
    return found


def _measured(
    queries: NDArray[np.float32], sample: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return median and upper-tail scale of each query's cosines with a sample, zeros for none."""
    medians, scales = np.zeros(len(queries)), np.zeros(len(queries))

    def measure(start: int) -> None:
        block = slice(start, start + QUERIES_AT_ONCE)
        # One product for each pair: a cosine is the same whatever the batch, and so is the score of
        # a hit, which those of a matrix product would not be.
        cosines = np.vecdot(sample[np.newaxis], queries[block, np.newaxis])
        medians[block], tails = _quantiles(cosines, (0.5, TAIL))
        scales[block] = (tails - medians[block]) / TAIL_DEVIATIONS

    starts = range(0, len(queries) if len(sample) else 0, QUERIES_AT_ONCE)
    if len(starts) > 1:
        from concurrent.futures import ThreadPoolExecutor  # which a single query does without

        with ThreadPoolExecutor(usable_cores(), "muomni-measure") as pool:
            list(pool.map(measure, starts))
    else:
        list(map(measure, starts))
    return medians, scales


def _quantiles(values: NDArray[np.float32], shares: Sequence[float]) -> list[NDArray[np.float64]]:
    """Return what ``np.quantile`` does along rows (n, m), in a fraction of the time."""
    last = values.shape[1] - 1
    places = [share * last for share in shares]
    around = [number for place in places for number in (int(place), min(int(place) + 1, last))]
    ordered = np.sort(values, axis=1)  # of so few numbers faster than to part them at four places
    picked = ordered[:, around].T.astype(np.float64)
    return [
        low + (place - int(place)) * (high - low)
        for place, low, high in zip(places, picked[::2], picked[1::2], strict=True)
    ]


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
    means = {
        name: float(np.mean([one[name] for one in found if name in one]))
        for name in ("median", "scale", "alarm", "growth")
        if any(name in one for one in found)
    }
    return Prior(**means)


def fit_prior(
    vectors: Mapping[Modality, NDArray[np.float32]],
    labels: Mapping[Modality, Sequence[object]] | None = None,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return what to expect of the cosines of unrelated pairs: a model's prior.

    Args:
        vectors: For each modality unit rows (n, 256) of contents that have little to do with each
            other, two at least.
        labels: What each row is of; equal ones are related, and left out. By default each row is
            of something else.

    Returns:
        For each modality asked with and asked for what ``Prior`` holds, means over the queries.
    """
    prior: dict[str, dict[str, dict[str, float]]] = {}
    for asking, queries in vectors.items():
        prior[str(asking)] = {}
        for asked, items in vectors.items():
            cosines = (queries @ items.T).astype(np.float64)
            if labels is not None:
                ours, theirs = (np.array(list(map(str, labels[one]))) for one in (asking, asked))
                cosines[ours[:, None] == theirs[None]] = np.nan
            if asking == asked:
                np.fill_diagonal(cosines, np.nan)
            prior[str(asking)][str(asked)] = {
                name: round(value, 4) for name, value in _unrelated(cosines).items()
            }
    return prior


def _unrelated(cosines: NDArray[np.float64]) -> dict[str, float]:
    """Return the prior of queries and unrelated rows; related ones are NaN.

    Queries to which all rows are related say nothing. What cannot be measured is ``UNKNOWN``'s.
    """
    cosines = cosines[~np.isnan(cosines).all(axis=1)]
    if not len(cosines):
        return asdict(UNKNOWN)
    median, scale = upper_tail(cosines)
    scores = (cosines - median[:, None]) / np.maximum(scale, MIN_SCALE)[:, None]
    count = cosines.shape[1]
    few = max(2, count // 4)
    rng = np.random.default_rng(0)
    some = [scores[:, rng.choice(count, few, replace=False)] for _ in range(8)]
    alarm = _alarm(scores)
    alarms = [_alarm(one) for one in some if not np.isnan(one).all()]
    growth = UNKNOWN.growth
    if alarms and few < count:
        growth = max(0.0, alarm - float(np.mean(alarms))) / math.log(count / few)
    return {
        "median": float(median.mean()),
        "scale": float(scale.mean()),
        "alarm": alarm + growth * math.log(ALARM_ROWS / count),
        "growth": growth,
    }


def upper_tail(cosines: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return median and upper-tail scale of each row of cosines (n, m), NaN left out."""
    median = np.nanmedian(cosines, axis=1)
    return median, (np.nanquantile(cosines, TAIL, axis=1) - median) / TAIL_DEVIATIONS


def _alarm(scores: NDArray[np.float64]) -> float:
    """Return the score that the best row reaches for the share ``FALSE_ALARMS`` of the queries."""
    best = np.where(np.isnan(scores), -np.inf, scores).max(axis=1)
    return float(np.quantile(best[np.isfinite(best)], 1 - FALSE_ALARMS))
