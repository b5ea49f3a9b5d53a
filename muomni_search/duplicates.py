"""Near-duplicates: which items of a modality lie so close together that they are one thing.

    an item, a vector ──▶ blocks against later blocks ──▶ pairs above the limit ──▶ groups

Exact: every pair is compared, each once, by blocked matrix products, first of fewer bits where
those are faster (``index/first_pass.py``); a pair that rounding could decide is computed again.
Memory is that of a block of products, or of smaller ones on each core, a vector for each item of
several segments, and a few numbers an item, however many pairs there are. Groups are what chains
of such pairs connect (single linkage).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.collection import Collection, Modalities, Where
from muomni_search.errors import InvalidInput
from muomni_search.filters import parse_filter
from muomni_search.index import coarse, first_pass
from muomni_search.index.exact import MARGIN
from muomni_search.items import DIM, Item, Modality
from muomni_search.progress import Progress, Silent
from muomni_search.store.rows import are_unit, not_unit
from muomni_search.store.snapshot import Snapshot
from muomni_search.view import modalities_of

__all__ = ["ABOVE", "Group", "find_duplicates"]

ABOVE = 0.95
# 64 MB of products; the products of smaller blocks are slower.
BLOCK = 4_096
# A vector that is stored may miss unit length by rounding, so equal ones are this far below 1.
EQUAL = 1 - 1e-6
# Pairs that are looked at together.
PAIRS = 65_536
# Items that are looked up together.
PAGE = 1_000

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Group:
    """Items that are one thing.

    Args:
        modality: Theirs.
        items: The items, the one that was added first before the others.
        cosines: For each the highest cosine with another of the group.
    """

    modality: Modality
    items: Sequence[Item]
    cosines: Sequence[float]

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON object that ``muomni duplicates --json`` prints."""
        return {
            "modality": str(self.modality),
            "items": [
                {"key": item.key, "source": item.source, "added": item.added, "cosine": cosine}
                for item, cosine in zip(self.items, self.cosines, strict=True)
            ],
        }


def find_duplicates(
    collection: Collection,
    *,
    above: float = ABOVE,
    modality: Modalities = None,
    where: Where = None,
    progress: Progress | None = None,
) -> list[Group]:
    """Return the groups of items whose cosine is ``above`` or more, the largest first.

    An item of several segments is compared by the unit mean of them.

    Args:
        collection: What to compare with itself.
        above: The least cosine of two that are one thing, above 0 and at most 1.
        modality: Only items of these modalities; two modalities are never compared.
        where: Only items that this filter matches.
        progress: Told of each item.

    Raises:
        InvalidInput: A bad filter, or ``above`` is no such number.
    """
    if not (isinstance(above, int | float | np.integer | np.floating) and 0 < above <= 1):
        raise InvalidInput(
            f"above is {above}, and must be more than 0 and at most 1",
            hint=f"try {ABOVE}, or less for what is merely alike",
        )
    condition = None if where is None else parse_filter(where)
    shown = progress or Silent()
    groups: list[Group] = []
    with collection.store.snapshot() as snapshot:
        chosen = {}
        for one in modalities_of(modality):
            owners = snapshot.row_items(one)
            rows = np.flatnonzero(owners >= 0)
            if condition is not None:
                rows = np.intersect1d(rows, snapshot.matching_rows(one, condition))
            chosen[one] = _Vectors(snapshot.vectors(one), owners, rows)
        shown.start(sum(len(vectors) for vectors in chosen.values()), "comparing")
        try:
            for one, vectors in chosen.items():
                if not vectors.are_unit():
                    raise not_unit(snapshot.row_file(one))
                found = _connected(vectors, min(above, EQUAL), shown)
                groups += _groups(snapshot, one, vectors.items, *found)
        finally:
            shown.finish()
    return sorted(groups, key=lambda group: (-len(group.items), group.items[0].key))


class _Vectors:
    """The unit vector of each item of a modality, by blocks of items.

    Args:
        vectors: All rows (rows, 256).
        owners: The item id of each row (rows,).
        rows: Which rows are meant (n,).
    """

    def __init__(self, vectors: NDArray[np.float32], owners: Ids, rows: Ids) -> None:
        self._vectors = vectors
        order = rows[np.argsort(owners[rows], kind="stable")]
        self.items, starts, counts = np.unique(owners[order], return_index=True, return_counts=True)
        self._first = order[starts]
        several = np.flatnonzero(counts > 1)
        self._mean_of = np.full(len(self.items), -1)
        self._mean_of[several] = np.arange(len(several))
        self._means = np.zeros((len(several), vectors.shape[1]), np.float32)
        for place, item in enumerate(several.tolist()):
            own = order[starts[item] : starts[item] + counts[item]]
            total = vectors[own].sum(axis=0, dtype=np.float64)
            # Segments that cancel each other out have no direction, and no likeness.
            self._means[place] = total / (np.linalg.norm(total) or 1.0)

    def __len__(self) -> int:
        return len(self.items)

    def are_unit(self) -> bool:
        """Whether the first row of each item is of length 1, and the mean of several a number."""
        return bool(np.isfinite(self._means).all()) and all(
            are_unit(self._vectors[self._first[start : start + BLOCK]]).all()
            for start in range(0, len(self), BLOCK)
        )

    def take(self, items: Any) -> NDArray[np.float32]:
        """Return the vectors (n, 256) of some items, by their places or a slice of these."""
        found: NDArray[np.float32] = self._vectors[self._first[items]]
        means = self._mean_of[items]
        found[means >= 0] = self._means[means[means >= 0]]
        return found


