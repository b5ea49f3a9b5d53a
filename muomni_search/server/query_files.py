"""Pictures and sounds that clients sent to ask with."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from muomni_search.documents import hash_content
from muomni_search.errors import InvalidInput, NotFound, UnreadableFile
from muomni_search.ingest.audio import SAMPLE_RATE
from muomni_search.ingest.read import Limits, decode
from muomni_search.ingest.sniff import HEAD_BYTES, media_type, sniff
from muomni_search.items import Modality

__all__ = ["QueryFiles"]

MOST_FILES = 1_000


class QueryFiles:
    """Pictures and sounds to ask with, in a bounded folder: the oldest go first.

    Args:
        folder: Where they are kept.
        most: How many bytes they may take together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[Modality, int]] = OrderedDict()

    def keep(self, data: bytes, name: str, limits: Limits) -> dict[str, Any]:
        """Keep a picture or a sound; return what its upload is answered with.

        Raises:
            UnreadableFile: It is neither, damaged, or over a limit.
        """
        modality = sniff(data[:HEAD_BYTES])
        kind = media_type(data[:HEAD_BYTES])
        if modality is None or kind is None:
            raise UnreadableFile(f"{name}: neither a picture nor a sound", hint="send one of them")
        limits.check_size(modality, name, len(data))
        content: Any = decode(modality, data, name, limits)
        digest = hash_content(data)
        self._write(digest, modality, data)
        facts: dict[str, Any] = (
            {"width": content.shape[1], "height": content.shape[0]}
            if modality == Modality.IMAGE
            else {"seconds": round(len(content) / SAMPLE_RATE, 3)}
        )
        return {
            "upload": digest,
            "kind": str(modality),
            "media_type": kind,
            "bytes": len(data),
            **facts,
        }

    def _write(self, digest: str, modality: Modality, data: bytes) -> None:
        if len(data) > self._most:
            raise UnreadableFile(f"{len(data)} bytes, more than queries may keep here")
        part = self._folder / f"{digest}.{secrets.token_hex(4)}"
        try:
            part.write_bytes(data)  # which takes long, and holds nobody up
            with self._lock:
                part.replace(self._folder / digest)
                self._note(digest, modality, len(data))
        finally:
            part.unlink(missing_ok=True)

    def _note(self, digest: str, modality: Modality, size: int) -> None:
        """Write down what is kept, and remove what is too much."""
        self._kept[digest] = modality, size
        self._kept.move_to_end(digest)
        while (
            len(self._kept) > MOST_FILES
            or sum(size for _, size in self._kept.values()) > self._most
        ):
            old, _ = self._kept.popitem(last=False)
            (self._folder / old).unlink(missing_ok=True)

    def find(self, digest: str, modality: str | None = None) -> tuple[Path, Modality]:
        """Return the file of an upload, and what it is.

        Raises:
            NotFound: There is none, or not any more.
            InvalidInput: It is something else than ``modality``.
        """
        with self._lock:
            kept = self._kept.get(digest)
            if kept is None:
                raise NotFound(
                    f"no upload {digest!r}", hint="uploads are kept for a while: send it again"
                )
            self._kept.move_to_end(digest)
        if modality is not None and kept[0] != modality:
            raise InvalidInput(f"the upload {digest!r} is of kind {kept[0]}, not {modality}")
        return self._folder / digest, kept[0]
