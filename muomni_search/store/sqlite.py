"""Connections to ``collection.db`` through Python's driver, and what their errors mean.

All reading goes this way, in SQL: SQLAlchemy alone takes longer to import than everything else that
a search of the command line needs. Writing and the schema are its own (``engine.py``), on
connections that are opened here too.

The driver begins transactions when it sees fit, which leaves a failed migration half applied and
takes the write lock too late. Here it never does: ``BEGIN`` is sent by whoever reads or writes.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from muomni_search.durable import disk_hint
from muomni_search.errors import Conflict, CorruptData, InvalidInput, MuomniError, NotFound

__all__ = [
    "APPLICATION_ID",
    "BEYOND_REPAIR",
    "DATABASE",
    "HEAD",
    "LOCK_SECONDS",
    "MAYBE_BEYOND",
    "check_schema",
    "database_errors",
    "disk_errors",
    "open_database",
    "schema_checksum",
]

DATABASE = "collection.db"
# How long a second writer waits, and a reader for a recovery after a crash.
LOCK_SECONDS = 30.0
# The newest revision: what a collection must be at to be read.
HEAD = "0006"
BEYOND_REPAIR = "restore it from a copy, or save what is whole with muomni export --salvage"
# A repair of a database is done wholly or not at all.
MAYBE_BEYOND = (
    f"muomni verify --repair, which changes nothing where it cannot mend; else {BEYOND_REPAIR}"
)
# In SQLite's header of every collection, so that no other database is taken for one: "muom".
APPLICATION_ID = 0x6D756F6D


# ---- connections -----------------------------------------------------------------------------


def open_database(path: Path, *, create: bool = False, salvage: bool = False) -> sqlite3.Connection:
    """Return a connection that is outside of any transaction.

    Args:
        path: The SQLite file.
        create: Make it when there is none; otherwise that is an error.
        salvage: Open one too whose end is gone, to read what is left.
    """
    name = quote(os.fsencode(path))
    try:
        connection = _open_uri(f"file:{name}?mode={'rwc' if create else 'rw'}", salvage=salvage)
    except sqlite3.OperationalError:
        # The log of a database in a directory that is read-only cannot be made, and is not needed
        # when it is not there: then nobody is writing.
        if create or os.access(path.parent, os.W_OK) or Path(f"{path}-wal").exists():
            raise
        connection = _open_uri(f"file:{name}?mode=ro&immutable=1", salvage=salvage)
    if create:
        connection.execute("PRAGMA journal_mode=WAL")  # the file keeps it
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _open_uri(uri: str, *, salvage: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        if salvage:
            # Then SQLite takes a file that is shorter than its first page says for what it is.
            connection.execute("PRAGMA writable_schema=ON")
        # The first read is what opens the log, and what finds out that this is no database.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    except UnicodeDecodeError as error:  # of what SQLite says, for it quotes damaged bytes
        connection.close()
        raise sqlite3.DatabaseError("malformed database schema") from error
    return connection


# ---- errors ------------------------------------------------------------------------------------


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into errors that name the file and say what to do."""
    try:
        yield
    except Exception as error:
        # SQLAlchemy raises its own with the driver's in it.
        told = getattr(error, "orig", error)
        if not isinstance(told, sqlite3.Error):
            raise
        raise _from_sqlite(path, told) from error


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the file system raises into errors that name the file and say what to do."""
    try:
        yield
    except OSError as error:
        name = error.filename
        if not name or os.sep not in str(name):
            name = path  # what is called relative to a folder says less
        raise MuomniError(
            f"{name}: {error.strerror or error}", hint=disk_hint(error.errno)
        ) from error


def _from_sqlite(path: Path, error: sqlite3.Error) -> MuomniError:
    told = " ".join(str(error).split())  # SQLite quotes a damaged schema as it lies, lines and all
    extended = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
    # Extended codes keep the primary one in their lowest byte.
    code = extended & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return Conflict(
            f"{path} is being written by another process",
            hint="wait for it to finish and try again",
        )
    if code == sqlite3.SQLITE_CONSTRAINT:
        return Conflict(
            f"{path} was changed by another process meanwhile ({told})", hint="try again"
        )
    if told == "parser stack overflow":  # of a filter: all other statements are ours
        return InvalidInput("the filter is nested too deep for SQLite", hint="write it flatter")
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
        return CorruptData(
            f"{path} is damaged or no collection ({told})",
            hint=BEYOND_REPAIR,
        )
    if code == sqlite3.SQLITE_CANTOPEN and path.exists():
        return MuomniError(
            f"{path} cannot be opened", hint="mend its permissions, or those of its folder"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return NotFound(
            f"{path} cannot be opened", hint="check that it exists and may be read and written"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return MuomniError(f"{path} is read-only", hint="mend its permissions to write to it")
    if code == sqlite3.SQLITE_TOOBIG:
        return InvalidInput(f"{path}: {told}", hint="split what is larger than a gigabyte")
    # The latter: the log's index cannot grow, so that a full disk cannot even be read from.
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return MuomniError(f"{path}: {told}", hint=disk_hint(errno.ENOSPC))
    return MuomniError(f"{path}: {told}", hint=disk_hint(None))


# ---- the schema ----------------------------------------------------------------------------------


def check_schema(connection: sqlite3.Connection, path: Path) -> bool:
    """Check that this is a collection which can be read; return whether its schema is the newest.

    Args:
        connection: From ``open_database``.
        path: The SQLite file.

    Raises:
        CorruptData: It is no collection, or one of a newer version.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise CorruptData(
            f"{path} is no collection, but another program's database or an empty one",
            hint="name a collection's directory",
        )
    (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or (None,)
    if found is None or found > HEAD:
        raise CorruptData(
            f"{path} was made by a newer version (schema {found}, this one reads {HEAD})",
            hint="upgrade muomni_search",
        )
    return bool(found == HEAD)


def schema_checksum(connection: sqlite3.Connection) -> int:
    """Return the CRC-32 of the schema, as the signed number that SQLite's header has room for."""
    words = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    return zlib.crc32(repr(words).encode()) - 2**31
