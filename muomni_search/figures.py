"""What pages show of items: thumbnails, players, passages, or why there is nothing to show.

Pictures become small WebP data URIs, sounds short OGG ones. All files are read by the decoders of
``ingest``, within their limits, so a hostile file costs what it costs there; one that cannot be
shown leaves a placeholder that says why.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from muomni_search.errors import MuomniError, NotFound
from muomni_search.ingest.audio import SAMPLE_RATE
from muomni_search.ingest.read import Limits, decode, read_file
from muomni_search.items import Hit, Item, Modality, Part, Span

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "WAVE_BARS",
    "Figure",
    "Figures",
    "Passage",
    "Picture",
    "Placeholder",
    "Sound",
    "clip",
    "envelope",
    "facts",
    "file_of",
    "shrink",
    "strength",
]

THUMBNAIL_PIXELS = 320
SOUND_SECONDS = 30.0
# A longer sound is cut to where the hit lies, with so much before it.
LEAD_SECONDS = 2.0
WAVE_BARS = 96
PASSAGE_CHARACTERS = 700
CONTEXT_CHARACTERS = 120
METADATA_CHARACTERS = 300
# From here on a hit stands out as far as a bar can show.
FULL_SCORE = 6.0
# Browsers get slow on larger pages: 2,000 pictures or 300 sounds.
PAGE_BYTES = 64_000_000
# Each byte with its bits in the other order.
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail."""

    form: ClassVar[str] = "picture"
    uri: str
    width: int
    height: int
    is_cutout: bool


@dataclass(frozen=True, slots=True)
class Sound:
    """A player, the sound's envelope, and where in it the hit lies.

    Args:
        uri: The sound, to be played from the hit on.
        wave: The envelope as an SVG path, ``WAVE_BARS`` wide and 2 high.
        mark: Begin and width of the hit in the same measure, or None for the whole sound.
        told: Times for people: what plays, and where the hit lies.
    """

    form: ClassVar[str] = "sound"
    uri: str
    wave: str
    mark: tuple[float, float] | None
    told: str


@dataclass(frozen=True, slots=True)
class Passage:
    """A text: the passage that was found, and what stands around it."""

    form: ClassVar[str] = "passage"
    before: str
    passage: str
    after: str
    is_marked: bool


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Instead of a figure: why there is none."""

    form: ClassVar[str] = "placeholder"
    reason: str


Figure = Picture | Sound | Passage | Placeholder


class Figures:
    """Makes the figures of one page, until it is full.

    Args:
        pixels: The longer side of a thumbnail.
        seconds: How much of a sound plays.
        most_bytes: What all of them may take, a page's worth by default; from then on there are
            placeholders.
    """

    def __init__(
        self,
        *,
        pixels: int = THUMBNAIL_PIXELS,
        seconds: float = SOUND_SECONDS,
        most_bytes: int | None = None,
    ) -> None:
        self._pixels = pixels
        self._seconds = seconds
        self._bytes_left = PAGE_BYTES if most_bytes is None else most_bytes

    def of_part(self, part: Part) -> Figure:
        """Return what shows a part of a query."""
        value = part.value
        if part.kind == "text":
            return Passage("", clip(value, PASSAGE_CHARACTERS), "", is_marked=False)
        if part.kind == "vector":
            return Placeholder("a vector of 256 numbers")
        if part.kind != "id":
            return self.of_file(Modality(part.kind), str(Path(value).absolute()), None)
        if not isinstance(value, Item):
            return Placeholder("an item of the collection")
        return self._of_item(value.modality, value.source, value.text, None)

    def of_hit(self, hit: Hit) -> Figure:
        """Return what shows a hit."""
        return self._of_item(hit.modality, hit.source, hit.text, hit.span)

    def _of_item(
        self, modality: Modality, source: str | None, text: str | None, span: Span | None
    ) -> Figure:
        if modality != Modality.TEXT:
            return self.of_file(modality, source, span)
        return _passage(text, source, span) if text is not None else Placeholder("no text is kept")

    def of_file(self, modality: Modality, source: str | None, span: Span | None) -> Figure:
        """Return what shows a picture or a sound, or why nothing can."""
        try:
            path = file_of(source)
            if self._bytes_left <= 0:
                return Placeholder("not shown: the page is full")
            limits = Limits()
            content: Any = decode(modality, read_file(modality, path, limits), path, limits)
        except MuomniError as error:
            return Placeholder(f"not shown: {error.what}")
        figure = (
            _picture(content, self._pixels)
            if modality == Modality.IMAGE
            else _sound(content, span, self._seconds)
        )
        self._bytes_left -= len(figure.uri)
        return figure


def file_of(source: str | None) -> Path:
    """Return where the file of an item is: the one place that decides what may be opened.

    Raises:
        NotFound: It came without a file, or from elsewhere (a ready vector may name anything).
    """
    if source is None:
        raise NotFound("it came without a file")
    try:
        known = Path(source).is_absolute() and b"\0" not in source.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        known = False
    if not known:
        raise NotFound(f"{source}: no path of a file on this machine")
    return Path(source)


def shrink(pixels: NDArray[np.uint8], side: int) -> tuple[Image.Image, io.BytesIO]:
    """Return a picture whose longer side is ``side`` pixels at most, and it as WebP."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((side, side), reducing_gap=3.0)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=80)
    return image, data


