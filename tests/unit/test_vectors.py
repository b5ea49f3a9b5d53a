from __future__ import annotations

import warnings

import numpy as np
import pytest

from muomni_search import vectors
from muomni_search.errors import InvalidInput


@pytest.fixture(scope="module")
def rows():
    return vectors.normalise(np.random.default_rng(1).standard_normal((700, 256)))


# ---- normalise and check ------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30, 1e300])
def test_huge_and_tiny_values_get_unit_length(scale):
    found = vectors.normalise(np.array([[3.0, 4.0]]) * scale)
    assert found.dtype == np.float32
    assert found[0].tolist() == pytest.approx([0.6, 0.8])


def test_normalising_does_not_change_its_input():
    given = np.full((2, 4), 2.0)
    vectors.normalise(given)
    assert np.all(given == 2.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint32])
def test_numbers_of_any_type_become_unit_rows(dtype):
    found = vectors.check_vectors(np.ones((2, 256), dtype), "here")
    assert found.dtype == np.float32
    assert np.allclose(np.linalg.norm(found, axis=1), 1)


def test_lists_of_numbers_become_unit_rows():
    assert vectors.check_vectors([[1.0] * 256], "here").shape == (1, 256)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((2, 255)), "255 numbers a vector, expected 256"),
        (np.ones(256), "expected 256"),
        (np.float64(3), "0 numbers a vector"),
        (np.ones((1, 2, 256)), "expected 256"),
        (np.where(np.arange(512).reshape(2, 256) == 300, np.nan, 1.0), "vector 1 holds NaN"),
        (np.where(np.arange(256) == 9, np.inf, 1.0)[None], "rows.npy: holds NaN or infinity"),
        (np.stack([np.ones(256), np.zeros(256)]), "vector 1 is all zeros"),
        (np.ones((1, 256), complex), "not a vector of 256 numbers"),
        ([["a"] * 256], "not a vector of 256 numbers"),
        ([[1.0], [1.0, 2.0]], "not a vector of 256 numbers"),
        (None, "not a vector|expected 256"),
    ],
)
def test_what_is_no_vector_is_refused_with_its_place(rows, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        vectors.check_vectors(rows, "rows.npy")
    assert caught.value.what.startswith("rows.npy: ")


# ---- cosines ------------------------------------------------------------------------------


def test_a_cosine_is_the_inner_product_of_unit_vectors(rows):
    found = vectors.cosines(rows, rows[3])
    assert found.dtype == np.float32
    assert np.allclose(found, rows.astype(np.float64) @ rows[3].astype(np.float64), atol=1e-6)
    assert found[3] == pytest.approx(1.0, abs=1e-6)


def test_a_row_has_the_same_cosine_wherever_it_stands(rows):
    query = rows[0]
    whole = vectors.cosines(rows, query)
    for start, stop in ((0, 1), (5, 12), (1, 700), (699, 700), (3, 260)):
        assert vectors.cosines(rows[start:stop], query).tobytes() == whole[start:stop].tobytes()
    order = np.random.default_rng(2).permutation(700)
    assert vectors.cosines(rows[order], query).tobytes() == whole[order].tobytes()


def test_no_rows_have_no_cosines(rows):
    assert vectors.cosines(rows[:0], rows[0]).shape == (0,)


def test_pairs_have_the_cosines_of_single_queries_bit_for_bit(rows):
    rng = np.random.default_rng(3)
    queries = vectors.normalise(rng.standard_normal((300, 256)))
    chosen = rng.integers(0, 700, (300, 7))
    found = vectors.cosines_of_pairs(rows, chosen, queries)
    for query, numbers, values in zip(queries, chosen, found, strict=True):
        assert values.tobytes() == vectors.cosines(rows[numbers], query).tobytes()


# ---- sums ---------------------------------------------------------------------------------


def test_a_sum_has_unit_length_and_lies_between_its_parts(rows):
    found = vectors.combine([1.0, 1.0], rows[:2], what="the query")
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)
    assert found @ rows[0] == pytest.approx(found @ rows[1], abs=1e-6)


def test_a_negative_weight_leads_away(rows):
    plain = vectors.combine([1.0], rows[:1], what="the query")
    less = vectors.combine([1.0, -0.5], rows[:2], what="the query")
    assert less @ rows[1] < plain @ rows[1]


def test_a_sum_that_cancels_out_is_refused(rows):
    with pytest.raises(InvalidInput, match="the query cancels out"):
        vectors.combine([1.0, -1.0], rows[[4, 4]], what="the query")


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_only_how_weights_compare_counts(rows, scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = vectors.combine([scale, -0.5 * scale], rows[:2], what="the query")
    assert np.allclose(found, vectors.combine([1.0, -0.5], rows[:2], what="the query"), atol=1e-7)


def test_the_mean_of_one_vector_is_that_vector(rows):
    assert np.allclose(vectors.mean_vector(rows[:1]), rows[0], atol=1e-7)


def test_unit_vectors_are_told_from_what_is_none(rows):
    unit = vectors.normalise(rows[0])
    others = [
        unit.astype(np.float64),
        unit[:9],
        unit * 1.001,
        unit * np.nan,
        None,
        "a",
        [1.0] * 256,
    ]
    assert vectors.unit_among([unit, *others, unit]).tolist() == [True, *[False] * 7, True]
    assert vectors.unit_among([]).tolist() == []
