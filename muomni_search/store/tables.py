"""The tables. The schema itself is made by the revisions in ``migrations/`` and by nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.types import UserDefinedType

__all__ = [
    "SUMMED",
    "SUMMED_BYTES",
    "collection",
    "dead_rows",
    "failures",
    "index_files",
    "items",
    "jobs",
    "metadata",
    "packed_hash",
    "packed_time",
    "row_blocks",
    "row_files",
    "segments",
    "written_time",
]

# Nothing in SQLite sees that a byte of a value was flipped; what it does see is that a table and
# its index differ. So values of small tables stand in an index too, named ``…_again``; an item,
# which may be large, has a checksum.

metadata = MetaData()

# One row. ``version`` counts the states of the items, ``revision`` every commit; ``summed`` is the
# same number, for a trigger to tell who keeps no checksums of items (revision 0004).
collection = Table(
    "collection",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("model", Text, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("created", String(32), nullable=False),
    Column("version", Integer, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("settings", Text, nullable=False, server_default="{}"),  # what differs from the defaults
    Column("summed", Integer, nullable=False, server_default="0"),
    Index(
        "collection_again",
        "id",
        "model",
        "fingerprint",
        "created",
        "version",
        "revision",
        "settings",
        "summed",
    ),
)


class Bytes(UserDefinedType[bytes | str]):
    """What SQLite keeps as it is given."""

    def get_col_spec(self, **_: Any) -> str:
        """Return how a column of it is declared."""
        return "BLOB"


WRITTEN_HASH = "CASE typeof(hash) WHEN 'blob' THEN lower(hex(hash)) ELSE hash END"
WRITTEN_TIME = (
    "CASE typeof(added_ms) WHEN 'integer' THEN"
    " strftime('%Y-%m-%dT%H:%M:%fZ', added_ms / 1000.0, 'unixepoch') ELSE added_ms END"
)

items = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("modality", String(5), nullable=False),
    Column("source", Text),
    Column("root", Text),
    Column("text", Text),
    Column("metadata", Text, nullable=False),  # a JSON object, keys sorted
    Column("hash", Bytes),  # of its content; a text where it is no hash as ours are
    Column("size", Integer),
    Column("mtime_ns", Integer),
    Column("added_ms", Integer, nullable=False),  # since 1970
    Column("checksum", Integer),  # a CRC-32, see ``documents.item_checksum``
    # The two as they are read, in a third of the bytes.
    Column("content_hash", String(32), Computed(WRITTEN_HASH, persisted=False)),
    Column("added", String(32), Computed(WRITTEN_TIME, persisted=False)),
    Index("items_by_hash", "content_hash", sqlite_where=text("size IS NOT NULL")),
    Index("items_by_root", "root", sqlite_where=text("root IS NOT NULL")),
)

START = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)


def packed_hash(written: str | None) -> bytes | str | None:
    """Return what the column ``hash`` holds of a ``content_hash``."""
    if written is None:
        return None
    try:
        packed = bytes.fromhex(written)
    except ValueError:
        return written
    return packed if packed.hex() == written else written


def packed_time(written: str) -> int | str:
    """Return what the column ``added_ms`` holds of an ``added``."""
    try:
        packed = (datetime.fromisoformat(written) - START) // MILLISECOND
    except (ValueError, TypeError):  # of no time zone
        return written
    return packed if written_time(packed) == written else written


def written_time(packed: int) -> str:
    """Return what is read as ``added`` of an ``added_ms``, where it is a time that there is.

    Raises:
        OverflowError: It is none.
    """
    moment = START + packed * MILLISECOND
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


# What its checksum is of, in this order.
SUMMED = ("key", "modality", "source", "text", "metadata", "content_hash", "added")
# As bytes, for a flipped one may be no character any more. One bit tells SQLite whether a value is
# text or bytes, and is not in these: what claims to be bytes must not fit.
SUMMED_BYTES = ", ".join(
    f"CAST(iif(typeof({name}) = 'blob', x'00', {name}) AS BLOB) AS {name}" for name in SUMMED
)

# A row is a segment's or dead, never both, never neither.
segments = Table(
    "segments",
    metadata,
    Column("modality", String(5), primary_key=True),
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("span_start", Integer),
    Column("span_end", Integer),
    Index("segments_by_item", "item_id", "ordinal", "span_start", "span_end"),
    sqlite_with_rowid=False,
)

# Which file holds the rows of a modality, how many of them count and how many of those are dead.
row_files = Table(
    "row_files",
    metadata,
    Column("modality", String(5), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("dead", Integer, nullable=False),
    Index("row_files_again", "modality", "generation", "rows", "dead"),
)

# The CRC-32 of each block of 4096 rows, of the last one as far as it goes.
row_blocks = Table(
    "row_blocks",
    metadata,
    Column("modality", String(5), primary_key=True),
    Column("block", Integer, primary_key=True, autoincrement=False),
    Column("checksum", Integer, nullable=False),
    sqlite_with_rowid=False,
)

dead_rows = Table(
    "dead_rows",
    metadata,
    Column("modality", String(5), primary_key=True),
    Column("row", Integer, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

index_files = Table(
    "index_files",
    metadata,
    Column("modality", String(5), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("checksum", Text, nullable=False),
    Column("params", Text, nullable=False),
    Column("created", String(32), nullable=False),
    Index(
        "index_files_again",
        *("modality", "generation", "name", "kind", "rows", "bytes", "checksum", "params"),
        "created",
    ),
)

failures = Table(
    "failures",
    metadata,
    Column("source", Text, primary_key=True),
    Column("key", Text),
    Column("error", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("first", String(32), nullable=False),
    Column("last", String(32), nullable=False),
    Index("failures_again", "source", "key", "error", "hint", "attempts", "first", "last"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("output", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("done", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("mark", Text, nullable=False),
    Column("updated", String(32), nullable=False),
    Index("jobs_again", "output", "fingerprint", "done", "state", "mark", "updated"),
)
