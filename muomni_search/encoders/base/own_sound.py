"""Sounds: a network for sound effects and the shape of a sound, into the shared space.

What may ship, where YAMNet's export (`audio.py`) may not: the convolutions are those of aiSFX (Ma
and Lerch 2022, CC BY 4.0), trained further on named sounds, the head is our own. Preprocessing, all
of it: mono at 16 kHz, the loudest sample at 1 (at most 40 dB louder); frames of 743 samples every
372 under a Hann window, so that a frame lasts as long as aiSFX's 2,048 samples at 44.1 kHz, powers
scaled alike; 96 triangular bands of unit sum on the HTK mel scale up to 22,050 Hz, of which those
above 8 kHz stay empty; log10(1 + 10,000 · band), over 9.458.

A sound is heard in parts of 4 s, the last one flush with its end. Of each part the head takes the
maximum, mean and deviation over time of aiSFX's 512 channels (their square roots), and 520 numbers
on the spectrogram without its silent ends: quantiles, mean, maximum and change of each band, its
deviation from the frame's mean, the envelope and its autocorrelation. The vector of a segment is
the mean of its parts' unit vectors, scaled to unit length. Segments are those of all sounds
(`segments.windows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from muomni_search.encoders.base.audio import htk_bands
from muomni_search.encoders.base.session import Tower, load_head
from muomni_search.encoders.protocol import Piece
from muomni_search.encoders.segments import windows
from muomni_search.items import DIM, Modality
from muomni_search.vectors import normalise

__all__ = [
    "Network",
    "OwnSoundEncoder",
    "features",
    "mean_of_parts",
    "parts",
    "spectrogram",
    "statistics",
]

Array = NDArray[np.float32]

SAMPLE_RATE = 16_000  # Hz
PART_SAMPLES = 4 * SAMPLE_RATE
WINDOW_SAMPLES, HOP_SAMPLES, FFT_SAMPLES = 743, 372, 1024
TRAINED_WINDOW = 2048  # samples, at the 44.1 kHz that the network was trained at
MEL_BANDS, MEL_HIGH_HZ = 96, 22_050.0
LOUDEST = 9.457798957824707  # of the spectrograms that the network was trained on
MOST_GAIN = 100.0
LEAST_FRAMES = 16  # the network halves time three times
HEARD_BANDS = 69  # those below 8 kHz
SILENCE = 0.25  # of the loudest frame's mean
ENVELOPE, LAGS = 8, 24
TOWER_WIDTH, HIDDEN = 3 * 512, 384
WIDTH = TOWER_WIDTH + 7 * HEARD_BANDS + ENVELOPE + LAGS + 5
FURTHEST = 5.0  # standard deviations that a feature may lie off


class OwnSoundEncoder:
    """The sound side, with weights that ship.

    Args:
        tower: The ONNX file of the convolutions.
        head: The file with ``mean`` and ``scale`` of the features, and ``w1``, ``b1``, ``w2``,
            ``b2`` of a network of one hidden layer.
        fingerprint: The model's.
        threads: How many threads encoding may use.
    """

    modality = Modality.AUDIO
    dim = DIM

    def __init__(self, tower: Path, head: Path, fingerprint: str, *, threads: int) -> None:
        self._tower = Tower(tower, inputs=["spectrogram"], widths=[TOWER_WIDTH], threads=threads)
        self._fingerprint = fingerprint
        self._network = Network(head, WIDTH)

    def fingerprint(self) -> str:
        """Return the fingerprint of the model that this encoder belongs to."""
        return self._fingerprint

    def prepare(self, content: Array) -> list[Piece]:
        """Return a piece for each window of a waveform (samples,): its parts' spectrograms."""
        return [
            Piece([spectrogram(part) for part in parts(content[start:end])], span)
            for start, end, span in windows(content)
        ]

    def encode(self, batch: Sequence[Piece]) -> Array:
        """Return (n, 256) float32 unit rows."""
        if not batch:
            return np.empty((0, DIM), np.float32)
        heard = self.features([part for piece in batch for part in piece.data])
        return self.project(heard, [len(piece.data) for piece in batch])

    def features(self, spectrograms: Sequence[Array]) -> Array:
        """Return what the head takes, (parts, 2056), of the spectrograms of parts."""
        return np.stack([features(self._tower, one) for one in spectrograms])

    def project(self, heard: Array, counts: Sequence[int]) -> Array:
        """Return unit rows (n, 256) of segments of so many parts each."""
        return mean_of_parts(self._network(heard), counts)


class Network:
    """A head of one hidden layer, from features of sounds to vectors.

    Args:
        path: The file with ``mean`` and ``scale`` of the features, ``w1``, ``b1``, ``w2``, ``b2``.
        width: How many features it takes.
    """

    def __init__(self, path: Path, width: int) -> None:
        self._arrays = load_head(
            path,
            mean=(width,),
            scale=(width,),
            w1=(width, HIDDEN),
            b1=(HIDDEN,),
            w2=(HIDDEN, DIM),
            b2=(DIM,),
        )

    def __call__(self, heard: Array) -> Array:
        """Return unit rows (n, 256) of features (n, width)."""
        own = self._arrays
        inputs = np.clip((heard - own["mean"]) / own["scale"], -FURTHEST, FURTHEST)
        hidden = _gelu(inputs @ own["w1"] + own["b1"])
        return normalise(np.asarray(hidden @ own["w2"] + own["b2"], np.float32))


