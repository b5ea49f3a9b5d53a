"""Metrics against their formulas, written out the slow way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from muomni_search.metrics import (
    alignment,
    bootstrap_draws,
    bootstrap_interval,
    chance_success_at_k,
    effective_rank,
    first_relevant_ranks,
    hubness,
    interval_of,
    is_separated,
    mean,
    mean_reciprocal_rank,
    modality_gap,
    ndcg_at_k,
    pearson,
    recall_at_k,
    reciprocal_ranks,
    spearman,
    success_at_k,
    successes_at_k,
    uniformity,
)
from muomni_search.vectors import normalise


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


# ---- rankings, a value a query ---------------------------------------------------------------


def test_metrics_of_rankings_are_their_formulas() -> None:
    ranked = np.array([[0, 3, 0, 1], [0, 0, 0, 0], [2, 0, 0, 0.0]])
    judged = np.array([[3, 1, 2], [1, 0, 0], [0, 2, 0.0]])
    assert recall_at_k(ranked, judged, 2).tolist() == pytest.approx([1 / 3, 0, 1])
    assert recall_at_k(ranked, judged, 9).tolist() == pytest.approx([2 / 3, 0, 1])
    assert successes_at_k(ranked, 1).tolist() == [0, 0, 1]
    assert reciprocal_ranks(ranked).tolist() == pytest.approx([1 / 2, 0, 1])
    assert reciprocal_ranks(ranked, 1).tolist() == pytest.approx([0, 0, 1])
    found = 3 / math.log2(3) + 1 / math.log2(5)
    best = 3 + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg_at_k(ranked, judged, 4).tolist() == pytest.approx([found / best, 0, 1])
    assert ndcg_at_k(ranked, judged, 2)[0] == pytest.approx(
        3 / math.log2(3) / (3 + 2 / math.log2(3))
    )


def test_what_is_judged_less_than_0_is_not_relevant() -> None:
    ranked, judged = np.array([[-2.0, 1.0]]), np.array([[-2.0, 1.0]])
    assert recall_at_k(ranked, judged, 2).tolist() == [1]
    assert ndcg_at_k(ranked, judged, 2)[0] == pytest.approx(1 / math.log2(3))
    assert reciprocal_ranks(ranked).tolist() == [0.5]


def test_rankings_without_answers_have_zeros() -> None:
    ranked, judged = np.zeros((2, 0)), np.ones((2, 1))
    for values in (
        recall_at_k(ranked, judged, 3),
        successes_at_k(ranked, 3),
        ndcg_at_k(ranked, judged, 3),
        reciprocal_ranks(ranked),
    ):
        assert values.tolist() == [0, 0]


# ---- correlations ----------------------------------------------------------------------------


def test_correlations_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    for ties in (False, True):
        first, second = rng.standard_normal((2, 60))
        if ties:
            first, second = np.round(first), np.round(second + first)
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
        assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)


def test_a_constant_correlates_with_nothing() -> None:
    assert math.isnan(pearson(np.ones(4), np.arange(4.0)))
    assert math.isnan(spearman(np.arange(4.0), np.ones(4)))
    low, high = interval_of(np.full(5, np.nan))
    assert math.isnan(low)
    assert math.isnan(high)


def test_a_paired_bootstrap_is_narrower_than_two() -> None:
    first = np.random.default_rng(0).standard_normal(200)
    second = first + 0.1
    more = bootstrap_draws(second, mean) - bootstrap_draws(first, mean)
    assert interval_of(more) == pytest.approx((0.1, 0.1))
    unpaired = bootstrap_draws(second, mean, seed=1) - bootstrap_draws(first, mean)
    low, high = interval_of(unpaired)
    assert high - low > 0.2


# ---- the shape of a space --------------------------------------------------------------------


def test_the_effective_rank_counts_directions() -> None:
    assert effective_rank(np.tile([1.0, 2.0, 2.0], (5, 1))) == pytest.approx(1)
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    # Singular values 3 and 1: shares .75 and .25.
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(np.diag([3.0, 1.0, 0.0])) == pytest.approx(math.exp(entropy))


def test_uniformity_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(1)
    vectors = normalise(rng.standard_normal((700, 5)))
    slow = [
        math.exp(-2 * float(np.sum((vectors[i].astype(float) - vectors[j]) ** 2)))
        for i in range(60)
        for j in range(i)
    ]
    assert uniformity(vectors[:60]) == pytest.approx(math.log(np.mean(slow)), abs=1e-5)
    assert uniformity(np.tile(vectors[:1], (4, 1))) == pytest.approx(0, abs=1e-5)
    assert uniformity(np.eye(9)) == pytest.approx(-4)
    # More rows than are compared at a time.
    assert uniformity(vectors) == pytest.approx(uniformity(vectors[::-1]), abs=1e-9)


def test_success_by_chance_is_that_of_drawn_rankings(rng: np.random.Generator) -> None:
    relevant = [1, 3, 7]
    drawn = [
        np.mean([rng.permutation(20)[:count].min() < 5 for _ in range(4_000)]) for count in relevant
    ]
    assert chance_success_at_k(relevant, 20, 5) == pytest.approx(np.mean(drawn), abs=0.01)
    assert chance_success_at_k([1, 1], 40, 10) == pytest.approx(0.25)
    assert chance_success_at_k([1], 8, 10) == 1
    assert chance_success_at_k([16], 20, 5) == 1


def test_alignment_and_gap_are_distances() -> None:
    first, second = np.eye(4), np.roll(np.eye(4), 1, axis=0)
    assert alignment([(first, first)]) == pytest.approx(2 * 12 / 16)
    assert alignment([(row[None], row[None]) for row in first]) == 0
    assert alignment([(first[:1], second[:1]), (first[:2], second[[0, 3]])]) == pytest.approx(2)
    assert modality_gap(first, second) == pytest.approx(0)
    assert modality_gap(first[:1], first[1:2]) == pytest.approx(math.sqrt(2))


def slow_hubness(asking: np.ndarray, asked: np.ndarray, k: int, *, same: bool) -> float:
    counts = [0] * len(asked)
    for number, query in enumerate(asking):
        places = [place for place in range(len(asked)) if not (same and place == number)]
        for place in sorted(places, key=lambda place: -float(query @ asked[place]))[:k]:
            counts[place] += 1
    middle = sum(counts) / len(counts)
    moment = [sum((count - middle) ** power for count in counts) / len(counts) for power in (2, 3)]
    return moment[1] / moment[0] ** 1.5


def test_hubness_is_the_skew_of_how_often_items_are_found() -> None:
    rng = np.random.default_rng(5)
    asking, asked = (normalise(rng.standard_normal((n, 6))) for n in (600, 90))
    assert hubness(asking, asked, 5) == pytest.approx(slow_hubness(asking, asked, 5, same=False))
    assert hubness(asked, asked, 5) == pytest.approx(slow_hubness(asked, asked, 5, same=True))
    # All queries find the one item: the skewness of a single success among ten.
    assert hubness(np.tile(np.eye(10)[:1], (20, 1)), np.eye(10), 1) == pytest.approx(8 / 3)
    assert math.isnan(hubness(np.eye(3), np.eye(3).copy(), 1))


def test_separability_tells_two_sides_of_a_plane_from_one_cloud() -> None:
    rng = np.random.default_rng(7)
    first, second = (normalise(rng.standard_normal((n, 8))) for n in (60, 200))
    shift = 3 * np.eye(8)[0]
    apart = is_separated(normalise(first + shift), normalise(second - shift))
    assert len(apart) == 120
    assert apart.mean() == 1
    assert 0.3 < is_separated(first, second).mean() < 0.7


def test_a_cloud_is_not_told_from_its_copy(rng: np.random.Generator) -> None:
    cloud = normalise(rng.standard_normal((200, 8)))
    assert 0.4 < is_separated(cloud, cloud).mean() < 0.6
    assert 0.4 < is_separated(cloud, cloud[::-1], seed=3).mean() < 0.6


@pytest.mark.parametrize("different", [(1, 1), (1, 9), (2, 2), (2, 9), (3, 3), (9, 9)])
def test_sets_of_few_different_vectors_are_told_apart(different: tuple[int, int]) -> None:
    directions = np.eye(10)[:9]
    first, second = (
        normalise(np.resize(directions[:few], (9, 10)) + sign * 5 * np.eye(10)[9])
        for few, sign in zip(different, (1, -1), strict=True)
    )
    assert is_separated(first, second).mean() == 1
    assert is_separated(first, first).mean() <= 0.7


@pytest.mark.parametrize("seed", range(40))
def test_sets_that_share_most_vectors_are_told_apart_somehow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = normalise(rng.standard_normal((4, 8)))
    first, second = (pool[rng.integers(0, 4, 6)] for _ in range(2))
    assert 0 <= is_separated(first, second).mean() <= 1
