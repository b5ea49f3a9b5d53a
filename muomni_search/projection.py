"""Learning a linear map from pairs of vectors: closed form, cross-validation, refinement.

One modality, the *anchor*, stays where it is; each other one gets a map W that brings its vectors
x to those t of what they belong to:

    W = argmin  Σ ‖x W − t‖²  +  λ ‖W − W₀‖²  =  (XᵀX + λI)⁻¹ (XᵀT + λW₀)

(ridge regression towards what is there, W₀). Where the vectors lie in the space already, W₀ is the
identity. Those of a *foreign* encoder do not; there W₀ is itself a ridge regression, from what the
foreign encoder says of a content to what the present one says of it, and zero where none does. The
*pull* λ / (n / d) says how strongly W is held: at 1 the pull weighs as much as the pairs. It is
chosen by retrieval on pairs that the map was not learned from, and an infinite pull, which changes
nothing, is among the candidates.

Moving one side alone does better than letting both meet half-way: on 800 names and drawings the
reciprocal rank of held-out ones rose from .81 to .90, against .82 for the mean of both, and all
that is compared with the anchor's own vectors stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import InvalidInput
from muomni_search.items import DIM, Modality
from muomni_search.metrics import bootstrap_interval, mean_reciprocal_rank, success_at_k
from muomni_search.vectors import normalise

if TYPE_CHECKING:
    import torch

__all__ = [
    "MIN_PAIRS",
    "Learned",
    "Maps",
    "Pairs",
    "apply_map",
    "choose_anchor",
    "compare_retrieval",
    "learn",
    "learnable",
]

# Fewer say nothing about how the map does on others.
MIN_PAIRS = 8
# From "as it was" to "as the pairs say"; a step is about a factor of three.
PULLS = (math.inf, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
CUTS = (1, 5, 10)
# Standard errors that a gain must be above nothing.
SURE = 2.0
# So many rows choose a pull, and so many are compared for the report, however many there are.
CHOOSING_ROWS, EVALUATED_ROWS = 1_000, 4_000
RESAMPLES = 500
# What refinement does at most, and when it stops before.
STEPS, BATCH_ROWS, LEARNING_RATE = 300, 256, 3e-3
CHECK_STEPS, PATIENCE = 20, 5
VALIDATION_SHARE = 0.15
FIRST_TEMPERATURE = 0.05

Array = NDArray[np.float64]
Maps = dict[Modality, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows of vectors that belong together, each with two modalities or three.

    Args:
        vectors: For each modality unit rows (n, d), zeros where a row has none.
        contents: For each modality a number (n,) that equal contents share, −1 for none.
        foreign: For each modality whose vectors are of another space, what the present space has
            of the same contents (n, 256); all zeros where nothing is known.
    """

    vectors: Mapping[Modality, NDArray[np.float32]]
    contents: Mapping[Modality, NDArray[np.int64]]
    foreign: Mapping[Modality, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.contents.values()), ()))

    def take(self, rows: NDArray[Any]) -> Pairs:
        """Return some of the rows, by number or by mask."""
        return Pairs(
            {modality: some[rows] for modality, some in self.vectors.items()},
            {modality: some[rows] for modality, some in self.contents.items()},
            {modality: some[rows] for modality, some in self.foreign.items()},
        )

    def present(self) -> Pairs:
        """Return the rows as the present space has them, without what it does not know."""
        unknown = {one for one, rows in self.foreign.items() if not rows.any()}
        vectors = {**self.vectors, **self.foreign}
        return Pairs(
            {one: rows for one, rows in vectors.items() if one not in unknown},
            {one: numbers for one, numbers in self.contents.items() if one not in unknown},
        )

    def have(self, *modalities: Modality) -> NDArray[np.bool_]:
        """Return for each row whether it has all of these."""
        there = np.ones(len(self), bool)
        for modality in modalities:
            there &= self.contents[modality] >= 0 if modality in self.contents else False
        return there

    def groups(self) -> NDArray[np.int64]:
        """Return a number (n,) that rows share which must not be told apart.

        Two rows with the same picture or sound are one observation. Two with the same words are
        not: a name may stand for many pictures.
        """
        return self._components([one for one in self.contents if one != Modality.TEXT])

    def related(self) -> NDArray[np.int64]:
        """Return a number (n,) that rows share which have to do with each other, by any content."""
        return self._components(self.contents)

    def _components(self, modalities: Iterable[Modality]) -> NDArray[np.int64]:
        """Return a number (n,) that rows share which equal contents of some modalities join."""
        parents = list(range(len(self)))

        def root(row: int) -> int:
            while parents[row] != row:
                parents[row] = parents[parents[row]]
                row = parents[row]
            return row

        for modality in modalities:
            first: dict[int, int] = {}
            for row, content in enumerate(self.contents[modality].tolist()):
                if content >= 0:
                    parents[root(row)] = root(first.setdefault(content, row))
        return np.array([root(row) for row in range(len(self))], np.int64)