def mean_of_parts(vectors: Array, counts: Sequence[int]) -> Array:
    """Return the unit mean (n, 256) of the vectors of each segment's parts, so many each."""
    starts = np.cumsum([0, *counts[:-1]])
    return normalise(np.add.reduceat(vectors, starts, axis=0))


def parts(samples: Array) -> list[Array]:
    """Return a segment's parts of 4 s, the last one flush with its end; a short one whole."""
    if len(samples) <= PART_SAMPLES:
        return [samples]
    starts = [*range(0, len(samples) - PART_SAMPLES, PART_SAMPLES), len(samples) - PART_SAMPLES]
    return [samples[start : start + PART_SAMPLES] for start in starts]


def spectrogram(samples: Array) -> Array:
    """Return the log-mel spectrogram (frames, 96) of a waveform."""
    loudest = float(np.abs(samples).max(initial=0))
    scaled = samples * np.float32(min(1 / max(loudest, 1e-9), MOST_GAIN))
    padded = np.pad(scaled, WINDOW_SAMPLES // 2)
    padded = np.pad(padded, (0, max(0, WINDOW_SAMPLES - len(padded))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    window = np.hanning(WINDOW_SAMPLES).astype(np.float32)
    magnitudes = np.abs(np.fft.rfft(frames * window, FFT_SAMPLES, axis=1))
    powers = (magnitudes * (TRAINED_WINDOW / WINDOW_SAMPLES)) ** 2
    bands = powers.astype(np.float32) @ _mel_matrix()
    return np.asarray(np.log10(1e4 * bands + 1) / LOUDEST, np.float32)


def features(tower: Tower, heard: Array) -> Array:
    """Return what the head takes, (2056,), of the spectrogram of a part."""
    padded = np.pad(heard, ((0, max(0, LEAST_FRAMES - len(heard))), (0, 0)))
    (pooled,) = tower(spectrogram=padded[None])
    return np.concatenate([np.sqrt(np.maximum(pooled[0], 0)), statistics(heard)])


def statistics(heard: Array) -> Array:
    """Return 520 numbers on a spectrogram: its bands and its envelope."""
    bands = heard[:, :HEARD_BANDS]
    loudness = bands.mean(axis=1)
    loud = np.flatnonzero(loudness >= loudness.max() * SILENCE)
    bands = bands[loud[0] : loud[-1] + 1]
    loudness = bands.mean(axis=1)
    change = np.diff(loudness) if len(bands) > 1 else np.zeros(1, np.float32)
    rise, fall = np.maximum(change, 0), np.maximum(-change, 0)
    places = np.linspace(0, 1, len(bands))
    envelope = np.interp(np.linspace(0, 1, ENVELOPE), places, loudness)
    return np.concatenate(
        [
            np.quantile(bands, [0.1, 0.5, 0.9], axis=0).ravel(),
            bands.mean(axis=0),
            bands.max(axis=0),
            np.abs(np.diff(bands, axis=0)).mean(axis=0) if len(bands) > 1 else 0 * bands[0],
            (bands - bands.mean(axis=1, keepdims=True)).std(axis=0),
            envelope / max(float(loudness.max()), 1e-6),
            _rhythm(loudness),
            [np.log(len(bands)), len(loud) / len(bands)],
            [rise.max(), fall.max(), rise.std()],
        ]
    ).astype(np.float32)


def _rhythm(loudness: Array) -> NDArray[np.float64]:
    """Return the autocorrelation of an envelope, two lags a number; zeros for a short one."""
    rhythm = np.zeros(LAGS)
    centred = loudness - loudness.mean()
    if len(centred) > 30:
        whole = np.correlate(centred, centred, "full")[len(centred) - 1 :]
        lags = (whole / max(float(whole[0]), 1e-6))[1:]
        count = min(LAGS, len(lags) // 2 if len(whole) > 50 else (len(whole) - 3) // 2)
        rhythm[:count] = lags[: 2 * count].reshape(count, 2).mean(axis=1)
    return rhythm


def _gelu(values: Array) -> Array:
    # The approximation by tanh (Hendrycks and Gimpel 2016): NumPy has no error function.
    inner = 0.7978845608 * (values + 0.044715 * values**3)
    return np.asarray(0.5 * values * (1 + np.tanh(inner)), np.float32)


@cache
def _mel_matrix() -> Array:
    """Return the bands (513, 96), each of unit sum."""
    matrix = htk_bands(FFT_SAMPLES, MEL_BANDS, 0, MEL_HIGH_HZ)
    sums = matrix.sum(axis=0)
    return np.asarray(matrix / np.where(sums > 0, sums, 1), np.float32)
