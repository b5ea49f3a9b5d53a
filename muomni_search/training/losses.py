"""What a step minimises: pairs that belong together told from those that do not, and a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from muomni_search.items import Modality
from muomni_search.training.groups import shared

__all__ = ["contrastive", "distillation", "info_nce"]

NEVER = -1e9


def info_nce(first: Tensor, second: Tensor, same: NDArray[np.bool_], scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE of unit rows that belong together row by row, a scalar.

    van den Oord et al. 2018, eq. 4, both ways as in CLIP (Radford et al. 2021, fig. 3).

    Args:
        first: Unit rows (n, d) of one kind, on any device.
        second: Unit rows (n, d) of the other, on the same; row i belongs to row i.
        same: (n, n) whether two rows share a content: they are no negatives of each other. An
            array, which is brought to the device of the rows.
        scale: 1 / temperature, a scalar on the device of the rows.
    """
    logits = scale * first @ second.T  # (n, n)
    others = torch.from_numpy(same & ~np.eye(len(same), dtype=bool)).to(logits.device)
    logits = logits.masked_fill(others, NEVER)
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def contrastive(
    vectors: Mapping[Modality, Tensor],
    rows: Mapping[Modality, NDArray[np.int64]],
    contents: NDArray[np.int64],
    scale: Tensor,
) -> Tensor | None:
    """Return the mean InfoNCE over the pairs of modalities that share two examples or more.

    None where no two modalities do.

    Args:
        vectors: Unit rows (n, d) of each modality, all on one device; n may differ.
        rows: Which examples they are, (n,), in any order.
        contents: (examples, modalities) the numbers of every example's contents, −1 for none.
        scale: 1 / temperature, a scalar on the device of the vectors.
    """
    losses = []
    for one, other in combinations(vectors, 2):
        # Where the same example is in both.
        mine, theirs = np.nonzero(rows[one][:, None] == rows[other][None])
        if len(mine) >= 2:
            same = shared(contents[rows[one][mine]])
            pairs = _take(vectors[one], mine), _take(vectors[other], theirs)
            losses.append(info_nce(*pairs, same, scale))
    return torch.stack(losses).mean() if losses else None


def _take(vectors: Tensor, rows: NDArray[np.int64]) -> Tensor:
    return vectors.index_select(0, torch.from_numpy(rows).to(vectors.device))


def distillation(
    vectors: Tensor, targets: Tensor, same: NDArray[np.bool_], scale: Tensor, contrast: float
) -> Tensor:
    """Return 1 − cosine with the targets, and ``contrast`` times telling them apart, a scalar.

    Args:
        vectors: Unit rows (n, d), on any device.
        targets: What they should be: unit rows (n, d) on the same.
        same: (n, n) whether two rows share a content; see ``info_nce``.
        scale: 1 / temperature, a scalar on the device of the rows.
        contrast: How much telling apart counts; needs two rows or more.
    """
    loss = (1 - (vectors * targets).sum(dim=1)).mean()
    if contrast and len(vectors) >= 2:
        loss = loss + contrast * info_nce(vectors, targets, same, scale)
    return loss
