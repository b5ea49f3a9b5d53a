"""Texts are UTF-8, or UTF-16 that says so; nothing else is guessed at."""

from __future__ import annotations

import codecs

import numpy as np
import pytest

from muomni_search.errors import UnreadableFile
from muomni_search.ingest.text import decode_text, looks_like_text

TEXT = "Grüße, 世界!\r\n\tDie Eule \x1b[1m🦉\x1b[0m ruft.\n"
BOMS = {
    "utf-8": b"",
    "utf-8-sig": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
}


def encoded(text: str, encoding: str) -> bytes:
    return BOMS[encoding] + text.encode(encoding.removesuffix("-sig"))


@pytest.mark.parametrize("encoding", BOMS)
@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        "a",
        "  a\n\n",  # as it is: a span counts these too
        "a\rb\r\nc\u2028d\x0b\x0c",
        "e\u0301",  # not composed
        "\ufeffa",  # a second mark is part of the text
        "a\ufeffb",
        "\x7f\x80\x9f\ufffd\ufffe",
        TEXT * 1_000,
    ],
)
def test_a_text_is_kept_unchanged_but_for_its_byte_order_mark(text: str, encoding: str) -> None:
    if encoding == "utf-8" and text.startswith("\ufeff"):
        text = "\ufeff" + text  # the first is the mark
        assert decode_text(encoded(text, encoding), "x") == text[1:]
        return
    assert decode_text(encoded(text, encoding), "x") == text
    assert looks_like_text(encoded(text, encoding)[:4_096])


@pytest.mark.parametrize("encoding", BOMS)
def test_texts_by_chance_come_back(encoding: str, rng: np.random.Generator) -> None:
    for _ in range(50):
        points = rng.integers(0x20, 0x11_0000, 40) >> rng.integers(0, 14, 40)
        text = "".join(chr(p) for p in points if p >= 0x20 and not 0xD800 <= p < 0xE000) + "."
        assert decode_text(encoded("<" + text, encoding), "x") == "<" + text


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("fünf Wörter".encode("latin-1"), 1),
        ("“so”".encode("cp1252"), 0),
        ("価格".encode("shift_jis"), 0),
        ("привет".encode("koi8-r"), 0),
        (b"ok\xc3", 2),  # cut within a character
        (b"ok\xc0\xaf", 2),  # longer than needed, the old way round a check
        (b"ok\xed\xa0\xbd", 2),  # half a pair
        (b"ok\xf4\x90\x80\x80", 2),  # beyond the last character
        (codecs.BOM_UTF16_LE + b"a\0b", 4),  # half a unit
        (codecs.BOM_UTF16_LE + b"a\0\x3d\xd8", 4),  # half a pair
        (codecs.BOM_UTF16_BE + b"\0a\xdc\0\0b", 4),
    ],
)
def test_another_encoding_is_refused_and_said_where(data: bytes, place: int) -> None:
    with pytest.raises(UnreadableFile) as caught:
        decode_text(data, "a.txt")
    assert caught.value.what == f"a.txt: no UTF-8 text (byte {place})"
    assert caught.value.hint == "convert it to UTF-8"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_wide_characters_are_refused_without_their_mark_or_of_four_bytes(encoding: str) -> None:
    data = "a few words".encode(encoding)
    with pytest.raises(UnreadableFile, match=r"^x: "):
        decode_text(data, "x")
    assert not looks_like_text(data)


@pytest.mark.parametrize("encoding", BOMS)
def test_control_characters_are_what_makes_binary_data(encoding: str) -> None:
    allowed = "\t\n\x0b\x0c\r\x1b"  # white space, and what logs colour with
    for control in map(chr, range(32)):
        data = encoded(f"words{control}words", encoding)
        assert looks_like_text(data) == (control in allowed)
        if control in allowed:
            assert decode_text(data, "x") == f"words{control}words"
            continue
        with pytest.raises(UnreadableFile) as caught:
            decode_text(data, "a.txt")
        shown = f"(character 5 is {control!r})"
        assert caught.value.what == f"a.txt: binary data, no text {shown}"
        assert caught.value.hint == "replace it, or remove it"


@pytest.mark.parametrize("encoding", BOMS)
@pytest.mark.parametrize("text", ["", " ", "\n\t\r\n", "\u3000\xa0\u2003"])
def test_a_text_without_a_word_is_refused(text: str, encoding: str) -> None:
    with pytest.raises(UnreadableFile, match=r"^x: an empty text: write something or remove it$"):
        decode_text(encoded(text, encoding), "x")


@pytest.mark.parametrize("encoding", BOMS)
def test_a_text_cut_anywhere_still_looks_like_one(encoding: str) -> None:
    data = encoded(TEXT, encoding)
    start = len(BOMS[encoding]) + 1 + encoding.startswith("utf-16")
    for end in range(start, len(data)):
        assert looks_like_text(data[:end]), end


@pytest.mark.parametrize(
    "head", [b"", *filter(None, BOMS.values()), b"\xe4rger", b"a\xc3(", b"a\0", b"\xff\xff"]
)
def test_what_cannot_begin_a_text_does_not_look_like_one(head: bytes) -> None:
    assert not looks_like_text(head)


def test_bytes_by_chance_are_no_text(rng: np.random.Generator) -> None:
    for length in (64, 256, 4_096):
        for _ in range(50):
            data = rng.bytes(length)
            assert not looks_like_text(data)
            with pytest.raises(UnreadableFile, match=r"^x: "):
                decode_text(data, "x")
