"""Sounds of every kind become mono at 16 kHz; the others are refused with a reason."""

from __future__ import annotations

import io
import resource
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from muomni_search.errors import UnreadableFile
from muomni_search.ingest import audio
from muomni_search.ingest.audio import SAMPLE_RATE, decode_audio
from muomni_search.ingest.read import Limits, decode, read_content, read_file
from muomni_search.items import Modality

TONE = 440.0  # Hz


def tone(rate: int, seconds: float = 1.0, channels: int = 1) -> NDArray[np.float64]:
    """Return a tone (frames, channels); the channels differ in loudness, 0.5 on average."""
    samples = np.sin(2 * np.pi * TONE * np.arange(round(rate * seconds)) / rate)
    loudness = 0.5 * (1 + 0.2 * np.linspace(-1, 1, channels)) if channels > 1 else np.array([0.5])
    return samples[:, None] * loudness


def encoded(samples: NDArray[Any], rate: int, kind: str = "WAV", **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


def wav(frames: bytes, *, code: int = 3, bits: int = 32, rate: int = 16_000, **lies: int) -> bytes:
    """Return a mono WAV made by hand: IEEE floats (code 3) or integers (1); lengths may lie."""
    width = bits // 8
    head = struct.pack("<HHIIHH", code, 1, rate, rate * width % 2**32, width, bits)
    data = struct.pack("<I", lies.get("data", len(frames))) + frames
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + data
    return b"RIFF" + struct.pack("<I", lies.get("riff", len(body))) + body


def pitch(samples: NDArray[np.float32]) -> float:
    """Return the dominant frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * SAMPLE_RATE / len(samples))


def check_tone(samples: NDArray[np.float32], seconds: float = 1.0, *, slack: int = 1) -> None:
    """Check that this is the tone at half loudness, as long as it was."""
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    assert abs(len(samples) - SAMPLE_RATE * seconds) <= slack
    assert pitch(samples) == pytest.approx(TONE, abs=1.5 / seconds)
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    assert np.sqrt(2 * np.mean(middle.astype(np.float64) ** 2)) == pytest.approx(0.5, rel=0.03)
    assert np.abs(samples).max() <= 1


# ---- kinds of sounds -------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF"])
def test_lossless_sounds_keep_length_and_pitch(kind: str, channels: int, rate: int) -> None:
    check_tone(decode_audio(encoded(tone(rate, channels=channels), rate, kind), "x"))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        *[("OGG", "VORBIS", rate) for rate in (8_000, 16_000, 44_100, 48_000)],
        *[("OGG", "OPUS", rate) for rate in (8_000, 16_000, 48_000)],
        *[("MP3", "MPEG_LAYER_III", rate) for rate in (8_000, 16_000, 22_050, 44_100, 48_000)],
    ],
)
def test_compressed_sounds_keep_length_and_pitch(
    kind: str, subtype: str, rate: int, channels: int
) -> None:
    data = encoded(tone(rate, 2, channels), rate, kind, subtype=subtype)
    # MP3 has whole frames of up to 1152 samples; Opus begins with a little silence.
    check_tone(decode_audio(data, "x"), 2, slack=2400 if kind == "MP3" else 400)


@pytest.mark.parametrize(
    "subtype",
    ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM"],
)
def test_samples_of_any_width_are_read(subtype: str) -> None:
    samples = decode_audio(encoded(tone(16_000), 16_000, subtype=subtype), "x")
    check_tone(samples, slack=2048 if "ADPCM" in subtype else 0)
    steps = {"PCM_U8": 1 / 128, "ULAW": 0.02, "ALAW": 0.02, "IMA_ADPCM": 0.1}
    start = 100 if "ADPCM" in subtype else 0  # its step begins small and follows the sound
    error = samples[start:16_000] - tone(16_000)[start:, 0]
    assert np.abs(error).max() <= steps.get(subtype, 1 / 32_768)


def test_channels_are_averaged(rng: np.random.Generator) -> None:
    samples = rng.uniform(-1, 1, (1_000, 4)).astype(np.float32)
    found = decode_audio(encoded(samples, 16_000, subtype="FLOAT"), "x")
    assert np.allclose(found, samples.mean(axis=1), atol=1e-6)
    against = np.stack([samples[:, 0], -samples[:, 0]], axis=1)
    assert not decode_audio(encoded(against, 16_000, subtype="FLOAT"), "x").any()


def test_what_lies_above_half_the_new_rate_does_not_fold_back() -> None:
    times = np.arange(48_000) / 48_000
    high = decode_audio(encoded(0.5 * np.sin(2 * np.pi * 12_000 * times), 48_000), "x")
    assert np.abs(high[100:-100]).max() < 1e-3


def test_a_sound_converted_in_blocks_is_the_one_converted_at_once(rng: np.random.Generator) -> None:
    import soxr

    samples = rng.uniform(-0.5, 0.5, 1_500_000).astype(np.float32)  # more than one block
    found = decode_audio(encoded(samples, 44_100, subtype="FLOAT"), "x")
    assert np.array_equal(found, soxr.resample(samples, 44_100, SAMPLE_RATE, quality="HQ"))


@pytest.mark.parametrize("rate", [1_000, 8_000, 44_100, 768_000])
def test_a_click_is_still_a_sound(rate: int) -> None:
    for frames in (1, 2, 10):
        samples = decode_audio(encoded(np.full(frames, 0.5), rate), "x")
        assert len(samples) >= 1
        assert np.isfinite(samples).all()


def test_loud_floats_are_clipped(rng: np.random.Generator) -> None:
    for loudness in (2.0, 1e5, 3e38):
        for rate in (16_000, 44_100):
            samples = (loudness * rng.uniform(-1, 1, (5_000, 2))).astype(np.float32)
            samples[:2] = loudness  # whose sum may be more than there is
            found = decode_audio(encoded(samples, rate, subtype="FLOAT"), "x")
            assert np.isfinite(found).all()
            assert np.abs(found).max() <= 1


# ---- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_samples_that_are_no_numbers_are_refused(bad: float, channels: int) -> None:
    samples = tone(44_100, channels=channels)
    samples[30_000] = bad
    samples[30_000, -1] *= -1  # as a sum of both, no number at all
    with pytest.raises(UnreadableFile, match=r"x\.wav: holds samples that are no numbers"):
        decode_audio(encoded(samples, 44_100, subtype="FLOAT"), "x.wav")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF"])
def test_a_sound_without_samples_is_refused(kind: str) -> None:
    with pytest.raises(UnreadableFile, match=r"x: .*(without samples|no sound|empty|damaged)"):
        decode_audio(encoded(np.zeros((0, 1)), 16_000, kind), "x")


@pytest.mark.parametrize(
    "data", [b"", bytes(100), b"no sound", b"RIFF", b"fLaC", b"OggS\0", b"ID3"]
)
def test_what_is_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(UnreadableFile, match=r"x\.wav: "):
        decode(Modality.AUDIO, data, "x.wav", Limits())


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "AIFF"])
def test_a_sound_of_which_most_is_missing_is_refused(kind: str, rng: np.random.Generator) -> None:
    data = encoded(rng.uniform(-0.5, 0.5, (48_000, 1)), 16_000, kind)
    with pytest.raises(UnreadableFile, match=r"x: ") as caught:
        decode_audio(data[: len(data) // 4], "x")
    assert caught.value.hint


@pytest.mark.parametrize("percent", [50, 70, 90])
@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("MP3", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("WAV", None), ("AIFF", None)],
)
def test_a_sound_that_was_cut_is_told_to_be_truncated(
    kind: str, subtype: str | None, percent: int, rng: np.random.Generator
) -> None:
    data = encoded(rng.uniform(-0.5, 0.5, 5 * 48_000), 48_000, kind, subtype=subtype)
    assert len(decode_audio(data, "x")) >= 5 * SAMPLE_RATE
    with pytest.raises(UnreadableFile, match=r"x: (truncated|damaged)") as caught:
        decode_audio(data[: len(data) * percent // 100], "x")
    assert "whole copy" in caught.value.hint


@pytest.mark.parametrize("percent", [50, 70, 90])
def test_a_flac_that_was_cut_is_refused(percent: int, rng: np.random.Generator) -> None:
    data = encoded(rng.uniform(-0.5, 0.5, 5 * 48_000), 48_000, "FLAC")
    with pytest.raises(UnreadableFile, match="x: "):
        decode_audio(data[: len(data) * percent // 100], "x")


def test_a_length_that_nobody_knew_when_it_was_written_is_no_lie() -> None:
    frames = tone(16_000).astype("<f4").tobytes()
    for unknown in (0xFFFFFFFF, 0x7FFFFFFF, 0x80000000):
        check_tone(decode_audio(wav(frames, riff=unknown, data=unknown), "x"))


def test_a_header_that_says_too_much_gives_what_is_there_or_a_reason() -> None:
    frames = tone(16_000).astype("<f4").tobytes()
    check_tone(decode_audio(wav(frames, data=len(frames) + 1_000), "x"))
    with pytest.raises(UnreadableFile, match=r"x: truncated: 64044 of 10000008 bytes"):
        decode_audio(wav(frames, riff=10_000_000, data=9_999_964), "x")


def test_a_flac_that_says_it_is_endless_is_refused_before_it_is_decoded() -> None:
    data = bytearray(encoded(tone(16_000), 16_000, "FLAC"))
    data[21] |= 0x0F  # the 36 bits that count its samples
    data[22:26] = b"\xff" * 4
    with pytest.raises(UnreadableFile, match="longer than the limit of 3600 seconds"):
        decode_audio(bytes(data), "x")


def test_a_flac_that_says_it_is_longer_is_truncated() -> None:
    data = bytearray(encoded(tone(16_000), 16_000, "FLAC"))
    data[22:26] = (100_000).to_bytes(4, "big")
    with pytest.raises(UnreadableFile, match=r"x: .*(truncated|damaged|no sound)"):
        decode_audio(bytes(data), "x")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_the_limit_on_seconds_is_the_one_asked_for(kind: str) -> None:
    data = encoded(tone(16_000, 2), 16_000, kind)
    assert len(decode_audio(data, "x", max_seconds=2.2)) >= 32_000
    with pytest.raises(UnreadableFile, match=r"x: longer than the limit of 1\.5 seconds"):
        decode_audio(data, "x", max_seconds=1.5)


def test_a_sound_that_is_too_long_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    # Two hours of silence at 48 kHz: 1.4 GB as samples, a few MB in the file.
    path = tmp_path / "silence.flac"
    with soundfile.SoundFile(path, "w", 48_000, 1, format="FLAC") as file:
        for _ in range(2 * 60):
            file.write(np.zeros(48_000 * 60, np.int16))
    data = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableFile, match="longer than the limit of 3600 seconds"):
        decode_audio(data, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_a_header_of_an_absurd_rate_is_refused() -> None:
    for rate in (1, 999, 2_000_000_000):
        with pytest.raises(UnreadableFile, match=r"x: "):
            decode_audio(wav(bytes(400), rate=rate), "x")


def test_the_limit_on_bytes_holds_before_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(encoded(tone(16_000), 16_000))
    size = path.stat().st_size
    assert len(read_file(Modality.AUDIO, path, Limits(max_bytes=size))) == size
    with pytest.raises(UnreadableFile, match=f"{size} bytes, more than the limit of {size - 1}"):
        read_file(Modality.AUDIO, path, Limits(max_bytes=size - 1))
    check_tone(np.asarray(read_content(Modality.AUDIO, path)))


# ---- chance ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("WAV", {"subtype": "PCM_16"}),
        ("WAV", {"subtype": "FLOAT"}),
        ("WAV", {"subtype": "IMA_ADPCM"}),
        ("FLAC", {}),
        ("OGG", {"subtype": "VORBIS"}),
        ("OGG", {"subtype": "OPUS"}),
        ("MP3", {}),
        ("AIFF", {}),
    ],
)
def test_damage_gives_samples_or_our_error_and_nothing_else(
    kind: str,
    options: dict[str, str],
    rng: np.random.Generator,
    damage: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = encoded(rng.uniform(-0.5, 0.5, (2_000, 2)), 48_000, kind, **options)
    refused = 0
    for data in damage(whole):
        try:
            samples = decode_audio(data, "damaged", max_seconds=30)
        except UnreadableFile as error:
            refused += error.what.startswith("damaged: ") and "\n" not in error.what
            continue
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        assert 0 < len(samples) <= 31 * SAMPLE_RATE
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= 1
    assert refused > 5
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "" or kind == "MP3"  # its decoder has the last word, in C


def test_a_comment_is_no_count_of_frames() -> None:
    data = encoded(tone(16_000, 2), 16_000, "MP3")
    bare = data.replace(b"Xing", b"Xxxx").replace(b"Info", b"Xxxx")
    comment = b"Information"
    size = bytes([0, 0, 0, len(comment)])
    tagged = b"ID3\x04\x00\x00" + size + comment + bare
    for whole in (bare, tagged):
        assert not audio._counts_frames(whole)
        assert len(decode_audio(whole, "x")) > 0
    assert audio._counts_frames(data)
