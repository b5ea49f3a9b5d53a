"""The sound side of `base`: front end, patches, windows, classes; and what sounds mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from muomni_search.encoders.base import audio
from muomni_search.encoders.model import load_model
from muomni_search.encoders.segments import windows
from muomni_search.items import Modality, Span

RATE = 16_000


# ---- an independent front end -------------------------------------------------------------


def log_mel_by_the_book(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """The front end in float64, written from the published parameters and nothing else.

    25 ms periodic Hann every 10 ms, a 512-point DFT by its definition, magnitudes, 64 triangles
    in mel = 2595 · log10(1 + f / 700) from 125 to 7,500 Hz, ln(x + 0.001).
    """
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    k, n = np.arange(257)[:, None], np.arange(400)[None]
    transform = np.exp(-2j * np.pi * k * n / 512)
    edges = np.linspace(hertz_to_mel(125), hertz_to_mel(7500), 66)
    frames = []
    for start in range(0, len(samples) - 400 + 1, 160):
        spectrum = np.abs(transform @ (samples[start : start + 400].astype(np.float64) * window))
        bands = np.zeros(64)
        for band in range(64):
            low, top, high = edges[band : band + 3]
            for number in range(1, 257):
                place = hertz_to_mel(number * RATE / 512)
                if low < place <= top:
                    bands[band] += spectrum[number] * (place - low) / (top - low)
                elif top < place < high:
                    bands[band] += spectrum[number] * (high - place) / (high - top)
        frames.append(np.log(bands + 0.001))
    return np.array(frames)


def hertz_to_mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


@pytest.mark.parametrize("kind", ["noise", "chirp", "click", "silence", "loud"])
def test_the_mel_front_end_is_what_an_independent_one_gives(
    kind: str, rng: np.random.Generator
) -> None:
    times = np.arange(3_000) / RATE
    samples = {
        "noise": rng.standard_normal(3_000) / 10,
        "chirp": np.sin(2 * np.pi * (100 + 20_000 * times) * times) / 2,
        "click": (np.arange(3_000) == 1_000) * 1.0,
        "silence": np.zeros(3_000),
        "loud": np.sign(np.sin(2 * np.pi * 300 * times)),
    }[kind].astype(np.float32)
    found, expected = audio.log_mel(samples), log_mel_by_the_book(samples)
    assert found.dtype == np.float32
    assert found.shape == expected.shape == (17, 64)
    assert np.abs(found - expected).max() < 2e-3


@pytest.mark.parametrize("hertz", [200, 440, 1000, 3000, 7000])
def test_a_tone_is_loudest_in_the_band_of_its_pitch(hertz: int) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    edges = np.linspace(hertz_to_mel(125), hertz_to_mel(7500), 66)
    loudest = int(audio.log_mel(tone).mean(axis=0).argmax())
    # A bin of the FFT is 31 Hz wide, and wider than a band at the low end.
    assert abs(edges[loudest + 1] - hertz_to_mel(hertz)) < max(edges[1] - edges[0], 45)


# ---- patches and windows ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "count"),
    [(1, 1), (400, 1), (15_599, 1), (15_600, 1), (15_600 + 7_679, 1), (15_600 + 7_680, 2)],
)
def test_patches_of_96_frames_come_every_48(samples: int, count: int) -> None:
    assert audio.patches(np.ones(samples, np.float32)).shape == (count, 96, 64)


def test_neighbouring_patches_share_half_their_frames(rng: np.random.Generator) -> None:
    samples = rng.standard_normal(5 * RATE).astype(np.float32)
    found = audio.patches(samples)
    assert np.array_equal(found[1:, :48], found[:-1, 48:])
    assert np.array_equal(found[0], audio.log_mel(samples)[:96])


def test_a_sound_shorter_than_a_patch_is_padded_with_silence(rng: np.random.Generator) -> None:
    samples = rng.standard_normal(5_000).astype(np.float32)
    padded = np.concatenate([samples, np.zeros(10_600, np.float32)])
    assert np.array_equal(audio.patches(samples), audio.patches(padded))


def test_windows_of_ten_seconds_overlap_by_two_and_the_last_ends_with_the_sound() -> None:
    spans = [span for _, _, span in windows(np.zeros(30 * RATE, np.float32))]
    assert spans == [
        Span("ms", 0, 10_000), Span("ms", 8_000, 18_000), Span("ms", 16_000, 26_000),
        Span("ms", 20_000, 30_000),
    ]  # fmt: skip
    assert windows(np.zeros(12 * RATE, np.float32)) == [(0, 12 * RATE, None)]


@given(st.integers(12 * RATE + 1, 300 * RATE))
def test_windows_cover_every_sample_of_a_long_sound(samples: int) -> None:
    found = windows(np.broadcast_to(np.float32(0), samples))
    starts = [start for start, _, _ in found]
    assert all(end - start == 10 * RATE for start, end, _ in found)
    assert (starts[0], found[-1][1]) == (0, samples)
    assert all(0 < gap <= 8 * RATE for gap in np.diff(starts))
    for start, end, span in found:
        assert span == Span("ms", start // 16, end // 16)


def test_a_window_is_encoded_as_its_samples_alone_are(rng: np.random.Generator) -> None:
    encoder = load_model("base").encoder(Modality.AUDIO)
    samples = (rng.standard_normal(25 * RATE) * np.linspace(0, 1, 25 * RATE) / 4).astype(np.float32)
    pieces = encoder.prepare(samples)
    assert pieces[1].span == Span("ms", 8_000, 18_000)
    alone = encoder.prepare(samples[8 * RATE : 18 * RATE])
    assert np.allclose(encoder.encode(pieces)[1], encoder.encode(alone)[0], atol=1e-5)


# ---- classes ------------------------------------------------------------------------------


def test_the_twenty_strongest_classes_are_kept(rng: np.random.Generator) -> None:
    probabilities = rng.random((7, 521), np.float32)
    weights = rng.choice(np.array([0.3, 1.0], np.float32), 521)
    both = np.stack([probabilities.max(axis=0), probabilities.mean(axis=0)])
    # Another sound beside it changes nothing.
    found = audio.class_strengths(np.stack([both, both[::-1] * 2]), weights)[0]
    pooled = [
        (max(column) + sum(column) / 7) / 2 * weight
        for column, weight in zip(probabilities.T.tolist(), weights.tolist(), strict=True)
    ]
    strongest = sorted(range(521), key=lambda number: -pooled[number])[:20]
    assert sorted(np.flatnonzero(found)) == sorted(strongest)
    assert found[strongest] == pytest.approx([pooled[number] for number in strongest], rel=1e-5)


def test_log_odds_are_of_the_highest_then_of_the_mean_and_finite() -> None:
    pooled = np.zeros((2, 2, 521), np.float32)
    pooled[0, 0, 3], pooled[0, 1, 5] = 1, 0.5
    found = audio.log_odds(pooled)
    assert found.shape == (2, 1042)
    assert found[0, 3] == pytest.approx(math.log(1.0001 / 0.0001), rel=1e-3)
    assert found[0, 521 + 5] == pytest.approx(0, abs=1e-6)
    assert found[1] == pytest.approx(math.log(0.0001 / 1.0001), rel=1e-3)


def test_sounds_are_near_the_words_for_them(rng: np.random.Generator) -> None:
    """Generated sounds that anybody would name the same way."""
    times = np.arange(3 * RATE) / RATE
    sounds = {
        "white noise": rng.standard_normal(len(times)) / 5,
        "a clock ticking": (times % 0.5 < 0.002) * rng.standard_normal(len(times)) * 0.8,
        "telephone": (times % 1.5 < 1) * sum(np.sin(2 * np.pi * f * times) for f in (440, 480)) / 4,
        "piano": sum(
            np.sin(2 * np.pi * 220 * k * times) / k * np.exp(-3 * k**0.5 * (times % 1))
            for k in range(1, 8)
        ) * 0.3,
    }  # fmt: skip
    others = ["dog barking", "speech", "car horn", "applause"]
    model = load_model("base")
    ears, words = model.encoder(Modality.AUDIO), model.encoder(Modality.TEXT)
    heard = ears.encode([ears.prepare(one.astype(np.float32))[0] for one in sounds.values()])
    read = words.encode([words.prepare(name)[0] for name in [*sounds, *others]])
    assert (heard @ read.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
