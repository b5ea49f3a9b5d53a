"""Batches by way of fewer bits give what they give without, to the bit."""

from __future__ import annotations

import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from muomni_search.index import coarse, first_pass, planner
from muomni_search.index.coarse import BFLOAT16, EIGHT_BITS, Arithmetic
from muomni_search.items import DIM
from muomni_search.vectors import normalise

Rows = NDArray[np.float32]
CHOOSE = coarse.choose
NOTHING = np.empty(0, np.int64)
QUERY_MOST = coarse._query_most.__wrapped__


@pytest.fixture(autouse=True, params=[*coarse.QUERY_MOSTS, "bfloat16"])
def arithmetic(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Arithmetic:
    """Whole numbers in 8 bits and in 7, and bfloat16, which PyTorch multiplies on any processor."""
    chosen = BFLOAT16 if request.param == "bfloat16" else EIGHT_BITS
    if chosen is EIGHT_BITS:
        if not coarse._is_exact(request.param):
            pytest.skip("this processor multiplies so large numbers inexactly")
        monkeypatch.setattr(coarse, "_query_most", lambda: request.param)
    monkeypatch.setattr(coarse, "choose", lambda _: chosen)
    monkeypatch.setattr(coarse, "ROWS_AT_ONCE", 300)
    monkeypatch.setattr(chosen, "at_once", 40)
    monkeypatch.setattr(first_pass, "SAMPLE_ROWS", (100, 200))
    monkeypatch.setattr(first_pass, "COMPARED_AT_ONCE", 70)
    # So few rows are near to a large share of one another.
    monkeypatch.setattr(first_pass, "PATIENCE", 10**12)
    return chosen


def check(
    queries: Rows,
    vectors: Rows,
    k: int,
    dead: NDArray[np.int64] = NOTHING,
    allowed: NDArray[np.int64] | None = None,
) -> None:
    found = first_pass.best_rows(queries, vectors, k, dead, allowed)
    expected = planner.top_rows_many(queries, vectors, k=k, dead=dead, allowed=allowed)
    assert found is not None
    for name in ("starts", "rows", "cosines", "are_exact"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name


def clustered(rng: np.random.Generator, count: int) -> Rows:
    """Return rows in a narrow cone, with strong and weak dimensions and ties among them."""
    centres = rng.standard_normal((20, DIM)) + 2
    spread = (1 + np.arange(DIM)) ** -0.7
    rows = centres[rng.integers(0, 20, count)] + 0.5 * rng.standard_normal((count, DIM))
    rows = normalise(rows * spread)
    rows[rng.integers(0, count, count // 4)] = rows[rng.integers(0, count, count // 4)]
    return rows


def test_nothing_differs_from_the_long_way(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 3_000)
    queries = normalise(vectors[:60] + 0.05 * rng.standard_normal((60, DIM)))
    for k in (1, 10, 150):
        check(queries, vectors, k)
        check(vectors[:60], vectors, k)
        check(-queries, vectors, k)


@pytest.mark.filterwarnings("error")
def test_rows_may_be_mapped_to_be_read_only(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 1_000)
    vectors.flags.writeable = False
    check(vectors[::20], vectors, 5)


def test_dead_and_filtered_rows_are_left_out(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 3_000)
    queries = normalise(rng.standard_normal((40, DIM)))
    dead = np.flatnonzero(rng.random(3_000) < 0.4)
    check(queries, vectors, 10, dead)
    check(vectors[dead[:40]], vectors, 10, dead)
    check(queries, vectors, 10, allowed=np.setdiff1d(np.arange(0, 3_000, 3), dead))
    # All that the first guess is taken from are dead.
    check(queries, vectors, 10, np.setdiff1d(np.arange(3_000), np.arange(7, 3_000, 150)))


def test_a_few_live_rows_behind_many_dead_ones(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 1_000)
    check(vectors[:30], vectors, 5, np.arange(990))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.0, 0.5, 0.98]))
def test_whatever_the_rows_are_like(seed: int, k: int, zeros: float) -> None:
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-4, 1, DIM)
    rows = rng.standard_normal((400, DIM)) * scales
    rows[rng.random((400, DIM)) < zeros] = 0
    rows[:, 0] += 1e-3
    vectors = normalise(rows)
    check(vectors[::13], vectors, k)


