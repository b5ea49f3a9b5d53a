"""Vectors laid out in a plane: UMAP, t-SNE or PCA, the same to the byte for the same seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import InvalidInput
from muomni_search.extras import load_extra
from muomni_search.index import planner
from muomni_search.index.ties import Ties

__all__ = ["METHODS", "centred", "lay_out"]

Rows = NDArray[np.float32]

METHODS = ("umap", "tsne", "pca")
# With fewer points neither UMAP nor t-SNE has neighbourhoods to keep: PCA shows them.
FEWEST = 6
UMAP_NEIGHBORS = 15
TSNE_PERPLEXITY = 30
MIN_DIST = 0.1
# What is closer together than rounding can tell apart has no direction of its own.
NOTHING = 1e-6
MAX_SEED = 2**32 - 1


def centred(rows: Rows, groups: Sequence[str]) -> Rows:
    """Return rows (n, d) less the mean of their group, as unit rows; what vanishes stays zero.

    The vectors of each modality lie around a mean of their own, far from those of the others
    (the modality gap). Without it, what is alike across modalities comes together.
    """
    names = np.asarray(groups)
    moved = np.asarray(rows, np.float64).copy()
    for name in np.unique(names):
        of_group = names == name
        # The mean of one is itself, and would leave nothing.
        if np.count_nonzero(of_group) > 1:
            moved[of_group] -= moved[of_group].mean(axis=0)
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.asarray(np.where(lengths > NOTHING, moved / np.maximum(lengths, NOTHING), 0.0), "f4")


def check_seed(seed: int) -> None:
    """Refuse a seed that not every method takes.

    Raises:
        InvalidInput: It is less than 0, or too great.
    """
    if not 0 <= seed <= MAX_SEED:
        raise InvalidInput(f"the seed is {seed}", hint=f"give a number from 0 to {MAX_SEED}")


def lay_out(
    rows: Rows,
    *,
    method: str = "umap",
    seed: int = 0,
    neighbors: int | None = None,
    min_dist: float = MIN_DIST,
) -> tuple[Rows, str]:
    """Return a place (n, 2) in [-1, 1] for each row (n, d), and the method that found it.

    Few or equal rows are laid out by PCA whatever was asked for.

    Args:
        rows: Unit rows, or zeros.
        method: ``umap``, ``tsne`` or ``pca``.
        seed: The same seed gives the same places.
        neighbors: How many neighbours count: UMAP's ``n_neighbors`` (15) or t-SNE's perplexity
            (30), less where there are not so many rows.
        min_dist: How near UMAP lets points come, from 0 to 1.

    Raises:
        InvalidInput: No rows, or an option of no use.
        NotFound: The package for the method is not installed.
    """
    if method not in METHODS:
        raise InvalidInput(f"no method {method!r}", hint=f"one of {', '.join(METHODS)}")
    if not len(rows):
        raise InvalidInput("there is nothing to lay out", hint="a map needs one point at least")
    check_seed(seed)
    if neighbors is not None and neighbors < 2:
        raise InvalidInput(f"neighbors is {neighbors}", hint="give 2 or more")
    if not 0 <= min_dist <= 1:
        raise InvalidInput(f"min_dist is {min_dist}", hint="give a number from 0 to 1")
    is_one_place = float(np.ptp(rows, axis=0).max()) < NOTHING
    if len(rows) < FEWEST or is_one_place:
        method = "pca"
    flat = _pca(rows)
    if method == "umap":
        flat = _umap(rows, flat, seed, neighbors or UMAP_NEIGHBORS, min_dist)
    elif method == "tsne":
        flat = _tsne(rows, flat, seed, neighbors or TSNE_PERPLEXITY)
    return _framed(flat), method


def _framed(flat: NDArray[np.float64]) -> Rows:
    """Move and scale places into the square from -1 to 1, as large as they get there."""
    low, high = flat.min(axis=0), flat.max(axis=0)
    half = float((high - low).max()) / 2
    return np.asarray((flat - (low + high) / 2) / (half if half > 0 else 1.0), np.float32)


def _pca(rows: Rows) -> NDArray[np.float64]:
    """Return the two principal components of each row (n, 2)."""
    with _one_thread():
        wide = np.asarray(rows, np.float64)
        wide = wide - wide.mean(axis=0)
        _, axes = np.linalg.eigh(wide.T @ wide)
        axes = axes[:, :-3:-1]
        # An axis may point either way: let its largest part be positive.
        axes = axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), [0, 1]])
        return np.asarray(wide @ axes, np.float64)


def _umap(
    rows: Rows, start: NDArray[np.float64], seed: int, neighbors: int, min_dist: float
) -> NDArray[np.float64]:
    with _quiet():
        umap = load_extra("umap", extra="explore")
    wanted = min(neighbors, len(rows) - 1)
    near = planner.top_rows_many(
        rows, rows, k=wanted, dead=np.empty(0, np.int64), ties=Ties.by_row(len(rows))
    )
    # Rows tied with the last one come too, while they are few.
    cosines = np.array([one.cosines[:wanted] for one in near], np.float64)
    knn = (
        np.array([one.rows[:wanted] for one in near]),
        np.sqrt(np.maximum(2 - 2 * cosines, 0)).astype("f4"),
    )
    # Equal rows would start, and stay, in one place.
    noise = np.random.default_rng(seed).normal(scale=1e-4 * start.std(), size=start.shape)
    with _quiet(), _one_thread():
        return np.asarray(
            umap.UMAP(
                n_neighbors=wanted,
                min_dist=min_dist,
                init=np.asarray(start + noise, np.float32),
                random_state=seed,
                n_jobs=1,
                precomputed_knn=knn,
                # Or it compares small sets anew.
                force_approximation_algorithm=True,
            ).fit_transform(rows),
            np.float64,
        )


def _tsne(
    rows: Rows, start: NDArray[np.float64], seed: int, perplexity: int
) -> NDArray[np.float64]:
    manifold = load_extra("sklearn.manifold", extra="explore")
    with _quiet(), _one_thread():
        return np.asarray(
            manifold.TSNE(
                perplexity=min(float(perplexity), (len(rows) - 1) / 3),
                # So small that it only says who is on which side (Kobak & Berens 2019).
                init=np.asarray(start / start[:, 0].std() * 1e-4, np.float32),
                random_state=seed,
                n_jobs=1,
            ).fit_transform(rows),
            np.float64,
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let sums have one order, whatever the machine has."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to ourselves what these packages tell their own users.

    UMAP (0.5) warns that a map of neighbours made elsewhere cannot place new points, and numba
    of parallel code on one thread.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
