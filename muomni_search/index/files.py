"""Index files: written whole, and held against their checksum before FAISS reads a byte.

FAISS believes what it reads: it accepts flipped bytes in silence, and a forged size makes it ask
for any memory. So a file is opened only when its length and checksum are those that were written
down when it was made::

    8 bytes   magic, "MUOMNIX1"
    8 bytes   length of the parameters, little-endian
    n bytes   parameters, JSON: {"kind": "pq4", "order": [256 numbers], "rows": n}
    the rest  the index as FAISS serialises it, or its parts, one after the other
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from muomni_search import durable
from muomni_search.errors import CorruptData, NotFound
from muomni_search.items import DIM

if TYPE_CHECKING:
    from muomni_search.index.faiss_index import FourBitScan

__all__ = ["Saved", "load", "save"]

MAGIC = b"MUOMNIX1"
HEAD_BYTES = len(MAGIC) + 8
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
    name = f"{stem}.{os.urandom(6).hex()}.faiss"
    directory.mkdir(exist_ok=True)
    with durable.whole_file(directory / name) as partial:
        partial.write_bytes(data)
    return Saved(name, len(data), durable.checksum([data]), facts)


def load(path: Path, *, bytes: int, checksum: str) -> FourBitScan:  # noqa: A002
    """Return the index in a file.

    Args:
        path: The file.
        bytes: How long it must be.
        checksum: What ``save`` returned of it.

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


def _read(path: Path, size: int, checksum: str) -> NDArray[np.uint8]:
    """Return the bytes of a file; one of another size, however large, is not read at all.

    Summed while they are in the cache, and read into what NumPy asks large pages for: that is
    faster than to read them as ``bytes`` and then to sum those.

    Raises:
        ValueError: They are not those that were written.
    """
    with path.open("rb", buffering=0) as file:
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise ValueError(f"it has {found} bytes, expected {size}")
        data = np.empty(size, np.uint8)
        if durable.checksum(_blocks(file, data.data), like=checksum) != checksum:
            raise ValueError("it is not the file that was written")
    return data


def _blocks(file: FileIO, data: memoryview) -> Iterator[memoryview]:
    """Read a file into ``data``; yield what was read, piece by piece."""
    while count := file.readinto(data[: durable.READ_BYTES]):
        yield data[:count]
        data = data[count:]


def _decode(data: NDArray[np.uint8]) -> FourBitScan:
    """Return the index in the bytes of a file.

    Raises:
        ValueError: They are none of ours, or parts of them do not fit.
    """
    magic, length = data[: len(MAGIC)].tobytes(), data[len(MAGIC) : HEAD_BYTES].tobytes()
    if magic != MAGIC:
        raise ValueError("it is no index file")
    end = HEAD_BYTES + int.from_bytes(length, "little")
    if end - HEAD_BYTES > MAX_PARAMS_BYTES:
        raise ValueError("its parameters are too long")
    params = json.loads(data[HEAD_BYTES:end].tobytes())
    if not isinstance(params, dict) or params.get("kind") != "pq4":
        raise ValueError("it holds an index of another kind")
    order = params.get("order")
    if not isinstance(order, list) or sorted(map(repr, order)) != sorted(map(repr, range(DIM))):
        raise ValueError(f"its order of dimensions is none of {DIM}")
    from muomni_search.index.faiss_index import FourBitScan

    index = FourBitScan.from_bytes(data[end:], np.array(order, np.int64))
    if index.rows != params.get("rows"):
        raise ValueError(f"it covers {index.rows} rows, expected {params.get('rows')}")
    return index
