"""Metrics against their formulas, written out the slow way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from muomni_search.metrics import (
    bootstrap_interval,
    first_relevant_ranks,
    mean_reciprocal_rank,
    success_at_k,
)


@st.composite
def judged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Similarities with many ties, and what is relevant: something in every row."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 8)))
    values = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])
    similarities = draw(arrays.arrays(np.float32, shape, elements=values))
    relevant = draw(arrays.arrays(bool, shape))
    relevant[np.arange(shape[0]), draw(st.integers(0, shape[1] - 1))] = True
    return similarities, relevant


def slow_rank(similarities: np.ndarray, relevant: np.ndarray) -> int:
    """Return 1 more than how many items come before the best relevant one."""
    best = min(
        (-value, place)
        for place, (value, good) in enumerate(zip(similarities, relevant, strict=True))
        if good
    )
    return 1 + sum((-value, place) < best for place, value in enumerate(similarities))


@given(judged())
def test_the_rank_counts_what_comes_before_the_best_relevant_item(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    similarities, relevant = case
    ranks = first_relevant_ranks(similarities, relevant)
    assert ranks.dtype == np.int64
    assert ranks.tolist() == [slow_rank(*row) for row in zip(similarities, relevant, strict=True)]


def test_equal_items_keep_their_order() -> None:
    similarities = np.full((3, 4), 0.5, np.float32)
    relevant = np.eye(4, dtype=bool)[[0, 2, 3]]
    assert first_relevant_ranks(similarities, relevant).tolist() == [1, 3, 4]


def test_a_query_with_nothing_relevant_is_named() -> None:
    relevant = np.array([[True, False], [False, False], [False, False]])
    with pytest.raises(ValueError, match="query 1 "):
        first_relevant_ranks(np.zeros((3, 2), np.float32), relevant)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 50))
def test_success_and_reciprocal_rank_are_their_formulas(ranks: list[int], k: int) -> None:
    array = np.array(ranks)
    within = len([rank for rank in ranks if rank <= k])
    assert success_at_k(array, k) == pytest.approx(within / len(ranks))
    assert mean_reciprocal_rank(array) == pytest.approx(
        math.fsum(1 / rank for rank in ranks) / len(ranks)
    )


def test_known_values() -> None:
    ranks = np.array([1, 2, 4, 100])
    assert mean_reciprocal_rank(ranks) == pytest.approx((1 + 0.5 + 0.25 + 0.01) / 4)
    assert [success_at_k(ranks, k) for k in (1, 2, 3, 4, 99, 100)] == [
        0.25,
        0.5,
        0.5,
        0.75,
        0.75,
        1,
    ]


def test_success_grows_with_k_and_bounds_the_reciprocal_rank() -> None:
    ranks = np.random.default_rng(0).integers(1, 40, 200)
    shares = [success_at_k(ranks, k) for k in range(1, 41)]
    assert shares == sorted(shares)
    assert shares[0] <= mean_reciprocal_rank(ranks) <= 1
    assert shares[-1] == 1


def test_the_interval_is_that_of_the_binomial_law() -> None:
    # 30 of 100 queries succeed: the deviation of the share is sqrt(.3 · .7 / 100) = .0458.
    ranks = np.where(np.arange(100) < 30, 1, 9)
    low, high = bootstrap_interval(ranks, lambda some: success_at_k(some, 5))
    deviation = math.sqrt(0.3 * 0.7 / 100)
    assert low == pytest.approx(0.3 - 1.96 * deviation, abs=0.02)
    assert high == pytest.approx(0.3 + 1.96 * deviation, abs=0.02)


def test_the_interval_is_the_same_in_every_run_and_narrows_with_queries_and_level() -> None:
    ranks = np.random.default_rng(1).integers(1, 20, 400)

    def width(*given: object, **named: object) -> float:
        low, high = bootstrap_interval(*given, mean_reciprocal_rank, **named)
        return high - low

    assert bootstrap_interval(ranks.tolist(), mean_reciprocal_rank) == bootstrap_interval(
        ranks, mean_reciprocal_rank
    )
    assert width(ranks) < width(ranks[:50])
    assert width(ranks, level=0.5) < width(ranks)
    assert bootstrap_interval([3, 3, 3], mean_reciprocal_rank) == pytest.approx((1 / 3, 1 / 3))
    low, high = bootstrap_interval(ranks, mean_reciprocal_rank)
    assert low < mean_reciprocal_rank(ranks) < high