def test_the_largest_numbers_are_not_cut_off() -> None:
    # All of each row in the largest whole numbers: what 16 bits would be too few for.
    signs = np.random.default_rng(3).choice([-1.0, 1.0], (600, DIM))
    signs[:50] = 1
    vectors = normalise(signs)
    check(vectors[:64], vectors, 10)
    check(-vectors[:64], vectors, 10)


@pytest.mark.parametrize("k", [1, 4, 60])
def test_rows_that_only_float64_tells_apart(k: int, rng: np.random.Generator) -> None:
    """Nearer to one another than a product in float32 is off."""
    vectors = clustered(rng, 1_500)
    nudges = 10.0 ** rng.uniform(-8.5, -6, (400, 1)) * rng.standard_normal((400, DIM))
    vectors[rng.permutation(1_500)[:400]] = normalise(vectors[:1] + nudges)
    queries = normalise(vectors[:1] + 0.02 * rng.standard_normal((50, DIM)))
    check(queries, vectors, k)


@pytest.mark.parametrize("exact", [(127, 63), (63,), ()])
def test_queries_have_as_many_bits_as_are_multiplied_exactly(
    exact: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse, "_is_exact", lambda most: most in exact)
    assert QUERY_MOST() == max(exact, default=0)


def test_the_more_it_saves_the_more_hits_it_takes_the_way_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(first_pass, "LARGE", 1)
    rows = 10 * first_pass.ROWS_PER_HIT
    for gain, most in ((1.0, 0), (1.1, 0), (1.3, 2), (2.0, 5), (11.0, 9)):
        monkeypatch.setattr(coarse, "gain", lambda _, gain=gain: gain)
        taken = [k for k in range(1, 20) if first_pass.is_paying(1_000, rows, k)]
        assert taken == list(range(1, most + 1))


def test_the_bound_holds_and_is_nearly_reached(
    rng: np.random.Generator, arithmetic: Arithmetic
) -> None:
    """Of queries that lie as rows are off, and of rows that lie as queries are off."""
    rows = clustered(rng, 400)
    off, _, _ = meant(rows, rows, arithmetic)
    along_rows = used(rows, normalise(rows - off), arithmetic)
    queries = normalise(rng.standard_normal((400, DIM)))
    _, off, _ = meant(rows, queries, arithmetic)
    along_queries = used(normalise(queries - off), queries, arithmetic)
    for share in (along_rows, along_queries):
        assert share.max() <= 1
        assert share.max() > (0.6 if arithmetic is EIGHT_BITS else 0.4)


