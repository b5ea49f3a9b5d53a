"""Sounds: bytes → mono at 16 kHz.

Whatever libsndfile reads: WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF, … of any rate and number of
channels. Channels are averaged and the rate is converted by soxr at high quality. The file is
decoded and converted in blocks, and the limit on seconds holds before and while it is, so that
no header, nor a file that decodes to more than it says, can ask for all memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import UnreadableFile

__all__ = ["MAX_SECONDS", "SAMPLE_RATE", "decode_audio"]

SAMPLE_RATE = 16_000  # Hz: what every sound encoder here hears
MAX_SECONDS = 3_600.0  # 230 MB as float32
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz; a header outside is forged or no sound
MAX_CHANNELS = 64
BLOCK_SAMPLES = 1_000_000  # of all channels together: 4 MB
# A file that says how many frames it has says less than this; a container's length, less than that.
UNKNOWN_FRAMES, UNKNOWN_BYTES = 2**62, 0x7FFF0000
# Less of what was said is a torn file: encoders pad, and headers round.
WHOLE_SHARE = 0.95
OGG_HEAD, OGG_END = 27, 4  # the length of a page's header; the flag of a stream's last page
# In the first frame of an MP3: a header with the number of frames follows.
MP3_MARKS, MP3_FRAME = (b"Xing", b"Info", b"VBRI"), 200
# Floating-point samples may lie outside [-1, 1], but no sound gets this loud, and the resampler
# turns numbers at the end of the range into none.
LOUDEST = 1e6


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

    _check_container(data, name)
    try:
        with soundfile.SoundFile(_Tape(data)) as file:
            _check_header(file, name, max_seconds)
            is_counted = file.format != "MP3" or _counts_frames(data)
            blocks = _mono_blocks(file, name, max_seconds, is_counted=is_counted)
            samples = np.concatenate(list(_resampled(blocks, file.samplerate)))
            return np.clip(samples, -1, 1, out=samples)
    except UnreadableFile:
        raise
    except soundfile.LibsndfileError as error:
        reason = error.error_string.strip()
        if "lost sync" in reason:  # what libFLAC says of a file that ends too early
            raise _truncated(name, reason) from error
        raise UnreadableFile(
            f"{name}: no sound that can be read ({reason})",
            hint="convert it to WAV, FLAC, OGG or MP3",
        ) from error
    except (ValueError, RuntimeError, MemoryError) as error:
        raise UnreadableFile(
            f"{name}: damaged or empty sound ({error})", hint="replace it by a whole copy"
        ) from error


class _Tape(io.BytesIO):
    """Bytes in which a damaged header may seek before the first one: the position stays."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            # Raised, it would be printed by the callback that libsndfile reads through.
            return self.tell()


def _check_container(data: bytes, name: str | Path) -> None:
    """Refuse a WAV, AIFF or OGG of which a part is missing: libsndfile takes what is left.

    Who writes into a pipe does not know the length and says the largest one.
    """
    order: Literal["little", "big"] = "little" if data[:4] == b"RIFF" else "big"
    if data[:4] in (b"RIFF", b"RIFX", b"FORM"):
        length = int.from_bytes(data[4:8], order)
        if len(data) < WHOLE_SHARE * length and length < UNKNOWN_BYTES:
            raise _truncated(name, f"{len(data)} of {length + 8} bytes")
    if data[:4] == b"OggS":
        _check_last_page(data, name)


def _check_last_page(data: bytes, name: str | Path) -> None:
    """Refuse an OGG of which the last page is missing or torn (RFC 3533, section 6)."""
    last = data.rfind(b"OggS")
    head = data[last : last + OGG_HEAD]
    # How many segments the page has, and how long each of them is, stand at its beginning.
    lengths = data[last + OGG_HEAD : last + OGG_HEAD + head[-1]]
    end = last + OGG_HEAD + len(lengths) + sum(lengths)
    if len(head) < OGG_HEAD or len(lengths) < head[-1] or len(data) < end or not head[5] & OGG_END:
        raise _truncated(name, f"{len(data)} bytes, and no end of the stream")


def _counts_frames(data: bytes) -> bool:
    """Whether an MP3 says how many frames it has, in the first one behind its ID3 tag."""
    start = 0
    if data[:3] == b"ID3":
        # Four bytes of seven bits each (ID3v2.4, section 3.1).
        for byte in data[6:10]:
            start = start << 7 | byte & 0x7F
        start += 10
    return any(mark in data[start : start + MP3_FRAME] for mark in MP3_MARKS)


def _truncated(name: str | Path, rest: str) -> UnreadableFile:
    return UnreadableFile(f"{name}: truncated: {rest}", hint="replace it by a whole copy")


def _check_header(file: Any, name: str | Path, max_seconds: float) -> None:
    if not MIN_RATE <= file.samplerate <= MAX_RATE or not 1 <= file.channels <= MAX_CHANNELS:
        raise UnreadableFile(
            f"{name}: a sound of {file.channels} channels at {file.samplerate} Hz",
            hint="convert it to mono or stereo at a usual rate",
        )
    if max_seconds * file.samplerate < file.frames < UNKNOWN_FRAMES:
        raise _too_long(name, max_seconds)


def _too_long(name: str | Path, max_seconds: float) -> UnreadableFile:
    return UnreadableFile(
        f"{name}: longer than the limit of {max_seconds:g} seconds",
        hint="cut it, or raise the limit (--max-seconds of add and serve)",
    )


def _mono_blocks(
    file: Any, name: str | Path, max_seconds: float, *, is_counted: bool
) -> Iterator[NDArray[np.float32]]:
    total = 0
    while True:
        block = file.read(BLOCK_SAMPLES // file.channels, dtype="float32", always_2d=True)
        if not len(block):
            break
        total += len(block)
        if total > max_seconds * file.samplerate:
            raise _too_long(name, max_seconds)
        if not np.isfinite(block).all():
            raise UnreadableFile(f"{name}: holds samples that are no numbers", hint="replace it")
        yield np.clip(block, -LOUDEST, LOUDEST).mean(axis=1)
    if not total:
        raise UnreadableFile(f"{name}: a sound without samples", hint="replace or remove it")
    # An MP3 without a count of its frames lets only guess how long it is.
    if is_counted and total < WHOLE_SHARE * file.frames and file.frames < UNKNOWN_FRAMES:
        raise _truncated(name, f"{total} of {file.frames} samples")


def _resampled(blocks: Iterator[NDArray[np.float32]], rate: int) -> Iterator[NDArray[np.float32]]:
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, SAMPLE_RATE, num_channels=1, dtype="float32", quality="HQ")
    made = 0
    for block in blocks:
        resampled = stream.resample_chunk(block)
        made += len(resampled)
        yield resampled
    rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    # Fewer samples than the filter needs give none; a click is still a sound.
    yield rest if made or len(rest) else np.zeros(1, np.float32)
