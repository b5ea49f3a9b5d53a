"""Vectors in a plane: what is near stays near, the same seed gives the same bytes."""

from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from muomni_search.errors import InvalidInput, NotFound
from muomni_search.explore.layout import centred, lay_out
from muomni_search.vectors import normalise

METHODS = ["umap", "tsne", "pca"]


def heaps(rng: np.random.Generator, sizes: tuple[int, ...] = (20, 20, 20)) -> NDArray[np.float32]:
    """Return rows in well separated heaps."""
    middles = 6 * rng.standard_normal((len(sizes), 256))
    return normalise(
        np.concatenate(
            [
                middle + rng.standard_normal((size, 256))
                for middle, size in zip(middles, sizes, strict=True)
            ]
        )
    )


@pytest.mark.parametrize("method", METHODS)
def test_heaps_stay_apart_and_the_same_seed_gives_the_same_bytes(
    method: str, rng: np.random.Generator
) -> None:
    rows = heaps(rng)
    places, used = lay_out(rows, method=method, seed=3)
    assert used == method
    assert places.shape == (60, 2)
    assert places.dtype == np.float32
    assert np.abs(places).max() == pytest.approx(1)
    middles = [places[start : start + 20].mean(axis=0) for start in (0, 20, 40)]
    spread = max(
        float(np.linalg.norm(places[start : start + 20] - middle, axis=1).max())
        for start, middle in zip((0, 20, 40), middles, strict=True)
    )
    assert min(np.linalg.norm(a - b) for a, b in combinations(middles, 2)) > 2 * spread
    again, _ = lay_out(rows.copy(), method=method, seed=3)
    assert again.tobytes() == places.tobytes()


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_another_seed_or_number_of_neighbours_gives_another_map(
    method: str, rng: np.random.Generator
) -> None:
    rows = heaps(rng)
    places, _ = lay_out(rows, method=method, seed=0, neighbors=5)
    assert lay_out(rows, method=method, seed=0, neighbors=12)[0].tobytes() != places.tobytes()
    if method == "umap":
        assert lay_out(rows, method=method, seed=1, neighbors=5)[0].tobytes() != places.tobytes()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7])
def test_few_points_are_laid_out_too(method: str, count: int, rng: np.random.Generator) -> None:
    places, used = lay_out(heaps(rng, (count,)), method=method)
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    assert used == (method if count >= 6 else "pca")
    assert len(np.unique(places, axis=0)) == count


@pytest.mark.parametrize("method", METHODS)
def test_equal_points_do_no_harm(method: str, rng: np.random.Generator) -> None:
    one = heaps(rng, (1,))
    places, used = lay_out(np.repeat(one, 30, axis=0), method=method)
    assert used == "pca"
    assert not places.any()
    mixed = np.concatenate([np.repeat(one, 30, axis=0), heaps(rng, (10,))])
    assert np.isfinite(lay_out(mixed, method=method)[0]).all()


def test_centring_takes_each_groups_mean_off(rng: np.random.Generator) -> None:
    things = heaps(rng, (1,) * 12)
    gap = 3 * heaps(rng, (1, 1))
    rows = normalise(np.concatenate([things + gap[0], things + gap[1]]))
    groups = ["text"] * 12 + ["image"] * 12

    def found(given: NDArray[np.float32]) -> int:
        """Count the things whose nearest is the same thing in the other group."""
        cosines = given @ given.T
        np.fill_diagonal(cosines, -2)
        return int((cosines.argmax(axis=1) == np.roll(np.arange(24), 12)).sum())

    moved = centred(rows, groups)
    assert found(rows) < 6
    assert found(moved) == 24
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, rtol=1e-6)


def test_centring_leaves_one_of_a_kind_alone_and_equal_ones_at_zero(
    rng: np.random.Generator,
) -> None:
    rows = heaps(rng, (1, 1))
    moved = centred(rows[[0, 0, 1]], ["text", "text", "image"])
    assert not moved[:2].any()
    np.testing.assert_allclose(moved[2], rows[1], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lsa"}, "no method 'lsa': one of umap, tsne, pca"),
        ({"seed": -1}, "the seed is -1"),
        ({"neighbors": 1}, "neighbors is 1"),
        ({"min_dist": 2.0}, "min_dist is 2.0"),
    ],
)
def test_options_of_no_use_are_refused(
    options: dict[str, object], message: str, rng: np.random.Generator
) -> None:
    with pytest.raises(InvalidInput, match=message):
        lay_out(heaps(rng), **options)  # type: ignore[arg-type]


def test_nothing_cannot_be_laid_out() -> None:
    with pytest.raises(InvalidInput, match="nothing to lay out"):
        lay_out(np.empty((0, 256), np.float32))


def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(NotFound, match=r"pip install 'muomni_search\[explore\]'"):
        lay_out(heaps(rng), method="umap")
