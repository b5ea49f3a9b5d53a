"""Tune aiSFX's convolutions on named sounds, whose names they learn to tell apart.

A small network on the pooled channels says which of all names a sound has, by the cosine with the
names' vectors; the loss is that of `training.train_head`, which learns the head that ships after
that, on what the tuned convolutions give. Here each sound is stretched, shifted in pitch and time,
filtered, mixed with another and masked (SpecAugment, Park et al. 2019), which a head on features
that are already there could not see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
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
from torch import Tensor, nn
from torch.nn import functional

from muomni_search.encoders.base.own_sound import (
    HEARD_BANDS,
    HIDDEN,
    LEAST_FRAMES,
    LOUDEST,
    MEL_BANDS,
    TOWER_WIDTH,
)
from own_sound.training import (
    DECAY,
    DROPOUT,
    INPUT_DROPOUT,
    MIX,
    SOFT,
    TEMPERATURE,
)

BLOCKS, LAYERS = 4, 2
EPOCHS = 30
RECIPE = Recipe(
    batch=128, rate=1e-4, head_rate=1e-3, head_decay=DECAY, second_beta=0.999, clip_head=False
)
MOST_FRAMES = 173  # of 4 s
FRAMES = 172  # of those, that are learned from: the last one lies half behind the end
MIXED = 0.5  # the share of batches that are mixed
FILTERS = 6  # a filter's bands, each of 16 of the spectrogram
MASKS, WIDEST_MASK = 2, 8  # bands
NOISY, LEAST_NOISE, MOST_NOISE = 0.3, 1e-7, 1e-3
LEAST_FEATURE, LEAST_SPREAD = 1e-5, 1e-3
SEED = 0


# ---- the tower ---------------------------------------------------------------------------------


class SoundTower(Convolutions):
    """aiSFX's convolutions, pooled over the part of each spectrogram that is sound.

    Args:
        weights: Their arrays, as `training.folded` gives them.
    """

    def __init__(self, weights: Mapping[str, Array]) -> None:
        super().__init__(weights, weights)

    def forward(self, heard: Tensor, frames: Tensor) -> Tensor:
        """Return maximum, mean and deviation over time, (n, 1536).

        Args:
            heard: Spectrograms (n, frames, 96).
            frames: How many frames of each are sound, (n,); those after them are not pooled.
        """
        x = heard[:, None].contiguous(memory_format=torch.channels_last)
        with in_half_precision(x.device):
            for block in range(1, BLOCKS + 1):
                for layer in range(1, LAYERS + 1):
                    name = f"{block}.{layer}"
                    kernel, bias = self.array(f"{name}.weight"), self.array(f"{name}.bias")
                    x = functional.relu(functional.conv2d(x, kernel, bias, padding=1))
                if block < BLOCKS:
                    x = functional.max_pool2d(x, 2)
        return pooled(x.float().mean(dim=3), frames // 2 ** (BLOCKS - 1))


def pooled(channels: Tensor, frames: Tensor) -> Tensor:
    """Return maximum, mean and deviation of the first frames of (n, channels ≥ 0, time)."""
    length = frames.clamp(min=1)[:, None]
    heard = (torch.arange(channels.shape[2], device=channels.device) < length)[:, None].float()
    mean = (channels * heard).sum(dim=2) / length
    variance = ((channels - mean[:, :, None]) ** 2 * heard).sum(dim=2) / length
    highest = (channels * heard).amax(dim=2)
    # What is added keeps the slope finite where a channel never changes.
    return torch.cat([highest, mean, (variance + 1e-7).sqrt()], dim=1)


# ---- what it hears -----------------------------------------------------------------------------


def packed(spectrograms: Sequence[Array]) -> tuple[Tensor, Tensor]:
    """Return spectrograms (n, 173, 69) in 255ths, zero after their ends, and their frames (n,)."""
    found = np.zeros((len(spectrograms), MOST_FRAMES, HEARD_BANDS), np.uint8)
    frames = np.array([min(len(one), MOST_FRAMES) for one in spectrograms])
    for row, one, length in zip(found, spectrograms, frames, strict=True):
        row[:length] = np.rint(np.clip(one[:length, :HEARD_BANDS], 0, 1) * 255)
    return torch.from_numpy(found), torch.from_numpy(frames)


def unpacked(spectrograms: Tensor) -> Tensor:
    """Return (n, frames, 96) float32 of (n, frames, 69) in 255ths."""
    return functional.pad(spectrograms.float() / 255, (0, MEL_BANDS - HEARD_BANDS))


def powers(heard: Tensor) -> Tensor:
    """Return the power in each band of spectrograms."""
    return torch.expm1(heard * (LOUDEST * math.log(10))) / 1e4


def loudness(power: Tensor) -> Tensor:
    """Return spectrograms of the power in each band."""
    return torch.log10(1 + 1e4 * power) / LOUDEST


def alter(heard: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return sounds moved in time and pitch, and as they sound elsewhere.

    Args:
        heard: Spectrograms (n, 172, 96), zero after their ends.
        frames: How many frames of each are sound, (n,).

    Returns:
        The power in each band (n, 172, 96), and where each sound ends now, (n,).
    """
    heard, frames = moved(heard, frames)
    n, device = len(heard), heard.device
    louder = torch.exp(uniform(-1.5, 0.7, n, 1, 1, device=device))
    # A room or a loudspeaker: each sixth of the bands by a factor of its own.
    through = torch.exp(torch.randn(n, 1, FILTERS, device=device) * 0.3)
    through = through.repeat_interleave(MEL_BANDS // FILTERS, dim=2)
    return powers(heard) * louder * through, frames


def moved(heard: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Return spectrograms slower or faster, higher or lower and later, and where they end now."""
    n, device = len(heard), heard.device
    stretch = torch.exp(uniform(-0.22, 0.22, n, device=device))
    shift = uniform(-4, 4, n, device=device) * (torch.rand(n, device=device) < 0.6)  # bands
    # At most 30 frames later (0.7 s), and never so late that the end is lost.
    room = (FRAMES - frames / stretch).clamp(min=0, max=30)
    later = uniform(0, 1, n, device=device) * room
    # One interpolation for all three: which frame and which band is read for each.
    frame = (torch.arange(FRAMES, device=device) - later[:, None]) * stretch[:, None]
    band = torch.arange(MEL_BANDS, device=device) - shift[:, None]
    down = 2 * (frame[:, :, None] + 0.5) / FRAMES - 1
    across = 2 * (band[:, None, :] + 0.5) / MEL_BANDS - 1
    shape = (n, FRAMES, MEL_BANDS)
    where = torch.stack([across.expand(shape), down.expand(shape)], dim=-1)
    found = functional.grid_sample(heard[:, None], where, align_corners=False)[:, 0]
    found[:, :, HEARD_BANDS:] = 0
    return found, (frames / stretch + later).clamp(LEAST_FRAMES, FRAMES).long()


def noisy(power: Tensor) -> Tensor:
    """Add noise to three sounds in ten, of any strength that can be heard."""
    n, device = len(power), power.device
    low, high = math.log10(LEAST_NOISE), math.log10(MOST_NOISE)
    strength = 10 ** uniform(low, high, n, 1, 1, device=device)
    return power + (torch.rand(n, 1, 1, device=device) < NOISY) * strength * torch.rand_like(power)


def masked(heard: Tensor) -> Tensor:
    """Silence two stretches of up to eight bands of each spectrogram (n, frames, 96)."""
    n, device = len(heard), heard.device
    band = torch.arange(MEL_BANDS, device=device)
    heard = heard.masked_fill(band >= HEARD_BANDS, 0.0)
    for _ in range(MASKS):
        first = torch.randint(0, HEARD_BANDS, (n, 1), device=device)
        width = torch.randint(0, WIDEST_MASK + 1, (n, 1), device=device)
        hidden = (band >= first) & (band < first + width)
        heard = heard.masked_fill(hidden[:, None], 0.0)
    return heard


# ---- tuning ------------------------------------------------------------------------------------


class Head(nn.Module):
    """A network of one hidden layer, from features to names.

    Args:
        features: What the tower gives for the sounds before it is tuned, (n, 1536).
        width: Of the names' vectors.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: Tensor, width: int) -> None:
        super().__init__()
        rooted = roots(features, LEAST_FEATURE)
        self.register_buffer("mean", rooted.mean(dim=0))
        self.register_buffer("scale", rooted.std(dim=0) + LEAST_SPREAD)
        self.layers = nn.Sequential(
            nn.Dropout(INPUT_DROPOUT),
            nn.Linear(TOWER_WIDTH, HIDDEN),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return unit rows (n, width) of features (n, 1536)."""
        inputs = (roots(features, LEAST_FEATURE) - self.mean) / self.scale
        return functional.normalize(self.layers(inputs), dim=1)


def tune_sounds(
    weights: Mapping[str, Array],
    spectrograms: Sequence[Array],
    names: Sequence[str],
    words: Mapping[str, Array],
    *,
    device: str = "cpu",
    epochs: int = EPOCHS,
    say: Say = print,
) -> dict[str, Array]:
    """Return the tuned arrays of the convolutions, by their names in the graph.

    Args:
        weights: Their arrays, as `training.folded` gives them.
        spectrograms: Those of the first 4 s of each sound, (frames, 96) in [0, 1].
        names: What is heard in each.
        words: A unit vector for each name, in the shared space.
        device: ``cpu`` or ``cuda``.
        epochs: How often each sound is heard, in the mean: one is drawn the more seldom the more
            share its name, by the square root of their number.
        say: Is told how far it is.

    Returns:
        float32 arrays in the shapes they had.
    """
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    sounds, frames = (one.to(device) for one in packed(spectrograms))
    vectors, labels = named_targets(names, words)
    targets, right = vectors.to(device), torch.from_numpy(labels).to(device)
    wished = torch.softmax(targets @ targets.T / SOFT, dim=1)
    tower = SoundTower(weights).to(device)
    say(f"hearing {len(sounds):,} sounds before anything is learned")
    head = Head(features(tower, sounds, frames), targets.shape[1]).to(device)

    def loss_of(batch: Tensor) -> Tensor:
        power, ends = alter(unpacked(sounds[batch, :FRAMES]), frames[batch])
        label, share = right[batch], torch.ones((len(batch), 1), device=device)
        other = torch.randperm(len(batch), device=device)
        if rng.random() < MIXED:
            drawn = torch.tensor(rng.beta(MIX, MIX, (len(batch), 1)), dtype=torch.float32)
            share = torch.maximum(drawn, 1 - drawn).to(device)
            power = share[:, :, None] * power + (1 - share[:, :, None]) * power[other]
            ends = torch.maximum(ends, ends[other])
        found = head(tower(masked(loudness(noisy(power))), ends))
        told = torch.log_softmax(found @ targets.T / TEMPERATURE, dim=1)
        goals = share * wished[label] + (1 - share) * wished[label[other]]
        near = share * targets[label] + (1 - share) * targets[label[other]]
        off = (1 - functional.cosine_similarity(found, near)).mean()
        return off - (goals * told).sum(dim=1).mean()

    steps = max(1, epochs * len(sounds) // RECIPE.batch)
    odds = 1 / np.sqrt(np.bincount(labels)[labels])
    drawn = rng.choice(len(sounds), (steps, RECIPE.batch), p=odds / odds.sum())
    batches = torch.from_numpy(drawn).to(device)
    return learn(tower.learned(), head, batches, loss_of, RECIPE, steps=steps, say=say)


@torch.no_grad()
def features(tower: SoundTower, sounds: Tensor, frames: Tensor) -> Tensor:
    """Return what the tower gives for each sound by itself, as `base` hears it, (n, 1536)."""
    found = []
    for sound, length in zip(sounds, frames.clamp(min=LEAST_FRAMES), strict=True):
        heard = unpacked(sound[None, : int(length)])
        found.append(tower(heard, length[None]))
    return torch.cat(found)
