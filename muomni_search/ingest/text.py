"""Texts: bytes → str."""

from __future__ import annotations

import codecs
from pathlib import Path

from muomni_search.errors import UnreadableFile

__all__ = ["decode_text", "looks_like_text"]

# Control characters that no text holds; tab, line feed, form feed and carriage return do occur.
CONTROL = frozenset(range(32)) - {9, 10, 12, 13, 27}


def decode_text(data: bytes, name: str | Path) -> str:
    """Return a text, unchanged but for its byte order mark, so that character spans stay true.

    Args:
        data: UTF-8, or UTF-16 with a byte order mark.
        name: What to call it in an error.

    Raises:
        UnreadableFile: Binary, of another encoding, or nothing but white space.
    """
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        raise UnreadableFile(
            f"{name}: no UTF-8 text (byte {error.start})", hint="convert it to UTF-8"
        ) from error
    if any(ord(character) in CONTROL for character in text[:65536]) or "\0" in text:
        raise UnreadableFile(f"{name}: binary data, no text", hint="remove it or rename it")
    if not text.strip():
        raise UnreadableFile(f"{name}: an empty text", hint="write something or remove it")
    return text


def looks_like_text(head: bytes) -> bool:
    """Whether the first bytes of a file can be the beginning of a text."""
    decoder = codecs.getincrementaldecoder(_encoding(head))()
    try:
        text = decoder.decode(head)  # not final: a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return not any(ord(character) in CONTROL for character in text)


def _encoding(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"
