"""What was found for many queries, ranked, by columns, before any item is looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.items import Modality

__all__ = ["MODALITIES", "RankedLists", "Rows"]

MODALITIES = tuple(Modality)


class Rows(NamedTuple):
    """Rows found for many queries, by columns, the best of each query first.

    Args:
        queries: int64 (m,): the number of the query.
        items: int64 (m,): the item's id.
        cosines: float32 (m,).
        are_exact: bool (m,): whether all rows were compared with the query.
    """

    queries: NDArray[np.int64]
    items: NDArray[np.int64]
    cosines: NDArray[np.float32]
    are_exact: NDArray[np.bool_]

    def only(self, wanted: NDArray[np.bool_] | NDArray[np.intp]) -> Rows:
        """Return those that are wanted: whether each is (m,), or their places."""
        return Rows(
            self.queries[wanted], self.items[wanted], self.cosines[wanted], self.are_exact[wanted]
        )

    def best_of_items(self) -> Rows:
        """Return the best row of each item of each query, in the same order."""
        _, first = np.unique(_pairs(self.queries, self.items), return_index=True)
        return self.only(np.sort(first))

    def without(self, queries: NDArray[np.int64], items: NDArray[np.int64]) -> Rows:
        """Return all but some items (n,) of some queries (n,)."""
        pairs = _pairs(np.concatenate([self.queries, queries]), np.concatenate([self.items, items]))
        return self.only(~np.isin(pairs[: len(self.items)], pairs[len(self.items) :]))


def _pairs(queries: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a number for each pair; the item of a row that is nobody's is -1."""
    return queries * np.int64(items.max(initial=0) + 2) + items


def _end_to_end(columns: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    """Return arrays as one; of none an empty one."""
    return np.concatenate([np.empty(0, kind), *columns])


@dataclass(frozen=True, slots=True, eq=False)
class RankedLists:
    """The hits of many queries, by columns: what a batch job writes.

    Args:
        starts: int64 (n + 1,); those of query i lie from ``starts[i]`` up to ``starts[i + 1]``.
        scores: float64 (m,), falling within a query; equal ones by key.
        cosines: float32 (m,).
        are_exact: bool (m,), whether all rows of the hit's modality were compared.
        modalities: int8 (m,), places in ``MODALITIES``.
        places: int64 (m,), the place of each hit's key in ``keys``.
        keys: The keys; those of lists that were joined may be there several times.
    """

    starts: NDArray[np.int64]
    scores: NDArray[np.float64]
    cosines: NDArray[np.float32]
    are_exact: NDArray[np.bool_]
    modalities: NDArray[np.int8]
    places: NDArray[np.int64]
    keys: Sequence[str]

    @classmethod
    def of(
        cls,
        count: int,
        k: int,
        parts: Sequence[tuple[Modality, Rows, NDArray[np.float64]]],
        keys_of: Callable[[Sequence[int]], Sequence[str]],
    ) -> RankedLists:
        """Return the best k hits of each query.

        Args:
            count: How many queries there are.
            k: How many hits each may have.
            parts: What was found in each modality, and its scores; items once a query.
            keys_of: Returns the keys of items by their ids.
        """
        queries = _end_to_end([rows.queries for _, rows, _ in parts], np.int64)
        scores = _end_to_end([own for _, _, own in parts], np.float64)
        cosines = _end_to_end([rows.cosines for _, rows, _ in parts], np.float32)
        are_exact = _end_to_end([rows.are_exact for _, rows, _ in parts], np.bool_)
        numbers = np.array([MODALITIES.index(one) for one, _, _ in parts], np.int8)
        modalities = np.repeat(numbers, [len(own) for _, _, own in parts])
        items = _end_to_end([rows.items for _, rows, _ in parts], np.int64)
        distinct, places = np.unique(items, return_inverse=True)
        keys = keys_of(distinct.tolist())
        order = np.lexsort((-scores, queries))
        tied = (np.diff(scores[order]) == 0) & (np.diff(queries[order]) == 0)
        if tied.any():
            # Of the keys only those are sorted that a tie is broken by.
            among = order[np.concatenate([tied, [False]]) | np.concatenate([[False], tied])]
            named = np.unique(places[among]).tolist()
            by_key = np.zeros(len(keys), np.int64)
            by_key[sorted(named, key=keys.__getitem__)] = np.arange(len(named))
            order = np.lexsort((by_key[places], -scores, queries))
        counts = np.bincount(queries, minlength=count)
        before = np.repeat(np.cumsum(counts) - counts, counts)
        order = order[np.arange(len(order)) - before < k]
        starts = np.concatenate([[0], np.cumsum(np.minimum(counts, k))])
        return cls(
            starts,
            scores[order],
            cosines[order],
            are_exact[order],
            modalities[order],
            places[order],
            keys,
        )

    @classmethod
    def joined(cls, count: int, groups: Sequence[tuple[Sequence[int], RankedLists]]) -> RankedLists:
        """Return the lists of groups of queries as one.

        Args:
            count: How many queries there are; one of no group has no hits.
            groups: The numbers of the queries of each group, with their lists.
        """
        if len(groups) == 1 and list(groups[0][0]) == list(range(count)):
            return groups[0][1]
        counts = np.zeros(count, np.int64)
        owners, places, keys = [], [], list[str]()
        for numbers, one in groups:
            own = np.diff(one.starts)
            counts[list(numbers)] = own
            owners.append(np.repeat(np.asarray(numbers, np.int64), own))
            places.append(one.places + len(keys))
            keys += one.keys
        lists = [one for _, one in groups]
        order = np.argsort(_end_to_end(owners, np.int64), kind="stable")
        return cls(
            np.concatenate([[0], np.cumsum(counts)]),
            _end_to_end([one.scores for one in lists], np.float64)[order],
            _end_to_end([one.cosines for one in lists], np.float32)[order],
            _end_to_end([one.are_exact for one in lists], np.bool_)[order],
            _end_to_end([one.modalities for one in lists], np.int8)[order],
            _end_to_end(places, np.int64)[order],
            keys,
        )

    def __len__(self) -> int:
        """Return of how many queries."""
        return len(self.starts) - 1

    @property
    def how(self) -> NDArray[np.str_]:
        """``exact`` or ``ann`` for each hit (m,)."""
        return np.where(self.are_exact, "exact", "ann")

    @property
    def ranks(self) -> NDArray[np.int64]:
        """The rank of each hit, from 1 (m,)."""
        counts = np.diff(self.starts)
        return np.arange(1, len(self.scores) + 1) - np.repeat(self.starts[:-1], counts)

    def found_keys(self) -> Iterator[list[str]]:
        """Yield the keys of each query's hits, the best first."""
        for start, end in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            yield [self.keys[place] for place in self.places[start:end].tolist()]
