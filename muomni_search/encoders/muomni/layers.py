"""What the three towers share: a norm, how weights begin, how parts of them are held still."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from muomni_search.errors import InvalidInput

__all__ = ["RMSNorm", "freeze", "initialise"]

EPSILON = 1e-5
SPREAD = 0.02  # the standard deviation that embeddings and projections begin with


class RMSNorm(nn.Module):
    """Scale vectors (…, d) to a root mean square of 1, then each dimension by its weight.

    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization".
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled vectors, of the same shape."""
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPSILON) * self.weight


def initialise(module: nn.Module) -> None:
    """Begin embeddings, learned positions and projections with N(0, 0.02), biases with zero.

    Norms keep their ones; convolutions keep PyTorch's start, which knows their fan-in.
    """
    for name, parameter in module.named_parameters():
        kind = name.rsplit(".", 1)[-1]
        if kind in ("cls", "pos") or (kind.endswith("weight") and parameter.dim() == 2):
            nn.init.normal_(parameter, std=SPREAD)
        elif kind.endswith("bias") and parameter.dim() == 1:
            nn.init.zeros_(parameter)


def freeze(module: nn.Module, names: Iterable[str]) -> None:
    """Hold the submodules or parameters of these names still.

    Args:
        module: What is trained.
        names: Dotted names as ``named_modules`` gives them, such as ``thinker.tok_emb`` or
            ``vision_encoder.blocks.0``.

    Raises:
        InvalidInput: A name is none of its parts.

    Example:
        >>> layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> freeze(layers, ["0"])
        >>> [name for name, one in layers.named_parameters() if one.requires_grad]
        ['1.weight', '1.bias']
    """
    for name in names:
        parts = [
            parameter
            for path, parameter in module.named_parameters()
            if path == name or path.startswith(f"{name}.")
        ]
        if not parts:
            tops = ", ".join(child for child, _ in module.named_children())
            raise InvalidInput(f"nothing is called {name!r}", hint=f"the parts are {tops}")
        for parameter in parts:
            parameter.requires_grad_(False)
