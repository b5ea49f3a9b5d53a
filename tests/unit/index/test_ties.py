"""What is tied with the last: left out by rank, once a search has found many."""

import numpy as np
import pytest
from numpy.typing import NDArray
from vector_helpers import rows_of

from muomni_search.index import first_pass, planner
from muomni_search.index.exact import best_of, exact_top_rows
from muomni_search.index.protocol import CandidateLists, Candidates
from muomni_search.index.ties import Ties

NOTHING = np.empty(0, np.int64)
ROWS = 900
RANKS = np.random.default_rng(9).permutation(ROWS)


def tied_rows() -> NDArray[np.float32]:
    """Return rows of which two thirds are one of three."""
    vectors = rows_of(ROWS, 1)
    rng = np.random.default_rng(2)
    equal = rng.permutation(ROWS)[:600]
    vectors[equal] = vectors[rng.integers(0, 3, 600)]
    return vectors


def best_by_rank(found: Candidates, k: int) -> list[int]:
    """Return the first k rows by cosine and then rank, sorted."""
    order = np.lexsort((RANKS[found.rows], -found.cosines))[:k]
    return sorted(found.rows[order].tolist())


@pytest.mark.parametrize("k", [1, 7, 250, 700])
def test_the_best_by_rank_are_kept_in_their_order(k: int) -> None:
    vectors = tied_rows()
    for query in vectors[:40]:
        found = exact_top_rows(query, vectors, k=k, dead=NOTHING)
        kept = Ties(lambda: RANKS, 0).cut(found, k)
        assert sorted(kept.rows.tolist()) == best_by_rank(found, k)
        again = best_of(kept.rows, kept.cosines, k)
        assert kept.rows.tolist() == again.rows.tolist()
        assert kept.cosines.tobytes() == again.cosines.tobytes()


def test_nothing_is_left_out_or_ranked_before_many_are_found() -> None:
    asked: list[str] = []

    def ranks() -> NDArray[np.int64]:
        asked.append("ranks")
        return RANKS

    found = Candidates(np.arange(10), np.ones(10, np.float32), "exact")
    few = Candidates(np.arange(3), np.ones(3, np.float32), "exact")
    ties = Ties(ranks, 25)
    assert [len(ties.cut(found, 3).rows) for _ in range(2)] == [10, 10]
    assert not asked
    assert len(ties.cut(found, 3).rows) == 3
    assert len(asked) == 1
    assert ties.cut(few, 3) is few
    assert len(asked) == 1  # where no row is left out none is ranked


@pytest.mark.parametrize("most", [0, 2_000])
@pytest.mark.parametrize("share", [1, 3])
def test_a_batch_keeps_no_more_than_it_needs(most: int, share: int) -> None:
    vectors, k = tied_rows(), 10
    dead = np.arange(0, ROWS, 11)
    allowed = None if share == 1 else np.setdiff1d(np.arange(0, ROWS, share), dead)
    given = {"k": k, "dead": dead, "allowed": allowed}
    queries = np.concatenate([vectors[:100], rows_of(20, 3)])
    found = planner.top_rows_many(queries, vectors, ties=Ties(lambda: RANKS, most), **given)
    assert len(found.rows) <= most + k * len(queries) + ROWS
    for query, own in zip(queries, found, strict=True):
        whole = exact_top_rows(query, vectors, k=k, dead=dead, allowed=allowed)
        assert best_by_rank(own, k) == best_by_rank(whole, k)


def test_a_first_pass_in_fewer_bits_keeps_no_more_than_is_needed_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectors, k = tied_rows(), 10
    whole = planner.top_rows_many(vectors[:50], vectors, k=k, dead=NOTHING)
    monkeypatch.setattr(first_pass, "is_paying", lambda *_: True)
    monkeypatch.setattr(first_pass, "best_rows", lambda *_: whole)
    ties = Ties(lambda: RANKS, 100)
    found = planner.top_rows_many(vectors[:50], vectors, k=k, dead=NOTHING, ties=ties)
    assert len(found.rows) <= 100 + k * 50 < len(whole.rows)
    assert [best_by_rank(own, k) for own in found] == [best_by_rank(own, k) for own in whole]


def test_lists_that_are_short_together_stay_as_they_are() -> None:
    starts = np.array([0, 3, 5])
    lists = CandidateLists(starts, np.arange(5), np.ones(5, np.float32), np.ones(2, bool))
    ties = Ties(lambda: RANKS, 9)
    assert ties.cut_all(lists, 2) is lists
    assert np.diff(ties.cut_all(lists, 2).starts).tolist() == [3, 2]  # the first of them is within
    assert np.diff(ties.cut_all(lists, 2).starts).tolist() == [2, 2]
