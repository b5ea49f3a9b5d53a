"""What a step minimises: pairs that belong together told from those that do not, and a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from muomni_search.items import Modality

__all__ = ["contrastive", "distillation", "info_nce"]

NEVER = -1e9


def info_nce(first: Tensor, second: Tensor, groups: Tensor, scale: Tensor) -> Tensor:
    """Return the symmetric InfoNCE of unit rows (n, d) that belong together row by row.

    van den Oord et al. 2018, eq. 4, both ways as in CLIP (Radford et al. 2021, fig. 3).

    Args:
        first: Unit rows of one kind.
        second: Unit rows of the other; row i belongs to row i.
        groups: (n,) equal where two rows say the same: they are no negatives of each other.
        scale: 1 / temperature.
    """
    logits = scale * first @ second.T  # (n, n)
    same = groups[:, None] == groups[None]
    same.fill_diagonal_(False)
    logits = logits.masked_fill(same, NEVER)
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


def contrastive(
    vectors: Mapping[Modality, Tensor],
    rows: Mapping[Modality, Tensor],
    groups: Tensor,
    scale: Tensor,
) -> Tensor | None:
    """Return the mean InfoNCE over the pairs of modalities that share examples, or None.

    Args:
        vectors: Unit rows of each modality.
        rows: Which examples they are, ascending or not.
        groups: The group of every example.
        scale: 1 / temperature.
    """
    losses = []
    for one, other in combinations(vectors, 2):
        # Where the same example is in both.
        mine, theirs = torch.nonzero(rows[one][:, None] == rows[other][None], as_tuple=True)
        if len(mine) >= 2:
            shared = groups[rows[one][mine]]
            losses.append(info_nce(vectors[one][mine], vectors[other][theirs], shared, scale))
    return torch.stack(losses).mean() if losses else None


def distillation(
    vectors: Tensor, targets: Tensor, groups: Tensor, scale: Tensor, contrast: float
) -> Tensor:
    """Return 1 − cosine with the targets, and ``contrast`` times telling them apart.

    Args:
        vectors: Unit rows (n, d).
        targets: What they should be, unit rows.
        groups: (n,) the group of each.
        scale: 1 / temperature.
        contrast: How much telling apart counts; needs two rows or more.
    """
    loss = (1 - (vectors * targets).sum(dim=1)).mean()
    if contrast and len(vectors) >= 2:
        loss = loss + contrast * info_nce(vectors, targets, groups, scale)
    return loss
