"""Sounds: bytes → mono at 16 kHz.

Whatever libsndfile reads: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, … of any rate and number of
channels. Channels are averaged and the rate is converted by soxr at high quality. The file is
decoded in blocks and the limit on seconds holds while it is, so that a header that claims too
much, or a file that decodes to more than it says, cannot ask for all memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import UnreadableFile

__all__ = ["MAX_SECONDS", "SAMPLE_RATE", "decode_audio"]

SAMPLE_RATE = 16_000  # Hz: what every sound encoder here hears
MAX_SECONDS = 3_600.0  # 230 MB as float32
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; a header outside is forged or no sound
MAX_CHANNELS = 64
BLOCK_SECONDS = 10


def decode_audio(
    data: bytes, name: str | Path, *, max_seconds: float = MAX_SECONDS
) -> NDArray[np.float32]:
    """Return a sound as mono float32 samples in [-1, 1] at 16 kHz.

    Args:
        data: The file's content.
        name: What to call it in an error.
        max_seconds: How long it may be.

    Raises:
        UnreadableFile: No sound, a damaged, empty or silent-by-error (NaN) one, or too long.
    """
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_header(file, name)
            samples = np.concatenate(list(_mono_blocks(file, name, max_seconds)))
            rate, declared = file.samplerate, file.frames
    except UnreadableFile:
        raise
    except soundfile.LibsndfileError as error:
        raise UnreadableFile(
            f"{name}: no sound that can be read ({error.error_string.strip()})",
            hint="convert it to WAV, FLAC, OGG or MP3",
        ) from error
    except (ValueError, RuntimeError, MemoryError) as error:
        raise UnreadableFile(
            f"{name}: damaged or empty sound ({error})", hint="replace it by a whole copy"
        ) from error
    # A compressed file may say a little more than it holds; half of it missing is a torn file.
    if 0 < declared < 2**62 and len(samples) < 0.5 * declared:
        raise UnreadableFile(
            f"{name}: truncated: {len(samples)} of {declared} samples",
            hint="replace it by a whole copy",
        )
    return np.clip(_resample(samples, rate), -1, 1)


def _check_header(file: Any, name: str | Path) -> None:
    if not MIN_RATE <= file.samplerate <= MAX_RATE or not 1 <= file.channels <= MAX_CHANNELS:
        raise UnreadableFile(
            f"{name}: a sound of {file.channels} channels at {file.samplerate} Hz",
            hint="convert it to mono or stereo at a usual rate",
        )


def _mono_blocks(file: Any, name: str | Path, max_seconds: float) -> Iterator[NDArray[np.float32]]:
    limit = int(max_seconds * file.samplerate)
    total = 0
    while True:
        block = file.read(BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True)
        if not len(block):
            break
        total += len(block)
        if total > limit:
            raise UnreadableFile(
                f"{name}: longer than the limit of {max_seconds:g} seconds",
                hint="cut it, or raise --max-seconds",
            )
        mono = block.mean(axis=1)
        if not np.isfinite(mono).all():
            raise UnreadableFile(f"{name}: holds samples that are no numbers", hint="replace it")
        yield mono
    if not total:
        raise UnreadableFile(f"{name}: a sound without samples", hint="replace or remove it")


def _resample(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    if rate == SAMPLE_RATE:
        return samples
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    # Fewer samples than the filter needs give none; a click is still a sound.
    return resampled if len(resampled) else np.zeros(1, np.float32)