def meant(
    rows: Rows, queries: Rows, arithmetic: Arithmetic
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return what the fewer bits of rows and queries stand for, and the bounds of each query."""
    made, asked = arithmetic.rows(rows), arithmetic.queries(queries)
    assert made is not None
    if arithmetic is EIGHT_BITS:
        left = made.scale * (made.numbers.astype(np.float64) - coarse.ZERO)
        right = asked.numbers.astype(np.float64).T * asked.scales[:, None]
    else:
        left, right = made.numbers.double().numpy(), asked.numbers.T.double().numpy()
    return left, right, made.bounds(asked.errors)


def used(rows: Rows, queries: Rows, arithmetic: Arithmetic) -> NDArray[np.float64]:
    """Return which share of its bound the product of each row with its query is off by."""
    left, right, bounds = meant(rows, queries, arithmetic)
    exact = np.vecdot(rows.astype(np.float64), queries.astype(np.float64))
    return np.asarray(np.abs(exact - np.vecdot(left, right)) / bounds)


def test_who_reaches_what_is_wanted_passes_and_hardly_another(
    rng: np.random.Generator, arithmetic: Arithmetic
) -> None:
    rows = clustered(rng, 200)
    queries = normalise(rows[:30] + 0.1 * rng.standard_normal((30, DIM)))
    cosines = queries.astype(np.float64) @ rows.T.astype(np.float64)
    made, asked = arithmetic.rows(rows), arithmetic.queries(queries)
    assert made is not None
    for least in (cosines.max(axis=1), np.median(cosines, axis=1), np.full(30, -0.5), -np.ones(30)):
        is_near = np.zeros((30, 200), bool)
        is_near[arithmetic.near(made, asked, least)] = True
        assert is_near[cosines >= least[:, None]].all()
        # Twice the bound, and half of the last of eight bits.
        slack = 2 * made.bounds(asked.errors)[:, None] + np.abs(least[:, None]) * 2.0**-8
        assert not is_near[cosines < least[:, None] - slack].any()


@pytest.mark.parametrize(
    ("flags", "is_loaded", "large", "chosen"),
    [
        ({"amx_bf16"}, True, False, BFLOAT16),
        ({"avx512_bf16"}, False, True, BFLOAT16),
        ({"amx_bf16"}, False, False, EIGHT_BITS),
        ({"avx2", "avx512f"}, True, True, EIGHT_BITS),
    ],
)
def test_what_is_faster_is_chosen_where_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
    flags: set[str],
    is_loaded: bool,
    large: bool,
    chosen: Arithmetic,
) -> None:
    monkeypatch.setattr(coarse, "choose", CHOOSE)
    monkeypatch.setattr(coarse, "processor_flags", lambda: frozenset(flags))
    monkeypatch.setattr(coarse, "gain", lambda way: 3.0 if way is BFLOAT16 else 2.0)
    monkeypatch.setattr(coarse.sys, "modules", {"torch": None} if is_loaded else {})
    assert coarse.choose(coarse.WORTH_TORCH - (not large)) is chosen
    monkeypatch.setattr(coarse, "gain", lambda way: 1.0 if way is BFLOAT16 else 2.0)
    assert coarse.choose(coarse.WORTH_TORCH) is EIGHT_BITS


def test_floats_that_are_summed_in_fewer_bits_are_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert BFLOAT16.is_right()
    products = BFLOAT16._products
    monkeypatch.setattr(BFLOAT16, "_products", lambda *given: products(*given) * 1.01)
    assert not BFLOAT16.is_right()
    assert coarse.gain.__wrapped__(BFLOAT16) == 0


def test_pytorch_has_the_threads_that_it_had_before() -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with coarse.workers("outer", BFLOAT16) as outer, coarse.workers("inner", BFLOAT16) as inner:
            for pool in (outer, inner):
                assert pool.submit(torch.get_num_threads).result() == 1
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_what_too_many_reach_or_no_vectors_are_is_left_to_floats(
    rng: np.random.Generator, arithmetic: Arithmetic
) -> None:
    rows = clustered(rng, 100)
    asked, least = coarse.Asked(arithmetic, rows[:50]), np.full(50, 0.5)
    found = asked.near(rows, least, 5_000)
    assert found is not None
    count = len(found[0])
    assert count >= (rows[:50] @ rows.T >= 0.5).sum() > 0
    assert asked.near(rows, least, count - 1) is None
    rows[7, 3] = np.nan
    assert asked.near(rows, least, 5_000) is None


def test_where_too_many_pass_nothing_is_compared(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_pass, "PATIENCE", 0)
    narrow = normalise(rng.standard_normal(DIM) + 0.1 * rng.standard_normal((2_000, DIM)))
    assert first_pass.best_rows(narrow[:50], narrow, 5, NOTHING, None) is None
    equal = np.repeat(narrow[:1], 2_000, axis=0)
    assert first_pass.best_rows(equal[:50], equal, 5, NOTHING, None) is None


def test_rows_that_are_no_unit_vectors_have_no_bound(rng: np.random.Generator) -> None:
    vectors = clustered(rng, 500)
    for bad in (np.nan, np.inf, 1e30):
        broken = vectors.copy()
        broken[321, 5] = bad
        assert first_pass.best_rows(vectors[:9], broken, 3, NOTHING, None) is None
    # One that is merely too long is compared like all.
    longer = vectors.copy()
    longer[321] *= 1.5
    found = first_pass.best_rows(vectors[321:322], longer, 1, NOTHING, None)
    assert found is not None
    assert found.rows.tolist() == [321]


def test_the_planner_takes_it_where_it_pays(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(rng, 2_000)
    expected = planner.top_rows_many(vectors[:300], vectors, k=5, dead=NOTHING)
    asked = []
    best_rows = first_pass.best_rows

    def counted(queries: Rows, *given: object) -> object:
        asked.append(len(queries))
        return best_rows(queries, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(first_pass, "best_rows", counted)
    monkeypatch.setattr(first_pass, "LARGE", 1)
    monkeypatch.setattr(first_pass, "ROWS_PER_HIT", 100)
    monkeypatch.setattr(coarse, "gain", lambda _: 1.1)
    planner.top_rows_many(vectors[:300], vectors, k=5, dead=NOTHING)
    assert asked == []
    monkeypatch.setattr(coarse, "gain", lambda _: 3.0)
    found = planner.top_rows_many(vectors[:300], vectors, k=5, dead=NOTHING)
    assert asked == [300]
    assert np.array_equal(found.rows, expected.rows)
    assert np.array_equal(found.cosines, expected.cosines)
    # Where it pays more than an index, that does not.
    monkeypatch.setattr(coarse, "gain", lambda _: planner.FIRST_PASS_TIME / planner.SCAN_TIME + 0.1)
    index = planner.build_index(vectors)
    monkeypatch.setattr(planner, "COMPARING_TIME", 0)
    asks = {"k": 5, "dead": NOTHING, "index": index, "fetch": 20}
    assert planner.top_rows_many(vectors[:300], vectors, **asks).are_exact.all()
    assert asked == [300, 300]
    assert not planner.top_rows_many(vectors[:255], vectors, **asks).are_exact.all()
    monkeypatch.setattr(coarse, "gain", lambda _: planner.FIRST_PASS_TIME / planner.SCAN_TIME - 0.1)
    assert not planner.top_rows_many(vectors[:300], vectors, **asks).are_exact.all()
    asked.pop()
    planner.top_rows_many(vectors[:300], vectors, k=50, dead=NOTHING)
    planner.top_rows_many(vectors[:100], vectors, k=5, dead=NOTHING)
    assert asked == [300]
    # Damaged rows are compared the long way.
    broken = vectors.copy()
    broken[7] = np.nan
    found = planner.top_rows_many(vectors[:300], broken, k=5, dead=np.array([7]))
    assert asked == [300, 300]
    assert len(found) == 300


def test_a_processor_whose_products_are_not_exact_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert coarse._is_exact(63)
    session = coarse._session()

    class OffByOne:
        """Compares with a number that is one too high, as if all products were too low."""

        def run(self, names: object, given: dict[str, NDArray[np.int64]]) -> object:
            return session.run(names, {**given, "least": given["least"] + np.int32(1)})

    monkeypatch.setattr(coarse, "_session", OffByOne)
    assert QUERY_MOST() == 0
    monkeypatch.setattr(coarse, "_query_most", QUERY_MOST)
    assert coarse.gain.__wrapped__(EIGHT_BITS) == 0


def test_the_graph_is_the_one_that_the_script_makes() -> None:
    script = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "build_first_pass.py"))
    assert onnx.load(coarse.GRAPH) == script["make_graph"]()
