"""Which of many rows that are equally near are kept, where all of them would fill the memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from muomni_search.index.protocol import CandidateLists, Candidates

__all__ = ["MOST_TIED", "Ties"]

# So many rows may many queries find together before any is left out: some 10 MB.
MOST_TIED = 100_000


class Ties:
    """Leaves out rows that are tied with the last and come behind it, once a search finds many.

    Who ranks the rows afterwards as ``ranks`` does and takes the best k misses none.

    Args:
        ranks: Returns the rank of each row (n,) among those of the same cosine, the first first;
            asked at the first cut, for it may take longer than to keep a few rows more.
        most: So many rows may be found before any is left out.
    """

    def __init__(self, ranks: Callable[[], NDArray[np.int64]], most: float) -> None:
        self._ranks = ranks
        self._most = most
        self._found = 0

    @classmethod
    def by_row(cls, rows: int) -> Ties:
        """Return what keeps the first ones of so many rows, for many queries."""
        return cls(lambda: np.arange(rows), MOST_TIED)

    def cut(self, found: Candidates, k: int) -> Candidates:
        """Return the best k of a query's best k rows and all tied with the last, in their order."""
        self._found += len(found.rows)
        if self._found <= self._most or len(found.rows) <= k:
            return found
        above = int(np.searchsorted(-found.cosines, -found.cosines[-1]))
        ranks = self._ranks()[found.rows[above:]]
        first = above + np.sort(np.argpartition(ranks, k - above - 1)[: k - above])
        kept = np.concatenate([np.arange(above), first])
        return Candidates(found.rows[kept], found.cosines[kept], found.how)

    def cut_all(self, found: CandidateLists, k: int) -> CandidateLists:
        """Return the lists of many queries, each cut."""
        if self._found + len(found.rows) <= self._most:
            self._found += len(found.rows)
            return found
        return CandidateLists.joined([self.cut(one, k) for one in found])
