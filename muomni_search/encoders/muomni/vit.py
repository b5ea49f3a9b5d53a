"""Pictures: ViT-Tiny, a small vision transformer, and its projector.

A picture is cut into squares of 16 × 16 pixels (Dosovitskiy et al. 2020); each becomes a token,
a learned position is added, and a class token in front gathers what they say. Inside the blocks,
which are PyTorch's own encoder layers with the norm first, the norm is LayerNorm; the last one is
an RMSNorm.

Attributes are named as in the reference's checkpoints. B pictures, N = 196 squares, d = 128.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from muomni_search.encoders.muomni.layers import RMSNorm, initialise

__all__ = ["ViT", "ViTConfig"]


@dataclass(frozen=True, slots=True)
class ViTConfig:
    """The sizes of a vision transformer.

    Args:
        size: Pixels of a picture, both ways.
        patch: Pixels of a square, both ways.
        dim: Width of its tokens.
        layers: Blocks.
        heads: Heads of a block.
        hidden: Width inside a block's two linear layers.
        dropout: Share of dimensions dropped in training.
    """

    size: int = 224
    patch: int = 16
    dim: int = 128
    layers: int = 4
    heads: int = 2
    hidden: int = 512
    dropout: float = field(default=0.1, metadata={"least": 0.0, "most": 0.9})

    @property
    def grid(self) -> int:
        """Squares a row and a column."""
        return self.size // self.patch


class ViT(nn.Module):
    """Pictures in, a class token and a token a square out."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Conv2d(3, config.dim, kernel_size=config.patch, stride=config.patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.dim))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.dim,
                config.heads,
                config.hidden,
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.dim)
        initialise(self)

    def forward(self, pictures: Tensor, *, seen: float = 1.0) -> Tensor:
        """Return the tokens (B, 1 + N, d) of pictures (B, 3, 224, 224) in [0, 1], class first.

        Args:
            pictures: The pictures.
            seen: The share of its squares that each keeps, others for each: less to compute while
                training (FLIP, Li et al. 2023).
        """
        x = self.proj(pictures)  # (B, d, 14, 14)
        x = x.flatten(2).transpose(1, 2)  # (B, N, d), row by row
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1)  # (B, 1 + N, d)
        x = x + self.pos
        if seen < 1:
            count = max(1, round(seen * (x.shape[1] - 1)))
            squares = torch.rand(x.shape[:2], device=x.device)[:, 1:].argsort(dim=1)[:, :count]
            kept = torch.take_along_dim(x[:, 1:], squares[..., None], dim=1)
            x = torch.cat([x[:, :1], kept], dim=1)  # (B, 1 + seen · N, d)
        x = self.drop(x)
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = self.norm(x)
        return tokens
