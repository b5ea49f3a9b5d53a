"""What is promised is what was measured, on queries of those who ask."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from vector_helpers import rows_of

from muomni_search.index import planner, ties, tuning
from muomni_search.index.exact import exact_top_rows
from muomni_search.index.protocol import CODES, Candidates
from muomni_search.index.tuning import Promise

NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def vectors():
    return rows_of(8_000, 1)


@pytest.fixture(scope="module")
def index(vectors):
    return planner.build_index(vectors)


@pytest.fixture(scope="module")
def asking(vectors):
    numbers = np.arange(0, 8_000, 8)
    return {
        "image": tuning.asking_with(vectors[numbers], 128, numbers),
        "afar": tuning.asking_from_afar(vectors, 128),
    }


class Blind:
    """An index that proposes rows by chance."""

    kind = "blind"

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def search(self, query: np.ndarray, fetch: int) -> np.ndarray:
        rng = np.random.default_rng(int(abs(query[0]) * 1e6))
        return rng.permutation(self.rows)[:fetch]


def test_the_promise_holds_for_queries_that_were_not_measured(vectors, index, asking):
    promise = tuning.tune(index, vectors, NOTHING, asking, 0.95)
    assert promise.fetch in tuning.DEPTHS
    assert (promise.recall, promise.rows) == (0.95, 8_000)
    assert promise.measured.keys() == asking.keys()
    shares = []
    for query in rows_of(200, 77):
        found = planner.top_rows(
            query, vectors, k=10, dead=NOTHING, index=index, fetch=promise.fetch
        )
        best = exact_top_rows(query, vectors, k=10, dead=NOTHING)
        shares.append(np.isin(best.rows, found.rows).mean())
    assert np.mean(shares) >= 0.95
    for one in promise.measured.values():
        assert 0.95 <= one.low <= one.recall <= 1


def test_a_greater_promise_asks_as_deep_or_deeper(vectors, index, asking):
    depths = [tuning.tune(index, vectors, NOTHING, asking, recall).fetch for recall in (0.5, 0.97)]
    assert depths == sorted(depths)


def test_an_index_that_is_not_good_enough_is_not_trusted(vectors, asking):
    promise = tuning.tune(Blind(8_000), vectors[:8_000], NOTHING, asking, 0.999)
    assert promise.fetch is None
    assert min(one.low for one in promise.measured.values()) < 0.999


class Perfect(Blind):
    """An index that proposes the best rows."""

    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__(len(vectors))
        self.vectors = vectors

    def search(self, query: np.ndarray, fetch: int) -> np.ndarray:
        return np.argsort(-(self.vectors @ query), kind="stable")[:fetch]


@pytest.mark.parametrize("recall", [1.0, 0.999999, 0.9994])
def test_what_no_measurement_can_show_is_not_measured(vectors, index, asking, recall, monkeypatch):
    monkeypatch.setattr(planner, "top_rows_many", None)
    promise = tuning.tune(index, vectors, NOTHING, asking, recall)
    assert (promise.recall, promise.fetch, promise.measured) == (recall, None, {})


def test_what_a_measurement_can_show_at_most_is_what_it_says_of_a_perfect_index(vectors):
    some = vectors[:1_000]
    asking = {"image": tuning.asking_with(some, tuning.queries_for(tuning.MOST_RECALL))}
    promise = tuning.tune(Perfect(some), some, NOTHING, asking, tuning.MOST_RECALL)
    assert promise.measured["image"].low == tuning.MOST_RECALL
    assert promise.fetch is not None


def test_few_queries_are_never_sure(vectors, index):
    few = {"image": tuning.asking_with(vectors[:9], 9, np.arange(9))}
    promise = tuning.tune(index, vectors, NOTHING, few, 0.95)
    assert promise.fetch is None
    assert promise.measured["image"].low < 0.95


@pytest.mark.parametrize("recall", [0.9, 0.95, 0.99, 0.995])
def test_there_are_as_many_queries_as_certainty_needs(recall):
    count = tuning.queries_for(recall)
    shares = np.append(np.ones(count), 0.0)
    low = shares.mean() - tuning.DEVIATIONS * shares.std(ddof=1) / np.sqrt(len(shares))
    assert low >= recall


def test_dead_rows_are_no_part_of_the_truth(vectors, index, asking):
    dead = np.arange(0, 8_000, 3)
    promise = tuning.tune(index, vectors, dead, asking, 0.9)
    assert promise.fetch is not None
    assert min(one.recall for one in promise.measured.values()) >= 0.9


def test_a_query_that_is_a_row_does_not_count_itself(vectors):
    best = exact_top_rows(vectors[5], vectors, k=11, dead=NOTHING)
    assert best.rows[0] == 5
    nine = Candidates(best.rows[:10], best.cosines[:10], "ann")
    assert tuning._share(nine, best, own=5) == 0.9
    ten = Candidates(best.rows[:11], best.cosines[:11], "ann")
    assert tuning._share(ten, best, own=5) == 1.0


def test_the_reach_is_that_of_the_query_that_is_farthest_from_what_it_should_find(
    vectors, index, asking
):
    promise = tuning.tune(index, vectors, NOTHING, asking, 0.9)
    tenths = []
    for one in asking.values():
        for query, own in zip(one.vectors, one.own.tolist(), strict=True):
            best = exact_top_rows(query, vectors, k=11, dead=NOTHING)
            tenths.append(best.cosines[best.rows != own][9])
    assert promise.reach == pytest.approx(0.9 * min(tenths), abs=1e-4)
    assert 0 < promise.reach < 0.5
    # Who is a row does not count itself, and so few others have no tenth.
    few = vectors[:8]
    alone = tuning.asking_with(few, 8, np.arange(8))
    best = planner.top_rows_many(alone.vectors, few, k=11, dead=NOTHING)
    cosines = few @ few.T
    least = cosines.min()
    expected = least * 0.9 if least > 0 else least / 0.9
    assert tuning._reach({"image": alone}, {"image": best}) == pytest.approx(expected, abs=1e-3)
    nobody = tuning.asking_with(few[:1], 1, np.arange(1))
    best = planner.top_rows_many(nobody.vectors, few[:1], k=11, dead=NOTHING)
    assert tuning._reach({"image": nobody}, {"image": best}) == -1


def test_a_row_that_is_tied_with_the_tenth_is_as_good():
    cosines = np.array([0.9] * 9 + [0.5] * 2, np.float32)
    best = Candidates(np.arange(11), cosines, "exact")
    found = Candidates(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 10]), cosines[:10], "ann")
    assert tuning._share(found, best, own=-1) == 1.0


def test_where_rows_are_few_sums_of_them_ask_too(vectors):
    asking = tuning.asking_with(vectors[:10], 128, np.arange(10))
    assert asking.vectors.shape == (128, 256)
    assert np.allclose(np.linalg.norm(asking.vectors, axis=1), 1, atol=1e-5)
    assert sorted(asking.own[asking.own >= 0]) == list(range(10))
    opposite = np.stack([vectors[0], -vectors[0]])
    assert np.isfinite(tuning.asking_with(opposite, 64).vectors).all()


def test_a_promise_can_be_stored():
    when = "2031-02-03T04:05:06.789Z"
    promise = Promise(0.95, 200, {"text": tuning.Measured(128, 0.99, 0.97)}, 30_000, when, 0.3)
    assert Promise.from_dict(promise.as_dict()) == promise
    with pytest.raises(TypeError):
        Promise.from_dict({**promise.as_dict(), "reach": "far"})


def test_a_promise_of_an_earlier_version_says_not_when_nor_of_which_rows():
    stored = {"recall": 0.95, "k": 10, "fetch": 200, "rows": 30_000}
    measured = {"text": {"queries": 128, "recall": 0.99, "low": 0.97, "rows": 500}}
    promise = Promise.from_dict({**stored, "measured": measured})
    assert (promise.measured_at, promise.reach) == (None, -1)
    assert (promise.measured["text"].dead, promise.measured["text"].generation) == (0, 0)


def test_fewer_codes_keep_the_same_promise_deeper(vectors, asking):
    indexes = [planner.build_index(vectors, codes) for codes in sorted(CODES, reverse=True)]
    sizes = [len(index.to_bytes()) for index in indexes]
    assert all(less < 0.7 * more for more, less in pairwise(sizes))
    depths = [
        tuning.tune(index, vectors, NOTHING, asking, 0.95).fetch or 10_000 for index in indexes
    ]
    assert depths == sorted(depths)


def test_equal_rows_are_not_all_kept_while_they_are_measured(monkeypatch):
    monkeypatch.setattr(ties, "MOST_TIED", 10)
    kept, top_rows_many = [], planner.top_rows_many

    def counting(*given, **asked):
        found = top_rows_many(*given, **asked)
        kept.append(len(found.rows))
        return found

    monkeypatch.setattr(planner, "top_rows_many", counting)
    rows = np.repeat(rows_of(2, 1), 1_000, axis=0)
    asking = {"image": tuning.asking_with(rows[::20], 100, np.arange(0, 2_000, 20))}
    promise = tuning.tune(Perfect(rows), rows, NOTHING, asking, 0.95)
    assert promise.measured["image"].recall == 1
    assert kept[0] < 100 * 30


def test_memory_decides_how_many_codes_there_are():
    rows, both = [1_000_000, 500_000, 10_000], 2 * planner.FIXED_BYTES
    assert planner.choose_codes(rows, None) == (64, 128)
    assert planner.choose_codes(rows, both + 1_500_000 * 64) == (64, 128)
    assert planner.choose_codes(rows, both + 1_500_000 * 64 - 1) == (64,)
    assert planner.choose_codes(rows, both + 1_500_000 * 32 - 1) == (32,)
    assert planner.choose_codes(rows, both + 1_500_000 * 16 - 1) == ()
    assert planner.choose_codes([10_000], 0) == (64, 128)  # small ones need none
