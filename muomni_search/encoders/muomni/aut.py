"""Sounds: AuT-Tiny, convolutions over a mel spectrogram and a small transformer.

Each convolution halves time and frequency; three of them turn 100 frames a second into 12.5, two
into 25. What is left of the frequencies is flattened into one token a step, and blocks of
attention in both directions, behind RMSNorms, mix the steps.

The front end is that of torchaudio's ``MelSpectrogram`` with a 1024-point FFT, a periodic Hann
window of 25 ms every 10 ms, and 128 bands on the HTK scale; powers, without a logarithm.

Attributes are named as in the reference's checkpoints. B sounds, T frames, d = 192.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from muomni_search.encoders.muomni.layers import RMSNorm, initialise

__all__ = ["AuT", "AuTConfig", "mel_spectrogram", "mel_spectrograms"]

SAMPLE_RATE = 16_000  # Hz
FFT_SAMPLES, WINDOW_SAMPLES, HOP_SAMPLES = 1024, 400, 160
MEL_BANDS = 128
# Softer than this is silence; divided so, the logarithm of what is heard lies around ±1.
LEAST_POWER, POWER_DECADES = 1e-5, 5.0
# Their spectra lie in memory together: 17 MB a sound of 12 s.
SOUNDS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class AuTConfig:
    """The sizes of an audio transformer.

    Args:
        bands: Mel bands of a frame.
        channels: Channels of the convolutions.
        downsample: How many frames become one step: 4 or 8.
        dim: Width of its steps.
        layers: Blocks.
        heads: Heads of a block.
        hidden: Width inside a block's two linear layers.
        dropout: Share of dimensions dropped in training.
        logarithm: Whether the tower takes the logarithm of what it is given. The reference does
            not; powers of sounds span ten decades, and are learned from slowly.
    """

    bands: int = MEL_BANDS
    channels: int = 64
    downsample: int = 8
    dim: int = 192
    layers: int = 4
    heads: int = 3
    hidden: int = 768
    dropout: float = field(default=0.1, metadata={"least": 0.0, "most": 0.9})
    logarithm: bool = False


class AuT(nn.Module):
    """Mel spectrograms in, a token a step of time out."""

    def __init__(self, config: AuTConfig) -> None:
        super().__init__()
        self.config = config
        halving = Halving(config.channels)
        if config.downsample == 8:
            again = nn.Conv2d(config.channels, config.channels, 3, stride=2, padding=1)
            self.down: nn.Module = nn.Sequential(halving, again, nn.GELU())
        else:
            self.down = halving
        self.proj = nn.Linear(config.channels * (config.bands // config.downsample), config.dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.dim)
        initialise(self)

    def forward(self, mel: Tensor) -> Tensor:
        """Return the steps (B, ⌈T / 8⌉, d) of spectrograms (B, T, 128)."""
        if self.config.logarithm:
            mel = torch.log(mel + LEAST_POWER) / POWER_DECADES
        x = self.down(mel[:, None])  # (B, 64, T/8, 16)
        x = self.proj(x.transpose(1, 2).flatten(2))  # (B, T/8, d), from channels × frequencies
        for block in self.blocks:
            x = block(x)
        steps: Tensor = self.norm(x)
        return steps


class Halving(nn.Module):
    """Two convolutions that halve time and frequency each: (B, 1, T, F) → (B, C, T/4, F/4)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, channels, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            nn.GELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T/4, F/4)."""
        halved: Tensor = self.net(x)
        return halved


class Block(nn.Module):
    """Attention in both directions and two linear layers."""

    def __init__(self, config: AuTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1 = RMSNorm(config.dim)
        self.qkv_proj = nn.Linear(config.dim, 3 * config.dim)
        self.out_proj = nn.Linear(config.dim, config.dim)
        self.norm2 = RMSNorm(config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.dim)
        )
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return steps of the same shape (B, T, d)."""
        batch, steps, dim = x.shape
        qkv = self.qkv_proj(self.norm1(x)).view(batch, steps, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, d/H) each
        mixed = functional.scaled_dot_product_attention(q, k, v)
        x = x + self.drop(self.out_proj(mixed.transpose(1, 2).reshape(batch, steps, dim)))
        out: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return out


# ---- the front end ---------------------------------------------------------------------------


def mel_spectrogram(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mel spectrogram (T, 128) of a waveform (samples,), mono at 16 kHz.

    Frames are centred on multiples of the hop and the ends are mirrored: T is
    1 + samples // 160. A sound shorter than the mirror is padded with silence first.
    """
    half = FFT_SAMPLES // 2
    if len(samples) <= half:
        samples = np.pad(samples, (0, half + 1 - len(samples)))
    mirrored = np.pad(samples, half, mode="reflect")
    # The window sits in the middle of its FFT: zeros around it add nothing to the powers.
    before = (FFT_SAMPLES - WINDOW_SAMPLES) // 2
    frames = np.lib.stride_tricks.sliding_window_view(mirrored, FFT_SAMPLES)[::HOP_SAMPLES]
    windowed = frames[:, before : before + WINDOW_SAMPLES] * _hann()
    spectrum = np.fft.rfft(windowed, FFT_SAMPLES, axis=1)
    powers = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    return powers @ _mel_matrix()


def mel_spectrograms(samples: Tensor) -> Tensor:
    """Return the mel spectrograms (n, T, 128) of waveforms of one length (n, samples).

    What ``mel_spectrogram`` gives, in single precision and on the device of the samples: many at
    a time, for training.
    """
    parts = [samples[at : at + SOUNDS_AT_ONCE] for at in range(0, len(samples), SOUNDS_AT_ONCE)]
    return torch.cat([_mel_spectrograms(some) for some in parts])


def _mel_spectrograms(samples: Tensor) -> Tensor:
    half = FFT_SAMPLES // 2
    if samples.shape[1] <= half:
        samples = functional.pad(samples, (0, half + 1 - samples.shape[1]))
    mirrored = functional.pad(samples[:, None], (half, half), mode="reflect")[:, 0]
    before = (FFT_SAMPLES - WINDOW_SAMPLES) // 2
    frames = mirrored.unfold(1, FFT_SAMPLES, HOP_SAMPLES)  # (n, T, 1024)
    window = torch.from_numpy(_hann()).to(samples.device)
    windowed = frames[..., before : before + WINDOW_SAMPLES] * window
    spectrum = torch.view_as_real(torch.fft.rfft(windowed, FFT_SAMPLES))  # (n, T, 513, 2)
    return spectrum.square().sum(-1) @ torch.from_numpy(_mel_matrix()).to(samples.device)


@cache
def _hann() -> NDArray[np.float32]:
    # Periodic: one period is as long as the window, so its last sample is not zero.
    return np.hanning(WINDOW_SAMPLES + 1)[:WINDOW_SAMPLES].astype(np.float32)


@cache
def _mel_matrix() -> NDArray[np.float32]:
    """Return triangular bands (513, 128) between 0 and 8,000 Hz, even on the HTK mel scale.

    The edges are even in mel, 2595 · log10(1 + f / 700), and the triangles straight in Hz.
    """
    hertz = np.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)[:, None]
    top = 2595.0 * np.log10(1 + SAMPLE_RATE / 2 / 700.0)
    edges = 700.0 * (10 ** (np.linspace(0, top, MEL_BANDS + 2) / 2595.0) - 1)
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
