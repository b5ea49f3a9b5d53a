"""Sounds: YAMNet and a mixture of sound classes, into the shared space.

Preprocessing, all of it (the front end that YAMNet was trained with; Hershey et al. 2017 and its
published parameters): mono at 16 kHz; frames of 25 ms every 10 ms under a periodic Hann window;
magnitudes of a 512-point FFT; 64 triangular bands on the HTK mel scale from 125 to 7,500 Hz;
ln(band + 0.001); patches of 96 frames (0.96 s) every 48. A sound shorter than a patch is padded
with silence.

A sound of up to 12 s is one segment; a longer one is cut into windows of 10 s that overlap by
2 s, the last one flush with the end. The vector of a segment is the mixture of its 20 strongest
classes: for each class half the highest and half the mean probability over its patches, vague
classes ("Noise", "Vehicle") counting 0.3, times the text embeddings of the class names,
projected to 256 dimensions and scaled to unit length.

The model `base` adds what its own tower hears (`sound.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.base.session import Tower, load_head
from muomni_search.encoders.protocol import Piece
from muomni_search.encoders.segments import windows
from muomni_search.items import DIM, Modality
from muomni_search.vectors import normalise

__all__ = ["AudioEncoder", "class_strengths", "htk_bands", "log_mel", "log_odds", "patches"]

SAMPLE_RATE = 16_000  # Hz
WINDOW_SAMPLES, HOP_SAMPLES, FFT_SAMPLES = 400, 160, 512
MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.001
PATCH_FRAMES, PATCH_HOP_FRAMES = 96, 48
PATCH_SAMPLES = WINDOW_SAMPLES + HOP_SAMPLES * (PATCH_FRAMES - 1)

CLASSES, TOP_CLASSES = 521, 20
WIDTH = 384  # of the text embeddings of class names
LEAST = np.float32(1e-4)  # probability that counts in odds
# Patches in one run of the tower.
BATCH = 64


class AudioEncoder:
    """The sound side of the model.

    Args:
        tower: The file of YAMNet.
        head: The file with ``classes`` (521, 384), ``class_weights`` (521,) and ``projection``
            (384, 256).
        fingerprint: The model's.
        threads: How many threads encoding may use.
    """

    modality = Modality.AUDIO
    dim = DIM

    def __init__(self, tower: Path, head: Path, fingerprint: str, *, threads: int) -> None:
        self._tower = Tower(tower, inputs=["patches"], widths=[CLASSES], threads=threads)
        self._fingerprint = fingerprint
        arrays = load_head(
            head, classes=(CLASSES, WIDTH), class_weights=(CLASSES,), projection=(WIDTH, DIM)
        )
        self._classes = arrays["classes"]
        self._weights = arrays["class_weights"]
        self._projection = arrays["projection"]

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that this encoder belongs to."""
        return self._fingerprint

    def prepare(self, content: NDArray[np.float32]) -> list[Piece]:
        """Return a piece for each window of a waveform (samples,): its patches (p, 96, 64)."""
        return [Piece(patches(content[start:end]), span) for start, end, span in windows(content)]

    def encode(self, batch: Sequence[Piece]) -> NDArray[np.float32]:
        """Return (n, 256) float32 unit rows."""
        if not batch:
            return np.empty((0, DIM), np.float32)
        return self.project(self.pooled([piece.data for piece in batch]))

    def pooled(self, sounds: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the highest and the mean probability of each class in each sound, (n, 2, 521)."""
        probabilities = self.class_probabilities(sounds)
        ends = np.cumsum([len(sound) for sound in sounds])
        return np.stack(
            [
                np.stack([part.max(axis=0), part.mean(axis=0)])
                for part in np.split(probabilities, ends[:-1])
            ]
        )

    def project(self, pooled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the unit vectors (n, 256) of pooled probabilities (n, 2, 521)."""
        return normalise(class_strengths(pooled, self._weights) @ self._classes @ self._projection)

    def class_probabilities(self, sounds: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the probability of each class in each patch, (patches, 521)."""
        stacked = np.concatenate(sounds)
        logits = [
            self._tower(patches=stacked[start : start + BATCH, None])[0]
            for start in range(0, len(stacked), BATCH)
        ]
        clipped = np.clip(np.concatenate(logits), -30, 30)
        return np.asarray(1 / (1 + np.exp(-clipped)), np.float32)


def class_strengths(
    pooled: NDArray[np.float32], class_weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return (n, 521) of pooled probabilities (n, 2, 521): the strongest, zero for all others."""
    strengths = pooled.mean(axis=1) * class_weights
    threshold = np.partition(strengths, -TOP_CLASSES, axis=1)[:, -TOP_CLASSES, None]
    kept: NDArray[np.float32] = np.where(strengths >= threshold, strengths, np.float32(0))
    return kept


def log_odds(pooled: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log odds (n, 1042) of pooled probabilities (n, 2, 521), within ±9.22."""
    odds = (pooled + LEAST) / (1 - pooled + LEAST)
    return np.log(odds).reshape(len(pooled), -1)


def patches(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the overlapping log-mel patches (p, 96, 64) of a waveform."""
    if len(samples) < PATCH_SAMPLES:
        samples = np.pad(samples, (0, PATCH_SAMPLES - len(samples)))
    frames = log_mel(samples)
    starts = range(0, len(frames) - PATCH_FRAMES + 1, PATCH_HOP_FRAMES)
    return np.stack([frames[start : start + PATCH_FRAMES] for start in starts])


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the log-mel spectrogram (frames, 64) of a waveform of 400 samples or more."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[::HOP_SAMPLES]
    magnitudes = np.abs(np.fft.rfft(frames * _hann(), FFT_SAMPLES, axis=1)).astype(np.float32)
    bands: NDArray[np.float32] = np.log(magnitudes @ _mel_matrix() + np.float32(LOG_OFFSET))
    return bands


@cache
def _hann() -> NDArray[np.float32]:
    # Periodic: one period is as long as the window, so its last sample is not zero.
    return np.hanning(WINDOW_SAMPLES + 1)[:WINDOW_SAMPLES].astype(np.float32)


@cache
def _mel_matrix() -> NDArray[np.float32]:
    """Return YAMNet's bands (257, 64)."""
    bands = htk_bands(FFT_SAMPLES, MEL_BANDS, MEL_LOW_HZ, MEL_HIGH_HZ)
    matrix = np.asarray(bands, np.float32)
    matrix[0] = 0  # the constant part of a signal is no sound
    return matrix


def htk_bands(fft_samples: int, count: int, low_hz: float, high_hz: float) -> NDArray[np.float64]:
    """Return triangular bands (fft_samples / 2 + 1, count) on the HTK mel scale.

    That scale is 1127 · ln(1 + f / 700); the highest point of each band is 1.

    Args:
        fft_samples: The points of the transform of a signal at 16 kHz.
        count: How many bands.
        low_hz: Where the first begins.
        high_hz: Where the last ends; it may lie above what the signal can hold.
    """

    def mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(1127.0 * np.log1p(hertz / 700.0))

    bins = mel(np.linspace(0, SAMPLE_RATE / 2, fft_samples // 2 + 1))[:, None]
    low, high = mel(np.array([low_hz, high_hz]))
    edges = np.linspace(low, high, count + 2)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))
