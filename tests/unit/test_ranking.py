from __future__ import annotations

import numpy as np
import pytest

from muomni_search import ranking
from muomni_search.items import Modality
from muomni_search.ranking import Background, Prior
from muomni_search.vectors import normalise

KNOWN = {
    "text": {
        "text": {"median": 0.02, "scale": 0.10},
        "image": {"median": 0.04, "scale": 0.12},
    },
    "image": {"text": {"median": 0.06, "scale": 0.08}},
}


@pytest.fixture(scope="module")
def vectors():
    return normalise(np.random.default_rng(1).standard_normal((3_000, 256)))


# ---- the background -----------------------------------------------------------------------


def test_with_many_rows_the_background_is_median_and_upper_tail_of_the_cosines(vectors):
    found = ranking.background(vectors[0], vectors[1:], None)
    cosines = vectors[1:] @ vectors[0]
    tail = (np.quantile(cosines, 0.99) - np.median(cosines)) / 2.326
    weight = 2_999 / 3_049
    assert found.median == pytest.approx(weight * np.median(cosines), abs=1e-6)
    assert found.scale == pytest.approx(weight * tail + (1 - weight) * 0.1, abs=1e-6)


def test_without_rows_the_background_is_the_prior():
    empty = np.empty((0, 256), np.float32)
    query = np.eye(256, dtype=np.float32)[0]
    known = ranking.background(query, empty, Prior(0.3, 0.2))
    assert (known.median, known.scale) == (0.3, 0.2)
    unknown = ranking.background(query, empty, None)
    assert (unknown.median, unknown.scale) == (0.0, 0.1)


def test_fifty_rows_weigh_as_much_as_the_prior(vectors):
    query, sample = vectors[0], np.repeat(vectors[:1], 50, axis=0)
    found = ranking.background(query, sample, Prior(0.0, 0.2))
    assert found.median == pytest.approx(0.5)
    assert found.scale == pytest.approx(0.1)


def test_rows_that_are_all_alike_give_a_finite_score(vectors):
    sample = np.repeat(vectors[:1], 1_000, axis=0)
    found = ranking.background(vectors[0], sample, Prior(0.0, 0.0))
    assert found.scale == ranking.MIN_SCALE
    for cosine in (-1.0, 0.0, 1.0):
        assert np.isfinite(found.score(cosine))


def test_a_query_has_the_same_background_alone_and_in_any_batch(vectors):
    sample = vectors[::3]
    priors = [None, Prior(0.1, 0.2)] * 600
    together = ranking.backgrounds(vectors[:1_200], sample, priors)
    for number in range(0, 1_200, 37):
        alone = ranking.background(vectors[number], sample, priors[number])
        assert alone == together[number]


def test_no_queries_have_no_backgrounds(vectors):
    assert ranking.backgrounds(vectors[:0], vectors[:9], []) == []


# ---- the score ----------------------------------------------------------------------------


def test_the_score_counts_scales_above_the_median():
    assert Background(0.1, 0.05).score(0.2) == pytest.approx(2.0)


def test_the_score_never_turns_the_order_of_cosines_around(vectors):
    found = ranking.background(vectors[0], vectors[1:], None)
    cosines = np.sort(np.random.default_rng(2).uniform(-1, 1, 500).astype(np.float32)).tolist()
    scores = [found.score(cosine) for cosine in cosines]
    assert scores == sorted(scores)


def test_scores_make_modalities_with_different_cosines_comparable(vectors):
    # Each modality sits around a direction of its own; the query lies close to one of them.
    direction = vectors[0]
    near = normalise(vectors[1:1_001] + 0.8 * direction)
    far = vectors[1_001:2_001]
    query = normalise(direction + 0.5 * vectors[2_500])
    best_far = normalise(far[0] + 0.6 * query)
    raw = [float(near[0] @ query), float(best_far @ query)]
    scored = [
        ranking.background(query, near, None).score(raw[0]),
        ranking.background(query, far, None).score(raw[1]),
    ]
    assert scored[1] > 4 > scored[0]


# ---- priors -------------------------------------------------------------------------------


def test_a_prior_is_found_by_what_is_asked_with_and_what_is_asked_for():
    assert ranking.prior_for(KNOWN, ["text"], Modality.IMAGE) == Prior(0.04, 0.12)


def test_a_sum_takes_the_mean_of_the_priors_of_its_kinds():
    found = ranking.prior_for(KNOWN, ["text", "image"], Modality.TEXT)
    assert found is not None
    assert (found.median, found.scale) == pytest.approx((0.04, 0.09))


def test_ids_and_vectors_take_the_mean_of_all_priors():
    assert ranking.prior_for(KNOWN, ["id"], Modality.TEXT) == ranking.prior_for(
        KNOWN, ["text", "image"], Modality.TEXT
    )


def test_a_model_that_says_nothing_has_no_prior():
    assert ranking.prior_for({}, ["text"], Modality.TEXT) is None
    assert ranking.prior_for(KNOWN, ["text"], Modality.AUDIO) is None
