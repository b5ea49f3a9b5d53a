"""What an index is: something that proposes rows, faster than reading them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["CODES", "CandidateLists", "Candidates", "VectorIndex"]

# Codes of 4 bits a row, in the order in which they are tried: 64 are scanned in half the time of
# 128 and find as much when more of what they propose is compared, which costs little beside the
# scan (docs/benchmarks.md). 128 are for rows of which 64 say too little, 32 for little memory.
CODES = (64, 128, 32)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Rows that answer a query.

    Args:
        rows: int64 (m,), the best first; equal cosines by row.
        cosines: float32 (m,), as ``vectors.cosines`` computes them.
        how: Whether all rows were compared.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    how: Literal["exact", "ann"]


@dataclass(frozen=True, slots=True, eq=False)
class CandidateLists:
    """``Candidates`` of many queries, end to end.

    Args:
        starts: int64 (n + 1,); those of query i lie from ``starts[i]`` up to ``starts[i + 1]``.
        rows: int64 (m,), for each query the best first; equal cosines by row.
        cosines: float32 (m,), as ``vectors.cosines`` computes them.
        are_exact: bool (n,), for which queries all rows were compared.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]
    are_exact: NDArray[np.bool_]

    @classmethod
    def best_of(
        cls,
        k: int,
        queries: NDArray[np.int64],
        rows: NDArray[np.int64],
        cosines: NDArray[np.float32],
        are_exact: NDArray[np.bool_],
    ) -> CandidateLists:
        """Return the best k of what was compared with each query, and all tied with the last.

        Args:
            k: How many; each query has as many.
            queries: The numbers of the queries (m,), in any order.
            rows: The rows that were compared with them (m,).
            cosines: Their cosines (m,).
            are_exact: For which queries (n,) all rows were compared.
        """
        order = np.lexsort((rows, -cosines, queries))
        queries, rows, cosines = queries[order], rows[order], cosines[order]
        firsts = np.searchsorted(queries, np.arange(len(are_exact)))
        is_found = cosines >= cosines[firsts + k - 1][queries]
        counts = np.bincount(queries[is_found], minlength=len(are_exact))
        starts = np.concatenate([[0], np.cumsum(counts)])
        return cls(starts, rows[is_found], cosines[is_found], are_exact)

    @classmethod
    def joined(cls, lists: Sequence[CandidateLists | Candidates]) -> CandidateLists:
        """Return several as one, in their order."""
        counts = [
            np.diff(one.starts) if isinstance(one, CandidateLists) else [len(one.rows)]
            for one in lists
        ]
        return cls(
            np.concatenate([[0], np.cumsum(np.concatenate([[], *counts]))]).astype(np.int64),
            np.concatenate([np.empty(0, np.int64), *(one.rows for one in lists)]),
            np.concatenate([np.empty(0, np.float32), *(one.cosines for one in lists)]),
            np.concatenate(
                [
                    np.empty(0, bool),
                    *(
                        one.are_exact if isinstance(one, CandidateLists) else [one.how == "exact"]
                        for one in lists
                    ),
                ]
            ),
        )

    def __len__(self) -> int:
        """Return of how many queries."""
        return len(self.starts) - 1

    def __getitem__(self, number: int) -> Candidates:
        """Return those of one query."""
        if number >= len(self):
            raise IndexError(number)
        own = slice(self.starts[number], self.starts[number + 1])
        how: Literal["exact", "ann"] = "exact" if self.are_exact[number] else "ann"
        return Candidates(self.rows[own], self.cosines[own], how)

    def __iter__(self) -> Iterator[Candidates]:
        """Yield those of each query."""
        return (self[number] for number in range(len(self)))


class VectorIndex(Protocol):
    """Proposes rows for a query; the caller compares them exactly."""

    @property
    def rows(self) -> int:
        """It covers the first so many rows; its positions are row numbers."""
        ...

    def search(self, query: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        """Return up to ``fetch`` distinct rows that may be nearest to a query (256,).

        The likeliest come first: the caller asks deeper when its hits come from the far end.
        """
        ...

    def search_many(self, queries: NDArray[np.float32], fetch: int) -> NDArray[np.int64]:
        """Return what ``search`` does for each query (n, 256), (n, fetch); -1 where there is none.

        On the calling thread, and on several at once.
        """
        ...
