"""What a file is, by its first bytes."""

from __future__ import annotations

from pathlib import PurePath

from muomni_search.ingest.text import looks_like_text
from muomni_search.items import Modality

__all__ = ["HEAD_BYTES", "claimed_modality", "sniff"]

HEAD_BYTES = 4096

IMAGE_MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF87a",
    b"GIF89a",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"\0\0\x01\0",  # ICO
    b"8BPS",
)
AUDIO_MAGIC = (b"fLaC", b"OggS", b"ID3", b".snd", b"caff")
# The four letters at byte 8 of a RIFF or FORM container.
CONTAINERS = {
    b"WEBP": Modality.IMAGE,
    b"WAVE": Modality.AUDIO,
    b"AIFF": Modality.AUDIO,
    b"AIFC": Modality.AUDIO,
}
HEIF_BRANDS = (b"avif", b"avis")
SUFFIXES = {
    Modality.TEXT: {".txt", ".md", ".markdown", ".rst", ".text", ".adoc", ".asc", ".org", ".tex"},
    Modality.IMAGE: {
        *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ico", ".avif"),
    },
    Modality.AUDIO: {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"},
}


def sniff(name: str, head: bytes) -> Modality | None:
    """Return what a file is, or None when it is nothing that can be searched.

    Args:
        name: Its name: only a name of a text makes readable bytes a text, for much that is
            readable (code, tables, settings) is none.
        head: Its first ``HEAD_BYTES`` bytes.
    """
    if head.startswith(IMAGE_MAGIC) or (head.startswith(b"BM") and _is_bitmap(head)):
        return Modality.IMAGE
    if head.startswith(AUDIO_MAGIC) or _is_mpeg(head):
        return Modality.AUDIO
    if head[:4] in (b"RIFF", b"FORM", b"RF64"):
        return CONTAINERS.get(head[8:12])
    if head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS:
        return Modality.IMAGE
    if claimed_modality(name) == Modality.TEXT and head and looks_like_text(head):
        return Modality.TEXT
    return None


def claimed_modality(name: str) -> Modality | None:
    """Return what a file says it is by its name."""
    suffix = PurePath(name).suffix.lower()
    return next((modality for modality, own in SUFFIXES.items() if suffix in own), None)


def _is_bitmap(head: bytes) -> bool:
    # The size of the second header, at byte 14, is one of few numbers.
    return len(head) > 18 and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)


def _is_mpeg(head: bytes) -> bool:
    """Whether an MPEG audio frame begins here: sync, a layer, a bit rate and a sample rate."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return False
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rate, frequency = head[2] >> 4, head[2] >> 2 & 3
    return version != 1 and layer != 0 and rate not in (0, 15) and frequency != 3
