"""The shape of a space: how it is filled, and how its modalities lie to each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from muomni_search import metrics
from muomni_search.collection import Collection
from muomni_search.errors import InvalidInput
from muomni_search.evaluation.figures import Figure, Report, estimate
from muomni_search.evaluation.subjects import item_vectors, labels_of
from muomni_search.filters import parse_filter
from muomni_search.items import Modality
from muomni_search.view import Where

__all__ = ["evaluate_shape"]

NEIGHBOURS = 10
# More items of a modality say nothing more, and the time grows with their square.
MAX_ITEMS = 5_000

Vectors = Mapping[Modality, NDArray[np.float32]]


def evaluate_shape(
    collection: Collection,
    *,
    same: str | None = None,
    k: int = NEIGHBOURS,
    seed: int = 0,
    where: Where = None,
) -> Report:
    """Return how the vectors of a collection lie.

    Of each modality, and of all: ``effective rank`` and ``uniformity``. Of each asking and each
    asked modality: ``hubness@k``. Of each two modalities: ``gap``, ``separability`` and, where it
    is said what belongs together, ``alignment``. ``docs/space.md`` says what they mean.

    Figures have no intervals save ``separability``: an item drawn twice would change what is
    measured.

    Args:
        collection: Whose items; of each modality 5,000 at most, drawn with the seed.
        same: The label (see ``labels_of``) that items which belong together share.
        k: How many neighbours hubness looks at; fewer where there are not so many.
        seed: Of the draw, and of the folds.
        where: Only these items.

    Raises:
        InvalidInput: Fewer than three items of each modality.
        NotFound: No item has such a label; or scikit-learn is not installed.
    """
    keys, notes = _keys(collection, seed, where)
    with collection.view() as view:
        vectors = {modality: item_vectors(view, own) for modality, own in keys.items()}
    figures = [*_filling(vectors), *_hubs(vectors, k)]
    labels = None if same is None else labels_of(collection, same, where)
    for first, second in combinations(vectors, 2):
        one, other = vectors[first], vectors[second]
        of = {"modalities": f"{first}–{second}"}
        count = len(one) + len(other)
        figures.append(Figure(of, "gap", count, metrics.modality_gap(one, other)))
        figures.append(estimate(of, "separability", metrics.is_separated(one, other, seed=seed)))
        if labels is not None:
            own, theirs = (_rows_of(labels[side], keys[side]) for side in (first, second))
            groups = [(one[own[label]], other[theirs[label]]) for label in own if label in theirs]
            if groups:
                pairs = sum(len(ours) * len(others) for ours, others in groups)
                figures.append(Figure(of, "alignment", pairs, metrics.alignment(groups)))
    return Report(figures, notes)


def _keys(
    collection: Collection, seed: int, where: Where
) -> tuple[dict[Modality, list[str]], list[str]]:
    keys: dict[Modality, list[str]] = {}
    notes = []
    for modality in Modality:
        items = collection.items(where=parse_filter(where), modality=modality)
        own = [item.key for item in items]
        if len(own) > MAX_ITEMS:
            notes.append(f"{modality}: {MAX_ITEMS:,} of {len(own):,} items, drawn by seed {seed}")
            drawn = np.random.default_rng(seed).permutation(len(own))[:MAX_ITEMS]
            own = [own[number] for number in sorted(drawn.tolist())]
        if len(own) > 2:
            keys[modality] = own
        elif own:
            notes.append(f"{modality}: {len(own)} items, too few to have a shape")
    if not keys:
        raise InvalidInput(
            f"no modality of {collection.directory} has three items to measure",
            hint="add some, or ask for others with --where",
        )
    return keys, notes


def _rows_of(labels: Mapping[str, str], keys: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of the items of each label."""
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        if key in labels:
            rows.setdefault(labels[key], []).append(row)
    return rows


def _filling(vectors: Vectors) -> list[Figure]:
    """Return how evenly each modality, and all together, fill the space."""
    groups = {str(modality): own for modality, own in vectors.items()}
    if len(groups) > 1:
        groups["all"] = np.concatenate(list(vectors.values()))
    return [
        Figure({"modality": name}, metric, len(own), measure(own))
        for name, own in groups.items()
        for metric, measure in (
            ("effective rank", metrics.effective_rank),
            ("uniformity", metrics.uniformity),
        )
    ]


def _hubs(vectors: Vectors, k: int) -> list[Figure]:
    # The same for all, or they would not compare; of n items n - 1 can be found, one must not be.
    few = min(k, *(len(own) - 2 for own in vectors.values()))
    return [
        Figure(
            {"asking": str(asking), "asked": str(asked)},
            f"hubness@{few}",
            len(items),
            metrics.hubness(queries, items, few),
        )
        for asking, queries in vectors.items()
        for asked, items in vectors.items()
    ]
