"""Connections to ``collection.db``: how they begin, how they fail, how the schema is brought up.

SQLite's Python driver begins transactions when it sees fit, which leaves a failed migration half
applied and takes the write lock too late. Here it never does: ``BEGIN`` and ``BEGIN IMMEDIATE``
are sent by SQLAlchemy's ``begin`` event.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc

from muomni_search.errors import Conflict, CorruptData, MuomniError, NotFound
from muomni_search.store import durable
from muomni_search.store.tables import HEAD

__all__ = ["DATABASE", "LOCK_SECONDS", "check_schema", "connect", "mapped_errors", "upgrade"]

DATABASE = "collection.db"
# How long a second writer waits, and a reader for a checkpoint.
LOCK_SECONDS = 30.0


def connect(path: Path) -> Engine:
    """Return an engine whose transactions are snapshots, or hold the write lock from the start.

    A transaction of a connection with the execution option ``writes`` begins as ``IMMEDIATE``.
    """
    engine = create_engine(
        f"sqlite+pysqlite:///{path}", connect_args={"timeout": LOCK_SECONDS}, max_overflow=-1
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @event.listens_for(engine, "commit")
    def _commit(connection: Connection) -> None:
        if connection.get_execution_options().get("writes"):
            durable.step("before commit")

    return engine


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the disk raise into errors that say what to do."""
    try:
        yield
    except (exc.DBAPIError, sqlite3.Error) as error:
        raise _mapped(path, error) from error
    except OSError as error:
        raise MuomniError(
            f"{error.filename or path}: {error.strerror or error}",
            hint="free some space or mend the permissions; what was stored before is whole",
        ) from error


def _mapped(path: Path, error: exc.DBAPIError | sqlite3.Error) -> MuomniError:
    text = str(error.orig if isinstance(error, exc.DBAPIError) else error)
    if "locked" in text or "busy" in text:
        return Conflict(
            f"{path} is being written by another process",
            hint="wait for it to finish and try again",
        )
    if any(sign in text for sign in ("not a database", "malformed", "no such table", "no such col")):
        return CorruptData(
            f"{path} is damaged or no collection ({text})",
            hint="restore it from a backup, or make a new collection",
        )
    if "unable to open" in text:
        return NotFound(f"{path} cannot be opened", hint="check that it exists and is readable")
    if "readonly" in text or "read-only" in text:
        return MuomniError(f"{path} is read-only", hint="mend its permissions to write to it")
    return MuomniError(
        f"{path}: {text}", hint="free some space or check the disk; what was stored is whole"
    )


def check_schema(engine: Engine, path: Path) -> None:
    """Bring an older collection up to date.

    Raises:
        CorruptData: It is no collection, or one of a newer version.
    """
    with engine.connect() as connection:
        names = connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE name = 'alembic_version'"
        ).all()
        found = (
            connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            if names
            else None
        )
    if found is None:
        raise CorruptData(f"{path} is no collection", hint="name a collection's directory")
    if found == HEAD:
        return
    if found > HEAD:
        raise CorruptData(
            f"{path} was made by a newer version (schema {found}, this one reads {HEAD})",
            hint="upgrade muomni_search",
        )
    upgrade(engine)


def upgrade(engine: Engine) -> None:
    """Bring the schema to the newest revision, wholly or not at all."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_migrations()))
    # Cascades would silently empty the children of a table that a revision rebuilds.
    writer = engine.execution_options(writes=True)
    with writer.connect() as connection:
        connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[union-attr]
        try:
            with connection.begin():
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                if broken:
                    raise CorruptData(f"the upgrade would break {len(broken)} references")
        finally:
            connection.connection.driver_connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[union-attr]


def _migrations() -> Path:
    """Return where the revisions are: in the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"
