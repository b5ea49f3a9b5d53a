"""Tune the upper half of EfficientNet-Lite0 on drawings, whose names it learns to tell apart.

A linear head on the tower's last layer says which of all names a picture has, by the cosine with
the names' embeddings (InfoNCE, van den Oord et al. 2018); names of like meaning are half right.
Random views keep the tower from learning the drawings by heart. The head is thrown away: `base`
learns its own on what the tuned tower gives. The lower blocks stay as they were: what they see is
common to photographs and drawings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from base_model.learning import (
    Array,
    Convolutions,
    Recipe,
    Say,
    in_half_precision,
    learn,
    named_targets,
    roots,
    uniform,
)
from base_model.towers import FORK, IMAGE_SIZE, block_sizes

EPOCHS = 45
RECIPE = Recipe(
    batch=512, rate=3e-4, head_rate=1e-3, head_decay=0.05, second_beta=0.99, clip_head=True
)
SIZE = 160  # pixels of a view, both ways
TEMPERATURE, SOFT = 0.07, 0.1
MIXED, MIX = 0.5, 0.5  # the share of batches that are mixed, and the parameter of Beta
RIDGE, DROPOUT, LEAST_FEATURE = 0.1, 0.1, 1e-3
LOOKED_AT_ONCE = 128
SEED = 0


# ---- the tower ---------------------------------------------------------------------------------


def is_learned(name: str) -> bool:
    """Return whether an array is one of those that are tuned."""
    place = name.split(".")
    return place[0] == "_conv_head" or (place[0] == "_blocks" and int(place[1]) >= FORK)


class PictureTower(Convolutions):
    """EfficientNet-Lite0 up to its last layer, with the norms folded in.

    Args:
        weights: Its arrays, as `towers.folded` gives them.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        super().__init__(weights, filter(is_learned, weights))
        self._blocks = list(block_sizes())

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (n, 1280), means over each picture, of (n, 3, s, s) pixels in [−1, 1]."""
        x = pictures.contiguous(memory_format=torch.channels_last)
        with in_half_precision(x.device):
            with torch.no_grad():
                x = self._convolve(x, "_conv_stem", stride=2)
                for number in range(FORK):
                    x = self.block(x, number)
            for number in range(FORK, len(self._blocks)):
                x = self.block(x, number)
            x = self._convolve(x, "_conv_head")
        return x.float().mean(dim=(2, 3))

    def block(self, x: Tensor, number: int) -> Tensor:
        """Return what one of the 16 blocks makes of (n, channels, s, s)."""
        expansion, channels, out, stride = self._blocks[number]
        entry, name = x, f"_blocks.{number}"
        if expansion != 1:
            x = self._convolve(x, f"{name}._expand_conv")
        x = self._convolve(x, f"{name}._depthwise_conv", stride=stride, groups=channels * expansion)
        x = self._convolve(x, f"{name}._project_conv", relu=False)
        return x + entry if stride == 1 and channels == out else x

    def _convolve(
        self, x: Tensor, name: str, *, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> Tensor:
        """Pad as TensorFlow's SAME does: where it is uneven, more at the end."""
        kernel, bias = self.array(f"{name}.weight"), self.array(f"{name}.bias")
        width, size = kernel.shape[-1], x.shape[-1]
        padding = max((-(-size // stride) - 1) * stride + width - size, 0)
        before, after = padding // 2, padding - padding // 2
        if before != after:
            x, before = functional.pad(x, (before, after, before, after)), 0
        x = functional.conv2d(x, kernel, bias, stride, before, groups=groups)
        return functional.relu6(x) if relu else x


# ---- what it sees ------------------------------------------------------------------------------


def scaled(pictures: Tensor) -> Tensor:
    """Return pixels of [0, 1] as the tower takes them."""
    return (pictures * 255 - 127) / 128


def on_white(squares: Tensor) -> Tensor:
    """Return (n, 4, s, s) uint8 squares as `base` shows them: on white, 224 pixels, in [0, 1]."""
    x = squares.float() / 255
    rgb, alpha = x[:, :3], x[:, 3:]
    laid = rgb * alpha + 1 - alpha
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return functional.interpolate(laid, size, mode="bicubic", antialias=True).clamp(0, 1)


def alter(squares: Tensor, size: int) -> Tensor:
    """Return a random view of each picture: moved, laid on something, its colours changed.

    Args:
        squares: (n, 4, s, s) uint8, with transparency.
        size: Of the views, in pixels.

    Returns:
        (n, 3, size, size) float32 in [0, 1].
    """
    x = squares.float() / 255
    # What is transparent must not bleed into the rest when pixels are interpolated.
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], dim=1)
    x = moved(x, size)
    return recoloured(laid(x[:, :3], x[:, 3:]))


def moved(pictures: Tensor, size: int) -> Tensor:
    """Return pictures (n, 4, s, s) zoomed, turned, sheared, stretched, mirrored and shifted.

    What lies outside a picture is transparent.
    """
    n, device = len(pictures), pictures.device

    def between(low: float, high: float) -> Tensor:
        return uniform(low, high, n, device=device)

    def in_share(share: float) -> Tensor:
        return torch.rand(n, device=device) < share

    zoom = torch.exp(between(math.log(0.6), math.log(1.25)))  # the share of a side that is seen
    angle = between(-0.3, 0.3) * in_share(0.6)  # radians: up to 17 degrees
    shear, aspect = between(-0.15, 0.15), torch.exp(between(-0.18, 0.18))
    mirror = torch.where(in_share(0.5), -1.0, 1.0)
    # A part is from anywhere in the picture; a whole one is shifted by what it has of margin.
    room = (1.05 - zoom).abs()
    across, down = between(-1, 1) * room, between(-1, 1) * room
    cos, sin = torch.cos(angle), torch.sin(angle)
    above = torch.stack([mirror * zoom * aspect * cos, zoom * (shear - sin), across], dim=1)
    below = torch.stack([mirror * zoom * sin, zoom / aspect * cos, down], dim=1)
    where = functional.affine_grid(
        torch.stack([above, below], dim=1), [n, 4, size, size], align_corners=False
    )
    return functional.grid_sample(pictures, where, align_corners=False)


def laid(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Lay cut-outs (n, 3, s, s), multiplied with their alpha (n, 1, s, s), on something.

    Half of them on white, three in ten on a colour, the others on a piece of the next picture that
    is too blurred to be told.
    """
    n, size = len(rgb), rgb.shape[-1]
    kind = uniform(0, 1, n, 1, 1, 1, device=rgb.device)
    colour = uniform(0, 1, n, 3, 1, 1, device=rgb.device)
    other = (rgb + (1 - alpha) * colour).roll(1, 0)
    middle = slice(size // 4, size // 2)
    piece = functional.interpolate(
        other[:, :, middle, middle], (12, 12), mode="bilinear", antialias=True
    )
    blurred = functional.interpolate(piece, (size, size), mode="bilinear")
    plain = torch.where(kind < 0.5, torch.ones_like(colour), colour)
    return rgb + (1 - alpha) * torch.where(kind > 0.8, blurred, plain)


def recoloured(rgb: Tensor) -> Tensor:
    """Change the colours, contrast and brightness of pictures (n, 3, s, s) in [0, 1].

    One in eight becomes grey, one in sixteen its own negative.
    """
    n, device = len(rgb), rgb.device

    def factor() -> Tensor:
        return torch.exp(uniform(-0.3, 0.3, n, 1, 1, 1, device=device))

    def in_share(share: float) -> Tensor:
        return uniform(0, 1, n, 1, 1, 1, device=device) < share

    bright, contrast, strength = factor(), factor(), factor()
    strength = torch.where(in_share(0.12), torch.zeros_like(strength), strength)
    grey = rgb.mean(dim=1, keepdim=True)
    rgb = grey + (rgb - grey) * strength
    # Each channel takes a little of the others; grey stays grey.
    blend = torch.eye(3, device=device) + torch.randn(n, 3, 3, device=device) * 0.12
    blend = blend / blend.sum(dim=2, keepdim=True).clamp(min=0.3)
    rgb = torch.einsum("nij,njhw->nihw", blend, rgb)
    middle = rgb.mean(dim=(1, 2, 3), keepdim=True)
    rgb = ((rgb - middle) * contrast + middle) * bright
    return torch.where(in_share(0.06), 1 - rgb, rgb).clamp(0, 1)


# ---- tuning ------------------------------------------------------------------------------------


class Head(nn.Module):
    """A linear map from features to names: at first a ridge regression.

    So the first steps do not spoil the tower for the sake of a head that knows nothing yet.

    Args:
        features: What the tower gives for the drawings before it is tuned, (n, 1280).
        targets: The unit vectors of their names, (n, width).
    """

    mean: Tensor

    def __init__(self, features: Tensor, targets: Tensor) -> None:
        super().__init__()
        rooted = roots(features, LEAST_FEATURE)
        self.register_buffer("mean", rooted.mean(dim=0))
        inputs = rooted - self.mean
        gram = inputs.T @ inputs
        gram.diagonal().add_(RIDGE * gram.diagonal().mean())
        solution = torch.linalg.solve(gram, inputs.T @ targets)
        # Vectors of length 1 in the mean: of them the loss takes the direction alone.
        self.weight = nn.Parameter(solution / (inputs @ solution).norm(dim=1).mean())
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, features: Tensor) -> Tensor:
        """Return unit rows (n, width) of features (n, 1280)."""
        vectors = self.dropout(roots(features, LEAST_FEATURE) - self.mean) @ self.weight
        return functional.normalize(vectors, dim=1)


def tune_pictures(
    weights: Mapping[str, Array],
    pictures: NDArray[np.uint8],
    names: Sequence[str],
    words: Mapping[str, Array],
    *,
    device: str = "cpu",
    epochs: int = EPOCHS,
    say: Say = print,
) -> dict[str, Array]:
    """Return the tuned arrays of the tower, by their names in its graph.

    Args:
        weights: All arrays of the tower, as `towers.folded` gives them.
        pictures: The drawings (n, s, s, 4), with transparency.
        names: What each of them shows.
        words: A unit vector for each name: MiniLM's embedding, less what texts have in common.
        device: ``cpu`` or ``cuda``; there all pictures are kept in its memory.
        epochs: How often each drawing is seen.
        say: Is told how far it is.

    Returns:
        float32 arrays of blocks 8 to 15 and of the last convolution, in the shapes they had.
    """
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    squares = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2)
    vectors, labels = named_targets(names, words)
    targets, right = vectors.to(device), torch.from_numpy(labels).to(device)
    wished = torch.softmax(targets @ targets.T / SOFT, dim=1)
    tower = PictureTower(weights).to(device)
    say(f"looking at {len(squares):,} pictures before anything is learned")
    head = Head(features(tower, squares), targets[right]).to(device)

    def loss_of(batch: Tensor) -> Tensor:
        views, goals = alter(squares[batch], SIZE), wished[right[batch]]
        if rng.random() < MIXED:
            share, other = float(rng.beta(MIX, MIX)), torch.randperm(len(batch), device=device)
            views = share * views + (1 - share) * views[other]
            goals = share * goals + (1 - share) * goals[other]
        guess = head(tower(scaled(views))) @ targets.T / TEMPERATURE
        return -(goals * torch.log_softmax(guess, dim=1)).sum(dim=1).mean()

    steps = epochs * max(1, len(squares) // RECIPE.batch)
    shuffled = batches(len(squares), torch.device(device))
    return learn(tower.learned(), head, shuffled, loss_of, RECIPE, steps=steps, say=say)


@torch.no_grad()
def features(tower: PictureTower, squares: Tensor) -> Tensor:
    """Return what the tower gives for pictures as `base` shows them, (n, 1280)."""
    starts = range(0, len(squares), LOOKED_AT_ONCE)
    parts = [squares[start : start + LOOKED_AT_ONCE] for start in starts]
    return torch.cat([tower(scaled(on_white(part))) for part in parts])


def batches(count: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches without end, shuffled anew each time all but a rest was seen."""
    size = min(RECIPE.batch, count)
    while True:
        order = torch.randperm(count, device=device)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]
