from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from vector_helpers import rows_of

from muomni_search.errors import CorruptData
from muomni_search.index import faiss_index, planner
from muomni_search.index.exact import exact_top_rows
from muomni_search.vectors import normalise

NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def vectors():
    return rows_of(8_000, 1)


@pytest.fixture(scope="module")
def queries():
    return rows_of(20, 2)


@pytest.fixture(scope="module")
def index(vectors):
    return planner.build_index(vectors)


def assert_same(found, expected, *, how="exact"):
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.cosines.tobytes() == expected.cosines.tobytes()
    assert found.how == how


def nearest(vectors, query, count: int) -> np.ndarray:
    return exact_top_rows(query, vectors, k=count, dead=NOTHING).rows[:count]


# ---- all rows -----------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 10, 500, 8_000, 9_000])
def test_comparing_all_rows_gives_what_the_oracle_gives(vectors, queries, k):
    dead = np.arange(0, 8_000, 7)
    for query in queries[:5]:
        assert_same(
            planner.top_rows(query, vectors, k=k, dead=dead),
            exact_top_rows(query, vectors, k=k, dead=dead),
        )


def test_no_rows_give_no_answer(queries):
    empty = np.empty((0, 256), np.float32)
    assert len(planner.top_rows(queries[0], empty, k=5, dead=NOTHING).rows) == 0
    assert len(planner.top_rows_many(queries, empty, k=5, dead=NOTHING)) == len(queries)


def test_dead_rows_alone_give_no_answer(vectors, queries):
    dead = np.arange(50)
    found = planner.top_rows(queries[0], vectors[:50], k=5, dead=dead)
    assert len(found.rows) == len(found.cosines) == 0
    for found in planner.top_rows_many(queries, vectors[:50], k=5, dead=dead):
        assert len(found.rows) == 0


def test_all_rows_tied_with_the_last_come_by_row(vectors):
    many = vectors[:2_000].copy()
    equal = np.sort(np.random.default_rng(3).choice(2_000, 301, replace=False))
    many[equal] = vectors[7_000]
    found = planner.top_rows(vectors[7_000], many, k=10, dead=NOTHING)
    assert found.rows.tolist() == equal.tolist()
    found = planner.top_rows_many(vectors[7_000:7_003], many, k=10, dead=NOTHING)
    assert found[0].rows.tolist() == equal.tolist()


def test_rows_may_be_a_read_only_memory_map(vectors, queries, tmp_path):
    vectors.tofile(tmp_path / "rows.f32")
    mapped = np.memmap(tmp_path / "rows.f32", np.float32, "r", shape=vectors.shape)
    for some in (None, np.arange(0, 8_000, 3), np.arange(0, 8_000, 30)):
        assert_same(
            planner.top_rows(queries[0], mapped, k=10, dead=NOTHING, allowed=some),
            exact_top_rows(queries[0], vectors, k=10, dead=NOTHING, allowed=some),
        )
    found = planner.top_rows_many(queries, mapped, k=10, dead=np.arange(9))
    assert_same(found[0], exact_top_rows(queries[0], vectors, k=10, dead=np.arange(9)))


