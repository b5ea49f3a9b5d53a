"""Texts: bytes → str.

UTF-8, or UTF-16 with a byte order mark. Another encoding is refused instead of guessed: a wrong
guess turns every accented letter into noise that nobody sees until a search misses it.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from muomni_search.errors import UnreadableFile

__all__ = ["decode_text", "looks_like_text"]

# What no text holds: control characters save white space and escape (which logs colour with).
CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")


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
        # The codec counts from behind the byte order mark.
        skipped = len(codecs.BOM_UTF8) * data.startswith(codecs.BOM_UTF8)
        raise UnreadableFile(
            f"{name}: no UTF-8 text (byte {error.start + skipped})", hint="convert it to UTF-8"
        ) from error
    control = CONTROL.search(text)
    if control:
        raise UnreadableFile(
            f"{name}: binary data, no text (character {control.start()} is {control.group()!r})",
            hint="replace it, or remove it",
        )
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
    return bool(text) and not CONTROL.search(text)


def _encoding(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"
