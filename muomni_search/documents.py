"""What may be stored of an item beside its vectors: keys, texts, and metadata as JSON."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from muomni_search.errors import InvalidInput

__all__ = [
    "Document",
    "check_key",
    "check_texts",
    "check_words",
    "hash_content",
    "item_bytes",
    "item_checksum",
    "key_prefix",
    "legible",
    "to_json",
    "value_of",
]

ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
)


class Document(str):
    """Metadata as the JSON that ``to_json`` makes of it."""

    __slots__ = ()


EMPTY = Document("{}")


def hash_content(*parts: bytes | memoryview) -> str:
    """Return the hash by which a content is known again: of its bytes, one part after another."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def item_checksum(
    key: str,
    modality: str,
    source: str | None,
    text: str | None,
    document: str,
    digest: str | None,
    added: str,
) -> int:
    """Return the CRC-32 of what the store holds of an item, as far as it cannot be had elsewhere.

    Args:
        key: Its key.
        modality: Its modality.
        source: Its source.
        text: Its text.
        document: Its metadata as JSON.
        digest: The hash of its content.
        added: When it was first added.
    """
    # One string, for every new item comes this way. As ``item_bytes`` does.
    words = f"{key}\0{modality}\0{source}\0{text}\0{document}\0{digest}\0{added}"
    return zlib.crc32(words.encode(errors="surrogateescape"))


def item_bytes(columns: Sequence[bytes | None]) -> bytes:
    """Return what ``item_checksum`` is of, from an item's columns as they lie in the store."""
    return b"\0".join(b"None" if column is None else column for column in columns)


def to_json(metadata: Mapping[str, Any] | Document | None, key: str) -> Document:
    """Return metadata as JSON, its keys sorted; what is a document already as it is.

    Raises:
        InvalidInput: It is not JSON: NaN, dates, bytes, …
    """
    if isinstance(metadata, Document):
        return metadata
    if not metadata:
        return EMPTY
    try:
        text = ENCODER.encode(dict(metadata))
        _check_characters(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"the metadata of {legible(key)} is no JSON object: {error}",
            hint="use valid text, finite numbers, true, false, null, lists and objects",
        ) from error
    if "\\u0000" in text and ESCAPED_NUL.search(text):
        # SQLite's JSON ends texts there, and filters would see half of them.
        raise InvalidInput(
            f"the metadata of {legible(key)} holds a NUL", hint="take it out of the text"
        )
    return Document(text)


# Labels that are parts of the key, for collections of folders, where no metadata has their name.
OF_KEYS = {
    "folder": posixpath.dirname,
    "stem": lambda key: posixpath.splitext(key)[0],
}


def value_of(metadata: Mapping[str, Any], field: str) -> Any:
    """Return the metadata of a name, or of a path with dots into objects; None for none."""
    if field in metadata:
        return metadata[field]
    value: Any = metadata
    for name in field.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def key_prefix(prefix: str | None) -> str:
    """Return what is put before keys: a prefix with one slash behind it, or nothing.

    Example:
        >>> key_prefix("birds/"), key_prefix(None)
        ('birds/', '')
    """
    bare = (prefix or "").strip("/")
    return bare + "/" * bool(bare)


def check_words(key: str, source: str | None, *texts: str | None) -> None:
    """Refuse what cannot be stored of an item: its key, its source, and its texts.

    Raises:
        InvalidInput: See ``check_key`` and ``check_texts``; or a source with a NUL.
    """
    # Of a table of a million rows most are settled by one look.
    names = key if source is None else key + source
    if not (key and names.isascii() and "\0" not in names):
        check_key(key)
        _check_source(key, source)
    check_texts(key, *texts)


def check_key(key: str) -> None:
    """Refuse what cannot be a key.

    Raises:
        InvalidInput: It is empty, holds a NUL, or is no valid text.
    """
    check_texts(key, key)
    if not key or "\0" in key:
        # SQLite's JSON, by which keys are looked up, ends texts at a NUL.
        raise InvalidInput(f"{key!r} cannot be a key", hint="give it a name, without NUL")


def _check_source(key: str, source: str | None) -> None:
    """Refuse what cannot be a source.

    Raises:
        InvalidInput: It holds a NUL, as no path does, or is no valid text.
    """
    check_texts(key, source)
    if source is not None and "\0" in source:
        raise InvalidInput(f"{legible(key)} has a source with a NUL", hint="take it out")


def check_texts(key: str, *texts: str | None) -> None:
    """Refuse texts of an item that UTF-8 cannot write.

    Raises:
        InvalidInput: One of them holds half a surrogate pair.
    """
    try:
        for text in texts:
            if text is not None:
                _check_characters(text)
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{legible(key)} has a text with half a character in it: {error}",
            hint="save it as valid UTF-8",
        ) from error


def _check_characters(text: str) -> None:
    """Raise UnicodeEncodeError for what UTF-8 cannot write."""
    if not text.isascii():  # which Python knows of each text, and most keys are
        text.encode()


def legible(text: str) -> str:
    """Return a text with what is no character in it replaced, so that it can be shown."""
    return text.encode(errors="replace").decode()
