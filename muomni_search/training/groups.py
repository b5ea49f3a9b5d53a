"""Which examples say the same, and which are kept aside with each other.

Contents come as an array (examples, modalities) of numbers: equal ones are the same content, −1
is none. The columns are in the order of ``Modality``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from muomni_search.documents import hash_content
from muomni_search.items import Modality

__all__ = ["draws", "groups", "shared"]

Numbers = NDArray[np.int64]
# The most examples that one text may hold together. A name stands for any number of pictures,
# which stand for other names: held together, such a component would be all of a table or none of
# it. What is larger falls apart into its pictures and sounds, each with all that goes with it,
# and then a text may be on both sides, as the names of kinds are in any such data.
MOST_TOGETHER = 20


def shared(contents: Numbers) -> NDArray[np.bool_]:
    """Return (n, n) whether two examples share a content: a text, a picture or a sound."""
    same = (contents[:, None] == contents[None]) & (contents[:, None] >= 0)
    return np.asarray(same.any(axis=2), np.bool_)


def groups(contents: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Return which examples must be on one side, equal numbers (n,), and whether texts decide it.

    A picture or a sound is never on both sides. A text is not either, unless the examples that it
    holds together are more than ``MOST_TOGETHER``.
    """
    whole = _components(contents)
    by_text = np.bincount(whole, minlength=len(whole))[whole] <= MOST_TOGETHER
    alone = contents.copy()
    alone[(contents[:, 1:] >= 0).any(axis=1), 0] = -1
    # Components are called by their first example, so the two kinds do not mix.
    return np.where(by_text, whole, _components(alone)), by_text


def _components(contents: Numbers) -> Numbers:
    """Return for each example the first one (n,) that it is linked with by shared contents."""
    firsts = np.arange(len(contents))
    while True:
        before = firsts.copy()
        for column in contents.T:
            there = column >= 0
            least = np.full(int(column.max(initial=-1)) + 1, len(contents))
            np.minimum.at(least, column[there], firsts[there])
            firsts[there] = least[column[there]]
        firsts = firsts[firsts]  # long chains shrink by half
        if np.array_equal(firsts, before):
            return firsts


def draws(
    contents: Numbers, hashes: Mapping[Modality, Sequence[str]], seed: int
) -> tuple[Numbers, NDArray[np.float64]]:
    """Return the group of each example, and a number in [0, 1) that the group has drawn.

    The number is made of the seed and of the hash of one content of the group, not of places in a
    table: whoever learns from other tables with the same contents, with other towers, or goes on
    from a model that did, keeps the same aside. It is a text's where there are texts, since most
    contents meet under the same words in different tables.

    Args:
        contents: The numbers (n, modalities).
        hashes: For each modality the hash of each content, by its number.
        seed: The recipe's.
    """
    bound, by_text = groups(contents)
    kinds = list(Modality)
    names: dict[int, tuple[int, str]] = {}
    for group, is_by_text, row in zip(
        bound.tolist(), by_text.tolist(), contents.tolist(), strict=True
    ):
        order = range(len(row)) if is_by_text else (*range(1, len(row)), 0)
        rank, column = next((rank, one) for rank, one in enumerate(order) if row[one] >= 0)
        name = (rank, hashes[kinds[column]][row[column]])
        names[group] = min(names.get(group, name), name)
    drawn = {
        group: int(hash_content(f"{seed} {name}".encode())[:13], 16) / 16**13
        for group, (_, name) in names.items()
    }
    return bound, np.array([drawn[group] for group in bound.tolist()], np.float64)
