"""How deep an index must be asked for the recall that is promised: measured, never assumed.

    queries of every modality that asks ──▶ the best rows, exactly ──▶ the truth
                     └────────────────────▶ by the index, at rising depth ──▶ recall, and how sure

The depth chosen is the least at which the recall of each modality's queries lies above the promise
with 95 % confidence. Rows of other modalities are the queries that matter: they do not lie where
the rows do, and a depth that was found with the rows' own kind may miss for them. How far from its
hits any of them was is kept too: nothing is promised of queries that are farther from all rows, as
one that only leads away from something is, so they are compared with all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.index import planner
from muomni_search.index.protocol import CandidateLists, Candidates, VectorIndex
from muomni_search.index.ties import Ties
from muomni_search.items import DIM
from muomni_search.vectors import normalise

__all__ = [
    "ENOUGH_ROWS",
    "MOST_RECALL",
    "Asking",
    "Measured",
    "Promise",
    "asking_from_afar",
    "asking_with",
    "queries_for",
    "tune",
]

DEPTHS = (100, 200, 400, 800, 1_600, 3_200, 6_400)
# To compare fewer than this share of the rows saves nothing beside the scan of all.
LEAST_SHARE = 0.0002
FEWEST_QUERIES, MOST_QUERIES = 128, 4_096
# So many rows of a modality say something of how it asks; of fewer nothing is concluded.
ENOUGH_ROWS = 8
# 97.7 % on one side: more than 95, because several depths are tried on the same queries.
DEVIATIONS = 2.0
# What ``_measure`` is sure of when each of so many queries finds all, and the one that it counts
# besides nothing: of n + 1 shares of which one is 0 the mean is 1 - 1 / (n + 1), and its standard
# error 1 / (n + 1). No depth of any index can show more.
MOST_RECALL = round(1 - (1 + DEVIATIONS) / (MOST_QUERIES + 1), 4)
SEED = 0
# Queries a little farther than all of so small a sample are no others.
LEEWAY = 0.9


class Asking(NamedTuple):
    """Queries of one kind: vectors (n, 256), and the row (n,) that each is itself, -1 for none.

    For ``rows``, ``dead`` and ``generation`` see ``Measured``.
    """

    vectors: NDArray[np.float32]
    own: NDArray[np.int64]
    rows: int = 0
    dead: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """The mean recall of the ten best over some queries, and what it is at least (95 %).

    Those who asked had ``rows`` live rows then and ``dead`` ones, in this ``generation`` of their
    file: when they are many more, or when many of those are gone, they ask again.
    """

    queries: int
    recall: float
    low: float
    rows: int = 0
    dead: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Promise:
    """What an index holds to.

    Args:
        recall: The share of the ten best that an answer holds on average, at least.
        fetch: The depth that keeps it; None when none does, so that all rows are compared.
        measured: What was measured at that depth, by who asks; where none keeps it, at the last
            one, of those who asked until it was missed.
        rows: Of so many rows.
        measured_at: When, ISO 8601 in UTC; None where an earlier version measured.
        reach: How near the tenth of its hits was to each query, at least, give or take ``LEEWAY``;
            -1 where an earlier version measured.
    """

    recall: float
    fetch: int | None
    measured: Mapping[str, Measured]
    rows: int
    measured_at: str | None = None
    reach: float = -1.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "recall": self.recall,
            "k": planner.TUNED_K,
            "fetch": self.fetch,
            "rows": self.rows,
            "measured_at": self.measured_at,
            "reach": self.reach,
            "measured": {name: asdict(one) for name, one in self.measured.items()},
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Promise:
        """Return what ``as_dict`` described.

        Raises:
            AttributeError, KeyError, TypeError: It is something else.
        """
        measured = {name: Measured(**one) for name, one in stored["measured"].items()}
        recall, fetch, rows = stored["recall"], stored["fetch"], stored["rows"]
        if not (isinstance(recall, float | int) and isinstance(fetch, int | None)):
            raise TypeError(f"a recall of {recall!r} at a depth of {fetch!r}")
        reach = stored.get("reach", -1.0)
        if not isinstance(rows, int) or not isinstance(reach, float | int):
            raise TypeError(f"{rows!r} rows, a reach of {reach!r}")
        return cls(recall, fetch, measured, rows, stored.get("measured_at"), reach)


def queries_for(recall: float) -> int:
    """Return how many queries of a kind are needed to be sure of a recall."""
    wanted = math.ceil(4 / (1 - recall)) if recall < 1 else MOST_QUERIES
    return min(max(wanted, FEWEST_QUERIES), MOST_QUERIES)


def asking_with(
    vectors: NDArray[np.float32],
    count: int,
    own: NDArray[np.int64] | None = None,
) -> Asking:
    """Return queries as a modality asks them: its rows, and sums of two where those are too few.

    Args:
        vectors: Some of its rows (n, 256), eight at least.
        count: How many queries are wanted.
        own: The numbers of these rows (n,) where they are among those that are searched.
    """
    rng = np.random.default_rng(SEED)
    chosen = np.sort(rng.permutation(len(vectors))[:count])
    numbers = np.full(len(chosen), -1) if own is None else own[chosen]
    lacking = count - len(chosen)
    pairs = rng.integers(0, len(vectors), (lacking, 2))
    sums = vectors[pairs[:, 0]] + vectors[pairs[:, 1]]
    sums[~sums.any(axis=1)] = vectors[0]
    return Asking(
        np.concatenate([vectors[chosen], normalise(sums) if lacking else sums]),
        np.concatenate([numbers, np.full(lacking, -1)]),
    )


def asking_from_afar(vectors: NDArray[np.float32], count: int) -> Asking:
    """Return queries of a modality of which too little is there, made of the rows (n, 256).

    Half of them are rows half rotated, shifted by a constant gap and noisy, as words lie that ask
    for pictures (docs/benchmarks.md). The others lie half in directions in which the rows hardly
    differ: the hardest to answer from codes that were learned on the rows.
    """
    rng = np.random.default_rng(SEED)
    rotation, _ = np.linalg.qr(rng.standard_normal((DIM, DIM)))
    gap = normalise(rng.standard_normal(DIM))
    noise = normalise(rng.standard_normal((count, DIM)))
    rows = vectors[rng.integers(0, len(vectors), count)]
    queries = rows + 0.5 * rows @ rotation + 0.5 * gap + 0.3 * noise
    queries[::2] = 0.5 * rows[::2] + noise[::2]
    return Asking(normalise(queries), np.full(count, -1))


def tune(
    index: VectorIndex,
    vectors: NDArray[np.float32],
    dead: NDArray[np.int64],
    asking: Mapping[str, Asking],
    recall: float,
) -> Promise:
    """Return the least depth at which an index keeps a promise, with what was measured there.

    Args:
        index: The index.
        vectors: All rows (n, 256), dead ones too.
        dead: The dead ones, sorted.
        asking: Queries by who asks.
        recall: What is promised; above ``MOST_RECALL`` no index will do, and none is asked.
    """
    if recall > MOST_RECALL:
        return Promise(recall, None, {}, index.rows)
    truth = {
        name: planner.top_rows_many(
            one.vectors,
            vectors,
            k=planner.TUNED_K + 1,  # one more, for it may be the row that asks
            dead=dead,
            ties=Ties.by_row(len(vectors)),
        )
        for name, one in asking.items()
    }
    measured: dict[str, Measured] = {}
    # Deeper than that every row is compared, whatever is measured.
    least = min(LEAST_SHARE * index.rows, DEPTHS[-1])
    most = planner.RUNAWAY_SHARE * index.rows
    depths = [fetch for fetch in DEPTHS if least <= fetch <= most]
    for fetch in depths or DEPTHS[:1]:
        measured = {}
        for name, one in asking.items():
            measured[name] = _measure(index, vectors, dead, one, truth[name], fetch)
            if measured[name].low < recall:
                break  # the others need not be asked at this depth
        else:
            return Promise(recall, fetch, measured, index.rows, reach=_reach(asking, truth))
    return Promise(recall, None, measured, index.rows)


def _reach(asking: Mapping[str, Asking], truth: Mapping[str, CandidateLists]) -> float:
    """Return ``Promise.reach`` of queries and what they should find."""
    tenths = [
        _others(best, own)[-1:]
        for name, one in asking.items()
        for best, own in zip(truth[name], one.own.tolist(), strict=True)
    ]
    all_tenths = np.concatenate(tenths)
    if not len(all_tenths):
        return -1.0
    least = float(all_tenths.min())
    return round(least * LEEWAY if least > 0 else least / LEEWAY, 4)


def _measure(
    index: VectorIndex,
    vectors: NDArray[np.float32],
    dead: NDArray[np.int64],
    asking: Asking,
    truth: CandidateLists,
    fetch: int,
) -> Measured:
    shares = np.empty(len(truth) + 1)
    # What so few queries could not show: one more that finds nothing. Without it a sample in which
    # nothing was missed would be sure of everything.
    shares[-1] = 0.0
    for number, (query, own) in enumerate(zip(asking.vectors, asking.own.tolist(), strict=True)):
        # One more than ten, where the row itself is one of them, but asked for no deeper.
        k = planner.TUNED_K + (own >= 0)
        depth = fetch * planner.TUNED_K // k
        found = planner.top_rows(query, vectors, k=k, dead=dead, index=index, fetch=depth)
        shares[number] = _share(found, truth[number], own)
    low = shares.mean() - DEVIATIONS * shares.std(ddof=1) / math.sqrt(len(shares))
    recall = float(shares[:-1].mean())
    state = (asking.rows, asking.dead, asking.generation)
    return Measured(len(truth), round(recall, 4), round(float(low), 4), *state)


def _share(found: Candidates, best: Candidates, own: int) -> float:
    """Return how many of the ten best were found, the query's own row aside; ties are alike."""
    others = _others(best, own)
    if not len(others):
        return 1.0
    hits = int((found.cosines[found.rows != own] >= others[-1]).sum())
    return min(hits, len(others)) / len(others)


def _others(best: Candidates, own: int) -> NDArray[np.float32]:
    """Return the ten best cosines, that of the query's own row aside."""
    others: NDArray[np.float32] = best.cosines[best.rows != own]
    return others[: planner.TUNED_K]
