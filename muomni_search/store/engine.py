"""Connections to ``collection.db``: how they begin, how they fail, how the schema is brought up.

SQLite's Python driver begins transactions when it sees fit, which leaves a failed migration half
applied and takes the write lock too late. Here it never does: ``BEGIN`` and ``BEGIN IMMEDIATE``
are sent by SQLAlchemy's ``begin`` event.
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

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event, exc

from muomni_search.durable import disk_hint
from muomni_search.errors import Conflict, CorruptData, InvalidInput, MuomniError, NotFound
from muomni_search.store.tables import APPLICATION_ID, HEAD

__all__ = [
    "DATABASE",
    "LOCK_SECONDS",
    "begin_writing",
    "check_schema",
    "connect",
    "database_errors",
    "disk_errors",
    "driver_connection",
    "schema_checksum",
    "stamp_schema",
    "upgrade",
]

DATABASE = "collection.db"
# How long a second writer waits, and a reader for a recovery after a crash.
LOCK_SECONDS = 30.0


# ---- connections -----------------------------------------------------------------------------


def connect(path: Path, *, create: bool = False) -> Engine:
    """Return an engine whose transactions are snapshots, or hold the write lock from the start.

    A transaction of a connection with the execution option ``writes`` begins as ``IMMEDIATE``.

    Args:
        path: The SQLite file.
        create: Make it when there is none; otherwise that is an error at the first connection.
    """
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: _open(path, create=create),
        poolclass=QueuePool,
        max_overflow=-1,  # as many readers as there are threads
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        driver_connection(connection).execute("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _open(path: Path, *, create: bool) -> sqlite3.Connection:
    name = quote(os.fsencode(path))
    try:
        connection = _open_uri(f"file:{name}?mode={'rwc' if create else 'rw'}")
    except sqlite3.OperationalError:
        # The log of a database in a directory that is read-only cannot be made, and is not needed
        # when it is not there: then nobody is writing.
        if create or os.access(path.parent, os.W_OK) or Path(f"{path}-wal").exists():
            raise
        connection = _open_uri(f"file:{name}?mode=ro&immutable=1")
    if create:
        connection.execute("PRAGMA journal_mode=WAL")  # the file keeps it
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")
    return connection


def _open_uri(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        # The first read is what opens the log, and what finds out that this is no database.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def begin_writing(engine: Engine, timeout: float) -> Iterator[Connection]:
    """Give a connection that holds the write lock; commit at the end, or roll back.

    Args:
        engine: From ``connect``.
        timeout: Seconds to wait for the lock.
    """
    with engine.connect().execution_options(writes=True) as connection:
        driver = driver_connection(connection)
        driver.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
        try:
            with connection.begin():
                yield connection
        finally:
            # The connection goes back to the pool, for readers too.
            driver.execute(f"PRAGMA busy_timeout={int(LOCK_SECONDS * 1000)}")


def driver_connection(connection: Connection) -> sqlite3.Connection:
    """Return what is below SQLAlchemy, for what must be said outside of its transactions."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"{driver} is no connection to SQLite")
    return driver


# ---- errors ------------------------------------------------------------------------------------


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into errors that name the file and say what to do."""
    try:
        yield
    except exc.DBAPIError as error:
        raise _from_sqlite(path, error.orig or error) from error
    except sqlite3.Error as error:
        raise _from_sqlite(path, error) from error


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


def _from_sqlite(path: Path, error: BaseException) -> MuomniError:
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
    if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
        return CorruptData(
            f"{path} is damaged or no collection ({told})",
            hint="restore it from a copy, or make a new collection",
        )
    if code == sqlite3.SQLITE_CANTOPEN and path.exists():
        return MuomniError(f"{path} cannot be opened", hint="mend its permissions")
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


def check_schema(engine: Engine, path: Path, *, salvage: bool = False) -> None:
    """Bring an older collection up to date.

    Args:
        engine: From ``connect``.
        path: The SQLite file.
        salvage: Leave one as it is that is too damaged for that.

    Raises:
        CorruptData: It is no collection, or one of a newer version.
    """
    with engine.connect() as connection:
        application = connection.exec_driver_sql("PRAGMA application_id").scalar()
        if application != APPLICATION_ID:
            raise CorruptData(
                f"{path} is no collection, but another program's database or an empty one",
                hint="name a collection's directory",
            )
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if found == HEAD:
        return
    if found is None or found > HEAD:
        raise CorruptData(
            f"{path} was made by a newer version (schema {found}, this one reads {HEAD})",
            hint="upgrade muomni_search",
        )
    try:
        upgrade(engine)
    except exc.DatabaseError:
        if not salvage:
            raise


def upgrade(engine: Engine, migrations: Path | None = None) -> None:
    """Bring the schema to the newest revision, wholly or not at all.

    Args:
        engine: From ``connect``.
        migrations: Where the revisions are, when not where this package keeps them.

    Raises:
        CorruptData: A reference leads nowhere afterwards; nothing was changed.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    # A percent sign would begin an interpolation.
    config.set_main_option(
        "script_location", str(migrations or find_migrations()).replace("%", "%%")
    )
    with engine.connect().execution_options(writes=True) as connection:
        driver = driver_connection(connection)
        # Or cascades silently empty the children of a table that a revision makes anew. SQLite
        # heeds this outside of a transaction only.
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                stamp_schema(connection)
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                if broken:
                    raise CorruptData(
                        f"the upgrade leaves {len(broken)} references without their target",
                        hint="nothing was changed; go on with the version that made the collection",
                    )
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def stamp_schema(connection: Connection) -> None:
    """Write down what the schema's words must add up to, after every change of them.

    In a number of the application's own in SQLite's header, for SQLite believes any schema that it
    can parse.
    """
    connection.exec_driver_sql(f"PRAGMA user_version = {schema_checksum(connection)}")


def schema_checksum(connection: Connection) -> int:
    """Return the CRC-32 of the schema, as the signed number that SQLite's header has room for."""
    words = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master ORDER BY name").all()
    return zlib.crc32(repr([tuple(row) for row in words]).encode()) - 2**31


def find_migrations() -> Path:
    """Return where the revisions are: in the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"
