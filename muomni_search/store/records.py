"""What goes into the store and comes out of it, besides ``items.Item``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from muomni_search.documents import Document
from muomni_search.items import Modality, Span

__all__ = [
    "Compacted",
    "Counting",
    "Failure",
    "Fault",
    "IndexFile",
    "Job",
    "Known",
    "Match",
    "NewItem",
    "Purged",
    "RowFile",
    "Settings",
    "now",
]


@dataclass(frozen=True, slots=True)
class RowFile:
    """The row file of a modality: how many of its rows count, and how many of those are dead."""

    modality: Modality
    generation: int
    path: Path
    rows: int
    dead: int


@dataclass(frozen=True, slots=True)
class IndexFile:
    """An index on disk: which rows it covers, and how to know that it is whole.

    Args:
        modality: Whose rows it covers.
        generation: The generation of the row file that it was built from.
        name: Its file's name in ``index/``.
        kind: What it is.
        rows: How many rows it covers, from the first on.
        bytes: The length of its file.
        checksum: Of its file, as ``durable.checksum`` computes it.
        params: How it was built, a JSON object.
        created: When it was recorded, ISO 8601 in UTC; filled in by the store.
    """

    modality: Modality
    generation: int
    name: str
    kind: str
    rows: int
    bytes: int
    checksum: str
    params: Mapping[str, Any]
    created: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a collection was asked to keep to.

    Args:
        recall: The share of the ten best that an answer by an index holds at least, on average.
        memory: Bytes that the indexes may keep in memory, all together; None for any.
    """

    recall: float = 0.95
    memory: int | None = None


class NewItem(NamedTuple):
    """An item to store, with a unit vector (n, 256) for each of its segments."""

    key: str
    modality: Modality
    vectors: NDArray[np.float32]
    spans: Sequence[Span | None]
    source: str | None = None
    text: str | None = None
    metadata: Mapping[str, Any] | Document | None = None
    root: str | None = None
    content_hash: str | None = None
    size: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What ingestion needs to know of an item that is there already."""

    item_id: int
    key: str
    modality: Modality
    root: str | None
    source: str | None
    size: int | None
    mtime_ns: int | None
    content_hash: str | None
    document: str  # its metadata as JSON, in which 1, 1.0 and true differ


class Counting(NamedTuple):
    """Which rows of a modality are live and let through by a filter.

    Args:
        rows: Those that a filter lets through, sorted; None for all that are live.
        marks: Returns whether each row is one of them (n,).
    """

    rows: NDArray[np.int64] | None
    marks: Callable[[], NDArray[np.bool_]]


class Match(NamedTuple):
    """What a row stands for."""

    row: int
    item_id: int
    span: Span | None


class Shown(NamedTuple):
    """What a hit shows of its item."""

    key: str
    source: str | None
    text: str | None
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """An input that could not be used."""

    source: str
    key: str | None
    error: str
    hint: str
    attempts: int
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Job:
    """A long job with an output file: what it was asked, and how far it is.

    Args:
        output: The file.
        fingerprint: A name for all that decides about it.
        done: Blocks that are finished.
        state: Whether the file is there.
        mark: Size and time of the finished file, by which it is known again.
        updated: When this was written down.
    """

    output: str
    fingerprint: str
    done: int
    state: Literal["running", "done"]
    mark: str = ""
    updated: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that ``verify`` found."""

    kind: str
    where: str
    detail: str


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction gave back.

    Args:
        rows: The rows of each modality before and after.
        bytes_before: The size of all the collection's files before.
        bytes_after: And after.
        remains: Files that have not shrunk yet, because others are using them.
    """

    rows: Mapping[Modality, tuple[int, int]]
    bytes_before: int
    bytes_after: int
    remains: list[Path]

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON object that ``muomni compact --json`` prints."""
        return {
            **{
                str(modality): {"rows_before": before, "rows_after": after}
                for modality, (before, after) in self.rows.items()
            },
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "remains": list(map(str, self.remains)),
        }


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge did.

    Args:
        deleted: How many items.
        absent: The keys asked for that were not there.
        remains: Files and folders that may still hold deleted bytes, because others are using them
            or they cannot be removed.
    """

    deleted: int
    absent: list[str]
    remains: list[Path]

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON object that ``muomni purge --json`` prints."""
        return {
            "purged": self.deleted,
            "absent": self.absent,
            "remains": list(map(str, self.remains)),
        }


def now() -> str:
    """Return the time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