def _picture(pixels: NDArray[np.uint8], side: int) -> Picture:
    image, data = shrink(pixels, side)
    is_cutout = image.mode == "RGBA"
    return Picture(_data_uri("image/webp", data), image.width, image.height, is_cutout)


def _sound(samples: NDArray[np.float32], span: Span | None, seconds: float) -> Sound:
    total = len(samples) / SAMPLE_RATE
    found = (span.start / 1000, span.end / 1000) if span and span.unit == "ms" else None
    begin, end = _window(total, found, seconds)
    clip = samples[int(begin * SAMPLE_RATE) : max(int(end * SAMPLE_RATE), 1)]
    uri = _data_uri("audio/ogg", _ogg(clip))
    digits = 1 if total >= 1 else 2
    told = f"{total:.{digits}f} s"
    if end - begin < total:
        told = f"{begin:.1f}–{end:.1f} of {told}"
    if found is None:
        return Sound(uri, _wave(clip), None, told)
    # The file may be shorter than it was.
    first, last = (min(max(time, begin), end) for time in found)
    bars = WAVE_BARS / (end - begin)
    return Sound(
        f"{uri}#t={first - begin:.2f}",
        _wave(clip),
        ((first - begin) * bars, max((last - first) * bars, 0.5)),
        f"{told}, found at {found[0]:.{digits}f}–{found[1]:.{digits}f} s",
    )


def _window(total: float, found: tuple[float, float] | None, seconds: float) -> tuple[float, float]:
    """Return from when to when a sound plays: all, its beginning, or around what was found."""
    begin = 0.0
    if found is not None and found[1] > seconds:
        begin = max(0.0, min(found[0] - LEAD_SECONDS, total - seconds))
    return begin, min(total, begin + seconds)


def _ogg(samples: NDArray[np.float32]) -> io.BytesIO:
    import soundfile

    data = io.BytesIO()
    with soundfile.SoundFile(
        data, "w", SAMPLE_RATE, channels=1, format="OGG", subtype="VORBIS"
    ) as file:
        # Vorbis as libsndfile 1.2 calls it takes stack by the length of a block.
        for start in range(0, len(samples), SAMPLE_RATE):
            file.write(samples[start : start + SAMPLE_RATE])
    _number_zero(data)
    return data


def _number_zero(stream: io.BytesIO) -> None:
    """Give an Ogg stream the serial number 0, so that the same sound has the same bytes.

    libsndfile draws the number at random. It stands in each page, and so counts in the page's
    checksum (RFC 3533, section 6): the CRC that zlib computes, but from the highest bit of a byte
    on, and without the inversions at both ends.
    """
    data = stream.getbuffer()
    start = 0
    while start < len(data):
        body = start + 27 + data[start + 26]  # behind the lengths of the page's segments
        end = body + sum(data[start + 27 : body])
        page = data[start:end]
        page[14:18] = page[22:26] = bytes(4)
        mirrored = zlib.crc32(bytes(page).translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        page[22:26] = mirrored.to_bytes(4, "big").translate(MIRRORED)
        start = end


def envelope(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how loud a sound is along its length: (``WAVE_BARS``,), 1 for its loudest part."""
    edges = np.linspace(0, len(samples), WAVE_BARS, endpoint=False).astype(int)
    peaks = np.maximum.reduceat(np.abs(samples), edges)
    return np.maximum(peaks / max(float(peaks.max()), 1e-3), 0.02)


def _wave(samples: NDArray[np.float32]) -> str:
    """Return the envelope of a sound as an SVG path of upright strokes around 1."""
    return "".join(
        f"M{bar}.5 {1 - height:.2f}V{1 + height:.2f}"
        for bar, height in enumerate(envelope(samples).tolist())
    )


def _passage(text: str, source: str | None, span: Span | None) -> Passage:
    """Return a text, or a passage with what stands around it where its file still tells."""
    if span is None or span.unit != "char":
        return Passage("", clip(text, PASSAGE_CHARACTERS), "", is_marked=False)
    before, after = "…" if span.start else "", ""
    whole = _whole_text(source)
    if whole is not None and whole[span.start : span.end] == text:
        before, after = whole[: span.start].lstrip(), whole[span.end :].rstrip()
        if len(before) > CONTEXT_CHARACTERS:
            # From the first whole word on.
            before = f"…{before[-CONTEXT_CHARACTERS:].partition(' ')[2]}"
        after = clip(after, CONTEXT_CHARACTERS)
    return Passage(before, clip(text, PASSAGE_CHARACTERS), after, is_marked=True)


def _whole_text(source: str | None) -> str | None:
    limits = Limits()
    try:
        path = file_of(source)
        data = read_file(Modality.TEXT, path, limits)
        return str(decode(Modality.TEXT, data, path, limits))
    except MuomniError:
        return None


def _data_uri(kind: str, data: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


# ---- words ----------------------------------------------------------------------------------


def facts(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return metadata as names and values for people."""
    told = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in metadata.items()
    ]
    return [(name, clip(value, METADATA_CHARACTERS)) for name, value in told]


def strength(score: float) -> float:
    """Return how much of a bar of 100 a score fills."""
    return round(100 * min(max(score / FULL_SCORE, 0.0), 1.0), 1)


def clip(text: str, length: int) -> str:
    """Return a text, or its beginning with an ellipsis."""
    return text if len(text) <= length else f"{text[:length].rstrip()}…"
