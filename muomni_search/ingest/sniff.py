"""What a file is, by its first bytes; and what it says it is, by its name."""

from __future__ import annotations

import os

from muomni_search.ingest.text import looks_like_text
from muomni_search.items import Modality

__all__ = ["HEAD_BYTES", "claimed_modality", "media_type", "sniff"]

HEAD_BYTES = 4096

IMAGE_MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF, and BigTIFF
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"8BPS\0\1",  # Photoshop
)
AUDIO_MAGIC = (b"fLaC", b"OggS\0", b".snd\0", b"caff\0\1", b"riff\x2e\x91\xcf\x11")
# The four letters at byte 8 of a RIFF, RIFX, RF64 or FORM container.
CONTAINERS = {
    b"WEBP": Modality.IMAGE,
    b"WAVE": Modality.AUDIO,
    b"AIFF": Modality.AUDIO,
    b"AIFC": Modality.AUDIO,
}
AVIF_BRANDS = (b"avif", b"avis")
# The sizes that the second header of a bitmap can have.
BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
# The last ones of pictures and sounds cannot be read here: a user should hear of such a file.
SUFFIXES = {
    Modality.TEXT: ".txt .text .md .markdown .mkd .rst .adoc .asciidoc .asc .org .tex",
    Modality.IMAGE: ".png .jpg .jpeg .jpe .gif .webp .bmp .tif .tiff .ico .avif .heic .heif .jxl",
    Modality.AUDIO: ".wav .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .caf .m4a .aac .wma",
}
CLAIMS = {
    suffix: modality for modality, suffixes in SUFFIXES.items() for suffix in suffixes.split()
}


def sniff(head: bytes) -> Modality | None:
    """Return what a file is, or None when it is no text, picture or sound.

    Args:
        head: Its first ``HEAD_BYTES`` bytes.
    """
    # Texts first: "GIF89a" may well begin one, but no picture or sound passes for a text.
    if looks_like_text(head):
        return Modality.TEXT
    if head.startswith(IMAGE_MAGIC) or _is_bitmap(head) or _is_icon(head):
        return Modality.IMAGE
    if head.startswith(AUDIO_MAGIC) or _is_mpeg(head):
        return Modality.AUDIO
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return CONTAINERS.get(head[8:12])
    if head[4:8] == b"ftyp" and head[8:12] in AVIF_BRANDS:
        return Modality.IMAGE
    return None


# What begins so is told to browsers as this; the containers by the four letters at byte 8.
MEDIA_TYPES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"\0\0\1\0", "image/x-icon"),
    (b"fLaC", "audio/flac"),
    (b"OggS\0", "audio/ogg"),
)
CONTAINED_TYPES = {
    b"WEBP": "image/webp",
    b"WAVE": "audio/wav",
    b"AIFF": "audio/aiff",
    b"AIFC": "audio/aiff",
    b"avif": "image/avif",
    b"avis": "image/avif",
}


def media_type(head: bytes) -> str | None:
    """Return the media type of a picture or sound; None when it is neither.

    Args:
        head: Its first ``HEAD_BYTES`` bytes.
    """
    modality = sniff(head)
    if modality is None or modality == Modality.TEXT:
        return None
    for magic, name in MEDIA_TYPES:
        if head.startswith(magic) and name.startswith(str(modality)):
            return name
    if _is_mpeg(head):
        return "audio/mpeg"
    return CONTAINED_TYPES.get(head[8:12], f"{modality}/octet-stream")


def claimed_modality(name: str) -> Modality | None:
    """Return what a file says it is by its name."""
    return CLAIMS.get(os.path.splitext(name)[1].lower())  # noqa: PTH122  (a tenth of pathlib's time)


def _is_bitmap(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BITMAP_HEADERS


def _is_icon(head: bytes) -> bool:
    """Whether this is an icon: a count of pictures, then the first one with its reserved zero."""
    return head[:4] == b"\0\0\1\0" and head[4:6] != b"\0\0" and head[9:10] == b"\0"


def _is_mpeg(head: bytes) -> bool:
    """Whether MPEG audio begins here: an ID3 tag, or a frame of layer II or III.

    Layer I, which nobody uses, begins like UTF-16 does; some encoders put zeros in front.
    """
    if head[:3] == b"ID3":
        return 2 <= int.from_bytes(head[3:4], "big") <= 4
    frame = head.lstrip(b"\0")[:3]
    if len(frame) < 3 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return False
    version, layer = frame[1] >> 3 & 3, frame[1] >> 1 & 3
    rate, frequency = frame[2] >> 4, frame[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and rate not in (0, 15) and frequency != 3
