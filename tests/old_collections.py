"""Collections as earlier versions made them."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

from muomni_search.store import engine
from muomni_search.store.sqlite import DATABASE

__all__ = ["make_old"]


def make_old(place: Path, newest: str = "0001") -> None:
    """Put the content of a collection into a database of an earlier revision."""
    old = place / "old.db"
    with tempfile.TemporaryDirectory() as folder:
        migrations = Path(folder) / "migrations"
        shutil.copytree(engine.find_migrations(), migrations)
        for path in (migrations / "versions").glob("*.py"):
            if path.name[:4] > newest:
                path.unlink()
        made = engine.connect(old, create=True)
        engine.upgrade(made, migrations)
        made.dispose()
    connection = sqlite3.connect(old, isolation_level=None)
    connection.execute("PRAGMA user_version = 0")
    connection.execute("ATTACH ? AS new", (str(place / DATABASE),))
    tables = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")
    for (name,) in tables.fetchall():
        if name != "alembic_version":
            about = connection.execute(f"PRAGMA main.table_info({name})").fetchall()
            columns = ", ".join(f'"{row[1]}"' for row in about)
            connection.execute(f"INSERT INTO main.{name} SELECT {columns} FROM new.{name}")
    connection.close()
    for path in place.glob(f"{DATABASE}*"):
        path.unlink()
    old.rename(place / DATABASE)
