"""The planner against the oracle, on rows full of duplicates, dead rows and filters."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from muomni_search.index import planner
from muomni_search.index.exact import exact_top_rows, is_in
from muomni_search.vectors import normalise

NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class Case:
    vectors: np.ndarray
    query: np.ndarray
    k: int
    dead: np.ndarray
    allowed: np.ndarray | None


@st.composite
def cases(draw, *, rows: st.SearchStrategy[int]) -> Case:
    """Draw rows of which few differ, some by less than rounding, and a query among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(rows)
    distinct = draw(st.integers(1, 40))
    base = normalise(rng.standard_normal((distinct, 256)))
    vectors = base[rng.integers(0, distinct, count)]
    if draw(st.booleans()):
        nudge = draw(st.sampled_from([1e-7, 1e-6, 1e-5, 1e-3]))
        vectors = normalise(vectors + nudge * rng.standard_normal(vectors.shape))
    live = rng.random(count) >= draw(st.sampled_from([0.0, 0.1, 0.9, 1.0]))
    through = rng.random(count) < draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    return Case(
        vectors=vectors.astype(np.float32),
        query=base[0],
        k=draw(st.integers(1, count + 5)),
        dead=np.flatnonzero(~live),
        allowed=np.flatnonzero(live & through) if draw(st.booleans()) else None,
    )


def assert_same(found, expected):
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.cosines.tobytes() == expected.cosines.tobytes()


@given(
    rows=st.lists(st.integers(-1, 50), max_size=200),
    some=st.sets(st.integers(0, 50) | st.integers(0, 10**9), max_size=200),
)
def test_rows_in_any_order_are_found_among_sorted_ones(rows, some):
    rows, some = np.array(rows, np.int64), np.array(sorted(some), np.int64)
    for one in (rows, np.append(rows, 10**9)):  # marked, and too far apart for that
        assert is_in(one, some).tolist() == np.isin(one, some).tolist()


@given(cases(rows=st.integers(0, 400)))
@settings(max_examples=150, deadline=None)
def test_exact_search_is_the_oracle_bit_for_bit(case):
    asked = {"k": case.k, "dead": case.dead, "allowed": case.allowed}
    assert_same(
        planner.top_rows(case.query, case.vectors, **asked),
        exact_top_rows(case.query, case.vectors, **asked),
    )


@given(cases(rows=st.integers(0, 400)))
@settings(max_examples=100, deadline=None)
def test_a_batch_is_the_oracle_bit_for_bit(case):
    asked = {"k": case.k, "dead": case.dead, "allowed": case.allowed}
    queries = np.concatenate([case.query[None], case.vectors[:24]])
    for query, found in zip(
        queries, planner.top_rows_many(queries, case.vectors, **asked), strict=True
    ):
        assert_same(found, exact_top_rows(query, case.vectors, **asked))


@given(cases(rows=st.integers(2_000, 5_000)), st.floats(0.3, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_index_never_gives_too_few_or_wrong_rows(case, covered):
    index = planner.build_index(case.vectors[: int(covered * len(case.vectors))])
    k = 1 + case.k % 30
    asked = {"k": k, "dead": case.dead, "allowed": case.allowed}
    found = planner.top_rows(case.query, case.vectors, **asked, index=index)
    best = exact_top_rows(case.query, case.vectors, **asked)
    assert min(k, len(best.rows)) <= len(found.rows)
    assert len(np.unique(found.rows)) == len(found.rows)
    assert not np.isin(found.rows, case.dead).any()
    assert np.all(np.diff(found.cosines) <= 0)
    # Rows that differ by nothing or by rounding alone are all that the 4-bit codes may confuse.
    assert np.allclose(found.cosines[:k], best.cosines[: len(found.cosines[:k])], atol=0.02)
    if found.how == "exact":
        assert_same(found, best)


@given(cases(rows=st.integers(2_500, 5_000)), st.floats(0.5, 1.0), st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_batch_by_the_index_never_gives_too_few_or_wrong_rows(case, covered, crowded):
    start = int(covered * len(case.vectors))
    if crowded:
        # The dead are those that lie nearest to one of the queries.
        near = np.argsort(-(case.vectors @ case.query), kind="stable")[: len(case.dead)]
        case = replace(case, dead=np.sort(near))
    index = planner.build_index(case.vectors[:start])
    k = 1 + case.k % 12
    queries = np.concatenate([case.query[None], case.vectors[:24]])
    found = planner.top_rows_many(queries, case.vectors, k=k, dead=case.dead, index=index, fetch=12)
    assert len(found) == len(queries)
    for query, one in zip(queries, found, strict=True):
        best = exact_top_rows(query, case.vectors, k=k, dead=case.dead)
        assert min(k, len(best.rows)) <= len(one.rows)
        assert len(np.unique(one.rows)) == len(one.rows)
        assert not np.isin(one.rows, case.dead).any()
        assert np.all(np.diff(one.cosines) <= 0)
        assert np.allclose(one.cosines[:k], best.cosines[:k], atol=0.02)
        if one.how == "exact":
            assert_same(one, best)
        # Of the rows since, none is missed: not of those tied with the last either.
        since = best.rows[(best.rows >= start) & (best.cosines >= one.cosines.min(initial=2))]
        assert np.isin(since, one.rows).all()


@given(st.integers(0, 10_000_000), st.integers(0, 10_000_000))
def test_a_fresh_index_is_never_due(rows, since):
    assert not planner.is_index_due(rows=rows, covered=rows)
    if planner.is_index_due(rows=rows, covered=max(0, rows - since)):
        assert since > planner.EXACT_ROWS
