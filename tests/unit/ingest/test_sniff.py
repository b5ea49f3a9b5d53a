"""The first bytes of a file say what it is, and its name says what it claims to be."""

from __future__ import annotations

import codecs
import io
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from muomni_search.ingest.read import Limits, decode
from muomni_search.ingest.sniff import HEAD_BYTES, claimed_modality, sniff
from muomni_search.items import Modality


def picture(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, kind, **options)
    return file.getvalue()


def sound(kind: str, subtype: str, rate: int = 16_000, **options: Any) -> bytes:
    file = io.BytesIO()
    samples = np.sin(np.arange(4_000))
    soundfile.write(file, samples, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


# ---- real files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *[(kind, {}) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "ICO", "AVIF")],
        ("TIFF", {"big_tiff": True}),
        ("GIF", {"save_all": True, "append_images": [Image.new("RGB", (16, 16), "red")]}),
        ("AVIF", {"save_all": True, "append_images": [Image.new("RGB", (16, 16), "red")]}),
        ("ICO", {"bitmap_format": "bmp"}),
    ],
)
def test_a_picture_is_known_by_its_content(kind: str, options: dict[str, Any]) -> None:
    data = picture(kind, **options)
    assert sniff(data[:HEAD_BYTES]) == Modality.IMAGE
    decode(Modality.IMAGE, data, "x", Limits())  # what is called a picture can be read as one


@pytest.mark.parametrize(
    ("kind", "subtype", "options"),
    [
        ("WAV", "PCM_16", {}),
        ("WAV", "PCM_16", {"endian": "BIG"}),  # RIFX
        ("RF64", "PCM_16", {}),
        ("W64", "PCM_16", {}),
        ("AIFF", "PCM_16", {}),
        ("AIFF", "ULAW", {}),  # AIFC
        ("AU", "PCM_16", {}),
        ("CAF", "PCM_16", {}),
        ("FLAC", "PCM_16", {}),
        ("OGG", "VORBIS", {}),
        ("OGG", "OPUS", {}),
        *[("MP3", "MPEG_LAYER_III", {"rate": rate}) for rate in (8_000, 16_000, 44_100, 48_000)],
    ],
)
def test_a_sound_is_known_by_its_content(kind: str, subtype: str, options: dict[str, Any]) -> None:
    data = sound(kind, subtype, **options)
    assert sniff(data[:HEAD_BYTES]) == Modality.AUDIO
    decode(Modality.AUDIO, data, "x", Limits())  # what is called a sound can be read as one


@pytest.mark.parametrize("padding", [0, 1, 417, 2_000])
def test_an_mp3_may_begin_with_silence_or_with_a_tag(padding: int) -> None:
    frames = sound("MP3", "MPEG_LAYER_III")
    start = next(at for at in range(len(frames)) if frames[at] == 0xFF and frames[at + 1] >= 0xE0)
    assert sniff(bytes(padding) + frames[start : start + 100]) == Modality.AUDIO
    for version in (2, 3, 4):
        assert sniff(b"ID3" + bytes([version, 0, 0, 0, 0, 2, 1]) + bytes(padding)) == "audio"


