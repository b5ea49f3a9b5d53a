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
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from muomni_search import durable
from muomni_search.errors import CorruptData, NotFound
from muomni_search.items import DIM

if TYPE_CHECKING:
    from muomni_search.index.faiss_index import FourBitScan

__all__ = ["Saved", "load", "save"]

MAGIC = b"MUOMNIX1"
HINT = "run: muomni rebuild"
# 256 numbers of three digits and three names; what is longer was not written here.
MAX_PARAMS_BYTES = 2_048


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that was written: what must be known to trust it again."""

    name: str
    bytes: int
    checksum: str
    params: dict[str, Any]


def save(index: FourBitScan, directory: Path, stem: str) -> Saved:
    """Write an index to a file of its own and bring it to the disk.

    The name is one that no file had before: readers may still use the old one, and two who build
    at once do not meet.

    Args:
        index: What to write.
        directory: Where; made when missing.
        stem: How the name begins.
    """
    facts = {"kind": index.kind, "codes": index.codes}
    params = {**facts, "rows": index.rows, "order": index.order.tolist()}
    head = json.dumps(params, separators=(",", ":")).encode()
    data = MAGIC + len(head).to_bytes(8, "little") + head + index.to_bytes()
    checksum = hashlib.sha256(data).hexdigest()
    name = f"{stem}.{secrets.token_hex(6)}.faiss"
    directory.mkdir(exist_ok=True)
    with durable.whole_file(directory / name) as partial:
        partial.write_bytes(data)
    return Saved(name, len(data), checksum, facts)


def load(path: Path, *, bytes: int, checksum: str) -> FourBitScan:  # noqa: A002
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
        return _decode(_read(path, bytes, checksum))
    except FileNotFoundError as error:
        raise NotFound(f"{path} is missing", hint=HINT) from error
    except OSError as error:
        raise CorruptData(f"{path}: {error.strerror}", hint=HINT) from error
    except (ValueError, RecursionError) as error:  # json gives up on deep nesting with the latter
        raise CorruptData(f"{path}: {error}", hint=HINT) from error


def _read(path: Path, size: int, checksum: str) -> bytes:
    """Return the bytes of a file; one of another size, however large, is not read at all.

    Raises:
        ValueError: They are not those that were written.
    """
    with path.open("rb") as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise ValueError(f"it has {found} bytes, expected {size}")
        data = file.read()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError("it is not the file that was written")
    return data


def _decode(data: bytes) -> FourBitScan:
    """Return the index in the bytes of a file.

    Raises:
        ValueError: They are none of ours, or parts of them do not fit.
    """
    if not data.startswith(MAGIC):
        raise ValueError("it is no index file")
    start = len(MAGIC) + 8
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    if end - start > MAX_PARAMS_BYTES:
        raise ValueError("its parameters are too long")
    params = json.loads(data[start:end])
    if not isinstance(params, dict) or params.get("kind") != "pq4":
        raise ValueError("it holds an index of another kind")
    order = params.get("order")
    if not isinstance(order, list) or sorted(map(repr, order)) != sorted(map(repr, range(DIM))):
        raise ValueError(f"its order of dimensions is none of {DIM}")
    from muomni_search.index.faiss_index import FourBitScan

    codes = np.frombuffer(data, np.uint8, offset=end)
    index = FourBitScan.from_bytes(codes, np.array(order, np.int64))
    if index.rows != params.get("rows"):
        raise ValueError(f"it covers {index.rows} rows, expected {params.get('rows')}")
    return index
