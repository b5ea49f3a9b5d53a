"""What frozen vectors know of labels: neighbours, a linear classifier, and no example at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from muomni_search.collection import Collection
from muomni_search.errors import InvalidInput, MuomniError
from muomni_search.evaluation.figures import Figure, Report, estimate
from muomni_search.evaluation.subjects import embed, item_vectors, labels_of
from muomni_search.extras import load_extra
from muomni_search.items import Modality
from muomni_search.metrics import FOLDS, equal_rows, folds_of
from muomni_search.view import Where

__all__ = ["evaluate_labels"]

NEIGHBOURS = 5
# The inverse of the regularisation: unit vectors in 256 dimensions are small numbers.
INVERSE_PENALTY = 10.0
MAX_STEPS = 1_000


def evaluate_labels(
    collection: Collection,
    field: str,
    *,
    folds: int = FOLDS,
    neighbours: int = NEIGHBOURS,
    prompt: str = "{}",
    seed: int = 0,
    where: Where = None,
) -> Report:
    """Return how well the vectors of each modality tell labels apart.

    ``knn`` and ``logistic`` are shares of items that were labelled rightly by a vote of the
    nearest items and by logistic regression, both without the item's own fold (stratified, shuffled
    with the seed, equal vectors in the same one); ``majority`` is what the commonest label alone
    would get. ``zero-shot`` chooses the label whose name, as the model's text encoder embeds it,
    is nearest.

    Args:
        collection: Whose items; its model embeds the names of the labels.
        field: The labels: a metadata name, ``folder`` or ``stem`` (see ``labels_of``).
        folds: Into how many parts the items are cut; labels of fewer different items are left out
            of ``knn``, ``logistic`` and ``majority``.
        neighbours: How many vote.
        prompt: What a name is put into before it is embedded: ``a photo of a {}``.
        seed: Of the folds.
        where: Only these items.

    Raises:
        NotFound: No item has such a label; or scikit-learn is not installed.
        InvalidInput: Fewer than two labels; or a prompt without ``{}``.
    """
    if "{}" not in prompt:
        raise InvalidInput(f"the prompt {prompt!r} has no {{}}", hint="write: a photo of a {}")
    labels = {modality: own for modality, own in labels_of(collection, field, where).items() if own}
    names = sorted({label for own in labels.values() for label in own.values()})
    if len(names) < 2:
        raise InvalidInput(
            f"all items of {collection.directory} that have {field!r} have the same: {names[0]!r}",
            hint="a classification takes two labels or more: name another field",
        )
    number_of = {name: number for number, name in enumerate(names)}
    figures: list[Figure] = []
    notes: list[str] = []
    named = _named(collection, names, prompt, notes)
    with collection.view() as view:
        for modality, own in labels.items():
            keys = list(own)
            vectors = item_vectors(view, keys)
            truth = np.array([number_of[own[key]] for key in keys])
            of = {"modality": str(modality)}
            figures += _supervised(
                of, vectors, truth, folds=folds, neighbours=neighbours, seed=seed, notes=notes
            )
            if named is not None:
                chosen = np.argmax(vectors @ named.T, axis=1)
                figures.append(estimate(of, "zero-shot", np.asarray(chosen == truth, np.float64)))
    if not figures:
        raise InvalidInput("; ".join(notes), hint="add items, or name another field")
    return Report(figures, notes)


def _named(
    collection: Collection, names: Sequence[str], prompt: str, notes: list[str]
) -> NDArray[np.float32] | None:
    try:
        texts = [prompt.replace("{}", name) for name in names]
        return embed(collection.model, Modality.TEXT, texts)
    except MuomniError as error:
        notes.append(f"no zero-shot classification: {error.what}")
        return None


def _supervised(
    of: Mapping[str, str],
    vectors: NDArray[np.float32],
    truth: NDArray[np.int64],
    *,
    folds: int,
    neighbours: int,
    seed: int,
    notes: list[str],
) -> list[Figure]:
    counts = Counter(truth.tolist())
    groups = equal_rows(vectors)
    different = Counter(
        label for label, _ in set(zip(truth.tolist(), groups.tolist(), strict=True))
    )
    large = [label for label in counts if different[label] >= folds]
    if len(large) < 2:
        notes.append(
            f"{of['modality']}: no knn and logistic, for {len(large)} of {len(counts)} labels "
            f"have {folds} different items, one for each fold, and it takes two (--folds)"
        )
        return []
    if len(large) < len(counts):
        notes.append(
            f"{of['modality']}: {len(counts) - len(large)} of {len(counts)} labels have fewer than "
            f"{folds} different items and are left out of knn and logistic"
        )
    chosen = np.isin(truth, large)
    vectors, truth = vectors[chosen], truth[chosen]
    parts = folds_of(groups[chosen], truth, folds, seed)
    selection = load_extra("sklearn.model_selection", extra="explore")
    nearest = load_extra("sklearn.neighbors", extra="explore")
    linear = load_extra("sklearn.linear_model", extra="explore")
    most = min(len(learned_from) for learned_from, _ in parts)
    classifiers = {
        "knn": nearest.KNeighborsClassifier(min(neighbours, most), metric="cosine"),
        "logistic": linear.LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_STEPS),
    }
    right = {
        name: selection.cross_val_predict(one, vectors, truth, cv=parts) == truth
        for name, one in classifiers.items()
    }
    right["majority"] = truth == max(large, key=counts.__getitem__)
    return [estimate(of, name, np.asarray(own, np.float64)) for name, own in right.items()]