# ---- heads made by hand ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "modality"),
    [
        (b"GIF87a\1\0\1\0\0\0\0", "image"),
        (b"GIF89a\1\0\1\0\0\0\0", "image"),
        (b"MM\0*\0\0\0\x08", "image"),
        (b"MM\0+\0\x08\0\0", "image"),
        (b"8BPS\0\1\0\0", "image"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "image"),
        (b"\0\0\0\x20ftypavis\0\0\0\0", "image"),
        (b"RIFF\1\0\0\0WEBPVP8 ", "image"),
        (b"RIFF\1\0\0\0WAVEfmt ", "audio"),
        (b"FORM\0\0\0\1AIFCFVER", "audio"),
        (b"OggS\0\2\0\0", "audio"),
        # Others of their family, and what merely begins like a picture or a sound.
        (b"", None),
        (bytes(4_096), None),
        (b"\xff", None),
        (b"\xff\xfb", None),
        (b"8BPS\0\2\0\0", None),
        (b"BM" + bytes(100), None),
        (b"\0\0\2\0\1\0\x10\x10\0\0", None),  # a pointer
        (b"\0\0\1\0\0\0\x10\x10\0\0", None),  # an icon of no pictures
        (b"\0\0\1\0\1\0\x10\x10\0\1", None),
        (b"\0\0\1\xba\x21\0\1\0\1\0", None),  # an MPEG film
        (b"\0\0\0\x20ftypheic\0\0\0\0", None),
        (b"\0\0\0\x20ftypisom\0\0\0\0", None),
        (b"RIFF\1\0\0\0AVI LIST", None),
        (b"FORM\0\0\0\1ILBMBMHD", None),
        (b"XXXX\1\0\0\0WAVEfmt ", None),
        (b"ID3\1\0\0", None),
        (b"ID3\5\0\0", None),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", None),
        (b"PK\3\4\x14\0\0\0", None),
        (b"\x7fELF\2\1\1\0", None),
        (b"\x1f\x8b\x08\0", None),
        (b"\x93NUMPY\1\0", None),
        (b"SQLite format 3\0", None),
    ],
)
def test_a_head_says_what_the_file_is(head: bytes, modality: str | None) -> None:
    assert sniff(head) == modality


@pytest.mark.parametrize("size", [12, 40, 52, 56, 64, 108, 124, 13, 0])
def test_a_bitmap_has_a_header_of_a_size_that_there_is(size: int) -> None:
    head = b"BM" + bytes(12) + size.to_bytes(4, "little") + bytes(8)
    assert sniff(head) == (Modality.IMAGE if size not in (0, 13) else None)


def test_a_frame_of_mpeg_audio_has_only_values_that_there_are() -> None:
    found = {
        (version, layer, rate, frequency)
        for version in range(4)
        for layer in range(4)
        for rate in range(16)
        for frequency in range(4)
        if sniff(bytes([0xFF, 0xE1 | version << 3 | layer << 1, rate << 4 | frequency << 2, 0]))
    }
    # Version 1 and layer 0 are reserved, layer 3 is the first, which begins as UTF-16 does.
    assert found == {
        (version, layer, rate, frequency)
        for version in (0, 2, 3)
        for layer in (1, 2)
        for rate in range(1, 15)
        for frequency in range(3)
    }
    assert sniff(b"\xff\xdb\x90\0") is None  # a bit of the mark at its beginning is missing


# ---- texts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "start", ["GIF89a", "BM", "ID3", "RIFF____WAVE", "fLaC", "FORM____AIFF", "....ftypavif", "%PDF"]
)
def test_a_text_may_begin_like_something_else(start: str) -> None:
    assert sniff(f"{start} is how such a file begins.".encode()) == Modality.TEXT


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("shift", range(4))
def test_a_text_may_be_cut_within_a_character(encoding: str, shift: int) -> None:
    head = ("x" * shift + "🦉" * HEAD_BYTES).encode(encoding)[:HEAD_BYTES]
    assert sniff(head) == Modality.TEXT


@pytest.mark.parametrize("bom", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_byte_order_mark_alone_is_no_text(bom: bytes) -> None:
    assert sniff(bom) is None


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffixes", "modality"),
    [
        (".txt .text .md .markdown .mkd .rst .adoc .asciidoc .asc .org .tex", "text"),
        (".png .jpg .jpeg .jpe .gif .webp .bmp .tif .tiff .ico .avif .heic .heif .jxl", "image"),
        (".wav .flac .ogg .oga .opus .mp3 .aiff .aif .aifc .au .caf .m4a .aac .wma", "audio"),
        (".py .html .json .jsonl .csv .parquet .npy .pdf .zip .mp4 .log .t .txt~ .", None),
    ],
)
def test_a_name_claims_by_its_suffix_in_any_case(suffixes: str, modality: str | None) -> None:
    for suffix in suffixes.split():
        for name in (f"a{suffix}", f"a.b{suffix.upper()}", f"a.png.txt.wav{suffix}", f"ä{suffix}"):
            assert claimed_modality(name) == modality, name


@pytest.mark.parametrize("name", ["", "txt", "a", ".txt", "..png", "a.txt.", "a.txt ", "a.txt/b"])
def test_a_name_without_a_suffix_claims_nothing(name: str) -> None:
    assert claimed_modality(name) is None