def _connected(
    vectors: _Vectors, above: float, progress: Progress
) -> tuple[Ids, NDArray[np.float32]]:
    """Return for each item the first one of its group (n,), and its highest cosine (n,)."""
    parents = np.arange(len(vectors))
    best = np.zeros(len(vectors), np.float32)
    is_coarse = first_pass.is_paying(len(vectors), len(vectors) // 2, 1)
    width = coarse.ROWS_AT_ONCE if is_coarse else BLOCK
    lock = Lock()

    def compare(start: int, own: _Block, other: int) -> None:
        others = vectors.take(slice(other, other + width))
        for one, two, cosines in own.pairs(others, other - start):
            one += start
            two += other
            is_unsure = np.abs(cosines - above) <= MARGIN
            cosines[is_unsure] = np.sum(
                vectors.take(one[is_unsure]).astype(np.float64) * vectors.take(two[is_unsure]),
                axis=1,
            )
            is_alike = cosines >= above
            one, two, cosines = one[is_alike], two[is_alike], cosines[is_alike]
            with lock:
                np.maximum.at(best, one, cosines)
                np.maximum.at(best, two, cosines)
                _join(parents, one, two)

    with ExitStack() as stack:
        arithmetic = None
        do: Any = map  # products of floats are on all cores by themselves
        if is_coarse:
            arithmetic = coarse.choose(len(vectors) ** 2 // 2 * DIM)
            do = stack.enter_context(coarse.workers("muomni-duplicates", arithmetic)).map
        for start in range(0, len(vectors), BLOCK):
            own = _Block(vectors.take(slice(start, start + BLOCK)), above, arithmetic)
            list(do(partial(compare, start, own), range(start, len(vectors), width)))
            progress.advance(min(BLOCK, len(vectors) - start))
    return _roots(parents, np.arange(len(parents))), np.minimum(best, 1)


class _Block:
    """The vectors (n, 256) of some items, and what others must reach of them.

    Args:
        vectors: Theirs.
        above: The limit.
        arithmetic: Of a first pass, where it pays.
    """

    def __init__(
        self, vectors: NDArray[np.float32], above: float, arithmetic: coarse.Arithmetic | None
    ) -> None:
        self._vectors = vectors
        self._least = np.float32(above - MARGIN)
        self._in_fewer_bits = None if arithmetic is None else coarse.Asked(arithmetic, vectors)

    def pairs(
        self, others: NDArray[np.float32], after: int
    ) -> Iterator[tuple[Ids, Ids, NDArray[np.float32]]]:
        """Yield pairs with others (m, 256) that may be above the limit, and their rough cosines.

        As the places of both, in portions; each pair once, and none with itself.

        Args:
            others: Items that come as late or later.
            after: How many items the first of them comes after the first of these.
        """
        near = None
        if self._in_fewer_bits is not None:
            # More than that take longer than the products of floats.
            most = first_pass.PASSING_SHARE * len(others) * len(self._vectors)
            least = np.full(len(self._vectors), self._least, np.float64)
            near = self._in_fewer_bits.near(others, least, most)
        if near is not None:
            is_later = near[1] + after > near[0]
            one, two = near[0][is_later], near[1][is_later]
            for start in range(0, len(one), PAIRS):
                some = slice(start, start + PAIRS)
                yield one[some], two[some], np.vecdot(self._vectors[one[some]], others[two[some]])
            return
        products = self._vectors @ others.T
        if after < len(products):
            count, later = products.shape
            products[np.tri(count, later, -after, dtype=np.bool_)] = -1
        places = np.flatnonzero(products >= self._least)
        for start in range(0, len(places), PAIRS):
            some_places = places[start : start + PAIRS]
            one, two = np.divmod(some_places, len(others))
            yield one, two, products.ravel()[some_places]


def _join(parents: Ids, one: Ids, two: Ids) -> None:
    """Connect pairs, all at once: the larger root of each hangs below the smaller one.

    (Shiloach and Vishkin 1982, "An O(log n) parallel connectivity algorithm", hooking.) Of several
    that would hang one root, the smallest wins, and the others are tried again.
    """
    while True:
        one, two = _roots(parents, one), _roots(parents, two)
        is_apart = one != two
        if not is_apart.any():
            return
        one, two = one[is_apart], two[is_apart]
        np.minimum.at(parents, np.maximum(one, two), np.minimum(one, two))


def _roots(parents: Ids, items: Ids) -> Ids:
    roots = parents[items]
    while (above := parents[roots]).tobytes() != roots.tobytes():
        roots = above
    parents[items] = roots
    return roots


def _groups(
    snapshot: Snapshot, modality: Modality, items: Ids, roots: Ids, best: NDArray[np.float32]
) -> Iterator[Group]:
    """Yield the groups of two and more."""
    order = np.argsort(roots, kind="stable")
    _, starts, counts = np.unique(roots[order], return_index=True, return_counts=True)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        if count > 1:
            own = order[start : start + count]
            cosines = dict(zip(items[own].tolist(), best[own].tolist(), strict=True))
            found: dict[int, Item] = {}
            for page in range(0, count, PAGE):
                found |= snapshot.items(items[own[page : page + PAGE]].tolist())
            # Of those that came together the numbers say which came first.
            sorted_ids = sorted(found, key=lambda one: (found[one].added, one))
            yield Group(
                modality,
                [found[one] for one in sorted_ids],
                [round(cosines[one], 6) for one in sorted_ids],
            )