def test_an_exact_search_needs_no_faiss():
    code = (
        "import sys, numpy as np\n"
        "from muomni_search.index.planner import top_rows\n"
        "eye = np.eye(256, dtype=np.float32)\n"
        "assert top_rows(eye[3], eye, k=1, dead=np.empty(0, np.int64)).rows.tolist() == [3]\n"
        "assert 'faiss' not in sys.modules and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


# ---- filters ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.9, 0.5, 0.22, 0.18, 0.05, 0.001])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_filter_gives_what_the_oracle_gives(monkeypatch, vectors, queries, share, is_loaded):
    if not is_loaded:  # as in a process that has asked no index
        monkeypatch.delitem(sys.modules, "muomni_search.index.faiss_index")
    allowed = np.flatnonzero(np.random.default_rng(4).random(8_000) < share)
    for query in queries[:5]:
        assert_same(
            planner.top_rows(query, vectors, k=10, dead=NOTHING, allowed=allowed),
            exact_top_rows(query, vectors, k=10, dead=NOTHING, allowed=allowed),
        )


@pytest.mark.parametrize("share", [0.03, 0.001])
def test_a_filter_that_lets_few_rows_through_needs_no_index(vectors, queries, index, share):
    allowed = np.flatnonzero(np.random.default_rng(4).random(8_000) < share)
    for query in queries[:5]:
        assert_same(
            planner.top_rows(query, vectors, k=10, dead=NOTHING, allowed=allowed, index=index),
            exact_top_rows(query, vectors, k=10, dead=NOTHING, allowed=allowed),
        )


@pytest.mark.parametrize("share", [0.9, 0.5, 0.22, 0.06])
@pytest.mark.parametrize("kind", ["random", "near", "far"])
def test_the_index_answers_a_filter_that_lets_many_rows_through(
    vectors, queries, index, share, kind
):
    shared = []
    for number, query in enumerate(queries):
        order = np.random.default_rng(number).permutation(8_000)
        if kind != "random":
            order = np.argsort((vectors @ query) * (-1 if kind == "near" else 1))
        allowed = np.sort(order[: int(share * 8_000)])
        found = planner.top_rows(query, vectors, k=10, dead=NOTHING, allowed=allowed, index=index)
        best = exact_top_rows(query, vectors, k=10, dead=NOTHING, allowed=allowed)
        assert len(found.rows) >= 10
        assert np.isin(found.rows, allowed).all()
        shared.append(np.isin(best.rows, found.rows).mean())
        if found.how == "exact":
            assert_same(found, best)
    assert np.mean(shared) > 0.95


@pytest.mark.parametrize("has_filter", [True, False])
def test_who_keeps_which_rows_count_gets_the_same_answer_without_a_search_for_them(
    vectors, queries, index, monkeypatch, has_filter
):
    dead = np.arange(0, 8_000, 3)
    live = np.setdiff1d(np.arange(8_000), dead)
    allowed = live[::2] if has_filter else None
    counts = np.zeros(8_000, bool)
    counts[live if allowed is None else allowed] = True
    given = {"k": 10, "dead": dead, "allowed": allowed, "index": index, "fetch": 30}
    expected = [planner.top_rows(query, vectors, **given) for query in queries]
    assert {one.how for one in expected} == {"ann"}
    monkeypatch.setattr(planner, "is_in", None)
    for query, one in zip(queries, expected, strict=True):
        assert_same(planner.top_rows(query, vectors, marks=lambda: counts, **given), one, how="ann")


def test_a_filter_on_rows_that_came_since_the_index_finds_them(vectors, index):
    more = np.concatenate([vectors, rows_of(900, 6)])
    allowed = np.flatnonzero(np.arange(8_900) % 2 == 0)
    found = planner.top_rows(more[8_400], more, k=1, dead=NOTHING, allowed=allowed, index=index)
    assert found.rows.tolist() == [8_400]


def test_a_filter_that_lets_nothing_through_gives_no_answer(vectors, queries, index):
    found = planner.top_rows(queries[0], vectors, k=10, dead=NOTHING, allowed=NOTHING, index=index)
    assert len(found.rows) == 0
    for found in planner.top_rows_many(queries, vectors, k=10, dead=NOTHING, allowed=NOTHING):
        assert len(found.rows) == 0


def test_a_filter_on_the_farthest_rows_still_finds_the_best_of_them(vectors, queries, index):
    far = np.sort(np.argsort(vectors @ queries[0])[:300])
    found = planner.top_rows(queries[0], vectors, k=10, dead=NOTHING, allowed=far, index=index)
    assert_same(found, exact_top_rows(queries[0], vectors, k=10, dead=NOTHING, allowed=far))


# ---- by the index -------------------------------------------------------------------------


def test_the_index_answers_nearly_as_the_oracle_does_and_says_so(vectors, queries, index):
    shared = []
    for query in queries:
        found = planner.top_rows(query, vectors, k=10, dead=NOTHING, index=index)
        best = exact_top_rows(query, vectors, k=10, dead=NOTHING)
        shared.append(np.isin(best.rows, found.rows).mean())
        assert len(found.rows) >= 10
        assert np.all(np.diff(found.cosines) <= 0)
        if found.how == "exact":
            assert_same(found, best)
    assert np.mean(shared) > 0.95
    found = planner.top_rows(vectors[5], vectors, k=1, dead=NOTHING, index=index)
    assert (found.rows.tolist(), found.how) == ([5], "ann")


@pytest.mark.parametrize("k", [1, 3, 10, 25])
def test_what_is_farther_than_the_index_was_measured_for_is_compared_with_all(monkeypatch, k):
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    rows = rows_of(5_000, 5)
    queries = normalise(np.concatenate([rows[:20] + rows_of(20, 6), -rows[:20], rows_of(20, 7)]))
    expected = [exact_top_rows(query, rows, k=k, dead=NOTHING) for query in queries]
    # By its tenth hit, however few are asked for: that is what was measured.
    tenths = np.array(
        [exact_top_rows(query, rows, k=10, dead=NOTHING).cosines[9] for query in queries]
    )
    asked = {"dead": NOTHING, "index": Told(rows), "fetch": 20, "reach": float(np.median(tenths))}
    is_far = tenths < np.median(tenths)
    found = planner.top_rows_many(queries, rows, k=k, **asked)
    assert found.are_exact.tolist() == is_far.tolist()
    for query, own, best, far in zip(queries, found, expected, is_far, strict=True):
        single = planner.top_rows(query, rows, k=k, **asked)
        assert single.how == own.how == ("exact" if far else "ann")
        assert single.rows.tolist() == own.rows.tolist() == best.rows.tolist()


@pytest.mark.parametrize("dropped", [50, 150, 195])
def test_dead_rows_among_the_nearest_cost_hardly_a_hit(vectors, index, dropped):
    missed = 0
    for query in vectors[:50]:
        dead = np.sort(nearest(vectors, query, 200)[:dropped])
        found = planner.top_rows(query, vectors, k=10, dead=dead, index=index)
        best = exact_top_rows(query, vectors, k=10, dead=dead)
        assert not np.isin(found.rows, dead).any()
        missed += len(np.setdiff1d(best.rows, found.rows))
    assert missed <= 5  # of 500


@pytest.mark.parametrize("kept", ["all", "not the nearest", "the farther half"])
def test_where_the_codes_order_nothing_hardly_a_hit_is_lost(kept):
    near = rows_of(60, 9)[np.random.default_rng(8).integers(0, 60, 12_000)]
    rows = normalise(near + 0.05 * rows_of(12_000, 10))
    index = planner.build_index(rows)
    missed = 0
    for query in normalise(rows[:100] + 0.3 * rows_of(100, 11)):
        order = nearest(rows, query, len(rows))
        asked = {
            "k": 10,
            "dead": np.sort(order[:200]) if kept == "not the nearest" else NOTHING,
            "allowed": np.sort(order[150:6_000]) if kept == "the farther half" else None,
        }
        found = planner.top_rows(query, rows, index=index, fetch=50, **asked)
        missed += len(np.setdiff1d(exact_top_rows(query, rows, **asked).rows, found.rows))
    assert missed <= 3  # of 1,000


def test_twice_what_is_wanted_is_compared_at_first_and_four_times_that_then(vectors):
    class Misleading:
        """Proposes the nearest rows behind so many others."""

        def __init__(self, others):
            self.others, self.asked = others, []
            self.rows = len(vectors)

        def search(self, query, fetch):
            self.asked.append(fetch)
            order = nearest(vectors, query, len(vectors))
            others, order = order[1_000 : 1_000 + self.others], np.delete(order, slice(1_000, None))
            return np.concatenate([others, order])[:fetch]

    for others, asked in ((30, [100]), (60, [100, 400]), (110, [100])):
        index = Misleading(others)
        found = planner.top_rows(vectors[5], vectors, k=10, dead=NOTHING, index=index, fetch=50)
        assert (index.asked, found.how) == (asked, "ann")
        is_seen = others < 100
        assert set(found.rows.tolist()) == set(
            nearest(vectors, vectors[5], 10).tolist()
            if is_seen
            else nearest(vectors, vectors[5], 1_010)[1_000:].tolist()
        )


def test_nearly_all_rows_dead_cost_no_hit(vectors, queries, index):
    alive = np.sort(np.random.default_rng(5).choice(8_000, 25, replace=False))
    dead = np.setdiff1d(np.arange(8_000), alive)
    for k in (10, 25, 100):
        assert_same(
            planner.top_rows(queries[0], vectors, k=k, dead=dead, index=index),
            exact_top_rows(queries[0], vectors, k=k, dead=dead),
        )


def test_rows_added_since_the_index_was_built_are_found(vectors, index):
    more = np.concatenate([vectors, rows_of(900, 6)])
    query = more[8_400]
    found = planner.top_rows(query, more, k=1, dead=NOTHING, index=index)
    assert (found.rows.tolist(), found.how) == ([8_400], "ann")
    found = planner.top_rows(query, more, k=1, dead=np.array([3, 8_400]), index=index)
    assert 8_400 not in found.rows


def test_a_run_of_equal_rows_that_overruns_the_candidates_is_found_whole(vectors):
    many = vectors.copy()
    equal = np.sort(np.random.default_rng(7).choice(8_000, 301, replace=False))
    many[equal] = vectors[0]
    found = planner.top_rows(vectors[0], many, k=10, dead=NOTHING, index=planner.build_index(many))
    assert set(equal) <= set(found.rows.tolist())
    assert np.ptp(found.cosines) == 0


def test_rows_that_are_all_equal_are_all_found(vectors):
    many = np.repeat(vectors[:1], 2_500, axis=0)
    found = planner.top_rows(vectors[0], many, k=10, dead=NOTHING, index=planner.build_index(many))
    assert found.rows.tolist() == list(range(2_500))


def test_more_hits_than_the_index_can_propose_are_found_exactly(vectors, queries, index):
    found = planner.top_rows(queries[0], vectors, k=5_000, dead=NOTHING, index=index)
    assert_same(found, exact_top_rows(queries[0], vectors, k=5_000, dead=NOTHING))


# ---- batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 10, 100, 9_000])
@pytest.mark.parametrize("case", ["all", "dead", "allowed"])
def test_a_batch_gives_what_single_exact_queries_give(vectors, queries, monkeypatch, k, case):
    monkeypatch.setattr(planner, "QUERY_BLOCK", 8)
    monkeypatch.setattr(planner, "TILE_ROWS", 1_000)
    dead = np.arange(0, 8_000, 3) if case == "dead" else NOTHING
    allowed = np.arange(0, 8_000, 5) if case == "allowed" else None
    found = planner.top_rows_many(queries, vectors, k=k, dead=dead, allowed=allowed)
    for query, one in zip(queries, found, strict=True):
        assert_same(one, planner.top_rows(query, vectors, k=k, dead=dead, allowed=allowed))


@pytest.mark.parametrize("case", ["live", "dead", "allowed"])
def test_a_batch_that_asks_for_a_damaged_row_too_is_an_error(case):
    """FAISS says -1 of it, which NumPy takes for the last row."""
    rows = rows_of(1_200, 1)
    asked = {
        "k": 1_200,
        "dead": np.array([3]) if case == "dead" else NOTHING,
        "allowed": np.arange(1_199) if case == "allowed" else None,
    }
    assert len(planner.top_rows_many(rows[:8], rows, **asked)) == 8
    rows[7] = np.nan
    with pytest.raises(CorruptData, match="a row is not finite"):
        planner.top_rows_many(rows[:3], rows, **asked)


def test_a_damaged_row_since_the_index_was_built_brings_no_dead_one_back(monkeypatch):
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    rows = rows_of(4_005, 1)
    asked = {"k": 3, "dead": np.array([3_999]), "index": Told(rows[:4_000]), "fetch": 40}
    assert planner.top_rows_many(rows[3_995:4_003], rows, **asked)[4].how == "ann"
    damaged = rows.copy()
    damaged[4_002] = np.nan
    with pytest.raises(CorruptData, match="a row is not finite"):
        planner.top_rows_many(rows[3_995:4_003], damaged, **asked)


def test_a_row_that_is_too_long_is_an_error_by_an_index_too(monkeypatch):
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    rows = rows_of(4_000, 1)
    rows[7] *= 5
    for ask in (planner.top_rows, planner.top_rows_many):
        query = rows[7] / 5 if ask is planner.top_rows else rows[5:13] / [[1], [1], [5], *[[1]] * 5]
        with pytest.raises(CorruptData, match="not of length 1"):
            ask(query.astype(np.float32), rows, k=3, dead=NOTHING, index=Told(rows), fetch=40)


def test_a_row_that_is_no_number_is_an_error_by_an_index_too(monkeypatch):
    """Also where enough others are as near, so that nobody misses it."""
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    rows = rows_of(4_000, 1)
    rows[:40] = rows[0]
    damaged = rows.copy()
    damaged[7] = np.nan
    for ask, query in ((planner.top_rows, rows[3]), (planner.top_rows_many, rows[:8])):
        with pytest.raises(CorruptData, match="not finite"):
            ask(query, damaged, k=3, dead=NOTHING, index=Told(rows), fetch=20)


def test_rows_are_checked_before_all_are_compared_and_only_then(monkeypatch):
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    rows, checks = rows_of(4_000, 1), []

    def ask(**asked):
        checks.clear()
        planner.top_rows_many(rows[:8], rows, k=3, dead=NOTHING, check_rows=checks.append, **asked)
        return len(checks)

    assert ask() == 1
    assert ask(allowed=np.arange(500)) == 1
    assert checks[0].tolist() == list(range(500))
    assert ask(index=Told(rows), fetch=40) == 0
    assert ask(index=Told(rows), fetch=40, reach=1.1) == 1  # which nothing is near enough for


def test_a_batch_survives_tiles_without_a_live_row(vectors, queries, monkeypatch):
    monkeypatch.setattr(planner, "TILE_ROWS", 100)
    dead = np.concatenate([np.arange(250), np.arange(400, 1_000)])
    for query, one in zip(
        queries, planner.top_rows_many(queries, vectors[:1_000], k=10, dead=dead), strict=True
    ):
        assert_same(one, exact_top_rows(query, vectors[:1_000], k=10, dead=dead))


def test_no_queries_give_no_answers(vectors):
    assert len(planner.top_rows_many(vectors[:0], vectors, k=10, dead=NOTHING)) == 0


# ---- when to build ------------------------------------------------------------------------


def test_few_rows_need_no_index():
    assert planner.choose_kind(0) == planner.choose_kind(planner.EXACT_ROWS) == "exact"
    assert planner.choose_kind(planner.EXACT_ROWS + 1) == "ann"
    assert not planner.is_index_due(rows=planner.EXACT_ROWS, covered=0)


def test_an_index_is_due_when_many_rows_came_since():
    assert planner.is_index_due(rows=50_000, covered=0)
    assert not planner.is_index_due(rows=50_000, covered=49_000)
    assert not planner.is_index_due(rows=1_000_000, covered=900_000)
    assert planner.is_index_due(rows=1_000_000, covered=700_000)


def test_a_batch_by_the_index_may_be_empty_or_ask_for_more_than_was_to_be_fetched(vectors, index):
    nobody = np.empty((0, 256), np.float32)
    assert len(planner.top_rows_many(nobody, vectors, k=3, dead=NOTHING, index=index)) == 0
    for k, fetch in ((3, 2), (10, 5)):
        found = planner.top_rows_many(
            vectors[:20], vectors, k=k, dead=NOTHING, index=index, fetch=fetch
        )
        assert [one.rows[0] for one in found] == list(range(20))
        assert all(len(one.rows) >= k for one in found)


def test_codes_are_learned_from_rows_of_everywhere(monkeypatch):
    # Rows of two folders, one after the other, a little fewer than twice the sample.
    monkeypatch.setattr(faiss_index, "TRAINING_ROWS", 1_000)
    rng = np.random.default_rng(4)
    halves = rng.standard_normal((2, 950, 256))
    halves[0, :, 128:] = halves[1, :, :128] = 0
    rows = normalise(halves.reshape(-1, 256))
    built = faiss_index.FourBitScan.build(rows)
    queries = normalise(rows[-100:] + 0.3 * halves[1, :100] / 11)
    shares = [
        np.isin(np.argsort(-rows @ query)[:10], built.search(query, 100)).mean()
        for query in queries
    ]
    assert np.mean(shares) > 0.8


# ---- batches by an index ---------------------------------------------------------------------


class Told:
    """Proposes the rows that are nearest indeed, the nearest first; keeps what it was asked."""

    kind = "told"

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self.rows = len(vectors)
        self.asked: list[tuple[int, int]] = []

    def search(self, query: np.ndarray, fetch: int) -> np.ndarray:
        return self.search_many(query[None], fetch)[0]

    def search_many(self, queries: np.ndarray, fetch: int) -> np.ndarray:
        self.asked.append((len(queries), fetch))
        return np.argsort(-(queries @ self._vectors.T), axis=1, kind="stable")[:, :fetch]


def scattered(rng: np.random.Generator, covered: int, since: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of which hardly two are alike, and queries of which each lies near some."""
    centres = rng.standard_normal((300, 256))
    rows = normalise(centres[rng.integers(0, 300, covered + since)] + rows_of(covered + since, 5))
    queries = normalise(rows[rng.integers(0, covered, 61)] + 0.03 * rows_of(61, 6))
    # Rows so near to one another that only float64 tells them apart, before the index and since.
    for number, query in enumerate(queries[:40]):
        # Of those since more than are looked at together.
        places = rng.choice(covered, 9) if number % 2 else covered + rng.choice(since, 15)
        nudges = 10.0 ** rng.uniform(-8.5, -7, (len(places), 1)) * rng.standard_normal(256)
        nudges *= rng.standard_normal((len(places), 256))
        rows[places] = normalise(query + 0.02 * rows[places[:1]] + nudges)
    # One is asked for by the last query, and there are more of it than are proposed.
    rows[rng.choice(covered, 300, replace=False)] = queries[-1]
    return rows, queries


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("count", [61, 2])
@pytest.mark.parametrize("share", [0.0, 0.1])
def test_a_batch_by_an_index_gives_what_the_oracle_gives(monkeypatch, cores, count, share):
    monkeypatch.setattr(planner, "usable_cores", lambda: cores)
    rng = np.random.default_rng(11)
    rows, queries = scattered(rng, 5_000, 1_000)
    queries = queries[-count:]
    dead = np.flatnonzero(rng.random(len(rows)) < share)
    index = Told(rows[:5_000])
    found = planner.top_rows_many(queries, rows, k=3, dead=dead, index=index, fetch=10)
    assert found.are_exact[-1]  # too hard for the index
    assert found.are_exact[:-1].mean() < 0.5
    for query, own in zip(queries, found, strict=True):
        expected = exact_top_rows(query, rows, k=3, dead=dead)
        assert own.rows.tolist() == expected.rows.tolist()
        assert own.cosines.tobytes() == expected.cosines.tobytes()


class Recording:
    """An index that proposes the first rows, and keeps how many it was asked for."""

    rows = 1_000_000

    def __init__(self) -> None:
        self.asked: list[int] = []

    def search(self, _: np.ndarray, fetch: int) -> np.ndarray:
        self.asked.append(fetch)
        return np.arange(fetch)


@pytest.mark.parametrize(
    ("first", "asked", "left"),
    [(0, [40], 40), (1_000, [40, 2_000], 1_000), (3_000, [40, 2_000], None)],
)
def test_few_are_asked_for_at_first_and_more_before_the_index_is_given_up(first, asked, left):
    index = Recording()
    allowed = np.arange(first, 1_000_000)
    query = rows_of(1, 1)[0]
    that_count = planner._that_count(NOTHING, allowed, None)
    found = planner._proposed(query, 10, len(allowed), index, that_count)
    assert index.asked == asked
    assert (None if found is None else len(found)) == left


def test_a_batch_asks_deeper_for_those_alone_that_found_too_little(monkeypatch):
    monkeypatch.setattr(planner, "usable_cores", lambda: 1)
    rng = np.random.default_rng(3)
    rows = rows_of(12_000, 1)
    queries = rows[rng.choice(10_000, 8, replace=False)]
    # The fifth has more that are as near as its tenth than are proposed at first; its very best is
    # among those since the index, as are others' that must not be taken for it.
    rows[rng.choice(10_000, 30, replace=False)] = normalise(queries[4] + 0.05 * rows_of(1, 9)[0])
    rows[11_000:11_008] = normalise(queries + 0.01 * rows_of(8, 7))
    index = Told(rows[:10_000])
    found = planner.top_rows_many(queries, rows, k=10, dead=NOTHING, index=index, fetch=10)
    assert index.asked == [(8, 20), (1, 80)]
    for query, own, row in zip(queries, found, range(11_000, 11_008), strict=True):
        assert_same(own, exact_top_rows(query, rows, k=10, dead=NOTHING), how="ann")
        assert row in own.rows


@pytest.mark.parametrize(
    ("near", "reading", "asked", "are_exact"),
    [
        (30, 32, [(8, 20), (1, 80)], 0),
        (120, 32, [(8, 20), (1, 80), (1, 320)], 0),
        (400, 32, [(8, 20), (1, 80), (1, 320)], 1),
        (120, 0, [(8, 20), (1, 80)], 1),  # to multiply all rows with one costs less
    ],
)
def test_a_few_that_are_hard_are_asked_for_deeper_than_they_are_compared_with_all(
    monkeypatch, near, reading, asked, are_exact
):
    monkeypatch.setattr(planner, "usable_cores", lambda: 1)
    monkeypatch.setattr(planner, "READING_TIME", reading)
    rng = np.random.default_rng(3)
    rows = rows_of(10_000, 1)
    queries = rows[:8].copy()
    rows[rng.choice(10_000, near, replace=False)] = normalise(queries[4] + 0.05 * rows_of(1, 9)[0])
    index = Told(rows)
    found = planner.top_rows_many(queries, rows, k=10, dead=NOTHING, index=index, fetch=10)
    assert index.asked == asked
    assert found.are_exact.tolist() == [number == 4 and are_exact == 1 for number in range(8)]
    for query, own in zip(queries, found, strict=True):
        assert_same(own, exact_top_rows(query, rows, k=10, dead=NOTHING), how=own.how)


def test_whom_more_proposals_do_not_help_is_compared_with_all_at_once(monkeypatch):
    monkeypatch.setattr(planner, "usable_cores", lambda: 1)
    rows = rows_of(10_000, 1)
    queries = normalise(np.concatenate([rows[:8], rows_of(1, 5)]))
    tenths = [exact_top_rows(one, rows, k=10, dead=NOTHING).cosines[9] for one in queries]
    reach = float(np.sort(tenths)[2])
    index = Told(rows)
    found = planner.top_rows_many(
        queries, rows, k=10, dead=NOTHING, index=index, fetch=20, reach=reach
    )
    assert index.asked == [(9, 40)]
    assert found.are_exact.tolist() == [tenth < reach for tenth in tenths]
    # Of the rows since more are as near as its last hit than are looked at: their tie goes on.
    more = np.concatenate([rows, np.repeat(rows[3:4], 40, axis=0)])
    found = planner.top_rows_many(queries, more, k=10, dead=NOTHING, index=index, fetch=20)
    assert index.asked[1:] == [(9, 40)]
    assert found.are_exact.tolist() == [number == 3 for number in range(9)]
    assert set(range(10_000, 10_040)) < set(found[3].rows.tolist())


def test_who_is_hard_and_far_gets_each_row_once(monkeypatch):
    monkeypatch.setattr(planner, "usable_cores", lambda: 1)
    rows = rows_of(10_000, 1)
    queries = rows[:8].copy()
    rows[100:130] = normalise(queries[4] + 0.05 * rows_of(1, 9)[0])
    index = Told(rows)
    found = planner.top_rows_many(
        queries, rows, k=10, dead=NOTHING, index=index, fetch=10, reach=2.0
    )
    assert index.asked == [(8, 20), (1, 80)]
    for query, own in zip(queries, found, strict=True):
        assert_same(own, exact_top_rows(query, rows, k=10, dead=NOTHING))


def test_no_batch_goes_deeper_than_to_a_share_of_the_rows(monkeypatch):
    monkeypatch.setattr(planner, "usable_cores", lambda: 1)
    monkeypatch.setattr(planner, "READING_TIME", 1e9)
    rows = rows_of(10_000, 1)
    rows[100:220] = normalise(rows[4] + 0.05 * rows_of(1, 9)[0])
    for share, asked in ((0.032, [20, 80, 320]), (0.0319, [20, 80]), (0.0079, [])):
        monkeypatch.setattr(planner, "RUNAWAY_SHARE", share)
        index = Told(rows)
        found = planner.top_rows_many(rows[:8], rows, k=10, dead=NOTHING, index=index, fetch=10)
        assert [depth for _, depth in index.asked] == asked
        assert found.are_exact.sum() == {3: 0, 2: 1, 0: 8}[len(asked)]


@pytest.mark.parametrize(
    ("fetch", "dead", "is_used"), [(53, 0, True), (54, 0, False), (53, 9, False)]
)
def test_an_index_that_proposes_too_much_is_not_asked_by_a_batch(fetch, dead, is_used):
    rows = rows_of(10_000, 1)
    index = Told(rows)
    planner.top_rows_many(rows[:8], rows, k=10, dead=np.arange(dead), index=index, fetch=fetch)
    assert bool(index.asked) == is_used


@pytest.mark.parametrize(
    ("count", "has_index", "by_index"), [(6, 1, True), (7, 1, False), (2, 0, False)]
)
def test_a_few_queries_with_a_filter_of_their_own_are_answered_one_by_one(
    vectors, monkeypatch, count, has_index, by_index
):
    index = Told(vectors) if has_index else None
    blocks = []
    block = planner._top_rows_block
    monkeypatch.setattr(
        planner, "_top_rows_block", lambda *given: blocks.append(1) or block(*given)
    )
    asked = {"k": 10, "dead": NOTHING, "allowed": np.arange(0, 8_000, 3)}
    found = planner.top_rows_many(vectors[:count], vectors, index=index, fetch=20, **asked)
    for query, own in zip(vectors[:count], found, strict=True):
        best = exact_top_rows(query, vectors, **asked)
        assert_same(own, best, how="ann" if by_index else "exact")
    assert bool(blocks) == (count == 7)
    if by_index:
        assert len(index.asked) == count
        assert max(depth for _, depth in index.asked) < 3 * 2 * planner.FETCH
        far = planner.top_rows_many(
            vectors[:count], vectors, index=index, fetch=20, reach=2.0, **asked
        )
        assert far.are_exact.all()
    planner.top_rows_many(vectors[:3], vectors, **asked)
    assert blocks
    assert len(planner.top_rows_many(vectors[:0], vectors, index=index, **asked)) == 0


@pytest.mark.parametrize("cores", [1, 2, 3])
@pytest.mark.parametrize("at_once", [1, 100, 700])
def test_the_blocks_of_a_batch_are_no_larger_than_they_may_be(monkeypatch, cores, at_once):
    monkeypatch.setattr(planner, "usable_cores", lambda: cores)
    monkeypatch.setattr(planner, "PROPOSALS_AT_ONCE", at_once)
    rows = rows_of(8_000, 1)
    index = Told(rows)
    queries = rows[:23]
    found = planner.top_rows_many(queries, rows, k=10, dead=NOTHING, index=index, fetch=10)
    sizes = [count for count, fetch in index.asked if fetch == 20]
    assert sum(sizes) == 23
    assert max(sizes) <= max(1, at_once // 80)
    assert max(sizes) - min(sizes) <= 1
    for query, own in zip(queries, found, strict=True):
        assert_same(own, exact_top_rows(query, rows, k=10, dead=NOTHING), how=own.how)


@pytest.mark.parametrize("pays", [True, False])
@pytest.mark.parametrize("covered", [8_000, 4_000])
def test_a_batch_compares_all_rows_where_fewer_bits_are_as_fast_as_an_index(
    vectors, queries, monkeypatch, pays, covered
):
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    told = []

    def is_paying(*given, **more):
        told.append(more)
        return pays and bool(more)

    monkeypatch.setattr(planner.first_pass, "is_paying", is_paying)
    found = planner.top_rows_many(
        queries, vectors, k=10, dead=NOTHING, index=Told(vectors[:covered]), fetch=20
    )
    # The rows since are multiplied all.
    share = covered / 8_000
    assert told[0]["least"] == pytest.approx(
        planner.FIRST_PASS_TIME / (share * planner.SCAN_TIME + 1 - share)
    )
    assert found.are_exact.all() == pays
