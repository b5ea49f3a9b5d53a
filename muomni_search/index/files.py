"""Index files: written whole, and held against their checksum before FAISS reads a byte.

FAISS believes what it reads: it accepts flipped bytes in silence, and a forged size makes it ask
for any memory. So a file is opened only when its length and SHA-256 are those that were written
down when it was made::

    8 bytes   magic, "MUOMNIX1"
    8 bytes   length of the parameters, little-endian
    n bytes   parameters, JSON: {"kind": "pq4", "order": [256 numbers], "rows": n}
    the rest  the index as FAISS serialises it
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from muomni_search.errors import CorruptData, NotFound
from muomni_search.index.protocol import VectorIndex
from muomni_search.items import DIM

__all__ = ["Saved", "load", "save"]

MAGIC = b"MUOMNIX1"
HINT = "run: muomni rebuild"


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that was written: what must be known to trust it again."""

    name: str
    bytes: int
    checksum: str
    params: Mapping[str, Any]


def save(index: Any, directory: Path, stem: str) -> Saved:
    """Write an index under a name that no other has, and bring it to the disk."""
    params = {"kind": index.kind, "rows": index.rows, "order": index.order.tolist()}
    head = json.dumps(params, separators=(",", ":")).encode()
    data = MAGIC + len(head).to_bytes(8, "little") + head + index.to_bytes()
    checksum = hashlib.sha256(data).hexdigest()
    name = f"{stem}.{checksum[:12]}.faiss"
    directory.mkdir(exist_ok=True)
    partial = directory / f".{name}.{os.getpid()}.partial"
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(directory / name)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Saved(name, len(data), checksum, {"kind": index.kind})


def load(path: Path, *, bytes: int, checksum: str) -> VectorIndex:  # noqa: A002
    """Return the index in a file.

    Args:
        path: The file.
        bytes: How long it must be.
        checksum: The SHA-256 that it must have.

    Raises:
        NotFound: There is no such file.
        CorruptData: It is not the file that was written.
    """
    try:
        size = path.stat().st_size
        if size != bytes:
            raise CorruptData(f"{path} has {size} bytes, expected {bytes}", hint=HINT)
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(f"{path} is missing", hint=HINT) from error
    except OSError as error:
        raise CorruptData(f"{path}: {error.strerror}", hint=HINT) from error
    if hashlib.sha256(data).hexdigest() != checksum:
        raise CorruptData(f"{path} is not the file that was written", hint=HINT)
    if not data.startswith(MAGIC):
        raise CorruptData(f"{path} is no index file", hint=HINT)
    start = len(MAGIC) + 8
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    try:
        params = json.loads(data[start:end])
        order = np.array(params["order"], np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptData(f"{path} has no parameters that can be read", hint=HINT) from error
    if params.get("kind") != "pq4" or sorted(order.tolist()) != list(range(DIM)):
        raise CorruptData(f"{path} holds an index of another kind", hint=HINT)
    from muomni_search.index.faiss_index import FourBitScan

    return FourBitScan.from_bytes(data[end:], order)