@dataclass(eq=False)
class Learned:
    """The maps, and how they did on pairs that they were not learned from.

    Args:
        maps: For each modality that is mapped, its map (d, 256); a foreign one always is.
        pulls: How strongly each was held; infinite for one that stays where it started.
        retrieval: How well each modality finds the other before and after, cross-validated.
        agreement: For each foreign modality the mean cosine between where its vectors start and
            what the present space has of the same contents, cross-validated.
        refined: Whether the maps were refined.
        notes: What one should know.
    """

    maps: Maps
    pulls: dict[Modality, float]
    retrieval: list[dict[str, Any]]
    agreement: dict[str, float] = field(default_factory=dict)
    refined: bool = False
    notes: list[str] = field(default_factory=list)


def apply_map(rows: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows (n, d) through a map (d, 256), of unit length; zeros where nothing is left."""
    # In float64, so that a row comes out the same alone and among others.
    return _unit(rows.astype(np.float64) @ weights.astype(np.float64))


def _unit(rows: Array) -> NDArray[np.float32]:
    """Return rows (n, d) of unit length; zeros where nothing is left."""
    found = np.zeros(rows.shape, np.float32)
    there = rows.any(axis=1)
    if there.any():
        found[there] = normalise(rows[there])
    return found


def choose_anchor(pairs: Pairs) -> Modality:
    """Return the modality that stays: words where there are some, else the commonest."""
    counts = {modality: int(pairs.have(modality).sum()) for modality in pairs.contents}
    if counts.get(Modality.TEXT):
        return Modality.TEXT
    return max(counts, key=lambda modality: counts[modality])


@dataclass(frozen=True, eq=False)
class _Fit:
    """Where each modality starts, and the maps that were learned from there."""

    starts: Maps
    maps: Maps
    pulls: dict[Modality, float]

    def all(self) -> Maps:
        """Return a map of every modality."""
        return {**self.starts, **self.maps}

    def without(self, modality: Modality) -> _Fit:
        """Return the same with one modality where it starts."""
        maps = {one: weights for one, weights in self.maps.items() if one != modality}
        return _Fit(self.starts, maps, {**self.pulls, modality: math.inf})


def learn(
    pairs: Pairs,
    *,
    anchor: Modality,
    pull: float | None = None,
    folds: int = 5,
    refine: bool = False,
    seed: int = 0,
) -> Learned:
    """Learn a map for each modality but the anchor, and measure what it does to others.

    A modality that gains nothing on held-out pairs keeps its start, unless ``pull`` is given.

    Args:
        pairs: What belongs together.
        anchor: The modality that stays at its start.
        pull: How strongly to hold every map; by default what cross-validation finds best.
        folds: Parts of the pairs, each held out once.
        refine: Go on from the closed form by contrastive learning.
        seed: What decides on the folds and on the batches of refinement.

    Raises:
        InvalidInput: There are too few pairs for any modality, or for a foreign one.
    """
    order = learnable(pairs, anchor)
    known = pairs.present()
    if not order and not any(known.have(one).sum() >= MIN_PAIRS for one in pairs.foreign):
        raise InvalidInput(
            f"no modality has {MIN_PAIRS} pairs with {anchor}, which is the least to learn from",
            hint="give more pairs of two modalities",
        )
    for modality in pairs.foreign:
        if modality not in order and known.have(modality).sum() < MIN_PAIRS:
            raise InvalidInput(
                f"{modality} has neither {MIN_PAIRS} pairs with {anchor} nor as many contents that "
                "the present model encodes: there is nothing to bring its encoder in by",
                hint="give more pairs",
            )

    def fit(rows: Pairs) -> _Fit:
        return _fit(rows, order, anchor, pull, folds, seed)

    parts = _folds(pairs.groups(), folds, seed)
    held_out = [fit(pairs.take(parts != part)) for part in range(int(parts.max()) + 1)]
    final = fit(pairs)
    shown = _sample_rows(len(pairs), EVALUATED_ROWS, seed)

    def gain(fits: Sequence[_Fit], others: Sequence[_Fit]) -> tuple[float, float]:
        """Return what some gain over others in mean reciprocal rank, and its standard error.

        The mean over all directions that differ.
        """
        ranks, before = (
            _fold_ranks(pairs.take(shown), parts[shown], [one.all() for one in some])
            for some in (fits, others)
        )
        gains = [1.0 / ranks[one] - 1.0 / before[one] for one in ranks]
        gains = [one for one in gains if one.any()] or [np.zeros(1)]
        means = [one.mean() for one in gains]
        variances = [one.var() / len(one) for one in gains]
        return float(np.mean(means)), math.sqrt(sum(variances)) / len(gains)

    notes = []
    is_refined = False
    if refine and final.maps:
        trials = [
            _refine(pairs.take(parts != part), one, seed=seed) for part, one in enumerate(held_out)
        ]
        if gain(trials, held_out)[0] > 0:
            held_out, final, is_refined = trials, _refine(pairs, final, seed=seed), True
        else:
            notes.append("refinement did not help on held-out pairs: the closed form was kept")
    for modality in [] if pull is not None else list(final.maps):
        if not final.starts[modality].any():
            continue
        without = [one.without(modality) for one in held_out]
        gained, error = gain(held_out, without)
        # What is merely likely to be a gain here may be a loss elsewhere, which no pair tells of.
        if gained <= SURE * error:
            held_out, final = without, final.without(modality)
    notes += [
        f"{modality} gains nothing sure on held-out pairs: it "
        + ("stays where the model has it" if modality in pairs.foreign else "stays as it was")
        for modality in final.pulls
        if modality not in final.maps
    ]
    retrieval = _compare(pairs.take(shown), parts[shown], [one.all() for one in held_out])
    return Learned(
        maps={one: final.starts[one] for one in pairs.foreign} | final.maps,
        pulls=final.pulls,
        retrieval=retrieval,
        agreement=_agreement(pairs, parts, held_out),
        refined=is_refined and bool(final.maps),
        notes=notes,
    )


def _agreement(pairs: Pairs, parts: NDArray[np.int64], fits: Sequence[_Fit]) -> dict[str, float]:
    found = {}
    for modality, twins in pairs.foreign.items():
        if twins.any():
            cosines: list[float] = []
            for part, fit in enumerate(fits):
                rows = (parts == part) & pairs.have(modality)
                started = apply_map(pairs.vectors[modality][rows], fit.starts[modality])
                cosines += (started * twins[rows]).sum(axis=1).tolist()
            found[str(modality)] = round(float(np.mean(cosines)), 4)
    return found


def learnable(pairs: Pairs, anchor: Modality) -> list[Modality]:
    """Return the modalities that have enough pairs, those first that have most with the anchor.

    One that never stands beside the anchor can be brought to another that does.
    """
    beside = {one: int(pairs.have(one, anchor).sum()) for one in pairs.contents if one != anchor}
    found: list[Modality] = []
    for modality in sorted(beside, key=lambda one: (-beside[one], one)):
        there = sum(pairs.have(modality, other) for other in (anchor, *found))
        if np.count_nonzero(there) >= MIN_PAIRS:
            found.append(modality)
    return found


def _sample_rows(count: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return all rows, or as many as there may be, sorted."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


# ---- the closed form -----------------------------------------------------------------------------


def _fit(
    pairs: Pairs,
    order: Sequence[Modality],
    anchor: Modality,
    pull: float | None,
    folds: int,
    seed: int,
) -> _Fit:
    """Return the maps that are learned from some pairs, and their pulls, chosen on those alone.

    Args:
        pairs: What to learn from.
        order: The modalities to map, one after the other.
        anchor: The modality that stays where it starts.
        pull: How strongly to hold every map; None to choose.
        folds: Parts of the pairs, of which each is held out once to choose.
        seed: What decides on these.
    """
    parts = _folds(pairs.groups(), folds, seed)
    starts = {modality: _start(pairs, modality, parts) for modality in pairs.vectors}
    # The anchor's vectors, then those of each modality that is mapped.
    known = {anchor: _mapped(pairs, anchor, starts[anchor])}
    maps: Maps = {}
    pulls: dict[Modality, float] = {}
    for modality in order:
        targets, labels, there = _targets(pairs, modality, known)
        if not there.any():
            continue
        sample = _Sample(
            pairs.vectors[modality][there].astype(np.float64),
            targets[there].astype(np.float64),
            pairs.contents[modality][there],
            labels[there],
        )
        start = starts[modality].astype(np.float64)
        pulls[modality] = _choose_pull(sample, start, parts[there]) if pull is None else pull
        if not math.isinf(pulls[modality]):
            maps[modality] = _Ridge(sample, start).weights(pulls[modality])
        known[modality] = _mapped(pairs, modality, maps.get(modality, starts[modality]))
    return _Fit(starts, maps, pulls)


def _start(pairs: Pairs, modality: Modality, parts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return W₀ (d, 256): how a modality's vectors come into the present space."""
    vectors = pairs.vectors[modality]
    if modality not in pairs.foreign:
        return np.eye(vectors.shape[1], DIM, dtype=np.float32)
    zero = np.zeros((vectors.shape[1], DIM))
    there = pairs.have(modality)
    twins = pairs.foreign[modality][there]
    if not twins.any():
        return zero.astype(np.float32)
    numbers = pairs.contents[modality][there]
    sample = _Sample(vectors[there].astype(np.float64), twins.astype(np.float64), numbers, numbers)
    return _Ridge(sample, zero).weights(_choose_pull(sample, zero, parts[there]))


def _mapped(pairs: Pairs, modality: Modality, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    found = np.zeros((len(pairs), weights.shape[1]), np.float32)
    there = pairs.have(modality)
    found[there] = apply_map(pairs.vectors[modality][there], weights)
    return found


def _targets(
    pairs: Pairs, modality: Modality, known: Mapping[Modality, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
    """Return where each row's vector of a modality should go, a label of it, and where it has any.

    That is the anchor's vector, or that of the first modality after it which the row has.
    """
    targets = np.zeros((len(pairs), DIM), np.float32)
    labels = np.full(len(pairs), -1, np.int64)
    there = np.zeros(len(pairs), bool)
    for place, (other, vectors) in enumerate(known.items()):
        new = pairs.have(modality, other) & ~there
        targets[new] = vectors[new]
        labels[new] = pairs.contents[other][new] * len(Modality) + place
        there |= new
    return targets, labels, there


@dataclass(frozen=True, eq=False)
class _Sample:
    """Vectors (n, d) with their targets (n, 256), and the labels of both."""

    vectors: Array
    targets: Array
    contents: NDArray[np.int64]
    labels: NDArray[np.int64]

    def take(self, rows: NDArray[Any]) -> _Sample:
        return _Sample(
            self.vectors[rows], self.targets[rows], self.contents[rows], self.labels[rows]
        )

    def ranks(self, mapped: NDArray[np.float32], asking: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the ranks, among all, of what some rows ask for, in both directions.

        Args:
            mapped: The vectors (n, 256) after a map.
            asking: Which rows ask (n,).
        """
        targets = self.targets.astype(np.float32)
        relevant = _relevant(self.contents, self.labels, asking)
        there = _ranks(mapped[asking] @ targets.T, relevant)
        back = _ranks(targets[asking] @ mapped.T, relevant)
        return np.concatenate([there, back])


class _Ridge:
    """The closed form for any pull, W = W₀ + V D, with the hard part done once.

    V (d, r) are the directions that the vectors have at all; in the others nothing changes.
    """

    def __init__(self, sample: _Sample, start: Array) -> None:
        vectors = sample.vectors
        count, self._dim = vectors.shape
        if count < self._dim:
            _, lengths, basis = np.linalg.svd(vectors, full_matrices=False)
            self.basis, self._values = basis.T, lengths**2
        else:
            values, self.basis = np.linalg.eigh(vectors.T @ vectors)
            self._values = np.maximum(values, 0)
        self._count = count
        self._start = start
        self._wanted = (vectors @ self.basis).T @ sample.targets
        self._there = self.basis.T @ start

    def change(self, pull: float) -> Array:
        """Return D (r, 256); zero for an infinite pull."""
        if math.isinf(pull):
            return np.zeros_like(self._there)
        weight = pull * self._count / self._dim
        held = self._wanted + weight * self._there
        return np.asarray(held / (self._values + weight)[:, None] - self._there)

    def weights(self, pull: float) -> NDArray[np.float32]:
        """Return the map (d, 256)."""
        return (self._start + self.basis @ self.change(pull)).astype(np.float32)


def _choose_pull(sample: _Sample, start: Array, parts: NDArray[np.int64]) -> float:
    """Return the strongest pull that does about as well as the best on held-out pairs.

    About: within one standard error of the difference (Breiman et al. 1984), so that a map changes
    no more than the pairs can show to be good.
    """
    shown = _sample_rows(len(parts), CHOOSING_ROWS, 0)
    tested = sample.take(shown)
    as_it_was = tested.vectors @ start
    # Nothing can be held to a map that makes everything zero.
    pulls = PULLS if start.any() else PULLS[1:]
    found: list[list[Array]] = [[] for _ in pulls]
    for part in np.unique(parts).tolist():
        asking = parts[shown] == part
        if not asking.any() or (parts == part).all():
            continue
        ridge = _Ridge(sample.take(parts != part), start)
        along = tested.vectors @ ridge.basis
        for ranks, pull in zip(found, pulls, strict=True):
            mapped = _unit(as_it_was + along @ ridge.change(pull))
            ranks.append(1.0 / tested.ranks(mapped, asking))
    if not found[0]:
        return pulls[0]
    reciprocal = [np.concatenate(one) for one in found]
    best = max(reciprocal, key=lambda one: float(one.mean()))
    lost = [best - one for one in reciprocal]
    return next(
        pull
        for pull, one in zip(pulls, lost, strict=True)
        if one.mean() <= one.std() / math.sqrt(len(one))
    )


def _folds(groups: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Return the fold (n,) of each row, from 0; rows of one group share it."""
    names, places = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray(order[places] % min(folds, len(names)), np.int64)


# ---- how well they find each other ---------------------------------------------------------------


def _relevant(
    asking: NDArray[np.int64], asked: NDArray[np.int64], rows: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return (rows, n) what fits the rows that ask: themselves, and what shares a half."""
    fits: NDArray[np.bool_] = asking[rows, None] == asking
    fits |= asked[rows, None] == asked
    return fits


def _ranks(similarities: NDArray[np.float32], relevant: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rank of each query's best relevant item; each query has one.

    Of equal items the relevant one counts as the last: a map that makes all equal finds nothing.
    """
    best = np.where(relevant, similarities, -np.inf).max(axis=1, keepdims=True)
    ahead = (similarities >= best) & ~relevant
    return np.asarray(1 + ahead.sum(axis=1), np.int64)


def compare_retrieval(pairs: Pairs, after: Maps) -> list[dict[str, Any]]:
    """Return how well each modality finds its partner among the rows, before and after.

    Args:
        pairs: The rows; of very many a sample.
        after: The map of each modality that is mapped.
    """
    shown = pairs.take(_sample_rows(len(pairs), EVALUATED_ROWS, 0))
    return _compare(shown, np.zeros(len(shown), np.int64), [after])


def _compare(pairs: Pairs, parts: NDArray[np.int64], after: Sequence[Maps]) -> list[dict[str, Any]]:
    """Return how well the rows of each fold find their partners among all, before and after.

    Args:
        pairs: The rows.
        parts: The fold (n,) of each.
        after: For each fold the maps that were learned from the others.
    """
    old = _fold_ranks(pairs.present(), parts, [{}] * len(after))
    new = _fold_ranks(pairs, parts, after)
    return [
        {
            "from": str(asking),
            "to": str(asked),
            "queries": len(ranks),
            "before": _figures(old[asking, asked]) if (asking, asked) in old else None,
            "after": _figures(ranks),
            **_gain(old.get((asking, asked)), ranks),
        }
        for (asking, asked), ranks in new.items()
    ]


def _fold_ranks(
    pairs: Pairs,
    parts: NDArray[np.int64],
    maps: Sequence[Maps],
) -> dict[tuple[Modality, Modality], NDArray[np.int64]]:
    """Return for each direction the ranks at which the rows find their partners among all.

    Args:
        pairs: The rows.
        parts: The fold (n,) of each.
        maps: For each fold the maps; the vectors of a modality without one stay as they are.
    """
    found: dict[tuple[Modality, Modality], NDArray[np.int64]] = {}
    for asking, asked in permutations(Modality, 2):
        both = pairs.have(asking, asked)
        if not both.any():
            continue
        own, contents = pairs.take(both), pairs.contents
        ranks = []
        for part, some in enumerate(maps):
            rows = parts[both] == part
            queries, items = (
                apply_map(vectors, some[one]) if one in some else vectors
                for one, vectors in (
                    (asking, own.vectors[asking][rows]),
                    (asked, own.vectors[asked]),
                )
            )
            relevant = _relevant(contents[asking][both], contents[asked][both], rows)
            ranks.append(_ranks(queries @ items.T, relevant))
        found[asking, asked] = np.concatenate(ranks)
    return found


def _figures(ranks: NDArray[np.int64]) -> dict[str, Any]:
    low, high = bootstrap_interval(ranks, mean_reciprocal_rank, resamples=RESAMPLES)
    return {
        **{f"success@{cut}": round(success_at_k(ranks, cut), 4) for cut in CUTS},
        "mrr": round(mean_reciprocal_rank(ranks), 4),
        "mrr_interval": [round(low, 4), round(high, 4)],
    }


def _gain(old: NDArray[np.int64] | None, new: NDArray[np.int64]) -> dict[str, Any]:
    if old is None:
        return {"mrr_gain": None, "mrr_gain_interval": None}

    def gain(rows: NDArray[np.int64]) -> float:
        return mean_reciprocal_rank(new[rows]) - mean_reciprocal_rank(old[rows])

    rows = np.arange(len(old))
    interval = bootstrap_interval(rows, gain, resamples=RESAMPLES)
    return {
        "mrr_gain": round(gain(rows), 4),
        "mrr_gain_interval": [round(one, 4) for one in interval],
    }


# ---- contrastive refinement ----------------------------------------------------------------------


def _refine(pairs: Pairs, fit: _Fit, *, seed: int) -> _Fit:
    """Return maps that go on from the closed form by symmetric InfoNCE (van den Oord et al. 2018).

    A share of the pairs is left out to see when to stop; the maps that did best on it are
    returned, which are those given when nothing is better.
    """
    import torch

    held = _folds(pairs.groups(), round(1 / VALIDATION_SHARE), seed) == 0
    if held.all() or not held.any():  # one picture with many names: nothing shows when to stop
        return fit
    generator = np.random.default_rng(seed)
    training, validation = pairs.take(~held), pairs.take(held)
    weights = {one: torch.tensor(weights, requires_grad=True) for one, weights in fit.maps.items()}
    fixed = {one: torch.tensor(start) for one, start in fit.starts.items()}
    log_temperature = torch.tensor(math.log(FIRST_TEMPERATURE), requires_grad=True)
    optimiser = torch.optim.AdamW(
        [*weights.values(), log_temperature], lr=LEARNING_RATE, weight_decay=0.0
    )

    def loss(rows: Pairs) -> torch.Tensor:
        return _contrast(rows, {**fixed, **weights}, log_temperature.exp())

    best, kept, waited = math.inf, fit.maps, 0
    for step in range(STEPS + 1):
        if step % CHECK_STEPS == 0:
            with torch.no_grad():
                found = float(loss(validation))
            if found < best:
                best, waited = found, 0
                kept = {one: weight.detach().numpy().copy() for one, weight in weights.items()}
            elif (waited := waited + 1) >= PATIENCE:
                break
        chosen = generator.permutation(len(training))[:BATCH_ROWS]
        total = loss(training.take(chosen))
        for one, weight in weights.items():
            pull = min(fit.pulls[one], max(pull for pull in PULLS if not math.isinf(pull)))
            total = total + pull / weight.shape[0] * ((weight - fixed[one]) ** 2).sum()
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return _Fit(fit.starts, kept, fit.pulls)


def _contrast(
    pairs: Pairs, maps: Mapping[Modality, torch.Tensor], temperature: torch.Tensor
) -> torch.Tensor:
    """Return the mean over pairs of modalities of InfoNCE in both directions.

    Rows that share a half are no negatives of each other.
    """
    import torch
    from torch.nn import functional

    losses = []
    for asking, asked in combinations(Modality, 2):
        rows = pairs.have(asking, asked)
        if not rows.any():
            continue
        a, b = (
            functional.normalize(torch.from_numpy(pairs.vectors[one][rows]) @ maps[one], dim=1)
            for one in (asking, asked)
        )
        contents = (pairs.contents[asking][rows], pairs.contents[asked][rows])
        relevant = _relevant(*contents, np.ones(len(a), bool))
        np.fill_diagonal(relevant, val=False)
        logits = (a @ b.T / temperature).masked_fill(torch.from_numpy(relevant), -math.inf)
        target = torch.arange(len(logits))
        losses += [
            functional.cross_entropy(logits, target),
            functional.cross_entropy(logits.T, target),
        ]
    return torch.stack(losses).mean()
