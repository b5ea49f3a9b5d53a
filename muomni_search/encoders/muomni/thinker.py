"""Words: the Thinker, a small decoder whose hidden states are already 256 wide.

Token embedding, then blocks of causal attention with rotary positions (Su et al. 2021) and a
gated linear unit (SwiGLU, Shazeer 2020), each behind an RMSNorm and added to what came in. With
fewer key/value heads than query heads the attention is grouped (Ainslie et al. 2023): each
key/value head serves neighbouring query heads.

Attributes are named as in the reference's checkpoints. B texts, T tokens, D = 256, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from muomni_search.encoders.muomni.layers import RMSNorm, initialise

__all__ = ["Thinker", "ThinkerConfig"]

# Three pieces that stand for nothing, the blank, and letters.
LEAST_VOCABULARY = 8


@dataclass(frozen=True, slots=True)
class ThinkerConfig:
    """The sizes of a Thinker.

    Args:
        vocabulary: Tokens that it knows.
        dim: Width of its hidden states.
        layers: Blocks.
        heads: Query heads of a block.
        kv_heads: Key/value heads of a block; as many as ``heads`` when they are not grouped.
        hidden: Width inside the gated linear unit.
        context: The most tokens at a time, BOS among them.
        rope_theta: The base of the rotary positions' wavelengths.
        dropout: Share of dimensions dropped in training.
    """

    vocabulary: int = field(default=5000, metadata={"least": LEAST_VOCABULARY})
    dim: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    hidden: int = 1024
    context: int = 512
    rope_theta: float = 10_000.0
    dropout: float = field(default=0.1, metadata={"least": 0.0, "most": 0.9})


class Thinker(nn.Module):
    """Token ids in, hidden states out."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocabulary, config.dim)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim)
        initialise(self)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the hidden states (B, T, D) of token ids (B, T) after the last norm.

        A state depends on its token and those before it, so tokens that pad a row at its end
        change nothing in front of them.
        """
        x = self.drop(self.tok_emb(ids))  # (B, T, D)
        turns = rotations(
            ids.shape[1], self.config.dim // self.config.heads, self.config.rope_theta
        )
        for block in self.blocks:
            x = block(x, turns)
        hidden: Tensor = self.norm(x)
        return hidden


class Block(nn.Module):
    """Attention and a gated linear unit."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.norm1 = RMSNorm(config.dim)
        self.attn = Attention(config)
        self.norm2 = RMSNorm(config.dim)
        self.mlp = SwiGLU(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """Return states of the same shape (B, T, D)."""
        x = x + self.drop(self.attn(self.norm1(x), turns))
        out: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return out


class Attention(nn.Module):
    """Causal attention with rotary positions; key/value heads may be fewer than query heads."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.heads, config.kv_heads
        self.width = config.dim // config.heads
        self.q = nn.Linear(config.dim, config.heads * self.width, bias=False)
        self.k = nn.Linear(config.dim, config.kv_heads * self.width, bias=False)
        self.v = nn.Linear(config.dim, config.kv_heads * self.width, bias=False)
        self.o = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """Return states of the same shape (B, T, D)."""
        batch, tokens, dim = x.shape
        q = self.q(x).view(batch, tokens, self.heads, self.width).transpose(1, 2)  # (B, H, T, d)
        k = self.k(x).view(batch, tokens, self.kv_heads, self.width).transpose(1, 2)
        v = self.v(x).view(batch, tokens, self.kv_heads, self.width).transpose(1, 2)
        q, k = rotate(q, turns), rotate(k, turns)
        served = self.heads // self.kv_heads  # query heads that share a key/value head
        k = k.repeat_interleave(served, dim=1)  # (B, H, T, d)
        v = v.repeat_interleave(served, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o(mixed.transpose(1, 2).reshape(batch, tokens, dim))
        return out


class SwiGLU(nn.Module):
    """A hidden layer whose every unit is gated by another: down(silu(gate(x)) · up(x))."""

    def __init__(self, config: ThinkerConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.dim, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors of the same shape (…, D)."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


def rotations(tokens: int, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (T, d) of the angle of each pair of dimensions at each position.

    Pair i turns by position · theta^(−2i/d); the pairs are (i, i + d/2), so the angles repeat.
    """
    frequencies = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)  # (d/2,)
    angles = torch.outer(torch.arange(tokens).float(), frequencies)  # (T, d/2)
    angles = torch.cat([angles, angles], dim=1)  # (T, d)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs of dimensions of (B, H, T, d) by their angles."""
    cosines, sines = (turn.to(x) for turn in turns)
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines
