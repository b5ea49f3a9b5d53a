"""Contents for the encoders, from files, within limits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from muomni_search.documents import check_texts
from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.ingest.audio import MAX_SECONDS, decode_audio
from muomni_search.ingest.image import MAX_PIXELS, decode_image
from muomni_search.ingest.text import decode_text
from muomni_search.items import Content, Modality

__all__ = ["Limits", "decode", "read_content", "read_file"]

MAX_BYTES = {Modality.TEXT: 10_000_000, Modality.IMAGE: 512_000_000, Modality.AUDIO: 512_000_000}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a single file may cost.

    Args:
        max_pixels: Width times height of a picture.
        max_seconds: Length of a sound.
        max_bytes: Size of any file; by default 10 MB for texts and 512 MB for others.
    """

    max_pixels: int = MAX_PIXELS
    max_seconds: float = MAX_SECONDS
    max_bytes: int | None = None

    def check_size(self, modality: Modality, name: str | Path, size: int | None) -> None:
        """Refuse a file that is too large, before it is read.

        Raises:
            UnreadableFile: It is.
        """
        limit = MAX_BYTES[modality] if self.max_bytes is None else self.max_bytes
        if size is not None and size > limit:
            raise UnreadableFile(
                f"{name}: {size} bytes, more than the limit of {limit}",
                hint="split it or scale it down, or raise the limit (--max-bytes of add and serve)",
            )


def decode(modality: Modality, data: bytes, name: str | Path, limits: Limits) -> Content:
    """Return what an encoder of this modality takes.

    Raises:
        UnreadableFile: The bytes are damaged, of another kind, or over a limit.
    """
    if not data:
        raise UnreadableFile(f"{name}: an empty file", hint="replace it or remove it")
    if modality == Modality.TEXT:
        return decode_text(data, name)
    if modality == Modality.IMAGE:
        return decode_image(data, name, max_pixels=limits.max_pixels)
    return decode_audio(data, name, max_seconds=limits.max_seconds)


def read_file(modality: Modality, path: Path, limits: Limits) -> bytes:
    """Return a file's bytes.

    Raises:
        NotFound: There is no such file.
        UnreadableFile: It is too large, or cannot be read.
    """
    if "\0" in str(path):
        raise NotFound(f"{str(path)!r} is no name of a file", hint="check its name")
    try:
        if not path.is_file() and path.exists():
            raise UnreadableFile(f"{path}: no file", hint="name a file")
        limits.check_size(modality, path, path.stat().st_size)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path}: no such file", hint="check its name") from error
    except OSError as error:
        raise UnreadableFile(
            f"{path}: {error.strerror}", hint="check its permissions and the disk"
        ) from error


def read_content(modality: Modality, value: str | Path, limits: Limits | None = None) -> Content:
    """Return the content of a part of a query: words as they are, anything else from its file.

    Raises:
        InvalidInput: There are no words.
        NotFound: There is no such file.
        UnreadableFile: It cannot be read as what it should be.
    """
    if modality == Modality.TEXT:
        if not str(value).strip():
            raise InvalidInput("the query has no words", hint="write some, or leave it out")
        check_texts("the query", str(value))
        return str(value)
    limits = limits or Limits()
    path = Path(value)
    return decode(modality, read_file(modality, path, limits), path, limits)
