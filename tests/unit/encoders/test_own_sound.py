"""The own sound tower: its front end, its parts, and that sounds lie near their words."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from muomni_search.encoders.base import own_sound
from muomni_search.encoders.base.own_sound import OwnSoundEncoder
from muomni_search.encoders.model import load_model
from muomni_search.errors import CheckpointError
from muomni_search.items import DIM, Modality, Span

WEIGHTS = Path(own_sound.__file__).parent / "weights"
RATE = own_sound.SAMPLE_RATE


@pytest.fixture(scope="module")
def encoder() -> OwnSoundEncoder:
    return OwnSoundEncoder(
        WEIGHTS / "own_sound.onnx", WEIGHTS / "own_sound.head.npz", "own", threads=1
    )


def tone(hertz: float, seconds: float) -> np.ndarray:
    time = np.arange(round(RATE * seconds)) / RATE
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


@pytest.mark.parametrize("hertz", [200, 1000, 5000])
def test_a_tone_is_loudest_in_the_band_of_its_pitch(hertz: int) -> None:
    heard = own_sound.spectrogram(tone(hertz, 1)).mean(axis=0)
    top = 2595 * math.log10(1 + own_sound.MEL_HIGH_HZ / 700)
    place = 2595 * math.log10(1 + hertz / 700) / top * (own_sound.MEL_BANDS + 1) - 1
    assert abs(int(heard.argmax()) - place) <= 1


def test_bands_above_8_khz_are_empty(rng: np.random.Generator) -> None:
    heard = own_sound.spectrogram(rng.standard_normal(RATE).astype(np.float32))
    assert heard[:, own_sound.HEARD_BANDS + 2 :].max() == 0
    assert heard[:, : own_sound.HEARD_BANDS].min() > 0


def test_loudness_does_not_matter() -> None:
    loud = own_sound.spectrogram(tone(440, 1))
    assert np.allclose(own_sound.spectrogram(tone(440, 1) * np.float32(0.1)), loud, atol=1e-3)


@pytest.mark.parametrize(("seconds", "count"), [(0.1, 1), (4, 1), (4.5, 2), (8, 2), (10, 3)])
def test_parts_of_4_s_cover_a_segment(seconds: float, count: int) -> None:
    samples = np.arange(round(seconds * RATE), dtype=np.float32)
    found = own_sound.parts(samples)
    assert len(found) == count
    assert set(np.concatenate(found)) == set(samples)


@pytest.mark.parametrize("samples", [1, 2, 371, 372, 400, 5000, 12 * RATE, 20 * RATE])
@pytest.mark.parametrize("level", [0.0, 1e-8, 1.0])
def test_any_sound_gives_unit_rows(encoder: OwnSoundEncoder, samples: int, level: float) -> None:
    wave = np.random.default_rng(samples).standard_normal(samples).astype(np.float32) * level
    vectors = encoder.encode(encoder.prepare(wave.astype(np.float32)))
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_long_sound_becomes_windows(encoder: OwnSoundEncoder) -> None:
    pieces = encoder.prepare(tone(440, 20))
    spans = [(0, 10_000), (8000, 18_000), (10_000, 20_000)]
    assert [piece.span for piece in pieces] == [Span("ms", *span) for span in spans]


def test_a_batch_changes_nothing(encoder: OwnSoundEncoder, rng: np.random.Generator) -> None:
    waves = [rng.standard_normal(n).astype(np.float32) for n in (3000, 70_000, 160_000)]
    pieces = [piece for wave in waves for piece in encoder.prepare(wave)]
    alone = np.concatenate([encoder.encode([piece]) for piece in pieces])
    assert np.allclose(encoder.encode(pieces), alone, atol=1e-6)  # products round by their shape
    assert encoder.encode([]).shape == (0, DIM)


def test_sounds_are_near_the_words_for_them(encoder: OwnSoundEncoder) -> None:
    text = load_model("base").encoder(Modality.TEXT)
    names = ["white noise", "sine wave tone", "man speaking", "dog barking"]
    words = text.encode([text.prepare(name)[0] for name in names])
    noise = np.random.default_rng(5).standard_normal(2 * RATE).astype(np.float32) * 0.2
    sounds = encoder.encode([encoder.prepare(one)[0] for one in (noise, tone(700, 2))])
    assert (sounds @ words.T).argmax(axis=1).tolist() == [0, 1]


def test_a_foreign_head_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", mean=np.zeros(3))
    with pytest.raises(CheckpointError):
        OwnSoundEncoder(WEIGHTS / "own_sound.onnx", tmp_path / "head.npz", "own", threads=1)
