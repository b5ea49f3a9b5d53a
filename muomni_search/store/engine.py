"""SQLAlchemy on ``collection.db``: transactions that hold the write lock, and the schema."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from muomni_search.errors import CorruptData
from muomni_search.store.sqlite import LOCK_SECONDS, open_database, schema_checksum

__all__ = ["begin_writing", "connect", "driver_connection", "stamp_schema", "upgrade"]


def connect(path: Path, *, create: bool = False) -> Engine:
    """Return an engine whose transactions hold the write lock from the start.

    Args:
        path: The SQLite file.
        create: Make it when there is none; otherwise that is an error at the first connection.
    """
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: open_database(path, create=create),
        poolclass=QueuePool,
        max_overflow=-1,  # as many as there are threads that wait to write
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver_connection(connection).execute("BEGIN IMMEDIATE")

    return engine


@contextmanager
def begin_writing(engine: Engine, timeout: float) -> Iterator[Connection]:
    """Give a connection that holds the write lock; commit at the end, or roll back.

    Args:
        engine: From ``connect``.
        timeout: Seconds to wait for the lock.
    """
    with engine.connect() as connection:
        driver = driver_connection(connection)
        driver.execute(f"PRAGMA busy_timeout={int(timeout * 1000)}")
        try:
            with connection.begin():
                yield connection
        finally:
            # The connection goes back to the pool.
            driver.execute(f"PRAGMA busy_timeout={int(LOCK_SECONDS * 1000)}")


def driver_connection(connection: Connection) -> sqlite3.Connection:
    """Return what is below SQLAlchemy, to read by or for what is said outside of transactions."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        raise TypeError(f"{driver} is no connection to SQLite")
    return driver


# ---- the schema ----------------------------------------------------------------------------------


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
    with engine.connect() as connection:
        driver = driver_connection(connection)
        # Or cascades silently empty the children of a table that a revision makes anew. SQLite
        # heeds this outside of a transaction only.
        driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with connection.begin():
                # What damage broke before is the repair's, which needs the newest schema.
                before = len(connection.exec_driver_sql("PRAGMA foreign_key_check").all())
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                stamp_schema(connection)
                broken = len(connection.exec_driver_sql("PRAGMA foreign_key_check").all()) - before
                if broken > 0:
                    raise CorruptData(
                        f"the upgrade leaves {broken} references without their target",
                        hint="nothing was changed; go on with the version that made the collection",
                    )
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def stamp_schema(connection: Connection) -> None:
    """Write down what the schema's words must add up to, after every change of them.

    In a number of the application's own in SQLite's header, for SQLite believes any schema that it
    can parse.
    """
    checksum = schema_checksum(driver_connection(connection))
    connection.exec_driver_sql(f"PRAGMA user_version = {checksum}")


def find_migrations() -> Path:
    """Return where the revisions are: in the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "migrations"
    return shipped if shipped.is_dir() else package.parent / "migrations"
